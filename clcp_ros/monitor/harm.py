# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How good is the segmentation now, without labels?

If the network's probabilities were right, the confusion matrix of its masks would be known in
expectation without any label: a pixel that is called car with probability 0.8 and road with 0.2
adds 0.8 to one cell and 0.2 to another. Such soft confusions of some seconds give an expected IoU
for each class. A shifted network is too sure of itself, so that a map fitted on labelled frames
under many corruptions takes the expected IoU, and how far the frames are from the training domain,
to the mIoU. Its errors on corruptions that it was not fitted on give the interval.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np

from clcp_ros.monitor.reference import FrameScore

FEATURES = (
    'soft_iou', 'soft_iou_present', 'confidence', 'dispersity', 'energy',
    'low', 'early', 'deep', 'log_samples',
)  # fmt: skip
"""What the map to the mIoU may read of a window; see `window_features`."""

MAX_GAP_S = 2.0
_PRESENT = 1e-3  # share of the pixels above which a class counts as present
_Z_LIMIT = 6.0  # sd; beyond it a frame is no more harmful for being farther away


@dataclass(frozen=True)
class Harm:
    """The mIoU that is to be expected of the frames of a window; all numbers are finite.

    Attributes:
        miou: Over the classes that the window shows, in [0, 1].
        low: Lower end of its interval.
        high: Upper end.
        drop: What the source domain gives on the same classes, less `miou`.
        drop_low: Lower end of its interval.
        drop_high: Upper end.
        samples: Frames in the window.
        window_s: Time from the first to the last of them, seconds.
        class_iou: (C,) IoU that is to be expected of each class, in [0, 1].
        class_drop: (C,) the source's IoU less `class_iou`; zero for a class that is absent.
        present: (C,) bool, classes that the window shows.
    """

    miou: float
    low: float
    high: float
    drop: float
    drop_low: float
    drop_high: float
    samples: int
    window_s: float
    class_iou: np.ndarray
    class_drop: np.ndarray
    present: np.ndarray

    def top_classes(self, names: Sequence[str], most: int = 3) -> tuple[tuple[str, float], ...]:
        """The classes that lose most.

        Args:
            names: Of the C classes.
            most: How many.

        Returns:
            Names and drops, the largest first; only classes that lose something.
        """
        order = np.argsort(-self.class_drop, kind='stable')[:most]
        return tuple(
            (names[c], float(self.class_drop[c])) for c in order if self.class_drop[c] > 0
        )


