# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that are whole or not there, written after the validation of their step."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback

from clcp_ros.errors import ModelError
from training.cli import atomic_path
from training.metric_directions import smaller_is_better


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes beside, syncs to the disk and renames; reads as data, executing nothing."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write a checkpoint; what stood there stays until the new one is whole."""
        write_atomically(checkpoint, Path(path))

    def load_checkpoint(
        self,
        path: Any,
        map_location: Callable[..., Any] | None = lambda storage, _: storage,
        weights_only: bool | None = True,
    ) -> dict[str, Any]:
        """Read a checkpoint.

        Raises:
            ModelError: It is damaged, or holds more than data.
        """
        return read_checkpoint(Path(path))


def write_atomically(content: dict[str, Any], path: Path) -> None:
    """Write with torch.save, whole or not at all.

    Args:
        content: What to write.
        path: Where to.

    Raises:
        ModelError: The disk is full.
        OSError: The same, or another reason of the system's.
    """
    try:
        with atomic_path(path) as temporary, temporary.open('wb') as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
    except RuntimeError as error:
        # torch's writer makes an error of its own of the system's; all that is written is tensors
        # and numbers, so nothing else can fail.
        reason = error.__context__ if isinstance(error.__context__, OSError) else 'disk full?'
        raise ModelError(f'{path} could not be written ({reason})') from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, without executing anything in it.

    Args:
        path: The file.

    Raises:
        ModelError: It is damaged, or holds more than data.
    """
    try:
        content = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # whatever a damaged file makes torch raise
        if isinstance(error, FileNotFoundError):
            raise ModelError(f'{path}: no such checkpoint') from None
        raise ModelError(
            f'{path}: not a checkpoint of plain data, or damaged; delete it to begin anew'
        ) from None
    if not isinstance(content, dict) or 'state_dict' not in content:
        raise ModelError(f'{path}: a file of something else than a checkpoint')
    return content


class Checkpoints(Callback):
    """Writes a checkpoint every so many steps, after the validation where there is one.

    So whatever a validation changes (early stopping) is as it was when a run goes on.

    Args:
        path: The file; each one replaces the one before.
        every: Steps between checkpoints.
        validate_every: Steps between validations; 0 for none.
    """

    def __init__(self, path: Path, every: int, validate_every: int) -> None:
        self.path, self.every, self.validate_every = path, every, validate_every

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Write, unless a validation follows."""
        step = trainer.global_step
        if not self.validate_every or step % self.validate_every:
            self._write(trainer)

    def on_validation_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Write after the validation."""
        if trainer.state.fn == 'fit':
            self._write(trainer)

    def _write(self, trainer: L.Trainer) -> None:
        step = trainer.global_step
        if step and step % self.every == 0:
            trainer.save_checkpoint(self.path)


class Best(Callback):
    """Ends a run whose validation gets no better, and keeps the weights that did best.

    Args:
        folder: Of the run; `best.ckpt` is written there.
        keep: Whether to keep the best weights.
        patience: Validations without improvement that end the run; 0 for any number.
        metric: What is looked at; which way it is better is known by its name.

    Raises:
        ModelError: The metric has no better and worse.
    """

    FILE = 'best.ckpt'

    def __init__(
        self, folder: Path, keep: bool, patience: int = 0, metric: str = 'val_loss'
    ) -> None:
        self.path = folder / self.FILE
        self.keep, self.patience, self.metric = keep, patience, metric
        self.smaller = smaller_is_better(metric)
        self.best = float('inf') if self.smaller else float('-inf')
        self.step, self.without = -1, 0

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run has to know."""
        return {'best': self.best, 'step': self.step, 'without': self.without}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What the run before knew."""
        self.best, self.step = state_dict['best'], state_dict['step']
        self.without = state_dict['without']

    @property
    def stopped(self) -> bool:
        """Whether the run has ended early."""
        return 0 < self.patience <= self.without

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take no step more where the run had ended when it was killed."""
        if self.stopped:
            trainer.should_stop = True

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare with the best.

        Raises:
            ModelError: Nothing of that name was measured.
        """
        if not (self.keep or self.patience):
            return
        if self.metric not in trainer.callback_metrics:
            raise ModelError(
                f'--patience and --keep best compare {self.metric}, which this run does not '
                'measure: its method has no validation loss, or no validation pair shows a point'
            )
        if trainer.state.fn != 'fit':
            return
        value = float(trainer.callback_metrics[self.metric])
        if value < self.best if self.smaller else value > self.best:
            self.best, self.step, self.without = value, trainer.global_step, 0
            if self.keep:
                state = trainer.strategy.lightning_module_state_dict()
                if trainer.is_global_zero:
                    content = {'state_dict': state, 'global_step': self.step}
                    write_atomically(content, self.path)
        else:
            self.without += 1
        if self.stopped:
            trainer.should_stop = True
            if trainer.is_global_zero:
                print(
                    f'\n{self.metric} has not improved for {self.without} validations: stopping '
                    f'at step {trainer.global_step}; the best was {self.best:.4g} at step '
                    f'{self.step}'
                )

    def restore(self, module: L.LightningModule) -> None:
        """Give the module the best weights, where they were kept."""
        if self.keep and self.path.is_file():
            module.load_state_dict(read_checkpoint(self.path)['state_dict'])
        elif self.keep:
            print(f'\nwarning: no {self.metric} was a number, so the last weights are saved')
