# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Distances of a frame's description from the training frames, by several definitions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from clcp_ros.monitor.arrays import numbers, positive

_CLIP = 30.0  # of a standardised channel: one dead channel must not decide alone
_DIRECTION_CLIP = 10.0
_TINY = 1e-12
_LEAST_COSINE = 1e-6  # distance below which float32 cannot tell two frames apart


@dataclass(frozen=True)
class Gaussian:
    """A Gaussian with a low-rank covariance plus isotropic residual (Tipping and Bishop 1999).

    D channels, k components.

    Attributes:
        mean: (D,) of the training frames.
        scale: (D,) standard deviation, floored.
        components: (k, D) orthonormal directions of standardised channels.
        variances: (k,) along the components.
        residual_variance: () per channel, off the components.
        unit: Whether frames are L2-normalised first.
    """

    mean: np.ndarray
    scale: np.ndarray
    components: np.ndarray
    variances: np.ndarray
    residual_variance: np.ndarray
    unit: bool = False

    @property
    def channels(self) -> int:
        """Length of a frame's description."""
        return self.mean.size

    def log_distance(self, x: np.ndarray) -> float:
        """Logarithm of the Mahalanobis distance per channel.

        Args:
            x: (D,) a frame's description at this tap.

        Returns:
            log(sqrt(d² / D)).
        """
        x = normalized(x) if self.unit else x.astype(np.float64)
        z = ((x - self.mean) / self.scale).clip(-_CLIP, _CLIP)
        along = self.components @ z
        residual = max(float(z @ z - along @ along), 0.0)
        squared = float(np.add.reduce(along**2 / self.variances))
        squared += residual / float(self.residual_variance)
        return 0.5 * float(np.log(squared / z.size + _TINY))

    def arrays(self) -> dict[str, np.ndarray]:
        """The attributes."""
        return {
            'mean': self.mean, 'scale': self.scale, 'components': self.components,
            'variances': self.variances, 'residual_variance': self.residual_variance,
            'unit': np.asarray(self.unit),
        }  # fmt: skip

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Gaussian:
        """Undo `arrays`; raises KeyError or ValueError on nonsense."""
        mean = numbers(arrays, 'mean', (None,))
        components = numbers(arrays, 'components', (None, mean.size))
        return cls(
            mean=mean,
            scale=positive(arrays, 'scale', mean.shape),
            components=components,
            variances=positive(arrays, 'variances', components.shape[:1]),
            residual_variance=positive(arrays, 'residual_variance', ()),
            unit=bool(numbers(arrays, 'unit', ())),
        )


@dataclass(frozen=True)
class Neighbours:
    """Training frames themselves: the distance is that of the k-th nearest (Sun et al. 2022).

    Attributes:
        coreset: (M, D) float16, L2-normalised frames that stand for all.
        rank: Which neighbour, 1 for the nearest.
    """

    coreset: np.ndarray
    rank: int
    _rows: np.ndarray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Most processors emulate float16. What rounding took from a row is given back: a distance
        # between neighbours is the small difference of two numbers near 1.
        rows = self.coreset.astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True) + _TINY
        object.__setattr__(self, '_rows', rows)

    @property
    def channels(self) -> int:
        """Length of a frame's description."""
        return self.coreset.shape[1]

    def log_distance(self, x: np.ndarray) -> float:
        """Logarithm of the cosine distance of the k-th nearest training frame.

        Args:
            x: (D,) a frame's description at this tap.

        Returns:
            log(1 - cosine).
        """
        similarity = self._rows @ normalized(x).astype(np.float32)
        place = similarity.size - self.rank
        distance = 1.0 - float(np.partition(similarity, place)[place])
        return float(np.log(max(distance, 0.0) + _LEAST_COSINE))

    def arrays(self) -> dict[str, np.ndarray]:
        """The attributes."""
        return {'coreset': self.coreset, 'rank': np.asarray(self.rank)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Neighbours:
        """Undo `arrays`; raises KeyError or ValueError on nonsense."""
        coreset = numbers(arrays, 'coreset', (None, None))
        rank = int(numbers(arrays, 'rank', ()))
        if not 1 <= rank <= len(coreset):
            raise ValueError(f'neighbour {rank} of {len(coreset)} frames')
        return cls(coreset.astype(np.float16), rank)


@dataclass(frozen=True)
class Direction:
    """Where degraded frames lie: log odds of a logistic regression against nominal ones.

    A distance looks all around and so needs a large one; who knows where to look sees more. The
    degraded frames are synthetic, which is why this never stands alone.

    Attributes:
        mean: (D,) of nominal frames.
        scale: (D,) standard deviation, floored.
        weights: (D,) log odds for each standard deviation.
    """

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray

    @property
    def channels(self) -> int:
        """Length of a frame's description."""
        return self.mean.size

    def log_distance(self, x: np.ndarray) -> float:
        """Log odds, up to a constant, that a frame is degraded.

        Args:
            x: (D,) a frame's description at this tap.
        """
        z = (x.astype(np.float64) - self.mean) / self.scale
        return float(z.clip(-_DIRECTION_CLIP, _DIRECTION_CLIP) @ self.weights)

    def arrays(self) -> dict[str, np.ndarray]:
        """The attributes."""
        return {'mean': self.mean, 'scale': self.scale, 'weights': self.weights}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Direction:
        """Undo `arrays`; raises KeyError or ValueError on nonsense."""
        mean = numbers(arrays, 'mean', (None,))
        return cls(
            mean, positive(arrays, 'scale', mean.shape), numbers(arrays, 'weights', mean.shape)
        )


Measure = Gaussian | Neighbours | Direction
"""A distance from the training frames."""


def measure_from_arrays(arrays: Mapping[str, np.ndarray]) -> Measure:
    """The measure that these arrays are of; raises KeyError or ValueError on nonsense."""
    if 'coreset' in arrays:
        return Neighbours.from_arrays(arrays)
    if 'weights' in arrays:
        return Direction.from_arrays(arrays)
    return Gaussian.from_arrays(arrays)


def normalized(features: np.ndarray) -> np.ndarray:
    """L2-normalise features, which makes Mahalanobis distances comparable (Müller & Hein 2025).

    Args:
        features: (D,) any float type.

    Returns:
        (D,) float64.
    """
    x = features.astype(np.float64)
    return x / (math.sqrt(x @ x) + _TINY)