def soft_confusion(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """What the confusion matrix of a frame would be if its probabilities were right.

    Args:
        logits: (C, h, w) any float type, on any grid.
        temperature: That the logits are divided by.

    Returns:
        (C, C) float64 of sum 1: row a, column b is the mean over the grid of the probability of a
        where b is the best class.

    Raises:
        ValueError: The logits are not finite, or have another shape.
    """
    return _soft_counts(logits, temperature)[:, :-1]


def _soft_counts(logits: np.ndarray, temperature: float) -> np.ndarray:
    """(C, C + 1): the soft confusion, and of each predicted class its share of the free energy."""
    if logits.ndim != 3 or 0 in logits.shape:
        raise ValueError(f'logits of shape {logits.shape}, not (C, h, w)')
    classes = len(logits)
    flat = logits.reshape(classes, -1).astype(np.float64)
    if not np.isfinite(flat).all():
        raise ValueError('logits are not finite')
    flat /= temperature
    best, highest = flat.argmax(axis=0), flat.max(axis=0)
    flat -= highest
    np.exp(flat, out=flat)
    total = flat.sum(axis=0)
    flat /= total
    values = np.concatenate([flat, (highest + np.log(total))[None]])
    order = np.argsort(best, kind='stable')
    found, starts = np.unique(best[order], return_index=True)
    counts = np.zeros((classes, classes + 1))
    sums = np.add.reduceat(values[:, order], starts, axis=1) / best.size
    counts[:, found] = sums[:-1]
    counts[found, -1] = sums[-1]
    return counts


def soft_class_iou(confusion: np.ndarray) -> np.ndarray:
    """Expected IoU of each class.

    Args:
        confusion: (C, C) from `soft_confusion`, or a sum or mean of such.

    Returns:
        (C,) float64 in [0, 1]; zero for a class of no probability.
    """
    hit = np.diagonal(confusion)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - hit
    return np.divide(hit, union, out=np.zeros(len(hit)), where=union > 0)


class Window(NamedTuple):
    """The frames of a window, taken together.

    Attributes:
        counts: (C, C + 1) mean of `HarmReference.describe`.
        score: (3,) mean of the taps `low`, `early` and `deep` of the scores, limited to 6 sd.
        samples: Number of frames.
    """

    counts: np.ndarray
    score: np.ndarray
    samples: int


def tap_scores(score: FrameScore) -> np.ndarray:
    """(3,) `low`, `early`, `deep` of a frame as a window averages them.

    Raises:
        ValueError: One of them is not finite.
    """
    z = np.array([score.low, score.early, score.deep], np.float64)
    if not np.isfinite(z).all():
        raise ValueError('the score of the frame is not finite')
    return z.clip(-_Z_LIMIT, _Z_LIMIT)


def window_features(window: Window, expected: np.ndarray) -> np.ndarray:
    """What the map to the mIoU reads.

    Args:
        window: The frames.
        expected: (C,) bool, classes that count.

    Returns:
        (F,) float64, finite, in the order of `FEATURES`.
    """
    counts = window.counts
    confusion = counts[:, :-1]
    iou, present = soft_class_iou(confusion), present_classes(confusion, expected)
    weight = max(float(confusion.sum()), 1e-12)
    # Nuclear norm of the confusion: 1 where all classes are used and sure, 1/C for a single one.
    dispersity = np.linalg.svd(confusion / weight, compute_uv=False).sum()
    return np.array([
        iou[expected].mean() if expected.any() else 0.0,
        iou[present].mean() if present.any() else 0.0,
        np.trace(confusion) / weight, dispersity, counts[:, -1].sum(),
        *window.score, np.log(max(window.samples, 1)),
    ])  # fmt: skip


def present_classes(confusion: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """(C,) bool: expected classes that more than a thousandth of the grid is called."""
    return expected & (confusion.sum(axis=0) > _PRESENT)


@dataclass(frozen=True)
class HarmReference:
    """What is known of the network's quality on its source domain, and under corruptions.

    F features, C classes, L sizes of window.

    Attributes:
        temperature: () that makes the source's confidence equal its accuracy.
        class_iou: (C,) IoU on the source; 0 for a class that was not seen.
        class_soft_iou: (C,) expected IoU there.
        expected: (C,) bool, classes that the labels of the source hold; those that count.
        lowest: (F,) smallest value of each feature that the map was fitted on.
        highest: (F,) largest.
        coefficients: (F,) of the features.
        intercept: ().
        sizes: (L,) frames in a window, ascending.
        margins: (L, 2) what the interval goes below and above the estimates of a window.
    """

    temperature: np.ndarray
    class_iou: np.ndarray
    class_soft_iou: np.ndarray
    expected: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray
    coefficients: np.ndarray
    intercept: np.ndarray
    sizes: np.ndarray
    margins: np.ndarray

    @property
    def miou(self) -> float:
        """Of the source, over the classes that count."""
        return float(self.class_iou[self.expected].mean())

    def describe(self, logits: np.ndarray) -> np.ndarray:
        """What a frame adds to a window.

        Args:
            logits: (C, h, w) any float type, on any grid.

        Returns:
            (C, C + 1) float64, independent of the grid's size: the soft confusion, of sum 1, and a
            last column with each predicted class' share of the free energy.

        Raises:
            ValueError: The logits are not finite, or of another number of classes.
        """
        if logits.ndim != 3 or len(logits) != len(self.expected):
            raise ValueError(f'logits of shape {logits.shape} for {len(self.expected)} classes')
        return _soft_counts(logits, float(self.temperature))

    def estimate(self, window: Window, expected: np.ndarray | None = None) -> Harm:
        """Judge the frames of a window; `Harm.window_s` stays 0.

        Args:
            window: The frames, at least one.
            expected: (C,) bool, classes that the route may show; None for all that count.
        """
        counted = self.expected if expected is None else self.expected & expected
        features = window_features(window, counted).clip(self.lowest, self.highest)
        miou = float((features @ self.coefficients + self.intercept).clip(0, 1))
        below, above = (
            np.interp(np.log(window.samples), np.log(self.sizes), margin)
            for margin in self.margins.T
        )
        present = present_classes(window.counts[:, :-1], counted)
        source = float(self.class_iou[present].mean()) if present.any() else self.miou
        low, high = max(miou - float(below), 0.0), min(miou + float(above), 1.0)
        class_iou = soft_class_iou(window.counts[:, :-1])
        return Harm(
            miou, low, high, source - miou, source - high, source - low, window.samples, 0.0,
            class_iou, np.where(present, self.class_iou - class_iou, 0.0), present,
        )  # fmt: skip

    def arrays(self) -> dict[str, np.ndarray]:
        """The reference as arrays by name."""
        return {field.name: np.asarray(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> HarmReference:
        """Make a reference of what `arrays` gave.

        Raises:
            KeyError: An array is missing.
            ValueError: Shapes or numbers are impossible.
        """
        reference = cls(**{field.name: arrays[field.name] for field in fields(cls)})
        reference._check()
        return reference

    def _check(self) -> None:
        classes, features, sizes = len(self.class_iou), len(FEATURES), len(self.sizes)
        shapes = {
            'temperature': (), 'class_iou': (classes,), 'class_soft_iou': (classes,),
            'expected': (classes,), 'lowest': (features,), 'highest': (features,),
            'coefficients': (features,), 'intercept': (), 'sizes': (sizes,),
            'margins': (sizes, 2),
        }  # fmt: skip
        for name, shape in shapes.items():
            array = getattr(self, name)
            if array.shape != shape:
                raise ValueError(f'{name} has the shape {array.shape}, not {shape}')
            if not np.isfinite(array).all():
                raise ValueError(f'{name} is not finite')


class HarmWindow:
    """The last seconds of one camera.

    Args:
        reference: What is known of the network.
        window_s: Length of the window, seconds.
        max_gap_s: A longer gap between stamps, or a stamp that does not go ahead, starts anew.
        expected: (C,) bool, classes that the route may show; None for all that the source has.

    Raises:
        ValueError: `window_s` or `max_gap_s` is not positive, or `expected` does not fit.
    """

    def __init__(
        self,
        reference: HarmReference,
        window_s: float = 20.0,
        max_gap_s: float = MAX_GAP_S,
        expected: np.ndarray | None = None,
    ) -> None:
        if not window_s > 0 or not max_gap_s > 0:
            raise ValueError('window_s and max_gap_s must be positive')
        if expected is not None and expected.shape != reference.expected.shape:
            raise ValueError(f'{expected.shape} expected classes, not {reference.expected.shape}')
        self.reference = reference
        self._window_ns, self._gap_ns = int(window_s * 1e9), int(max_gap_s * 1e9)
        self._expected = expected
        self.reset()

    def reset(self) -> None:
        """Forget all frames."""
        self._frames: deque[tuple[int, np.ndarray, np.ndarray]] = deque()
        self.harm: Harm | None = None
        """After the last frame; None while there is none."""

    def forget(self, before_ns: int) -> None:
        """Forget the frames before a time: after an abrupt change the old ones say nothing.

        `harm` stays as it is until the next frame.

        Args:
            before_ns: Stamp of the first frame that stays.
        """
        while self._frames and self._frames[0][0] < before_ns:
            self._frames.popleft()

    def update(self, stamp_ns: int, counts: np.ndarray, score: FrameScore) -> Harm:
        """Take in a frame.

        Args:
            stamp_ns: The image's stamp.
            counts: (C, C + 1) from `HarmReference.describe`.
            score: How far the frame is from the training domain.

        Returns:
            What is to be expected of the window.

        Raises:
            ValueError: Something is not finite or has another shape; the window is unchanged.
        """
        classes = len(self.reference.expected)
        if counts.shape != (classes, classes + 1) or not np.isfinite(counts).all():
            raise ValueError(f'counts of shape {counts.shape}, or not finite')
        z = tap_scores(score)
        if self._frames and not 0 < stamp_ns - self._frames[-1][0] <= self._gap_ns:
            self.reset()
        self._frames.append((stamp_ns, counts, z))
        self.forget(stamp_ns - self._window_ns + 1)
        # Summed anew each time: a running sum would drift over hours.
        window = Window(
            np.mean([frame[1] for frame in self._frames], axis=0),
            np.mean([frame[2] for frame in self._frames], axis=0),
            len(self._frames),
        )
        harm = self.reference.estimate(window, self._expected)
        self.harm = replace(harm, window_s=(stamp_ns - self._frames[0][0]) * 1e-9)
        return self.harm
