# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Several outputs of a replay at once, and masks as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clcp_ros.image_codec import encode_png
from clcp_ros.node_diagnostics import Status
from clcp_ros.replay import Output, ReplayFrame
from clcp_ros.replay_bag import BagFrame, Camera
from training.reporting.replay_comparison import DisagreementSampler
from training.reporting.replay_sections import FrameSampler


class Outputs:
    """Hands everything to each of several outputs.

    Args:
        outputs: In the order in which they get it.
    """

    def __init__(self, outputs: Sequence[Output]) -> None:
        self._outputs = outputs

    def others(self, messages: list[tuple[str, int, bytes]]) -> None:
        """See `Output.others`."""
        for output in self._outputs:
            output.others(messages)

    def frame(self, frame: ReplayFrame) -> None:
        """See `Output.frame`."""
        for output in self._outputs:
            output.frame(frame)

    def unused(self, frame: BagFrame) -> None:
        """See `Output.unused`."""
        for output in self._outputs:
            output.unused(frame)

    def diagnostics(self, time_ns: int, statuses: list[Status]) -> None:
        """See `Output.diagnostics`."""
        for output in self._outputs:
            output.diagnostics(time_ns, statuses)


class Pictures:
    """Masks as PNG files, and the frames that the report shows.

    Args:
        folder: Where masks go: `<stamp_ns>.png`, `<stamp_ns>_1.png` where the stamp comes again,
            with several cameras in a folder of each; None for nowhere.
        cameras: The cameras.
        samplers: Of the report, by camera.
        worst: Of the comparison of two bundles.
    """

    def __init__(
        self,
        folder: Path | None,
        cameras: Sequence[Camera],
        samplers: dict[str, FrameSampler],
        worst: DisagreementSampler | None,
    ) -> None:
        several = len(cameras) > 1
        self._folders = {
            c.name: folder / c.name if several else folder for c in cameras if folder is not None
        }
        self._samplers = samplers
        self._worst = worst
        for place in self._folders.values():
            place.mkdir(parents=True, exist_ok=True)

    def others(self, messages: list[tuple[str, int, bytes]]) -> None:
        """Nothing to draw."""

    def frame(self, frame: ReplayFrame) -> None:
        """See `Output.frame`."""
        record = frame.record
        if place := self._folders.get(record.camera):
            again = f'_{record.repeat}' if record.repeat else ''
            (place / f'{record.stamp_ns}{again}.png').write_bytes(encode_png(frame.mask))
        self._samplers[record.camera].add(frame)
        if self._worst is not None:
            self._worst.add(frame)

    def unused(self, frame: BagFrame) -> None:
        """Nothing to draw."""

    def diagnostics(self, time_ns: int, statuses: list[Status]) -> None:
        """Nothing to draw."""
