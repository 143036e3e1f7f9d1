# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Features on a grid as one object, for networks that are a sequence of layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from clcp_ros.errors import ModelError
from training.sparse.grid import SparseGrid


@dataclass(frozen=True)
class SparseTensor:
    """Rows of features and the voxels they belong to.

    Attributes:
        features: (N, C).
        grid: The voxels.
        finer: The grids this one was made from by strided convolutions, the finest first: where a
            transposed convolution goes back to.
    """

    features: Tensor
    grid: SparseGrid
    finer: tuple[SparseGrid, ...] = ()

    def __post_init__(self) -> None:
        if len(self.features) != len(self.grid):
            raise ModelError(
                f'{len(self.features)} rows of features on a grid of {len(self.grid)} voxels'
            )

    @classmethod
    def of(cls, coords: Tensor, features: Tensor, batch_size: int | None = None) -> SparseTensor:
        """Make one from coordinates.

        Args:
            coords: (N, 4) integers: sample, x, y, z; unique rows.
            features: (N, C).
            batch_size: Number of samples; None takes it from the coordinates, which cannot know
                of empty samples at the end.

        Raises:
            ModelError: As of `SparseGrid`, or the lengths differ.
        """
        if batch_size is None:
            batch_size = int(coords[:, 0].max()) + 1 if len(coords) else 0
        return cls(features, SparseGrid(coords, batch_size))

    @property
    def coords(self) -> Tensor:
        """(N, 4) int64: sample, x, y, z in units of this grid's voxels."""
        return self.grid.coords

    @property
    def stride(self) -> int:
        """Edge of the voxels in the finest ones."""
        return self.grid.stride

    @property
    def batch_size(self) -> int:
        """Number of samples."""
        return self.grid.batch_size

    @property
    def samples(self) -> Tensor:
        """(N,) int64 sample of each voxel."""
        return self.grid.samples

    def replace(self, features: Tensor) -> SparseTensor:
        """Other features on the same voxels."""
        return replace(self, features=features)

    def to(self, device: torch.device | str) -> SparseTensor:
        """The same on a device."""
        finer = tuple(grid.to(device) for grid in self.finer)
        return SparseTensor(self.features.to(device), self.grid.to(device), finer)

    def __add__(self, other: SparseTensor) -> SparseTensor:
        _same_grid([self, other])
        return self.replace(self.features + other.features)

    def mean(self) -> Tensor:
        """(batch_size, C) mean per sample; zeros for an empty one."""
        return self.grid.mean_per_sample(self.features)

    def max(self) -> Tensor:
        """(batch_size, C) maximum per sample; zeros for an empty one."""
        return self.grid.max_per_sample(self.features)

    def dense(self, low: Sequence[int], shape: Sequence[int]) -> Tensor:
        """A dense copy of a box; zeros where there is no voxel.

        Args:
            low: Smallest x, y, z of the box, in units of this grid's voxels.
            shape: Extent along x, y, z.

        Returns:
            (batch_size, C, *shape).
        """
        at = self.coords[:, 1:] - self.coords.new_tensor(low)
        inside = ((at >= 0) & (at < at.new_tensor(shape))).all(dim=1)
        out = self.features.new_zeros((self.batch_size, *shape, self.features.shape[1]))
        x, y, z = at[inside].unbind(1)
        out[self.samples[inside], x, y, z] = self.features[inside]
        return out.permute(0, 4, 1, 2, 3)


def cat(tensors: Sequence[SparseTensor]) -> SparseTensor:
    """Join the channels of several tensors on one grid.

    Raises:
        ModelError: The grids differ.
    """
    _same_grid(tensors)
    return tensors[0].replace(torch.cat([t.features for t in tensors], dim=1))


def _same_grid(tensors: Sequence[SparseTensor]) -> None:
    first = tensors[0].grid
    for t in tensors[1:]:
        if t.grid is not first and not (
            t.stride == first.stride and torch.equal(t.coords, first.coords)
        ):
            raise ModelError('these sparse tensors are on different voxels')
