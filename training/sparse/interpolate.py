# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From voxels to points."""

from __future__ import annotations

import itertools
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from clcp_ros.errors import ModelError
from training.sparse.grid import SparseGrid

_CORNERS = list(itertools.product((0, 1), repeat=3))


@torch.compiler.disable
def interpolate(
    grid: SparseGrid,
    features: Tensor,
    points: Tensor,
    mode: Literal['trilinear', 'nearest'] = 'trilinear',
) -> Tensor:
    """Features at points between the centres of voxels.

    Of the eight centres around a point only those of active voxels count. The weights of the
    others are shared out among them (as in Tang et al. 2020, SPVNAS, arXiv 2007.16100).

    Args:
        grid: The voxels.
        features: (N, C).
        points: (M, 4): sample, x, y, z in units of the finest voxels, whose centres have whole
            numbers; so `xyz / voxel_size` less what voxelization subtracted.
        mode: `nearest` takes the closest active one of the eight alone.

    Returns:
        (M, C) of the type of `features`; zeros where none of the eight is active.

    Raises:
        ModelError: Unknown mode or wrong shape.
    """
    if mode not in ('trilinear', 'nearest'):
        raise ModelError(f'unknown interpolation {mode!r}; trilinear or nearest')
    if points.ndim != 2 or points.shape[1] != 4:
        raise ModelError(f'points (M, 4): sample, x, y, z; got {tuple(points.shape)}')
    if len(grid) == 0 or len(points) == 0:
        return features.new_zeros((len(points), features.shape[1])) + 0 * features.sum()
    # A coarse voxel C covers the fine ones from s*C to s*C + s-1.
    xyz = (points[:, 1:].double() - (grid.stride - 1) / 2) / grid.stride
    low = xyz.floor()
    fraction = (xyz - low).to(torch.promote_types(features.dtype, torch.float32))
    corner = points.new_tensor(_CORNERS, dtype=torch.int64)
    around = low.long()[:, None] + corner
    sample = points[:, :1, None].long().expand(-1, 8, 1)
    rows = grid.find(torch.cat([sample, around], dim=2).view(-1, 4)).view(-1, 8)
    part = torch.where(corner.bool(), fraction[:, None], 1 - fraction[:, None])
    weights = part.prod(dim=2) * (rows >= 0)
    if mode == 'nearest':
        best = weights.argmax(dim=1, keepdim=True)
        weights = torch.zeros_like(weights).scatter_(
            1, best, (weights.gather(1, best) > 0).to(weights.dtype)
        )
    else:
        total = weights.sum(dim=1, keepdim=True)
        weights = torch.where(total > 0, weights / total, 0)
    return F.embedding_bag(
        rows.clamp(min=0), features, mode='sum', per_sample_weights=weights.to(features.dtype)
    )
