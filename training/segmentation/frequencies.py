# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How often each class occurs, and weights that make rare ones count more."""

from __future__ import annotations

import numpy as np

from training.segmentation.frames import FrameSet
from training.segmentation.listing import thinned

FRAMES = 100
"""Labels looked at, spread over the set."""


def class_counts(frames: FrameSet, most: int = FRAMES) -> np.ndarray:
    """Count the pixels of each class.

    Args:
        frames: Labelled frames.
        most: Frames that are read, evenly spread.

    Returns:
        (C,) int64.
    """
    total = np.zeros(len(frames.classes), np.int64)
    for frame in thinned(frames.frames, most):
        total += np.bincount(frames.read_label(frame).ravel(), minlength=256)[: len(total)]
    return total


def report(counts: np.ndarray, names: tuple[str, ...]) -> str:
    """Shares of the labelled pixels in percent, the most frequent first, and what is missing.

    Args:
        counts: (C,) pixels.
        names: Of the classes.
    """
    share = 100 * counts / max(counts.sum(), 1)
    order = np.argsort(-share, kind='stable')
    text = ', '.join(f'{names[i]} {share[i]:.1f}' for i in order if counts[i])
    if missing := [names[i] for i in order if not counts[i]]:
        text += f'; without {", ".join(missing)}'
    return text


def balanced_weights(counts: np.ndarray, power: float, largest: float = 10.0) -> np.ndarray:
    """Weights of a loss by class: frequency to the minus `power`, one on average over pixels.

    Args:
        counts: (C,) pixels of each class.
        power: 0 weighs all pixels alike, 1 all classes; 0.5 lies between.
        largest: Bound relative to the average. A class that does not occur has it, too.

    Returns:
        (C,) float32.
    """
    share = counts / max(counts.sum(), 1)
    with np.errstate(divide='ignore'):
        weights = np.where(share > 0, np.power(np.maximum(share, 1e-12), -power), np.inf)
    average = float((share * np.where(share > 0, weights, 0)).sum()) or 1.0
    return np.minimum(weights / average, largest).astype(np.float32)
