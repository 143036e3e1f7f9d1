# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""MinkUNet as a lidar encoder: features per voxel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from clcp_ros.errors import ModelError
from training.models.lidar.base import (
    LidarBatch,
    LidarEncoder,
    LidarFeatures,
    LidarOptions,
    LidarSample,
    make_settings,
    samples_of,
)
from training.models.minkunet import ARCHITECTURES, MinkUNet
from training.sparse import SparseGrid, Voxels, join_voxels, voxelize


@dataclass(frozen=True)
class VoxelSettings:
    """How points become voxels. The defaults are MMDetection3D's for its published weights.

    Attributes:
        voxel_size_m: Edge of a voxel.
        reduce: What a voxel holds: its first point, or the mean of its points.
        output: Which features: of the decoder at stride 1, or of the encoder alone at stride 16.
    """

    voxel_size_m: float = 0.05
    reduce: Literal['first', 'mean'] = 'first'
    output: Literal['decoder', 'encoder'] = 'decoder'

    def __post_init__(self) -> None:
        if not self.voxel_size_m > 0:
            raise ModelError(f'voxel_size_m must be positive, not {self.voxel_size_m}')


@dataclass(frozen=True)
class VoxelPreparation:
    """Voxels of scans.

    Attributes:
        settings: Their size.
    """

    settings: VoxelSettings

    def __call__(self, points: np.ndarray) -> LidarSample:
        """`coords` (V, 3) int64, `features` (V, 4) float32, `point_to_voxel` (N,) int64."""
        voxels = voxelize(points[:, :4], self.settings.voxel_size_m, self.settings.reduce)
        return {
            'coords': voxels.coords,
            'features': voxels.features,
            'point_to_voxel': voxels.point_to_voxel,
        }

    def collate(self, samples: Sequence[LidarSample]) -> LidarBatch:
        """Rows of all samples: `coords` (N, 4) with the sample first, `point_to_voxel` into them.

        A point whose voxel was left out of a sample (-1) stays without one.
        """
        coords, features = join_voxels([Voxels(**s) for s in samples])
        first = np.cumsum([0, *(len(s['coords']) for s in samples)])
        rows = [
            np.where(s['point_to_voxel'] < 0, -1, s['point_to_voxel'] + begin)
            for s, begin in zip(samples, first, strict=False)
        ]
        return {
            'coords': coords,
            'features': features,
            'point_to_voxel': torch.from_numpy(np.concatenate(rows)),
            'point_count': torch.tensor([len(r) for r in rows]),
        }


class MinkUNetEncoder(LidarEncoder):
    """MinkUNet behind the common interface; tokens are voxels.

    Args:
        architecture: A key of `training.models.minkunet.ARCHITECTURES`.
        options: Weights, freezing and how to compute.
        settings: Size of the voxels, and which features.

    Attributes:
        network: The MinkUNet.
    """

    def __init__(
        self,
        architecture: str,
        options: LidarOptions | None = None,
        settings: VoxelSettings | None = None,
    ) -> None:
        super().__init__()
        o = options or LidarOptions()
        o.check(sparse=True)
        self.architecture = architecture
        self.settings = settings or VoxelSettings()
        self.preparation = VoxelPreparation(self.settings)
        self.network = MinkUNet(
            architecture, weights=o.weights, frozen=o.frozen, precision=o.precision,
            sparse_backend=o.sparse_backend, checkpoint_activations=o.checkpoint_activations,
        )  # fmt: skip
        whole = self.settings.output == 'decoder'
        self.embed_dim = self.network.embed_dim if whole else self.network.encoder_dim
        if o.frozen:
            self.freeze()

    def freeze(self) -> MinkUNetEncoder:
        """Keep weights and BatchNorm statistics as they are from now on."""
        self.network.freeze()
        super().freeze()
        return self

    def encode(self, batch: LidarBatch, per_point: bool = False) -> LidarFeatures:
        """Features per voxel; a point's are those of the voxel that it lies in."""
        counts = batch['point_count']
        grid = SparseGrid(batch['coords'], len(counts))
        rows = batch['point_to_voxel']
        if self.settings.output == 'encoder':
            fine, (grid, tokens) = grid, self.network.forward_encoder(grid, batch['features'])
            if per_point and len(fine):
                parent = _ancestors(fine, levels=len(self.network.encoder))
                rows = torch.where(rows < 0, rows, parent[rows.clamp(min=0)])
        else:
            tokens = self.network(grid, batch['features'])
        points = seen = None
        if per_point:
            points, seen = _take(tokens, rows)
        return LidarFeatures(
            tokens, grid.samples, grid.mean_per_sample(tokens), points, samples_of(counts), seen
        )


def _take(tokens: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    seen = rows >= 0
    if len(tokens) == 0:
        return tokens.new_zeros((len(rows), tokens.shape[1])), seen
    return tokens[rows.clamp(min=0)] * seen[:, None], seen


def _ancestors(grid: SparseGrid, levels: int) -> Tensor:
    """(N,) row of the voxel that each voxel lies in, so many levels up."""
    rows = torch.arange(len(grid), device=grid.coords.device)
    for _ in range(levels):
        coarse, down = grid.coarser
        parent = rows.new_empty(len(grid))
        parent[down.source] = down.target
        rows, grid = parent[rows], coarse
    return rows


class _Family:
    name = 'minkunet'
    architectures = tuple(ARCHITECTURES)

    def knows(self, architecture: str) -> bool:
        return architecture in ARCHITECTURES

    def create(
        self, architecture: str, options: LidarOptions, settings: Mapping[str, Any]
    ) -> MinkUNetEncoder:
        return MinkUNetEncoder(architecture, options, make_settings(VoxelSettings, settings))


FAMILY = _Family()
