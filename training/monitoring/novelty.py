# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Fits what the shift monitor knows of the training domain.

Frames that a distance was fitted on score better than any new frame, and frames of one drive score
alike. Location and spread of the scores therefore come from drives that were left out: each in
turn, or a set of other drives. The same held-out scores, in their order, are what the thresholds
of the sequential test are found on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

from clcp_ros.errors import ModelError
from clcp_ros.monitor.reference import (
    TAPS,
    Direction,
    Gaussian,
    Measure,
    Neighbours,
    SceneModel,
    ShiftReference,
    TapReference,
    normalized,
)
from training.monitoring.samples import Samples

MIN_FRAMES = 8
"""Fewest frames that a fit, or a calibration, accepts."""

_LEAST_SPREAD = 0.02  # of a log distance
_LEAST_RESIDUAL = 0.05  # variance of a standardised channel: a fit of few frames underestimates it
_DIRECTION_PENALTY = (
    0.003  # inverse, of scikit-learn; larger ones fit the synthetic weather better
)
_SCENE_GAIN = 0.1  # by which a model of the scene must lower the spread of the drives
_SCENE_DRIVES = 6  # with fewer, a class that one street has would explain that street


@dataclass(frozen=True)
class NoveltyOptions:
    """How to fit.

    Attributes:
        max_components: Upper limit of a covariance's rank.
        rank: Which neighbour the deep tap measures.
        coreset_frames: Most training frames that the bundle holds.
        coreset_bytes: Most bytes that they take.
        scene_penalty: Of the regression on class shares, per frame.
    """

    max_components: int = 32
    rank: int = 5
    coreset_frames: int = 2000
    coreset_bytes: int = 1_500_000
    scene_penalty: float = 0.03


@dataclass(frozen=True)
class Series:
    """Scores of one held-out drive; n frames.

    Attributes:
        drive: Its name.
        stamp_ns: (n,) int64 ascending.
        novelty: (n,) float64, of a reference that knows nothing of this drive, in the units of the
            fitted one.
    """

    drive: str
    stamp_ns: np.ndarray
    novelty: np.ndarray


@dataclass(frozen=True)
class NoveltyFit:
    """A reference and what it was calibrated on.

    Attributes:
        reference: For the bundle.
        series: Held-out scores of each drive.
        figures: For the monitor card; JSON types.
    """

    reference: ShiftReference
    series: tuple[Series, ...]
    figures: dict[str, Any]


def fit_novelty(
    fit: Samples,
    calibration: Samples | None = None,
    options: NoveltyOptions | None = None,
    degraded: Samples | None = None,
    clean: Samples | None = None,
) -> NoveltyFit:
    """Fit on nominal frames, take location and spread of the scores from drives left out.

    Args:
        fit: Frames of the training domain.
        calibration: Frames of other drives of the same domain; None leaves each drive of `fit` out
            in turn.
        options: How to fit.
        degraded: Synthetically degraded frames. With them the low tap also looks where they lie,
            and sees more of simulated rain, snow and fog. No drive is scored by a direction that
            was found on it.
        clean: The undegraded frames of their drives, where those are not in `fit`.

    Returns:
        The reference, the held-out series and figures.

    Raises:
        ModelError: There are too few frames or drives, or drives that are in both sets.
    """
    options = options or NoveltyOptions()
    _require(len(fit), 'to fit the monitor')
    measures = _fit_measures(fit, options)
    if calibration is None:
        held_out, distances = fit, _left_out_distances(fit, options)
    else:
        if shared := set(fit.drives) & set(calibration.drives):
            raise ModelError(
                f'drive {min(shared)} is in the fit and in the calibration of the monitor: '
                'calibrate it on other drives'
            )
        _require(len(calibration), 'held out to calibrate the monitor')
        held_out, distances = calibration, _distances(measures, calibration)
    nominal = fit if clean is None else Samples.concat([_bare(fit), _bare(clean)])
    directed = degraded is not None and _suffice(held_out, nominal, degraded)
    if degraded is not None and directed:
        scores = _left_out_directions(held_out, nominal, degraded)
        distances = np.insert(distances, len(measures['low']), scores, axis=1)
        measures['low'] = *measures['low'], _direction(nominal, degraded)
    taps = _calibrated_taps(measures, distances)
    raw = np.array([_mean_z(taps, row) for row in distances])
    location, spread = float(raw.mean()), max(float(raw.std()), 0.1)
    novelty = (raw - location) / spread
    scene, novelty, scene_figures = _scene_model(held_out, novelty, options)
    # Once the scene is explained, less is left to vary: keep the unit of one standard deviation.
    scale = float(novelty.std()) if scene is not None else 1.0
    if scene is not None:
        scene = replace(scene, weights=scene.weights / scale, range=scene.range / scale)
        novelty, spread = novelty / scale, spread * scale
    reference = ShiftReference(
        **taps,
        location=np.asarray(location),
        spread=np.asarray(spread),
        scene=scene,
    )
    series = _series(held_out, novelty)
    figures = _figures(fit, series, scene_figures, calibration is None)
    return NoveltyFit(reference, series, {**figures, 'direction': directed})


