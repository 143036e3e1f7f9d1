# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clcp_ros.classes import CAMVID
from clcp_ros.errors import ModelError
from training.models.image_encoder import ImageEncoder
from training.models.segmenter import (
    HeadSettings,
    MaskTransformer,
    SegmentationModel,
    load_model,
    save_model,
)


def make_model(architecture: str = 'test_efficientnet', classes: int = 11) -> SegmentationModel:
    torch.manual_seed(0)
    encoder = ImageEncoder(architecture)
    settings = HeadSettings.for_encoder(encoder.embed_dim)
    return SegmentationModel(encoder, MaskTransformer(classes, encoder.embed_dim, settings))


def test_head_has_the_published_names_and_sizes() -> None:
    head = MaskTransformer(19, 384, HeadSettings.for_encoder(384))
    shapes = {name: tuple(p.shape) for name, p in head.named_parameters()}
    assert shapes['cls_emb'] == (1, 19, 384)
    assert shapes['proj_dec.weight'] == (384, 384)
    assert shapes['proj_patch'] == shapes['proj_classes'] == (384, 384)
    assert shapes['blocks.1.attn.qkv.weight'] == (1152, 384)
    assert shapes['blocks.1.mlp.fc1.weight'] == (1536, 384)
    assert shapes['decoder_norm.weight'] == (384,)
    assert shapes['mask_norm.weight'] == (19,)
    assert {n.split('.')[0] for n in shapes} == {
        'proj_dec', 'cls_emb', 'blocks', 'proj_patch', 'proj_classes', 'decoder_norm', 'mask_norm',
    }  # fmt: skip
    block = 2 * 2 * 384 + (384 + 1) * 3 * 384 + (384 + 1) * 384
    block += (384 + 1) * 4 * 384 + (4 * 384 + 1) * 384
    total = 385 * 384 + 19 * 384 + 2 * block + 2 * 384 + 2 * 19 + 2 * 384**2
    assert sum(p.numel() for p in head.parameters()) == total
    assert head.blocks[0].attn.num_heads == 6


def test_head_is_initialised_as_published() -> None:
    torch.manual_seed(0)
    head = MaskTransformer(19, 384, HeadSettings.for_encoder(384))
    assert head.proj_patch.std().item() == pytest.approx(384**-0.5, rel=0.02)
    assert head.cls_emb.std().item() == pytest.approx(0.02, rel=0.05)
    assert head.blocks[0].mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not head.blocks[0].attn.qkv.bias.any()


def test_masks_are_products_of_unit_vectors_before_their_norm() -> None:
    torch.manual_seed(0)
    head = MaskTransformer(5, 48, HeadSettings.for_encoder(48)).eval()
    seen = []
    head.mask_norm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    assert head(torch.randn(2, 48, 3, 4)).shape == (2, 5, 3, 4)
    assert seen[0].shape == (2, 12, 5)
    assert seen[0].abs().max() <= 1 + 1e-5


@pytest.mark.parametrize(('dim', 'expected'), [(384, 384), (192, 192), (96, 128), (512, 192)])
def test_head_width_suits_the_encoder(dim: int, expected: int) -> None:
    assert HeadSettings.for_encoder(dim).dim == expected


def test_width_that_is_no_multiple_of_a_head_is_refused() -> None:
    with pytest.raises(ModelError, match='multiple of 64'):
        MaskTransformer(5, 100, HeadSettings(100))


@pytest.mark.parametrize('architecture', ['test_efficientnet', 'test_vit'])
def test_outputs_are_those_of_a_bundle(architecture: str) -> None:
    model = make_model(architecture).eval()
    x = torch.randn(2, 3, 48, 80)
    output = model(x)
    features = model.encoder(x)
    assert output.logits.shape == (2, 11, 3, 5)
    assert output.early.shape == (2, 2 * model.encoder.early_dim)
    early = features.early.flatten(2)
    expected = torch.cat([early.mean(2), early.std(2, correction=0)], 1)
    torch.testing.assert_close(output.early, expected)
    torch.testing.assert_close(output.deep, features.grid.mean((2, 3)))


def test_a_frozen_encoder_stays_as_it_is() -> None:
    model = make_model()
    model.freeze_encoder()
    model.train()
    before = {k: v.clone() for k, v in model.encoder.state_dict().items()}
    assert any('running_mean' in k for k in before)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    for _ in range(2):
        model(torch.randn(2, 3, 48, 80) + 3).logits.square().sum().backward()
        optimizer.step()
    for name, value in model.encoder.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert model.decoder.training
    assert not model.encoder.training


def test_saved_and_loaded_models_agree(tmp_path: Path) -> None:
    model = make_model('test_vit').eval()
    file = tmp_path / 'model.safetensors'
    save_model(file, model, CAMVID, (48, 80), {'commit': 'x'})
    loaded = load_model(file)
    x = torch.randn(1, 3, 48, 80)
    torch.testing.assert_close(loaded.model(x).logits, model(x).logits)
    assert loaded.classes == CAMVID
    assert (loaded.input.height, loaded.input.width) == (48, 80)
    assert loaded.input.mean == model.encoder.mean
    assert loaded.provenance == {'commit': 'x'}
    assert [p.name for p in tmp_path.iterdir()] == [file.name]


def test_other_weights_are_refused(tmp_path: Path) -> None:
    encoder = ImageEncoder('test_efficientnet')
    encoder.save(tmp_path / 'e.safetensors', (48, 80), {})
    with pytest.raises(ModelError, match='not a segmentation model'):
        load_model(tmp_path / 'e.safetensors')
