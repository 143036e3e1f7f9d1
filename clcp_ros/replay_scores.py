# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Masks against labels and against each other: confusion, mIoU, agreement, shares."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from clcp_ros.classes import UNLABELLED

_FOREIGN = 254
"""A class that the other class set does not have; agrees with nothing."""


def confusion_matrix(mask: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Count pixels by label and prediction.

    Args:
        mask: (h, w) uint8 class ids; resized to the labels' size when it differs.
        labels: (H, W) uint8 class ids; ids outside the class set are left out.
        classes: Number of classes C.

    Returns:
        (C, C + 1) int64, rows are labels; the last column counts predictions that are no class.
    """
    mask = _resized(mask, labels.shape)
    # A last column for pixels that were not given a class: they count against the label.
    predicted = np.minimum(mask, classes).astype(np.int64)
    known = labels < classes
    index = labels[known].astype(np.int64) * (classes + 1) + predicted[known]
    counts = np.bincount(index, minlength=classes * (classes + 1))
    return counts.reshape(classes, classes + 1)


def class_iou(confusion: np.ndarray) -> np.ndarray:
    """IoU of each class that the labels contain.

    Args:
        confusion: (C, C + 1) from `confusion_matrix`, or a sum of such.

    Returns:
        (C,) float64 in [0, 1]; NaN for a class without a label.
    """
    classes = confusion.shape[0]
    hit = np.diagonal(confusion)[:classes].astype(np.float64)
    rows = confusion.sum(axis=1)
    union = rows + confusion[:, :classes].sum(axis=0) - hit
    return np.divide(hit, union, out=np.full(classes, np.nan), where=rows > 0)


def mean_iou(confusion: np.ndarray) -> float:
    """Mean IoU over the classes that the labels contain.

    Args:
        confusion: (C, C + 1) from `confusion_matrix`, or a sum of such.

    Returns:
        In [0, 1]; NaN without labels.
    """
    iou = class_iou(confusion)
    return float(np.nanmean(iou)) if np.isfinite(iou).any() else math.nan


def class_shares(mask: np.ndarray, classes: int) -> np.ndarray:
    """Share of the pixels of each class.

    Args:
        mask: (H, W) uint8 class ids.
        classes: Number of classes C.

    Returns:
        (C + 1,) float64; the last is of pixels that were given none.
    """
    counts = np.bincount(mask.ravel(), minlength=256)
    shares = np.append(counts[:classes], counts[classes:].sum())
    return shares / max(mask.size, 1)


def class_table(source: Sequence[str], target: Sequence[str]) -> np.ndarray:
    """Look-up table between class sets by the classes' names.

    Args:
        source: Names of the ids that are looked up.
        target: Names of the ids that are found.

    Returns:
        (256,) uint8: the target's id, 254 for a class that the target does not have, and 255
        (unlabelled) for everything else.
    """
    return id_table(dict(enumerate(source)), target)


def id_table(source: Mapping[int, str], target: Sequence[str]) -> np.ndarray:
    """As `class_table`, of names by id."""
    table = np.full(256, UNLABELLED, np.uint8)
    for number, name in source.items():
        if 0 <= number < UNLABELLED:
            table[number] = target.index(name) if name in target else _FOREIGN
    return table


def agreement(first: np.ndarray, second: np.ndarray) -> float:
    """Share of pixels of one class, among those that both masks give a class.

    Args:
        first: (H, W) uint8 class ids.
        second: (h, w) uint8 ids of the same class set; resized when its size differs.

    Returns:
        In [0, 1]; NaN where no pixel has two classes.
    """
    second = _resized(second, first.shape)
    both = (first != UNLABELLED) & (second != UNLABELLED)
    total = np.count_nonzero(both)
    return float(np.count_nonzero((first == second) & both) / total) if total else math.nan


def _resized(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if mask.shape == shape:
        return mask
    # Exactly the nearest pixel's centre; plain INTER_NEAREST looks half a pixel aside.
    resized = cv2.resize(mask, shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(resized, np.uint8)
