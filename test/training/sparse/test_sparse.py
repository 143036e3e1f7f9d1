# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clcp_ros.errors import ModelError
from training.sparse import SparseGrid, batch_voxels, sparse_conv, voxelize

SHAPE = (7, 6, 5)


def random_batch(
    seed: int, samples: int = 2, channels: int = 3
) -> tuple[SparseGrid, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    coords = torch.nonzero(torch.rand((samples, *SHAPE), generator=generator) < 0.3)
    coords = coords[torch.randperm(len(coords), generator=generator)]
    features = torch.randn(len(coords), channels, generator=generator, dtype=torch.float64)
    return SparseGrid(coords, samples), features


def to_dense(grid: SparseGrid, features: torch.Tensor) -> torch.Tensor:
    dense = features.new_zeros((grid.batch_size, *SHAPE, features.shape[1]))
    dense[tuple(grid.coords.T)] = features
    return dense.permute(0, 4, 1, 2, 3)


def test_submanifold_equals_dense_conv3d() -> None:
    grid, features = random_batch(0)
    kernel = torch.randn(27, 3, 4, dtype=torch.float64)
    # Offsets are numbered with x fastest, so a kernel reads as [z][y][x].
    weight = kernel.view(3, 3, 3, 3, 4).permute(4, 3, 2, 1, 0)
    dense = F.conv3d(to_dense(grid, features), weight, padding=1)
    expected = dense.permute(0, 2, 3, 4, 1)[tuple(grid.coords.T)]
    torch.testing.assert_close(sparse_conv(features, kernel, grid.neighbours), expected)


def test_strided_and_transposed_equal_dense() -> None:
    grid, features = random_batch(1)
    kernel = torch.randn(8, 3, 4, dtype=torch.float64)
    coarse, down = grid.coarser
    # Even kernels are numbered with z fastest: [x][y][z].
    weight = kernel.view(2, 2, 2, 3, 4).permute(4, 3, 0, 1, 2)
    padded = F.pad(to_dense(grid, features), (0, 1, 0, 0, 0, 1))
    dense = F.conv3d(padded, weight, stride=2)
    y = sparse_conv(features, kernel, down)
    torch.testing.assert_close(y, dense.permute(0, 2, 3, 4, 1)[tuple(coarse.coords.T)])
    assert int((dense.abs().sum(dim=1) > 0).sum()) == len(coarse)

    back = torch.randn(8, 4, 2, dtype=torch.float64)
    dense_up = F.conv_transpose3d(dense, back.view(2, 2, 2, 4, 2).permute(3, 4, 0, 1, 2), stride=2)
    up = sparse_conv(y, back, down.transposed)
    torch.testing.assert_close(up, dense_up.permute(0, 2, 3, 4, 1)[tuple(grid.coords.T)])


def test_gradients() -> None:
    grid, features = random_batch(2, samples=1)
    kernel = torch.randn(27, 3, 2, dtype=torch.float64, requires_grad=True)
    features.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda f, k: sparse_conv(f, k, grid.neighbours), (features, kernel)
    )


def test_a_batch_is_its_samples() -> None:
    grid, features = random_batch(3, samples=3)
    kernel = torch.randn(27, 3, 4, dtype=torch.float64)
    whole = sparse_conv(features, kernel, grid.neighbours)
    for i in range(3):
        rows = grid.samples == i
        single = grid.coords[rows].clone()
        single[:, 0] = 0
        alone = sparse_conv(features[rows], kernel, SparseGrid(single, 1).neighbours)
        torch.testing.assert_close(whole[rows], alone)


def test_empty_sample_and_pooling() -> None:
    points = np.array([[0, 0, 0, 1], [5, 0, 0, 3]], np.float32)
    empty = voxelize(points[:0], 0.1)
    grid, features = batch_voxels([voxelize(points, 0.1), empty])
    pooled = grid.mean_per_sample(features)
    torch.testing.assert_close(pooled, torch.tensor([[2.5, 0, 0, 2], [0, 0, 0, 0.0]]))


def test_voxels_keep_the_first_point_and_round() -> None:
    points = np.array(
        [[0.30, 0, 0, 0.1], [0.04, 0, 0, 0.2], [0.06, 0, 0, 0.3], [0.32, 0, 0, 0.4]], np.float32
    )
    voxels = voxelize(points, 0.1)
    assert voxels.coords.tolist() == [[0, 0, 0], [1, 0, 0], [3, 0, 0]]
    assert voxels.features[:, 3].tolist() == pytest.approx([0.2, 0.3, 0.1])
    assert voxels.point_to_voxel.tolist() == [2, 0, 1, 2]


def test_impossible_input_is_refused() -> None:
    with pytest.raises(ModelError, match='NaN'):
        voxelize(np.full((2, 4), np.nan, np.float32), 0.1)
    with pytest.raises(ModelError, match='outliers'):
        voxelize(np.array([[0, 0, 0, 0], [1e7, 0, 0, 0]], np.float32), 0.05)
    with pytest.raises(ModelError, match='same coordinates'):
        SparseGrid(torch.zeros((2, 4), dtype=torch.int64), 1)
    with pytest.raises(ModelError, match='too large'):
        SparseGrid(torch.tensor([[0, 0, 0, 0], [0, 2**22, 2**22, 2**22]]), 1)
