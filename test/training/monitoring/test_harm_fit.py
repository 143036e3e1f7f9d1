# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The fit of the expected mIoU, on a made-up network whose truth is known."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from clcp_ros.errors import ModelError
from clcp_ros.monitor.harm import FEATURES, HarmReference
from clcp_ros.monitor.reference import Gaussian, ShiftReference, TapReference
from clcp_ros.monitor.statistics import STATISTICS
from clcp_ros.replay_scores import confusion_matrix, mean_iou
from training.monitoring.harm import (
    SIZES,
    HarmFit,
    fit_frames,
    fit_harm,
    fit_temperature,
    reduce_frames,
)
from training.monitoring.samples import Samples

CLASSES, HEIGHT, WIDTH = 5, 8, 12
FAMILIES = ('fog', 'night', 'rain', 'noise', 'blur', 'dirt')
DRIVES = ('a', 'b', 'c', 'd')
SECOND = 1_000_000_000


@functools.lru_cache(maxsize=64)
def frames(
    tag: str,
    drives: Sequence[str] = DRIVES,
    each: int = 12,
    seed: int = 0,
    gain: float = 1.0,
    blind: bool = False,
) -> Samples:
    """Frames of a network that is right with its probabilities on the source only.

    A corruption replaces evidence by noise, and the network notices half of it; a blind one, of
    every other family nothing.
    """
    family, _, severity = tag.partition(':')
    loss = 0.0 if not severity else int(severity) * (0.12 + 0.02 * (FAMILIES.index(family) % 3))
    rows: dict[str, list[np.ndarray]] = {
        name: [] for name in ('low', 'early', 'deep', 'scene', 'logits', 'confusion')
    }
    for drive in drives:
        for i in range(each):
            rng = np.random.default_rng([seed, ord(drive[0]), i])
            share = rng.dirichlet(np.full(CLASSES, 2.0))
            label = rng.choice(CLASSES, (HEIGHT, WIDTH), p=share).astype(np.uint8)
            unnoticed = blind and FAMILIES.index(family) % 2
            sureness = 3.0 if unnoticed else 3.0 * (1 - loss / 2)
            evidence = rng.normal(0, 1, (CLASSES, HEIGHT, WIDTH))
            kept = rng.random((HEIGHT, WIDTH)) >= loss
            seen = np.where(kept, label, rng.integers(0, CLASSES, label.shape))
            evidence += sureness * (np.arange(CLASSES)[:, None, None] == seen)
            # With noise of variance 1 the log likelihood ratio is sureness times the evidence.
            logits = (gain * sureness * evidence).astype(np.float32)
            rows['logits'].append(logits.astype(np.float16))
            mask = logits.argmax(axis=0).astype(np.uint8)
            rows['confusion'].append(confusion_matrix(mask, label, CLASSES))
            rows['scene'].append(np.bincount(mask.ravel(), minlength=CLASSES) / mask.size)
            rows['low'].append(np.zeros(len(STATISTICS)))
            rows['early'].append(np.zeros(3, np.float32))
            rows['deep'].append(np.array([1, 0, 2 * loss + rng.normal(0, 0.02)], np.float32))
    number = len(drives) * each
    return Samples(
        np.repeat(np.array(drives), each), np.tile(np.arange(each), len(drives)) * SECOND,
        np.full(number, tag), **{name: np.stack(values) for name, values in rows.items()},
    )  # fmt: skip


def ladder(families: Sequence[str] = FAMILIES, **options: object) -> list[Samples]:
    return [frames(f'{f}:{s}', **options) for f in families for s in (1, 3, 5)]


def gaussian(channels: int) -> TapReference:
    origin = Gaussian(
        np.zeros(channels), np.ones(channels), np.eye(channels)[:1], np.ones(1), np.array(1.0)
    )
    return TapReference((origin,), np.array([-0.6]), np.array([0.2]))


@pytest.fixture(scope='module')
def novelty() -> ShiftReference:
    """A training domain around the origin."""
    taps = (gaussian(len(STATISTICS)), gaussian(3), gaussian(3))
    return ShiftReference(*taps, np.array(0.0), np.array(1.0))


@pytest.fixture(scope='module')
def clean() -> Samples:
    return frames('clear')


