# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Where a loss has exploded: far above its smallest, though it may stay finite for long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import Callback

from training.nonfinite import DivergedError

_SMOOTHING = 0.9


def smooth(losses: Sequence[float]) -> np.ndarray:
    """Exponential average, unbiased at the beginning.

    Args:
        losses: (N,).

    Returns:
        (N,) float64.
    """
    average, result = 0.0, []
    for i, loss in enumerate(losses):
        average = _SMOOTHING * average + (1 - _SMOOTHING) * loss
        result.append(average / (1 - _SMOOTHING ** (i + 1)))
    return np.array(result)


def explosion(smoothed: np.ndarray, factor: float) -> int | None:
    """The first step whose loss is above a multiple of the smallest one before.

    Args:
        smoothed: (N,) losses.
        factor: The multiple, above 1; of a negative loss as many times its size above it. 0 for
            any loss.

    Returns:
        Its number, from 0; None where there is none.
    """
    if not factor or not len(smoothed):
        return None
    smallest = np.minimum.accumulate(smoothed)
    above = np.flatnonzero(smoothed > smallest + (factor - 1) * np.abs(smallest))
    return int(above[0]) if len(above) else None


class Explosion(Callback):
    """Ends a run whose loss has exploded with a `DivergedError`.

    Args:
        factor: See `explosion`.
    """

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.losses: list[float] = []

    def state_dict(self) -> dict[str, Any]:
        """The losses so far, for a run that is resumed."""
        return {'losses': self.losses}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Losses of a checkpoint."""
        self.losses = list(state_dict['losses'])

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Look at the step's loss.

        Raises:
            DivergedError: It has exploded.
        """
        self.losses.append(float(trainer.callback_metrics['loss']))
        smoothed = smooth(self.losses)
        # As the first rank sees it, whose losses are in metrics.csv: all have to end together.
        if trainer.strategy.broadcast(explosion(smoothed, self.factor) is not None):
            raise DivergedError(
                f'after step {trainer.global_step} the smoothed loss, {smoothed[-1]:.4g}, is more '
                f'than {self.factor:g} times its smallest, {smoothed.min():.4g}'
            )
