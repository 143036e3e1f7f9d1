# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Naming the kind of a degradation: signatures, the unknown, windows, files."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from clcp_ros.monitor.attribution import CLASSES, KINDS, KindReference, KindWindow
from clcp_ros.monitor.statistics import STATISTICS

S = len(STATISTICS)
MEAN, NOISE = STATISTICS.index('luminance_mean'), STATISTICS.index('noise')
SECOND = 1_000_000_000


def make_reference() -> KindReference:
    """Dark is a low mean, noise is noise, and everything else is as it should be."""
    weights, bias = np.zeros((len(CLASSES), 2 * S)), np.full(len(CLASSES), -50.0)
    for name, start in (('none', 4.0), ('dark', 0.0), ('noise', 0.0)):
        bias[CLASSES.index(name)] = start
    weights[CLASSES.index('dark'), MEAN] = -3
    weights[CLASSES.index('noise'), NOISE] = 3
    prototypes = np.zeros((5, S))
    prototypes[1:3, MEAN] = np.arcsinh([-3, -8])
    prototypes[3:5, NOISE] = np.arcsinh([3, 8])
    return KindReference(
        location=np.full(S, 0.5), scale=np.full(S, 0.1), weights=weights, bias=bias,
        prototypes=prototypes, radius=np.ones(5), whitening=np.eye(S),
        limit=np.array(2.0), least=np.array(0.5),
    )  # fmt: skip


@pytest.fixture
def reference() -> KindReference:
    return make_reference()


def frame(**z: float) -> np.ndarray:
    """(S,) statistics that many standard deviations off."""
    statistics = np.full(S, 0.5)
    for name, value in z.items():
        statistics[STATISTICS.index(name)] += 0.1 * value
    return statistics


def test_a_nominal_frame_is_of_no_kind(reference: KindReference) -> None:
    kind = reference.classify(frame(luminance_mean=0.3))
    assert kind.name == 'none'
    assert kind.probability > 0.9


def test_signatures_name_the_kind_and_what_says_so(reference: KindReference) -> None:
    kind = reference.classify(frame(luminance_mean=-5, noise=1.5, haze=1, streaks=-0.5))
    assert kind.name == 'dark'
    assert kind.probability > 0.7
    assert [name for name, _ in kind.top] == ['luminance_mean', 'noise', 'haze']
    assert [z for _, z in kind.top] == pytest.approx([-5, 1.5, 1])
    assert reference.classify(frame(noise=6)).name == 'noise'


def test_what_lies_far_from_all_that_is_known_is_other(reference: KindReference) -> None:
    near = reference.classify(frame(luminance_mean=-5))
    far = reference.classify(frame(luminance_mean=-5, blockiness=20, haze=-20))
    assert near.name == 'dark'
    assert far.name == 'other'
    assert far.probability > 0.9
    assert {name for name, _ in far.top[:2]} == {'blockiness', 'haze'}


def test_what_might_be_two_kinds_is_other(reference: KindReference) -> None:
    unsure = replace(reference, least=np.array(0.6), limit=np.array(20.0))
    kind = unsure.classify(frame(luminance_mean=-6, noise=6))
    assert kind.name == 'other'
    assert kind.probability == pytest.approx(0.5, abs=0.05)
    assert unsure.classify(frame(luminance_mean=-6, noise=3)).name == 'dark'


def test_what_is_known_to_be_novel_is_of_some_kind(reference: KindReference) -> None:
    mild = frame(luminance_mean=-1.2)
    assert reference.classify(mild).name == 'none'
    assert reference.classify(mild, novel=True).name == 'dark'
    assert reference.classify(frame(), novel=True).name == 'other'
    window = KindWindow(reference)
    assert window.update(0, mild).name == 'none'
    assert window.update(SECOND, mild, novel=True).name == 'dark'
    assert window.update(2 * SECOND, mild).name == 'none'


def test_one_absurd_statistic_is_bounded(reference: KindReference) -> None:
    kind = reference.classify(frame(luminance_mean=-1e9))
    assert kind.top[0] == ('luminance_mean', -30)


