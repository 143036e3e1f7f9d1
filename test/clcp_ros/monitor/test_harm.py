# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The expected mIoU of a window, and that nothing odd gets into it."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from clcp_ros.monitor.harm import (
    FEATURES,
    Harm,
    HarmReference,
    soft_class_iou,
    soft_confusion,
    soft_counts,
)
from clcp_ros.monitor.harm_window import HarmWindow
from clcp_ros.monitor.reference import FrameScore

CLASSES = 4
SECOND = 1_000_000_000
CALM = FrameScore(0.0, 0.0, 0.0, 0.0)


@pytest.fixture
def reference() -> HarmReference:
    """Its estimate is the expected IoU of the classes in view."""
    one = np.ones(CLASSES)
    return HarmReference(
        temperature=np.array(1.0),
        class_iou=np.array([0.9, 0.8, 0.6, 0.5]),
        class_soft_iou=np.array([0.9, 0.8, 0.6, 0.5]),
        class_rate=one * 0.98,
        class_share=one / CLASSES,
        class_confidence=one * 0.9,
        expected=one > 0,
        presence=np.array([1.0, 0.0, 0.0, 0.0]),
        lowest=np.full(len(FEATURES), -1e3),
        highest=np.full(len(FEATURES), 1e3),
        coefficients=np.array([1.0, 0, 0, 0, 0, 0]),
        intercept=np.array(0.0),
        curve=np.array([[0.0, 0.0], [1.0, 1.0]]),
        sizes=np.array([1.0, 5.0, 20.0]),
        source=np.array([0.7, 0.7, 0.7]),
        margins=np.array([[0.20, 0.10], [0.10, 0.08], [0.05, 0.05]]),
    )


def striped(sureness: float, height: int = 8, width: int = 16) -> np.ndarray:
    """Logits of four upright stripes, one for each class."""
    best = np.arange(width) * CLASSES // width
    logits = np.zeros((CLASSES, height, width), np.float32)
    logits[best, :, np.arange(width)] = sureness
    return logits


def fill(window: HarmWindow, frames: int, sureness: float, start: int = 0) -> Harm:
    counts = window.reference.describe(striped(sureness))
    for i in range(frames):
        harm = window.update(start + i * SECOND // 2, counts, CALM)
    return harm


def is_finite(harm: Harm) -> bool:
    numbers = [harm.miou, harm.low, harm.high, harm.drop, harm.drop_low]
    return bool(
        np.isfinite(numbers).all()
        and np.isfinite(harm.class_iou).all()
        and np.isfinite(harm.class_drop).all()
    )


def test_soft_confusion_is_what_its_definition_says() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (CLASSES, 5, 7))
    p = np.exp(logits / 1.5) / np.exp(logits / 1.5).sum(axis=0)
    expected = np.zeros((CLASSES, CLASSES))
    for row in range(5):
        for column in range(7):
            expected[:, logits[:, row, column].argmax()] += p[:, row, column] / 35
    np.testing.assert_allclose(soft_confusion(logits, 1.5), expected, atol=1e-6)


def test_energy_is_the_log_sum_of_exponentials() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (CLASSES, 5, 7))
    expected = np.log(np.exp(logits / 2).sum(axis=0)).mean()
    assert soft_counts(logits, 2.0)[:, -1].sum() == pytest.approx(expected, rel=1e-5)


def test_soft_iou_of_calibrated_probabilities_is_the_iou() -> None:
    """Labels drawn from the probabilities themselves: the expectation must be what is counted."""
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, (CLASSES, 100, 200)).astype(np.float32)
    p = np.exp(logits) / np.exp(logits).sum(axis=0)
    labels = (rng.random((1, 100, 200)) > p.cumsum(axis=0)[:-1]).sum(axis=0)
    best = logits.argmax(axis=0)
    iou = [
        ((labels == c) & (best == c)).sum() / ((labels == c) | (best == c)).sum()
        for c in range(CLASSES)
    ]
    np.testing.assert_allclose(soft_class_iou(soft_confusion(logits)), iou, atol=0.02)


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused(value: float) -> None:
    logits = striped(3.0)
    logits[1, 2, 3] = value
    with pytest.raises(ValueError, match='finite'):
        soft_confusion(logits)


@pytest.mark.parametrize('shape', [(4, 8), (4, 0, 8), (0, 8, 8)])
def test_logits_of_an_odd_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match='shape'):
        soft_confusion(np.zeros(shape, np.float32))


