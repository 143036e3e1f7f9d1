# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The best validation of a run, whichever way its metric is better."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from clcp_ros.errors import ModelError
from training.checkpoints import Best, read_checkpoint


class Counter(L.LightningModule):
    """Its one weight is the number of steps, its metric one value after the other."""

    def __init__(self, metric: str, values: list[float]) -> None:
        super().__init__()
        self.metric, self.values = metric, values
        self.steps = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch: Tensor, _: int) -> Tensor:
        return -self.steps

    def validation_step(self, batch: Tensor, _: int) -> None:
        self.log(self.metric, self.values[self.global_step - 1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 1.0)


def train(best: Best, module: Counter) -> L.Trainer:
    trainer = L.Trainer(
        max_steps=len(module.values), max_epochs=-1, val_check_interval=1,
        check_val_every_n_epoch=None, num_sanity_val_steps=0, logger=False,
        enable_checkpointing=False, enable_model_summary=False, enable_progress_bar=False,
        callbacks=[best], accelerator='cpu',
    )  # fmt: skip
    loader = DataLoader(torch.zeros(100, 1))
    trainer.fit(module, loader, DataLoader(torch.zeros(1, 1)))
    return trainer


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize(
    ('metric', 'values', 'where'),
    [
        ('val_loss', [3.0, 2.0, 2.5, float('nan'), 1.0], 2),
        ('val_r1', [0.1, 0.4, 0.3, float('nan'), 0.9], 2),
        ('val_probe_miou', [float('nan'), 0.0, 0.2, 0.2, 0.1, 0.9], 3),
        ('val_rank', [9.0, 7.0, 8.0, 8.0, 1.0], 2),
        ('val_image_rank', [3.0, 9.0, 8.0, 8.0, 99.0], 2),
    ],
)
def test_the_best_is_kept_and_a_run_that_gets_no_better_ends(
    metric: str, values: list[float], where: int, tmp_path: Path
) -> None:
    best = Best(tmp_path, keep=True, patience=2, metric=metric)
    module = Counter(metric, values)
    trainer = train(best, module)
    assert trainer.global_step == where + 2
    assert best.stopped
    assert (best.step, best.best) == (where, pytest.approx(values[where - 1]))
    assert float(read_checkpoint(tmp_path / Best.FILE)['state_dict']['steps']) == where
    best.restore(module)
    assert float(module.steps) == where


def test_what_it_knows_is_resumed(tmp_path: Path) -> None:
    before = Best(tmp_path, keep=False, patience=2, metric='val_r1')
    train(before, Counter('val_r1', [0.5, 0.2]))
    after = Best(tmp_path, keep=False, patience=2, metric='val_r1')
    after.load_state_dict(before.state_dict())
    assert train(after, Counter('val_r1', [0.4, 0.6, 0.7])).global_step == 1
    assert (after.best, after.step) == (pytest.approx(0.5), 1)


def test_a_metric_without_better_and_worse_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match='lr is no metric of which more or less is better'):
        Best(tmp_path, keep=True, metric='lr')
