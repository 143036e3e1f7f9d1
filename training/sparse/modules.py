# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Layers that take and give sparse tensors, to build an encoder of one's own from."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from clcp_ros.errors import ModelError
from training.sparse.layers import SparseConv
from training.sparse.tensor import SparseTensor

Kind = Literal['submanifold', 'strided', 'transposed', 'pointwise']
_VOLUMES = {'submanifold': 27, 'strided': 8, 'transposed': 8, 'pointwise': 1}


class Conv(nn.Module):
    """One of the four convolutions.

    Args:
        c_in: Input channels.
        c_out: Output channels.
        kind: `submanifold`: 3 x 3 x 3 on the same voxels; `strided`: 2 x 2 x 2 to voxels twice as
            large; `transposed`: 2 x 2 x 2 back to those it came from; `pointwise`: 1 x 1 x 1.

    Raises:
        ModelError: Unknown kind.
    """

    def __init__(self, c_in: int, c_out: int, kind: Kind = 'submanifold') -> None:
        super().__init__()
        if kind not in _VOLUMES:
            raise ModelError(f'unknown convolution {kind!r}; known: {", ".join(_VOLUMES)}')
        self.kind = kind
        self.conv = SparseConv(c_in, c_out, _VOLUMES[kind])

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Convolve.

        Raises:
            ModelError: A transposed convolution has no finer voxels to go back to.
        """
        if self.kind == 'submanifold':
            return x.replace(self.conv(x.features, x.grid.neighbours))
        if self.kind == 'pointwise':
            return x.replace(self.conv(x.features))
        if self.kind == 'strided':
            coarse, pairs = x.grid.coarser
            return SparseTensor(self.conv(x.features, pairs), coarse, (*x.finer, x.grid))
        if not x.finer:
            raise ModelError('a transposed convolution follows a strided one; there was none')
        *finer, grid = x.finer
        _, pairs = grid.coarser
        return SparseTensor(self.conv(x.features, pairs.transposed), grid, tuple(finer))


class BatchNorm(nn.BatchNorm1d):
    """BatchNorm over all voxels of a batch; fewer than two are normalised as in evaluation."""

    def forward(self, x: SparseTensor) -> SparseTensor:  # type: ignore[override]
        """Normalise."""
        if self.training and len(x.features) < 2:
            features = F.batch_norm(
                x.features, self.running_mean, self.running_var, self.weight, self.bias, False,
                0, self.eps,
            )  # fmt: skip
            return x.replace(features)
        return x.replace(super().forward(x.features))


class ReLU(nn.Module):
    """Cut off negative values."""

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Cut off."""
        return x.replace(torch.relu(x.features))
