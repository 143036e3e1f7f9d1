# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""PointPillars (Lang et al., CVPR 2019, arXiv 1812.05784): a bird's-eye view as an encoder.

Section 2.1 makes features of pillars and puts them into an image, section 2.2 runs a convolutional
backbone over it. Sizes are the paper's for KITTI (sections 2 and 3.1); the range in x and y is
MMDetection3D's, whose number of pillars divides by the strides. Detection heads are left out. As
in MMDetection3D, BatchNorm has eps 1e-3 and momentum 0.01, and names are its names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from clcp_ros.errors import ModelError
from training.models.lidar.base import (
    LidarBatch,
    LidarEncoder,
    LidarFeatures,
    LidarOptions,
    LidarSample,
    check_points,
    load_weights,
    make_settings,
    mean_per_sample,
    sample_maps,
    samples_of,
)
from training.models.norm import BatchNorm1d, BatchNorm2d, bfloat16_if, run_twice

# x, y, z, intensity; offsets from the mean of the pillar's points; from the pillar's middle.
_DECORATED = 4 + 3 + 2


@dataclass(frozen=True)
class PillarSettings:
    """What is seen, in which pieces, and how wide the network is.

    Attributes:
        range_m: Least x, y, z and most x, y, z; points beyond are not seen.
        pillar_size_m: Edge of a pillar.
        max_pillars: Most pillars of a scan (P in the paper); a random subset is taken of more.
            None for no limit.
        max_points: Most points of a pillar (N in the paper), likewise.
        channels: C in the paper, of the pillars and the first block; the next two have 2 C and
            4 C, the output 6 C.
        layers: Convolutions of the three blocks.
        strides: Of the first convolution of each block.
    """

    range_m: tuple[float, float, float, float, float, float] = (
        0.0, -39.68, -3.0, 69.12, 39.68, 1.0,
    )  # fmt: skip
    pillar_size_m: float = 0.16
    max_pillars: int | None = 12000
    max_points: int | None = 100
    channels: int = 64
    layers: tuple[int, int, int] = (4, 6, 6)
    strides: tuple[int, int, int] = (2, 2, 2)

    def __post_init__(self) -> None:
        low, high = np.reshape(self.range_m, (2, 3))
        if not (self.pillar_size_m > 0 and (low < high).all()):
            raise ModelError(
                f'pillars of {self.pillar_size_m} m in the range {self.range_m} are impossible'
            )
        stride = math.prod(self.strides)
        cells = (high - low)[:2] / self.pillar_size_m
        if not (np.abs(cells - cells.round()) < 1e-3).all() or any(n % stride for n in self.shape):
            raise ModelError(
                f'range_m holds {cells[0]:g} x {cells[1]:g} pillars; both must be multiples of '
                f'{stride}, the product of the strides'
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Pillars along y and x: the height and width of the bird's-eye view."""
        low_x, low_y, _, high_x, high_y, _ = self.range_m
        return (
            round((high_y - low_y) / self.pillar_size_m),
            round((high_x - low_x) / self.pillar_size_m),
        )


@dataclass(frozen=True)
class PillarPreparation:
    """Pillars of scans.

    Which points and pillars are kept where there are too many is drawn at random, the same for the
    same scan.

    Attributes:
        settings: Range and sizes.
    """

    settings: PillarSettings

    def __call__(self, points: np.ndarray) -> LidarSample:
        """Assign points to pillars.

        Returns:
            `points` (M, 4) float32 within the range, pillar after pillar; `point_to_pillar` (M,)
            int64; `pillars` (P, 2) int64 row (y) and column (x); `xy` (N, 2) float32 of all
            points; `seen` (N,) bool.
        """
        s = self.settings
        low, high = np.reshape(np.asarray(s.range_m, np.float32), (2, 3))
        points = check_points(points)
        inside_range = (points[:, :3] >= low) & (points[:, :3] < high)
        seen = np.asarray(inside_range.all(axis=1))
        inside = points[seen]
        height, width = s.shape
        cell = ((inside[:, :2] - low[:2]) / np.float32(s.pillar_size_m)).astype(np.int64)
        cell = np.minimum(cell, [width - 1, height - 1])  # rounding at the far edge
        rng = np.random.default_rng(0)
        order = np.arange(len(cell))
        if s.max_points is not None or s.max_pillars is not None:
            order = rng.permutation(len(cell))
        key = (cell[:, 1] * width + cell[:, 0])[order]
        by_key = np.argsort(key, kind='stable')
        order, key = order[by_key], key[by_key]
        pillars, begins, counts = np.unique(key, return_index=True, return_counts=True)
        index = np.repeat(np.arange(len(pillars)), counts)
        kept = np.ones(len(key), bool)
        if s.max_points is not None:
            kept &= np.arange(len(key)) - begins[index] < s.max_points
        if s.max_pillars is not None and len(pillars) > s.max_pillars:
            chosen = np.zeros(len(pillars), bool)
            chosen[rng.choice(len(pillars), s.max_pillars, replace=False)] = True
            kept &= chosen[index]
            index, pillars = np.cumsum(chosen)[index] - 1, pillars[chosen]
        return {
            'points': inside[order[kept]],
            'point_to_pillar': index[kept],
            'pillars': np.stack([pillars // width, pillars % width], axis=1),
            'xy': points[:, :2],
            'seen': seen,
        }

    def collate(self, samples: Sequence[LidarSample]) -> LidarBatch:
        """Rows of all samples; `pillars` (P, 3) gets the sample first."""
        first = np.cumsum([0, *(len(s['pillars']) for s in samples)])
        joined = {
            k: np.concatenate([s[k] for s in samples]) for k in ('points', 'xy', 'seen', 'pillars')
        }
        joined['point_to_pillar'] = np.concatenate(
            [s['point_to_pillar'] + begin for s, begin in zip(samples, first, strict=False)]
        )
        batch = {k: torch.from_numpy(v) for k, v in joined.items()}
        counts = torch.tensor([len(s['pillars']) for s in samples])
        batch['pillars'] = torch.cat([samples_of(counts)[:, None], batch['pillars']], dim=1)
        batch['point_count'] = torch.tensor([len(s['xy']) for s in samples])
        return batch


class PointPillars(LidarEncoder):
    """PointPillars without a detection head; tokens are pillars, seen by the whole backbone.

    Args:
        options: Weights, freezing and how to compute.
        settings: Range and sizes.
    """

    def __init__(
        self, options: LidarOptions | None = None, settings: PillarSettings | None = None
    ) -> None:
        super().__init__()
        o, s = options or LidarOptions(), settings or PillarSettings()
        o.check()
        self.architecture, self.settings, self.options = 'pointpillars', s, o
        self.preparation = PillarPreparation(s)
        c = s.channels
        self.embed_dim = 6 * c
        self.voxel_encoder = nn.Module()
        self.voxel_encoder.pfn_layers = nn.ModuleList([_PillarFeatures(c)])
        self.backbone, self.neck = nn.Module(), nn.Module()
        widths = (c, 2 * c, 4 * c)
        self.backbone.blocks = nn.ModuleList(
            _block(c_in, c_out, layers, stride)
            for c_in, c_out, layers, stride in zip(
                (c, *widths), widths, s.layers, s.strides, strict=False
            )
        )
        # Every block's output goes back to the resolution of the first one's.
        scales = (1, s.strides[1], s.strides[1] * s.strides[2])
        self.neck.deblocks = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose2d(c_in, 2 * c, k, k, bias=False), _norm2d(2 * c), nn.ReLU()
            )
            for c_in, k in zip(widths, scales, strict=True)
        )
        if o.weights is not None:
            load_weights(self, o.weights)
        if o.frozen:
            self.freeze()

    def bird_eye_view(self, batch: LidarBatch) -> Tensor:
        """Compute the map.

        Args:
            batch: From `preparation.collate`.

        Returns:
            (B, embed_dim, H, W) float32: rows along y, columns along x, both ascending; a cell is
            `strides[0]` pillars wide.
        """
        with bfloat16_if(self.frozen and self.options.precision == 'bfloat16', self.device):
            return self._bird_eye_view(batch).float()

    def encode(self, batch: LidarBatch, per_point: bool = False) -> LidarFeatures:
        """Features per pillar; a point's are interpolated between the cells around it."""
        view = self.bird_eye_view(batch)
        pillars, counts, s = batch['pillars'], batch['point_count'], self.settings
        stride = s.strides[0]
        tokens = view[pillars[:, 0], :, pillars[:, 1] // stride, pillars[:, 2] // stride]
        points = seen = None
        if per_point:
            seen = batch['seen']
            points = sample_maps(view, self._to_unit(batch['xy']), counts) * seen[:, None]
        return LidarFeatures(
            tokens, pillars[:, 0], mean_per_sample(tokens, pillars[:, 0], len(counts)), points,
            samples_of(counts), seen,
        )  # fmt: skip

    def _bird_eye_view(self, batch: LidarBatch) -> Tensor:
        s, pillars = self.settings, batch['pillars']
        height, width = s.shape
        low_x, low_y = s.range_m[:2]
        middles = (pillars[:, [2, 1]] + 0.5) * s.pillar_size_m
        middles += torch.tensor([low_x, low_y], device=middles.device)
        layer = cast('_PillarFeatures', cast('nn.ModuleList', self.voxel_encoder.pfn_layers)[0])
        features = layer(batch['points'], batch['point_to_pillar'], middles)
        canvas = features.new_zeros((len(batch['point_count']), height, width, s.channels))
        x = canvas.index_put(pillars.unbind(1), features).permute(0, 3, 1, 2)
        outputs = []
        blocks = cast('nn.ModuleList', self.backbone.blocks)
        deblocks = cast('nn.ModuleList', self.neck.deblocks)
        for block, deblock in zip(blocks, deblocks, strict=True):
            keep = not (self.options.checkpoint_activations and torch.is_grad_enabled())
            x = block(x) if keep else run_twice(block, x)
            outputs.append(deblock(x))
        return torch.cat(outputs, dim=1)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def _to_unit(self, xy: Tensor) -> Tensor:
        low_x, low_y, _, high_x, high_y, _ = self.settings.range_m
        low, high = xy.new_tensor([low_x, low_y]), xy.new_tensor([high_x, high_y])
        return (xy - low) / (high - low)


class _PillarFeatures(nn.Module):
    """The simplified PointNet: one layer per point, the maximum per pillar."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(_DECORATED, channels, bias=False)
        self.norm = BatchNorm1d(channels, eps=1e-3, momentum=0.01)

    def forward(self, points: Tensor, pillar: Tensor, middles: Tensor) -> Tensor:
        xyz = points[:, :3]
        mean = mean_per_sample(xyz, pillar, len(middles))
        decorated = [points, xyz - mean[pillar], xyz[:, :2] - middles[pillar]]
        x = torch.relu(self.norm(self.linear(torch.cat(decorated, dim=1))))
        # What follows a ReLU is never below the zeros that the maximum starts from.
        out = x.new_zeros((len(middles), x.shape[1]))
        return out.scatter_reduce(0, pillar[:, None].expand_as(x), x, 'amax')


def _norm2d(channels: int) -> BatchNorm2d:
    return BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def _block(c_in: int, c_out: int, layers: int, stride: int) -> nn.Sequential:
    parts: list[nn.Module] = []
    for i in range(layers):
        c, step = (c_in, stride) if i == 0 else (c_out, 1)
        parts += [
            nn.Conv2d(c, c_out, 3, step, padding=1, bias=False), _norm2d(c_out), nn.ReLU(),
        ]  # fmt: skip
    return nn.Sequential(*parts)


class _Family:
    name = 'pointpillars'
    architectures = ('pointpillars',)

    def knows(self, architecture: str) -> bool:
        return architecture in self.architectures

    def create(
        self, architecture: str, options: LidarOptions, settings: Mapping[str, Any]
    ) -> PointPillars:
        return PointPillars(options, make_settings(PillarSettings, settings))


FAMILY = _Family()
