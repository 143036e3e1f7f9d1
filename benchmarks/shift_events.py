# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the described files say together: clear drives, and events with what they really cost."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.shift_evidence import Described, described_drive
from benchmarks.shift_plan import PLACE, Case, Drive, Size, Stop, stops
from benchmarks.shift_streams import Piece
from clcp_ros.replay_scores import class_iou, mean_iou

HARMFUL, MILD, HARMLESS = 0.10, 0.05, 0.02
"""Drops of mIoU: from the first on an event is harmful, below the last it is harmless."""

TRUTH_FRAMES = 20
"""Over which the true mIoU of a ramp is taken."""


@dataclass(frozen=True)
class Event:
    """Something that happens.

    Attributes:
        stop: Where and when.
        case: What.
        frames: From the onset on.
        drop: True loss of mIoU against the clear frames of the same moments; where these do not
            show the same place, against the calibration drives on the same classes.
        onset: Frame at which the loss reaches `MILD`: 0 for a switch; NaN where a ramp never does.
    """

    stop: Stop
    case: Case
    frames: Described
    drop: float
    onset: float

    @property
    def name(self) -> str:
        """For tables."""
        return f'{self.stop.name}/{self.case.name}'

    @property
    def group(self) -> str:
        """By what it costs: `harmful`, `mild`, `slight` or `harmless`."""
        if self.drop >= HARMFUL:
            return 'harmful'
        if self.drop >= MILD:
            return 'mild'
        return 'slight' if self.drop >= HARMLESS else 'harmless'


class Streams:
    """The described streams of a size.

    Args:
        size: The size.
        folder: With what is described.
    """

    def __init__(self, size: Size, folder: Path) -> None:
        self.size, self.folder = size, folder
        self.drive = functools.lru_cache(maxsize=8)(self._drive)

    def _drive(self, drive: Drive) -> Described:
        """All frames of a clear drive, in order."""
        return described_drive(self.folder, drive)

    def drives(self, part: str) -> Iterator[tuple[Drive, Described]]:
        """The clear drives of a set."""
        for drive in self.size.drives_of(part):
            yield drive, self.drive(drive)

    @functools.cached_property
    def source_iou(self) -> np.ndarray:
        """(C,) IoU of the calibration drives; NaN for a class that they do not show."""
        return class_iou(
            np.sum([d.confusion.sum(axis=0) for _, d in self.drives('calibration')], axis=0)
        )

    def events(self) -> Iterator[Event]:
        """Everything that happens, by the drive that it happens on."""
        for stop in sorted(stops(self.size), key=lambda s: (s.drive.name, s.number)):
            seen = Described.load(Piece(stop.drive, stop=stop).described(self.folder))
            clear = self.drive(stop.drive).take(slice(stop.begin, stop.begin + stop.seconds))
            for case in stop.cases:
                frames = seen.take(seen.case == case.name)
                yield self._event(stop, case, frames, clear)

    def _event(self, stop: Stop, case: Case, frames: Described, clear: Described) -> Event:
        if case.condition == PLACE:
            drop = source_drop(frames.confusion.sum(axis=0), self.source_iou)
            return Event(stop, case, frames, drop, 0.0)
        late = slice(case.ramp_s, None)
        drop = paired_drop(clear.confusion[late], frames.confusion[late])
        onset = 0.0 if not case.ramp_s else ramp_onset(clear.confusion, frames.confusion)
        return Event(stop, case, frames, drop, onset)


def paired_drop(clear: np.ndarray, changed: np.ndarray) -> float:
    """Loss of mIoU between frames of the same moments.

    Args:
        clear: (N, C, C + 1) confusions.
        changed: The same.
    """
    return mean_iou(clear.sum(axis=0)) - mean_iou(changed.sum(axis=0))


def source_drop(confusion: np.ndarray, source_iou: np.ndarray) -> float:
    """Loss of mIoU against the source, over the classes that are labelled in both.

    Args:
        confusion: (C, C + 1) of the frames.
        source_iou: (C,) of the source, NaN where unknown.
    """
    iou = class_iou(confusion)
    both = np.isfinite(iou) & np.isfinite(source_iou)
    return float((source_iou[both] - iou[both]).mean()) if both.any() else math.nan


def drop_about(described: Described, k: int, source_iou: np.ndarray) -> float:
    """`source_drop` of the frames about one of a drive.

    Args:
        described: The drive.
        k: The frame.
        source_iou: (C,) of the source, NaN where unknown.
    """
    around = slice(max(0, k - TRUTH_FRAMES), k + TRUTH_FRAMES)
    return source_drop(described.confusion[around].sum(axis=0), source_iou)


def ramp_onset(clear: np.ndarray, changed: np.ndarray) -> float:
    """First frame from which the loss over the frames to come is `MILD` and stays so.

    Args:
        clear: (N, C, C + 1) confusions.
        changed: The same.

    Returns:
        NaN when it never is.
    """
    count = len(changed)
    size = max(1, min(TRUTH_FRAMES, count // 4))
    drops = np.array([
        paired_drop(clear[i : i + size], changed[i : i + size]) for i in range(count - size + 1)
    ])  # fmt: skip
    above = drops >= MILD
    if not above[-1]:
        return math.nan
    below = np.flatnonzero(~above)
    # The middle of the window is when it was so.
    return float(below[-1] + 1 + size // 2) if below.size else 0.0
