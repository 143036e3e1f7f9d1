# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from clcp_ros.bundle import InputSpec
from clcp_ros.classes import CITYSCAPES
from clcp_ros.errors import ModelError
from training.models.image_encoder import ImageEncoder
from training.models.segmenter import (
    HeadSettings,
    MaskTransformer,
    SegmentationModel,
    load_model,
    save_model,
)
from training.models.segmenter_weights import (
    build_segmenter,
    from_mmsegmentation,
    read_segmenter,
    to_mmsegmentation,
    to_segmenter,
)

VIT = 'vit_tiny_patch16_224'


@pytest.fixture(scope='module')
def model() -> SegmentationModel:
    torch.manual_seed(0)
    encoder = ImageEncoder(VIT)
    built = SegmentationModel(encoder, MaskTransformer(19, 192, HeadSettings(192)))
    for parameter in built.parameters():  # no value that two places share
        nn.init.normal_(parameter, std=0.05)
    return built.eval()


def published_mmseg_keys(blocks: int) -> set[str]:
    """Written down from MMSegmentation, not from our tables."""
    keys = {
        'backbone.cls_token', 'backbone.pos_embed', 'backbone.patch_embed.projection.weight',
        'backbone.patch_embed.projection.bias', 'backbone.ln1.weight', 'backbone.ln1.bias',
        'decode_head.cls_emb', 'decode_head.dec_proj.weight', 'decode_head.dec_proj.bias',
        'decode_head.patch_proj.weight', 'decode_head.classes_proj.weight',
        'decode_head.decoder_norm.weight', 'decode_head.decoder_norm.bias',
        'decode_head.mask_norm.weight', 'decode_head.mask_norm.bias',
    }  # fmt: skip
    for stack, count in (('backbone', blocks), ('decode_head', 2)):
        for i in range(count):
            front = f'{stack}.layers.{i}'
            keys |= {f'{front}.{n}.{w}' for n in ('ln1', 'ln2') for w in ('weight', 'bias')}
            keys |= {f'{front}.attn.attn.in_proj_{w}' for w in ('weight', 'bias')}
            keys |= {
                f'{front}.{n}.{w}'
                for n in ('attn.attn.out_proj', 'ffn.layers.0.0', 'ffn.layers.1')
                for w in ('weight', 'bias')
            }
    return keys


def test_mmsegmentation_names_are_the_published_ones(model: SegmentationModel) -> None:
    state = to_mmsegmentation(model)
    assert set(state) == published_mmseg_keys(12)
    assert state['decode_head.layers.0.attn.attn.in_proj_weight'].shape == (576, 192)


def test_to_mmsegmentation_and_back(model: SegmentationModel) -> None:
    back = from_mmsegmentation(to_mmsegmentation(model))
    ours = to_segmenter(model)
    assert back.keys() == ours.keys()
    assert all(torch.equal(back[k], ours[k]) for k in ours)


def test_the_stacked_attention_is_the_same_function(model: SegmentationModel) -> None:
    """MMSegmentation's attention is torch's MultiheadAttention; so it must agree with timm's."""
    state = to_mmsegmentation(model)
    front = 'decode_head.layers.1.attn.attn.'
    attention = nn.MultiheadAttention(192, 3, batch_first=True)
    attention.load_state_dict({k.removeprefix(front): v for k, v in state.items() if front in k})
    x = torch.randn(2, 7, 192)
    ours = model.decoder.blocks[1].attn(x)  # type: ignore[operator, union-attr]
    torch.testing.assert_close(attention.eval()(x, x, x)[0], ours, atol=1e-5, rtol=1e-4)


def test_the_projections_are_transposed(model: SegmentationModel) -> None:
    weight = to_mmsegmentation(model)['decode_head.patch_proj.weight']
    x = torch.randn(3, 192)
    torch.testing.assert_close(nn.functional.linear(x, weight), x @ model.decoder.proj_patch)


@pytest.mark.parametrize('layout', ['authors', 'mmsegmentation'])
def test_a_checkpoint_with_foreign_objects_loads(
    model: SegmentationModel, tmp_path: Path, layout: str
) -> None:
    state: dict[str, Tensor]
    if layout == 'authors':
        state = {**to_segmenter(model), 'encoder.head.weight': torch.zeros(1000, 192)}
        content = {'model': state, 'optimizer': object(), 'n_iter': 3}
    else:
        state = {**to_mmsegmentation(model), 'decode_head.conv_seg.weight': torch.zeros(19, 2)}
        content = {'meta': {'hook': Path('x')}, 'state_dict': state}
    path = tmp_path / 'checkpoint.pth'
    torch.save(content, path)
    loaded = build_segmenter(read_segmenter(path).state, VIT, path)
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x).logits, model(x).logits)


def test_position_embeddings_of_another_grid_are_kept(
    model: SegmentationModel, tmp_path: Path
) -> None:
    state = {k: v.clone() for k, v in to_segmenter(model).items()}
    state['encoder.pos_embed'] = torch.randn(1, 1 + 48 * 48, 192)  # trained at 768
    built = build_segmenter(state, VIT)
    assert torch.equal(built.encoder.model.pos_embed, state['encoder.pos_embed'])
    path = tmp_path / 'model.safetensors'
    save_model(path, built, CITYSCAPES, (64, 96), {})
    loaded = load_model(path)
    x = torch.randn(1, 3, 64, 96)
    assert loaded.input == InputSpec(64, 96, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(x).logits, built(x).logits, atol=1e-4, rtol=1e-3)


def test_others_are_refused_in_one_line(model: SegmentationModel, tmp_path: Path) -> None:
    path = tmp_path / 'resnet.safetensors'
    save_file({'conv1.weight': torch.zeros(1)}, path)
    with pytest.raises(ModelError, match=r'holds no Segmenter .* but conv1'):
        read_segmenter(path)
    state = to_segmenter(model)
    with pytest.raises(ModelError, match=r'does not fit vit_small_patch16_224'):
        build_segmenter(state, 'vit_small_patch16_224', 'x.pth')
    del state['encoder.blocks.3.norm1.bias']
    with pytest.raises(ModelError, match=r"1 keys missing \['encoder.blocks.3.norm1.bias'\]"):
        build_segmenter(state, VIT)