def test_logits_of_other_classes_are_refused(reference: HarmReference) -> None:
    with pytest.raises(ValueError, match='4 classes'):
        reference.describe(np.zeros((5, 2, 2), np.float32))


def test_the_grid_does_not_matter(reference: HarmReference) -> None:
    small, large = (soft_counts(striped(3.0, *size)) for size in ((4, 8), (40, 80)))
    np.testing.assert_allclose(small, large, atol=1e-6)


@given(
    arrays(
        np.float32,
        (CLASSES, 3, 3),
        elements=st.floats(np.finfo(np.float32).min, np.finfo(np.float32).max, width=32),
    ),
    st.floats(0.2, 8.0),
)
def test_counts_of_any_finite_logits_are_finite(logits: np.ndarray, temperature: float) -> None:
    counts = soft_counts(logits, temperature)
    assert np.isfinite(counts).all()
    assert counts[:, :-1].sum() == pytest.approx(1.0, abs=1e-5)
    assert counts[:, :-1].min() >= 0
    iou = soft_class_iou(counts[:, :-1])
    assert ((iou >= 0) & (iou <= 1 + 1e-9)).all()


@pytest.mark.parametrize(
    'logits',
    [
        pytest.param(np.zeros((CLASSES, 8, 8), np.float32), id='uniform'),
        pytest.param(np.eye(CLASSES)[1][:, None, None] * np.full((1, 8, 8), 50.0), id='one class'),
        pytest.param(np.full((CLASSES, 1, 1), -3e38), id='one tiny cell'),
    ],
)
@pytest.mark.parametrize('expected', [None, np.zeros(CLASSES, bool), np.arange(CLASSES) == 3])
def test_degenerate_logits_give_finite_estimates(
    reference: HarmReference, logits: np.ndarray, expected: np.ndarray | None
) -> None:
    harm = HarmWindow(reference, expected=expected).update(0, reference.describe(logits), CALM)
    assert is_finite(harm)
    assert 0 <= harm.low <= harm.miou <= harm.high <= 1
    assert harm.drop_low <= harm.drop


def test_an_empty_window_says_nothing(reference: HarmReference) -> None:
    window = HarmWindow(reference)
    assert window.harm is None
    fill(window, 3, 5.0)
    assert window.harm is not None
    window.reset()
    assert window.harm is None


def test_an_unsure_network_is_expected_to_be_worse(reference: HarmReference) -> None:
    sure, unsure = (fill(HarmWindow(reference), 10, value) for value in (8.0, 1.0))
    assert unsure.miou < sure.miou - 0.3
    assert unsure.drop > sure.drop + 0.3
    assert unsure.drop == pytest.approx(0.7 - unsure.miou)
    assert unsure.drop_low == pytest.approx(0.7 - unsure.high)


