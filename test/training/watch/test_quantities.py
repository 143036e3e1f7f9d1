# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from training.watch.quantities import (
    alignment,
    effective_rank,
    linear_cka,
    patch_cosines,
    patch_similarity,
    uniformity,
)


def test_alignment_is_the_squared_distance_of_partners() -> None:
    x = torch.tensor([[1.0, 0], [0, 3]])
    assert alignment(x, 5 * x) == pytest.approx(0)
    assert alignment(x, x.flip(0)) == pytest.approx(2)
    assert alignment(x, -x) == pytest.approx(4)


def test_uniformity_of_a_point_and_of_a_sphere() -> None:
    torch.manual_seed(0)
    assert uniformity(torch.ones(5, 3)) == pytest.approx(0, abs=1e-5)
    # Two opposite points: squared distance 4.
    assert uniformity(torch.tensor([[1.0, 0], [-1, 0]])) == pytest.approx(-8)
    assert uniformity(torch.randn(500, 128)) == pytest.approx(-4, abs=0.1)


@pytest.mark.parametrize(('rows', 'columns'), [(400, 8), (10, 40)])
def test_effective_rank_counts_directions(rows: int, columns: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(rows, columns)
    q, _ = torch.linalg.qr(x - x.mean(0))
    k = min(rows - 1, columns)
    assert effective_rank(q + 7) == pytest.approx(k, abs=0.1)
    line = torch.randn(rows, 1) * torch.randn(1, columns)
    assert effective_rank(line + 3) == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.ones(rows, columns)) == 0


def test_cka_knows_rotations_from_noise() -> None:
    torch.manual_seed(0)
    x = torch.randn(600, 6)
    rotation, _ = torch.linalg.qr(torch.randn(6, 6))
    assert linear_cka(x, 3 * x @ rotation + 1) == pytest.approx(1)
    assert linear_cka(x, torch.randn(600, 9)) < 0.1
    assert linear_cka(x, torch.ones(600, 2)) == 0


def test_cosines_between_encoders_and_between_patches() -> None:
    x = torch.tensor([[[1.0, 0], [0, 1]]])
    assert patch_cosines(x, 2 * x).tolist() == [1, 1]
    assert patch_cosines(x, x.flip(1)).tolist() == [0, 0]
    assert patch_similarity(x) == pytest.approx(0)
    assert patch_similarity(torch.ones(2, 5, 3)) == pytest.approx(1)
    many = F.normalize(torch.tensor([[[1.0, 0], [1, 1], [0, 1]]]), dim=2)
    assert patch_similarity(many) == pytest.approx(2 * math.sqrt(0.5) / 3)


@pytest.mark.parametrize('value', [math.nan, math.inf])
@pytest.mark.parametrize('shape', [(20, 4), (4, 20)])
def test_what_is_not_finite_has_no_quantity(value: float, shape: tuple[int, int]) -> None:
    x = torch.randn(shape)
    x[1, 2] = value
    y = torch.randn(shape)
    for quantity in (effective_rank(x), uniformity(x), alignment(x, y), linear_cka(x, y)):
        assert math.isnan(quantity)
