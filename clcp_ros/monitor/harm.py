# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How good is the segmentation now, without labels?

If the network's probabilities were right, the confusion matrix of its masks would be known in
expectation without any label: a pixel that is called car with probability 0.8 and road with 0.2
adds 0.8 to one cell and 0.2 to another. Such soft confusions of some seconds give an expected IoU
of each class (compare Borges et al. 2024 for the Dice score). A shifted network is too sure of
itself, so that a map fitted on labelled frames under many corruptions takes the expected IoU, the
confidence and the distance from the training domain to the mIoU. Its errors on corruptions that it
was not fitted on give the interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

from clcp_ros.monitor.reference import FrameScore

FEATURES = ('soft_iou', 'source_iou', 'classes', 'confidence', 'energy', 'deep')
"""What the map to the mIoU reads of a window; see `HarmReference.features`."""

_SHOWN = 1e-3  # share of the grid above which a class counts as shown
_Z_LIMIT = 6.0  # sd; beyond it a frame is no more harmful for being farther away
_LITTLE = 1e-5  # a share of the grid that is none
_FREE = 1e-9


@dataclass(frozen=True)
class Harm:
    """The mIoU that is to be expected of the frames of a window.

    All numbers are finite but `lasting_drop` and `lasting_low`.

    Attributes:
        miou: In [0, 1].
        low: Lower end of its interval.
        high: Upper end.
        drop: What nominal drives give on windows of this size, less `miou`.
        drop_low: Lower end of its interval.
        samples: Frames in the window.
        window_s: Time from the first to the last of them, seconds.
        class_iou: (C,) IoU that is to be expected of each class where it is in view, in [0, 1].
        class_drop: (C,) the source's IoU less `class_iou`, times the probability that the class is
            in view at all: what the class takes from the mIoU.
        shown: (C,) bool, classes that the network finds in the window.
        lasting_drop: What is left of `drop` without the worst seconds of the window, and no more
            than most of the last frames have; NaN where nothing is left or nobody asked, and of an
            estimate that was not made by a `HarmWindow`.
        lasting_low: Lower end of its interval.
    """

    miou: float
    low: float
    high: float
    drop: float
    drop_low: float
    samples: int
    window_s: float
    class_iou: np.ndarray
    class_drop: np.ndarray
    shown: np.ndarray
    lasting_drop: float = math.nan
    lasting_low: float = math.nan

    def top_classes(self, names: Sequence[str], most: int = 3) -> tuple[tuple[str, float], ...]:
        """The classes that lose most.

        Args:
            names: Of the C classes.
            most: How many.

        Returns:
            Names and `class_drop`, the largest first; only classes that lose something.
        """
        order = np.argsort(-self.class_drop, kind='stable')[:most]
        lost = [(names[c], float(self.class_drop[c])) for c in order]
        return tuple((name, drop) for name, drop in lost if drop > 0)


