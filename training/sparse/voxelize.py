# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From points to voxels, by MMDetection3D's rule for MinkUNet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clcp_ros.errors import ModelError
from training.sparse.grid import SparseGrid

# Keys of one sample must leave room for the batch index in 64 bits.
_MAX_EXTENT = 2**20


@dataclass(frozen=True)
class Voxels:
    """One sample's voxels.

    Attributes:
        coords: (V, 3) int64, non-negative.
        features: (V, C) float32 of the point that stands for the voxel.
        point_to_voxel: (N,) int64 voxel of each point.
    """

    coords: np.ndarray
    features: np.ndarray
    point_to_voxel: np.ndarray


def voxelize(points: np.ndarray, voxel_size_m: float) -> Voxels:
    """Round to a grid, shift to the sample's own minimum, keep the first point of each voxel.

    Args:
        points: (N, C) float32, x, y, z in metres first; finite.
        voxel_size_m: Edge of a voxel.

    Returns:
        Voxels in ascending order of their coordinates.

    Raises:
        ModelError: Points are not finite or spread over more than 2**20 voxels along an axis.
    """
    if len(points) == 0:
        return Voxels(np.zeros((0, 3), np.int64), points.astype(np.float32), np.zeros(0, np.int64))
    if not np.isfinite(points[:, :3]).all():
        raise ModelError('points with NaN or infinite coordinates; convert the recording again')
    coords = np.round(points[:, :3].astype(np.float64) / voxel_size_m).astype(np.int64)
    coords -= coords.min(axis=0)
    extent = coords.max(axis=0) + 1
    if extent.max() > _MAX_EXTENT:
        raise ModelError(
            f'points spread over {extent.max() * voxel_size_m:.0f} m; remove the outliers'
        )
    key = (coords[:, 0] * extent[1] + coords[:, 1]) * extent[2] + coords[:, 2]
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    return Voxels(
        coords[first],
        np.ascontiguousarray(points[first], np.float32),
        inverse.reshape(-1).astype(np.int64),
    )


def join_voxels(samples: Sequence[Voxels]) -> tuple[Tensor, Tensor]:
    """Join the voxels of several samples.

    Args:
        samples: One entry per sample; may be without voxels.

    Returns:
        (N, 4) int64 coordinates, the sample first, and (N, C) float32 features.
    """
    coords = [
        torch.nn.functional.pad(torch.from_numpy(s.coords), (1, 0), value=i)
        for i, s in enumerate(samples)
    ]
    return torch.cat(coords), torch.cat([torch.from_numpy(s.features) for s in samples])


def batch_voxels(samples: Sequence[Voxels]) -> tuple[SparseGrid, Tensor]:
    """Join the voxels of several samples into a grid.

    Args:
        samples: One entry per sample; may be without voxels.

    Returns:
        The grid, and (N, C) float32 features in its order.
    """
    coords, features = join_voxels(samples)
    return SparseGrid(coords, len(samples)), features