def test_old_frames_leave_the_window(reference: HarmReference) -> None:
    window = HarmWindow(reference, window_s=5.0)
    fill(window, 20, 8.0)
    mixed = fill(window, 5, 1.0, start=10 * SECOND)
    later = fill(window, 10, 1.0, start=12 * SECOND + SECOND // 2)
    assert later.miou < mixed.miou
    assert later.samples == 10
    assert later.window_s == pytest.approx(4.5)
    assert later.miou == fill(HarmWindow(reference), 10, 1.0).miou


def test_nothing_drifts_over_many_frames(reference: HarmReference) -> None:
    window, rng = HarmWindow(reference, window_s=3.0), np.random.default_rng(0)
    for i in range(300):
        counts = reference.describe(striped(float(rng.uniform(0, 20))))
        window.update(i * SECOND, counts, CALM)
    assert fill(window, 3, 4.0, 300 * SECOND).miou != fill(window, 7, 4.0, 302 * SECOND).miou
    np.testing.assert_array_equal(
        fill(window, 7, 4.0, 310 * SECOND).class_iou,
        fill(HarmWindow(reference), 7, 4.0).class_iou,
    )


@pytest.mark.parametrize('stamp_s', [0.0, 4.5, 9.0, 100.0])
def test_a_loop_or_a_gap_starts_anew(reference: HarmReference, stamp_s: float) -> None:
    window = HarmWindow(reference)
    fill(window, 10, 8.0)
    assert fill(window, 1, 1.0, start=round(stamp_s * SECOND)).samples == 1


def test_after_an_abrupt_change_old_frames_can_be_forgotten(reference: HarmReference) -> None:
    window = HarmWindow(reference)
    fill(window, 10, 8.0)
    fill(window, 2, 1.0, start=5 * SECOND)
    window.forget(5 * SECOND)
    assert fill(window, 1, 1.0, start=6 * SECOND).samples == 3


def test_what_lasts_is_what_is_left_without_the_worst_seconds(reference: HarmReference) -> None:
    window = HarmWindow(reference)
    good = fill(window, 20, 8.0).lasting_drop
    # Five frames span two seconds; where in the window they are makes no difference.
    after = [fill(window, 5, 1.0, start=10 * SECOND)]
    after.append(fill(window, 10, 8.0, start=12 * SECOND + SECOND // 2))
    for harm in after:
        assert harm.drop > good + 0.05
        assert harm.lasting_drop == pytest.approx(good)
        assert harm.lasting_low < harm.lasting_drop
    # What lasts longer is seen as it is.
    worse = fill(window, 10, 1.0, start=17 * SECOND + SECOND // 2)
    assert good + 0.05 < worse.lasting_drop < worse.drop


def test_two_seconds_alone_have_not_lasted(reference: HarmReference) -> None:
    window = HarmWindow(reference)
    assert np.isnan(fill(window, 5, 1.0).lasting_drop)
    assert fill(window, 1, 1.0, start=5 * SECOND // 2).lasting_drop > 0.3
    counts, fast = reference.describe(striped(1.0)), HarmWindow(reference)
    lasting = [fast.update(i * SECOND // 30, counts, CALM).lasting_drop for i in range(62)]
    assert np.isnan(lasting).tolist() == [True] * 61 + [False]


@pytest.mark.parametrize('period_ns', [SECOND // 2, SECOND // 30])
def test_what_has_lasted_is_the_same_however_late_it_is_asked(
    reference: HarmReference, period_ns: int
) -> None:
    always, asked = HarmWindow(reference), HarmWindow(reference)
    rng, now_ns, good, seen = np.random.default_rng(2), 0, True, set()
    frames = {kind: reference.describe(striped(value)) for kind, value in ((1, 8.0), (0, 1.0))}
    for number in range(400):
        now_ns += period_ns + (3 * SECOND if number == 200 else 0)
        good ^= bool(rng.random() < 0.08)
        asked.least_drop = float(rng.choice([0.05, 0.3]))
        if number % 90 == 80:
            for window in (always, asked):
                window.forget(now_ns - 2 * SECOND)
        one, other = (w.update(now_ns, frames[good], CALM) for w in (always, asked))
        late = one.drop >= asked.least_drop
        seen.add((late, bool(np.isnan(one.lasting_drop))))
        lasting = (one.lasting_drop, one.lasting_low) if late else (np.nan, np.nan)
        np.testing.assert_array_equal((other.lasting_drop, other.lasting_low), lasting)
        assert (other.miou, other.low, other.high, other.drop, other.drop_low) == (
            one.miou, one.low, one.high, one.drop, one.drop_low
        )  # fmt: skip
    assert {(True, False), (False, False)} <= seen


def test_the_interval_narrows_with_time_and_not_with_the_frame_rate(
    reference: HarmReference,
) -> None:
    def width(harm: Harm) -> float:
        return harm.high - harm.low

    counts, window = reference.describe(striped(4.0)), HarmWindow(reference)
    fast = [window.update(i * SECOND // 30, counts, CALM) for i in range(20)][-1]
    first, later = fill(HarmWindow(reference), 1, 4.0), fill(HarmWindow(reference), 40, 4.0)
    assert width(later) < width(first) - 0.1
    assert width(fast) > width(later) + 0.05


def test_what_is_not_finite_does_not_get_in(reference: HarmReference) -> None:
    window = HarmWindow(reference)
    before = fill(window, 5, 4.0)
    bad = reference.describe(striped(4.0))
    bad[0, 0] = np.nan
    with pytest.raises(ValueError, match='finite'):
        window.update(9 * SECOND, bad, CALM)
    with pytest.raises(ValueError, match='finite'):
        window.update(9 * SECOND, reference.describe(striped(4.0)), replace(CALM, deep=np.nan))
    with pytest.raises(ValueError, match='shape'):
        window.update(9 * SECOND, np.zeros((CLASSES, CLASSES)), CALM)
    assert window.harm is before
    assert fill(window, 1, 4.0, start=3 * SECOND).samples == 6


def test_the_estimate_of_the_classes_is_that_of_the_whole(reference: HarmReference) -> None:
    harm = fill(HarmWindow(reference), 20, 2.0)
    assert harm.class_iou.mean() == pytest.approx(harm.miou, abs=1e-6)


def test_the_classes_that_lose_most_are_named(reference: HarmReference) -> None:
    logits = striped(8.0)
    logits[0, :, :4] = 0.5  # the first stripe's class is hardly told from the others
    window = HarmWindow(reference)
    for i in range(10):
        harm = window.update(i * SECOND, reference.describe(logits), CALM)
    names = ['road', 'car', 'tree', 'sky']
    (name, drop), *_ = harm.top_classes(names)
    assert name == 'road'
    assert drop > 0.2
    assert len(harm.top_classes(names, most=1)) == 1
    assert all(drop > 0 for _, drop in harm.top_classes(names, most=4))


def test_classes_that_the_route_does_not_have_do_not_count(reference: HarmReference) -> None:
    """Two classes are never in view: no drop for a route that does not have them."""
    logits = striped(8.0)
    logits[2:] = -50.0
    frames = [reference.describe(logits)] * 10
    windows = [HarmWindow(reference, expected=e) for e in (None, np.arange(CLASSES) < 2)]
    for window in windows:
        for i, counts in enumerate(frames):
            window.update(i * SECOND, counts, CALM)
    everything, route = (window.harm for window in windows)
    assert everything is not None
    assert route is not None
    assert route.miou > everything.miou + 0.1
    assert route.drop < everything.drop
    np.testing.assert_array_equal(route.class_drop[2:], 0)
    assert not route.shown[2:].any()


def test_the_mask_of_the_route_may_change(reference: HarmReference) -> None:
    window = HarmWindow(reference)
    first = fill(window, 3, 3.0)
    window.expected = np.arange(CLASSES) < 2
    assert fill(window, 1, 3.0, start=2 * SECOND).miou != first.miou


def test_impossible_windows_are_refused(reference: HarmReference) -> None:
    with pytest.raises(ValueError, match='positive'):
        HarmWindow(reference, window_s=0.0)
    with pytest.raises(ValueError, match='positive'):
        HarmWindow(reference, max_gap_s=-1.0)
    with pytest.raises(ValueError, match='expected classes'):
        HarmWindow(reference, expected=np.ones(3, bool))


def test_arrays_come_back_as_they_were(reference: HarmReference) -> None:
    again = HarmReference.from_arrays(reference.arrays())
    for name, array in reference.arrays().items():
        np.testing.assert_array_equal(getattr(again, name), array)
    before, after = fill(HarmWindow(reference), 4, 2.0), fill(HarmWindow(again), 4, 2.0)
    assert (before.miou, before.low, before.high) == (after.miou, after.low, after.high)


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('temperature', np.array(0.0)),
        ('temperature', np.array(np.nan)),
        ('coefficients', np.zeros(3)),
        ('coefficients', np.full(len(FEATURES), np.inf)),
        ('class_iou', np.full(CLASSES, 1.5)),
        ('class_rate', np.zeros(CLASSES + 1)),
        ('expected', np.zeros(CLASSES, bool)),
        ('expected', np.ones(CLASSES)),
        ('sizes', np.array([5.0, 1.0, 20.0])),
        ('sizes', np.array([])),
        ('margins', np.zeros((2, 2))),
        ('lowest', np.full(len(FEATURES), 1e6)),
        ('intercept', np.array('0')),
        ('curve', np.zeros((0, 2))),
        ('curve', np.array([[0.0, 0.0], [0.0, 1.0]])),
        ('curve', np.array([[0.0, 1.0], [1.0, 0.0]])),
        ('curve', np.array([[0.0, 0.0], [1.0, 2.0]])),
        ('curve', np.zeros(3)),
    ],
)
def test_impossible_arrays_are_refused(
    reference: HarmReference, name: str, value: np.ndarray
) -> None:
    with pytest.raises(ValueError, match=r'.'):
        HarmReference.from_arrays({**reference.arrays(), name: value})


def test_a_missing_array_is_named(reference: HarmReference) -> None:
    given_arrays = reference.arrays()
    del given_arrays['margins']
    with pytest.raises(KeyError, match='margins'):
        HarmReference.from_arrays(given_arrays)


def test_the_size_of_the_image_does_not_matter(reference: HarmReference) -> None:
    """A finer grid of the same scene in the middle of a stream changes nothing."""
    coarse = striped(4.0)
    fine = np.stack([cv2.resize(p, (64, 32), interpolation=cv2.INTER_NEAREST) for p in coarse])
    window = HarmWindow(reference)
    before = window.update(0, reference.describe(coarse), CALM)
    after = window.update(SECOND, reference.describe(fine), CALM)
    np.testing.assert_allclose(after.class_iou, before.class_iou, atol=1e-6)
