# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from training.segmentation.inference import Decision
from training.segmentation.scores import Scores


def test_frames_are_ranked_by_their_own_miou() -> None:
    scores = Scores.of(2)
    label = np.zeros((4, 10), np.uint8)
    label[:, 5:] = 1
    sure = np.full(label.shape, 255, np.uint8)
    for name, wrong in (('c', 4), ('a', 0), ('b', 8), ('d', 2)):
        mask = label.copy()
        mask.ravel()[:wrong] = 1  # half of each row is 1 anyway
        scores.update(name, Decision(mask, sure), label)
    scores.update('unlabelled', Decision(label, sure), np.full(label.shape, 255, np.uint8))
    assert scores.chosen() == {'best': 'a', 'median': 'c', 'worst': 'b'}
    assert scores.matrix.counts.sum() == 160
    assert scores.calibration.count.sum() == 160
    assert scores.calibration.error() == pytest.approx(11 / 160)
    assert scores.boundary is not None
    assert 0 < scores.boundary.miou() < 1
    assert np.isnan(scores.frames[-1][1])


def test_few_frames() -> None:
    scores = Scores.of(2, boundary=False)
    assert scores.chosen() == {}
    label = np.zeros((2, 2), np.uint8)
    scores.update('one', Decision(label, label), label)
    assert scores.chosen() == {'best': 'one'}
    assert scores.boundary is None


def test_scores_of_frames_add_up() -> None:
    rng = np.random.default_rng(0)
    together, summed = Scores.of(3), Scores.of(3)
    for i in range(4):
        label, mask, sure = rng.integers(0, 3, (3, 20, 30), dtype=np.uint8)
        together.update(str(i), Decision(mask, sure), label)
        one = Scores.of(3)
        one.update(str(i), Decision(mask, sure), label)
        summed += one
    assert summed.frames == together.frames
    np.testing.assert_array_equal(summed.matrix.counts, together.matrix.counts)
    np.testing.assert_array_equal(summed.calibration.count, together.calibration.count)
    np.testing.assert_array_equal(summed.calibration.right, together.calibration.right)
    assert summed.boundary is not None
    assert together.boundary is not None
    np.testing.assert_array_equal(summed.boundary.union, together.boundary.union)
