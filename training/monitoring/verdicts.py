# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the whole monitor says of held-out drives, not its test of novelty alone.

The thresholds of the novelty test are solved for an interval between false alarms. A warning by
the expected mIoU has no such budget: what remains is to count, on drives that are all nominal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from clcp_ros.monitor import Knowledge, Level, MonitorConfig, ShiftMonitor
from clcp_ros.monitor.evidence import Evidence
from clcp_ros.monitor.reference import FrameScore, ShiftReference
from clcp_ros.monitor.sequential import SequentialReference
from training.monitoring.domain import drive_of
from training.monitoring.novelty import Series
from training.monitoring.run_length import PERIOD_S, alarm_bound, drives_of
from training.monitoring.samples import Samples

_EARLY = 0.1  # share of the period by which a frame may come early, as in the monitor


def verdict_figures(
    knowledge: Knowledge,
    samples: Samples,
    series: Sequence[Series],
    thresholds: Mapping[str, SequentialReference],
    taps: ShiftReference | None,
) -> dict[str, Any]:
    """Count what a monitor with the default settings says of drives that were left out.

    Kinds change no level, and image and lidar are not compared: neither is among what is counted.

    Args:
        knowledge: What the monitor knows.
        samples: Frames of the drives, with `soft` where the expected mIoU was fitted.
        series: Their novelty by references that do not know them, drive by drive.
        thresholds: For each drive, found on the other drives.
        taps: Scores the frames for the expected mIoU; None where that does not ask for it.

    Returns:
        For the card: drives and hours looked at, how often the level rose to WARN or ERROR
        (`alarms`) and to ERROR (`errors`), of the whole monitor and (`novelty_alarms`) without the
        expected mIoU, and the interval that the former supports with 95 % confidence. Drives whose
        frames are too far apart to follow each other tell nothing and are left out.
    """
    apart = {drive.name for drive in drives_of(series) if drive.apart}
    known = [s for s in series if s.drive not in apart and drive_of(s.drive) in thresholds]
    figures: dict[str, Any] = {'expected_miou': knowledge.harm is not None, 'drives': 0}
    figures |= {'hours': 0.0, 'alarms': 0, 'errors': 0, 'novelty_alarms': 0}
    for one in known:
        rows = np.flatnonzero(samples.drive == one.drive)
        rows = rows[np.argsort(samples.stamp_ns[rows], kind='stable')]
        own = replace(
            knowledge, sequential=thresholds[drive_of(one.drive)], kinds=None, alignment=None
        )
        alarms, errors, count = _rises(own, samples, rows, one.novelty, taps)
        figures['alarms'] += alarms
        figures['errors'] += errors
        figures['hours'] += count * PERIOD_S / 3600
        bare = replace(own, harm=None)
        figures['novelty_alarms'] += (
            _rises(bare, samples, rows, one.novelty, None)[0] if own.harm is not None else alarms
        )
    figures['drives'] = len({drive_of(s.drive) for s in known})
    bound = figures['hours'] / alarm_bound(figures['alarms'])
    figures['supported_interval_h'] = bound if figures['drives'] > 1 else math.nan
    return figures


def _rises(
    knowledge: Knowledge,
    samples: Samples,
    rows: np.ndarray,
    novelty: np.ndarray,
    taps: ShiftReference | None,
) -> tuple[int, int, int]:
    """How often the level rose to WARN or more, how often to ERROR, and samples taken."""
    monitor = ShiftMonitor(knowledge, MonitorConfig())
    nothing = np.zeros((samples.scene.shape[1], samples.scene.shape[1] + 1))
    last, last_ns = Level.OK, None
    alarms = errors = count = 0
    for row, value in zip(rows.tolist(), novelty.tolist(), strict=True):
        stamp_ns = int(samples.stamp_ns[row])
        if last_ns is not None and stamp_ns - last_ns < (1 - _EARLY) * PERIOD_S * 1e9:
            continue
        last_ns = stamp_ns
        score = FrameScore(value, 0.0, 0.0, 0.0)
        if taps is not None:
            own = taps.score(samples.low[row], samples.features(row), samples.scene[row])
            score = replace(own, novelty=value)
        soft = nothing if samples.soft is None else samples.soft[row].astype(np.float64)
        level = monitor.judge(stamp_ns, Evidence(samples.low[row], score, soft)).level
        # A start or a gap is neither an alarm nor its end.
        level = last if level == Level.STALE else level
        alarms += level >= Level.WARN > last
        errors += level == Level.ERROR > last
        last = level
        count += 1
    return alarms, errors, count
