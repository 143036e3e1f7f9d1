# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clcp_ros.errors import ModelError
from training.sparse import SparseGrid, interpolate, voxelize


def full_grid(n: int = 4) -> tuple[SparseGrid, torch.Tensor]:
    coords = torch.nonzero(torch.ones(2, n, n, n))
    features = torch.randn(
        len(coords), 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    return SparseGrid(coords, 2), features


def test_trilinear_equals_grid_sample() -> None:
    grid, features = full_grid()
    generator = torch.Generator().manual_seed(1)
    xyz = torch.rand(30, 3, generator=generator, dtype=torch.float64) * 3
    points = torch.cat([torch.randint(0, 2, (30, 1), generator=generator), xyz], dim=1)
    found = interpolate(grid, features, points)
    volume = features.view(2, 4, 4, 4, 3).permute(0, 4, 1, 2, 3)
    at = (xyz / 1.5 - 1).flip(1).view(1, 30, 1, 1, 3).expand(2, -1, -1, -1, -1)
    dense = F.grid_sample(volume, at, align_corners=True)[..., 0, 0].permute(0, 2, 1)
    expected = dense[points[:, 0].long(), torch.arange(30)]
    torch.testing.assert_close(found, expected)
    nearest = interpolate(grid, features, points, 'nearest')
    rows = grid.find(points.round().long())
    torch.testing.assert_close(nearest, features[rows])


def test_missing_voxels_leave_their_weight_to_the_others() -> None:
    grid = SparseGrid(torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0]]), 1)
    features = torch.tensor([[1.0], [3.0]])
    points = torch.tensor([[0, 0.5, 0.4, 0], [0, 0.25, 0, 0.9], [0, 1.9, 0, 0], [0, 2.1, 0, 0]])
    found = interpolate(grid, features, points)
    torch.testing.assert_close(found, torch.tensor([[2.0], [1.5], [3.0], [0.0]]))
    found = interpolate(grid, features, points, 'nearest')
    torch.testing.assert_close(found[1:], torch.tensor([[1.0], [3.0], [0.0]]))


def test_coarse_voxels_lie_between_the_fine_ones() -> None:
    """A coarse voxel covers fine ones 0 and 1 along each axis, so its centre is at 0.5."""
    grid, _ = full_grid()
    coarse, _ = grid.coarser
    centres = coarse.coords[:, 1:].double() * 2 + 0.5
    points = torch.cat([coarse.coords[:, :1].double(), centres], dim=1)
    for mode in ('trilinear', 'nearest'):
        torch.testing.assert_close(interpolate(coarse, centres, points, mode), centres)
    between = torch.tensor([[0, 1.5, 0.5, 0.5]], dtype=torch.float64)
    assert interpolate(coarse, centres, between)[0].tolist() == [1.5, 0.5, 0.5]


def test_gradient_and_types() -> None:
    grid, features = full_grid(2)
    points = torch.tensor([[0, 0.3, 0.2, 0.7], [1, 0.9, -0.4, 1.3]], dtype=torch.float64)
    for mode in ('trilinear', 'nearest'):
        assert torch.autograd.gradcheck(
            lambda f, m=mode: interpolate(grid, f, points, m), (features.clone().requires_grad_(),)
        )
    assert interpolate(grid, features.bfloat16(), points).dtype == torch.bfloat16


def test_points_of_a_scan_find_their_voxels() -> None:
    points = np.random.default_rng(0).uniform(-5, 5, (200, 4)).astype(np.float32)
    voxels = voxelize(points, 0.5)
    grid = SparseGrid(torch.nn.functional.pad(torch.from_numpy(voxels.coords), (1, 0)), 1)
    units = np.round(points[:, :3].astype(np.float64) / 0.5)
    at = points[:, :3].astype(np.float64) / 0.5 - units.min(axis=0)
    at = torch.nn.functional.pad(torch.from_numpy(at), (1, 0))
    rows = torch.arange(len(grid), dtype=torch.float64)[:, None]
    found = interpolate(grid, rows, at, 'nearest')[:, 0].long()
    assert found.tolist() == voxels.point_to_voxel.tolist()


def test_nothing_and_nonsense() -> None:
    grid, features = full_grid(2)
    none = SparseGrid(torch.zeros((0, 4), dtype=torch.int64), 1)
    empty = torch.zeros((0, 3), requires_grad=True)
    out = interpolate(none, empty, torch.zeros(2, 4))
    assert out.tolist() == [[0, 0, 0], [0, 0, 0]]
    out.sum().backward()
    assert interpolate(grid, features, torch.zeros(0, 4)).shape == (0, 3)
    with pytest.raises(ModelError, match='unknown interpolation'):
        interpolate(grid, features, torch.zeros(1, 4), 'cubic')  # type: ignore[arg-type]
    with pytest.raises(ModelError, match='points'):
        interpolate(grid, features, torch.zeros(1, 3))
