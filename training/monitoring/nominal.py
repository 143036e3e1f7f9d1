# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the expected mIoU says of drives on which nothing happens, and what follows from it.

Labels tell what the network is worth on the frames that the map was fitted on. What the map says
of other nominal drives is another number: their streets are others, and seconds of one street are
not frames from all over a town. A drop is therefore one against nominal drives that were left out,
as the map sees them. How large it still becomes there, now and then, decides how large it must be
to warn by itself: such warnings have a share of the false alarms, as novelty's have.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from clcp_ros.monitor import Knowledge, MonitorConfig, ShiftMonitor, ShiftState
from clcp_ros.monitor.close import CloseReference, CloseVehicle
from clcp_ros.monitor.config import HARM_SAMPLES
from clcp_ros.monitor.evidence import Evidence
from clcp_ros.monitor.harm import Harm, HarmReference, Window, tap_scores
from clcp_ros.monitor.levels import WARN_LEAVE
from clcp_ros.monitor.reference import FrameScore, ShiftReference
from clcp_ros.monitor.sequential import SequentialReference
from training.monitoring.domain import drive_of, due
from training.monitoring.drives import PERIOD_S, drives_of
from training.monitoring.novelty import Series
from training.monitoring.samples import Samples

SHARE = 1 / 3
"""Of the false alarms, those that warnings by the expected mIoU may give."""

_GAP_S = MonitorConfig().max_gap_s
_EVERY_S = 5.0  # a window of each size so often
_LEAST = 0.02  # drops that are looked at
_APART_S = 60.0  # what comes sooner after the last is the same
_FEWEST = 10  # peaks that tell a slope
# By which peaks fall to an e-th, where there are too few to tell; so in a day of simulated drives.
_ASSUMED_SLOPE = 0.03


@dataclass(frozen=True)
class NominalDrive:
    """What the expected mIoU says of a drive that was left out.

    Attributes:
        name: Of the drive.
        hours: Of driving.
        miou: (L,) median estimate of windows of each size; NaN without one.
        stamp_ns: (N,) of the samples.
        samples: (N,) that the window holds, those that follow each other closely counted for less.
        drop: (N,) against the source; -inf where too few frames tell.
        lasting: (N,) what of it has lasted.
        low: (N,) the lower ends of their intervals, the lower one.
    """

    name: str
    hours: float
    miou: np.ndarray
    stamp_ns: np.ndarray
    samples: np.ndarray
    drop: np.ndarray
    lasting: np.ndarray
    low: np.ndarray

    def warns_at(self, less: np.ndarray) -> np.ndarray:
        """(N,) `LevelMachine.least_drop` up to which samples warn.

        Args:
            less: (N,) by which a drop is smaller than against the source.
        """
        drop = np.minimum(self.drop - less, (self.lasting - less) / WARN_LEAVE)
        drop[~(self.low > less)] = -math.inf
        return drop


@dataclass(frozen=True)
class Nominal:
    """What was found on nominal drives.

    Attributes:
        source: (L,) instead of `HarmReference.source`; None where nothing was found.
        drop: From which a warning may come by the expected mIoU alone.
        slope: By how much that rises when false alarms become rarer by a factor of e.
    """

    source: np.ndarray | None = None
    drop: float = 0.0
    slope: float = 0.0

    def applied(self, knowledge: Knowledge) -> Knowledge:
        """The knowledge with it."""
        if knowledge.harm is None or self.source is None:
            return knowledge
        return replace(
            knowledge,
            harm=replace(knowledge.harm, source=self.source),
            facts=replace(knowledge.facts, nominal_drop=self.drop, slope_drop=self.slope),
        )


def judged_series(
    series: Sequence[Series], samples: Samples, close: CloseReference
) -> list[Series]:
    """Series without the seconds that the monitor passes over, see `clcp_ros.monitor.close`.

    Args:
        series: Novelty of drives that were left out.
        samples: Their frames.
        close: Which classes can fill the view.
    """
    found = []
    for one in series:
        vehicle, scene = CloseVehicle(close), samples.scene[_rows(samples, one.drive)]
        passed = [
            vehicle.update(int(stamp_ns), predicted, float(novelty))
            for stamp_ns, predicted, novelty in zip(one.stamp_ns, scene, one.novelty, strict=True)
        ]
        judged = ~np.array(passed, bool)
        found.append(Series(one.drive, one.stamp_ns[judged], one.novelty[judged]))
    return found


