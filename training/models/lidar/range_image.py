# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A range image and a timm encoder as a lidar encoder, as in LIP-Loc (arXiv 2312.16648)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clcp_ros.errors import ModelError
from training.models.image_encoder import ImageEncoder, read_weights
from training.models.lidar.base import (
    LidarBatch,
    LidarEncoder,
    LidarFeatures,
    LidarOptions,
    LidarSample,
    check_points,
    make_settings,
    sample_maps,
    samples_of,
)
from training.models.lip_loc_names import IMAGENET, encoder_of, is_lip_loc
from training.models.norm import bfloat16_if
from training.models.range_image import RangeSettings, range_image
from training.models.unused import freeze_without_gradient

PREFIX = 'range_'
# LIP-Loc normalises range images as it does camera images, whatever the weights say.
_MEAN, _STD = IMAGENET


@dataclass(frozen=True)
class RangeEncoderSettings(RangeSettings):
    """The range image, and how the network reads it.

    Attributes:
        channels: 3 repeats the image, as LIP-Loc does; 1 sums the first layer's weights over the
            colours instead.
        pool: Embedding of a scan: class token, as LIP-Loc does, or mean of the map.
        pretrained: Let timm download weights (needs network).
    """

    channels: Literal[1, 3] = 3
    pool: Literal['token', 'avg'] = 'token'
    pretrained: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channels not in (1, 3):
            raise ModelError(f'a range image has 1 or 3 channels, not {self.channels}')

    @property
    def image(self) -> RangeSettings:
        """The part that is about the image."""
        return RangeSettings(**{f.name: getattr(self, f.name) for f in fields(RangeSettings)})


@dataclass(frozen=True)
class RangePreparation:
    """Range images of scans.

    Attributes:
        settings: Their geometry.
    """

    settings: RangeSettings

    def __call__(self, points: np.ndarray) -> LidarSample:
        """`image` (H, W) uint8, `xy` (N, 2) float32 and `seen` (N,) of the points."""
        return range_image(check_points(points), self.settings)._asdict()

    def collate(self, samples: Sequence[LidarSample]) -> LidarBatch:
        """`image` (B, H, W) uint8, `xy` and `seen` of all points."""
        return {
            'image': torch.from_numpy(np.stack([s['image'] for s in samples])),
            'xy': torch.from_numpy(np.concatenate([s['xy'] for s in samples])),
            'seen': torch.from_numpy(np.concatenate([s['seen'] for s in samples])),
            'point_count': torch.tensor([len(s['xy']) for s in samples]),
        }


