# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The training step of a segmentation model, as a Lightning module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor

from clcp_ros.classes import UNLABELLED
from training.models.segmenter import SegmentationModel
from training.schedules import decay_groups
from training.segmentation.batches import Batch
from training.segmentation.labels import LabelReader


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimizer and schedule.

    Attributes:
        name: AdamW, or SGD with momentum 0.9 as published.
        lr: Largest learning rate.
        min_lr: Learning rate at the end.
        encoder_factor: The encoder's learning rate as a share of the head's.
        weight_decay: Of matrices; biases, norms and embeddings have none.
        warmup: Steps of linear increase at the start.
        power: Of the polynomial decrease.
        clip: Largest norm of the gradient; 0 for no limit.
    """

    name: Literal['adamw', 'sgd'] = 'adamw'
    lr: float = 1e-3
    min_lr: float = 1e-5
    encoder_factor: float = 1.0
    weight_decay: float = 0.01
    warmup: int = 20
    power: float = 0.9
    clip: float = 1.0


def polynomial(step: int, *, steps: int, warmup: int, power: float, floor: float) -> float:
    """Linear warm-up, then a polynomial decrease (Chen et al. 2018, "poly").

    Args:
        step: Step, from 0.
        steps: Length of the run.
        warmup: Steps of the warm-up.
        power: Of the decrease.
        floor: Factor at the end.

    Returns:
        Factor of the largest learning rate.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    left = max(1 - (step - warmup) / max(steps - warmup, 1), 0.0)
    return floor + (1 - floor) * left**power


class SegmentationTask(L.LightningModule):
    """Cross-entropy on upsampled logits.

    Args:
        model: What is trained.
        optimizer: Optimizer and schedule.
        max_steps: Length of the schedule.
        labels: Takes the counts of ids outside the class set.
    """

    def __init__(
        self,
        model: SegmentationModel,
        optimizer: OptimizerConfig,
        max_steps: int,
        labels: LabelReader,
    ) -> None:
        super().__init__()
        # A fifth faster on a CPU, and what a GPU's convolutions want.
        self.model = model.to(memory_format=torch.channels_last)
        self.settings = optimizer
        self.max_steps = max_steps
        self.labels = labels

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Loss of a batch.

        Args:
            batch: Images and labels.
        """
        self.labels.add(batch.outside)
        logits = F.interpolate(
            self.model(batch.images.contiguous(memory_format=torch.channels_last)).logits,
            size=batch.labels.shape[-2:], mode='bilinear', align_corners=False,
        )  # fmt: skip
        labelled = batch.labels != UNLABELLED
        count = labelled.sum().clamp(min=1)
        # Not the mean reduction, which is NaN for a batch without any label.
        loss = F.cross_entropy(
            logits.float(), batch.labels, ignore_index=UNLABELLED, reduction='sum'
        ) / count  # fmt: skip
        right = (logits.argmax(1) == batch.labels) & labelled
        self.log('train_loss', loss.detach(), prog_bar=True)
        self.log('train_pixel_accuracy', right.sum() / count, prog_bar=True)
        self.log('lr', self.trainer.optimizers[0].param_groups[-1]['lr'])
        return loss

    def configure_optimizers(self) -> Any:
        """Optimizer with its schedule, by step; the head's groups come last."""
        settings, groups = self.settings, []
        parts = ((self.model.encoder, settings.encoder_factor), (self.model.decoder, 1.0))
        for part, factor in parts:
            for group in decay_groups(part, settings.weight_decay):
                if group['params']:
                    groups.append({**group, 'lr': settings.lr * factor})
        optimizer: torch.optim.Optimizer
        if settings.name == 'sgd':
            optimizer = torch.optim.SGD(groups, settings.lr, momentum=0.9)
        else:
            optimizer = torch.optim.AdamW(groups, settings.lr)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._factor)
        return {
            'optimizer': optimizer,
            'lr_scheduler': {'scheduler': schedule, 'interval': 'step'},
        }

    def _factor(self, step: int) -> float:
        settings = self.settings
        return polynomial(
            step, steps=self.max_steps, warmup=settings.warmup, power=settings.power,
            floor=settings.min_lr / settings.lr,
        )  # fmt: skip
