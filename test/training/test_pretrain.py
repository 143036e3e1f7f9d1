# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
from pathlib import Path

import cv2
import lightning as L
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from clcp_ros.errors import ModelError, PairSetError
from training.loop import StepBatches, read_metrics
from training.methods.base import Setup
from training.methods.clcp import Clcp
from training.methods.config import ModelConfig, OptimizerConfig
from training.pairs.contrastive import ContrastivePairs, ViewConfig
from training.pairs.pair import Pair
from training.pairs.pair_set import PairSet
from training.pairs.writer import PairSetWriter
from training.pretrain import pretrain

K = np.array([[60.0, 0, 47.5], [0, 60, 31.5], [0, 0, 1]])
T_CAMERA_LIDAR = np.array([[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])
VIEWS = ViewConfig(image_size=48, voxel_size_m=0.4, min_points=5, crop_fraction=[0.8, 1.0])


def make_pair(i: int) -> Pair:
    """A bright disc whose place and size follow from a ball of points."""
    rng = np.random.default_rng(i)
    centre = np.array([rng.uniform(4, 9), rng.uniform(-2, 2), rng.uniform(-1, 1)])
    points = np.concatenate([centre + rng.normal(0, 0.4, (150, 3)), rng.random((150, 1))], axis=1)
    image = np.full((64, 96, 3), 60, np.uint8)
    x, y, z = -centre[1], -centre[2], centre[0]
    pixel = round(60 * x / z + 47.5), round(60 * y / z + 31.5)
    cv2.circle(image, pixel, round(60 / z), (250, 250, int(25 * centre[0])), -1)
    return Pair(
        f's/{i:06d}', 's', 'front', 'top', i * 10**8, i * 10**8, image,
        points.astype(np.float32), K, T_CAMERA_LIDAR,
    )  # fmt: skip


@pytest.fixture(scope='module')
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('pairs')
    writer = PairSetWriter(folder)
    writer.write_sequence('s', (make_pair(i) for i in range(80)))
    writer.finish(['s'], {}, 0.2)
    return folder


def test_it_learns_to_find_the_partner(pairs: Path, tmp_path: Path) -> None:
    result = pretrain(
        pairs, tmp_path / 'run', views=VIEWS, max_steps=30, batch_size=32, validate_every=10,
        optimizer=OptimizerConfig(lr=2e-3, warmup_steps=3),
    )  # fmt: skip
    rows = read_metrics(tmp_path / 'run' / 'metrics.csv')
    loss = [v for _, n, v in rows if n == 'loss']
    assert len(loss) == 30
    assert np.mean(loss[-5:]) < np.mean(loss[:5]) - 0.5
    assert {n for _, n, _ in rows} >= {'val_loss', 'val_r1', 'val_r5', 'val_rank', 'logit_scale'}
    assert load_file(result)


class Interrupt(L.Callback):
    """Ctrl-C in the middle of a run."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        if trainer.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize('interrupted_at', [4, 5])
def test_resumed_equals_uninterrupted(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupted_at: int
) -> None:
    options = {'views': VIEWS, 'max_steps': 8, 'batch_size': 16, 'validate_every': 4, 'workers': 0}
    options |= {'checkpoint_every': 2, 'model': ModelConfig(image_encoder='resnet10t')}
    whole = load_file(pretrain(pairs, tmp_path / 'whole', **options))

    real = L.Trainer.fit

    def fit(self: L.Trainer, *args: object, **kwargs: object) -> None:
        self.callbacks.append(Interrupt(interrupted_at))
        real(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(L.Trainer, 'fit', fit)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            pretrain(pairs, tmp_path / 'parts', **options)
    assert not (tmp_path / 'parts' / 'image_encoder.safetensors').exists()
    parts = load_file(pretrain(pairs, tmp_path / 'parts', **options))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[k], parts[k]) for k in whole)
    steps = [s for s, n, _ in read_metrics(tmp_path / 'parts' / 'metrics.csv') if n == 'loss']
    assert steps == list(range(1, 9))


def test_finished_runs_are_reused_and_others_are_refused(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {'views': VIEWS, 'max_steps': 2, 'batch_size': 8, 'validate_every': 1}
    pretrain(pairs, tmp_path / 'run', **options)
    pretrain(pairs, tmp_path / 'run', **options)
    assert 'already done' in capsys.readouterr().out
    with pytest.raises(ModelError, match=r'other settings.*seed'):
        pretrain(pairs, tmp_path / 'run', **options, seed=1)
    pretrain(pairs, tmp_path / 'run', **options, seed=1, overwrite=True)


def test_bad_input_is_one_line(pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(PairSetError, match=r'index\.parquet'):
        pretrain(tmp_path / 'nothing', tmp_path / 'a')
    writer = PairSetWriter(tmp_path / 'tiny')
    writer.write_sequence('s', [make_pair(0)])
    writer.finish(['s'], {}, 0.15)
    with pytest.raises(PairSetError, match='at least two'):
        pretrain(tmp_path / 'tiny', tmp_path / 'b')
    with pytest.raises(ModelError, match='unknown lidar encoder'):
        pretrain(pairs, tmp_path / 'c', model=ModelConfig(lidar_encoder='x'))
    assert not (tmp_path / 'c').exists()


def test_a_handful_of_pairs_is_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writer = PairSetWriter(tmp_path / 'few')
    writer.write_sequence('s', (make_pair(i) for i in range(6)))
    writer.finish(['s'], {}, 0.15)
    pretrain(tmp_path / 'few', tmp_path / 'run', views=VIEWS, max_steps=2)
    assert 'no validation' in capsys.readouterr().out


def test_a_batch_with_an_empty_sample_is_finite(pairs: Path) -> None:
    data = ContrastivePairs(PairSet(pairs), VIEWS, (0.5,) * 3, (0.5,) * 3, train=True)
    samples = [data[0, 0], data[1, 0], data[2, 0]]
    samples[1] = copy.copy(samples[1])
    samples[1]['lidar'] = data.preparation(np.zeros((0, 4), np.float32))
    method = Clcp(Setup())
    image, lidar, _, visible = method.embed(data.collate(samples))
    assert visible.tolist() == [True, False, True]
    assert torch.isfinite(image).all()
    assert torch.isfinite(lidar).all()
    lidar.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


def test_samples_depend_on_position_and_seed_only(pairs: Path) -> None:
    data = ContrastivePairs(PairSet(pairs), VIEWS, (0.5,) * 3, (0.5,) * 3, train=True)
    assert np.array_equal(data[3, 7]['image'], data[3, 7]['image'])
    assert not np.array_equal(data[3, 7]['image'], data[3, 8]['image'])
    assert data[3, 7]['image'].shape == (3, 48, 48)


def test_batches_cover_every_position_once_a_pass_and_split_over_ranks() -> None:
    batches = StepBatches(np.arange(100, 123), 5, 100, seed=3)
    seen = [p for step in range(4) for p, _ in batches.batch(step)]
    assert len(seen) == len(set(seen)) == 20
    assert batches.batch(7) == StepBatches(np.arange(100, 123), 5, 100, seed=3, start=7).batch(7)
    ranks = [StepBatches(np.arange(8), 4, 9, 0, rank=r, world_size=2).batch(2) for r in (0, 1)]
    assert sorted(ranks[0] + ranks[1]) == sorted(StepBatches(np.arange(8), 4, 9, 0).batch(2))
    later = list(StepBatches(np.arange(8), 4, 9, 0, start=6))
    assert len(later) == 3
