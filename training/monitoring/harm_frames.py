# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Labelled frames as the fit of the expected mIoU reads them, and windows drawn from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clcp_ros.errors import ModelError
from clcp_ros.monitor.harm import Window, soft_counts, tap_scores
from clcp_ros.monitor.reference import ShiftReference
from clcp_ros.replay_scores import mean_iou
from training.monitoring.columns import Columns
from training.monitoring.samples import Samples

SIZES = (1, 5, 20)
"""Frames in a window for which intervals are fitted."""

_WINDOWS = 12  # of each size and tag
_CLEAN_SHARE = 0.2  # of the weight of all windows: no drop where nothing is wrong


@dataclass(frozen=True)
class HarmFrames(Columns):
    """Labelled frames, reduced to what the fit reads.

    Attributes:
        drive: (N,) str.
        stamp_ns: (N,) int64.
        tag: (N,) str, condition or `family:severity`.
        counts: (N, C, C + 1) float64 from `soft_counts`.
        taps: (N, 3) float64 from `tap_scores`.
        confusion: (N, C, C + 1) int64 from `confusion_matrix`.
    """

    drive: np.ndarray
    stamp_ns: np.ndarray
    tag: np.ndarray
    counts: np.ndarray
    taps: np.ndarray
    confusion: np.ndarray

    @property
    def family(self) -> np.ndarray:
        """(N,) str: the tag without its severity."""
        return np.array([str(tag).partition(':')[0] for tag in self.tag], dtype=np.str_)

    def window(self, rows: np.ndarray) -> Window:
        """Some of the frames, taken together."""
        return Window(self.counts[rows].mean(axis=0), self.taps[rows].mean(axis=0), len(rows))


def fit_temperature(samples: Samples) -> float:
    """The temperature that makes the mean confidence equal the accuracy.

    Labels are needed only as confusion matrices, which is why this is not the maximum of the
    likelihood (Guo et al. 2017); both right the confidence's mean.

    Args:
        samples: Labelled frames with logits.

    Returns:
        Within 0.2 and 8; 1 where nothing is labelled.
    """
    if samples.logits is None or samples.confusion is None or not samples.confusion.any():
        return 1.0
    confusion = samples.confusion.sum(axis=0)
    accuracy = float(np.trace(confusion) / confusion.sum())
    # A few frames say as much of one number as all of them.
    rows = np.unique(np.linspace(0, len(samples) - 1, 100).round().astype(int))
    logits = samples.logits[rows].astype(np.float32)
    logits -= logits.max(axis=1, keepdims=True)
    low, high = np.log(0.2), np.log(8.0)
    for _ in range(20):
        middle = (low + high) / 2
        confidence = float((1 / np.exp(logits / np.float32(np.exp(middle))).sum(axis=1)).mean())
        low, high = (middle, high) if confidence > accuracy else (low, middle)
    return float(np.exp((low + high) / 2))


def reduce_frames(
    samples: Samples, temperature: float, novelty: ShiftReference | None = None
) -> HarmFrames:
    """Reduce labelled frames to what the fit reads; those without a label are left out.

    Args:
        samples: Frames with logits.
        temperature: From `fit_temperature`.
        novelty: Scores the taps; zeros without it.

    Raises:
        ModelError: There are no logits.
    """
    if samples.logits is None:
        raise ModelError('the fit of the expected mIoU needs logits; collect them')
    rows = np.flatnonzero(samples.labelled)
    classes = samples.scene.shape[1]
    counts, taps = np.zeros((len(rows), classes, classes + 1)), np.zeros((len(rows), 3))
    for i, row in enumerate(rows):
        counts[i] = soft_counts(samples.logits[row], temperature)
        if novelty is not None:
            score = novelty.score(samples.low[row], samples.features(int(row)), samples.scene[row])
            taps[i] = tap_scores(score)
    confusion = samples.confusion
    if confusion is None:
        confusion = np.zeros((len(samples), classes, classes + 1), np.int64)
    return HarmFrames(
        samples.drive[rows], samples.stamp_ns[rows], samples.tag[rows], counts, taps,
        confusion[rows],
    )  # fmt: skip


@dataclass(frozen=True)
class Windows:
    """Drawn windows.

    Attributes:
        windows: W of them.
        miou: (W,) what the labels say.
        size: (W,) frames that were asked for, one of `SIZES`.
        family: (W,) str, empty for the source.
        weight: (W,).
        held: (W, C) bool, classes that the labels hold.
    """

    windows: list[Window]
    miou: np.ndarray
    size: np.ndarray
    family: np.ndarray
    weight: np.ndarray
    held: np.ndarray


def _draw_runs(
    frames: HarmFrames, rng: np.random.Generator, most: int = _WINDOWS
) -> list[tuple[int, np.ndarray]]:
    """Windows of frames that follow each other, inside a drive where it has enough.

    Returns:
        The size that was asked for and the rows, which are fewer where there are not so many.
    """
    order = np.lexsort((frames.stamp_ns, frames.drive))
    drives = [order[frames.drive[order] == drive] for drive in np.unique(frames.drive)]
    found = []
    for size in SIZES:
        runs = [rows for rows in drives if len(rows) >= size] or [order]
        starts = [rows[i : i + size] for rows in runs for i in range(max(1, len(rows) - size + 1))]
        chosen = rng.permutation(len(starts))[:most]
        found += [(size, starts[i]) for i in chosen]
    return found


def draw_windows(clean: HarmFrames, degraded: HarmFrames, seed: int) -> Windows:
    """Draw windows of every size, of the source and of each tag.

    Args:
        clean: Of the source; twice as many of them.
        degraded: Under corruptions.
        seed: Of the choice.

    Returns:
        Windows whose weights are equal for all tags, and a fixed share for the source.
    """
    rng = np.random.default_rng(seed)
    windows, miou, sizes, families, weights, held = [], [], [], [], [], []
    tags = sorted(set(degraded.tag.tolist()))
    sets = [('', clean, 2 * _WINDOWS)]
    sets += [(tag.partition(':')[0], degraded.take(degraded.tag == tag), _WINDOWS) for tag in tags]
    for family, frames, most in sets:
        drawn = _draw_runs(frames, rng, most)
        share = _CLEAN_SHARE if family == '' else (1 - _CLEAN_SHARE) / max(len(tags), 1)
        for size, rows in drawn:
            confusion = frames.confusion[rows].sum(axis=0)
            value = mean_iou(confusion)
            if not np.isfinite(value):
                continue
            windows.append(frames.window(rows))
            held.append(confusion.any(axis=1))
            miou.append(value)
            sizes.append(size)
            families.append(family)
            weights.append(share / sum(1 for other, _ in drawn if other == size))
    weight = np.array(weights)
    return Windows(
        windows, np.array(miou), np.array(sizes), np.array(families, dtype=np.str_),
        weight * len(weight) / weight.sum(), np.array(held),
    )  # fmt: skip
