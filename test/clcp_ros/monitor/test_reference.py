# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Distances from the training domain are what their definitions say, and finite for everything."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from clcp_ros.monitor.reference import (
    Direction,
    Gaussian,
    Neighbours,
    SceneModel,
    ShiftReference,
    TapReference,
    normalized,
)
from clcp_ros.monitor.statistics import STATISTICS

S, D1, D2, C = len(STATISTICS), 12, 8, 5


def gaussian(channels: int, unit: bool = False, seed: int = 0) -> Gaussian:
    rng = np.random.default_rng(seed)
    components = np.linalg.qr(rng.normal(size=(channels, 3)))[0].T
    return Gaussian(
        mean=rng.normal(size=channels),
        scale=rng.uniform(0.5, 2, channels),
        components=components,
        variances=np.array([4.0, 2.0, 1.5]),
        residual_variance=np.asarray(0.5),
        unit=unit,
    )


def neighbours(rows: np.ndarray, rank: int = 1) -> Neighbours:
    return Neighbours(np.stack([normalized(r) for r in rows]).astype(np.float16), rank)


def reference(scene: bool = True) -> ShiftReference:
    rng = np.random.default_rng(1)
    one, two = (np.zeros(n) for n in (1, 2))
    return ShiftReference(
        low=TapReference(
            (gaussian(S), Direction(np.zeros(S), np.ones(S), rng.normal(size=S))), two, two + 0.3
        ),
        early=TapReference((gaussian(D1, unit=True),), one, one + 0.3),
        deep=TapReference((gaussian(D2), neighbours(rng.normal(size=(20, D2)))), two, two + 0.3),
        location=np.asarray(0.2),
        spread=np.asarray(0.8),
        scene=SceneModel(
            weights=np.array([2.0, 0, 0, 0, -1.0]), mean=np.full(C, 0.2), least=np.zeros(C),
            largest=np.full(C, 0.6), range=np.array([-0.5, 0.7]),
        ) if scene else None,
    )  # fmt: skip


def frame(seed: int) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)
    features = {'early': rng.normal(size=D1), 'deep': rng.normal(size=D2)}
    return rng.normal(size=S), features, rng.dirichlet(np.ones(C))


def test_no_channel_decides_alone() -> None:
    g = gaussian(40)
    one = g.mean.copy()
    one[7] += 1e12
    limited = g.mean.copy()
    limited[7] += 30 * g.scale[7]
    assert g.log_distance(one) == pytest.approx(g.log_distance(limited))
    tap = TapReference((g,), np.zeros(1), np.full(1, 1e-3))
    assert tap.z(one) == TapReference.Z_RANGE[1]


FINITE = st.floats(-(2.0**100), 2.0**100, width=32)


@given(
    low=arrays.arrays(np.float64, S, elements=FINITE),
    early=arrays.arrays(np.float32, D1, elements=FINITE),
    deep=arrays.arrays(np.float32, D2, elements=FINITE),
    scene=arrays.arrays(np.float64, C, elements=st.floats(width=64)),
)
def test_a_score_is_finite_and_bounded_whatever_comes(low, early, deep, scene) -> None:
    score = reference().score(low, {'early': early, 'deep': deep}, scene)
    assert all(np.isfinite([score.novelty, score.correction]))
    for z in (score.low, score.early, score.deep):
        assert -4 <= z <= 12
    assert -0.5 <= score.correction <= 0.7


def test_black_and_dead_inputs_are_novel_and_finite() -> None:
    zeros = reference().score(np.zeros(S), {'early': np.zeros(D1), 'deep': np.zeros(D2)})
    assert np.isfinite(zeros.novelty)


def test_the_scene_explains_no_more_than_it_did_on_nominal_frames() -> None:
    """A blind camera whose mask is one class must not be excused for it."""
    r = reference()
    low, features, _ = frame(0)
    average = r.score(low, features)
    assert average.correction == 0
    one_class = np.eye(C)[0]
    excused = r.score(low, features, one_class)
    assert excused.correction == 0.7
    assert excused.novelty == pytest.approx(average.novelty - 0.7)
    assert reference(scene=False).score(low, features, one_class).correction == 0
    assert r.score(low, features, np.full(C, np.nan)).correction == pytest.approx(0)


@pytest.mark.parametrize('scene', [True, False])
def test_a_reference_survives_arrays(scene: bool) -> None:
    r = reference(scene)
    again = ShiftReference.from_arrays({n: np.array(a) for n, a in r.arrays().items()})
    for seed in range(5):
        assert again.score(*frame(seed)) == r.score(*frame(seed))
    assert all(a.dtype.kind in 'bfiuU' for a in r.arrays().values())


@pytest.mark.parametrize(
    ('name', 'value', 'error'),
    [
        ('low.0.mean', np.full(S, np.nan), 'not finite'),
        ('low.0.mean', np.zeros(S - 1), 'shape'),
        ('low.0.scale', np.zeros(S), 'not positive'),
        ('deep.1.coreset', np.zeros((4, D2 + 1), np.float16), 'channels'),
        ('deep.1.rank', np.asarray(21), 'neighbour 21'),
        ('deep.spread', np.array([1.0, -1.0]), 'not positive'),
        ('early.location', np.zeros((1, 1)), 'shape'),
        ('early.0.components', np.full((3, D1), np.inf), 'not finite'),
        ('low.1.weights', np.full(S, np.inf), 'not finite'),
        ('spread', np.asarray('1'), 'spread'),
        ('statistics', np.array(STATISTICS[:15]), 'statistics'),
        ('scene.range', np.array([1.0, 0.0]), 'empty range'),
        ('scene.mean', np.zeros(C + 1), 'shape'),
    ],
)
def test_nonsense_is_refused(name: str, value: np.ndarray, error: str) -> None:
    arrays_ = reference().arrays()
    assert name in arrays_
    with pytest.raises(ValueError, match=error):
        ShiftReference.from_arrays({**arrays_, name: value})


@pytest.mark.parametrize('name', ['low.0.mean', 'deep.1.rank', 'location', 'scene.least'])
def test_a_missing_array_is_refused(name: str) -> None:
    arrays_ = {n: a for n, a in reference().arrays().items() if n != name}
    with pytest.raises(KeyError):
        ShiftReference.from_arrays(arrays_)