def followed(
    series: Sequence[Series], thresholds: Mapping[str, SequentialReference]
) -> list[Series]:
    """Series whose frames follow each other, of drives with thresholds from the others."""
    apart = {drive.name for drive in drives_of(series) if drive.apart}
    return [s for s in series if s.drive not in apart and drive_of(s.drive) in thresholds]


def replay(
    knowledge: Knowledge,
    config: MonitorConfig,
    samples: Samples,
    one: Series,
    taps: ShiftReference | None,
) -> Iterator[tuple[ShiftState, Harm | None]]:
    """Run the monitor over a drive that was left out.

    Args:
        knowledge: What it knows.
        config: Its settings.
        samples: Frames of the drives, with `soft` where the expected mIoU was fitted.
        one: Novelty of the drive by a reference that does not know it.
        taps: Scores the frames for the expected mIoU; None where that does not ask for it.

    Yields:
        The verdict and the expected mIoU of each frame that is scored.
    """
    monitor = ShiftMonitor(knowledge, config)
    last_ns = None
    rows = _rows(samples, one.drive)
    for row, value in zip(rows.tolist(), one.novelty.tolist(), strict=True):
        stamp_ns = int(samples.stamp_ns[row])
        if not due(stamp_ns, last_ns):
            continue
        last_ns = stamp_ns
        score = replace(_score(samples, row, taps), novelty=value)
        soft = _predicted(samples, row) if samples.soft is None else samples.soft[row]
        # Kinds are left out of what is replayed: they need no features.
        evidence = Evidence(samples.low[row], score, soft.astype(np.float64))
        yield monitor.judge(stamp_ns, evidence), monitor.harm


def nominal_drives(
    knowledge: Knowledge,
    samples: Samples,
    series: Sequence[Series],
    thresholds: Mapping[str, SequentialReference],
    taps: ShiftReference | None,
) -> list[NominalDrive]:
    """What the expected mIoU says of drives that were left out.

    Args:
        knowledge: With `harm` as it was fitted.
        samples: Frames of the drives, with `soft`.
        series: Their novelty by references that do not know them, drive by drive.
        thresholds: For each drive, found on the other drives.
        taps: As of `replay`.

    Returns:
        Drives whose frames follow each other.
    """
    if knowledge.harm is None or samples.soft is None:
        return []
    # How much has lasted is told of drops that might warn; here of all.
    config = MonitorConfig(warn_drop=1e-9)
    found = []
    for one in followed(series, thresholds):
        own = replace(
            knowledge, sequential=thresholds[drive_of(one.drive)], kinds=None, alignment=None
        )
        seen = [
            (state.stamp_ns, min(harm.samples, 1 + harm.window_s), *_shown(harm))
            for state, harm in replay(own, config, samples, one, taps)
            if harm is not None
        ]
        if not seen:
            continue
        stamps, *columns = (np.array(column) for column in zip(*seen, strict=True))
        miou = _medians(knowledge.harm, samples, one.drive, taps)
        found.append(NominalDrive(drive_of(one.drive), driven_h(stamps), miou, stamps, *columns))
    return found


def driven_h(stamp_ns: np.ndarray) -> float:
    """Hours of driving: the time between samples that follow each other."""
    steps = np.diff(stamp_ns) * 1e-9
    return float(steps[steps <= _GAP_S].sum() + PERIOD_S) / 3600


def nominal_of(
    drives: Sequence[NominalDrive], harm: HarmReference, interval_h: float, warn_drop: float
) -> Nominal:
    """What follows from nominal drives.

    Args:
        drives: At least one.
        harm: As it was fitted.
        interval_h: Hours between two false alarms, of which these warnings have their share.
        warn_drop: The least that may warn.

    Returns:
        Source and threshold. Of windows of a size that no drive has, the source stays.
    """
    each = np.array([drive.miou for drive in drives])
    known = np.isfinite(each).any(axis=0)
    source = harm.source.copy()
    source[known] = np.nanmedian(each[:, known], axis=0)
    beyond = harm.source - source
    at = np.log(harm.sizes)
    peaks = []
    for drive in drives:
        less = np.interp(np.log(drive.samples), at, beyond)
        peaks.append(_peaks(drive.stamp_ns, drive.warns_at(less)))
    hours = sum(drive.hours for drive in drives)
    drop, slope = _threshold(np.concatenate(peaks), hours, SHARE / interval_h)
    return Nominal(source, min(max(drop, warn_drop), 1.0), slope)


