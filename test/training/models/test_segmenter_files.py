# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from clcp_ros.bundle import InputSpec
from clcp_ros.classes import CITYSCAPES
from clcp_ros.errors import ModelError
from training.models.image_encoder import ImageEncoder
from training.models.segmenter import (
    HeadSettings,
    MaskTransformer,
    SegmentationModel,
    norm_epsilon,
    save_model,
)
from training.models.segmenter_files import (
    class_set_of,
    guess_architecture,
    is_own,
    is_segmenter,
    open_model,
    write_segmenter,
)

VIT = 'vit_tiny_patch16_224'


def build(architecture: str = VIT, classes: int = 19) -> SegmentationModel:
    torch.manual_seed(0)
    encoder = ImageEncoder(architecture)
    dim = encoder.embed_dim
    model = SegmentationModel(encoder, MaskTransformer(classes, dim, HeadSettings(dim)))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.05)
    return model.eval()


@pytest.fixture(scope='module')
def model() -> SegmentationModel:
    return build()


def logits(model: SegmentationModel, height: int = 64, width: int = 96) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        return model(torch.randn(1, 3, height, width, generator=generator)).logits


@pytest.mark.parametrize('layout', ['segmenter', 'mmsegmentation'])
def test_foreign_checkpoints_open_as_they_are(
    model: SegmentationModel, tmp_path: Path, layout: str
) -> None:
    path = tmp_path / 'checkpoint.pth'
    write_segmenter(path, model, layout)
    assert [p.name for p in tmp_path.iterdir()] == ['checkpoint.pth']
    loaded = open_model(path)
    assert not is_own(path)
    assert is_segmenter(path)
    assert loaded.model.encoder.architecture == VIT
    assert loaded.classes == CITYSCAPES
    assert loaded.input == InputSpec(224, 224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert loaded.provenance['source_layout'] == layout
    torch.testing.assert_close(logits(loaded.model), logits(model), atol=1e-3, rtol=1e-3)
    # The authors' encoder has the epsilon of torch's LayerNorm, MMSegmentation's that of timm.
    assert norm_epsilon(loaded.model.encoder) == (1e-5 if layout == 'segmenter' else 1e-6)
    other = open_model(path, input_size=(96, 160))
    assert (other.input.height, other.input.width) == (96, 160)
    torch.testing.assert_close(logits(other.model, 96, 160), logits(loaded.model, 96, 160))


def test_the_authors_classifier_is_there_for_their_strict_loading(
    model: SegmentationModel, tmp_path: Path
) -> None:
    write_segmenter(tmp_path / 'c.pth', model, 'segmenter')
    state = torch.load(tmp_path / 'c.pth', weights_only=True)['model']
    assert state['encoder.head.weight'].shape == (1000, 192)
    assert state['encoder.head.bias'].shape == (1000,)


def test_epsilon_survives_our_own_file(model: SegmentationModel, tmp_path: Path) -> None:
    write_segmenter(tmp_path / 'c.pth', model, 'segmenter')
    loaded = open_model(tmp_path / 'c.pth', input_size=(64, 96))
    save_model(tmp_path / 'own.safetensors', loaded.model, loaded.classes, (64, 96), {})
    again = open_model(tmp_path / 'own.safetensors')
    assert is_own(tmp_path / 'own.safetensors')
    assert norm_epsilon(again.model.encoder) == 1e-5
    torch.testing.assert_close(logits(again.model), logits(loaded.model), atol=1e-5, rtol=1e-4)


def test_a_distilled_encoder_is_recognised(tmp_path: Path) -> None:
    deit = build('deit_tiny_distilled_patch16_224', 150)
    write_segmenter(tmp_path / 'c.pth', deit, 'segmenter')
    state = torch.load(tmp_path / 'c.pth', weights_only=True)['model']
    assert state['encoder.head_dist.weight'].shape == (1000, 192)
    loaded = open_model(tmp_path / 'c.pth')
    assert loaded.model.encoder.architecture == 'deit_tiny_distilled_patch16_224'
    assert loaded.input.mean == (0.485, 0.456, 0.406)
    assert (loaded.classes.name, len(loaded.classes)) == ('unknown-150', 150)
    torch.testing.assert_close(logits(loaded.model), logits(deit), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ('dim', 'depth', 'patch', 'name'),
    [
        (384, 12, 16, 'vit_small_patch16_224'),
        (768, 12, 8, 'vit_base_patch8_224'),
        (1024, 24, 16, 'vit_large_patch16_224'),
        (384, 12, 32, 'vit_small_patch32_224'),
    ],
)
def test_names_follow_from_shapes(dim: int, depth: int, patch: int, name: str) -> None:
    state = {f'encoder.blocks.{i}.norm1.weight': torch.zeros(1) for i in range(depth)}
    state['encoder.patch_embed.proj.weight'] = torch.zeros(dim, 3, patch, patch)
    assert guess_architecture(state) == name


def test_what_cannot_be_is_one_clear_error(model: SegmentationModel, tmp_path: Path) -> None:
    state = {'encoder.blocks.6.norm1.weight': torch.zeros(1)}
    state['encoder.patch_embed.proj.weight'] = torch.zeros(192, 3, 16, 16)
    with pytest.raises(ModelError, match=r'7 blocks and 192 channels .* --architecture'):
        guess_architecture(state, 'x.pth')
    write_segmenter(tmp_path / 'c.pth', model, 'segmenter')
    with pytest.raises(ModelError, match='does not fit vit_small_patch16_224'):
        open_model(tmp_path / 'c.pth', 'vit_small_patch16_224')
    save_model(tmp_path / 'own.safetensors', model, CITYSCAPES, (64, 96), {})
    with pytest.raises(ModelError, match=f'holds {VIT}, not resnet18'):
        open_model(tmp_path / 'own.safetensors', 'resnet18')
    model.encoder.save(tmp_path / 'encoder.safetensors', (64, 96), {})
    assert not is_segmenter(tmp_path / 'encoder.safetensors')
    assert is_segmenter(tmp_path / 'own.safetensors')
    convnet = SegmentationModel(
        ImageEncoder('test_efficientnet'), MaskTransformer(19, 64, HeadSettings(64))
    )
    with pytest.raises(ModelError, match='no plain ViT'):
        write_segmenter(tmp_path / 'd.pth', convnet, 'mmsegmentation')
    assert not (tmp_path / 'd.pth').exists()


def test_nameless_classes_have_colours_of_their_own() -> None:
    assert len(set(class_set_of(150).colors)) == 150
    assert class_set_of(19) is CITYSCAPES
