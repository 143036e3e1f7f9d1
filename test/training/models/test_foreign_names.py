# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from clcp_ros.errors import ModelError
from training.models.foreign_names import to_timm_names
from training.models.image_encoder import ImageEncoder

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

PAIRS = {  # written down from the authors' release and from timm, not from our table
    'patch_embed.seq.0.c.weight': 'patch_embed.conv1.conv.weight',
    'patch_embed.seq.2.bn.running_mean': 'patch_embed.conv2.bn.running_mean',
    'layers.0.blocks.1.conv2.c.weight': 'stages.0.blocks.1.conv2.conv.weight',
    'layers.0.downsample.conv3.c.weight': 'stages.1.downsample.conv3.conv.weight',
    'layers.2.downsample.conv1.bn.bias': 'stages.3.downsample.conv1.bn.bias',
    'layers.1.blocks.0.attn.attention_biases': 'stages.1.blocks.0.attn.attention_biases',
    'layers.2.blocks.5.local_conv.c.weight': 'stages.2.blocks.5.local_conv.conv.weight',
    'layers.3.blocks.1.mlp.fc2.weight': 'stages.3.blocks.1.mlp.fc2.weight',
    'norm_head.weight': 'head.norm.weight',
    'head.bias': 'head.fc.bias',
}


def authors_tiny_vit(encoder: ImageEncoder) -> dict[str, Tensor]:
    """A TinyViT's weights under its authors' names, by a rule of this test's own."""
    state = {}
    for key, value in encoder.model.state_dict().items():
        parts = key.split('.')
        if parts[0] == 'patch_embed':
            parts[1] = {'conv1': 'seq.0', 'conv2': 'seq.2'}[parts[1]]
        elif parts[0] == 'stages':
            stage = int(parts[1]) - (parts[2] == 'downsample')
            parts[:2] = ['layers', str(stage)]
        elif parts[:2] == ['head', 'norm']:
            parts[:2] = ['norm_head']
        if parts[-2:] == ['conv', 'weight']:
            parts[-2] = 'c'
        state['.'.join(parts)] = value
    return state


def test_tiny_vit_names() -> None:
    state = {k: torch.zeros(()) for k in PAIRS}
    renamed = to_timm_names(state, 'tiny_vit_5m_224')
    assert list(renamed.state) == list(PAIRS.values())
    assert (renamed.mean, renamed.std) == IMAGENET


@pytest.mark.parametrize('prefix', ['', 'image_encoder.'])
def test_tiny_vit_of_its_authors_and_of_mobile_sam_loads(tmp_path: Path, prefix: str) -> None:
    torch.manual_seed(0)
    encoder = ImageEncoder('tiny_vit_5m_224').eval()
    state = {prefix + k: v for k, v in authors_tiny_vit(encoder).items()}
    if prefix:
        state |= {'image_encoder.neck.0.weight': torch.zeros(1), 'mask_decoder.w': torch.zeros(1)}
    torch.save(state, tmp_path / 'weights.pt')
    loaded = ImageEncoder('tiny_vit_5m_224', tmp_path / 'weights.pt').eval()
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(loaded(x).grid, encoder(x).grid)
    del state[f'{prefix}layers.0.downsample.conv1.c.weight']
    torch.save(state, tmp_path / 'weights.pt')
    with pytest.raises(ModelError, match=r'1 keys missing .*stages.1.downsample.conv1'):
        ImageEncoder('tiny_vit_5m_224', tmp_path / 'weights.pt')


def test_other_names_stay() -> None:
    state = {'stages.0.weight': torch.zeros(()), 'norm_head.weight': torch.zeros(())}
    assert to_timm_names(state, 'convnext_atto') == (state, None, None)
