# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Fits the signatures by which the shift monitor names a kind of degradation.

They come from the user's own nominal frames and corruptions of them: no bad weather has to be
recorded, let alone labelled. Image statistics tell what happened to the picture, the network's
features where in the scene it shows. What is fitted is exported as plain arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import LogisticRegression

from clcp_ros.errors import ModelError
from clcp_ros.monitor.attribution import CLASSES, KindReference, both_ways
from training.monitoring.columns import Columns
from training.monitoring.corruptions import kind_of
from training.monitoring.samples import Samples

MIN_FRAMES = 8
"""Fewest nominal frames that a fit accepts."""

LEAST_PROBABILITY = 0.4
"""Below it no kind is named."""

_REGULARISATION = 0.3  # inverse strength, of scikit-learn
_TOLERANCE = 1e-3  # of its gradient; the last tenth takes five times as long and gains nothing
_NOMINAL = 4.0  # times as likely as any kind: most frames are nominal
_MILD_WEIGHT = 0.3  # of severity 1, much of which is hard to tell from nominal
_QUANTILE = 0.97  # of the distances of frames that are known
_REACH = 1.25  # of that: the real thing lies farther from its model than another street does
_MOVED = 2  # copies of each degraded frame as of other places
_OF_PLACE = 0.7  # share of a place's own looks that a degradation leaves
_HIDDEN = 0.3  # share of the values that a part of the fit must do without
_SHARES = 2 / 3, 1 / 3  # of the fit on whole frames, and of that
_SPREAD_FLOOR = 1e-2  # a statistic that never changes must not decide
_FEATURE_FLOOR = 0.1  # of the median spread: nor must a channel
_TINY = 1e-6
_ABSENT = -50.0  # bias of a kind that was not shown
_FOLDS = 5
_VARIANCE_FLOOR = 0.05  # of the mean: tones of grey are nearly collinear


@dataclass(frozen=True)
class Described(Columns):
    """What the fit reads of N frames.

    Attributes:
        drive: (N,) str.
        tag: (N,) str, `clear` or `family:severity`.
        low: (N, S) float64 statistics.
        features: (N, F) float32, the early features and the deep ones; None where the kinds are
            to be told by the statistics alone.
    """

    drive: np.ndarray
    tag: np.ndarray
    low: np.ndarray
    features: np.ndarray | None = None

    @property
    def values(self) -> np.ndarray:
        """(N, V) float64, what tells the kinds: `KindReference.values` of each frame."""
        return self.low if self.features is None else np.hstack([self.low, self.features])

    @property
    def kind(self) -> np.ndarray:
        """(N,) str, of `CLASSES`."""
        return np.array([kind_of(tag) for tag in self.tag])

    @property
    def severity(self) -> np.ndarray:
        """(N,) int, 0 where the tag has none."""
        return np.array([int(tag.partition(':')[2] or 0) for tag in self.tag])


def describe(clean: Samples, degraded: Samples | Iterable[Samples]) -> Described:
    """Gather nominal and degraded frames; nothing else is kept of them.

    Args:
        clean: Nominal frames, whatever their tag.
        degraded: Frames tagged `family:severity`, in one set or in several.
    """
    parts = [degraded] if isinstance(degraded, Samples) else list(degraded)
    return Described(
        np.concatenate([part.drive for part in (clean, *parts)]),
        np.concatenate([np.full(len(clean), 'clear'), *(part.tag for part in parts)]),
        np.concatenate([part.low for part in (clean, *parts)]),
        np.concatenate([np.hstack([part.early, part.deep]) for part in (clean, *parts)]),
    )


def fit_kinds(clean: Samples, degraded: Samples | Iterable[Samples]) -> KindReference:
    """Fit the signatures.

    Args:
        clean: Nominal frames, best of several drives; statistics and features are read.
        degraded: Frames tagged `family:severity`, of the same drives; see
            `training.monitoring.corruptions.degrade`.

    Returns:
        What the monitor needs to name a kind.

    Raises:
        ModelError: There are too few frames, or fewer than two kinds.
    """
    return fit_described(describe(clean, degraded))


def fit_described(frames: Described) -> KindReference:
    """`fit_kinds` of what `describe` gathered.

    Raises:
        ModelError: There are too few frames, or fewer than two kinds.
    """
    drives = list(dict.fromkeys(frames.drive.tolist()))
    _check(frames)
    distances = []
    for drives_out in _folds(drives):
        out = np.isin(frames.drive, drives_out)
        if not _enough(frames.take(~out)):
            continue
        distances.append(_Space.of(frames.take(~out)).distance(frames.values[out]))
    space = _Space.of(frames)
    if not distances:  # of one drive: what was fitted on lies nearer than what is new
        distances = [1.5 * space.distance(frames.values)]
    limit = _REACH * float(np.quantile(np.concatenate(distances), _QUANTILE))
    values, everywhere = _everywhere(frames)
    weights, bias = _signatures(space.squashed(values), everywhere)
    return space.reference(weights, bias, limit)


