# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The confusion matrix and what is computed from it."""

from __future__ import annotations

import cv2
import numpy as np

from clcp_ros.classes import UNLABELLED

LEVELS = 256
_EXACT = 1 << 24
"""OpenCV's counts are float32, which hold integers up to here."""


def count_pairs(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """How often each pair of values occurs in two images.

    Args:
        one: (H, W) uint8.
        other: (H, W) uint8.

    Returns:
        (256, 256) int64: values of `one` x values of `other`.
    """
    first, second = (np.ascontiguousarray(image, np.uint8).reshape(-1) for image in (one, other))
    total = np.zeros((LEVELS, LEVELS), np.int64)
    for start in range(0, len(first), _EXACT):
        part = slice(start, start + _EXACT)
        ranges = [0.0, LEVELS, 0.0, LEVELS]
        found = cv2.calcHist(
            [first[part], second[part]], [0, 1], None, [LEVELS, LEVELS], ranges
        )  # fmt: skip
        total += found.astype(np.int64)
    return total


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

        Raises:
            ValueError: The label has other ids than those.
        """
        pairs = count_pairs(label, prediction)
        if pairs[self.num_classes : UNLABELLED].any():
            raise ValueError(f'a label has ids that are none of the {self.num_classes} classes')
        self.counts[:, :-1] += pairs[: self.num_classes, : self.num_classes]
        self.counts[:, -1] += pairs[: self.num_classes, self.num_classes :].sum(1)

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
