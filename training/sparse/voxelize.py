# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From points to voxels, by MMDetection3D's rule for MinkUNet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

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
        features: (V, C) float32 of the point that stands for the voxel, or their mean.
        point_to_voxel: (N,) int64 voxel of each point.
    """

    coords: np.ndarray
    features: np.ndarray
    point_to_voxel: np.ndarray


def voxelize(
    points: np.ndarray, voxel_size_m: float, reduce: Literal['first', 'mean'] = 'first'
) -> Voxels:
    """Round to a grid, shift to the sample's own minimum, keep one row of features per voxel.

    Args:
        points: (N, C) float32, x, y, z in metres first; finite.
        voxel_size_m: Edge of a voxel.
        reduce: Features of a voxel: those of its first point (MMDetection3D's rule), or the mean
            over its points.

    Returns:
        Voxels in ascending order of their coordinates.

    Raises:
        ModelError: Points are not finite or spread over more than 2**20 voxels along an axis.
    """
    if reduce not in ('first', 'mean'):
        raise ModelError(f'unknown rule {reduce!r} for the features of a voxel; first or mean')
    if len(points) == 0:
        return Voxels(np.zeros((0, 3), np.int64), points.astype(np.float32), np.zeros(0, np.int64))
    if not np.isfinite(points[:, :3]).all():
        raise ModelError('points with NaN or infinite coordinates; convert the recording again')
    scaled = np.rint(points[:, :3].T.astype(np.float64) / voxel_size_m)
    low = scaled.min(axis=1, keepdims=True)
    extent = scaled.max(axis=1, keepdims=True) - low + 1
    if extent.max() > _MAX_EXTENT:
        raise ModelError(
            f'points spread over {extent.max() * voxel_size_m:.0f} m; remove the outliers'
        )
    coords = (scaled - low).astype(np.int64)
    x, y, z = (int(e).bit_length() for e in extent[:, 0])
    key = (coords[0] << (y + z)) | (coords[1] << z) | coords[2]
    order = _stable_order(key, x + y + z)
    key = key[order]
    begins = np.concatenate([[True], key[1:] != key[:-1]])
    point_to_voxel = np.empty(len(points), np.int64)
    point_to_voxel[order] = np.cumsum(begins) - 1
    first = np.flatnonzero(begins)
    if reduce == 'first':
        features = points[order[first]].astype(np.float32)
    else:
        sums = np.add.reduceat(points[order].astype(np.float64), first, axis=0)
        counts = np.diff(np.append(first, len(points)))
        features = (sums / counts[:, None]).astype(np.float32)
    return Voxels(np.ascontiguousarray(coords[:, order[first]].T), features, point_to_voxel)


def _stable_order(key: np.ndarray, bits: int) -> np.ndarray:
    """What a stable argsort of non-negative keys of so many bits returns.

    Sorting numbers is several times as fast as sorting indices: the index goes into the key.
    """
    index_bits = len(key).bit_length()
    if bits + index_bits > 63:
        return np.argsort(key, kind='stable')
    packed = (key << index_bits) | np.arange(len(key))
    packed.sort()
    return packed & ((1 << index_bits) - 1)


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
