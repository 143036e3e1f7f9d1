# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from clcp_ros.errors import ModelError
from training.finetune import finetune
from training.loop import METRICS, StepBatches, read_metrics
from training.methods.clcp_anchored import AnchoredConfig
from training.methods.config import ModelConfig
from training.models.image_encoder import ImageEncoder
from training.pairs.contrastive import ViewConfig
from training.pretrain import pretrain
from training.segmentation.keeping import KeepConfig, KeptBatches, open_kept
from training.segmentation.transforms import AugmentationConfig


@pytest.fixture(scope='module')
def pretrained(noise_pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose tokens answered for geometry and a moving average."""
    out = tmp_path_factory.mktemp('runs') / 'anchored'
    pretrain(
        noise_pairs, out, 'clcp_anchored',
        ModelConfig(image_encoder='test_efficientnet', lidar_encoder='minkunet_tiny'),
        ViewConfig(image_size=64), max_steps=2, batch_size=4, validate_every=0, loggers='',
        workers=0,
        clcp_anchored=AnchoredConfig(cls=0, nce=0, geometry=1, consistency=1, ema=0.9),
    )  # fmt: skip
    return out


def run(data: Path, out: Path, keep: KeepConfig, **options) -> Path:
    settings = {
        'conditions': 'clear', 'input_size': (48, 80), 'max_steps': 4, 'batch_size': 2,
        'augmentation': AugmentationConfig(crop=None), 'checkpoint_every': 2,
    }  # fmt: skip
    return finetune(data, out=out, keep=keep, **(settings | options))


def test_pretraining_goes_on_beside_the_labels(
    toy_cityscapes: Path, pretrained: Path, tmp_path: Path
) -> None:
    config = KeepConfig(pretrained, weight=0.5, batch_size=4)
    model = run(toy_cityscapes, tmp_path / 'kept', config)
    rows = read_metrics(model.parent / METRICS)
    assert {n for _, n, _ in rows} >= {'train_loss', 'kept_loss', 'kept_term_geometry'}
    # What is saved is the segmentation model alone, and it is another one than without pairs.
    found = load_file(model)
    assert {n.split('.')[0] for n in found} == {'encoder', 'decoder'}
    encoder = str(pretrained / 'image_encoder.safetensors')
    plain = load_file(run(toy_cityscapes, tmp_path / 'plain', KeepConfig(), encoder=encoder))
    weight = 'encoder.conv_stem.weight'
    assert found[weight].shape == plain[weight].shape
    assert not torch.equal(found[weight], plain[weight])
    # The head starts from the same random numbers, and the same frames come in the same order.
    first = [v for step, n, v in rows if n == 'train_loss' and step == rows[0][0]]
    other = read_metrics(tmp_path / 'plain' / METRICS)
    assert first == [v for step, n, v in other if n == 'train_loss' and step == other[0][0]]


def test_an_interrupted_run_goes_on_with_frames_and_pairs(
    toy_cityscapes: Path, pretrained: Path, tmp_path: Path, power_cut: Callable[..., None]
) -> None:
    config = KeepConfig(pretrained, batch_size=4)
    whole = run(toy_cityscapes, tmp_path / 'whole', config)
    # In step 3 of 4: the last checkpoint is of step 2.
    power_cut(2 * 3, lambda: run(toy_cityscapes, tmp_path / 'parts', config))
    resumed = run(toy_cityscapes, tmp_path / 'parts', config)
    expected, found = load_file(whole), load_file(resumed)
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name


def test_both_have_batches_of_their_own() -> None:
    frames = StepBatches(np.arange(5), 2, 7, 0)
    batches = KeptBatches(frames, StepBatches(np.arange(100, 109), 4, 7, 1))
    whole = list(batches)
    assert len(whole) == len(batches) == 7
    for batch in whole:
        assert [item.of_pairs for item in batch] == [False] * 2 + [True] * 4
        assert all((item.key[0] >= 100) == item.of_pairs for item in batch)
    batches.start = 5
    assert list(batches) == whole[5:]
    batches.divide(1, 2)
    assert [len(batch) for batch in batches] == [3, 3]


def test_what_cannot_go_on(pretrained: Path, toy_cityscapes: Path, tmp_path: Path) -> None:
    own, other = ImageEncoder('test_efficientnet'), ImageEncoder('test_vit')
    with pytest.raises(ModelError, match='not a test_vit: nothing of it can go on'):
        open_kept(KeepConfig(pretrained), other)
    with pytest.raises(ModelError, match='must be a positive number'):
        open_kept(KeepConfig(pretrained, weight=0.0), own)
    with pytest.raises(ModelError, match=r'embedding\.safetensors'):
        open_kept(KeepConfig(tmp_path), own)
    with pytest.raises(ModelError, match=r'leave --keep\.run out'):
        run(toy_cityscapes, tmp_path / 'a', KeepConfig(pretrained), freeze_encoder=True)
    moved = tmp_path / 'moved'
    shutil.copytree(pretrained, moved)
    (moved / 'settings.json').unlink()
    with pytest.raises(ModelError, match=r'give --keep\.pairs'):
        open_kept(KeepConfig(moved), own)
