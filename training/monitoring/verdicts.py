# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the whole monitor says of held-out drives, not its test of novelty alone.

Thresholds of novelty and of the expected mIoU are solved for an interval between false alarms.
What they come to together is counted, on drives that are all nominal, each with thresholds from
the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from clcp_ros.monitor import Knowledge, Level, MonitorConfig
from clcp_ros.monitor.reference import ShiftReference
from clcp_ros.monitor.sequential import SequentialReference
from training.monitoring.domain import drive_of
from training.monitoring.nominal import Nominal, driven_h, followed, replay
from training.monitoring.novelty import Series
from training.monitoring.run_length import alarm_bound
from training.monitoring.samples import Samples


def verdict_figures(
    knowledge: Knowledge,
    samples: Samples,
    series: Sequence[Series],
    thresholds: Mapping[str, SequentialReference],
    taps: ShiftReference | None,
    nominal: Mapping[str, Nominal] | None = None,
) -> dict[str, Any]:
    """Count what a monitor with the default settings says of drives that were left out.

    Kinds change no level, and image and lidar are not compared: neither is among what is counted.

    Args:
        knowledge: What the monitor knows.
        samples: Frames of the drives, with `soft` where the expected mIoU was fitted.
        series: Their novelty by references that do not know them, drive by drive.
        thresholds: For each drive, found on the other drives.
        taps: Scores the frames for the expected mIoU; None where that does not ask for it.
        nominal: For each drive, what the others say of the expected mIoU.

    Returns:
        For the card: drives and hours looked at, how often the level rose to WARN or ERROR
        (`alarms`) and to ERROR (`errors`), of the whole monitor and (`novelty_alarms`) without the
        expected mIoU, and the interval that the former supports with 95 % confidence. Drives whose
        frames are too far apart to follow each other tell nothing and are left out.
    """
    figures: dict[str, Any] = {'expected_miou': knowledge.harm is not None, 'drives': 0}
    figures |= {'hours': 0.0, 'alarms': 0, 'errors': 0, 'novelty_alarms': 0}
    known = followed(series, thresholds)
    for one in known:
        name = drive_of(one.drive)
        own = replace(knowledge, sequential=thresholds[name], kinds=None, alignment=None)
        if nominal and name in nominal:
            own = nominal[name].applied(own)
        alarms, errors, hours = _rises(own, samples, one, taps)
        figures['alarms'] += alarms
        figures['errors'] += errors
        figures['hours'] += hours
        figures['novelty_alarms'] += (
            _rises(replace(own, harm=None), samples, one, None)[0]
            if own.harm is not None
            else alarms
        )
    figures['drives'] = len({drive_of(s.drive) for s in known})
    bound = figures['hours'] / alarm_bound(figures['alarms'])
    figures['supported_interval_h'] = bound if figures['drives'] > 1 else math.nan
    return figures


def _rises(
    knowledge: Knowledge, samples: Samples, one: Series, taps: ShiftReference | None
) -> tuple[int, int, float]:
    """How often the level rose to WARN or more, how often to ERROR, and hours driven."""
    last, stamps = Level.OK, []
    alarms = errors = 0
    for state, _ in replay(knowledge, MonitorConfig(), samples, one, taps):
        # A start or a gap is neither an alarm nor its end.
        level = last if state.level == Level.STALE else state.level
        alarms += level >= Level.WARN > last
        errors += level == Level.ERROR > last
        last = level
        stamps.append(state.stamp_ns)
    return alarms, errors, driven_h(np.array(stamps))