def novelty_of(reference: ShiftReference, samples: Samples) -> np.ndarray:
    """The novelty of every frame.

    Args:
        reference: Of the training domain.
        samples: N frames.

    Returns:
        (N,) float64, in standard deviations.
    """
    return np.array([
        reference.score(samples.low[i], samples.features(i), samples.scene[i]).novelty
        for i in range(len(samples))
    ])  # fmt: skip


def coreset(number: int, size: int) -> np.ndarray:
    """Frames that stand for all: evenly spread over the drives and over each drive's time.

    As dense as the frames are where they are many. Greedy k-center, which covers the odd ones
    first, told simulated rain and snow from new drives worse (AUROC 0.985 against 0.995 at a
    quarter of the frames).

    Args:
        number: Of frames, in the order of their drives.
        size: How many to choose.

    Returns:
        Indices of min(number, size) frames, ascending.
    """
    return np.linspace(0, number - 1, min(number, size)).round().astype(int)


def _require(count: int, what: str) -> None:
    if count < MIN_FRAMES:
        raise ModelError(
            f'at least {MIN_FRAMES} frames are needed {what}, there are {count}: give more, or '
            'longer, recordings'
        )


def _fit_measures(frames: Samples, options: NoveltyOptions) -> dict[str, tuple[Measure, ...]]:
    """The measures of each tap that told weather from new drives best.

    L2-normalised features make early Mahalanobis distances comparable; of the last block, their
    length tells as much as their direction, so it is measured once with and once without.
    """
    rank = options.max_components
    return {
        'low': (_gaussian(frames.low, rank, unit=False),),
        'early': (_gaussian(frames.early, rank, unit=True),),
        'deep': (_gaussian(frames.deep, rank, unit=False), _neighbours(frames.deep, options)),
    }


