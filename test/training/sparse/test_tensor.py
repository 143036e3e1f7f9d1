# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clcp_ros.errors import ModelError
from training.sparse import BatchNorm, Conv, ReLU, SparseTensor, cat

Make = Callable[..., Any]


def test_a_small_network(random_batch: Make, to_dense: Make) -> None:
    """Down, up and joined: on a full volume it is the dense network."""
    grid, features = random_batch(0, share=1.1)
    coords = grid.coords[grid.coords[:, 1:].lt(torch.tensor([6, 6, 4])).all(dim=1)]
    x = SparseTensor.of(coords, features[: len(coords)], 2)
    down, up = Conv(3, 4, 'strided').double(), Conv(4, 5, 'transposed').double()
    point = Conv(8, 2, 'pointwise').double()
    y = down(x)
    assert (y.stride, y.batch_size, y.features.shape[1]) == (2, 2, 4)
    z = point(cat([up(ReLU()(y)), x]))
    assert torch.equal(z.coords, x.coords)
    dense = x.dense((0, 0, 0), (6, 6, 4))
    half = F.conv3d(dense, down.conv.kernel.view(2, 2, 2, 3, 4).permute(4, 3, 0, 1, 2), stride=2)
    kernel = up.conv.kernel.view(2, 2, 2, 4, 5).permute(3, 4, 0, 1, 2)
    full = torch.cat([F.conv_transpose3d(half.relu(), kernel, stride=2), dense], dim=1)
    expected = torch.einsum('bcxyz,cd->bdxyz', full, point.conv.kernel)
    torch.testing.assert_close(z.dense((0, 0, 0), (6, 6, 4)), expected)
    torch.testing.assert_close(z.mean(), expected.mean(dim=(2, 3, 4)))
    torch.testing.assert_close(z.max(), expected.amax(dim=(2, 3, 4)))


def test_a_network_learns(random_batch: Make) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        Conv(3, 8), BatchNorm(8), ReLU(), Conv(8, 8, 'strided'), BatchNorm(8), ReLU(),
        Conv(8, 8, 'transposed'), Conv(8, 2, 'pointwise'),
    ).double()  # fmt: skip
    grid, features = random_batch(1, samples=3)
    wanted = torch.tensor([[0.0, 1], [1, 0], [-1, 1]], dtype=torch.float64)
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    losses = []
    for _ in range(60):
        loss = F.mse_loss(net(SparseTensor(features, grid)).mean(), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.1 * losses[0]


def test_batch_norm_bears_a_single_voxel() -> None:
    x = SparseTensor.of(torch.tensor([[0, 1, 2, 3]]), torch.ones(1, 2))
    norm = BatchNorm(2)
    torch.testing.assert_close(norm(x).features, norm.eval()(x).features)


def test_dense_box_leaves_out_what_lies_outside() -> None:
    coords = torch.tensor([[0, -1, 0, 0], [0, 5, 5, 5], [1, 1, 1, 1]])
    x = SparseTensor.of(coords, torch.tensor([[1.0], [2], [3]]))
    box = x.dense((-1, -1, -1), (3, 3, 3))
    assert box.shape == (2, 1, 3, 3, 3)
    assert box[0, 0, 0, 1, 1] == 1
    assert box[1, 0, 2, 2, 2] == 3
    assert box.sum() == 4
    assert x.to('cpu').grid is x.grid


def test_what_does_not_fit_is_refused(random_batch: Make) -> None:
    grid, features = random_batch(2)
    x = SparseTensor(features, grid)
    with pytest.raises(ModelError, match='rows of features'):
        x.replace(features[1:])
    with pytest.raises(ModelError, match='there was none'):
        Conv(3, 4, 'transposed').double()(x)
    with pytest.raises(ModelError, match='different voxels'):
        cat([x, Conv(3, 4, 'strided').double()(x)])
    with pytest.raises(ModelError, match='unknown convolution'):
        Conv(3, 4, 'dilated')  # type: ignore[arg-type]
    torch.testing.assert_close((x + x).features, 2 * features)
