# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""MinkUNet as a lidar encoder: features per voxel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
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
    check_points,
    make_settings,
    samples_of,
)
from training.models.minkunet import ARCHITECTURES, MinkUNet
from training.sparse import SparseGrid, Voxels, interpolate, join_voxels, voxelize


@dataclass(frozen=True)
class VoxelSettings:
    """How points become voxels. The defaults are MMDetection3D's for its published weights.

    Attributes:
        voxel_size_m: Edge of a voxel.
        reduce: What a voxel holds: its first point, or the mean of its points.
        output: Which features: of the decoder at stride 1, or of the encoder alone at stride 16.
        point: What a point gets: the features of the voxel that it lies in, or an interpolation
            between the voxels around it, as far as they exist.
    """

    voxel_size_m: float = 0.05
    reduce: Literal['first', 'mean'] = 'first'
    output: Literal['decoder', 'encoder'] = 'decoder'
    point: Literal['voxel', 'trilinear'] = 'voxel'

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
        points = check_points(points)
        voxels = voxelize(points, self.settings.voxel_size_m, self.settings.reduce)
        sample = {
            'coords': voxels.coords,
            'features': voxels.features,
            'point_to_voxel': voxels.point_to_voxel,
        }
        if self.settings.point == 'trilinear':
            places = points[:, :3].astype(np.float64) / self.settings.voxel_size_m
            low = np.round(places).min(axis=0, initial=np.inf)
            sample['places'] = (places - low).astype(np.float32)
        return sample

    def collate(self, samples: Sequence[LidarSample]) -> LidarBatch:
        """Rows of all samples: `coords` (N, 4) with the sample first, `point_to_voxel` into them.

        A point whose voxel was left out of a sample (-1) stays without one.
        """
        names = [f.name for f in fields(Voxels)]
        coords, features = join_voxels([Voxels(**{k: s[k] for k in names}) for s in samples])
        first = np.cumsum([0, *(len(s['coords']) for s in samples)])
        rows = [
            np.where(s['point_to_voxel'] < 0, -1, s['point_to_voxel'] + begin)
            for s, begin in zip(samples, first, strict=False)
        ]
        batch = {
            'coords': coords,
            'features': features,
            'point_to_voxel': torch.from_numpy(np.concatenate(rows)),
            'point_count': torch.tensor([len(r) for r in rows]),
        }
        if self.settings.point == 'trilinear':
            batch['places'] = torch.from_numpy(np.concatenate([s['places'] for s in samples]))
        return batch


class MinkUNetEncoder(LidarEncoder):
    """MinkUNet behind the common interface; tokens are voxels.

    Args:
        architecture: A key of `training.models.minkunet.ARCHITECTURES`.
        options: Weights, freezing and how to compute.
        settings: Size of the voxels, and which features.

    Attributes:
        network: The MinkUNet.
    """

    weights_prefix = 'network.'

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
        """Features per voxel; a point's are its voxel's, or interpolated."""
        counts = batch['point_count']
        fine = grid = SparseGrid(batch['coords'], len(counts))
        if self.settings.output == 'encoder':
            grid, tokens = self.network.forward_encoder(fine, batch['features'])
        else:
            tokens = self.network(fine, batch['features'])
        points = seen = None
        point_sample = samples_of(counts)
        if per_point:
            rows = batch['point_to_voxel']
            seen = rows >= 0
            if self.settings.point == 'trilinear':
                places = torch.cat([point_sample[:, None], batch['places']], dim=1)
                points = interpolate(grid, tokens, places)
            else:
                points = _take(tokens, _ancestors(fine, grid, rows))
            points = points * seen[:, None]
        return LidarFeatures(
            tokens, grid.samples, grid.mean_per_sample(tokens), points, point_sample, seen
        )


def _take(tokens: Tensor, rows: Tensor) -> Tensor:
    if len(tokens) == 0:
        return tokens.new_zeros((len(rows), tokens.shape[1]))
    return tokens[rows.clamp(min=0)]


def _ancestors(fine: SparseGrid, coarse: SparseGrid, rows: Tensor) -> Tensor:
    """Rows of a coarser grid in which the voxels at `rows` of a finer one lie."""
    rows = rows.clamp(min=0)
    while fine.stride < coarse.stride and len(fine):
        parents, down = fine.coarser
        parent = rows.new_empty(len(fine))
        parent[down.source] = down.target
        rows, fine = parent[rows], parents
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
