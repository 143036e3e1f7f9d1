# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How other libraries lay out kernels and coordinates; needs none of them."""

from __future__ import annotations

import re

import torch
from torch import Tensor


def spconv_weight(kernel: Tensor) -> Tensor:
    """A kernel as spconv 2.x wants it.

    Args:
        kernel: (27 or 8, C_in, C_out), or (C_in, C_out); torchsparse's layout.

    Returns:
        (C_out, x, y, z, C_in), contiguous. That of a matrix is a matter of shape only: spconv
        multiplies with its memory as (C_in, C_out).
    """
    c_in, c_out = kernel.shape[-2:]
    if kernel.ndim == 2:
        return kernel.contiguous().view(c_out, 1, 1, 1, c_in)
    if len(kernel) == 27:  # numbered with x fastest
        return kernel.view(3, 3, 3, c_in, c_out).permute(4, 2, 1, 0, 3).contiguous()
    return kernel.view(2, 2, 2, c_in, c_out).permute(4, 0, 1, 2, 3).contiguous()


def sample_first(version: str) -> bool:
    """Whether this version of torchsparse has 2.1's conventions for coordinates."""
    numbers = [int(n) for n in re.findall(r'\d+', version)[:2]]
    return numbers >= [2, 1]


def to_torchsparse(coords: Tensor, first: bool) -> Tensor:
    """Coordinates at stride 1 as torchsparse wants them.

    Args:
        coords: (N, 4) int64: sample, x, y, z.
        first: Of `sample_first`.

    Returns:
        (N, 4) int32, contiguous.
    """
    return (coords if first else coords.roll(-1, dims=1)).int().contiguous()


def from_torchsparse(coords: Tensor, stride: int, first: bool) -> Tensor:
    """Coordinates of torchsparse as sample, x, y, z in units of the voxels of their stride.

    Args:
        coords: (N, 4) integers.
        stride: Of their tensor.
        first: Of `sample_first`.

    Returns:
        (N, 4) int64.
    """
    if first:  # 2.1 has divided them already
        return coords.long()
    coords = coords.long().roll(1, dims=1)
    coords[:, 1:] = torch.div(coords[:, 1:], stride, rounding_mode='floor')
    return coords
