# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Prints a warning when what is watched is a reason for one."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from training.callbacks import rank_zero_print
from training.watch.watch import Watch

_RECENT = 20


class Warnings(Callback):
    """Looks at what every validation measured; a resumed run warns of nothing twice.

    Args:
        watch: Of the run.
        batch: Pairs per step, over all ranks.
    """

    def __init__(self, watch: Watch, batch: int) -> None:
        self.watch, self.batch = watch, batch
        self._losses: deque[Any] = deque(maxlen=_RECENT)

    def state_dict(self) -> dict[str, Any]:
        """What was warned of, and the contrast of late, for the checkpoint."""
        return {'warned': dict(self.watch.warned), 'losses': [float(x) for x in self._losses]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What the run before knew."""
        self.watch.warned |= state_dict['warned']
        self._losses.extend(state_dict['losses'])

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Remember the contrast."""
        if 'contrast' in trainer.callback_metrics:
            self._losses.append(trainer.callback_metrics['contrast'])

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Warn, each thing once."""
        values = {
            name.removeprefix('val_'): float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith('val_')
        }
        values.pop('loss', None)
        losses = [float(x) for x in self._losses]
        if losses and math.isfinite(sum(losses)):
            values['loss'] = sum(losses) / len(losses)
        method: Any = pl_module
        scale = None if method.scale is None else float(method.scale.detach())
        step = trainer.global_step if trainer.state.fn == 'fit' else 0
        for line in self.watch.warn(step, values, self.batch, method.floor(self.batch), scale):
            rank_zero_print(f'\nwarning at step {step}: {line}')
