# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Batches keep neighbours apart, cover each pass once, and are possible whenever they can be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clcp_ros.errors import PairSetError
from training.loop import StepBatches
from training.pairs.batches import Spacing

S = 1_000_000_000


def drives(lengths: list[int], hz: float = 10) -> tuple[np.ndarray, np.ndarray]:
    names = np.concatenate([np.full(n, f'drive{i}') for i, n in enumerate(lengths)])
    stamps = np.concatenate([np.arange(n) * round(S / hz) for n in lengths])
    return names, stamps


def closest(spacing: Spacing, batch: np.ndarray) -> float:
    """The shortest time in seconds between two samples of one sequence."""
    found = np.inf
    for name in set(spacing.sequences[batch].tolist()):
        stamps = np.sort(spacing.stamps_ns[batch][spacing.sequences[batch] == name])
        if len(stamps) > 1:
            found = min(found, int(np.diff(stamps).min()) / S)
    return found


def test_neighbours_do_not_meet_and_nothing_is_seen_twice():
    spacing = Spacing(*drives([200, 333, 50]), gap_s=2)
    order = spacing.order(16, np.random.default_rng(1)).reshape(-1, 16)
    assert len(order) == 583 // 16
    assert len(np.unique(order)) == order.size
    assert min(closest(spacing, batch) for batch in order) >= 2
    again = spacing.order(16, np.random.default_rng(1)).reshape(-1, 16)
    np.testing.assert_array_equal(order, again)
    other = spacing.order(16, np.random.default_rng(2)).reshape(-1, 16)
    assert not np.array_equal(np.sort(order, axis=1), np.sort(other, axis=1))


def test_batches_are_random():
    """Whether two samples far apart meet follows from the seed alone, at about the chance rate."""
    spacing = Spacing(*drives([400]), gap_s=1)
    met = []
    for seed in range(300):
        order = spacing.order(20, np.random.default_rng(seed)).reshape(-1, 20)
        batch = next(b for b in order if 10 in b)
        met.append(350 in batch)
    assert 0.02 < np.mean(met) < 0.09  # 1 of 20 batches


def test_the_limit_is_said_and_right():
    spacing = Spacing(*drives([100, 100]), gap_s=2)
    # 20 neighbours within two seconds: 20 batches of 10 are possible, 18 of 11 are not.
    spacing.check(10)
    with pytest.raises(PairSetError, match=r'at most 10 pairs per batch are possible, or 1.8 s'):
        spacing.check(11)
    assert spacing.largest_gap(11) == pytest.approx(1.8)
    Spacing(*drives([100, 100]), gap_s=1.8).order(11, np.random.default_rng(0))
    with pytest.raises(PairSetError, match='drive1'):
        Spacing(*drives([4, 100]), gap_s=2).check(30)
    assert Spacing(*drives([2, 2]), gap_s=9).largest_gap(2) == np.inf


@settings(deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 300), min_size=1, max_size=60), min_size=1, max_size=5),
    st.integers(1, 12),
    st.integers(0, 40),
    st.integers(0, 9),
)
def test_possible_batches_are_always_found(sequences, batch_size, gap, seed):
    names = np.concatenate([np.full(len(s), i) for i, s in enumerate(sequences)])
    stamps = np.concatenate([np.array(s, np.int64) * S for s in sequences])
    spacing = Spacing(names, stamps, gap)
    batch_size = min(batch_size, len(names))
    try:
        spacing.check(batch_size)
    except PairSetError:
        assert spacing.largest_gap(batch_size) < gap
        return
    assert spacing.largest_gap(batch_size) >= gap
    order = spacing.order(batch_size, np.random.default_rng(seed))
    assert len(np.unique(order)) == len(order) == len(names) // batch_size * batch_size
    assert all(closest(spacing, batch) >= gap for batch in order.reshape(-1, batch_size))


def test_steps_of_a_run():
    names, stamps = drives([120, 130])
    spacing = Spacing(names, stamps, 1)
    positions = np.arange(1000, 1250)
    run = StepBatches(positions, 12, 90, seed=4, spacing=spacing)
    assert run.steps_per_pass == 20
    for first in (0, 20, 40):
        seen = [p for step in range(first, first + 20) for p, _ in run.batch(step)]
        assert len(seen) == len(set(seen)) == 240
    resumed = StepBatches(positions, 12, 90, seed=4, start=27, spacing=spacing)
    assert list(resumed) == [run.batch(step) for step in range(27, 90)]
    ranks = [
        StepBatches(positions, 12, 90, 4, rank=r, world_size=2, spacing=spacing) for r in (0, 1)
    ]
    for step in (0, 33):
        assert sorted(ranks[0].batch(step) + ranks[1].batch(step)) == sorted(run.batch(step))
    with pytest.raises(PairSetError, match='between them'):
        StepBatches(positions, 200, 90, 4, spacing=spacing)
