# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which voxels exist at each stride, and which of them a kernel connects.

Conventions are torchsparse's, in which MMDetection3D's checkpoints are written: kernels of odd
volume number their offsets with x fastest, `t = (dz+1)*9 + (dy+1)*3 + (dx+1)`, kernels of even
volume with z fastest, `t = 4*dx + 2*dy + dz`. The operation is cross-correlation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from clcp_ros.errors import ModelError
from training.sparse import octree
from training.sparse.kernel_map import KernelMap
from training.sparse.morton import MAX_HALVINGS, KeySpace

# Fewer voxels than this are looked up; more get their neighbours from their parents.
_FEW = 256


class SparseGrid:
    """The active voxels of a batch at one stride; maps are built once and shared.

    Args:
        coords: (N, 4) integers: sample, x, y, z, in units of this grid's voxels; unique rows in
            any order, negative ones too.
        batch_size: Number of samples, some of which may have no voxel.
        stride: Edge of these voxels in the finest ones.

    Raises:
        ModelError: The extent is too large for 64-bit keys, rows repeat, a sample is out of
            range, or the shape or type is wrong.
    """

    def __init__(self, coords: Tensor, batch_size: int, stride: int = 1) -> None:
        if coords.ndim != 2 or coords.shape[1] != 4 or coords.is_floating_point():
            raise ModelError(
                'a sparse grid takes integer coordinates (N, 4): sample, x, y, z; got '
                f'{coords.dtype} {tuple(coords.shape)}'
            )
        self.coords = coords.long().contiguous()
        self.batch_size, self.stride = batch_size, stride
        # The order of the rows by key; None when they are in order.
        self._space, keys, self._order = _sort(self.coords, batch_size)
        self._tree = _Level(keys, self._space, MAX_HALVINGS)

    @classmethod
    def _from_level(cls, level: _Level, batch_size: int, stride: int) -> SparseGrid:
        grid = cls.__new__(cls)
        grid.coords = level.space.decode(level.keys)
        grid.batch_size, grid.stride, grid._space = batch_size, stride, level.space
        grid._order, grid._tree = None, level
        return grid

    def __len__(self) -> int:
        return len(self.coords)

    def __repr__(self) -> str:
        return f'SparseGrid({len(self)} voxels, {self.batch_size} samples, stride {self.stride})'

    @property
    def samples(self) -> Tensor:
        """(N,) int64 sample of each voxel."""
        return self.coords[:, 0]

    def to(self, device: torch.device | str) -> SparseGrid:
        """The same grid on a device; maps are built again there."""
        if self.coords.device == torch.device(device):
            return self
        return SparseGrid(self.coords.to(device), self.batch_size, self.stride)

    @torch.compiler.disable
    def find(self, coords: Tensor) -> Tensor:
        """Look voxels up.

        Args:
            coords: (M, 4) int64 coordinates in units of this grid's voxels, anywhere.

        Returns:
            (M,) int64 rows of this grid, -1 where there is no such voxel.
        """
        keys, _ = self._space.encode(coords)
        return self._rows(octree.find(self._tree.keys, keys)).long()

    def _rows(self, positions: Tensor) -> Tensor:
        """Positions among the sorted keys (-1: none) to rows."""
        if self._order is None:
            return positions
        rows = torch.nn.functional.pad(self._order.int(), (0, 1), value=-1)
        return rows.index_select(
            0, torch.where(positions < 0, len(self), positions).view(-1)
        ).view(positions.shape)

    @cached_property
    def neighbours(self) -> KernelMap:
        """Pairs of the submanifold 3 x 3 x 3 convolution."""
        return _neighbours(self)

    @cached_property
    def coarser(self) -> tuple[SparseGrid, KernelMap]:
        """The grid at twice the stride, and the pairs of the 2 x 2 x 2 convolution to it.

        Raises:
            ModelError: The grid has been halved too often.
        """
        return _coarser(self)

    @cached_property
    def _by_sample(self) -> tuple[Tensor | None, list[int]]:
        """Rows sample after sample (None: as they are), and the number of each sample's rows."""
        counts = torch.bincount(self.samples, minlength=self.batch_size)
        grouped = bool((self.samples[1:] >= self.samples[:-1]).all())
        order = None if grouped else torch.argsort(self.samples, stable=True)
        return order, counts.tolist()

    def mean_per_sample(self, features: Tensor) -> Tensor:
        """Average features over the voxels of each sample.

        Args:
            features: (N, C).

        Returns:
            (batch_size, C); zeros for a sample without voxels.
        """
        return self._pool(features, lambda rows: rows.mean(0))

    def max_per_sample(self, features: Tensor) -> Tensor:
        """Largest feature over the voxels of each sample.

        Args:
            features: (N, C).

        Returns:
            (batch_size, C); zeros for a sample without voxels.
        """
        return self._pool(features, lambda rows: rows.amax(0))

    @torch.compiler.disable
    def _pool(self, features: Tensor, reduce: Callable[[Tensor], Tensor]) -> Tensor:
        # Not by scattering: the same order of additions every time, on any device.
        order, counts = self._by_sample
        if order is not None:
            features = features.index_select(0, order)
        if not counts:
            return features.new_zeros((0, features.shape[1]))
        return torch.stack(
            [reduce(part) if len(part) else part.sum(0) for part in features.split(counts)]
        )


