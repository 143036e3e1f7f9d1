# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What every pretraining method is and shares: negatives of all ranks, chunks, groups, export.

A method says how a batch is embedded and how all embeddings are contrasted. That they are those
of all ranks and of all chunks of a large batch, with the gradients that one process with enough
memory would compute, is done here.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import Dataset

from clcp_ros.errors import ModelError
from training.methods.config import ModelConfig, OptimizerConfig
from training.methods.embedded import Embedded, gathered_pairs
from training.methods.gather import gather_rows, means_over_ranks, world_size
from training.methods.grad_cache import embed_without_keeping
from training.methods.lidar_tower import make_lidar_encoder
from training.methods.losses import clip_floor, retrieval
from training.methods.older import update_checkpoint
from training.models.image_encoder import EncoderOutput, ImageEncoder, write_weights
from training.models.lidar.base import LidarEncoder
from training.models.minkunet_layouts import compare_states
from training.models.unused import freeze_unused
from training.nonfinite import DivergedError, step_counts
from training.pairs.contrastive import ContrastivePairs, Extras, ViewConfig, collate_with
from training.pairs.pair_set import PairSet
from training.schedules import cosine_restarts, decay_groups, layer_decay_groups
from training.sharding import ShardedStrategy, gather_weights, release_weights, shard
from training.watch.watch import Watch

IMAGE_ENCODER = 'image_encoder.safetensors'
LIDAR_ENCODER = 'lidar_encoder.safetensors'
EMBEDDING = 'embedding.safetensors'

Batch = dict[str, Any]


@dataclasses.dataclass
class Setup:
    """What a method is made of.

    Attributes:
        model: Encoders and heads.
        optimizer: Optimizer and schedule.
        views: What the encoders see of a pair.
        max_steps: Steps of the run.
        options: The method's own; None for its defaults.
    """

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    views: ViewConfig = dataclasses.field(default_factory=ViewConfig)
    max_steps: int = 1
    options: Any = None


