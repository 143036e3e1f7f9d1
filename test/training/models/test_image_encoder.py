# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from clcp_ros.errors import ModelError
from training.models.image_encoder import ImageEncoder


@pytest.mark.parametrize(
    ('name', 'dim', 'stride'),
    [
        ('vit_tiny_patch16_224', 192, 16),
        ('resnet10t', 256, 16),
        ('mobilenetv2_100', 96, 16),
        ('tiny_vit_5m_224', 160, 16),
        ('vit_small_patch14_reg4_dinov2', 384, 14),
        ('vit_small_patch16_dinov3', 384, 16),
    ],
)
def test_any_encoder_gives_a_map(name: str, dim: int, stride: int) -> None:
    encoder = ImageEncoder(name).eval()
    assert (encoder.embed_dim, encoder.stride) == (dim, stride)
    with torch.no_grad():
        output = encoder(torch.zeros(1, 3, 4 * stride, 6 * stride))
    assert output.grid.shape == (1, dim, 4, 6)
    assert output.pooled.shape == (1, dim)
    assert output.early.shape[1] == encoder.early_dim


def test_class_token_is_timms_own() -> None:
    encoder = ImageEncoder('vit_tiny_patch16_224', pool='token').eval()
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.allclose(encoder(x).pooled, encoder.model(x), atol=1e-5)
    with pytest.raises(ModelError, match='no class token'):
        ImageEncoder('resnet10t', pool='token')


def test_saved_weights_load_in_timm_and_carry_their_preprocessing(tmp_path: Path) -> None:
    encoder = ImageEncoder('vit_tiny_patch16_224')
    encoder.mean = (0.1, 0.2, 0.3)
    encoder.save(tmp_path / 'e.safetensors', (64, 96), {'note': 'test'})
    timm.create_model('vit_tiny_patch16_224', num_classes=0).load_state_dict(
        load_file(tmp_path / 'e.safetensors')
    )
    again = ImageEncoder('vit_tiny_patch16_224', weights=tmp_path / 'e.safetensors')
    assert again.mean == (0.1, 0.2, 0.3)
    assert all(
        torch.equal(a, b)
        for a, b in zip(encoder.model.parameters(), again.model.parameters(), strict=True)
    )
    with pytest.raises(ModelError, match='vit_tiny'):
        ImageEncoder('resnet10t', weights=tmp_path / 'e.safetensors')


def test_bad_weights_are_one_line_errors(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match='no such file'):
        ImageEncoder('resnet10t', weights=tmp_path / 'none.pth')
    (tmp_path / 'a.safetensors').write_bytes(b'nonsense')
    with pytest.raises(ModelError, match='unreadable'):
        ImageEncoder('resnet10t', weights=tmp_path / 'a.safetensors')
    torch.save({'state_dict': {'x': torch.zeros(1)}}, tmp_path / 'b.pth')
    with pytest.raises(ModelError, match='keys missing'):
        ImageEncoder('resnet10t', weights=tmp_path / 'b.pth')
    torch.save(Path('code'), tmp_path / 'c.pth')
    with pytest.raises(ModelError, match='not a file of plain tensors'):
        ImageEncoder('resnet10t', weights=tmp_path / 'c.pth')
    with pytest.raises(ModelError, match='similar'):
        ImageEncoder('resnet10_typo')


def test_torchvision_mobilenetv2_gives_the_same_features(sample_data: Path) -> None:
    torchvision = pytest.importorskip('torchvision')
    file = sample_data / 'weights' / 'mobilenet_v2-b0353104.pth'
    theirs = torchvision.models.mobilenet_v2().eval()
    theirs.load_state_dict(torch.load(file, weights_only=True))
    ours = ImageEncoder('mobilenetv2_100', weights=file).eval()
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.allclose(theirs.features[:14](x), ours(x).grid, atol=1e-4)


def test_networks_built_for_one_size_get_it_and_others_say_so() -> None:
    encoder = ImageEncoder('mixer_s16_224', input_size=(64, 96))
    encoder.check_size(64, 96)
    with pytest.raises(ModelError, match='does not take images of 96 x 96'):
        encoder.check_size(96, 96)
    assert encoder.training
    with pytest.raises(ModelError, match='does not take images of 60 x 60'):
        ImageEncoder('vit_tiny_patch16_224').check_size(60, 60)