class RangeImageEncoder(LidarEncoder):
    """A timm encoder of range images; tokens are its patches.

    Args:
        architecture: `range_` and the name of a timm model.
        options: Weights (under timm's names), freezing and how to compute.
        settings: Geometry and channels.

    Attributes:
        image_encoder: The timm model.
    """

    weights_prefix = 'image_encoder.model.'

    def __init__(
        self,
        architecture: str = 'range_vit_small_patch16_224',
        options: LidarOptions | None = None,
        settings: RangeEncoderSettings | None = None,
    ) -> None:
        super().__init__()
        self.options, self.settings = options or LidarOptions(), settings or RangeEncoderSettings()
        self.options.check()
        self.architecture = architecture
        self.preparation = RangePreparation(self.settings.image)
        size = self.settings.image_size
        self.image_encoder = ImageEncoder(
            architecture.removeprefix(PREFIX), None, self.settings.pretrained, self.settings.pool,
            size,
        )  # fmt: skip
        self.image_encoder.check_size(*size)
        self._load_and_narrow()
        mean: tuple[float, ...] = _MEAN
        std: tuple[float, ...] = _STD
        if self.settings.channels == 1:
            mean, std = (float(np.mean(mean)),), (float(np.mean(std)),)
        self.register_buffer('mean', torch.tensor(mean).view(1, -1, 1, 1) * 255, persistent=False)
        self.register_buffer('std', torch.tensor(std).view(1, -1, 1, 1) * 255, persistent=False)
        if self.options.checkpoint_activations:
            _checkpoint(self.image_encoder.model)
        self.embed_dim = self.image_encoder.embed_dim
        self._freeze_unused()
        if self.options.frozen:
            self.freeze()

    def _load_and_narrow(self) -> None:
        """Load weights under timm's names, or those of LIP-Loc's lidar encoder."""
        path, encoder = self.options.weights, self.image_encoder
        first = encoder.model.pretrained_cfg.get('first_conv')
        narrow = self.settings.channels == 1
        if path is not None:
            state, metadata = read_weights(Path(path))
            if 'architecture' in metadata:
                metadata['architecture'] = metadata['architecture'].removeprefix(PREFIX)
            if is_lip_loc(state):
                state = encoder_of(state, 'lidar')
            kernel = state.get(f'{first}.weight')
            if narrow and kernel is not None and kernel.ndim == 4 and kernel.shape[1] == 1:
                _sum_colours(encoder.model)
                narrow = False
            encoder.load_state(state, metadata, str(path))
        if narrow:
            _sum_colours(encoder.model)

    def _freeze_unused(self) -> None:
        """Freeze what is behind the map, as in a convolutional network."""
        encoder, s = self.image_encoder, self.settings
        output = encoder.eval()(torch.zeros(1, s.channels, *s.image_size))
        freeze_without_gradient(list(encoder.parameters()), [output.grid, output.pooled])
        encoder.train()

    def maps(self, batch: LidarBatch) -> tuple[Tensor, Tensor]:
        """Compute features of the image.

        Args:
            batch: From `preparation.collate`; `holes` (B, H, W) bool may be among it, pixels that
                are left out of the image as CoarseDropout does.

        Returns:
            (B, embed_dim, h, w) patches over the kept part of the range image, and (B, embed_dim)
            embeddings; float32.
        """
        image = batch['image'][:, None].float().expand(-1, self.settings.channels, -1, -1)
        image = (image - self.get_buffer('mean')) / self.get_buffer('std')
        if (holes := batch.get('holes')) is not None:
            image = image.masked_fill(holes[:, None], 0)
        with bfloat16_if(self.frozen and self.options.precision == 'bfloat16', image.device):
            output = self.image_encoder(image)
        return output.grid.float(), output.pooled.float()

    def pixels(self, batch: LidarBatch) -> Tensor:
        """Compute features of the kept part of the range image, pixel by pixel.

        Args:
            batch: From `preparation.collate`.

        Returns:
            (B, embed_dim, rows, columns) interpolated between the patches.
        """
        s = self.settings
        size = (s.rows[1] - s.rows[0], s.columns[1] - s.columns[0])
        return F.interpolate(self.maps(batch)[0], size, mode='bilinear', align_corners=False)

    def encode(self, batch: LidarBatch, per_point: bool = False) -> LidarFeatures:
        """Features per patch; a point's are interpolated between the patches around it."""
        maps, pooled = self.maps(batch)
        counts = batch['point_count']
        patches = maps.shape[2] * maps.shape[3]
        points = seen = None
        if per_point:
            seen = batch['seen']
            points = sample_maps(maps, batch['xy'], counts) * seen[:, None]
        return LidarFeatures(
            maps.flatten(2).transpose(1, 2).flatten(0, 1),
            torch.arange(len(maps), device=maps.device).repeat_interleave(patches),
            pooled * (counts > 0)[:, None],
            points,
            samples_of(counts),
            seen,
        )


def _checkpoint(model: Any) -> None:
    """Let a network of timm compute its blocks twice."""
    if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()):
        raise ModelError(
            'networks of timm with BatchNorm would count their statistics twice; leave out '
            'checkpoint_activations, or take a vision transformer'
        )
    try:
        model.set_grad_checkpointing(True)
    except AssertionError:
        raise ModelError('this network of timm has no activation checkpointing') from None


def _sum_colours(model: Any) -> None:
    """Let a network's first convolution read one channel: the same as three times that channel."""
    name = model.pretrained_cfg.get('first_conv')
    first = model.get_submodule(name) if isinstance(name, str) else None
    if not isinstance(first, nn.Conv2d):
        raise ModelError('this network cannot read one channel; use channels: 3')
    narrow = nn.Conv2d(
        1, first.out_channels, first.kernel_size, first.stride, first.padding,  # type: ignore[arg-type]
        bias=first.bias is not None,
    )  # fmt: skip
    with torch.no_grad():
        narrow.weight.copy_(first.weight.sum(dim=1, keepdim=True))
        if first.bias is not None and narrow.bias is not None:
            narrow.bias.copy_(first.bias)
    parent, _, last = name.rpartition('.')
    setattr(model.get_submodule(parent), last, narrow)


class _Family:
    name = 'range image'
    architectures = ('range_vit_small_patch16_224',)

    def knows(self, architecture: str) -> bool:
        return architecture.startswith(PREFIX) and timm.is_model(architecture[len(PREFIX) :])

    def create(
        self, architecture: str, options: LidarOptions, settings: Mapping[str, Any]
    ) -> RangeImageEncoder:
        return RangeImageEncoder(
            architecture, options, make_settings(RangeEncoderSettings, settings)
        )


FAMILY = _Family()