@pytest.fixture(scope='module')
def fit(clean: Samples) -> HarmFit:
    return fit_harm(clean, ladder())


def test_a_network_that_is_too_sure_is_cooled() -> None:
    right, sure = (fit_temperature(frames('clear', gain=gain)) for gain in (1.0, 3.0))
    assert right == pytest.approx(1.0, abs=0.1)
    assert sure == pytest.approx(3 * right, rel=0.02)


def test_the_temperature_of_nothing_is_one(clean: Samples) -> None:
    assert fit_temperature(clean.take(np.zeros(0, int))) == 1.0


def test_families_that_were_left_out_are_judged(fit: HarmFit) -> None:
    figures = fit.figures['20_frames']
    assert isinstance(figures, dict)
    assert figures['mae'] < 0.04
    assert figures['correlation'] > 0.95
    assert abs(figures['bias']) < 0.03
    assert figures['covered'] > 0.8
    assert set(fit.figures['mae_of_families']) == {'clean', *FAMILIES}  # type: ignore[call-overload]


def test_the_soft_iou_alone_is_worse(clean: Samples, fit: HarmFit) -> None:
    """Else the map, and its corruptions, would be for nothing."""
    plain = fit_harm(clean, []).reference
    test = frames('night:5', seed=7)
    errors = []
    for reference in (plain, fit.reference):
        reduced = reduce_frames(test, float(reference.temperature))
        truth = mean_iou(reduced.confusion.sum(axis=0))
        everything = reduced.window(np.arange(len(reduced)))
        errors.append(abs(reference.estimate(everything).miou - truth))
    assert errors[1] < 0.04 < errors[0]


def test_new_frames_of_the_source_lose_nothing(fit: HarmFit) -> None:
    reduced = reduce_frames(frames('clear', seed=5), float(fit.reference.temperature))
    for start in range(0, 48, 12):
        harm = fit.reference.estimate(reduced.window(np.arange(start, start + 12)))
        assert abs(harm.drop) < 0.04
        assert harm.drop_low < 0.02


@pytest.mark.parametrize('size', SIZES)
def test_the_interval_holds_on_new_drives(fit: HarmFit, size: int) -> None:
    inside = []
    for family in FAMILIES:
        for severity in (2, 4):
            new = frames(f'{family}:{severity}', ('x', 'y'), 20, seed=3)
            reduced = reduce_frames(new, float(fit.reference.temperature))
            for start in range(0, 40, 20):
                window = np.arange(start, start + size)
                harm = fit.reference.estimate(reduced.window(window))
                truth = mean_iou(reduced.confusion[window].sum(axis=0))
                inside.append(harm.low <= truth <= harm.high)
    assert np.mean(inside) >= 0.75


def test_longer_windows_have_shorter_intervals(fit: HarmFit) -> None:
    reduced = reduce_frames(frames('fog:3', seed=3), float(fit.reference.temperature))
    harms = [fit.reference.estimate(reduced.window(np.arange(size))) for size in SIZES]
    widths = [harm.high - harm.low for harm in harms]
    assert widths[0] > widths[-1]


def test_the_distance_from_the_domain_is_used_where_it_helps(
    clean: Samples, novelty: ShiftReference
) -> None:
    parts = ladder(blind=True)
    without, fit = fit_harm(clean, parts), fit_harm(clean, parts, novelty)
    deep = FEATURES.index('deep')
    assert fit.reference.coefficients[deep] < 0
    assert without.reference.coefficients[deep] == 0
    assert any('distance' in text for text in without.missing)
    assert not any('distance' in text for text in fit.missing)
    errors = [f.figures['20_frames']['mae'] for f in (without, fit)]  # type: ignore[index]
    assert errors[1] < 0.7 * errors[0]


def test_a_surer_network_is_never_called_worse(fit: HarmFit) -> None:
    for name in ('soft_iou', 'confidence', 'energy'):
        assert fit.reference.coefficients[FEATURES.index(name)] >= 0


def test_batches_made_on_the_fly_give_the_same(clean: Samples, fit: HarmFit) -> None:
    def batches() -> Iterator[Samples]:
        yield from ladder()

    again, whole = fit_harm(clean, batches()), fit_harm(clean, Samples.concat(ladder()))
    for name, array in fit.reference.arrays().items():
        np.testing.assert_array_equal(again.reference.arrays()[name], array)
        np.testing.assert_allclose(whole.reference.arrays()[name], array, atol=1e-9)