def _gaussian(rows: np.ndarray, max_components: int, unit: bool) -> Gaussian:
    x = _units(rows) if unit else rows.astype(np.float64)
    mean, scale = _standard(x)
    z = (x - mean) / scale
    rank = max(1, min(max_components, len(x) // 4, x.shape[1] - 1))
    pca = PCA(rank, svd_solver='full').fit(z)
    shrinkage = float(ledoit_wolf_shrinkage(z, assume_centered=True))
    target = shrinkage * float((z**2).mean())
    residual = max((1 - shrinkage) * float(pca.noise_variance_) + target, _LEAST_RESIDUAL)
    return Gaussian(
        mean=mean,
        scale=scale,
        components=pca.components_.astype(np.float32),
        variances=np.maximum((1 - shrinkage) * pca.explained_variance_ + target, residual),
        residual_variance=np.asarray(residual),
        unit=unit,
    )


def _standard(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the channels of (N, C) rows."""
    mean, sd = rows.mean(axis=0), rows.std(axis=0)
    # Without the floor a nearly dead channel puts nominal frames at hundreds of sd.
    return mean, np.maximum(sd, max(0.1 * float(np.median(sd)), 1e-6))


def _neighbours(rows: np.ndarray, options: NoveltyOptions) -> Neighbours:
    units = _units(rows)
    size = min(options.coreset_frames, options.coreset_bytes // (2 * units.shape[1]))
    chosen = units[coreset(len(units), max(size, 1))]
    return Neighbours(chosen.astype(np.float16), min(options.rank, len(chosen)))


def _units(rows: np.ndarray) -> np.ndarray:
    return np.stack([normalized(row) for row in rows])


def _distances(measures: Mapping[str, Sequence[Measure]], frames: Samples) -> np.ndarray:
    """(N, measures of all taps) log distances."""
    return np.array([
        [m.log_distance(getattr(frames, tap)[i]) for tap in TAPS for m in measures[tap]]
        for i in range(len(frames))
    ])  # fmt: skip


def _left_out_distances(frames: Samples, options: NoveltyOptions) -> np.ndarray:
    distances: np.ndarray | None = None
    for drive in frames.drives:
        own = frames.drive == drive
        _require(int((~own).sum()), f'beside {drive} to fit the monitor')
        found = _distances(_fit_measures(frames.take(~own), options), frames.take(own))
        if distances is None:
            distances = np.empty((len(frames), found.shape[1]))
        distances[own] = found
    assert distances is not None  # there are frames, hence drives
    return distances


def _direction(nominal: Samples, degraded: Samples) -> Direction:
    mean, scale = _standard(nominal.low)
    z = np.clip((np.concatenate([nominal.low, degraded.low]) - mean) / scale, -10, 10)
    labels = np.repeat([0, 1], [len(nominal), len(degraded)])
    model = LogisticRegression(C=_DIRECTION_PENALTY, class_weight='balanced', max_iter=2000)
    return Direction(mean, scale, model.fit(z, labels).coef_[0])


def _suffice(held_out: Samples, nominal: Samples, degraded: Samples) -> bool:
    """Whether enough is left for a direction when any one drive is left out."""
    return all(
        int((part.drive != drive).sum()) >= MIN_FRAMES
        for drive in held_out.drives
        for part in (nominal, degraded)
    )


def _left_out_directions(held_out: Samples, nominal: Samples, degraded: Samples) -> np.ndarray:
    """(N,) log odds of held-out frames, by directions that do not know their drives."""
    scores = np.empty(len(held_out))
    for drive in held_out.drives:
        own = held_out.drive == drive
        direction = _direction(*(p.take(p.drive != drive) for p in (nominal, degraded)))
        scores[own] = [direction.log_distance(row) for row in held_out.low[own]]
    return scores


def _bare(samples: Samples) -> Samples:
    """Without logits and labels, which not all have."""
    return replace(samples, logits=None, confusion=None)


def _calibrated_taps(
    measures: Mapping[str, tuple[Measure, ...]], distances: np.ndarray
) -> dict[str, TapReference]:
    location = np.median(distances, axis=0)
    # Median and MAD: a single odd frame must not widen the scale of all.
    spread = np.maximum(1.4826 * np.median(np.abs(distances - location), axis=0), _LEAST_SPREAD)
    taps, start = {}, 0
    for tap in TAPS:
        own = slice(start, start + len(measures[tap]))
        taps[tap] = TapReference(measures[tap], location[own], spread[own])
        start = own.stop
    return taps


def _mean_z(taps: Mapping[str, TapReference], distances: np.ndarray) -> float:
    z, start = [], 0
    for tap in TAPS:
        stop = start + len(taps[tap].measures)
        z.append(taps[tap].standardised(distances[start:stop]))
        start = stop
    return float(np.mean(z))


def _scene_model(
    frames: Samples, novelty: np.ndarray, options: NoveltyOptions
) -> tuple[SceneModel | None, np.ndarray, dict[str, Any]]:
    """What novelty is due to the scene, if that holds on drives that it was not fitted on.

    Returns:
        The model, or None where it does not lower the spread of the drives' means; novelty with
        the scene taken off by models of the other drives; and figures.
    """
    before = _drive_spread(frames, novelty)
    figures: dict[str, Any] = {'drive_spread': before, 'scene_drive_spread': None, 'scene': False}
    if len(frames.drives) < _SCENE_DRIVES:
        return None, novelty, figures
    residual = np.empty_like(novelty)
    for drive in frames.drives:
        own = frames.drive == drive
        model = _regress(frames.scene[~own], novelty[~own], options.scene_penalty)
        residual[own] = novelty[own] - [model.expected(row) for row in frames.scene[own]]
    after = _drive_spread(frames, residual / residual.std())
    figures['scene_drive_spread'] = after
    if not (after < (1 - _SCENE_GAIN) * before and residual.std() <= novelty.std()):
        return None, novelty, figures
    figures['scene'] = True
    return _regress(frames.scene, novelty, options.scene_penalty), residual, figures


def _drive_spread(frames: Samples, novelty: np.ndarray) -> float:
    """Standard deviation of the drives' means."""
    return float(np.std([novelty[frames.drive == drive].mean() for drive in frames.drives]))


def _regress(scene: np.ndarray, novelty: np.ndarray, penalty: float) -> SceneModel:
    """Ridge regression on class shares."""
    mean = scene.mean(axis=0)
    x = scene - mean
    normal = x.T @ x + penalty * len(x) * np.eye(x.shape[1])
    weights = np.linalg.solve(normal, x.T @ (novelty - novelty.mean()))
    fitted = x @ weights
    return SceneModel(
        weights=weights,
        mean=mean,
        least=scene.min(axis=0),
        largest=scene.max(axis=0),
        range=np.array([fitted.min(), fitted.max()]),
    )


def _series(frames: Samples, novelty: np.ndarray) -> tuple[Series, ...]:
    result = []
    for drive in frames.drives:
        own = np.flatnonzero(frames.drive == drive)
        own = own[np.argsort(frames.stamp_ns[own], kind='stable')]
        result.append(Series(drive, frames.stamp_ns[own], novelty[own]))
    return tuple(result)


def _figures(
    fit: Samples, series: Sequence[Series], scene: dict[str, Any], left_out: bool
) -> dict[str, Any]:
    everything = np.concatenate([s.novelty for s in series])
    return {
        'fit_drives': fit.drives,
        'fit_frames': len(fit),
        'calibration': 'each drive left out in turn' if left_out else 'other drives',
        'drives': {
            s.drive: {
                'frames': len(s.novelty),
                'mean': float(s.novelty.mean()),
                'sd': float(s.novelty.std()),
            }
            for s in series
        },
        'p99': float(np.quantile(everything, 0.99)),
        **scene,
    }
