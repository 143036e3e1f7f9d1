# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""CLCP: contrastive learning of camera images and lidar point clouds.

Follows the thesis (chapter 3) with its code's defects put right: the logit scale multiplies and
starts at 1/0.07, a frozen lidar encoder keeps its BatchNorm statistics, images are normalised as
the encoder's weights expect, and the embedding is by default the mean of the patch tokens that the
segmentation head will read, not the class token that it discards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from training.methods.losses import clip_loss, retrieval
from training.models.image_encoder import ImageEncoder, Pool
from training.models.minkunet import MinkUNet
from training.schedules import cosine_restarts, decay_groups
from training.sparse import SparseGrid


@dataclass
class ModelConfig:
    """The two encoders and their heads.

    Attributes:
        image_encoder: timm name.
        image_weights: File of weights for it; None starts from scratch.
        image_pretrained: Let timm download weights instead.
        pool: Image embedding: mean of the patch tokens (avg) or class token (token; the thesis).
        lidar_encoder: minkunet34_w32, minkunet18_w32, _w20 or _w16, or minkunet_tiny.
        lidar_weights: File of weights for it, see training/convert_lidar_weights.py.
        freeze_lidar: Keep the lidar encoder as loaded, BatchNorm statistics included.
        lidar_precision: What a frozen lidar encoder computes in; bfloat16 is faster and coarser.
        sparse_backend: Of the lidar encoder: auto, torch, torchsparse or spconv.
        checkpoint_activations: Compute the lidar encoder's blocks twice instead of keeping what
            they computed: for scans that do not fit into memory.
        lidar_head: Projection of voxel features before pooling: linear or mlp.
        embed_dim: Size of the joint embedding.
    """

    image_encoder: str = 'resnet10t'
    image_weights: str | None = None
    image_pretrained: bool = False
    pool: Pool = 'avg'
    lidar_encoder: str = 'minkunet_tiny'
    lidar_weights: str | None = None
    freeze_lidar: bool = False
    lidar_precision: Literal['float32', 'bfloat16'] = 'float32'
    sparse_backend: Literal['auto', 'torch', 'torchsparse', 'spconv'] = 'auto'
    checkpoint_activations: bool = False
    lidar_head: Literal['linear', 'mlp'] = 'mlp'
    embed_dim: int = 128


@dataclass
class OptimizerConfig:
    """AdamW and its schedule; lengths in steps.

    Attributes:
        lr: Peak learning rate.
        min_lr: Lowest learning rate.
        weight_decay: Of matrices only.
        betas: Of AdamW.
        warmup_steps: Linear warm-up.
        cycle_steps: First cosine cycle; 0 makes one cycle of the whole run.
        cycle_mult: Growth of the cycles.
    """

    lr: float = 1e-3
    min_lr: float = 1e-5
    weight_decay: float = 0.01
    betas: list[float] = field(default_factory=lambda: [0.9, 0.98])
    warmup_steps: int = 10
    cycle_steps: int = 0
    cycle_mult: float = 2.0


class Clcp(L.LightningModule):
    """Image and lidar encoder with a joint embedding.

    Args:
        model: Encoders and heads.
        optimizer: Optimizer and schedule.
        max_steps: Steps of the run.
        image_size: Side of the images, for encoders that are built for one size.

    Raises:
        ModelError: Unknown networks, or an encoder that does not take such images.
    """

    def __init__(
        self,
        model: ModelConfig,
        optimizer: OptimizerConfig,
        max_steps: int,
        image_size: int = 224,
    ) -> None:
        super().__init__()
        self.config, self.max_steps = optimizer, max_steps
        self.image_encoder = ImageEncoder(
            model.image_encoder, model.image_weights, model.image_pretrained, model.pool,
            (image_size, image_size),
        )  # fmt: skip
        self.image_encoder.check_size(image_size, image_size)
        self.lidar_encoder = MinkUNet(
            model.lidar_encoder, weights=model.lidar_weights, frozen=model.freeze_lidar,
            precision=model.lidar_precision, sparse_backend=model.sparse_backend,
            checkpoint_activations=model.checkpoint_activations,
        )  # fmt: skip
        self.image_head = nn.Linear(self.image_encoder.embed_dim, model.embed_dim)
        self.lidar_head = lidar_head(
            model.lidar_head, self.lidar_encoder.embed_dim, model.embed_dim
        )
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self._validation: list[tuple[Tensor, Tensor]] = []

    def embed(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Embed a batch.

        Args:
            batch: `image` (B, 3, H, W) normalised, `coords` (N, 4) and `features` (N, 4) of the
                voxels.

        Returns:
            Image and lidar embeddings, (B, D) each, L2-normalised.
        """
        image = self.image_head(self.image_encoder(batch['image']).pooled)
        grid = SparseGrid(batch['coords'], len(batch['image']))
        voxels = self.lidar_head(self.lidar_encoder(grid, batch['features']))
        return F.normalize(image, dim=1), F.normalize(grid.mean_per_sample(voxels), dim=1)

    @property
    def scale(self) -> Tensor:
        """Inverse temperature, kept within [1, 100]."""
        return self.logit_scale.clamp(0, math.log(100)).exp()

    def training_step(self, batch: dict[str, Any], _: int) -> Tensor:
        """One step; negatives come from all ranks."""
        image, lidar = self.embed(batch)
        if self.trainer.world_size > 1:
            image, lidar = (
                cast('Tensor', self.all_gather(x, sync_grads=True)).flatten(0, 1)
                for x in (image, lidar)
            )
        loss = clip_loss(image, lidar, self.scale)
        self.log('loss', loss, prog_bar=True)
        self.log('logit_scale', self.scale)
        return loss

    def validation_step(self, batch: dict[str, Any], _: int) -> None:
        """Embed validation pairs."""
        self._validation.append(self.embed(batch))

    def on_validation_epoch_end(self) -> None:
        """Loss and retrieval over the whole validation set at once."""
        image, lidar = (torch.cat(x) for x in zip(*self._validation, strict=True))
        self._validation.clear()
        self.log('val_loss', clip_loss(image, lidar, self.scale), prog_bar=True)
        self.log_dict({f'val_{k}': v for k, v in retrieval(image, lidar).items()})
        self.log('val_pairs', float(len(image)))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW without decay on vectors, embeddings and the logit scale."""
        c = self.config
        optimizer = torch.optim.AdamW(
            decay_groups(self, c.weight_decay), lr=c.lr, betas=(c.betas[0], c.betas[1])
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: cosine_restarts(
                step,
                warmup=c.warmup_steps,
                cycle=c.cycle_steps or self.max_steps - c.warmup_steps,
                mult=c.cycle_mult,
                floor=c.min_lr / c.lr,
            ),
        )
        return {
            'optimizer': optimizer,
            'lr_scheduler': {'scheduler': scheduler, 'interval': 'step'},
        }


def lidar_head(kind: str, c_in: int, c_out: int) -> nn.Module:
    """The projection of voxel features, applied before they are pooled.

    A linear head commutes with the mean; only the MLP makes the order matter.

    Args:
        kind: `linear`, or `mlp` (GELU, drop-out and LayerNorm, as in the thesis' code).
        c_in: Channels of the encoder.
        c_out: Size of the joint embedding.

    Returns:
        A module on (N, c_in).
    """
    if kind == 'linear':
        return nn.Linear(c_in, c_out)
    return nn.Sequential(
        nn.Linear(c_in, 2 * c_in), nn.GELU(), nn.Linear(2 * c_in, c_out), nn.Dropout(0.1),
        nn.LayerNorm(c_out),
    )  # fmt: skip
