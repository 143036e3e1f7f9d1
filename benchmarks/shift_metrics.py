# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmark's figures: separation of frames, false alarms with their bound, delays, errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.monitoring.run_length import alarm_bound


def auroc(negatives: np.ndarray, positives: np.ndarray) -> float:
    """Probability that a positive scores higher than a negative; ties count half.

    Args:
        negatives: (N,) scores; what is not finite is left out.
        positives: (P,) scores.

    Returns:
        In [0, 1]; NaN without scores on a side.
    """
    negatives, positives = _finite(negatives), _finite(positives)
    if not negatives.size or not positives.size:
        return math.nan
    below = np.searchsorted(np.sort(negatives), positives, 'left')
    not_above = np.searchsorted(np.sort(negatives), positives, 'right')
    return float((below + not_above).mean() / 2 / negatives.size)


def fpr_at_tpr(negatives: np.ndarray, positives: np.ndarray, tpr: float = 0.95) -> float:
    """Share of negatives that a threshold takes which takes so many of the positives.

    Args:
        negatives: (N,) scores.
        positives: (P,) scores.
        tpr: Share of the positives.
    """
    negatives, positives = _finite(negatives), _finite(positives)
    if not negatives.size or not positives.size:
        return math.nan
    ordered = np.sort(positives)[::-1]
    threshold = ordered[min(math.ceil(tpr * ordered.size), ordered.size) - 1]
    return float((negatives >= threshold).mean())


def _finite(scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores, np.float64).ravel()
    return scores[np.isfinite(scores)]


@dataclass(frozen=True)
class FalseAlarms:
    """Alarms where nothing was wrong.

    Attributes:
        alarms: Seen.
        hours: Looked at.
        by_drive: Drives with at least one.
    """

    alarms: int
    hours: float
    by_drive: int = 0

    @property
    def per_8h(self) -> float:
        """Rate."""
        return 8 * self.alarms / self.hours if self.hours else math.nan

    @property
    def bound_8h(self) -> float:
        """Upper 95 % bound of the rate, were alarms independent of each other (Poisson)."""
        return 8 * alarm_bound(self.alarms) / self.hours if self.hours else math.nan


def onsets(active: np.ndarray) -> np.ndarray:
    """Indices at which a state begins.

    Args:
        active: (N,) bool.
    """
    active = np.asarray(active, bool)
    return np.flatnonzero(active & ~np.concatenate([[False], active[:-1]]))


@dataclass(frozen=True)
class Delays:
    """How soon something was found; what was missed took for ever.

    Attributes:
        cases: Number of them.
        missed: Of them.
        median: Seconds; infinite when half of them were missed.
        p95: Seconds.
        worst: Seconds.
    """

    cases: int
    missed: int
    median: float
    p95: float
    worst: float


def delays(seconds: Sequence[float]) -> Delays:
    """Sum up delays.

    Args:
        seconds: One for each case; NaN was missed.
    """
    values = np.array(seconds, np.float64)
    missed = int(np.isnan(values).sum())
    ordered = np.sort(np.where(np.isnan(values), np.inf, values))
    if not ordered.size:
        return Delays(0, 0, math.nan, math.nan, math.nan)
    # No interpolation: between a delay and a miss there is nothing.
    median, p95 = (
        float(ordered[min(math.ceil(q * ordered.size), ordered.size) - 1]) for q in (0.5, 0.95)
    )
    return Delays(ordered.size, missed, median, p95, float(ordered[-1]))


@dataclass(frozen=True)
class Errors:
    """How far estimates are from the truth.

    Attributes:
        windows: Number of estimates.
        mae: Mean absolute error.
        bias: Mean error; positive: too optimistic.
        p90: 90 % quantile of the absolute error.
        correlation: Pearson's; NaN where one of them does not vary.
    """

    windows: int
    mae: float
    bias: float
    p90: float
    correlation: float


def errors(estimate: Sequence[float], truth: Sequence[float]) -> Errors:
    """Compare estimates with the truth; pairs that are not finite are left out.

    Args:
        estimate: (N,).
        truth: (N,).
    """
    a, b = np.asarray(estimate, np.float64), np.asarray(truth, np.float64)
    known = np.isfinite(a) & np.isfinite(b)
    a, b = a[known], b[known]
    if not a.size:
        return Errors(0, math.nan, math.nan, math.nan, math.nan)
    off = np.abs(a - b)
    varies = a.size > 1 and a.std() > 1e-9 and b.std() > 1e-9
    correlation = float(np.corrcoef(a, b)[0, 1]) if varies else math.nan
    return Errors(
        a.size, float(off.mean()), float((a - b).mean()), float(np.quantile(off, 0.9)), correlation
    )


def runs(cases: np.ndarray, stamps_ns: np.ndarray, size: int) -> list[np.ndarray]:
    """Windows of frames that follow each other in a case, none in two of them.

    Args:
        cases: (N,) str.
        stamps_ns: (N,) int64.
        size: Frames in a window; a rest that is smaller is left out.

    Returns:
        Row indices of each window.
    """
    found = []
    for case in dict.fromkeys(cases.tolist()):
        rows = np.flatnonzero(cases == case)
        rows = rows[np.argsort(stamps_ns[rows], kind='stable')]
        apart = np.flatnonzero(np.diff(stamps_ns[rows]) > 2_000_000_000) + 1
        for run in np.split(rows, apart):
            found += [run[i : i + size] for i in range(0, len(run) - size + 1, size)]
    return found


def balanced_accuracy(truth: Sequence[str], said: Sequence[str]) -> float:
    """Mean over the true kinds of the share that was named right.

    Args:
        truth: (N,) kinds.
        said: (N,) kinds.
    """
    by_kind: dict[str, list[bool]] = {}
    for a, b in zip(truth, said, strict=True):
        by_kind.setdefault(a, []).append(a == b)
    return float(np.mean([np.mean(hits) for hits in by_kind.values()])) if by_kind else math.nan
