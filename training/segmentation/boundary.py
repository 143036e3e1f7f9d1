# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Boundary IoU (Cheng et al., CVPR 2021): IoU of the bands along the inside of the contours.

It answers what mIoU hides: whether edges and thin things are right, and not only large areas.
"""

from __future__ import annotations

import cv2
import numpy as np

from clcp_ros.classes import UNLABELLED
from training.segmentation.metrics import count_pairs

BAND_FRACTION = 0.02
"""Width of the band relative to the image's diagonal, as published."""

_NOWHERE = 254
"""An id that is no class, and not the unlabelled one."""


class BoundaryScore:
    """Boundary IoU over a data set, one ratio of sums per class.

    Args:
        num_classes: Number of classes, C.
        fraction: Width of the band relative to the image's diagonal.
    """

    def __init__(self, num_classes: int, fraction: float = BAND_FRACTION) -> None:
        self.num_classes = num_classes
        self.fraction = fraction
        self.intersection = np.zeros(num_classes, np.int64)
        self.union = np.zeros(num_classes, np.int64)

    def update(self, prediction: np.ndarray, label: np.ndarray) -> None:
        """Add one image.

        Args:
            prediction: (H, W) uint8 class ids.
            label: (H, W) uint8 class ids; 255 is left out, of both.
        """
        width = band_width(label.shape[0], label.shape[1], self.fraction)
        guess = np.where(label == UNLABELLED, label, prediction)
        # 1: in the label's band, 2: in the prediction's, 4: of the same class in both.
        kind = bands(label, width).astype(np.uint8)
        kind |= bands(guess, width).astype(np.uint8) << 1
        kind |= (label == guess).astype(np.uint8) << 2
        by_label, by_guess = (count_pairs(ids, kind)[: self.num_classes] for ids in (label, guess))
        both = by_label[:, 7]
        truth, guessed = by_label[:, 1:8:2].sum(1), by_guess[:, [2, 3, 6, 7]].sum(1)
        self.intersection += both
        self.union += truth + guessed - both

    def __iadd__(self, other: BoundaryScore) -> BoundaryScore:
        self.intersection += other.intersection
        self.union += other.union
        return self

    def iou(self) -> np.ndarray:
        """(C,) float64 in [0, 1]; NaN for a class in neither labels nor predictions."""
        return np.divide(
            self.intersection, self.union,
            out=np.full(self.num_classes, np.nan), where=self.union > 0,
        )  # fmt: skip

    def miou(self) -> float:
        """Mean over the classes that occur, in [0, 1]; NaN when nothing was labelled."""
        iou = self.iou()
        return float(np.nanmean(iou)) if not np.isnan(iou).all() else float('nan')


def band_width(height: int, width: int, fraction: float = BAND_FRACTION) -> int:
    """Pixels of the band of an image, at least one.

    Args:
        height: Of the image.
        width: Of the image.
        fraction: Of the diagonal.
    """
    return max(1, round(fraction * float(np.hypot(height, width))))


def band(mask: np.ndarray, width: int) -> np.ndarray:
    """The pixels of a mask within some distance of its contour.

    Args:
        mask: (H, W) uint8, 0 or 1. Beyond the image's border there is nothing of the mask.
        width: In pixels, by the larger of both axes (as `width` erosions by 3 x 3 remove).

    Returns:
        (H, W) bool.
    """
    return bands(mask, width) & (mask > 0)


def bands(ids: np.ndarray, width: int) -> np.ndarray:
    """The pixels within some distance of the contour of their class, of all classes at once.

    Args:
        ids: (H, W) uint8. Beyond the image's border there is no class.
        width: In pixels, by the larger of both axes (as `width` erosions by 3 x 3 remove).

    Returns:
        (H, W) bool.
    """
    padded = cv2.copyMakeBorder(ids, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=_NOWHERE)
    around = np.ones((3, 3), np.uint8)
    contour = (cv2.erode(padded, around) != cv2.dilate(padded, around)).astype(np.uint8)
    # Something else within `width` of a pixel is a contour within `width - 1`.
    size = 2 * width - 1
    near = cv2.boxFilter(
        contour, cv2.CV_32S, (size, size), normalize=False, borderType=cv2.BORDER_CONSTANT
    )
    return near[1:-1, 1:-1] > 0
