# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What goes on beside the steps of a run: random numbers, metrics, progress."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

Row = tuple[int, str, float]


@rank_zero_only
def rank_zero_print(text: str) -> None:
    """Print, in one of the processes of a run.

    Args:
        text: What.
    """
    print(text, flush=True)


class SeededSteps(Callback):
    """Seeds torch before every step, so that drop-out is the same after a resume.

    Args:
        seed: Seed of the run; ranks draw different numbers.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Seed the step."""
        step = trainer.global_step + 1_000_000_007 * trainer.global_rank
        torch.manual_seed(self.seed * 1_000_003 + step)


class MetricsFile(Callback):
    """Appends what is logged to a CSV file with the columns step, name, value.

    Values are read from the device some steps later, since reading waits for it.

    Args:
        path: The file. Rows after the step that a resumed run starts at are dropped.
        every: Steps between writes; validations and checkpoints write, too.
    """

    def __init__(self, path: Path, every: int = 10) -> None:
        self.path, self.every = path, every
        self._waiting: list[tuple[int, str, Tensor | float]] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Begin the file."""
        if trainer.is_global_zero and not self.path.is_file():
            self._rewrite([])

    def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Keep what belongs to the run so far."""
        if trainer.is_global_zero:
            self._rewrite([r for r in read_metrics(self.path) if r[0] <= trainer.global_step])

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Take the step's metrics."""
        self._take(trainer, validation=False)
        if trainer.global_step % self.every == 0:
            self.write()

    def on_validation_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Write the validation's metrics."""
        self._take(trainer, validation=True)
        self.write()

    def on_save_checkpoint(self, *_: Any) -> None:
        """Write all that a run resumed from here will not see again."""
        self.write()

    def on_train_end(self, *_: Any) -> None:
        """Write the rest."""
        self.write()

    def on_exception(self, *_: Any) -> None:
        """Write what there is; that a resumed run repeats is dropped then."""
        self.write()

    def write(self) -> None:
        """Append what waits."""
        if not self._waiting:
            return
        rows = [(step, name, f'{float(value):.6g}') for step, name, value in self._waiting]
        self._waiting.clear()
        with self.path.open('a', newline='') as file:
            csv.writer(file).writerows(rows)

    def _rewrite(self, rows: list[Row]) -> None:
        with self.path.open('w', newline='') as file:
            csv.writer(file).writerows([('step', 'name', 'value'), *rows])

    def _take(self, trainer: L.Trainer, validation: bool) -> None:
        if not trainer.is_global_zero:
            return
        for name, value in trainer.callback_metrics.items():
            if name.startswith('val_') == validation:
                value = value.detach().clone() if isinstance(value, Tensor) else value
                self._waiting.append((trainer.global_step, name, value))


def read_metrics(path: Path) -> list[Row]:
    """Read what `MetricsFile` wrote; empty when there is nothing.

    Args:
        path: The file. A line that a crash cut off or damaged is passed over.
    """
    if not path.is_file():
        return []
    rows = []
    # A power cut leaves zeros, which the reader of some versions of Python refuses.
    with path.open(newline='', errors='replace') as file:
        for row in csv.reader(line.replace('\0', '') for line in file):
            try:
                step, name, value = row
                rows.append((int(step), name, float(value)))
            except ValueError:
                continue
    return rows


class Speed(Callback):
    """Logs how fast the steps are; validations count as no step.

    `step_s`, `pairs_per_s` over all ranks, and `waited`: the share of a step's time in which the
    loader had no batch ready.

    Args:
        samples: Samples per step, over all ranks.
    """

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self._began = 0.0

    def on_train_start(self, *_: Any) -> None:
        """Begin to count."""
        self._began = time.perf_counter()

    def on_validation_end(self, *_: Any) -> None:
        """Begin again: a validation is no step."""
        self._began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any
    ) -> None:
        """Log the step's speed."""
        now = time.perf_counter()
        seconds = max(now - self._began, 1e-9)
        self._began = now
        waited = getattr(trainer.train_dataloader, 'take_waited', lambda: 0.0)()
        pl_module.log('step_s', seconds)
        pl_module.log('waited', min(waited / seconds, 1.0))
        pl_module.log('pairs_per_s', self.samples / seconds)


class Progress(TQDMProgressBar):
    """One bar for the whole run, with rate and time left; silent validation.

    Args:
        refresh_rate: Steps between refreshments.
    """

    def __init__(self, refresh_rate: int) -> None:
        super().__init__(refresh_rate, leave=True)
        self._rate = 0.0

    def init_validation_tqdm(self) -> Tqdm:
        """A bar that shows nothing: validation takes a moment, and its lines would pile up."""
        return Tqdm(disable=True)

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """What stands behind the bar, without Lightning's version of nothing."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop('v_num', None)
        if now := float(trainer.callback_metrics.get('pairs_per_s', 0)):
            self._rate = now if not self._rate else 0.9 * self._rate + 0.1 * now
            metrics['pairs/s'] = f'{self._rate:.3g}'
        return metrics
