# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What image and lidar say of places, and how well pairs of such evidence agree."""

from __future__ import annotations

import numpy as np

_FLOOR = 8.0  # of log posteriors: how certain a network is says little beyond that


def image_evidence(logits: np.ndarray) -> np.ndarray:
    """What the segmenter says at every place of its grid.

    Args:
        logits: (C, h, w) float.

    Returns:
        (h w, 3 C) float32: log posteriors less their mean, floored, and by how much they change
        across and down.
    """
    logits = np.asarray(logits, np.float32)
    count, height, width = logits.shape
    shifted = np.maximum(logits - logits.max(axis=0), -_FLOOR)
    log_p = shifted - shifted.mean(axis=0)
    padded = np.pad(log_p, ((0, 0), (1, 1), (1, 1)), mode='edge')
    across = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    down = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    return np.concatenate([log_p, across, down]).reshape(3 * count, height * width).T


def lidar_evidence(
    descriptors: np.ndarray, location: np.ndarray, scale: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Fixed random nonlinear features of descriptors.

    Args:
        descriptors: (N, D).
        location: (D,).
        scale: (D,).
        weights: (D + 1, F); the last row is added.

    Returns:
        (N, D + F) float32: standardised descriptors, and what rises above 0 of their mixtures.
    """
    x = np.clip((descriptors - location) / scale, -4, 4).astype(np.float32)
    mixed = x @ weights[:-1].astype(np.float32) + weights[-1].astype(np.float32)
    return np.concatenate([x, np.maximum(mixed, 0)], axis=1)


class ShuffledPairs:
    """Mean cosines of pairs, and of all pairs that a shuffle within bins could make.

    Args:
        points: (N, k) unit vectors of the points, those of a bin together.
        starts: First point of each bin.
    """

    def __init__(self, points: np.ndarray, starts: np.ndarray) -> None:
        self._points, self._starts = points, starts
        self._count = np.diff(starts, append=len(points)).astype(np.float64)
        self._sums = np.add.reduceat(points, starts, axis=0)

    def agreement(self, image: np.ndarray) -> float:
        """Mean cosine of the pairs less that of other pairs of the same bins.

        The mean over all shuffles is known in closed form, so nothing is drawn.

        Args:
            image: (N, k) unit vectors of the image, in the same order.
        """
        own = np.add.reduceat(np.einsum('ij,ij->i', self._points, image), self._starts)
        sums = np.add.reduceat(image, self._starts, axis=0)
        n = self._count
        many = n > 1
        others = (np.einsum('ij,ij->i', self._sums, sums) - own)[many] / (n[many] - 1)
        return float((own[many] - others).sum(dtype=np.float64) / len(image))


def mapped(evidence: np.ndarray, mean: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Evidence (N, D) in the common space, (N, k) float32: its difference to the mean, weighed."""
    # float32 halves the time of all that follows.
    return (evidence - mean.astype(np.float32)) @ weights.astype(np.float32)


def unit(x: np.ndarray) -> np.ndarray:
    """Rows of length one; zeros stay zeros."""
    return x / (np.sqrt(np.einsum('ij,ij->i', x, x)) + 1e-6)[:, None]


def sample_grid(grid: np.ndarray, shape: tuple[int, ...], uv: np.ndarray) -> np.ndarray:
    """Values of a grid between its places, bilinear; the border goes on outside.

    Args:
        grid: (h w, k).
        shape: h, w.
        uv: (N, 2) places, 0 to 1 from edge to edge.

    Returns:
        (N, k).
    """
    height, width = shape
    x = np.clip(uv[:, 0] * width - np.float32(0.5), 0, width - 1)
    y = np.clip(uv[:, 1] * height - np.float32(0.5), 0, height - 1)
    left, top = np.minimum(x.astype(np.intp), max(width - 2, 0)), y.astype(np.intp)
    top = np.minimum(top, max(height - 2, 0))
    right, down = min(1, width - 1), width * min(1, height - 1)
    at = top * width + left
    a, b = (x - left)[:, None], (y - top)[:, None]
    upper = grid[at] * (1 - a) + grid[at + right] * a
    lower = grid[at + down] * (1 - a) + grid[at + down + right] * a
    return upper * (1 - b) + lower * b
