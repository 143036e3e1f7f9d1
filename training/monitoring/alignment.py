# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Fits how image and lidar agree on nominal drives.

The maps into the common space come from canonical correlation analysis (Hotelling 1936) between
fixed random features of the points and the segmenter's log posteriors around them. What tells a
usual frame from an unusual one is measured on drives that the maps were not fitted on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from clcp_ros.errors import ModelError
from clcp_ros.inference import Segmenter
from clcp_ros.monitor.alignment import (
    MIN_PAIRS,
    SHIFTS_DEG,
    AlignmentReference,
    image_evidence,
    lidar_evidence,
    sample_grid,
)
from clcp_ros.monitor.scan_view import (
    DESCRIPTORS,
    SCAN_STATISTICS,
    CameraModel,
    ScanView,
    project_scan,
)
from training.pairs.pair_set import PairSet

_FEATURES = 64
_DIMENSIONS = 12
_RIDGE = 1e-3
_FOLDS = 6
_FEWEST_FRAMES = 30
_FIT_POINTS = 150_000
# Between drives, in units of frames: a few drives do not show all that may be. Pitch differs more
# from street to street than yaw, as all that reaches from the road to the sky is at some slope.
_LEAST_DRIFT, _LEAST_PITCH_DRIFT = 0.2, 0.5
_NEAR_DEG, _FAR_DEG = 1.0, 3.0  # errors of the mounting that the sides are made to tell
_HEIGHT_EDGES = (0.3, 1.5, 4.0)  # the road and what is low, cars and people, walls, what is above
# Smaller spreads would make another environment a broken lidar: of the logarithms of counts and
# ranges some tenths, of shares some hundredths.
_SCAN_FLOORS = np.array([0.1, 0.15, 0.1, 0.4, 0.4, 0.4, 0.05, 0.05, 0.05, 0.1])


@dataclass(frozen=True)
class AlignedFrame:
    """A frame with its scan.

    Attributes:
        logits: (C, h, w) float16 or float32 of the segmenter.
        view: The scan as the camera sees it.
        drive: The drive that it was taken on.
        tag: Its condition; empty where none is known.
    """

    logits: np.ndarray
    view: ScanView
    drive: str
    tag: str = ''


def aligned_frames(
    pairs: PairSet, segmenter: Segmenter, positions: Iterable[int] | None = None, title: str = ''
) -> list[AlignedFrame]:
    """Segment the images of a pair set and see its scans from the camera.

    Args:
        pairs: The pair set.
        segmenter: Of the bundle.
        positions: Which pairs; default: all.
        title: Of the progress bar; empty for none.
    """
    chosen = list(range(len(pairs)) if positions is None else positions)
    found = []
    for position in tqdm(chosen, desc=title, unit='frame', disable=not title, smoothing=0.1):
        pair = pairs[int(position)]
        width, height = pair.size()
        view = project_scan(
            pair.xyz, pair.intensity, CameraModel(pair.K, (height, width)), pair.T_camera_lidar,
            pair.lidar_stamp_ns,
        )  # fmt: skip
        prediction = segmenter.predict(pair.pixels())
        found.append(
            AlignedFrame(
                prediction.logits.astype(np.float16), view, pair.sequence,
                pair.tags.get('condition', ''),
            )
        )  # fmt: skip
    return found