class Method(L.LightningModule):
    """Two encoders and how they teach each other.

    A subclass makes its heads in `__init__` and implements `embed` and `contrast`. It may override
    any of the other methods that are documented as such.

    Args:
        setup: What it is made of.

    Attributes:
        image_encoder: What pretraining is for.
        lidar_encoder: What it learns from.
        contrast_weight: Weight of the contrast in the loss.
        watch: What is measured at validations beside the loss and retrieval.

    Raises:
        ModelError: Unknown networks, weights that do not fit, or an encoder that does not take
            images of that size.
    """

    contrast_weight: float = 1.0
    watch: Watch | None = None
    lidar_encoder: LidarEncoder

    def __init__(self, setup: Setup) -> None:
        super().__init__()
        for config in (setup.model, setup.optimizer, setup.views):
            config.check()
        self.setup_ = setup
        self.max_steps = setup.max_steps
        size = setup.views.image_size
        self.image_encoder = self.make_image_encoder()
        self.image_encoder.check_size(size, size)
        freeze_unused(self.image_encoder, size)
        self.lidar_encoder = self.make_lidar_encoder()
        if setup.model.lidar_batchnorm_trains:
            self.lidar_encoder.requires_grad_(False)
        # Convolutions keep to the layout of their weights: it is 1.6 times as fast on a CPU.
        self.to(memory_format=torch.channels_last)
        self._validation: list[tuple[Tensor, Tensor, Tensor]] = []

    def make_image_encoder(self) -> ImageEncoder:
        """Make the image encoder; may be overridden."""
        model, size = self.setup_.model, self.setup_.views.image_size
        encoder = ImageEncoder(
            model.image_encoder, model.image_weights, model.image_pretrained, model.pool,
            (size, size),
        )  # fmt: skip
        if model.imagenet_statistics:
            encoder.mean, encoder.std = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
        return encoder

    def make_lidar_encoder(self) -> LidarEncoder:
        """Make the lidar encoder, any of training/models/lidar; may be overridden."""
        return make_lidar_encoder(self.setup_.model, self.setup_.views)

    @property
    def extras(self) -> Extras:
        """What training samples hold beside image and points; may be overridden."""
        return Extras()

    def samples(self, pairs: PairSet, train: bool) -> Dataset[Any]:
        """The samples of a pair set, asked for by (position, seed); may be overridden.

        Args:
            pairs: The pair set.
            train: Random crop and augmentation.
        """
        encoder = self.image_encoder
        return ContrastivePairs(
            pairs, self.setup_.views, encoder.mean, encoder.std, train,
            self.lidar_encoder.preparation, self.extras if train else Extras(),
        )  # fmt: skip

    @property
    def collate(self) -> Callable[[list[Any]], Batch]:
        """What joins samples to what `embed` takes; may be overridden.

        `image` (B, 3, S, S), normalised, is always among it. It goes to the loader's workers, so
        it holds no weights.
        """
        return functools.partial(collate_with, self.lidar_encoder.preparation)

    def encode_image(self, images: Tensor) -> EncoderOutput:
        """What the image encoder makes of images; may be overridden.

        Args:
            images: (B, 3, S, S) normalised.
        """
        output: EncoderOutput = self.image_encoder(images)
        return output

    def encode_lidar(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Features of the lidar encoder's units; may be overridden.

        Args:
            batch: From `collate`.

        Returns:
            (T, D) features, and (T,) int64 sample of each, ascending.
        """
        features = self.lidar_encoder(batch['lidar'])
        return features.tokens, features.token_sample

    def prepare(self, batch: Sequence[Batch]) -> Sequence[Batch]:
        """Settle before a training step what concerns all chunks; may be overridden.

        Args:
            batch: This rank's share, in chunks.

        Returns:
            The chunks that `embed` is given.
        """
        return batch

    def embed(self, batch: Batch) -> Embedded:
        """Embed a chunk of a batch; to be implemented.

        A function of the batch and of torch's random numbers: it may be computed twice.

        Args:
            batch: From `collate`, on the device.
        """
        raise NotImplementedError

    def contrast(self, image: Tensor, lidar: Tensor) -> Tensor:
        """The loss over all pairs of all chunks and ranks; to be implemented.

        Args:
            image: (N, D) float32.
            lidar: (N, D) float32; row i belongs to row i of `image`.

        Returns:
            Scalar.
        """
        raise NotImplementedError

    @property
    def scale(self) -> Tensor | None:
        """Inverse temperature of the contrast, where it has one."""
        return None

    def floor(self, pairs: int) -> float:
        """The smallest value that the contrast can take now; may be overridden.

        Args:
            pairs: In the batch.
        """
        scale = self.scale
        return 0.0 if scale is None else clip_floor(pairs, float(scale.detach()))

    def training_step(self, batch: Sequence[Batch], _: int) -> Tensor:
        """One step.

        Args:
            batch: This rank's share, in chunks of which one fits into memory.
        """
        loss, facts = self.loss_of(batch)
        self.log('loss', loss.detach(), prog_bar=True)
        self.log_dict(facts)
        self.log('lr', self.trainer.optimizers[0].param_groups[-1]['lr'])
        return loss

    def loss_of(self, batch: Sequence[Batch]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, over all ranks.

        Args:
            batch: This rank's share, in chunks of which one fits into memory.

        Returns:
            Scalar, whose gradients are those of the whole batch after DDP's average over the
            ranks; and what else there is to know of it: `contrast` and `term_<name>`, `pairs`
            that were contrasted, `logit_scale`.
        """
        batch = self.prepare(batch)
        if len(batch) == 1:
            parts = [self.embed(batch[0])]
        else:
            parts = [embed_without_keeping(self, self.embed, chunk) for chunk in batch]
        names = list(parts[0].own)
        values = [torch.cat([p.own[n].values.float().view(-1) for p in parts]) for n in names]
        shares, means = means_over_ranks(values)
        loss = torch.zeros((), device=self.device)
        facts = {f'term_{n}': mean for n, mean in zip(names, means, strict=True)}
        for name, share in zip(names, shares, strict=True):
            loss = loss + parts[0].own[name].weight * share
        whole = all(len(v) for v in values)
        if parts[0].image is not None:
            image, lidar = gathered_pairs(parts)
            facts['pairs'] = torch.tensor(float(len(image)))
            whole &= any(p.visible is None or bool(p.visible.any()) for p in parts)
            if len(image) > 1:
                facts['contrast'] = self._contrast(image, lidar)
                loss = loss + self.contrast_weight * facts['contrast']
                facts['contrast'] = facts['contrast'].detach()
        if (scale := self.scale) is not None:
            facts['logit_scale'] = scale.detach()
        if not loss.requires_grad or (world_size() > 1 and not whole):
            # A rank without a point in sight still has to take part in DDP's sums.
            loss = loss + 0 * sum(p.sum() for p in self.parameters() if p.requires_grad)
        return loss, facts

    def _contrast(self, image: Tensor, lidar: Tensor) -> Tensor:
        # Cosines of bfloat16 have two digits: too few for a scale of 100.
        with torch.autocast(image.device.type, enabled=False):
            return self.contrast(image.float(), lidar.float())

    def validation_step(self, batch: Batch, _: int) -> None:
        """Embed validation pairs."""
        embedded = self.embed(batch)
        if embedded.image is not None:
            image, lidar = embedded.image.float(), cast('Tensor', embedded.lidar).float()
            seen = embedded.visible
            if seen is None:
                seen = torch.ones(len(image), dtype=torch.bool, device=image.device)
            self._validation.append((image, lidar, seen))

    def on_validation_epoch_end(self) -> None:
        """Loss, retrieval and what is watched, over the whole validation set at once.

        Raises:
            DivergedError: The encoders give values that are not finite.
        """
        pairs: tuple[Tensor, Tensor] | None = None
        if self._validation:
            pairs = self._validation_pairs()
            if not all(bool(torch.isfinite(x).all()) for x in pairs):
                raise self._diverged('embeddings of validation pairs')
            self.log('val_pairs', float(len(pairs[0])))
            if len(pairs[0]) > 1:
                self.validated(*pairs)
        if self.watch is not None:
            values = self.watch.measure(self, pairs)
            if math.isnan(values.get('patch_rank', 0.0)):
                raise self._diverged('patch tokens of validation images')
            self.log_dict({f'val_{k}': v for k, v in values.items()})

    def _validation_pairs(self) -> tuple[Tensor, Tensor]:
        """The embeddings of all ranks, in order, without pairs that have no point in sight."""
        image, lidar, seen = (torch.cat(x) for x in zip(*self._validation, strict=True))
        self._validation.clear()
        if world_size() > 1:
            # Rank r has every world_size-th pair, the last of some ranks being a repetition.
            image, lidar, seen = (
                gather_rows(x).unflatten(0, (world_size(), -1)).transpose(0, 1).flatten(0, 1)
                for x in (image, lidar, seen)
            )
        # The loader knows how many there are without the repetitions.
        count = getattr(self.trainer.datamodule, 'validation_pairs', len(image))  # type: ignore[attr-defined]
        seen = seen[:count]
        return image[:count][seen], lidar[:count][seen]

    def _diverged(self, what: str) -> DivergedError:
        return DivergedError(
            f'{what} are not finite at step {self.trainer.global_step}; lower the learning rate, '
            'or train in float32 (precision 32-true)'
        )

    def validated(self, image: Tensor, lidar: Tensor) -> None:
        """Log what the embeddings of the validation set are worth; may be overridden.

        Args:
            image: (N, D), at least two pairs.
            lidar: (N, D).
        """
        self.log('val_loss', self._contrast(image, lidar), prog_bar=True)
        self.log_dict({f'val_{k}': v for k, v in retrieval(image, lidar).items()})

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters with their learning rates and decay; may be overridden.

        Returns:
            Groups for the optimizer, each with `lr` and `weight_decay`; empty ones are dropped.
        """
        o = self.setup_.optimizer
        if o.decay_all:
            trained = [p for p in self.parameters() if p.requires_grad]
            return [{'params': trained, 'lr': o.lr, 'weight_decay': o.weight_decay}]
        heads = nn.Module()
        for name, module in self.named_children():
            if module not in (self.image_encoder, self.lidar_encoder):
                heads.add_module(name, module)
        for name, parameter in self.named_parameters(recurse=False):
            heads.register_parameter(name, parameter)
        image = (
            layer_decay_groups(self.image_encoder.model, o.weight_decay, o.layer_decay)
            if o.layer_decay < 1
            else decay_groups(self.image_encoder, o.weight_decay)
        )
        parts = (
            (image, o.lr),
            (decay_groups(self.lidar_encoder, o.weight_decay), o.lidar_lr or o.lr),
            (decay_groups(heads, o.weight_decay), o.head_lr or o.lr),
        )
        return [
            {
                'params': group['params'],
                'lr': lr * group.get('lr_scale', 1.0),
                'weight_decay': group['weight_decay'],
            }
            for groups, lr in parts
            for group in groups
        ]

    def make_schedule(self, optimizer: torch.optim.Optimizer) -> LRScheduler | dict[str, Any]:
        """The schedule, by step; may be overridden.

        Args:
            optimizer: With a peak learning rate in each group.

        Returns:
            A scheduler, or Lightning's dictionary around one.
        """
        o = self.setup_.optimizer
        floor = o.min_lr / o.lr

        def cosine(step: int) -> float:
            cycle = o.cycle_steps or max(self.max_steps - o.warmup_steps, 1)
            return cosine_restarts(
                step, warmup=o.warmup_steps, cycle=cycle, mult=o.cycle_mult, floor=floor
            )

        def exponential(step: int) -> float:
            return cast('float', floor ** (1 - min(step / max(self.max_steps - 1, 1), 1)))

        return LambdaLR(optimizer, exponential if o.schedule == 'exponential' else cosine)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW and its schedule."""
        o = self.setup_.optimizer
        groups = [g for g in self.parameter_groups() if g['params']]
        # Fused: a fifth of the time of a loop over parameters. It would unscale gradients itself,
        # after they are clipped, which float16 does not bear.
        fused = getattr(self._trainer, 'precision', '') != '16-mixed'
        optimizer = torch.optim.AdamW(groups, o.lr, (o.betas[0], o.betas[1]), fused=fused)
        schedule = self.make_schedule(optimizer)
        if isinstance(schedule, dict):
            return cast('OptimizerLRScheduler', {'optimizer': optimizer, 'lr_scheduler': schedule})
        return {
            'optimizer': optimizer,
            'lr_scheduler': {'scheduler': schedule, 'interval': 'step'},
        }

    def configure_model(self) -> None:
        """Shard the weights, where that is asked for."""
        strategy = self.trainer.strategy
        if isinstance(strategy, ShardedStrategy):
            shard(self, 'training_step', strategy.root_device)

    def on_validation_start(self) -> None:
        """Hold whole weights while they are looked at."""
        gather_weights(self)

    def on_validation_end(self) -> None:
        """Hold a part of them again, if so."""
        release_weights(self)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """A step, and what follows it."""
        super().optimizer_step(*args, **kwargs)
        if step_counts(self.trainer):
            with torch.no_grad():
                self.after_step()

    def after_step(self) -> None:
        """What is done after each step of the optimizer that counts; may be overridden."""

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of another model.

        Args:
            checkpoint: As read.

        Raises:
            ModelError: Says which keys differ.
        """
        update_checkpoint(checkpoint)
        if difference := compare_states(checkpoint['state_dict'], self.state_dict()):
            raise ModelError(
                f'the checkpoint is of another model than this {type(self).__name__}: '
                f'{difference}; choose another --out, or add --overwrite'
            )

    def watched(self) -> Callable[[Tensor], EncoderOutput]:
        """What is watched: from images to what `exported_encoder` makes of them.

        To be overridden together with it.
        """
        return self.encode_image

    def exported_encoder(self) -> ImageEncoder:
        """The image encoder that is saved at the end; may be overridden."""
        return self.image_encoder

    def save(self, folder: Path, name: str, provenance: dict[str, Any]) -> None:
        """Write the encoders and what else the embeddings need.

        Args:
            folder: Where to.
            name: The method's, in the registry.
            provenance: JSON-serialisable facts on origin.
        """
        setup = self.setup_
        size = setup.views.image_size
        encoders = ('image_encoder.', 'lidar_encoder.')
        heads = {k: v for k, v in self.state_dict().items() if not k.startswith(encoders)}
        settings = {
            'model': dataclasses.asdict(setup.model),
            'views': dataclasses.asdict(setup.views),
            'options': dataclasses.asdict(setup.options) if setup.options else {},
        }
        metadata = {k: json.dumps(v) for k, v in settings.items()}
        write_weights(
            folder / EMBEDDING, heads,
            {'method': name, **metadata, 'provenance': json.dumps(provenance)},
        )  # fmt: skip
        prefix = self.lidar_encoder.weights_prefix
        lidar = {k.removeprefix(prefix): v for k, v in self.lidar_encoder.state_dict().items()}
        write_weights(
            folder / LIDAR_ENCODER, lidar,
            {'architecture': setup.model.lidar_encoder, 'provenance': json.dumps(provenance)},
        )  # fmt: skip
        # Last: it tells that the run is finished.
        self.exported_encoder().save(folder / IMAGE_ENCODER, (size, size), provenance)


@dataclasses.dataclass(frozen=True)
class MethodEntry:
    """A method in the registry: the `METHOD` of a file in this folder.

    Attributes:
        name: What `--method` takes.
        options: A dataclass with a default for every field; its options are shown as
            `--<group>.<field>`.
        make: The class.
        group: Of the options; the name where it is empty.
        own_rates: The learning rates are among these options; those of the optimizer's group mean
            nothing to it.
    """

    name: str
    options: type[Any]
    make: type[Method]
    group: str = ''
    own_rates: bool = False

    @property
    def prefix(self) -> str:
        """What its options begin with."""
        return self.group or self.name
