# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""One encoder of each family all the way: finetuned, evaluated, exported, evaluated again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from training.evaluate import evaluate
from training.export import export
from training.finetune import build_model, finetune
from training.models.image_encoder import ImageEncoder
from training.models.segmenter import SegmentationModel
from training.models.segmenter_files import write_segmenter
from training.segmentation.task import OptimizerConfig
from training.segmentation.transforms import AugmentationConfig

FAMILIES = {  # odd grids: 13 x 9, or 15 x 11 of patches of 14
    'vit_tiny_patch16_224': (144, 208),
    'vit_small_patch14_reg4_dinov2': (154, 210),
    'vit_small_patch16_dinov3': (144, 208),
    'tiny_vit_5m_224': (144, 208),
    'mobilenetv2_100': (144, 208),
    'convnext_atto': (144, 208),
    'resnet18': (144, 208),
}


@pytest.mark.slow
@pytest.mark.timeout(900)  # a minute on two free cores, five on busy ones
@pytest.mark.parametrize('name', FAMILIES)
def test_a_family_from_training_to_the_robot(
    toy_cityscapes: Path, tmp_path: Path, name: str
) -> None:
    size = FAMILIES[name]
    model = finetune(
        toy_cityscapes, name, tmp_path / 'run', conditions='clear', input_size=size, max_steps=2,
        augmentation=AugmentationConfig(crop=None), batch_size=2, drop_path=0.1,
        optimizer=OptimizerConfig(layer_decay=0.8, ema=0.5, head_warmup=1),
        precision='bf16-mixed',
    )  # fmt: skip
    torch_result = evaluate(
        model, toy_cityscapes, 'val:clear', out=tmp_path / 'torch', pictures=0, boundary=False
    )
    # export compares ONNX Runtime with torch, and refuses a difference above 1e-4.
    bundle = export(model, toy_cityscapes, tmp_path / 'bundle')
    onnx_result = evaluate(
        bundle=bundle, data=toy_cityscapes, split='val:clear', out=tmp_path / 'onnx', pictures=0,
        boundary=False,
    )  # fmt: skip
    matrices = [r.matrices['clear'].counts for r in (torch_result, onnx_result)]
    moved = np.abs(matrices[0] - matrices[1]).sum() / 2 / matrices[0].sum()
    assert moved < 1e-3


@pytest.mark.parametrize(
    ('name', 'size', 'stride', 'prefix'),
    [
        ('vit_tiny_patch16_224', (48, 80), 16, 1),
        ('vit_small_patch14_reg4_dinov2', (42, 70), 14, 5),
        ('vit_small_patch16_dinov3', (48, 80), 16, 5),
        ('tiny_vit_5m_224', (48, 80), 16, 0),
        ('mobilenetv2_100', (48, 80), 16, 0),
        ('convnext_atto', (48, 80), 16, 0),
    ],
)
def test_only_patches_become_tokens(
    name: str, size: tuple[int, int], stride: int, prefix: int
) -> None:
    """Class and register tokens stay behind; a position of the mask is one of the image."""
    torch.manual_seed(0)
    encoder = ImageEncoder(name, input_size=size).eval()
    assert encoder.stride == stride
    assert getattr(encoder.model, 'num_prefix_tokens', 0) == prefix
    x = torch.zeros(1, 3, *size)
    x[..., : 2 * stride] = torch.randn(1, 3, size[0], 2 * stride)
    with torch.no_grad():
        grid, mirrored = encoder(x).grid, encoder(x.flip(-1)).grid
        blank = encoder(torch.zeros_like(x)).grid
    assert grid.shape == (1, encoder.embed_dim, size[0] // stride, size[1] // stride)
    if not prefix:
        return  # a convolution's field is wider than this image
    # Noise covers two of five columns: left in one image, right in the other.
    for features, noisy, plain in ((grid, (0, 1), (3, 4)), (mirrored, (3, 4), (0, 1))):
        distance = (features - blank).norm(dim=1).mean(dim=(0, 1))
        assert distance[list(noisy)].mean() > 1.2 * distance[list(plain)].mean()


def test_unused_stages_are_frozen() -> None:
    model = build_model(19, 'resnet18', input_size=(48, 80))
    model.freeze_unused((48, 80))
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert {n.split('.')[2] for n in frozen} == {'layer4'}
    assert model.training
    vit = build_model(19, 'vit_tiny_patch16_224')
    vit.freeze_unused((48, 80))
    assert all(p.requires_grad for p in vit.parameters())


def foreign(tmp_path: Path, layout: str, classes: int) -> Path:
    torch.manual_seed(0)
    model: SegmentationModel = build_model(classes, 'vit_tiny_patch16_224')
    write_segmenter(tmp_path / 'given.pth', model, layout)
    return tmp_path / 'given.pth'


@pytest.mark.slow
@pytest.mark.parametrize('layout', ['segmenter', 'mmsegmentation'])
def test_a_checkpoint_of_others_is_evaluated_finetuned_and_exported_as_it_is(
    toy_cityscapes: Path, tmp_path: Path, layout: str
) -> None:
    given = foreign(tmp_path, layout, 19)
    result = evaluate(
        given, toy_cityscapes, 'val:clear', out=tmp_path / 'e', pictures=0, boundary=False
    )
    assert result.frames == {'clear': 12}
    # The checkpoint does not say what it was trained on.
    bundle = export(given, toy_cityscapes, tmp_path / 'bundle', conditions='clear')
    assert (bundle / 'model.onnx').is_file()
    common = {
        'conditions': 'clear', 'input_size': (48, 80), 'max_steps': 1, 'batch_size': 2,
        'augmentation': AugmentationConfig(crop=None),
        'optimizer': OptimizerConfig(lr=1e-9, min_lr=0.0),
    }  # fmt: skip
    start = torch.load(given, weights_only=True)[
        'model' if layout == 'segmenter' else 'state_dict'
    ]
    whole = load_file(finetune(toy_cityscapes, out=tmp_path / 'a', start=given, **common))
    encoder = load_file(finetune(toy_cityscapes, str(given), tmp_path / 'b', **common))
    key = 'decoder.proj_patch' if layout == 'segmenter' else 'decode_head.patch_proj.weight'
    head = start[key] if layout == 'segmenter' else start[key].T
    torch.testing.assert_close(whole['decoder.proj_patch'], head, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(encoder['decoder.proj_patch'], head, atol=1e-3)
    key = 'encoder.cls_token' if layout == 'segmenter' else 'backbone.cls_token'
    for state in (whole, encoder):
        torch.testing.assert_close(state['encoder.cls_token'], start[key], atol=1e-5, rtol=1e-4)


def test_another_number_of_classes_keeps_the_rest_of_the_head(
    toy_cityscapes: Path, tmp_path: Path
) -> None:
    given = foreign(tmp_path, 'segmenter', 150)
    start = torch.load(given, weights_only=True)['model']
    state = load_file(
        finetune(
            toy_cityscapes,
            out=tmp_path / 'run',
            start=given,
            conditions='clear',
            batch_size=2,
            input_size=(48, 80),
            max_steps=1,
            augmentation=AugmentationConfig(crop=None),
            optimizer=OptimizerConfig(lr=1e-9, min_lr=0.0),
            freeze_encoder=True,
        )
    )
    assert state['decoder.cls_emb'].shape == (1, 19, 192)
    assert state['decoder.mask_norm.weight'].shape == (19,)
    same = 'decoder.blocks.0.attn.qkv.weight'
    torch.testing.assert_close(state[same], start[same], atol=1e-5, rtol=1e-4)
