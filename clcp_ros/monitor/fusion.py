# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Cameras of one robot together: is it one lens, or the surroundings?

Each camera keeps a level of its own, and the robot's is the worst of them. With m cameras that
multiplies the false alarms by m at most, whatever the cameras have in common (Bonferroni), so each
camera's threshold is solved for m times the interval. Novelty is never averaged over cameras: one
blind camera of six would go unnoticed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from enum import Enum

LAG_S = 0.5
"""Age of what a camera's verdict takes of the others'.

Cameras run beside each other, and which of two frames of one moment is finished first is chance.
What the others said half a second ago is known in the live node and in a replay alike.
"""

_MEMORY_S = 2.0
_KEPT_S = 30.0


class Scope(str, Enum):
    """Where the cause of an alarm is to be looked for."""

    NONE = ''
    """No alarm."""
    UNKNOWN = 'unknown'
    """There is no other camera, nor a lidar, to compare with."""
    ONE = 'one camera'
    """Only this one of several: its lens, its sensor, its settings."""
    SOME = 'some cameras'
    """Several, not all: one side of the robot, low sun, spray."""
    ALL = 'all cameras'
    """The surroundings: weather, light, another place."""
    CAMERA = 'camera'
    """The image no longer fits the lidar's points, and it is novel: the image is bad."""
    CALIBRATION = 'calibration'
    """The image is as usual but does not fit the points: extrinsics or synchronisation."""
    LIDAR = 'lidar'
    """The scans themselves are not as usual."""


class CameraFusion:
    """What the cameras said lately.

    Args:
        cameras: Their names.
    """

    def __init__(self, cameras: Sequence[str]) -> None:
        self._said: dict[str, deque[tuple[int, bool]]] = {name: deque() for name in cameras}

    def __len__(self) -> int:
        return len(self._said)

    def tell(self, camera: str, stamp_ns: int, raised: bool) -> None:
        """Note a camera's sample.

        Args:
            camera: Which.
            stamp_ns: Stamp of the frame; one that goes back forgets what came before.
            raised: Whether it is not as usual.
        """
        said = self._said[camera]
        if said and stamp_ns <= said[-1][0]:
            said.clear()
        said.append((stamp_ns, raised))
        while said[0][0] < stamp_ns - int(_KEPT_S * 1e9):
            said.popleft()

    def forget(self, camera: str) -> None:
        """Forget a camera's past."""
        self._said[camera].clear()

    def scope(self, camera: str, stamp_ns: int, period_s: float = 0.0) -> Scope:
        """How far an alarm of a camera reaches.

        Args:
            camera: The one that alarms.
            stamp_ns: Stamp of its frame.
            period_s: Time between two samples of a camera.

        Returns:
            ONE, SOME or ALL; UNKNOWN where no other camera has said anything lately.
        """
        memory_ns = int(max(_MEMORY_S, 2 * period_s) * 1e9)
        others = [
            raised
            for name, said in self._said.items()
            if name != camera and (raised := self._lately(said, stamp_ns, memory_ns)) is not None
        ]
        if not others:
            return Scope.UNKNOWN
        if all(others):
            return Scope.ALL
        return Scope.SOME if any(others) else Scope.ONE

    @staticmethod
    def _lately(said: deque[tuple[int, bool]], stamp_ns: int, memory_ns: int) -> bool | None:
        newest_ns = stamp_ns - int(LAG_S * 1e9)
        for then_ns, raised in reversed(said):
            if then_ns <= newest_ns:
                return raised if then_ns >= newest_ns - memory_ns else None
        return None
