# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Thresholds of the sequential test for a wanted interval between false alarms.

What limits them is not how novelty wavers within a drive but how drives differ. Streams are
therefore resampled from drives that were left out, first the drive, then blocks of it that are
long against its autocorrelation (stationary bootstrap, Politis and Romano 1994), and each is given
the mean that a drive that nobody has seen may have, for all that so few drives tell (predictive
distribution). So the promise holds on average over calibrations; a single one of few drives may be
off by a few times. In a random walk with negative drift the highest
points between two zeros are exponentially distributed far out (Cramér and Lundberg), so the
logarithm of the rate of false alarms falls linearly with the threshold and can be carried on to
rates that no calibration is long enough to show.

What the drives do support is another number: alarms on each drive with thresholds from the others,
and the Poisson bound that they leave.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.stats import chi2, t  # type: ignore[import-untyped]

from clcp_ros.errors import ModelError
from clcp_ros.monitor.sequential import NO_LIMIT, SequentialReference
from training.monitoring.drives import PERIOD_S, Drive, count_alarms, drives_of
from training.monitoring.novelty import Series

DRIVE_H = 1 / 3
"""How long a drive through one kind of surroundings is taken to last."""

# Before any drive is seen, drives are taken to differ by this many standard deviations, with the
# weight of so many drives (0.5 to 0.6 was measured on three pieces of real driving).
_PRIOR_TAU, _PRIOR_DRIVES = 0.6, 4
# Of the false alarms, those that are allowed to come of drives beyond the indifference zone.
_DRIVES_SHARE = 0.25
# Frames that are far apart say nothing of autocorrelation; this one is assumed then.
_ASSUMED_RHO = 0.8
_LEAST_BLOCK_S = 10.0
_LONGEST_TAU_S = 30.0
# A lorry in front at a red light is ten seconds of two standard deviations, and begins like a
# shift where it does not yet fill the view; a few hours of drives need not show one.
_LEAST_H, _LEAST_C, _LEAST_K = 20.0, 4.5, 1.0
# Of `c`, and at least, where `c` is higher: what such a lorry hides for long comes more gently.
_LASTING_SHARE, _LEAST_LASTING = 0.75, 5.0
_HARMFUL = 5.0  # novelty of a shift that costs 0.10 mIoU, where no ladder tells it
_LIMITS = (NO_LIMIT, 2.0)
_SOON_S = 4.0  # sooner is no better: what is abrupt the innovations find
_STREAMS, _TRIED_STREAMS = 600, 300  # of DRIVE_H each
_CANDIDATES = 6
_TAIL = 60  # at least so many points that the tail of the rate is fitted to


@dataclass(frozen=True)
class RunLength:
    """Thresholds, and how far they are to be believed.

    Attributes:
        reference: The thresholds.
        interval_h: Hours between two false alarms that they were solved for.
        supported_h: Hours between two false alarms that the drives show with 95 % confidence; NaN
            with fewer than two drives.
        hours: Of driving that was looked at.
        drives: Number of drives.
        alarms: On drives, each with thresholds from the others.
        slope_h: By how much `h` rises for each e-fold of the interval.
        slope_c: The same of `c`.
        hours_from: How hours were counted.
        figures: More, for the monitor card.
        left_out: For each drive, thresholds from the others.
    """

    reference: SequentialReference
    interval_h: float
    supported_h: float
    hours: float
    drives: int
    alarms: int
    slope_h: float
    slope_c: float
    hours_from: str
    figures: dict[str, Any] = field(default_factory=dict)
    left_out: dict[str, SequentialReference] = field(default_factory=dict)


