# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.first_statistics import with_first_statistics
from clcp_ros.errors import ModelError
from training.models.image_encoder import ImageEncoder


def save(architecture: str, path: Path) -> ImageEncoder:
    encoder = ImageEncoder(architecture)
    encoder.save(path, (64, 64), {})
    return encoder


def test_weights_stay_and_statistics_are_the_first(tmp_path: Path) -> None:
    first = save('resnet10t', tmp_path / 'first.safetensors')
    trained = ImageEncoder('resnet10t').train()
    trained(torch.randn(4, 3, 64, 64))
    trained.save(tmp_path / 'trained.safetensors', (64, 64), {})
    out = tmp_path / 'out' / 'e.safetensors'
    assert with_first_statistics(
        tmp_path / 'trained.safetensors', tmp_path / 'first.safetensors', out
    )
    found = ImageEncoder('resnet10t', out).model.state_dict()
    for name, value in trained.model.state_dict().items():
        if name.endswith(('running_mean', 'running_var')):
            assert torch.equal(found[name], first.model.state_dict()[name])
        else:
            assert torch.equal(found[name], value), name


def test_a_network_without_statistics_is_refused(tmp_path: Path) -> None:
    save('test_vit', tmp_path / 'first.safetensors')
    save('test_vit', tmp_path / 'trained.safetensors')
    with pytest.raises(ModelError, match='no statistics'):
        with_first_statistics(
            tmp_path / 'trained.safetensors', tmp_path / 'first.safetensors', tmp_path / 'out'
        )
    assert not (tmp_path / 'out').exists()