@given(arrays(np.float64, S, elements=st.floats(-1e12, 1e12)))
def test_every_frame_has_a_kind(statistics: np.ndarray) -> None:
    reference = make_reference()
    share = reference.probabilities(reference.z(statistics))
    kind = reference.classify(statistics)
    assert share.sum() == pytest.approx(1)
    assert (share >= 0).all()
    assert kind.name in CLASSES
    assert 0 <= kind.probability <= 1
    assert len(kind.top) == 3
    sizes = [abs(z) for _, z in kind.top]
    assert sizes == sorted(sizes, reverse=True)


def test_many_frames_at_once_are_the_same_frames(reference: KindReference) -> None:
    statistics = np.random.default_rng(0).normal(0.5, 0.3, (7, S))
    together = reference.probabilities(reference.z(statistics))
    alone = [reference.probabilities(reference.z(row)) for row in statistics]
    assert np.allclose(together, alone, atol=1e-12)


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_what_is_not_finite_is_refused_and_changes_nothing(
    reference: KindReference, bad: float
) -> None:
    window = KindWindow(reference)
    before = window.update(0, frame(noise=6))
    with pytest.raises(ValueError, match='not finite'):
        window.update(SECOND, frame(luminance_mean=bad))
    with pytest.raises(ValueError, match='statistics and features, not'):
        window.update(SECOND, np.zeros(S - 1))
    assert window.update(SECOND, frame(noise=6)) == before


# --------------------------------------------------------------------------------- features

FEATURES = {'early': np.array([0.2, 0.0]), 'deep': np.array([0.0])}


def with_features(reference: KindReference) -> KindReference:
    """Noise is told by the second early channel; nothing else reads features."""
    weights = np.zeros((len(CLASSES), 2 * (S + 3)))
    for i, offset in ((0, 0), (1, S + 3)):
        weights[:, offset : offset + S] = reference.weights[:, i * S : (i + 1) * S]
    weights[CLASSES.index('noise'), S + 1] = 3
    return replace(
        reference, weights=weights, location=np.append(reference.location, np.zeros(3)),
        scale=np.append(reference.scale, np.ones(3)),
    )  # fmt: skip


def test_features_stand_behind_the_statistics(reference: KindReference) -> None:
    assert reference.values(frame(noise=6), FEATURES).tolist() == frame(noise=6).tolist()
    seen = with_features(reference).values(frame(noise=6), FEATURES)
    assert seen.tolist() == [*frame(noise=6), 0.2, 0.0, 0.0]


def test_a_kind_may_be_told_by_features(reference: KindReference) -> None:
    fitted = with_features(reference)
    assert fitted.classify(fitted.values(frame(), FEATURES)).name == 'none'
    loud = {'early': np.array([0.0, 20.0]), 'deep': np.array([0.0])}
    kind = fitted.classify(fitted.values(frame(haze=2), loud))
    assert kind.name == 'noise'  # and not other: what is known is known by its statistics
    assert kind.top[0] == ('haze', pytest.approx(2))


def test_features_fit_into_a_file_and_their_number_is_checked(reference: KindReference) -> None:
    fitted = with_features(reference)
    seen = fitted.values(frame(luminance_mean=-5), FEATURES)
    assert KindReference.from_arrays(fitted.arrays()).classify(seen) == fitted.classify(seen)
    with pytest.raises(ValueError, match='statistics and features, not'):
        fitted.classify(seen[:-1])
    with pytest.raises(ValueError, match='scale has shape'):
        KindReference.from_arrays({**fitted.arrays(), 'scale': reference.scale})
    with pytest.raises(ValueError, match='location has shape'):
        KindReference.from_arrays({**fitted.arrays(), 'location': reference.location[1:]})


# ---------------------------------------------------------------------------------- windows


