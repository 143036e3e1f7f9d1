# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Fits the label-free estimate of the mIoU: temperature, map, intervals.

It takes labelled frames of the source domain, best of drives that the network was not trained on,
and the same frames under corruptions. What the map's residuals are on corruption families, and on
drives, that it was not fitted on makes the intervals.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression, Ridge

from clcp_ros.errors import ModelError
from clcp_ros.monitor.harm import FEATURES, HarmReference, soft_class_iou
from clcp_ros.monitor.reference import ShiftReference
from clcp_ros.replay_scores import class_iou
from training.monitoring.columns import Columns
from training.monitoring.harm_frames import (
    SIZES,
    HarmFrames,
    Windows,
    draw_windows,
    fit_temperature,
    reduce_frames,
)
from training.monitoring.samples import Samples

__all__ = [
    'SIZES', 'HarmFit', 'HarmFrames', 'fit_frames', 'fit_harm', 'fit_temperature', 'reduce_frames',
]  # fmt: skip

MIN_FRAMES = 8
"""Fewest labelled frames of the source that a fit accepts."""

MIN_FAMILIES = 4
"""Fewest corruption families that tell something of a family that was left out."""

_MIN_HALF = 4  # labelled frames that can be left out
_RIDGE = 0.01  # per window, of standardised features
# A map that may not call a surer network worse, nor a stranger frame better, does nothing wild on
# what it was not fitted on.
_SIGNS = {'soft_iou': 1, 'confidence': 1, 'energy': 1, 'deep': -1}
_KNOTS = 10
_STRAIGHT = np.array([[0.0, 0.0], [1.0, 1.0]])
_ASSUMED_MARGINS = ((0.15, 0.10), (0.12, 0.08), (0.10, 0.06))


@dataclass(frozen=True)
class HarmFit:
    """A fitted reference and how good it is.

    Attributes:
        reference: For the bundle.
        figures: For the monitor card: JSON values by name.
        missing: What could not be fitted, and what was done instead; for people.
    """

    reference: HarmReference
    figures: dict[str, object]
    missing: tuple[str, ...]


def fit_harm(
    clean: Samples,
    degraded: Samples | Iterable[Samples],
    novelty: ShiftReference | None = None,
    confidence: float = 0.9,
    seed: int = 0,
) -> HarmFit:
    """Fit on labelled frames.

    Args:
        clean: Frames of the source domain with logits and labels, best of drives that neither the
            network nor `novelty` has seen; frames without a label are left out.
        degraded: The same under corruptions; `tag` is `family:severity`. Batches are reduced one
            after the other, so that they may be made on the fly; none at all are allowed.
        novelty: Scores the taps; None leaves them out of the map.
        confidence: Of the intervals.
        seed: Of the drawn windows.

    Returns:
        The reference and its figures.

    Raises:
        ModelError: There are too few labelled frames, or they have no logits.
    """
    if clean.logits is None:
        raise ModelError('the fit of the expected mIoU needs logits; collect them')
    labelled = clean.take(clean.labelled)
    if len(labelled) < MIN_FRAMES:
        raise ModelError(
            f'{len(labelled)} labelled frames of the training domain are too few to fit the '
            f'expected mIoU; it takes at least {MIN_FRAMES}, better 100'
        )
    temperature = fit_temperature(labelled)
    batches = [degraded] if isinstance(degraded, Samples) else degraded
    parts = [reduce_frames(batch, temperature, novelty) for batch in batches]
    source = reduce_frames(labelled, temperature, novelty)
    rest = HarmFrames.concat(parts) if parts else source.take(np.zeros(0, int))
    return fit_frames(source, rest, temperature, confidence, seed, novelty is not None)