def test_what_was_fitted_can_be_stored(fit: HarmFit) -> None:
    again = HarmReference.from_arrays(fit.reference.arrays())
    assert all(a.dtype.kind in 'bf' for a in again.arrays().values())


def test_without_corruptions_it_says_so_and_scales_what_it_has(clean: Samples) -> None:
    fit = fit_harm(clean, [])
    assert any('0 families' in text for text in fit.missing)
    HarmReference.from_arrays(fit.reference.arrays())
    reduced = reduce_frames(clean, float(fit.reference.temperature))
    harm = fit.reference.estimate(reduced.window(np.arange(len(reduced))))
    assert harm.miou == pytest.approx(mean_iou(reduced.confusion.sum(axis=0)), abs=0.03)
    assert harm.high - harm.low > 0.1


def test_one_drive_is_halved_in_time(clean: Samples) -> None:
    # A single frame of another drive is no drive to leave out.
    for frames_of in (clean.take(clean.drive == 'a'), clean.take(slice(13))):
        fit = fit_harm(frames_of, ladder(drives=('a',)))
        assert any('halves in time' in text for text in fit.missing)
        assert '5_frames' in fit.figures


def test_frames_that_cannot_be_halved_leave_the_interval_assumed(clean: Samples) -> None:
    def still(samples: Samples) -> Samples:
        return Samples(**{**vars(samples), 'stamp_ns': np.zeros(len(samples), np.int64)})

    one = still(clean.take(clean.drive == 'a'))
    fit = fit_harm(one, [still(part) for part in ladder(drives=('a',))])
    assert any('interval' in text for text in fit.missing)
    assert (fit.reference.margins > 0.05).all()


def test_corruptions_of_other_drives_will_do(clean: Samples) -> None:
    fit = fit_harm(clean, ladder(drives=('u', 'v', 'w')))
    HarmReference.from_arrays(fit.reference.arrays())
    assert isinstance(fit.figures['20_frames'], dict)
    assert fit.figures['20_frames']['mae'] < 0.06


def test_frames_without_labels_are_left_out(clean: Samples, fit: HarmFit) -> None:
    nothing = Samples(**{**vars(clean), 'confusion': np.zeros_like(clean.confusion)})
    more = fit_harm(Samples.concat([clean, nothing]), [*ladder(), nothing])
    for name, array in fit.reference.arrays().items():
        np.testing.assert_array_equal(more.reference.arrays()[name], array)


def test_a_class_that_no_label_holds_does_not_count(clean: Samples) -> None:
    def without(samples: Samples) -> Samples:
        assert samples.confusion is not None
        confusion = samples.confusion.copy()
        confusion[:, -1] = 0
        return Samples(**{**vars(samples), 'confusion': confusion})

    fit = fit_harm(without(clean), [without(part) for part in ladder()])
    assert not fit.reference.expected[-1]
    assert any('1 classes' in text for text in fit.missing)
    reduced = reduce_frames(clean, float(fit.reference.temperature))
    harm = fit.reference.estimate(reduced.window(np.arange(20)))
    assert harm.class_drop[-1] == 0
    assert not harm.shown[-1]


def test_too_few_labels_are_refused(clean: Samples) -> None:
    with pytest.raises(ModelError, match='3 labelled frames'):
        fit_harm(clean.take(slice(3)), [])
    with pytest.raises(ModelError, match='0 labelled frames'):
        fit_harm(Samples(**{**vars(clean), 'confusion': None}), [])


def test_logits_are_asked_for(clean: Samples) -> None:
    bare = Samples(**{**vars(clean), 'logits': None})
    with pytest.raises(ModelError, match='logits'):
        fit_harm(bare, [])
    with pytest.raises(ModelError, match='logits'):
        fit_harm(clean, [bare])


def test_a_family_can_be_left_out_of_reduced_frames(clean: Samples) -> None:
    reduced = reduce_frames(Samples.concat(ladder()), 1.0)
    source = reduce_frames(clean, 1.0)
    fit = fit_frames(source, reduced.take(reduced.family != 'fog'), 1.0, taps=False)
    assert fit.figures['families'] == sorted(set(FAMILIES) - {'fog'})
