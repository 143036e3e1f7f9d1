# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Fits what the shift monitor knows of the training domain.

Frames that a Gaussian was fitted on score better than any new frame, and frames of one drive score
alike. Location and spread of the scores therefore come from drives that were left out: each in
turn, or a set of other drives.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.decomposition import PCA

from clcp_ros.errors import ModelError
from clcp_ros.monitor.reference import TAPS, Gaussian, ShiftReference, TapReference, normalized

MIN_FRAMES = 8
"""Fewest frames that a fit, or a calibration, accepts."""

Frames = dict[str, np.ndarray]
"""`low` (N, S), `early` (N, D1) and `deep` (N, D2), one row per frame."""


def fit_reference(
    fit: Frames, held_out: Frames, model_sha256: str, max_components: int = 32
) -> ShiftReference:
    """Fit on some frames, take location and spread of the scores from others.

    Args:
        fit: Training frames.
        held_out: Frames of other drives of the same domain.
        model_sha256: Hash of the model that gave the features.
        max_components: Upper limit of the covariance's rank at each tap.

    Returns:
        The reference.

    Raises:
        ModelError: There are too few frames.
    """
    _require(len(fit['low']), 'to fit the monitor')
    _require(len(held_out['low']), 'held out to calibrate the monitor')
    taps = _fit_taps(fit, max_components)
    return _calibrated(taps, _distances(taps, held_out), model_sha256)


def fit_reference_by_drive(
    frames: Frames, drives: Sequence[str], model_sha256: str, max_components: int = 32
) -> ShiftReference:
    """Fit on all frames, take location and spread from each drive left out in turn.

    Args:
        frames: Training frames, N of them.
        drives: The drive of each frame, (N,); at least two different ones.
        model_sha256: Hash of the model that gave the features.
        max_components: Upper limit of the covariance's rank at each tap.

    Returns:
        The reference.

    Raises:
        ModelError: There are too few frames or drives.
    """
    labels = np.asarray(drives)
    distances = []
    for drive in dict.fromkeys(drives):
        own = labels == drive
        _require(int((~own).sum()), f'beside {drive} to fit the monitor')
        taps = _fit_taps({tap: rows[~own] for tap, rows in frames.items()}, max_components)
        distances.append(_distances(taps, {tap: rows[own] for tap, rows in frames.items()}))
    return _calibrated(_fit_taps(frames, max_components), np.concatenate(distances), model_sha256)


def _require(count: int, what: str) -> None:
    if count < MIN_FRAMES:
        raise ModelError(f'at least {MIN_FRAMES} frames are needed {what}, there are {count}')


def _described(tap: str, rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float64)
    return rows if tap == 'low' else np.stack([normalized(row) for row in rows])


def _fit_taps(frames: Frames, max_components: int) -> dict[str, Gaussian]:
    return {
        tap: _fit_tap(_described(tap, frames[tap]), max_components, tap != 'low') for tap in TAPS
    }


def _fit_tap(x: np.ndarray, max_components: int, unit: bool) -> Gaussian:
    mean, sd = x.mean(axis=0), x.std(axis=0)
    # Without the floor a nearly dead channel puts nominal frames at hundreds of sd.
    scale = np.maximum(sd, max(0.1 * float(np.median(sd)), 1e-6))
    rank = max(1, min(max_components, len(x) // 4, x.shape[1] - 1))
    pca = PCA(rank, svd_solver='full').fit((x - mean) / scale)
    # A residual variance from a fit with few frames is too small for new frames: floor it, too.
    residual = max(float(pca.noise_variance_), 0.05)
    return Gaussian(
        mean=mean,
        scale=scale,
        components=pca.components_.astype(np.float32),
        variances=np.maximum(pca.explained_variance_, residual),
        residual_variance=np.asarray(residual),
        unit=unit,
    )


def _distances(taps: dict[str, Gaussian], frames: Frames) -> np.ndarray:
    """(M, taps) log distances."""
    return np.array(
        [
            [taps[tap].log_distance(row) for row in frames[tap]]
            for tap in TAPS
        ]
    ).T  # fmt: skip


def _calibrated(
    taps: dict[str, Gaussian], distances: np.ndarray, model_sha256: str
) -> ShiftReference:
    location = np.median(distances, axis=0)
    # Median and MAD: a single odd frame must not widen the scale of all.
    spread = np.maximum(1.4826 * np.median(np.abs(distances - location), axis=0), 0.02)
    calibrated = {
        tap: TapReference((taps[tap],), location[i : i + 1], spread[i : i + 1])
        for i, tap in enumerate(TAPS)
    }
    novelty = ((distances - location) / spread).clip(*TapReference.Z_RANGE).mean(axis=1)
    return ShiftReference(
        **calibrated,
        location=np.asarray(novelty.mean()),
        spread=np.asarray(max(float(novelty.std()), 0.1)),
        model_sha256=model_sha256,
    )
