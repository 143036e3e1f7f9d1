# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from training.methods.losses import clip_loss, retrieval


def simplex(n: int) -> torch.Tensor:
    """n unit vectors with the same, lowest possible cosine between any two."""
    x = torch.eye(n, dtype=torch.float64) - 1 / n
    return F.normalize(x, dim=1)


def test_perfect_pairs_reach_the_floor() -> None:
    x = simplex(256)
    assert float(clip_loss(x, x, 1 / 0.07)) < 1e-3


def test_inverted_temperature_cannot() -> None:
    """The thesis' code divided by exp(0.07): even perfect pairs stay at 4.62."""
    x = simplex(256)
    assert float(clip_loss(x, x, math.exp(-0.07))) == pytest.approx(4.62, abs=0.01)


def test_chance_and_symmetry() -> None:
    torch.manual_seed(0)
    a, b = F.normalize(torch.randn(2, 64, 512), dim=2)
    assert float(clip_loss(a, b, 1.0)) == pytest.approx(math.log(64), abs=0.05)
    assert float(clip_loss(a, b, 10.0)) == pytest.approx(float(clip_loss(b, a, 10.0)))
    wrong_way = clip_loss(a, a.flip(0), 14.3)
    assert float(clip_loss(a, a, 14.3)) < 0.1 < float(wrong_way)


def test_retrieval_by_hand() -> None:
    image = F.normalize(torch.tensor([[1.0, 0], [0, 1], [1, 1]]), dim=1)
    lidar = F.normalize(torch.tensor([[1.0, 0], [1, 0.1], [1, 1]]), dim=1)
    # Only image 1 (its own scan comes second) and scan 1 (its own image comes last) fail.
    result = retrieval(image, lidar)
    assert result['r1'] == pytest.approx(4 / 6)
    assert result['rank'] == 1
    assert retrieval(image, image)['r1'] == 1


@pytest.mark.parametrize('value', [math.nan, math.inf])
def test_embeddings_that_are_not_finite_find_nothing(value: float) -> None:
    image = F.normalize(torch.randn(6, 4), dim=1)
    lidar = torch.full((6, 4), value)
    assert all(math.isnan(v) for v in retrieval(image, lidar).values())
    assert all(math.isnan(v) for v in retrieval(lidar, image).values())