def soft_confusion(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """What the confusion matrix of a frame would be if its probabilities were right.

    Args:
        logits: (C, h, w) any float type, on any grid.
        temperature: That the logits are divided by.

    Returns:
        (C, C) float64 of sum 1: row a, column b is the mean over the grid of the probability of a
        where b is the best class, and zero elsewhere.

    Raises:
        ValueError: The logits are not finite, or have another shape.
    """
    return soft_counts(logits, temperature)[:, :-1]


def soft_counts(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """The soft confusion, and where the free energy is.

    Args:
        logits: (C, h, w) any float type, on any grid.
        temperature: That the logits are divided by.

    Returns:
        (C, C + 1) float64: `soft_confusion`, and for each predicted class the sum of the free
        energies, log-sum-exp of the logits (Liu et al. 2020), over the grid's size.

    Raises:
        ValueError: The logits are not finite, or have another shape.
    """
    if logits.ndim != 3 or 0 in logits.shape:
        raise ValueError(f'logits of shape {logits.shape}, not (C, h, w)')
    classes = len(logits)
    flat = np.asarray(logits.reshape(classes, -1), np.float32)
    if not np.isfinite(flat).all():
        raise ValueError('logits are not finite')
    best, highest = flat.argmax(axis=0), flat.max(axis=0)
    with np.errstate(over='ignore'):  # of the largest floats; a lower limit follows
        share = (flat - highest) / np.float32(temperature)
    # Nothing is below: denormal numbers are slow.
    np.exp(np.maximum(share, np.float32(-80), out=share), out=share)
    total = share.sum(axis=0)
    share /= total
    # Sorted by the best class, sums of neighbours are those of the columns: a product of matrices
    # would be as fast, but its last bits depend on the number of threads.
    order = np.argsort(best, kind='stable')
    found, starts = np.unique(best[order], return_index=True)
    counts = np.zeros((classes, classes + 1))
    counts[:, found] = np.add.reduceat(share[:, order].astype(np.float64), starts, axis=1)
    energy = highest.astype(np.float64) / temperature + np.log(total)
    counts[:, -1] = np.bincount(best, weights=energy, minlength=classes)
    return counts / best.size


def soft_class_iou(confusion: np.ndarray) -> np.ndarray:
    """Expected IoU of each class.

    Args:
        confusion: (C, C) from `soft_confusion`, or a sum or mean of such.

    Returns:
        (C,) float64 in [0, 1]; zero for a class of no probability.
    """
    return _class_iou(confusion, confusion.sum(axis=0), confusion.sum(axis=1))


def _class_iou(confusion: np.ndarray, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    hit = np.diagonal(confusion)
    union = columns + rows - hit
    return np.divide(hit, union, out=np.zeros(len(hit)), where=union > 0)


@dataclass(frozen=True)
class Window:
    """The frames of a window, taken together.

    Attributes:
        counts: (C, C + 1) mean of `HarmReference.describe`.
        taps: (3,) mean of `tap_scores`.
        samples: Number of frames that say something new; frames that follow each other within a
            second count for less.
    """

    counts: np.ndarray
    taps: np.ndarray
    samples: float

    @cached_property
    def confusion(self) -> np.ndarray:
        """(C, C) mean of `soft_confusion`."""
        return self.counts[:, :-1]

    @cached_property
    def probable(self) -> np.ndarray:
        """(C,) mean probability of each class."""
        return np.add.reduce(self.confusion, axis=1)

    @cached_property
    def predicted(self) -> np.ndarray:
        """(C,) share of the grid at which each class is the best."""
        return np.add.reduce(self.confusion, axis=0)

    @cached_property
    def class_iou(self) -> np.ndarray:
        """(C,) from `soft_class_iou`."""
        return _class_iou(self.confusion, self.predicted, self.probable)


def tap_scores(score: FrameScore) -> np.ndarray:
    """What a window averages of a frame's score.

    Args:
        score: Of a frame.

    Returns:
        (3,) `low`, `early`, `deep`, limited to 6 standard deviations.

    Raises:
        ValueError: One of them is not finite.
    """
    z = np.array([score.low, score.early, score.deep], np.float64)
    if not np.isfinite(z).all():
        raise ValueError('the score of the frame is not finite')
    return z.clip(-_Z_LIMIT, _Z_LIMIT)


@dataclass(frozen=True)
class HarmReference:
    """What is known of the network's quality on its source domain, and under corruptions.

    C classes, F features, L sizes of a window.

    Attributes:
        temperature: () that makes the source's confidence equal its accuracy.
        class_iou: (C,) IoU on the source; 0 for a class that its labels do not hold.
        class_soft_iou: (C,) expected IoU there.
        class_rate: (C,) share of the source's frames whose labels hold the class.
        class_share: (C,) mean probability of the class there.
        class_confidence: (C,) mean probability of the class where it is predicted on the source.
        expected: (C,) bool, classes that the labels of the source hold; those that count.
        presence: (4,) coefficients of a logistic regression: is a class in view? Of the log odds
            that `class_rate` gives, the logarithm of its share over `class_share`, that of
            `class_share`, and 1.
        lowest: (F,) smallest value of each feature that the map was fitted on.
        highest: (F,) largest.
        coefficients: (F,) of the features.
        intercept: () of the map's linear part.
        curve: (K, 2) what the linear part gives, strictly ascending, and the mIoU that it stands
            for, which never falls; straight lines between.
        sizes: (L,) frames in a window, ascending, from 1.
        source: (L,) mIoU of nominal drives, as the map sees them, in windows of these sizes; that
            of the labelled frames where there are no such drives.
        margins: (L, 2) how far the interval goes below and above what a window's own uncertainty
            about the classes in view gives.
    """

    temperature: np.ndarray
    class_iou: np.ndarray
    class_soft_iou: np.ndarray
    class_rate: np.ndarray
    class_share: np.ndarray
    class_confidence: np.ndarray
    expected: np.ndarray
    presence: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray
    coefficients: np.ndarray
    intercept: np.ndarray
    curve: np.ndarray
    sizes: np.ndarray
    source: np.ndarray
    margins: np.ndarray

    def describe(self, logits: np.ndarray) -> np.ndarray:
        """What a frame adds to a window.

        Args:
            logits: (C, h, w) any float type, on any grid.

        Returns:
            (C, C + 1) float64 from `soft_counts`, whatever the grid's size.

        Raises:
            ValueError: The logits are not finite, or of another number of classes.
        """
        if logits.ndim != 3 or len(logits) != len(self.expected):
            raise ValueError(f'logits of shape {logits.shape} for {len(self.expected)} classes')
        return soft_counts(logits, float(self.temperature))

    def presence_features(self, window: Window) -> np.ndarray:
        """What tells whether classes are in view.

        Args:
            window: The frames.

        Returns:
            (C, 4) float64, see `presence`.
        """
        rate = (1 - (1 - self.class_rate) ** window.samples).clip(0.02, 0.98)
        features = np.ones((len(rate), 4))
        features[:, 0] = np.log(rate / (1 - rate))
        features[:, 1] = np.log(window.probable + _LITTLE) - self._usual
        features[:, 2] = self._usual
        return features

    def in_view(self, window: Window) -> np.ndarray:
        """How probable it is that labels of the frames would hold each class.

        Args:
            window: The frames.

        Returns:
            (C,) in [0, 1]; zero for classes that do not count.
        """
        odds = (self.presence_features(window) @ self.presence).clip(-30, 30)
        return np.where(self.expected, 1 / (1 + np.exp(-odds)), 0.0)

    def features(self, window: Window, weight: np.ndarray) -> np.ndarray:
        """What the map to the mIoU reads.

        Args:
            window: The frames.
            weight: (C,) from `in_view`.

        Returns:
            (F,) float64, finite, in the order of `FEATURES`: of the classes in view the expected
            IoU, the IoU on the source, and their number; mean confidence and free energy; distance
            of the last features from the training domain.
        """
        total = float(weight.sum())
        return np.array([
            _mean(window.class_iou, weight, total), _mean(self.class_iou, weight, total), total,
            np.trace(window.confusion), window.counts[:, -1].sum(), window.taps[2],
        ])  # fmt: skip

    def estimate(self, window: Window, expected: np.ndarray | None = None) -> Harm:
        """Judge the frames of a window.

        Args:
            window: The frames, at least one.
            expected: (C,) bool, classes that the route may show; None for all that count.

        Returns:
            The estimate, with `samples` rounded and a `window_s` of 0.
        """
        weight = self.in_view(window)
        miou = self._map(window, weight)
        class_iou = self._class_iou(window.class_iou, weight, miou)
        at = np.log(window.samples)
        source = float(np.interp(at, self._log_sizes, self.source))
        shown = self.expected & (window.predicted > _SHOWN)
        if expected is not None:
            everywhere, weight = weight, np.where(expected, weight, 0.0)
            shown = shown & expected
            miou = _mean(class_iou, weight)
            source *= _mean(self.class_iou, weight) / max(_mean(self.class_iou, everywhere), _FREE)
        least, most = self._range(class_iou, weight, shown, miou)
        below, above = (float(np.interp(at, self._log_sizes, margin)) for margin in self._margins)
        low = min(max(least - below, 0.0), miou)
        high = max(min(most + above, 1.0), miou)
        return Harm(
            miou, low, high, source - miou, source - high, round(window.samples), 0.0, class_iou,
            weight * (self.class_iou - class_iou), shown,
        )  # fmt: skip

    def outlook(self, window: Window, expected: np.ndarray | None = None) -> tuple[float, float]:
        """`miou` and `drop` of `estimate`, at less than half of its cost."""
        if expected is not None:
            harm = self.estimate(window, expected)
            return harm.miou, harm.drop
        miou = self._map(window, self.in_view(window))
        source = float(np.interp(np.log(window.samples), self._log_sizes, self.source))
        return miou, source - miou

    @cached_property
    def _usual(self) -> np.ndarray:
        return np.log(self.class_share + _LITTLE)

    @cached_property
    def _silent(self) -> np.ndarray:
        return self.class_soft_iou <= _SHOWN

    @cached_property
    def _log_sizes(self) -> np.ndarray:
        return np.log(self.sizes)

    @cached_property
    def _margins(self) -> np.ndarray:
        return np.ascontiguousarray(self.margins.T)

    @cached_property
    def _curve(self) -> np.ndarray:
        return np.ascontiguousarray(self.curve.T)

    def _map(self, window: Window, weight: np.ndarray) -> float:
        features = self.features(window, weight).clip(self.lowest, self.highest)
        linear = float(features @ self.coefficients + self.intercept)
        return float(np.interp(linear, *self._curve))

    def _class_iou(self, soft: np.ndarray, weight: np.ndarray, miou: float) -> np.ndarray:
        """(C,) IoUs whose weighted mean is the estimated mIoU, as far as none is above 1."""
        kept = np.divide(
            soft, self.class_soft_iou, out=np.zeros(len(soft)), where=self.class_soft_iou > _FREE
        )
        iou = self.class_iou * kept.clip(0.0, 1.0)
        mean = _mean(iou, weight)
        if mean <= _FREE:  # nothing that the source shows is found: spread it as the source does
            iou, mean = self.class_iou, max(_mean(self.class_iou, weight), _FREE)
        return (iou * (miou / mean)).clip(0.0, 1.0)

    def _range(
        self, iou: np.ndarray, weight: np.ndarray, shown: np.ndarray, miou: float
    ) -> tuple[float, float]:
        """The mIoU if all classes of the route are in view, and if only those that are found.

        Classes that are not found on the source either say nothing by not being found.
        """
        everything = _mean(iou, (weight > 0).astype(np.float64))
        found = _mean(iou, weight * (shown | self._silent))
        return min(miou, everything, found), max(miou, everything, found)

    def arrays(self) -> dict[str, np.ndarray]:
        """The reference as arrays by name."""
        return {field.name: np.asarray(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> HarmReference:
        """Make a reference of what `arrays` gave.

        Raises:
            KeyError: An array is missing.
            ValueError: Shapes or numbers are impossible.
        """
        given = {field.name: np.asarray(arrays[field.name]) for field in fields(cls)}
        classes, features = given['class_iou'].size, len(FEATURES)
        sizes = given['sizes'].size
        shapes: dict[str, tuple[int, ...]] = {
            'temperature': (), 'intercept': (), 'sizes': (sizes,), 'source': (sizes,),
            'margins': (sizes, 2), 'presence': (4,), 'curve': (given['curve'].size // 2, 2),
            **dict.fromkeys(('lowest', 'highest', 'coefficients'), (features,)),
        }  # fmt: skip
        for name, array in given.items():
            shape = shapes.get(name, (classes,))
            if array.shape != shape or array.dtype.kind != ('b' if name == 'expected' else 'f'):
                raise ValueError(f'{name} is {array.dtype} of shape {array.shape}, not {shape}')
            if not np.isfinite(array).all():
                raise ValueError(f'{name} is not finite')
        if not sizes or given['sizes'][0] != 1 or (np.diff(given['sizes']) <= 0).any():
            raise ValueError('sizes of windows do not ascend from 1')
        if not given['temperature'] > 0 or not given['expected'].any():
            raise ValueError('the temperature is not positive, or no class counts')
        steps = np.diff(given['curve'], axis=0)
        if not len(given['curve']) or (steps[:, 0] <= 0).any() or (steps[:, 1] < 0).any():
            raise ValueError('the curve of the mIoU does not ascend')
        if (given['lowest'] > given['highest']).any():
            raise ValueError('a feature has an empty range')
        for name in (
            'class_iou',
            'class_soft_iou',
            'class_rate',
            'class_share',
            'class_confidence',
            'source',
        ):
            if given[name].min() < 0 or given[name].max() > 1:
                raise ValueError(f'{name} is not within 0 and 1')
        if given['curve'][:, 1].min() < 0 or given['curve'][:, 1].max() > 1:
            raise ValueError('the curve is not within 0 and 1')
        return cls(**given)


def _mean(values: np.ndarray, weight: np.ndarray, total: float | None = None) -> float:
    """Weighted mean; 0 where nothing has a weight. `total` is the weights' sum where known."""
    if total is None:
        total = float(np.add.reduce(weight))
    return float(values @ weight) / total if total > 0 else 0.0