def kind_figures(frames: Described) -> dict[str, Any]:
    """How often the kind is right on drives that were left out, for the monitor card.

    Args:
        frames: From `describe`, of two drives at least.

    Returns:
        For JSON: `accuracy` (mean over kinds) and `frames` by severity, `confusion` by true and
        named kind at severity 3, as shares, and `drives`. Empty for one drive.
    """
    drives = list(dict.fromkeys(frames.drive.tolist()))
    named = np.full(len(frames.tag), '', dtype='U16')
    for drives_out in _folds(drives):
        out = np.isin(frames.drive, drives_out)
        if _enough(frames.take(~out)):
            named[out] = names(fit_described(frames.take(~out)), frames.values[out])
    return figures(frames.take(named != ''), named[named != '']) if (named != '').any() else {}


def names(reference: KindReference, values: np.ndarray, novel: bool = False) -> np.ndarray:
    """(N,) str, what the kinds of (N, V) values are called; `novel` as in `classify`."""
    z = reference.z(values)
    share = reference.probabilities(z, novel)
    return np.array([reference.name(p, row).name for p, row in zip(share, z, strict=True)])


def figures(frames: Described, named: np.ndarray) -> dict[str, Any]:
    """Compare kinds with what they were called.

    Args:
        frames: N of them, with their tags.
        named: (N,) str.

    Returns:
        As `kind_figures`.
    """
    truth, severity = frames.kind, frames.severity
    accuracy, counted = {}, {}
    for s in sorted(set(severity.tolist())):
        own = severity == s
        kinds = sorted(set(truth[own].tolist()))
        accuracy[str(s)] = float(np.mean([(named[own & (truth == k)] == k).mean() for k in kinds]))
        counted[str(s)] = int(own.sum())
    middle = severity == 3
    confusion = {
        k: {
            n: float(share)
            for n in CLASSES
            if (share := (named[middle & (truth == k)] == n).mean()) > 0
        }
        for k in CLASSES
        if (middle & (truth == k)).any()
    }
    return {
        'accuracy': accuracy,
        'frames': counted,
        'confusion': confusion,
        'drives': len(set(frames.drive.tolist())),
    }


def _folds(drives: Sequence[str]) -> list[list[str]]:
    """Drives to leave out in turn; none of them when there is one drive."""
    if len(drives) < 2:
        return []
    number = min(_FOLDS, len(drives))
    return [list(drives[i::number]) for i in range(number)]


def _enough(frames: Described) -> bool:
    kinds = frames.kind
    return (kinds == 'none').sum() >= MIN_FRAMES and len(set(kinds.tolist())) > 2


def _check(frames: Described) -> None:
    if not _enough(frames):
        raise ModelError(
            f'at least {MIN_FRAMES} nominal frames and two kinds of degraded ones are needed to '
            f'fit the kinds, there are {(frames.kind == "none").sum()} and '
            f'{len(set(frames.kind.tolist()) - {"none"})}'
        )


@dataclass(frozen=True)
class _Space:
    """Where the known families and severities lie; the fields are those of `KindReference`."""

    location: np.ndarray
    scale: np.ndarray
    prototypes: np.ndarray
    radius: np.ndarray
    whitening: np.ndarray

    @classmethod
    def of(cls, frames: Described) -> _Space:
        location, scale = _standard(frames)
        squashed = _squashed(frames.values, location, scale)[:, : frames.low.shape[1]]
        whitening, prototypes, radius = _prototypes(squashed, frames.tag)
        return cls(location, scale, prototypes, radius, whitening)

    def reference(self, weights: np.ndarray, bias: np.ndarray, limit: float) -> KindReference:
        return KindReference(
            self.location, self.scale, weights, bias, self.prototypes, self.radius,
            self.whitening, np.array(limit), np.array(LEAST_PROBABILITY),
        )  # fmt: skip

    def distance(self, values: np.ndarray) -> np.ndarray:
        """(N,) radii between (N, V) values and the nearest family and severity."""
        size = len(CLASSES), 2 * len(self.location)
        reference = self.reference(np.zeros(size), np.zeros(len(CLASSES)), 1.0)
        return reference.distance(reference.z(values))

    def squashed(self, values: np.ndarray) -> np.ndarray:
        """(N, V) of (N, V) values."""
        return _squashed(values, self.location, self.scale)


