# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy

import pytest
import timm
import torch

from clcp_ros.errors import ModelError
from training.models.interpolate import interpolate_weights, move_average
from training.models.lora import add_lora, merge_lora


def adapted() -> tuple[torch.nn.Module, torch.nn.Module]:
    torch.manual_seed(0)
    network = timm.create_model('vit_tiny_patch16_224', img_size=32, num_classes=0, depth=2).eval()
    original = copy.deepcopy(network)
    add_lora(network, 4)
    return network, original


def test_only_attention_is_adapted_and_nothing_changes_at_first() -> None:
    network, original = adapted()
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(network(x), original(x))
    trained = [n for n, p in network.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * 2 * 2  # A and B of qkv and proj of both blocks
    assert all('attn' in name for name in trained)


def test_merged_equals_unmerged_under_the_own_names() -> None:
    network, original = adapted()
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], 0.02)
    x = torch.randn(2, 3, 32, 32)
    for _ in range(3):
        optimizer.zero_grad()
        network(x).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        before = network(x)
        assert (before - original(x)).abs().max() > 1e-3
        merged = merge_lora(copy.deepcopy(network))
        torch.testing.assert_close(merged(x), before, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(network(x), before)  # what was copied is still adapted
    assert merged.state_dict().keys() == original.state_dict().keys()
    changed = {
        k for k, v in merged.state_dict().items() if not torch.equal(v, original.state_dict()[k])
    }
    assert changed == {
        f'blocks.{i}.attn.{part}.weight' for i in (0, 1) for part in ('qkv', 'proj')
    }
    rank = torch.linalg.matrix_rank(
        merged.state_dict()['blocks.0.attn.qkv.weight']
        - original.state_dict()['blocks.0.attn.qkv.weight'],
        rtol=1e-4,
    )
    assert rank <= 4


def test_convolutions_by_an_expression_and_clear_errors() -> None:
    network = timm.create_model('test_efficientnet', num_classes=0).eval()
    x = torch.randn(1, 3, 64, 64)
    before = network(x)
    names = add_lora(network, 2, layers=r'conv_pw$')
    assert names
    torch.testing.assert_close(network(x), before)
    torch.testing.assert_close(merge_lora(network)(x), before)
    with pytest.raises(ModelError, match='no layer of this network matches'):
        add_lora(timm.create_model('test_efficientnet', num_classes=0), 2)
    with pytest.raises(ModelError, match='must be positive'):
        add_lora(network, 0)


@pytest.mark.parametrize('share', [0.0, 0.25, 1.0])
def test_interpolation_between_two_networks(share: float) -> None:
    torch.manual_seed(0)
    a, b = (timm.create_model('test_efficientnet', num_classes=0) for _ in range(2))
    a(torch.randn(4, 3, 64, 64))  # statistics differ, too
    first, own = copy.deepcopy(b.state_dict()), copy.deepcopy(a.state_dict())
    interpolate_weights(a, b, share)
    for name, value in a.state_dict().items():
        if not value.is_floating_point():
            assert torch.equal(value, own[name])
        elif share == 0.25:
            torch.testing.assert_close(value, 0.25 * own[name] + 0.75 * first[name])
        else:
            assert torch.equal(value, own[name] if share else first[name]), name
        assert torch.equal(b.state_dict()[name], first[name])


def test_moving_average() -> None:
    torch.manual_seed(0)
    slow, fast = torch.nn.BatchNorm1d(3), torch.nn.BatchNorm1d(3)
    with torch.no_grad():
        fast.weight.fill_(3.0)
    fast(torch.randn(8, 3) + 5)
    move_average(slow, fast, 0.75)
    torch.testing.assert_close(slow.weight.data, torch.full((3,), 1.5))
    assert slow.running_mean is not None
    assert fast.running_mean is not None
    assert torch.equal(slow.running_mean, fast.running_mean)
    assert slow.num_batches_tracked == 1