def _threshold(peaks: np.ndarray, hours: float, rate: float) -> tuple[float, float]:
    """Drop that is reached so often in an hour, and what an e-fold of that changes.

    The higher half of the peaks, twenty at most, is taken to fall exponentially, with the slope of
    their median; without enough of them it is assumed. Chance has them more often by a standard
    deviation. What these drives show more often than asked warns in no case.
    """
    ordered = np.sort(peaks)[::-1]
    if not ordered.size:
        return _LEAST + _ASSUMED_SLOPE * math.log(max(1 / (hours * rate), 1.0)), _ASSUMED_SLOPE
    number = min(max(2 * _FEWEST, round(2 * rate * hours)), (ordered.size + 1) // 2)
    start, slope = float(ordered[number - 1]), _ASSUMED_SLOPE
    if number >= _FEWEST:
        slope = max((float(np.median(ordered[:number])) - start) / math.log(2), slope / 4)
    drop = start + slope * math.log((number + math.sqrt(number)) / hours / rate)
    more = int(hours * rate)  # that many may be higher
    return max(drop, float(ordered[more]) if more < ordered.size else 0.0), slope


def _peaks(stamp_ns: np.ndarray, drop: np.ndarray) -> np.ndarray:
    """The highest of each time that the drop is up."""
    rows = np.flatnonzero(drop >= _LEAST)
    if not rows.size:
        return np.zeros(0)
    begins = np.flatnonzero(np.diff(stamp_ns[rows]) > _APART_S * 1e9) + 1
    return np.array([drop[part].max() for part in np.split(rows, begins)])


def _shown(harm: Harm) -> tuple[float, float, float]:
    """The last three of `NominalDrive` of a sample."""
    if harm.samples < HARM_SAMPLES or math.isnan(harm.lasting_drop):
        return -math.inf, -math.inf, -math.inf
    return harm.drop, harm.lasting_drop, min(harm.drop_low, harm.lasting_low)


def _medians(
    harm: HarmReference, samples: Samples, drive: str, taps: ShiftReference | None
) -> np.ndarray:
    """(L,) median estimate of windows of each size."""
    assert samples.soft is not None
    rows = _rows(samples, drive)
    stamps = samples.stamp_ns[rows] * 1e-9
    seen = np.array([tap_scores(_score(samples, row, taps)) for row in rows.tolist()])
    medians = np.full(len(harm.sizes), np.nan)
    for i, size in enumerate(harm.sizes):
        found, last = [], -math.inf
        for end in range(len(rows)):
            if stamps[end] - last < _EVERY_S:
                continue
            begin = int(np.searchsorted(stamps, stamps[end] - size + 1 - 1e-6))
            own = stamps[begin : end + 1]
            # From a drive's beginning or a gap on: not as many seconds as were asked for.
            if min(len(own), 1 + own[-1] - own[0]) < size - 0.5 or np.diff(own).max(initial=0) > 2:
                continue
            last = stamps[end]
            counts = samples.soft[rows[begin : end + 1]].mean(axis=0, dtype=np.float64)
            window = Window(counts, seen[begin : end + 1].mean(axis=0), float(size))
            found.append(harm.outlook(window)[0])
        if found:
            medians[i] = np.median(found)
    return medians


def _rows(samples: Samples, drive: str) -> np.ndarray:
    """Rows of a drive in the order of time."""
    rows = np.flatnonzero(samples.drive == drive)
    return rows[np.argsort(samples.stamp_ns[rows], kind='stable')]


def _predicted(samples: Samples, row: int) -> np.ndarray:
    """(C, C + 1) as `Samples.soft`, of which only what is in view is known."""
    return np.pad(np.diag(samples.scene[row]), ((0, 0), (0, 1)))


def _score(samples: Samples, row: int, taps: ShiftReference | None) -> FrameScore:
    if taps is None:
        return FrameScore(0.0, 0.0, 0.0, 0.0)
    return taps.score(samples.low[row], samples.features(row), samples.scene[row])
