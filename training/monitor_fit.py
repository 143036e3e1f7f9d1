# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Fits what the shift monitor knows of the training domain.

The Gaussians are fitted on training frames; location and spread of the scores on frames of *other*
drives, because frames that a Gaussian was fitted on score better than any new frame.
"""

from __future__ import annotations

import numpy as np
from sklearn.decomposition import PCA

from clcp_ros.errors import ModelError
from clcp_ros.monitor.reference import ShiftReference, TapReference, normalized

MIN_FRAMES = 8
"""Fewest frames, of either kind, that a fit accepts."""


def fit_reference(
    fit: dict[str, np.ndarray],
    held_out: dict[str, np.ndarray],
    model_sha256: str,
    max_components: int = 32,
) -> ShiftReference:
    """Fit the reference.

    Args:
        fit: `low` (N, S), `early` (N, D1) and `deep` (N, D2) of training frames.
        held_out: The same of frames of other in-domain drives, (M, ...).
        model_sha256: Hash of the model that gave the features.
        max_components: Upper limit of the covariance's rank at each tap.

    Returns:
        The reference.

    Raises:
        ModelError: There are too few frames.
    """
    n, m = len(fit['low']), len(held_out['low'])
    if min(n, m) < MIN_FRAMES:
        raise ModelError(
            f'the monitor needs at least {MIN_FRAMES} frames to fit and {MIN_FRAMES} held-out '
            f'frames, got {n} and {m}'
        )
    taps: dict[str, TapReference] = {}
    z = []
    for tap in ('low', 'early', 'deep'):
        x, y = (_described(tap, frames[tap]) for frames in (fit, held_out))
        taps[tap] = _fit_tap(x, y, max_components)
        z.append([taps[tap].z(row) for row in y])
    mean = np.mean(z, axis=0)
    return ShiftReference(
        **taps,
        location=np.asarray(mean.mean()),
        spread=np.asarray(max(float(mean.std()), 0.1)),
        model_sha256=model_sha256,
    )


def _described(tap: str, frames: np.ndarray) -> np.ndarray:
    # Stored features come as float32 batches; scoring normalises each frame on its own.
    rows = frames.astype(np.float64)
    return rows if tap == 'low' else np.stack([normalized(row) for row in rows])


def _fit_tap(x: np.ndarray, held_out: np.ndarray, max_components: int) -> TapReference:
    mean, sd = x.mean(axis=0), x.std(axis=0)
    # Without the floor a nearly dead channel puts nominal frames at hundreds of sd.
    scale = np.maximum(sd, max(0.1 * float(np.median(sd)), 1e-6))
    rank = max(1, min(max_components, len(x) // 4, x.shape[1] - 1))
    pca = PCA(rank, svd_solver='full').fit((x - mean) / scale)
    # A residual variance from a fit with few frames is too small for new frames: floor it, too.
    residual = max(float(pca.noise_variance_), 0.05)
    tap = TapReference(
        mean=mean,
        scale=scale,
        components=pca.components_.astype(np.float32),
        variances=np.maximum(pca.explained_variance_, residual),
        residual_variance=np.asarray(residual),
        location=np.asarray(0.0),
        spread=np.asarray(1.0),
    )
    distances = np.array([tap.log_distance(row) for row in held_out])
    location = np.median(distances)
    spread = max(1.4826 * float(np.median(np.abs(distances - location))), 0.02)
    return TapReference(
        **{**tap.__dict__, 'location': np.asarray(location), 'spread': np.asarray(spread)}
    )