def fit_frames(
    clean: HarmFrames,
    degraded: HarmFrames,
    temperature: float,
    confidence: float = 0.9,
    seed: int = 0,
    taps: bool = True,
) -> HarmFit:
    """Fit on reduced frames.

    Args:
        clean: Of the source domain.
        degraded: Under corruptions; may be empty.
        temperature: That both were reduced with.
        confidence: Of the intervals.
        seed: Of the drawn windows.
        taps: Whether the taps were scored.

    Returns:
        The reference and its figures.
    """
    missing = _gaps(clean, degraded, taps)
    windows = draw_windows(clean, degraded, seed)
    source = _source(clean, temperature, windows)
    families = sorted(set(degraded.family.tolist()))
    if len(families) < MIN_FAMILIES:
        return HarmFit(_scaled(source), {'families': families}, missing)
    everything = np.ones(len(windows.windows), bool)
    reference = _fitted(source, _features(source, windows), windows, everything)
    figures: dict[str, object] = {
        'temperature': round(temperature, 4),
        'source_miou': round(float(source.source[-1]), 4),
        'families': families,
    }
    held_out = _held_out(clean, degraded, temperature, seed)
    if held_out is None:
        missing += ('the interval: no frames can be left out; it is assumed',)
        return HarmFit(replace(reference, margins=np.array(_ASSUMED_MARGINS)), figures, missing)
    margins = np.array([_margins(held_out, size, confidence) for size in SIZES])
    figures |= _figures(held_out, confidence)
    return HarmFit(replace(reference, margins=margins), figures, missing)


def _gaps(clean: HarmFrames, degraded: HarmFrames, taps: bool) -> tuple[str, ...]:
    """What these frames cannot tell."""
    found = []
    families = set(degraded.family.tolist())
    if len(families) < MIN_FAMILIES:
        found.append(
            f'the map to the mIoU: {len(families)} families of corruptions, not {MIN_FAMILIES}; '
            'the expected IoU is scaled as on the source, and the interval is assumed'
        )
    if not _several_drives(clean):
        found.append(
            f'what another drive is like: no two drives with {_MIN_HALF} labelled frames; halves '
            'in time were left out instead'
        )
    if len(clean) < 2 * SIZES[-1]:
        found.append(
            f'windows of {SIZES[-1]} frames of other drives: {len(clean)} labelled frames, not '
            f'{2 * SIZES[-1]}; windows are smaller'
        )
    if not taps:
        found.append('what the distance from the training domain says: it was not given')
    if unseen := int((~clean.confusion.any(axis=(0, 2))).sum()):
        found.append(f'{unseen} classes that the labels do not hold; they do not count')
    return tuple(found)


def _source(clean: HarmFrames, temperature: float, windows: Windows) -> HarmReference:
    """What the source tells, without a map."""
    confusion = clean.confusion.sum(axis=0)
    soft = clean.counts.mean(axis=0)[:, :-1]
    held = clean.confusion.any(axis=2)
    expected = np.asarray(held.any(axis=0))
    shares, right = soft.sum(axis=0), np.diagonal(soft)
    sizes, nominal = np.array(SIZES, np.float64), windows.family == ''
    none = np.zeros(len(FEATURES))
    reference = HarmReference(
        temperature=np.asarray(temperature, np.float64),
        class_iou=np.nan_to_num(class_iou(confusion)),
        class_soft_iou=soft_class_iou(soft),
        class_rate=held.mean(axis=0),
        class_share=soft.sum(axis=1).clip(0, 1),
        class_confidence=np.divide(
            right, shares, out=np.full(len(right), right.sum()), where=shares > 0
        ).clip(0, 1),
        expected=expected,
        presence=np.array([1.0, 0.0, 0.0, 0.0]),
        lowest=none,
        highest=none,
        coefficients=none,
        intercept=np.asarray(0.0),
        curve=_STRAIGHT,
        sizes=sizes,
        source=np.array([windows.miou[nominal & (windows.size == size)].mean() for size in SIZES]),
        margins=np.zeros((len(SIZES), 2)),
    )
    return replace(reference, presence=_presence(reference, windows))


def _presence(source: HarmReference, windows: Windows) -> np.ndarray:
    """(4,) of `HarmReference.presence`; as often as on the source where nothing is to be told."""
    counted = source.expected
    features = np.concatenate([source.presence_features(w)[counted] for w in windows.windows])
    held = windows.held[:, counted].ravel()
    if held.all() or not held.any():
        return source.presence
    weight = np.repeat(windows.weight, counted.sum())
    model = LogisticRegression(C=10.0).fit(features[:, :3], held, sample_weight=weight)
    return np.append(model.coef_[0], model.intercept_)