def solve(
    series: Sequence[Series],
    interval_h: float = 8.0,
    tolerated: float = 0.0,
    harmful: float = _HARMFUL,
    seed: int = 0,
    share: float = 1.0,
) -> RunLength:
    """Find the thresholds that give one false alarm in so many hours.

    `k` is at least the novelty that a new drive's mean reaches so rarely that it does not use up
    the budget, and at least `tolerated`. Of larger ones, the one that finds a shift to `harmful`
    soonest is taken, with the `h` that belongs to it; so is `limit`, which helps where drives show
    seconds of something very odd. The cumulative sum, the innovation test and that of what lasts
    have a third of the budget each.

    Args:
        series: Novelty of drives that were left out; those of one name are one drive.
        interval_h: Hours between two false alarms.
        tolerated: Novelty up to which a stream costs less than is worth an alarm.
        harmful: Novelty of a shift that is to be found.
        seed: Of the resampling.
        share: Of the false alarms that these tests may give; the rest is for other alarms.

    Returns:
        Thresholds and what they rest on.

    Raises:
        ModelError: There are no frames, or the interval is not positive.
    """
    if not (interval_h > 0 and math.isfinite(interval_h)):
        raise ModelError(f'a false alarm in {interval_h:g} h: the interval must be positive')
    drives = drives_of(series)
    if not drives:
        raise ModelError('no frames are held out to find thresholds on')
    own_h = interval_h / share
    found, figures = _solve(drives, own_h, tolerated, harmful, _STREAMS, seed)
    alarms = {d.name: 0 for d in drives}
    left_out = {}
    if len(drives) > 1:
        for drive in drives:
            others = [d for d in drives if d is not drive]
            own, _ = _solve(others, own_h, tolerated, harmful, _TRIED_STREAMS, seed)
            left_out[drive.name] = own.reference
            alarms[drive.name] = count_alarms(own.reference, drive.pieces)
    hours = {d.name: d.samples.size * PERIOD_S / 3600 for d in drives}
    total, count = sum(hours.values()), sum(alarms.values())
    apart = [d.name for d in drives if d.apart]
    how = f'image stamps, one sample each {PERIOD_S:g} s'
    if apart:
        how = (
            f'{PERIOD_S:g} s for each frame of {len(apart)} of {len(drives)} drives, whose frames '
            'are far apart or have no stamps; image stamps for the others'
            if len(apart) < len(drives)
            else f'{PERIOD_S:g} s for each frame, since frames are far apart or have no stamps'
        )
    return replace(
        found,
        interval_h=interval_h,
        supported_h=total / alarm_bound(count) if len(drives) > 1 else math.nan,
        hours=total,
        drives=len(drives),
        alarms=count,
        hours_from=how,
        left_out=left_out,
        figures=figures
        | {
            'by_drive': [
                {
                    'drive': d.name,
                    'hours': hours[d.name],
                    'frames_apart': d.apart,
                    'mean_novelty': float(d.samples.mean()),
                    'largest_novelty': float(d.samples.max()),
                    'alarms': alarms[d.name],
                }
                for d in drives
            ]
        },
    )


def alarm_bound(alarms: int, confidence: float = 0.95) -> float:
    """Upper bound of the expected number of alarms when so many were seen (Poisson).

    Three when none was seen ("rule of three"), 4.74 for one, 6.30 for two.

    Args:
        alarms: Seen.
        confidence: Of the bound.
    """
    return float(chi2.ppf(confidence, 2 * alarms + 2) / 2)


@dataclass(frozen=True)
class _Wavering:
    """How novelty moves within drives and between them.

    Attributes:
        rho: Correlation at a lag of one second.
        tau_s: Integrated autocorrelation time.
        mean: Of the drives' means.
        between: Standard deviation of drives' means, of which a part was known before.
        freedom: Degrees of freedom of the latter.
        measured: Whether the first two come of the drives.
    """

    rho: float
    tau_s: float
    mean: float
    between: float
    freedom: int
    measured: bool