class _Level:
    """Sorted keys of one level of the tree and what connects it with the next."""

    def __init__(self, keys: Tensor, space: KeySpace, halvings: int) -> None:
        self.keys, self.space, self.halvings = keys, space, halvings

    @cached_property
    def up(self) -> tuple[_Level, Tensor, Tensor]:
        """The parents, and the parent and octant of each voxel."""
        parents, parent = torch.unique_consecutive(self.keys >> 3, return_inverse=True)
        return _Level(parents, self.space.halved, self.halvings - 1), parent, self.keys & 7

    @cached_property
    def children(self) -> Tensor:
        """(M + 1, 8) int32 rows of each parent's children."""
        level, parent, octant = self.up
        return octree.children(parent, octant, len(level.keys))

    @cached_property
    def neighbours(self) -> Tensor:
        """(N, 27) int32 neighbours, -1 for none."""
        if len(self.keys) <= _FEW or self.halvings == 0:
            return octree.search(self.keys, self.space)
        level, parent, octant = self.up
        return octree.refine(level.neighbours, parent, octant, self.children)


@torch.compiler.disable
def _sort(coords: Tensor, batch_size: int) -> tuple[KeySpace, Tensor, Tensor | None]:
    space = KeySpace.around(coords, batch_size)
    keys, _ = space.encode(coords)
    if bool((keys[1:] > keys[:-1]).all()):
        return space, keys, None
    keys, order = torch.sort(keys)
    if bool((keys[1:] == keys[:-1]).any()):
        raise ModelError('two rows of a sparse grid have the same coordinates')
    return space, keys, order


@torch.compiler.disable
def _neighbours(grid: SparseGrid) -> KernelMap:
    table = grid._tree.neighbours
    if grid._order is not None:
        by_row = torch.empty_like(table)
        by_row[grid._order] = grid._rows(table)
        table = by_row
    return KernelMap(table, 'submanifold', grid.coords, grid.coords, grid.batch_size)


@torch.compiler.disable
def _coarser(grid: SparseGrid) -> tuple[SparseGrid, KernelMap]:
    if grid._tree.halvings == 0:
        raise ModelError(f'a sparse grid can be halved {MAX_HALVINGS} times, not more')
    level, _, _ = grid._tree.up
    coarse = SparseGrid._from_level(level, grid.batch_size, 2 * grid.stride)
    table = grid._rows(grid._tree.children[:-1])
    return coarse, KernelMap(table, 'strided', grid.coords, coarse.coords, grid.batch_size)
