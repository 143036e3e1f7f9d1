# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Settings that all pretraining methods share."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from clcp_ros.errors import ModelError
from training.models.image_encoder import Pool


@dataclass
class ModelConfig:
    """The two encoders and their heads.

    Attributes:
        image_encoder: timm name.
        image_weights: File of weights for it; None starts from scratch.
        image_pretrained: Let timm download weights instead.
        imagenet_statistics: Normalise images with ImageNet's mean and deviation, whatever the
            weights expect; what the thesis' code did.
        pool: Image embedding: mean of the patch tokens (avg) or class token (token; the thesis).
        lidar_encoder: minkunet34_w32, minkunet18_w32, _w20 or _w16, minkunet_tiny, pointpillars,
            or range_ and a timm name; any of training/models/lidar.
        lidar_weights: File of weights for it, see training/convert_lidar_weights.py.
        lidar_settings: Its geometry by the names of its family's settings, as in
            {"pillar_size_m": 0.32}; see docs/lidar_encoder.md.
        freeze_lidar: Keep the lidar encoder as loaded, BatchNorm statistics included.
        lidar_batchnorm_trains: Let BatchNorm of a frozen lidar encoder normalise with each batch
            and overwrite its statistics; what the thesis' code did.
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
    imagenet_statistics: bool = False
    pool: Pool = 'avg'
    lidar_encoder: str = 'minkunet_tiny'
    lidar_weights: str | None = None
    lidar_settings: dict[str, Any] = field(default_factory=dict)
    freeze_lidar: bool = False
    lidar_batchnorm_trains: bool = False
    lidar_precision: Literal['float32', 'bfloat16'] = 'float32'
    sparse_backend: Literal['auto', 'torch', 'torchsparse', 'spconv'] = 'auto'
    checkpoint_activations: bool = False
    lidar_head: Literal['linear', 'mlp'] = 'linear'
    embed_dim: int = 128

    def check(self) -> None:
        """Raise ModelError for values that make no sense."""
        if self.embed_dim < 1:
            raise ModelError(f'embed_dim must be at least 1, not {self.embed_dim}')
        if self.lidar_batchnorm_trains and not self.freeze_lidar:
            raise ModelError('lidar_batchnorm_trains is an option of a frozen lidar encoder')

    @property
    def starts_from_weights(self) -> bool:
        """Whether the image encoder knows anything before."""
        return self.image_pretrained or self.image_weights is not None


@dataclass
class OptimizerConfig:
    """AdamW and its schedule; lengths in steps.

    Attributes:
        lr: Peak learning rate, of the image encoder and of whatever has none of its own.
        min_lr: Lowest learning rate, for a peak of `lr`.
        lidar_lr: Peak learning rate of the lidar encoder; None for `lr`.
        head_lr: Peak learning rate of what is neither encoder; None for `lr`.
        layer_decay: Factor of the learning rate from one layer of the image encoder to the one
            before; 1 for none.
        weight_decay: Of matrices only.
        decay_all: One group for everything, so that biases, norms, embeddings and the logit scale
            decay, too; what the thesis' code did.
        betas: Of AdamW.
        clip: Largest norm of the gradient; 0 for any.
        schedule: cosine, or exponential from `min_lr` up to `lr` (a learning-rate range test).
        warmup_steps: Linear warm-up.
        cycle_steps: First cosine cycle; 0 makes one cycle of the whole run.
        cycle_mult: Growth of the cycles.
    """

    lr: float = 1e-3
    min_lr: float = 1e-5
    lidar_lr: float | None = None
    head_lr: float | None = None
    layer_decay: float = 1.0
    weight_decay: float = 0.01
    decay_all: bool = False
    betas: list[float] = field(default_factory=lambda: [0.9, 0.98])
    clip: float = 1.0
    schedule: Literal['cosine', 'exponential'] = 'cosine'
    warmup_steps: int = 10
    cycle_steps: int = 0
    cycle_mult: float = 2.0

    def check(self) -> None:
        """Raise ModelError for values that make no sense."""
        for name, rate in (
            ('lr', self.lr),
            ('lidar_lr', self.lidar_lr),
            ('head_lr', self.head_lr),
        ):
            if rate is not None and not 0 < rate < math.inf:
                raise ModelError(
                    f'{name} must be a positive number, not {rate:g} (what is not to be trained '
                    'is frozen: model.freeze_lidar)'
                )
        if not 0 <= self.min_lr <= self.lr:
            raise ModelError(f'min_lr must lie in [0, lr], not {self.min_lr:g} of {self.lr:g}')
        if self.schedule == 'exponential' and self.min_lr == 0:
            raise ModelError('an exponential schedule needs a positive min_lr')
        if not 0 < self.layer_decay <= 1:
            raise ModelError(f'layer_decay must be in (0, 1], not {self.layer_decay}')
        if self.decay_all and self.layer_decay < 1:
            raise ModelError('decay_all is one group for everything: it excludes layer_decay')
        if self.decay_all and not (self.lidar_lr is self.head_lr is None):
            raise ModelError(
                'decay_all is one group for everything: it excludes lidar_lr and head_lr'
            )
        if len(self.betas) != 2 or not all(0 <= b < 1 for b in self.betas):
            raise ModelError(f'betas are two numbers in [0, 1), not {self.betas}')
        if not 1 <= self.cycle_mult < math.inf:
            raise ModelError(f'cycle_mult must be at least 1, not {self.cycle_mult}')
        for name in ('weight_decay', 'clip', 'warmup_steps', 'cycle_steps'):
            if not 0 <= (value := getattr(self, name)) < math.inf:
                raise ModelError(f'{name} must be a number from 0 on, not {value:g}')