def _wavering(drives: Sequence[Drive]) -> _Wavering:
    means = np.array([d.samples.mean() for d in drives])
    number = len(drives)
    own = float(((means - means.mean()) ** 2).sum())
    freedom = _PRIOR_DRIVES + number - 1
    between = math.sqrt((_PRIOR_DRIVES * _PRIOR_TAU**2 + own) / freedom)
    rest = [p - d.samples.mean() for d in drives if not d.apart for p in d.pieces]
    correlations = _autocorrelation(rest)
    lag = round(1 / PERIOD_S)
    if len(correlations) <= lag:
        hold_s = -1 / math.log(_ASSUMED_RHO)
        return _Wavering(_ASSUMED_RHO, 2 * hold_s, float(means.mean()), between, freedom, False)
    positive = np.argmax(correlations <= 0) if (correlations <= 0).any() else len(correlations)
    tau_s = PERIOD_S * (1 + 2 * float(correlations[1:positive].sum()))
    rho = float(np.clip(correlations[lag], 0.0, 0.95))
    tau_s = min(max(tau_s, PERIOD_S), _LONGEST_TAU_S)
    return _Wavering(rho, tau_s, float(means.mean()), between, freedom, True)


def _autocorrelation(pieces: Sequence[np.ndarray]) -> np.ndarray:
    """Of all pieces together, at lags of 0, 1, ... samples; as many as there is data for."""
    lags = int(_LONGEST_TAU_S / PERIOD_S)
    products, counts = np.zeros(lags), np.zeros(lags)
    for piece in pieces:
        for lag in range(min(lags, len(piece))):
            products[lag] += float(piece[: len(piece) - lag] @ piece[lag:])
            counts[lag] += len(piece) - lag
    enough = counts >= 20
    if not enough.any() or products[0] <= 0:
        return np.zeros(0)
    last = int(np.argmin(enough)) if not enough.all() else lags
    return (products[:last] / counts[:last]) / (products[0] / counts[0])


def _solve(
    drives: Sequence[Drive],
    interval_h: float,
    tolerated: float,
    harmful: float,
    streams: int,
    seed: int,
) -> tuple[RunLength, dict[str, Any]]:
    wavering = _wavering(drives)
    number = len(drives)
    # A drive beyond k alarms for certain, whatever h is: this rare must they be.
    rare = min(_DRIVES_SHARE * DRIVE_H / interval_h, 0.5)
    far = wavering.between * math.sqrt(1 + 1 / number) * float(t.isf(rare, wavering.freedom))
    lowest = max(wavering.mean + far, tolerated, _LEAST_K)
    streams_z = _streams(drives, wavering, streams, np.random.default_rng([seed, 0]))
    tried = [
        _candidate(streams_z, float(k), limit, wavering.rho, interval_h, harmful)
        for k in _indifferent(lowest, harmful)
        for limit in _LIMITS
    ]
    soonest = max(min(one.delay_s for one in tried), _SOON_S)
    # Of those that are about as soon, the one that also finds the smallest shifts.
    found = next(one for one in tried if one.delay_s <= 1.05 * soonest)
    reference, tails = found.reference, found.tails
    other = _streams(drives, wavering, streams, np.random.default_rng([seed, 1]))
    marks = _marks(other, reference)
    hours = other.size * PERIOD_S / 3600
    rate = float(alarming(marks, reference).sum()) / hours
    if (folds := math.log(max(rate * interval_h, 1.0))) > 0:
        reference = replace(
            reference,
            h=reference.h + folds * tails[0].slope,
            c=reference.c + folds * tails[1].slope,
            c_lasting=reference.c_lasting + folds * tails[2].slope,
        )
    figures = {
        'rho_1s': wavering.rho,
        'autocorrelation_time_s': wavering.tau_s,
        'autocorrelation': 'measured' if wavering.measured else 'assumed',
        'drive_mean': wavering.mean,
        'drive_to_drive_sd': wavering.between,
        'k_for_new_drives': wavering.mean + far,
        'k_tolerated': tolerated,
        'harmful_novelty': harmful,
        'delay_at_harmful_s': found.delay_s,
        'resampled_hours': 2 * hours,
        'resampled_alarms_per_interval': rate * interval_h,
    }
    run = RunLength(
        reference, interval_h, math.nan, 0.0, number, 0, tails[0].slope, tails[1].slope, ''
    )
    return run, figures


