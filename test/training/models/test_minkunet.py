# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from clcp_ros.errors import ModelError
from training.models.minkunet import MinkUNet
from training.sparse import batch_voxels, voxelize


def cloud(seed: int, n: int = 400) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.uniform(0, [4, 4, 2, 1], (n, 4)).astype(np.float32)


def test_published_sizes() -> None:
    count = lambda m: sum(p.numel() for p in m.parameters())  # noqa: E731
    published = MinkUNet('minkunet34_w32')
    assert count(published) == 37_873_280
    assert [count(s) for s in published.encoder] == [119_104, 619_456, 3_361_152, 20_519_680]
    assert [count(s) for s in published.decoder] == [8_588_288, 2_278_912, 1_190_016, 1_165_440]
    assert count(MinkUNet('minkunet18_w32')) == pytest.approx(21.72e6, rel=1e-3)


def test_published_names_and_shapes() -> None:
    state = MinkUNet('minkunet34_w32').state_dict()
    shapes = {k: tuple(v.shape) for k, v in state.items()}
    assert shapes['conv_input.0.net.0.kernel'] == (27, 4, 32)
    assert shapes['conv_input.1.net.1.running_mean'] == (32,)
    assert shapes['encoder.0.0.net.0.kernel'] == (8, 32, 32)
    assert 'encoder.0.1.downsample.0.kernel' not in shapes
    assert shapes['encoder.1.1.downsample.0.kernel'] == (32, 64)
    assert shapes['encoder.3.6.net.3.kernel'] == (27, 256, 256)
    assert shapes['decoder.0.0.net.0.kernel'] == (8, 256, 256)
    assert shapes['decoder.0.1.0.net.0.kernel'] == (27, 384, 256)
    assert shapes['decoder.3.1.0.downsample.0.kernel'] == (128, 96)
    assert shapes['decoder.3.1.1.net.4.weight'] == (96,)


def test_order_of_points_does_not_matter() -> None:
    net = MinkUNet('minkunet_tiny').eval()
    points = cloud(0)
    voxels = voxelize(points, 0.2)
    firsts = voxels.features[np.random.default_rng(1).permutation(len(voxels.features))]
    outputs = []
    for rows in (voxels.features, firsts):
        v = voxelize(rows, 0.2)
        with torch.no_grad():
            outputs.append(net(*batch_voxels([v]))[v.point_to_voxel])
    order = np.lexsort(firsts.T), np.lexsort(voxels.features.T)
    torch.testing.assert_close(outputs[1][order[0]], outputs[0][order[1]], atol=1e-5, rtol=1e-4)


def test_frozen_means_frozen() -> None:
    torch.manual_seed(0)
    net = MinkUNet('minkunet_tiny', frozen=True)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    torch.nn.Sequential(net).train()
    assert not any(m.training for m in net.modules())
    head = torch.nn.Linear(net.embed_dim, 2)
    optimizer = torch.optim.SGD([*net.parameters(), *head.parameters()], 0.1)
    head(net(*batch_voxels([voxelize(cloud(2), 0.2)]))).square().mean().backward()
    optimizer.step()
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    thawed = MinkUNet('minkunet_tiny')
    running = thawed.conv_input[0].net[1].running_mean.clone()
    thawed(*batch_voxels([voxelize(cloud(2), 0.2)]))
    assert not torch.equal(running, thawed.conv_input[0].net[1].running_mean)


def test_single_voxel_trains() -> None:
    net = MinkUNet('minkunet_tiny')
    features = net(*batch_voxels([voxelize(np.ones((1, 4), np.float32), 0.2)]))
    assert features.shape == (1, 48)
    assert torch.isfinite(features).all()


def test_published_checkpoint_layout_loads(tmp_path: Path) -> None:
    net = MinkUNet('minkunet_tiny')
    state = {f'backbone.{k}': v for k, v in net.state_dict().items()}
    state['decode_head.conv_seg.weight'] = torch.zeros(19, 48)
    save_file(state, tmp_path / 'm.safetensors')
    again = MinkUNet('minkunet_tiny', weights=tmp_path / 'm.safetensors')
    assert torch.equal(again.encoder[0][0].net[0].kernel, net.encoder[0][0].net[0].kernel)
    with pytest.raises(ModelError, match='does not fit minkunet18_w32'):
        MinkUNet('minkunet18_w32', weights=tmp_path / 'm.safetensors')
