# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What is in view, and what novelty is to be expected of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from clcp_ros.monitor.arrays import numbers


@dataclass(frozen=True)
class SceneModel:
    """What novelty is to be expected of what is in view: an avenue differs from a tunnel.

    A linear function of the shares of the classes, fitted on held-out drives. Shares are limited
    to what was seen there, and so is the result: a mask that is nonsense because the camera is
    blind must not explain the blindness away.

    Attributes:
        weights: (C,) novelty per share.
        mean: (C,) shares of nominal frames.
        least: (C,) smallest shares of nominal frames.
        largest: (C,) largest shares.
        range: (2,) least and largest result on nominal frames.
    """

    weights: np.ndarray
    mean: np.ndarray
    least: np.ndarray
    largest: np.ndarray
    range: np.ndarray

    def expected(self, shares: np.ndarray) -> float:
        """Novelty that is due to the scene, in standard deviations.

        Args:
            shares: (C,) of the classes; what is not finite counts as average.
        """
        shares = np.where(np.isfinite(shares), shares, self.mean)
        seen = np.clip(shares, self.least, self.largest) - self.mean
        return float(np.clip(seen @ self.weights, *self.range))

    def arrays(self) -> dict[str, np.ndarray]:
        """The attributes."""
        return {
            'weights': self.weights, 'mean': self.mean, 'least': self.least,
            'largest': self.largest, 'range': self.range,
        }  # fmt: skip

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> SceneModel:
        """Undo `arrays`; raises KeyError or ValueError on nonsense."""
        weights = numbers(arrays, 'weights', (None,))
        shape = weights.shape
        model = cls(
            weights=weights,
            mean=numbers(arrays, 'mean', shape),
            least=numbers(arrays, 'least', shape),
            largest=numbers(arrays, 'largest', shape),
            range=numbers(arrays, 'range', (2,)),
        )
        if (model.least > model.largest).any() or model.range[0] > model.range[1]:
            raise ValueError('the scene model has an empty range')
        return model


def class_shares(logits: np.ndarray) -> np.ndarray:
    """What is in view, as the model sees it.

    Args:
        logits: (C, h, w) on the decoder's grid.

    Returns:
        (C,) float64, the share of the grid at which each class is the most likely one.
    """
    classes = logits.shape[0]
    counts = np.bincount(logits.reshape(classes, -1).argmax(axis=0), minlength=classes)
    return counts / max(int(counts.sum()), 1)