def fit_alignment_on_pairs(
    folder: Path | str,
    segmenter: Segmenter,
    conditions: Sequence[str] = ('clear', 'day', ''),
    max_frames: int = 240,
) -> AlignmentReference:
    """`fit_alignment` on a pair set.

    Args:
        folder: The pair set.
        segmenter: Of the bundle.
        conditions: Values of the tag `condition` that count as nominal; '' is a pair without one.
        max_frames: Most frames, taken evenly.

    Raises:
        PairSetError: The pair set cannot be read.
        ModelError: Too few nominal pairs.
    """
    pairs = PairSet(folder)
    nominal = [
        position
        for position in range(len(pairs))
        if pairs.row(position)['tags'].get('condition', '') in conditions
    ]
    step = max(1, -(-len(nominal) // max_frames))
    return fit_alignment(
        aligned_frames(pairs, segmenter, nominal[::step], 'monitor: image and lidar')
    )


def fit_alignment(frames: Sequence[AlignedFrame], seed: int = 0) -> AlignmentReference:
    """Fit the maps on all frames, and everything that judges on drives left out.

    Args:
        frames: Of nominal drives; with a single drive, its parts stand for drives.
        seed: Of the random features.

    Raises:
        ModelError: Too few frames with enough points, or logits of different sizes.
    """
    used = [f for f in frames if len(f.view) >= MIN_PAIRS and np.isfinite(f.logits).all()]
    if len(used) < _FEWEST_FRAMES:
        raise ModelError(
            f'{len(used)} frames with {MIN_PAIRS} points in the image: at least {_FEWEST_FRAMES} '
            'nominal pairs are needed to fit the agreement of image and lidar'
        )
    if len({f.logits.shape[0] for f in used}) > 1:
        raise ModelError('the frames are of segmenters with different classes')
    folds = _folds([f.drive for f in used])
    count = len(SHIFTS_DEG) * 2 - 3
    curves = np.zeros((len(used), len(_PROBES), count))
    for fold in range(int(folds.max()) + 1):
        reference = _fit_maps([f for f, n in zip(used, folds, strict=True) if n != fold], seed)
        for row in np.flatnonzero(folds == fold):
            curves[row] = _probe_curves(reference, used[row])
    return _judged(_fit_maps(used, seed), curves, folds, used)


_SIDES = ((_NEAR_DEG, 0.0), (0.0, _NEAR_DEG), (_FAR_DEG, 0.0), (0.0, _FAR_DEG))
_PROBES = ((0.0, 0.0), *_SIDES, *((-yaw, -pitch) for yaw, pitch in _SIDES))


def _folds(drives: Sequence[str]) -> np.ndarray:
    """(N,) number of the fold of each frame: whole drives, or parts of the only one."""
    names = sorted(set(drives))
    if len(names) == 1:
        return np.arange(len(drives)) * 3 // len(drives)
    number = {name: n % _FOLDS for n, name in enumerate(names)}
    return np.array([number[drive] for drive in drives])


def _shifts() -> np.ndarray:
    yaw = [(angle, 0.0) for angle in SHIFTS_DEG if angle]
    pitch = [(0.0, angle) for angle in SHIFTS_DEG[1:-1] if angle]
    return np.radians([(0.0, 0.0), *yaw, *pitch])


def _probe_curves(reference: AlignmentReference, frame: AlignedFrame) -> np.ndarray:
    """(P, S): the curve as it is, and with the mounting turned each way."""
    view, logits = frame.view, frame.logits.astype(np.float32)
    found = []
    for yaw, pitch in np.radians(_PROBES).astype(np.float32):
        moved = replace(view, uv=view.uv + yaw * view.uv_yaw + pitch * view.uv_pitch)
        found.append(reference.curve(logits, moved))
    return np.stack(found)


def _fit_maps(frames: Sequence[AlignedFrame], seed: int) -> AlignmentReference:
    """The maps alone; what judges is neutral."""
    total = sum(len(f.view) for f in frames)
    step = max(1, -(-total // _FIT_POINTS))
    descriptors = np.concatenate([f.view.descriptors[::step] for f in frames]).astype(np.float64)
    # The floor keeps a descriptor that never changes, as the intensity of a lidar without one,
    # from deciding when it once does.
    location, scale = descriptors.mean(axis=0), np.maximum(descriptors.std(axis=0), 0.02)
    rng = np.random.default_rng(seed)
    size = len(DESCRIPTORS), _FEATURES
    mixtures = rng.normal(size=size) / np.sqrt(3) * (rng.random(size) < 0.4)
    weights = np.concatenate([mixtures, rng.uniform(-1, 1, (1, _FEATURES))])
    lidar = lidar_evidence(descriptors, location, scale, weights).astype(np.float64)
    image = np.concatenate(
        [
            sample_grid(image_evidence(f.logits), f.logits.shape[1:], f.view.uv[::step])
            for f in frames
        ]
    ).astype(np.float64)
    lidar_mean, image_mean = lidar.mean(axis=0), image.mean(axis=0)
    lidar -= lidar_mean
    image -= image_mean
    n = len(lidar)
    white_lidar = _inverse_root(lidar.T @ lidar / n)
    white_image = _inverse_root(image.T @ image / n)
    left, correlations, right = np.linalg.svd(white_lidar @ (lidar.T @ image / n) @ white_image)
    k = min(_DIMENSIONS, len(correlations))
    # Both sides by the root: directions in which the two say little of each other count little.
    gain = np.sqrt(correlations[:k])
    shifts = _shifts()
    M, S = len(SCAN_STATISTICS), len(shifts)
    edges = np.unique(np.quantile(descriptors[:, 0], [0.25, 0.5, 0.75]))
    return AlignmentReference(
        location=location,
        scale=scale,
        weights=weights,
        lidar_mean=lidar_mean,
        lidar_map=white_lidar @ left[:, :k] * gain,
        image_mean=image_mean,
        image_map=white_image @ right[:k].T * gain,
        range_edges=edges,
        height_edges=np.array(_HEIGHT_EDGES),
        shifts=shifts,
        value_location=np.zeros(()),
        value_spread=np.ones(()),
        value_drift=np.zeros(()),
        sides=np.zeros((4, S)),
        side_location=np.zeros(4),
        side_spread=np.ones(4),
        side_drift=np.zeros(4),
        side_degrees=np.ones(4),
        scan_location=np.zeros(M),
        scan_spread=np.ones(M),
    )


def _inverse_root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values, 0) + _RIDGE * max(float(values.mean()), 1e-12)
    return vectors / np.sqrt(values) @ vectors.T


def _judged(
    maps: AlignmentReference,
    curves: np.ndarray,
    folds: np.ndarray,
    frames: Sequence[AlignedFrame],
) -> AlignmentReference:
    """Add what judges, from curves (N, P, S) of frames that their maps were not fitted on."""
    value = curves[:, 0, 0]
    value_mean, value_sd, value_drift = _spreads(value, folds)
    sides, location, spread, drift, degrees = [], [], [], [], []
    for side, (yaw, pitch) in enumerate(_SIDES):
        plus, minus = curves[:, 1 + side], curves[:, 1 + len(_SIDES) + side]
        weights = _discriminant(plus, minus, curves[:, 0])
        mean, sd, between = _spreads(curves[:, 0] @ weights, folds)
        # Points turned right agree better when they are turned back to the left.
        response = float((minus - plus).mean(axis=0) @ weights) / 2
        sides.append(weights)
        location.append(mean)
        spread.append(sd)
        drift.append(max(between, _LEAST_PITCH_DRIFT) if pitch else between)
        degrees.append(max(yaw, pitch) / max(response, 1e-9))
    statistics = np.stack([f.view.statistics for f in frames])
    return replace(
        maps,
        value_location=np.asarray(value_mean),
        value_spread=np.asarray(value_sd),
        value_drift=np.asarray(value_drift),
        sides=np.stack(sides),
        side_location=np.array(location),
        side_spread=np.array(spread),
        side_drift=np.array(drift),
        side_degrees=np.array(degrees),
        scan_location=statistics.mean(axis=0),
        scan_spread=np.maximum(statistics.std(axis=0), _SCAN_FLOORS),
    )


def _spreads(values: np.ndarray, folds: np.ndarray) -> tuple[float, float, float]:
    """Mean, standard deviation, and that between drives in units of the whole one."""
    by_drive = [values[folds == fold] for fold in np.unique(folds)]
    # What remains of the means' variance when that of so many frames is taken away.
    between = float(np.var([v.mean() for v in by_drive], ddof=1))
    within = float(np.mean([v.var() / len(v) for v in by_drive]))
    sd = max(float(values.std()), 1e-9)
    drift = float(np.sqrt(max(between - within, 0.0))) / sd
    return float(values.mean()), sd, max(drift, _LEAST_DRIFT)


def _discriminant(plus: np.ndarray, minus: np.ndarray, plain: np.ndarray) -> np.ndarray:
    """Fisher's linear discriminant between turned right and turned left, (S,); right is negative.

    The weights are blind to the curve's level: what a bad camera changes first says no side.
    """
    # Differences to the unshifted value carry everything about sides and nothing of the level.
    within = np.mean([np.cov((x - x[:, :1])[:, 1:].T) for x in (plus, minus, plain)], axis=0)
    apart = ((minus - minus[:, :1]) - (plus - plus[:, :1])).mean(axis=0)[1:]
    within = within + 0.02 * np.trace(within) / len(within) * np.eye(len(within))
    weights = np.linalg.solve(within, apart)
    weights /= max(float(np.linalg.norm(weights)), 1e-12)
    return np.concatenate([[-weights.sum()], weights])
