# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Expected calibration error of a segmentation's confidence (Guo et al., ICML 2017)."""

from __future__ import annotations

import numpy as np

from clcp_ros.classes import UNLABELLED
from training.segmentation.metrics import LEVELS, count_pairs

BINS = 15
"""As in the paper."""


class Calibration:
    """How often pixels of a confidence are right, over a data set.

    Counts are kept for each of the 256 levels in which the node publishes its confidence, so that
    what is measured is what a robot gets.
    """

    def __init__(self) -> None:
        self.count = np.zeros(LEVELS, np.int64)
        """(256,) labelled pixels at each level."""

        self.right = np.zeros(LEVELS, np.int64)
        """(256,) of them with the right class."""

    def update(self, prediction: np.ndarray, confidence: np.ndarray, label: np.ndarray) -> None:
        """Add one image.

        Args:
            prediction: (H, W) uint8 class ids.
            confidence: (H, W) uint8, 255 stands for a probability of 1.
            label: (H, W) uint8 class ids; 255 is left out.
        """
        # 0: wrong, 1: right, 2 and 3: unlabelled.
        kind = (prediction == label) | (label == UNLABELLED).astype(np.uint8) << 1
        pairs = count_pairs(confidence, kind)
        self.count += pairs[:, 0] + pairs[:, 1]
        self.right += pairs[:, 1]

    def __iadd__(self, other: Calibration) -> Calibration:
        self.count += other.count
        self.right += other.right
        return self

    def bins(self, bins: int = BINS) -> np.ndarray:
        """Reliability diagram.

        Args:
            bins: Of equal width in confidence.

        Returns:
            (bins, 3) float64: share of the pixels, mean confidence, accuracy; the last two are NaN
            in an empty bin.
        """
        level = np.arange(LEVELS) / (LEVELS - 1)
        # Bins are open at the bottom and closed at the top, as in the paper: (k/B, (k+1)/B].
        position = np.clip(np.ceil(level * bins).astype(int) - 1, 0, bins - 1)
        count, right, confidence = (
            np.bincount(position, weights=w, minlength=bins)
            for w in (self.count, self.right, self.count * level)
        )
        with np.errstate(invalid='ignore', divide='ignore'):
            return np.stack([count / count.sum(), confidence / count, right / count], axis=1)

    def error(self, bins: int = BINS) -> float:
        """Expected calibration error in [0, 1]; NaN when nothing was labelled.

        Args:
            bins: Of equal width in confidence.
        """
        if not self.count.sum():
            return float('nan')
        share, confidence, accuracy = self.bins(bins).T
        return float(np.nansum(share * np.abs(accuracy - confidence)))