def test_one_odd_frame_does_not_change_the_kind(reference: KindReference) -> None:
    window = KindWindow(reference, window_s=3)
    names = [
        window.update(i * SECOND // 2, frame(noise=9) if i == 4 else frame(luminance_mean=-5)).name
        for i in range(8)
    ]
    assert names == ['dark'] * 8


def test_a_new_kind_is_named_when_it_fills_most_of_the_window(reference: KindReference) -> None:
    window = KindWindow(reference, window_s=3)
    for i in range(6):
        window.update(i * SECOND // 2, frame(luminance_mean=-5))
    names = [window.update((6 + i) * SECOND // 2, frame(noise=6)).name for i in range(6)]
    assert names[0] == 'dark'
    assert names[-1] == 'noise'
    name, z = window.update(7 * SECOND, frame(noise=6)).top[0]
    assert name == 'noise'
    assert z == pytest.approx(6)


def test_the_window_is_forgotten_in_part_or_whole(reference: KindReference) -> None:
    window = KindWindow(reference)
    for i in range(6):
        window.update(i * SECOND // 2, frame(luminance_mean=-5))
    window.forget(3 * SECOND)
    assert window.update(3 * SECOND, frame(noise=6)).name == 'noise'
    window.reset()
    assert window.update(4 * SECOND, frame()).name == 'none'


@pytest.mark.parametrize('stamp_ns', [5 * SECOND, 2 * SECOND, SECOND, 0])
def test_gaps_and_stamps_that_do_not_go_ahead_start_anew(
    reference: KindReference, stamp_ns: int
) -> None:
    window = KindWindow(reference)
    for i in range(3):
        window.update(i * SECOND, frame(luminance_mean=-5))
    assert window.update(stamp_ns, frame(noise=6)).name == 'noise'


def test_the_length_of_a_window_may_change(reference: KindReference) -> None:
    window = KindWindow(reference, window_s=10)
    for i in range(8):
        window.update(i * SECOND, frame(luminance_mean=-5))
    window.window_s = 0.5
    assert window.update(8 * SECOND, frame(noise=6)).name == 'noise'
    for bad in (0.0, -1.0):
        with pytest.raises(ValueError, match='must be positive'):
            KindWindow(reference, window_s=bad)
        with pytest.raises(ValueError, match='must be positive'):
            KindWindow(reference, max_gap_s=bad)


# ------------------------------------------------------------------------------------- files


def test_what_is_written_is_read(reference: KindReference) -> None:
    again = KindReference.from_arrays(reference.arrays())
    statistics = frame(luminance_mean=-4, noise=1)
    assert again.classify(statistics) == reference.classify(statistics)
    assert all(a.dtype.kind in 'fU' for a in reference.arrays().values())


def test_what_was_fitted_on_other_statistics_is_refused(reference: KindReference) -> None:
    stored = reference.arrays()
    stored['statistics'] = np.array([*STATISTICS[:-1], 'mood'])
    with pytest.raises(ValueError, match='statistics of another release'):
        KindReference.from_arrays(stored)


@pytest.mark.parametrize(
    ('name', 'value', 'message'),
    [
        ('location', np.zeros(S + 1), 'scale has shape'),  # a feature more
        ('weights', np.zeros((3, 2 * S)), 'weights has shape'),
        ('prototypes', np.zeros((0, S)), 'prototypes has shape'),
        ('prototypes', np.zeros((4, S - 1)), 'prototypes has shape'),
        ('whitening', np.full((S, S), np.nan), 'not finite'),
        ('scale', np.zeros(S), 'scale is not positive'),
        ('limit', np.array(0.0), 'scale is not positive'),
        ('radius', np.ones(4), 'radius has shape'),
        ('radius', np.zeros(5), 'scale is not positive'),
        ('limit', np.array([1.0]), 'limit has shape'),
        ('least', np.array(1.0), 'least probability'),
    ],
)
def test_nonsense_is_refused(
    reference: KindReference, name: str, value: np.ndarray, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        KindReference.from_arrays(reference.arrays() | {name: value})


@pytest.mark.parametrize('name', ['bias', 'statistics'])
def test_a_missing_field_is_told(reference: KindReference, name: str) -> None:
    stored = reference.arrays()
    del stored[name]
    with pytest.raises(KeyError, match=name):
        KindReference.from_arrays(stored)


def test_kinds_are_those_that_operators_know() -> None:
    assert KINDS == (
        'dark', 'haze', 'rain', 'snow', 'blur', 'noise', 'lens dirt', 'exposure', 'compression',
    )  # fmt: skip
    assert set(CLASSES) - set(KINDS) == {'none', 'other'}
