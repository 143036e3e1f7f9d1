# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What pretraining's options say reaches the lidar encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clcp_ros.errors import ModelError
from training.methods.base import Setup
from training.methods.clcp import Clcp
from training.methods.config import ModelConfig
from training.models.lidar.minkunet import VoxelPreparation, VoxelSettings
from training.models.minkunet import MinkUNet
from training.models.minkunet_weights import write_minkunet_weights
from training.pairs.contrastive import ViewConfig


def make(**model: Any) -> Clcp:
    torch.manual_seed(0)
    return Clcp(Setup(ModelConfig(**model), views=ViewConfig(image_size=64)))


def network(method: Clcp) -> Any:
    return method.lidar_encoder.network


@pytest.fixture
def batch() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    clouds = rng.uniform(0, [4, 4, 2, 1], (2, 300, 4)).astype(np.float32)
    preparation = VoxelPreparation(VoxelSettings(0.2))
    lidar = preparation.collate([preparation(c) for c in clouds])
    return {'image': torch.rand(2, 3, 64, 64), 'lidar': lidar}


def test_a_frozen_encoder_keeps_the_weights_of_its_file(
    tmp_path: Path, batch: dict[str, Any]
) -> None:
    source = MinkUNet('minkunet_tiny')
    path = tmp_path / 'lidar.safetensors'
    write_minkunet_weights(path, source.state_dict(), {'architecture': 'minkunet_tiny'})
    method = make(lidar_weights=str(path), freeze_lidar=True, lidar_precision='bfloat16').train()
    optimizer: Any = method.configure_optimizers()['optimizer']  # type: ignore[index,call-overload]
    embedded: Any = method.embed(batch)
    (embedded.image * embedded.lidar).sum().backward()
    optimizer.step()
    for key, value in network(method).state_dict().items():
        assert torch.equal(value, source.state_dict()[key]), key
    assert any(p.grad is not None for p in method.lidar_head.parameters())


def test_precision_backend_and_memory_are_passed_on(batch: dict[str, Any]) -> None:
    exact = make(freeze_lidar=True).eval()
    coarse = make(freeze_lidar=True, lidar_precision='bfloat16').eval()
    with torch.no_grad():
        a: Any = exact.embed(batch)[1]
        b: Any = coarse.embed(batch)[1]
    assert 0 < (a - b).norm() < 0.1
    assert network(make(checkpoint_activations=True)).checkpoint_activations
    pytest.importorskip('spconv.pytorch')
    plain, other = make().eval(), make(sparse_backend='spconv').eval()
    with torch.no_grad():
        torch.testing.assert_close(
            other.embed(batch)[1], plain.embed(batch)[1], atol=1e-4, rtol=1e-3
        )
    assert network(other).conv_input[0].net[0].backend == 'spconv'
    with pytest.raises(ModelError, match='bfloat16 weights are for frozen'):
        make(lidar_precision='bfloat16')
