# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest

from clcp_ros.errors import PairSetError
from training.retrieval.protocols import Places, lip_loc_recall, strict


def _drive(count: int = 60, loops: int = 2, seed: int = 0) -> Places:
    """Laps of a circle of 100 m radius; a frame a second."""
    angle = np.linspace(0, 2 * np.pi * loops, count, endpoint=False)
    positions = np.column_stack([100 * np.cos(angle), 100 * np.sin(angle), 0.1 * angle])
    return Places(positions, np.arange(count) * 10**9, np.full(count, 'a'))


def _embeddings(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(count, 8))
    return image, image + 1.5 * rng.normal(size=(count, 8))


def test_published_protocol_is_that_of_a_plain_loop() -> None:
    image, lidar = _embeddings(60)
    positions = np.random.default_rng(1).normal(scale=15, size=(60, 3))
    matches = 0
    for i in range(60):
        answer = max(range(60), key=lambda j: float(image[i] @ lidar[j]))
        y, z = positions[i, 1] - positions[answer, 1], positions[i, 2] - positions[answer, 2]
        matches += math.sqrt(y * y + z * z) < 20
    recall = lip_loc_recall(image, lidar, positions)
    assert recall == matches / 60
    assert 0 < recall < 1


def test_published_protocol_ignores_the_first_axis_and_counts_the_own_frame() -> None:
    image, _ = _embeddings(10)
    far = np.zeros((10, 3))
    far[:, 0] = 1000 * np.arange(10)
    assert lip_loc_recall(image, -image, far) == 1.0
    far[:, 1] = far[:, 0]
    assert lip_loc_recall(10 * np.eye(10), np.eye(10), far) == 1.0
    assert lip_loc_recall(10 * np.eye(10), np.roll(np.eye(10), 1, axis=0), far) == 0.0


def test_published_radius_is_exclusive() -> None:
    positions = np.array([[0, 0, 0], [0, 20.0, 0]])
    answers_other = np.array([[0, 1], [1, 0]])
    assert lip_loc_recall(np.eye(2), answers_other, positions) == 0.0
    assert lip_loc_recall(np.eye(2), answers_other, positions, 20.001) == 1.0


@pytest.mark.parametrize('exclude_s', [0, 10])
def test_strict_is_that_of_a_plain_loop(exclude_s: float) -> None:
    places = _drive()
    image, lidar = _embeddings(60, 2)
    for result in strict(image, lidar, places, exclude_s=exclude_s, radii_m=(1, 12, 25)):
        ranks = []
        for i in range(60):
            allowed = [j for j in range(60) if j != i and abs(i - j) >= exclude_s]
            allowed.sort(key=lambda j: -float(image[i] @ lidar[j]))
            right = [
                rank
                for rank, j in enumerate(allowed, 1)
                if np.hypot(*(places.positions[i] - places.positions[j])[:2]) <= result.radius_m
            ]
            if right:
                ranks.append(right[0])
        assert result.queries == len(ranks)
        assert result.left_out == 60 - len(ranks)
        assert result.median_rank == np.median(ranks)
        for k in (1, 5, 10):
            assert result.recall[str(k)] == np.mean(np.array(ranks) <= k)
        assert result.recall['1%'] == result.recall['1']  # a percent of 60 is one entry


def test_strict_leaves_out_the_own_neighbourhood() -> None:
    places = _drive(40, loops=1)  # no place twice
    image = np.random.default_rng(0).normal(size=(40, 8))
    with pytest.raises(PairSetError, match='no place was seen twice'):
        strict(image, image, places, exclude_s=15, radii_m=(1, 5))


def test_strict_takes_other_sequences_as_wrong_unless_they_share_a_world() -> None:
    laps = _drive(60)
    names = np.repeat(['a', 'b'], 30)
    places = Places(laps.positions, laps.stamps_ns, names)
    same_place = np.tile(np.eye(30), (2, 1))
    with pytest.raises(PairSetError, match='no place was seen twice'):
        strict(same_place, same_place, places, radii_m=(1,))
    (result,) = strict(same_place, same_place, places, cross_sequence=True, radii_m=(1,))
    assert result.recall['1'] == 1.0
    assert result.queries == 60
    assert result.median_rank == 1


def test_chance_is_what_random_embeddings_reach() -> None:
    places = _drive(400, loops=4)
    found, told = [], {}
    for seed in range(8):
        rng = np.random.default_rng(seed)
        image, lidar = rng.normal(size=(2, 400, 16))
        (result,) = strict(image, lidar, places, exclude_s=20, radii_m=(60,))
        found.append([result.recall[k] for k in ('1', '10', '1%')])
        told = result.chance
    assert np.mean(found, axis=0) == pytest.approx([told[k] for k in ('1', '10', '1%')], rel=0.15)


def test_damaged_input_is_refused() -> None:
    image, lidar = _embeddings(10)
    places = _drive(10)
    with pytest.raises(PairSetError, match='cannot be compared'):
        lip_loc_recall(image, lidar[:, :4], places.positions)
    with pytest.raises(PairSetError, match='10 queries and 9 entries'):
        strict(image, lidar[:9], places)
    lidar[3, 2] = np.nan
    with pytest.raises(PairSetError, match='not finite'):
        strict(image, lidar, places)
    with pytest.raises(PairSetError, match='finite positions'):
        Places(np.full((2, 3), np.nan), np.zeros(2), np.array(['a', 'a']))