def _scaled(source: HarmReference) -> HarmReference:
    """A map for want of corruptions: the expected IoU times what it has to be on the source."""
    soft, true = source.class_soft_iou[source.expected], source.class_iou[source.expected]
    name = FEATURES.index('soft_iou')
    ratio = min(float(true.mean() / max(soft.mean(), 1e-9)), 2.0)
    lowest, highest = np.zeros(len(FEATURES)), np.zeros(len(FEATURES))
    highest[name] = 1.0
    return replace(
        source, lowest=lowest, highest=highest,
        coefficients=np.where(np.arange(len(FEATURES)) == name, ratio, 0.0),
        margins=np.array(_ASSUMED_MARGINS),
    )  # fmt: skip


def _features(source: HarmReference, windows: Windows) -> np.ndarray:
    """(W, F)."""
    return np.stack([source.features(w, source.in_view(w)) for w in windows.windows])


def _fitted(
    source: HarmReference, features: np.ndarray, windows: Windows, chosen: np.ndarray
) -> HarmReference:
    """The map of some of the windows.

    Args:
        source: What the source tells.
        features: (W, F) of all windows.
        windows: W of them.
        chosen: (W,) bool.
    """
    x, weight = features[chosen], windows.weight[chosen]
    mean, spread = np.average(x, axis=0, weights=weight), x.std(axis=0)
    used = spread > 1e-9
    scale = np.where(used, spread, 1.0)
    sign = np.array([_SIGNS.get(name, 0) for name in FEATURES])
    # A free sign is that of the difference of two columns that only count upwards.
    z = np.where(used, (x - mean) / scale, 0.0)
    both = np.concatenate([z * np.where(sign == 0, 1, sign), -z[:, sign == 0]], axis=1)
    ridge = Ridge(alpha=_RIDGE * weight.sum(), positive=True)
    ridge.fit(both, windows.miou[chosen], sample_weight=weight)
    per_spread = ridge.coef_[: len(FEATURES)] * np.where(sign == 0, 1, sign)
    per_spread[sign == 0] -= ridge.coef_[len(FEATURES) :]
    coefficients = np.where(used, per_spread / scale, 0.0)
    intercept = float(ridge.intercept_) - float(coefficients @ mean)
    return replace(
        source, lowest=x.min(axis=0), highest=x.max(axis=0), coefficients=coefficients,
        intercept=np.asarray(intercept),
        curve=_curve(x @ coefficients + intercept, windows.miou[chosen], weight),
    )  # fmt: skip


