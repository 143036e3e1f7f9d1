# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Steps whose loss or gradient is not a number change nothing; a run of them ends the training."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from clcp_ros.errors import ModelError
from training.sharding import whole


class DivergedError(ModelError):
    """Loss or gradient were not finite, more often running than is tolerated."""


class FiniteSteps(Callback):
    """Clips the gradient, skips steps that are not finite, counts them as `skipped`.

    A skipped step leaves weights, the optimizer's averages and BatchNorm's statistics as they
    were; it counts as a step, so that the schedule and the batches to come stay the same.
    What follows a step (`Method.after_step`) asks for `step_counts`.

    Args:
        clip: Largest norm of the gradient; 0 for any.
        tolerance: How many steps running may be skipped; the next one ends the run with a
            `DivergedError`.

    Attributes:
        step_counts: Whether loss and gradient of the present step are finite.
    """

    def __init__(self, clip: float, tolerance: int = 0) -> None:
        self.clip, self.tolerance = clip, tolerance
        self.skipped = self.running = 0
        self.step_counts = True
        self._loss: Tensor | None = None
        self._statistics: list[Tensor] = []
        self._before: list[Tensor] = []

    def state_dict(self) -> dict[str, Any]:
        """Counts, for the checkpoint."""
        return {'skipped': self.skipped, 'running': self.running}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Counts of a checkpoint."""
        self.skipped, self.running = state_dict['skipped'], state_dict['running']

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Find the statistics of BatchNorm."""
        self._statistics = _statistics(pl_module)
        self._before = [torch.empty_like(x) for x in self._statistics]

    def on_train_batch_start(self, *_: Any) -> None:
        """Keep the statistics: they move in the forward pass, before anything is known."""
        with torch.no_grad():
            for old, now in zip(self._before, self._statistics, strict=True):
                old.copy_(now)

    def on_before_backward(
        self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor
    ) -> None:
        """Remember the loss."""
        self._loss = loss.detach()

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Clip, or take the gradients away, without which AdamW and SGD do nothing."""
        norm = clip_gradients(pl_module, self.clip)
        assert self._loss is not None
        pl_module.log('grad_norm', norm)
        finite = torch.isfinite(norm) & torch.isfinite(self._loss.to(norm.device))
        if dist.is_initialized():
            together = finite.to(torch.int32)
            dist.all_reduce(together, dist.ReduceOp.MIN)
            finite = together.bool()
        self.step_counts = bool(finite)
        if self.step_counts:
            self.running = 0
        else:
            with torch.no_grad():
                for now, old in zip(self._statistics, self._before, strict=True):
                    now.copy_(old)
            # The scaler of 16-mixed skips infinite gradients itself, and lowers its scale.
            if trainer.precision != '16-mixed' or not bool(torch.isfinite(self._loss)):
                self._skip(trainer, pl_module)
        pl_module.log('skipped', float(self.skipped))

    def _skip(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.skipped += 1
        self.running += 1
        assert self._loss is not None
        step = trainer.global_step
        if self.running > self.tolerance:
            what = f'the loss is {float(self._loss):g}'
            if bool(torch.isfinite(self._loss)):
                what = 'the gradient is not finite'
            before = ''
            if self.running > 1:
                before = f', as were {self.running - 1} before it, which were skipped'
            raise DivergedError(
                f'{what} at step {step}{before}; lower the learning rate, or train in float32 '
                '(precision 32-true)'
            )
        for parameter in module.parameters():
            parameter.grad = None
        if trainer.is_global_zero:
            print(f'\nstep {step}: loss or gradient not finite, step skipped')


def step_counts(trainer: L.Trainer) -> bool:
    """Whether the present step was not skipped.

    Args:
        trainer: With `FiniteSteps` or without.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return all(c.step_counts for c in callbacks if isinstance(c, FiniteSteps))


def clip_gradients(module: L.LightningModule, clip: float) -> Tensor:
    """Clip the norm of the whole gradient.

    Args:
        module: What is trained.
        clip: Largest norm; 0 for any.

    Returns:
        The norm before.
    """
    largest = clip or float('inf')
    gradients = [p for p in module.parameters() if p.grad is not None]
    return whole(torch.nn.utils.clip_grad_norm_(gradients, largest))


def _statistics(module: L.LightningModule) -> list[Tensor]:
    names = ('running_mean', 'running_var', 'num_batches_tracked')
    return [b for n, b in module.named_buffers() if n.endswith(names)]
