# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A skipped step leaves everything as it was: weights, averages, statistics, counts."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from safetensors.torch import load_file

import training.finetune as finetuning
from training.checkpoints import read_checkpoint
from training.loop import read_metrics
from training.methods.base import Setup
from training.methods.clcp_anchored import AnchoredConfig, ClcpAnchored
from training.methods.config import ModelConfig, OptimizerConfig
from training.nonfinite import DivergedError
from training.pairs.contrastive import ViewConfig
from training.pretrain import pretrain
from training.segmentation.task import OptimizerConfig as SegmentationOptimizer
from training.segmentation.transforms import AugmentationConfig

MODEL = ModelConfig('test_efficientnet', embed_dim=16)
VIEWS = ViewConfig(image_size=64, voxel_size_m=0.5, augment='none')
OPTIONS = AnchoredConfig(cls=1.0, nce=0.0, geometry=1.0, width=16, ema=0.5)
QUICK: dict[str, Any] = {
    'method': 'clcp_anchored', 'model': MODEL, 'views': VIEWS, 'clcp_anchored': OPTIONS,
    'batch_size': 4, 'validate_every': 0, 'checkpoint_every': 1, 'workers': 0, 'loggers': '',
}  # fmt: skip


class Overflow(L.Callback):
    """A forward pass whose numbers became too large, as far as statistics and loss show it."""

    def __init__(self, steps: set[int]) -> None:
        self.steps = steps

    def on_before_backward(
        self, trainer: L.Trainer, module: L.LightningModule, loss: torch.Tensor
    ) -> None:
        if trainer.global_step in self.steps:
            loss.data.fill_(float('inf'))

    def on_after_backward(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.global_step in self.steps:
            for name, buffer in module.named_buffers():
                if name.endswith('running_var') and 'teacher' not in name:
                    buffer.fill_(float('nan'))


@pytest.fixture
def overflow(monkeypatch: pytest.MonkeyPatch) -> Callable[[set[int]], None]:
    real = L.Trainer.fit

    def prepare(steps: set[int]) -> None:
        def fit(self: L.Trainer, *args: Any, **kwargs: Any) -> None:
            self.callbacks.insert(0, Overflow(steps))
            real(self, *args, **kwargs)

        monkeypatch.setattr(L.Trainer, 'fit', fit)

    return prepare


def test_a_first_step_that_is_skipped_changes_nothing(
    noise_pairs: Path, tmp_path: Path, overflow: Callable[[set[int]], None]
) -> None:
    overflow({0})
    pretrain(noise_pairs, tmp_path / 'run', max_steps=1, **QUICK)
    L.seed_everything(0, verbose=False)
    start = ClcpAnchored(Setup(MODEL, views=VIEWS, max_steps=1, options=OPTIONS)).state_dict()
    after = read_checkpoint(tmp_path / 'run' / 'last.ckpt')['state_dict']
    assert after.keys() == start.keys()
    assert 'steps' in after
    changed = [k for k, v in after.items() if not torch.equal(v, start[k])]
    assert not changed


def test_a_first_step_after_a_resume_that_is_skipped_changes_nothing(
    noise_pairs: Path, tmp_path: Path, overflow: Callable[[set[int]], None]
) -> None:
    """The moving average stands still, and the statistics are those before the step."""
    overflow({2})
    pretrain(noise_pairs, tmp_path / 'whole', max_steps=3, **QUICK)
    whole = read_checkpoint(tmp_path / 'whole' / 'last.ckpt')['state_dict']

    class Stop(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
            if trainer.global_step == 2:
                raise KeyboardInterrupt

    before: dict[str, torch.Tensor] = {}
    real = L.Trainer.fit

    def fit(self: L.Trainer, *args: Any, **kwargs: Any) -> None:
        self.callbacks.append(Stop())
        real(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(L.Trainer, 'fit', fit)
        with pytest.raises(KeyboardInterrupt):
            pretrain(noise_pairs, tmp_path / 'parts', max_steps=3, **QUICK)
    before = read_checkpoint(tmp_path / 'parts' / 'last.ckpt')['state_dict']
    pretrain(noise_pairs, tmp_path / 'parts', max_steps=3, **QUICK)
    after = read_checkpoint(tmp_path / 'parts' / 'last.ckpt')['state_dict']
    assert int(after['steps']) == 2
    assert [k for k, v in after.items() if not torch.equal(v, before[k])] == []
    assert [k for k, v in after.items() if not torch.equal(v, whole[k])] == []


@pytest.mark.parametrize('method', ['clcp', 'clcp_anchored'])
def test_an_encoder_that_gives_no_numbers_at_a_validation_has_diverged(
    method: str, noise_pairs: Path, tmp_path: Path
) -> None:
    """Finite in training, where BatchNorm sees the batch, and infinite in evaluation."""
    options = {**QUICK, 'method': method, 'validate_every': 1, 'checkpoint_every': 50}
    options['clcp_anchored'] = AnchoredConfig(cls=0.0, nce=0.0)
    if method == 'clcp':
        del options['clcp_anchored']
    with pytest.raises(DivergedError, match=r'not finite at step \d+; lower the learning rate'):
        pretrain(
            noise_pairs, tmp_path / 'run', max_steps=50, tolerance=50,
            optimizer=OptimizerConfig(lr=1e12, warmup_steps=0), **options,
        )  # fmt: skip


def test_coarse_numbers_are_finite(noise_pairs: Path, tmp_path: Path) -> None:
    """All of a step in bfloat16 where that is enough, and nothing is skipped."""
    options = AnchoredConfig(cls=1.0, nce=1.0, point=1.0, geometry=1.0, returns=1.0, width=16)
    pretrain(
        noise_pairs, tmp_path / 'run', max_steps=3, precision='bf16-mixed',
        **{**QUICK, 'clcp_anchored': options, 'validate_every': 3},
    )  # fmt: skip
    rows = read_metrics(tmp_path / 'run' / 'metrics.csv')
    assert [v for _, name, v in rows if name == 'skipped'] == [0, 0, 0]
    terms = {n: v for _, n, v in rows if n.startswith('term_') or n in ('contrast', 'val_loss')}
    assert len(terms) == 6
    assert all(math.isfinite(v) for v in terms.values())
    assert len({v for _, n, v in rows if n == 'loss'}) == 3


class Averages(L.Callback):
    """Copies of the moving average and of the weights themselves, after each step."""

    def __init__(self) -> None:
        self.averages: list[dict[str, torch.Tensor]] = []
        self.weights: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        (average,) = (c for c in trainer.callbacks if isinstance(c, EMAWeightAveraging))
        state: dict[str, Any] = {'state_dict': module.state_dict()}
        average.on_save_checkpoint(trainer, module, state)
        self.averages.append(copied(state['state_dict'] | state['averaging_state']))
        self.weights.append(copied(state['current_model_state']))


def copied(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in state.items()}


def changed(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    assert one.keys() == other.keys()
    return [k for k in one if not torch.equal(one[k], other[k])]


def test_the_average_of_finetuning_stands_still_on_a_skipped_step(
    toy_cityscapes: Path, tmp_path: Path, overflow: Callable[[set[int]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Weights move in steps 0, 1 and 4; the average is behind them, and would go on to follow."""
    seen = Averages()
    tolerant = partial(finetuning.make_trainer, tolerance=2, callbacks=[seen])
    monkeypatch.setattr(finetuning, 'make_trainer', tolerant)
    overflow({2, 3})
    model = finetuning.finetune(
        toy_cityscapes, 'test_efficientnet', tmp_path, input_size=(48, 80), max_steps=5,
        batch_size=2, augmentation=AugmentationConfig(crop=None), checkpoint_every=5,
        optimizer=SegmentationOptimizer(warmup=0, ema=0.5),
    )  # fmt: skip
    skipped = [v for _, name, v in read_metrics(tmp_path / 'metrics.csv') if name == 'skipped']
    assert skipped == [0, 0, 1, 2, 2]
    assert changed(seen.averages[1], seen.weights[1] | {'n_averaged': torch.tensor(2)})
    for step in (2, 3):
        assert not changed(seen.weights[step], seen.weights[1])
        assert not changed(seen.averages[step], seen.averages[1])
    assert int(seen.averages[4]['n_averaged']) == 3
    assert changed(seen.averages[4], seen.averages[3])
    saved, expected = load_file(model), seen.averages[4]
    name = 'decoder.proj_patch'
    assert torch.equal(saved[name], expected[f'model.{name}'])
    # Under its old name, so that runs begun before go on.
    assert 'EMAWeightAveraging' in read_checkpoint(tmp_path / 'last.ckpt')['callbacks']