def _squashed(values: np.ndarray, location: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """(N, V) of values, as `KindReference.z` and what follows it have them."""
    return np.asarray(np.arcsinh(np.clip((values - location) / scale, -30, 30)))


def _everywhere(frames: Described) -> tuple[np.ndarray, Described]:
    """The frames, and copies of the degraded ones as if they had been taken in other places.

    Each family is shown in a few places only, in which it would be recognised. What it does there
    is put onto nominal frames of all places instead; the drive's mean stands for a place.

    Args:
        frames: N of them.

    Returns:
        The values of 1 + `_MOVED` times N frames, the nominal ones as they are, and what they are
        of.
    """
    rng = np.random.default_rng(0)
    degraded, values = frames.kind != 'none', frames.values
    nominal, drives = values[~degraded], frames.drive[~degraded]
    usual = nominal.mean(axis=0)
    here = np.tile(usual, (len(frames.drive), 1))
    for drive in set(drives.tolist()):
        here[frames.drive == drive] = nominal[drives == drive].mean(axis=0)
    parts = [values]
    for _ in range(_MOVED):
        there = nominal[rng.integers(len(nominal), size=len(here))]
        moved = values + degraded[:, None] * _OF_PLACE * (there - here)
        parts.append(np.clip(moved, values.min(axis=0), values.max(axis=0)))
    return np.concatenate(parts), Described.concat([frames] * len(parts))


def _signatures(squashed: np.ndarray, frames: Described) -> tuple[np.ndarray, np.ndarray]:
    """Weights and bias of the logistic regression: a mean of two.

    Corruptions are models of appearance: each value alone may be off in the real thing. Hence
    one of the two is fitted on frames of which values at random are hidden, as if they were
    nominal (dropout; Srivastava et al. 2014), so that it leans on none. The other keeps what only
    single statistics tell, such as dirt on the lens.

    Args:
        squashed: (N, V) from `arcsinh`.
        frames: The N frames.

    Returns:
        (11, 2 V) and (11,).
    """
    share = _weights(frames) / (1 + _MOVED)  # the copies are no new frames
    rng = np.random.default_rng(0)
    hidden = squashed * (rng.random(squashed.shape) >= _HIDDEN)
    kinds = frames.kind
    weights = np.zeros((len(CLASSES), 2 * squashed.shape[1]))
    bias = np.full(len(CLASSES), _ABSENT)
    models = [
        LogisticRegression(C=_REGULARISATION, tol=_TOLERANCE, max_iter=1000).fit(
            both_ways(x), kinds, sample_weight=share
        )
        for x in (squashed, hidden)
    ]
    rows = [CLASSES.index(name) for name in models[0].classes_]
    weights[rows] = np.average([model.coef_ for model in models], axis=0, weights=_SHARES)
    bias[rows] = np.average([model.intercept_ for model in models], axis=0, weights=_SHARES)
    bias[CLASSES.index('none')] += np.log(_NOMINAL)
    return weights, bias


def _standard(frames: Described) -> tuple[np.ndarray, np.ndarray]:
    """Median and robust standard deviation of the nominal frames' values."""
    nominal = frames.values[frames.kind == 'none']
    location = np.median(nominal, axis=0)
    spread = 1.4826 * np.median(np.abs(nominal - location), axis=0)
    spread = np.maximum(spread, 0.5 * nominal.std(axis=0))
    low, features = np.split(spread, [frames.low.shape[1]])
    # A network's features have no unit.
    usual = float(np.median(features)) if len(features) else 0.0
    floor = max(_FEATURE_FLOOR * usual, _TINY)
    return location, np.concatenate([np.maximum(low, _SPREAD_FLOOR), np.maximum(features, floor)])


def _weights(frames: Described) -> np.ndarray:
    """(N,) every kind counts alike, and so does every family of a kind."""
    weights = np.where(frames.severity == 1, _MILD_WEIGHT, 1.0)
    family = np.array([tag.partition(':')[0] for tag in frames.tag])
    kind = frames.kind
    for name in set(kind.tolist()):
        members = set(family[kind == name].tolist())
        for member in members:
            own = (kind == name) & (family == member)
            weights[own] /= weights[own].sum() * len(members)
    return weights * len(weights) / weights.sum()


def _prototypes(
    squashed: np.ndarray, tag: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where each family and severity lies, in units of the spread within them.

    Args:
        squashed: (N, S) from `arcsinh`.
        tag: (N,) str.

    Returns:
        (S, S) whitening, (P, S) prototypes and (P,) root mean square distance of their frames.
    """
    known, index = np.unique(tag, return_inverse=True)
    means = np.array([squashed[index == i].mean(axis=0) for i in range(len(known))])
    away = squashed - means[index]
    covariance, _ = ledoit_wolf(away, assume_centered=True)
    variance, direction = np.linalg.eigh(covariance)
    variance = np.maximum(variance, _VARIANCE_FLOOR * variance.mean())
    whitening = direction.T / np.sqrt(variance)[:, None]
    squared = ((away @ whitening.T) ** 2).sum(axis=1)
    radius = np.sqrt(np.bincount(index, squared) / np.bincount(index))
    # Of a few frames of one scene the spread is no more than a guess.
    return whitening, means @ whitening.T, np.maximum(radius, np.median(radius))
