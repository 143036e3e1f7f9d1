# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The training step of a segmentation model, as a Lightning module."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast, get_args

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clcp_ros.classes import UNLABELLED
from clcp_ros.errors import ModelError
from training.models.segmenter import SegmentationModel
from training.nonfinite import step_counts
from training.schedules import decay_groups, layer_decay_groups
from training.segmentation.batches import Batch
from training.segmentation.keeping import Kept, KeptBatch, heads_of
from training.segmentation.labels import LabelReader

OptimizerName = Literal['adamw', 'sgd']


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimizer and schedule.

    Attributes:
        name: AdamW, or SGD with momentum 0.9 as published.
        lr: Largest learning rate.
        min_lr: Learning rate at the end.
        encoder_factor: The encoder's learning rate as a share of the head's.
        layer_decay: Factor of the learning rate from each layer of the encoder to the one before
            it; 1 for the same in all.
        head_warmup: Steps at the start in which the head learns alone, so that its first, random
            gradients do not spoil the encoder (LP-FT, Kumar et al. 2022).
        ema: Decay of an exponential moving average of the weights, which is what is validated and
            saved; 0 for none.
        weight_decay: Of matrices; biases, norms and embeddings have none.
        warmup: Steps of linear increase at the start.
        power: Of the polynomial decrease.
        clip: Largest norm of the gradient; 0 for no limit.
    """

    name: OptimizerName = 'adamw'
    lr: float = 1e-3
    min_lr: float = 1e-5
    encoder_factor: float = 1.0
    layer_decay: float = 1.0
    head_warmup: int = 0
    ema: float = 0.0
    weight_decay: float = 0.01
    warmup: int = 20
    power: float = 0.9
    clip: float = 1.0

    def check(self, max_steps: int) -> None:
        """Raise ModelError for values that make no sense.

        Args:
            max_steps: Length of the run.
        """
        names = get_args(OptimizerName)
        if self.name not in names:
            raise ModelError(f'no optimizer {self.name!r}; there are {", ".join(names)}')
        for name in ('lr', 'encoder_factor', 'power'):
            if not 0 < (value := getattr(self, name)) < math.inf:
                hint = ' (what is not to be trained is frozen: --freeze_encoder)'
                raise ModelError(
                    f'{name} must be a positive number, not {value:g}'
                    f'{hint if name == "encoder_factor" else ""}'
                )
        if not 0 <= self.min_lr <= self.lr:
            raise ModelError(f'min_lr must lie in [0, lr], not {self.min_lr:g} of {self.lr:g}')
        if not 0 < self.layer_decay <= 1:
            raise ModelError(f'layer_decay must be in (0, 1], not {self.layer_decay:g}')
        if not 0 <= self.ema < 1:
            raise ModelError(f'ema must be in [0, 1), not {self.ema:g}')
        for name in ('head_warmup', 'weight_decay', 'warmup', 'clip'):
            if not 0 <= (value := getattr(self, name)) < math.inf:
                raise ModelError(f'{name} must be a number from 0 on, not {value:g}')
        lengths = {'head_warmup': self.head_warmup}
        if self.warmup != OptimizerConfig.warmup:
            # The default suits the default length; a shorter trial run is no mistake.
            lengths['warmup'] = self.warmup
        for name, steps in lengths.items():
            if steps > max_steps:
                raise ModelError(
                    f'a {name} of {steps} steps is longer than the run: --max_steps is {max_steps}'
                )


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
        class_weights: (C,) weight of each class in the loss; none for one.
        kept: A pretraining method that goes on with the encoder; batches are `KeptBatch` then.
    """

    def __init__(
        self,
        model: SegmentationModel,
        optimizer: OptimizerConfig,
        max_steps: int,
        labels: LabelReader,
        class_weights: np.ndarray | None = None,
        kept: Kept | None = None,
    ) -> None:
        super().__init__()
        # A fifth faster on a CPU, and what a GPU's convolutions want.
        self.model = model.to(memory_format=torch.channels_last)
        self.settings = optimizer
        self.max_steps = max_steps
        self.labels = labels
        self.kept = None if kept is None else kept.method
        self.kept_weight = 0.0 if kept is None else kept.config.weight
        weights = None if class_weights is None else torch.from_numpy(class_weights)
        # Not in the checkpoint: it is computed from the data, as the loss is.
        self.register_buffer('class_weights', weights, persistent=False)

    def training_step(self, batch: Batch | KeptBatch, _: int) -> Tensor:
        """Loss of a batch.

        Args:
            batch: Images and labels, and pairs where a method goes on.
        """
        if not isinstance(batch, KeptBatch):
            return self._labelled_loss(batch)
        assert self.kept is not None
        loss, facts = self.kept.loss_of([batch.pairs])
        self.log('kept_loss', loss.detach(), sync_dist=True)
        self.log_dict({f'kept_{name}': value for name, value in facts.items()})
        return self._labelled_loss(batch.frames) + self.kept_weight * loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """A step, and what a method does after each."""
        super().optimizer_step(*args, **kwargs)
        if self.kept is not None and step_counts(self.trainer):
            with torch.no_grad():
                self.kept.after_step()

    def _labelled_loss(self, batch: Batch) -> Tensor:
        self.labels.add(batch.outside)
        logits = F.interpolate(
            self.model(batch.images.contiguous(memory_format=torch.channels_last)).logits,
            size=batch.labels.shape[-2:], mode='bilinear', align_corners=False,
        )  # fmt: skip
        labelled = batch.labels != UNLABELLED
        # Of all processes, whose gradients are averaged: they need not have as many labels each.
        count = self._mean_over_processes(labelled.sum()).clamp(min=1)
        weights = cast('Tensor | None', self.class_weights)
        # Not the mean reduction, which is NaN for a batch without any label. Weights are one on
        # average, so that the sum is divided by the number of pixels with them, too.
        loss = F.cross_entropy(
            logits.float(), batch.labels, weights, ignore_index=UNLABELLED, reduction='sum'
        ) / count  # fmt: skip
        right = (logits.argmax(1) == batch.labels) & labelled
        self.log('train_loss', loss.detach(), prog_bar=True, sync_dist=True)
        self.log('train_pixel_accuracy', right.sum() / count, prog_bar=True, sync_dist=True)
        self.log('lr', self.trainer.optimizers[0].param_groups[-1]['lr'])
        return loss

    def _mean_over_processes(self, count: Tensor) -> Tensor:
        if self.trainer.world_size == 1:
            return count
        return cast('Tensor', self.all_gather(count)).float().mean()

    def on_train_end(self) -> None:
        """Let every process know what all of them met outside the class set."""
        if self.trainer.world_size > 1:
            counts: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(counts, self.labels.take())
            for count in counts:
                self.labels.add(count)

    def on_validation_epoch_start(self) -> None:
        """Begin to count."""
        classes = self.model.decoder.num_classes
        self._counts = torch.zeros(classes, classes, dtype=torch.int64, device=self.device)

    def validation_step(self, batch: Batch, _: int) -> None:
        """Count what one frame's prediction gets right.

        Args:
            batch: Frames at the input size, with labels of their own size.
        """
        logits = F.interpolate(
            self.model(batch.images.contiguous(memory_format=torch.channels_last)).logits,
            size=batch.labels.shape[-2:], mode='bilinear', align_corners=False,
        )  # fmt: skip
        labelled = batch.labels != UNLABELLED
        flat = batch.labels[labelled] * len(self._counts) + logits.argmax(1)[labelled]
        self._counts += torch.bincount(flat, minlength=self._counts.numel()).view_as(self._counts)

    def on_validation_epoch_end(self) -> None:
        """Log the mean IoU over the classes that occur, of the frames of all processes."""
        counts = self._counts
        if self.trainer.world_size > 1:
            counts = cast('Tensor', self.all_gather(counts)).sum(dim=0)
        hits = counts.diagonal().double()
        union = counts.sum(0) + counts.sum(1) - hits
        self.log('val_miou', (hits[union > 0] / union[union > 0]).mean().float(), prog_bar=True)

    def configure_optimizers(self) -> Any:
        """Optimizer with its schedule, by step; the head's groups come last."""
        settings = self.settings
        encoder = settings.lr * settings.encoder_factor
        kept = nn.Module() if self.kept is None else heads_of(self.kept)
        parts = (
            (self._encoder_groups(), encoder, settings.head_warmup),
            (decay_groups(kept, settings.weight_decay), settings.lr, 0),
            (decay_groups(self.model.decoder, settings.weight_decay), settings.lr, 0),
        )
        groups: list[dict[str, Any]] = []
        factors: list[Callable[[int], float]] = []
        for part, lr, start in parts:
            for group in part:
                if group['params']:
                    scale = group.pop('lr_scale', 1.0)
                    groups.append({**group, 'lr': lr * scale})
                    factors.append(partial(self._factor, start=start))
        optimizer: torch.optim.Optimizer
        if settings.name == 'sgd':
            optimizer = torch.optim.SGD(groups, settings.lr, momentum=0.9)
        else:
            optimizer = torch.optim.AdamW(groups, settings.lr)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
        return {
            'optimizer': optimizer,
            'lr_scheduler': {'scheduler': schedule, 'interval': 'step'},
        }

    def _encoder_groups(self) -> list[dict[str, Any]]:
        settings = self.settings
        if self.model.encoder_frozen:
            return []
        if settings.layer_decay == 1:
            return decay_groups(self.model.encoder, settings.weight_decay)
        return layer_decay_groups(
            self.model.encoder.model, settings.weight_decay, settings.layer_decay
        )

    def _factor(self, step: int, start: int) -> float:
        settings = self.settings
        if step < start:
            return 0.0
        return polynomial(
            step - start, steps=self.max_steps - start, warmup=settings.warmup,
            power=settings.power, floor=settings.min_lr / settings.lr,
        )  # fmt: skip
