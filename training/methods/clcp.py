# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""CLCP: contrastive learning of camera images and lidar point clouds.

Follows the thesis (chapter 3) with its code's defects put right: the logit scale multiplies and
starts at 1/0.07, a frozen lidar encoder keeps its BatchNorm statistics, images are normalised as
the encoder's weights expect, and the embedding is by default the mean of the patch tokens that the
segmentation head will read, not the class token that it discards. Each defect is an option.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clcp_ros.errors import ModelError
from training.methods.base import Batch, Method, MethodEntry, Setup
from training.methods.embedded import Embedded
from training.methods.losses import clip_loss
from training.models.lidar.base import mean_per_sample

MAX_SCALE = 100.0


@dataclass
class ClcpConfig:
    """The contrast.

    Attributes:
        temperature: To start with; cosines are divided by it, and it is learned.
        temperature_use: divide, or inverted: cosines are divided by exp(temperature), which is
            never below 1; what the thesis' code did.
    """

    temperature: float = 0.07
    temperature_use: Literal['divide', 'inverted'] = 'divide'

    def check(self) -> None:
        """Raise ModelError for values that make no sense."""
        if not self.temperature > 0:
            raise ModelError(f'temperature must be positive, not {self.temperature}')


class Clcp(Method):
    """Image and lidar encoder with a joint embedding.

    Args:
        setup: What it is made of; `options` is a `ClcpConfig`.

    Attributes:
        logit_scale: (1,) logarithm of what multiplies the cosines.
    """

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        options: ClcpConfig = setup.options or ClcpConfig()
        options.check()
        model = setup.model
        self.image_head = nn.Linear(self.image_encoder.embed_dim, model.embed_dim)
        self.lidar_head = lidar_head(
            model.lidar_head, self.lidar_encoder.embed_dim, model.embed_dim
        )
        # The inverted one is the thesis' parameter with its sign changed: it is decayed towards
        # zero and stepped by AdamW alike.
        self.inverted = options.temperature_use == 'inverted'
        start = -options.temperature if self.inverted else math.log(1 / options.temperature)
        self.logit_scale = nn.Parameter(torch.tensor([start]))  # rows are what can be sharded

    def embed(self, batch: Batch) -> Embedded:
        """Embed a batch, L2-normalised; a pair without points has a lidar embedding of zeros."""
        image = self.image_head(self.encode_image(batch['image']).pooled)
        tokens, sample = self.encode_lidar(batch)
        lidar, visible = embed_scans(
            self.lidar_head, tokens, sample, batch['lidar']['point_count']
        )
        return Embedded(F.normalize(image, dim=1), lidar, visible=visible)

    def contrast(self, image: Tensor, lidar: Tensor) -> Tensor:
        """CLIP's loss."""
        return clip_loss(image, lidar, self.scale)

    @property
    def scale(self) -> Tensor:
        """What multiplies the cosines."""
        return self.logit_scale.exp()

    def after_step(self) -> None:
        """Keep the scale within [1, 100] (Radford et al. 2021, section 2.5)."""
        if not self.inverted:
            self.logit_scale.clamp_(0, math.log(MAX_SCALE))


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


def embed_scans(
    head: nn.Module, tokens: Tensor, sample: Tensor, point_count: Tensor
) -> tuple[Tensor, Tensor]:
    """The joint embedding of scans: their tokens projected and averaged.

    Args:
        head: Of `lidar_head`.
        tokens: (T, D) what the lidar encoder made of the scans.
        sample: (T,) int64 scan of each token.
        point_count: (B,) int64 points of each scan.

    Returns:
        (B, E) L2-normalised, zeros for a scan without points; and (B,) bool, which have some.
    """
    scans = len(point_count)
    if isinstance(head, nn.Linear):
        # It commutes with the mean: the same, and a thousand times less to compute.
        lidar = head(mean_per_sample(tokens, sample, scans))
    else:
        lidar = mean_per_sample(head(tokens), sample, scans)
    # A range image has tokens where the scan has no point.
    visible = (point_count > 0) & (torch.bincount(sample, minlength=scans) > 0)
    return F.normalize(lidar, dim=1) * visible[:, None], visible


METHOD = MethodEntry('clcp', ClcpConfig, Clcp)