@dataclass(frozen=True)
class _Candidate:
    """Thresholds that might be taken.

    Attributes:
        reference: They.
        tails: Of the sum, of the innovations and of those of what lasts.
        delay_s: Until a shift to the harmful novelty is found.
    """

    reference: SequentialReference
    tails: tuple[_Tail, _Tail, _Tail]
    delay_s: float


def _indifferent(lowest: float, harmful: float) -> np.ndarray:
    """Indifference zones to choose from, the smallest first."""
    if harmful - 1.0 <= lowest:
        return np.array([lowest])
    return np.linspace(lowest, harmful - 1.0, _CANDIDATES)


def _candidate(
    streams: np.ndarray, k: float, limit: float, rho: float, interval_h: float, harmful: float
) -> _Candidate:
    """Thresholds for one false alarm in so many hours of these streams."""
    hours, rate = streams.size * PERIOD_S / 3600, 1 / (3 * interval_h)
    reference = SequentialReference(k=k, rho=rho, limit=limit)
    marks = _marks(streams, reference)
    tails = (
        _Tail.of(marks[:, 0], hours, rate, _LEAST_H),
        _Tail.of(marks[:, 1], hours, rate, _LEAST_C),
        _Tail.of(marks[:, 2], hours, rate, _LEAST_C),
    )
    h, c, c_lasting = (tail.threshold(rate) for tail in tails)
    c_lasting = max(c_lasting, _LASTING_SHARE * c, min(_LEAST_LASTING, c))
    reference = replace(reference, h=h, c=c, c_lasting=c_lasting)
    rise = min(max(harmful - k, 1e-3), limit)
    return _Candidate(reference, tails, max(reference.h / rise, reference.onset_s))


def _streams(
    drives: Sequence[Drive], wavering: _Wavering, count: int, rng: np.random.Generator
) -> np.ndarray:
    """(steps, count) novelty of drives that were not seen, each DRIVE_H long."""
    steps = round(DRIVE_H * 3600 / PERIOD_S)
    number = len(drives)
    step = np.arange(steps)[:, None]
    result = np.empty((steps, count))
    chosen = rng.integers(0, number, count)
    for i, drive in enumerate(drives):
        columns = np.flatnonzero(chosen == i)
        samples, shape = drive.samples, (steps, columns.size)
        length_s = max(3 * wavering.tau_s, _LEAST_BLOCK_S)
        if drive.apart:
            # Each frame is held for so long that the correlation is the assumed one.
            length_s = -1 / math.log(wavering.rho) if wavering.rho > 0 else PERIOD_S
        begins = rng.random(shape) < PERIOD_S / max(length_s, PERIOD_S)
        begins[:1] = True
        begin = np.maximum.accumulate(np.where(begins, step, 0), axis=0)
        place = np.take_along_axis(rng.integers(0, samples.size, shape), begin, axis=0)
        if not drive.apart:
            place = (place + step - begin) % samples.size
        result[:, columns] = samples[place] - samples.mean()
    return result + _new_means(wavering, number, count, rng)


def _new_means(
    wavering: _Wavering, drives: int, count: int, rng: np.random.Generator
) -> np.ndarray:
    """(count,) means that drives which nobody has seen may have (predictive distribution).

    The means of the drives at hand end where the rare ones begin, and it is those that raise false
    alarms: with a bootstrap of the means there were twice as many as promised, after calibration
    on 10 or 24 synthetic drives. The distribution is cut into parts of equal probability, one for
    each drive, because chance in its tail would be chance in the thresholds.
    """
    parts = (rng.permutation(count) + rng.random(count)) / count
    scale = wavering.between * math.sqrt(1 + 1 / drives)
    return np.asarray(wavering.mean + scale * t.ppf(parts, wavering.freedom))


