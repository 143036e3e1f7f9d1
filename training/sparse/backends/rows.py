# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the adapters share: coordinates from zero, and rows in another order."""

from __future__ import annotations

import torch
from torch import Tensor

from clcp_ros.errors import ModelError


def from_zero(coords: Tensor) -> tuple[Tensor, Tensor]:
    """Shift coordinates so that none is negative and even ones stay even.

    Args:
        coords: (N, 4) int64: sample, x, y, z; N > 0.

    Returns:
        The shifted coordinates, and what was subtracted, (4,).
    """
    low = torch.div(coords.amin(dim=0), 2, rounding_mode='floor') * 2
    low[0] = 0
    return coords - low, low


def match_rows(wanted: Tensor, found: Tensor, name: str) -> Tensor:
    """Where each row of ours is in a library's order.

    Args:
        wanted: (N, 4) int64 coordinates, unique.
        found: (M, 4) integer coordinates of the library.
        name: Of the library.

    Returns:
        (N,) int64, such that `found[result]` equals `wanted`.

    Raises:
        ModelError: The library found other voxels.
    """
    size = torch.maximum(wanted.amax(dim=0), found.long().amax(dim=0)) + 1
    ours, theirs = torch.sort(_keys(wanted, size)), torch.sort(_keys(found.long(), size))
    if not torch.equal(ours.values, theirs.values):
        raise ModelError(f'{name} found other coarse voxels; use the backend torch')
    order = torch.empty_like(ours.indices)
    order[ours.indices] = theirs.indices
    return order


def _keys(coords: Tensor, size: Tensor) -> Tensor:
    b, x, y, z = coords.unbind(1)
    return ((b * size[1] + x) * size[2] + y) * size[3] + z