def _curve(linear: np.ndarray, miou: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """A monotone curve through means of windows that are estimated alike.

    Quality saturates where nothing is wrong, and a straight line would call the source itself
    worse than it is.
    """
    order = np.argsort(linear, kind='stable')
    linear, miou, weight = linear[order], miou[order], weight[order]
    groups = (weight.cumsum() / weight.sum() * _KNOTS).astype(int).clip(0, _KNOTS - 1)
    both = np.stack([linear, miou], axis=1)
    knots = np.array([
        np.average(both[groups == g], axis=0, weights=weight[groups == g])
        for g in np.unique(groups)
    ])  # fmt: skip
    x, first = np.unique(knots[:, 0], return_index=True)
    y = IsotonicRegression(y_min=0.0, y_max=1.0).fit_transform(x, knots[first, 1])
    # Beyond what was seen a difference counts as it is.
    if y[0] > 0:
        x, y = np.append(x[0] - y[0], x), np.append(0.0, y)
    if y[-1] < 1:
        x, y = np.append(x, x[-1] + 1 - y[-1]), np.append(y, 1.0)
    return np.stack([x, y], axis=1)


@dataclass(frozen=True)
class _HeldOut(Columns):
    """What a map says of families and drives that it was not fitted on.

    Attributes:
        miou: (W,) of the labels.
        estimate: (W,).
        least: (W,) lower end of the interval before it is widened.
        most: (W,) upper end.
        size: (W,).
        family: (W,) str.
    """

    miou: np.ndarray
    estimate: np.ndarray
    least: np.ndarray
    most: np.ndarray
    size: np.ndarray
    family: np.ndarray


def _held_out(
    clean: HarmFrames, degraded: HarmFrames, temperature: float, seed: int
) -> _HeldOut | None:
    """Each half of the drives, and of it each family, left out in turn; None without halves."""
    first, own = _halves(clean, degraded)
    if min(np.count_nonzero(f) for f in (first, ~first, own, ~own)) < _MIN_HALF:
        return None
    rows = []
    for half in (True, False):
        kept, others = clean.take(first == half), clean.take(first != half)
        fit = draw_windows(kept, degraded.take(own == half), seed)
        source = _source(kept, temperature, fit)
        features = _features(source, fit)
        test = draw_windows(others, degraded.take(own != half), seed)
        for family in np.unique(test.family):
            # Of the source itself all families are known.
            reference = _fitted(source, features, fit, (fit.family != family) | (family == ''))
            for i in np.flatnonzero(test.family == family):
                harm = reference.estimate(test.windows[i])
                rows.append((test.miou[i], harm.miou, harm.low, harm.high, test.size[i], family))
    return _HeldOut(*(np.array(column) for column in zip(*rows, strict=True)))


def _halves(clean: HarmFrames, degraded: HarmFrames) -> tuple[np.ndarray, np.ndarray]:
    """Whether frames belong to the first half of the drives, or of time where drives are few.

    Returns:
        (N,) and (M,) bool, of the clean and of the degraded frames.
    """
    names = np.concatenate([clean.drive, degraded.drive])
    drives, counts = np.unique(names, return_counts=True)
    if not _several_drives(clean):
        middle = np.median(clean.stamp_ns)
        return clean.stamp_ns < middle, degraded.stamp_ns < middle
    counts = np.array([np.count_nonzero(clean.drive == drive) for drive in drives]) + counts / (
        1 + counts.sum()  # drives without clean frames come last
    )
    first: list[str] = []
    sizes = [0.0, 0.0]
    for i in np.argsort(-counts, kind='stable'):  # the largest first, to the smaller half
        half = int(sizes[1] < sizes[0])
        sizes[half] += float(counts[i])
        if half == 0:
            first.append(str(drives[i]))
    return np.isin(clean.drive, first), np.isin(degraded.drive, first)


def _several_drives(clean: HarmFrames) -> bool:
    _, counts = np.unique(clean.drive, return_counts=True)
    return int((counts >= _MIN_HALF).sum()) >= 2


def _margins(held_out: _HeldOut, size: int, confidence: float) -> tuple[float, float]:
    """Conformal quantiles of how far the truth is outside (Romano et al. 2019, CQR)."""
    own = held_out.size == size
    level = min(1.0, (1 + confidence) / 2 * (own.sum() + 1) / own.sum())
    return (
        float(np.quantile(held_out.least[own] - held_out.miou[own], level, method='higher')),
        float(np.quantile(held_out.miou[own] - held_out.most[own], level, method='higher')),
    )


def _covered(held_out: _HeldOut, size: int, confidence: float) -> float:
    """Share of the windows whose interval, made of the other families, holds the truth."""
    inside: list[np.ndarray] = []
    for family in np.unique(held_out.family):
        own = held_out.family == family
        below, above = _margins(held_out.take(~own), size, confidence)
        own &= held_out.size == size
        inside.append(
            (held_out.miou[own] >= held_out.least[own] - below)
            & (held_out.miou[own] <= held_out.most[own] + above)
        )
    return round(float(np.concatenate(inside).mean()), 3)


def _figures(held_out: _HeldOut, confidence: float) -> dict[str, object]:
    figures: dict[str, object] = {}
    error = held_out.estimate - held_out.miou
    for size in SIZES:
        own = held_out.size == size
        figures[f'{size}_frames'] = {
            'windows': int(own.sum()),
            'mae': round(float(np.abs(error[own]).mean()), 4),
            'bias': round(float(error[own].mean()), 4),
            'correlation': _correlation(held_out.estimate[own], held_out.miou[own]),
            'covered': _covered(held_out, size, confidence),
        }
    largest = held_out.size == SIZES[-1]
    figures['mae_of_families'] = {
        str(family) or 'clean': round(
            float(np.abs(error[largest & (held_out.family == family)]).mean()), 4
        )
        for family in np.unique(held_out.family)
    }
    return figures


def _correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    if len(first) < 3 or first.std() < 1e-9 or second.std() < 1e-9:
        return None
    return round(float(np.corrcoef(first, second)[0, 1]), 4)
