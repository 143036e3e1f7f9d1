# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A moving average of the weights that stands still while steps are skipped."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EMAWeightAveraging

from training.nonfinite import step_counts


class MovingAverage(EMAWeightAveraging):
    """Lightning's average of weights and statistics, over the steps that count.

    It takes the weights' place in validations and at the end.

    Args:
        decay: Share of the average that stays in a step.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(decay=decay)

    @property
    def state_key(self) -> str:
        """Its parent's, under which checkpoints have it."""
        return EMAWeightAveraging.__qualname__

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        """Move, unless the step was skipped."""
        if step_counts(trainer):
            super().on_train_batch_end(trainer, *args, **kwargs)