def _marks(novelty: np.ndarray, reference: SequentialReference) -> np.ndarray:
    """How high thresholds would have to be, for each time that the sum leaves zero.

    Args:
        novelty: (steps, streams), one sample each PERIOD_S.
        reference: Says `k`, `rho` and `limit`.

    Returns:
        (events, 3): an alarm comes when `h` is not above the first, `c` below the second or
        `c_lasting` below the third.
    """
    k, rho = reference.k, reference.rho
    oldest, middle, newest = novelty[:-2], novelty[1:-1], novelty[2:]
    median = np.maximum(np.minimum(oldest, middle), np.minimum(np.maximum(oldest, middle), newest))
    innovation = np.minimum(
        *((z - rho ** (n * PERIOD_S) * oldest) / math.sqrt(max(1 - rho ** (2 * n * PERIOD_S), 0.1))
          for n, z in ((1, middle), (2, newest)))
    )  # fmt: skip
    streams = novelty.shape[1]
    total, lasted = np.zeros(streams), np.zeros(streams)
    run, high, sudden, lasting = (np.full(streams, -np.inf) for _ in range(4))
    events = []
    for row, new, latest in zip(median, innovation, newest, strict=True):
        above = row > k
        total += PERIOD_S * np.minimum(row - k, reference.limit)
        # The sample before the first whose median is above is the first that is above itself.
        lasted = np.where(above, lasted + PERIOD_S, 0.0)
        run = np.where(above, np.maximum(run, new), -np.inf)
        # The median is a sample late: what is over already raises no alarm.
        counts = above & (latest > k) & (lasted > reference.onset_s)
        high = np.where(counts, np.maximum(high, total), high)
        sudden = np.where(counts, np.maximum(sudden, run), sudden)
        late = counts & (lasted > reference.lasting_s)
        lasting = np.where(late, np.maximum(lasting, run), lasting)
        over = total <= 0
        if (ended := over & (high > 0)).any():
            events.append(np.stack([high[ended], sudden[ended], lasting[ended]], axis=1))
        total[over] = 0
        high[over] = sudden[over] = lasting[over] = -np.inf
    if (left := high > 0).any():
        events.append(np.stack([high[left], sudden[left], lasting[left]], axis=1))
    return np.concatenate(events) if events else np.empty((0, 3))


def alarming(marks: np.ndarray, reference: SequentialReference) -> np.ndarray:
    """(events,) bool, which of `_marks` are alarms."""
    thresholds = np.array([reference.h, reference.c, reference.c_lasting])
    return np.asarray((marks[:, 0] >= thresholds[0]) | (marks[:, 1:] > thresholds[1:]).any(axis=1))


@dataclass(frozen=True)
class _Tail:
    """Rate of events above a threshold: `rate * exp(-(x - start) / slope)`.

    Attributes:
        start: Where the exponential begins.
        rate: Events above it in an hour.
        slope: By how much the threshold rises for each e-fold of the rate.
        least: Lowest threshold.
    """

    start: float
    rate: float
    slope: float
    least: float

    @classmethod
    def of(cls, marks: np.ndarray, hours: float, rate: float, least: float) -> _Tail:
        """Fit to the highest marks, twice as many as there may be at the wanted rate.

        The slope is that of the median: a few drives beyond the indifference zone have marks that
        belong to no exponential.
        """
        ordered = np.sort(marks[np.isfinite(marks)])[::-1]
        number = min(max(_TAIL, round(2 * rate * hours)), ordered.size - 1)
        if number < 2:
            return cls(least, max(ordered.size, 1) / hours, least / 4, least)
        start = float(ordered[number])
        slope = float(np.median(ordered[:number]) - start) / math.log(2)
        return cls(start, number / hours, max(slope, 0.02 * least), least)

    def threshold(self, rate: float) -> float:
        """The threshold that gives so many events in an hour."""
        return max(self.start + self.slope * math.log(self.rate / rate), self.least)
