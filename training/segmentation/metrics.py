# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The confusion matrix and what is computed from it."""

from __future__ import annotations

import numpy as np

from clcp_ros.classes import UNLABELLED


class ConfusionMatrix:
    """Counts over a whole data set.

    Args:
        num_classes: Number of classes, C.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        # The last column counts predictions that are no class: they miss, and hit nothing.
        self.counts = np.zeros((num_classes, num_classes + 1), np.int64)
        """(C, C + 1): ground truth x prediction."""

    def update(self, prediction: np.ndarray, label: np.ndarray) -> None:
        """Add one image.

        Args:
            prediction: (H, W) uint8 class ids.
            label: (H, W) uint8 class ids; 255 is left out.
        """
        valid = label != UNLABELLED
        truth = label[valid].astype(np.int64)
        guess = np.minimum(prediction[valid], self.num_classes)
        flat = np.bincount(truth * (self.num_classes + 1) + guess, minlength=self.counts.size)
        self.counts += flat.reshape(self.counts.shape)

    def __iadd__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        self.counts += other.counts
        return self

    def iou(self) -> np.ndarray:
        """Intersection over union of each class.

        Returns:
            (C,) float64 in [0, 1]; NaN for a class in neither labels nor predictions.
        """
        intersection = np.diag(self.counts).astype(np.float64)
        union = self.counts.sum(axis=1) + self.counts[:, :-1].sum(axis=0) - intersection
        return np.divide(
            intersection, union, out=np.full(self.num_classes, np.nan), where=union > 0
        )

    def miou(self) -> float:
        """Mean IoU over the classes that occur, in [0, 1]; NaN when nothing was labelled."""
        iou = self.iou()
        return float(np.nanmean(iou)) if not np.isnan(iou).all() else float('nan')

    def pixel_accuracy(self) -> float:
        """Share of labelled pixels that are right; NaN when nothing was labelled."""
        total = self.counts.sum()
        return float(np.trace(self.counts) / total) if total else float('nan')
