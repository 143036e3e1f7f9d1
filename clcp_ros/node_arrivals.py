# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the messages of one camera tell as they come in, before anything is decoded.

The shift monitor sees only the frames that the model has time for; a camera that froze, or whose
stamps went back, must be named as soon with a slow model as with a fast one. No ROS here.
"""

from __future__ import annotations

import statistics
from collections import deque
from typing import Any

import numpy as np

_SAMPLES = 2048
_FROZEN_FRAMES = 4  # fewer may be a driver that sends a frame twice
_STANDING_FRAMES = 3
_INTERVALS = 8


def fingerprint(data: Any) -> int:
    """A number that two different images hardly share, from about two thousand of their bytes.

    Args:
        data: The bytes of an image message.
    """
    view = np.frombuffer(data, np.uint8) if len(data) else np.zeros(0, np.uint8)
    # An odd step: a step that divides the row would look at a few columns only.
    step = max(1, view.size // _SAMPLES) | 1
    return hash((view.size, view[::step].tobytes()))


class ArrivalWatch:
    """Stamps, repetition and rhythm of one camera's messages; not thread-safe."""

    def __init__(self) -> None:
        self.stamp_ns = -1
        """Stamp of the last message, -1 before the first."""
        self.jumps = 0
        """How often stamps went back."""
        self._fingerprint = 0
        self._same_since_s = 0.0
        self._same = 0
        self._standing = 0
        self._last_s: float | None = None
        self._intervals: deque[float] = deque(maxlen=_INTERVALS)

    def update(self, now_s: float, stamp_ns: int, mark: int) -> float:
        """Take in a message.

        Args:
            now_s: When it came, by a monotonic clock.
            stamp_ns: Its stamp.
            mark: Its `fingerprint`.

        Returns:
            By how many seconds the stamp went back; 0 when it did not.
        """
        back_s = 0.0
        if 0 <= stamp_ns < self.stamp_ns:
            back_s = (self.stamp_ns - stamp_ns) * 1e-9
            self.jumps += 1
        self._standing = self._standing + 1 if stamp_ns == self.stamp_ns else 1
        self.stamp_ns = stamp_ns
        if self._last_s is not None:
            self._intervals.append(now_s - self._last_s)
        if mark != self._fingerprint or self._last_s is None:
            self._fingerprint, self._same_since_s, self._same = mark, now_s, 0
        self._same += 1
        self._last_s = now_s
        return back_s

    @property
    def same(self) -> int:
        """Number of identical messages up to the last one."""
        return self._same

    @property
    def standing(self) -> bool:
        """Whether the stamps do not advance from message to message."""
        return self._standing >= _STANDING_FRAMES

    def frozen_s(self) -> float:
        """Seconds over which every message was the same; 0 for a camera that is alive."""
        if self._same < _FROZEN_FRAMES or self._last_s is None:
            return 0.0
        return self._last_s - self._same_since_s

    def silent_after_s(self, least_s: float) -> float:
        """Silence that is not this camera's rhythm: three of its own periods.

        Args:
            least_s: Never less than this.
        """
        if not self._intervals:
            return least_s
        return max(least_s, 3 * statistics.median(self._intervals))
