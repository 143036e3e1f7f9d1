# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Novelty of whole drives as the monitor would sample it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clcp_ros.monitor.sequential import SequentialReference, SequentialTest
from training.monitoring.novelty import Series

PERIOD_S = 0.5
"""Time between two samples of the monitor."""


@dataclass(frozen=True)
class Drive:
    """Samples of a drive as the monitor would see them, one each PERIOD_S.

    Attributes:
        name: Of the drive.
        pieces: Samples without a gap between them; each frame its own piece where frames are far
            apart.
        apart: Frames are too far apart to follow each other.
    """

    name: str
    pieces: tuple[np.ndarray, ...]
    apart: bool

    @property
    def samples(self) -> np.ndarray:
        """All of them."""
        return np.concatenate(self.pieces)


def count_alarms(reference: SequentialReference, pieces: Sequence[np.ndarray]) -> int:
    """Alarms that the monitor's own test raises.

    Args:
        reference: Thresholds.
        pieces: Novelty, one sample each PERIOD_S; the test starts anew with each.
    """
    test, count = SequentialTest(reference), 0
    for piece in pieces:
        test.reset()
        alarm = False
        for i, novelty in enumerate(piece):
            state = test.update(round(i * PERIOD_S * 1e9), float(novelty))
            count += state.alarm and not alarm
            alarm = state.alarm
    return count


def drives_of(series: Sequence[Series]) -> list[Drive]:
    """Series as the monitor would sample them, drive by drive.

    Args:
        series: Those of one name are one drive.
    """
    by_name: dict[str, list[Series]] = {}
    for one in series:
        if one.novelty.size:
            by_name.setdefault(one.drive, []).append(one)
    return [_drive(name, parts) for name, parts in by_name.items()]


def _drive(name: str, parts: list[Series]) -> Drive:
    stamps = np.concatenate([p.stamp_ns for p in parts]).astype(np.int64)
    order = np.argsort(stamps, kind='stable')
    novelty = np.concatenate([p.novelty for p in parts])[order].astype(np.float64)
    seconds = (stamps[order] - stamps[order[0]]) * 1e-9
    gaps = np.diff(seconds)
    gap_s = SequentialReference().gap_s
    if not gaps.size or not 0 < float(np.median(gaps)) <= gap_s:
        return Drive(name, (novelty,), True)
    cuts = np.flatnonzero(gaps > gap_s) + 1
    pieces = [
        _sampled(s, z)
        for s, z in zip(np.split(seconds, cuts), np.split(novelty, cuts), strict=True)
    ]
    return Drive(name, tuple(pieces), False)


def _sampled(seconds: np.ndarray, novelty: np.ndarray) -> np.ndarray:
    """The newest sample at each PERIOD_S."""
    grid = seconds[0] + PERIOD_S * np.arange(int((seconds[-1] - seconds[0]) / PERIOD_S + 1e-6) + 1)
    return novelty[np.searchsorted(seconds, grid + 1e-6, side='right') - 1]
