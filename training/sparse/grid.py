# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which voxels exist at each stride, and which of them a kernel connects.

Conventions are torchsparse's, in which MMDetection3D's checkpoints are written: kernels of odd
volume number their offsets with x fastest, `t = (dz+1)*9 + (dy+1)*3 + (dx+1)`, kernels of even
volume with z fastest, `t = 4*dx + 2*dy + dz`. The operation is cross-correlation.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from clcp_ros.errors import ModelError


class KernelMap:
    """Pairs of rows that each kernel offset connects.

    Args:
        sources: Per offset, (P_t,) int64 rows of the input.
        targets: Per offset, (P_t,) int64 rows of the output.
        n_sources: Rows of the input.
        n_targets: Rows of the output.
        centre: Offset that connects each row with itself, if there is one; its pairs are left out
            of what follows.

    Attributes:
        source: (P,) input rows of all pairs, offset after offset.
        target: (P,) output rows of all pairs.
        slices: Per offset, its part of the pairs; empty for the centre.
    """

    def __init__(
        self,
        sources: Sequence[Tensor],
        targets: Sequence[Tensor],
        n_sources: int,
        n_targets: int,
        centre: int | None = None,
    ) -> None:
        self.n_sources, self.n_targets, self.centre = n_sources, n_targets, centre
        sources, targets = (
            [rows[:0] if t == centre else rows for t, rows in enumerate(side)]
            for side in (sources, targets)
        )
        self.source, self.target = torch.cat(sources), torch.cat(targets)
        ends = list(itertools.accumulate(len(rows) for rows in sources))
        self.slices = [slice(end - len(r), end) for r, end in zip(sources, ends, strict=True)]

    @cached_property
    def by_target(self) -> tuple[Tensor, Tensor]:
        """Positions of the pairs sorted by output row, and where each row's pairs begin."""
        return _segments(self.target, self.n_targets)

    @cached_property
    def by_source(self) -> tuple[Tensor, Tensor]:
        """Positions of the pairs sorted by input row, and where each row's pairs begin."""
        return _segments(self.source, self.n_sources)

    @cached_property
    def transposed(self) -> KernelMap:
        """The same pairs in the other direction, for a transposed convolution."""
        other = copy.copy(self)
        for name in ('by_target', 'by_source', 'transposed'):
            other.__dict__.pop(name, None)
        other.source, other.target = self.target, self.source
        other.n_sources, other.n_targets = self.n_targets, self.n_sources
        return other


def _segments(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    order = torch.argsort(rows, stable=True)
    begins = torch.zeros(count + 1, dtype=torch.int64, device=rows.device)
    torch.cumsum(torch.bincount(rows, minlength=count), 0, out=begins[1:])
    return order, begins


class SparseGrid:
    """The active voxels of a batch at one stride; maps are built once and shared.

    Args:
        coords: (N, 4) int64: sample, x, y, z, in units of this grid's voxels; unique rows.
        batch_size: Number of samples, some of which may have no voxel.

    Raises:
        ModelError: The extent is too large for 64-bit keys, or rows repeat.
    """

    def __init__(self, coords: Tensor, batch_size: int) -> None:
        self.coords = coords
        self.batch_size = batch_size
        if len(coords):
            low = coords[:, 1:].amin(dim=0)
            # One empty plane on each side, so that a neighbour outside never aliases another row.
            extent = coords[:, 1:].amax(dim=0) - low + 3
            self._origin = low - 1
        else:
            extent = torch.full((3,), 3, dtype=torch.int64, device=coords.device)
            self._origin = torch.zeros(3, dtype=torch.int64, device=coords.device)
        x, y, z = extent.tolist()
        if batch_size * x * y * z >= 2**62:
            raise ModelError(
                f'voxel grid of {x} x {y} x {z} is too large for its keys; '
                'remove far outliers or use larger voxels'
            )
        self._strides = (x * y * z, y * z, z, 1)
        keys = self._keys(coords)
        self._sorted_keys, self._order = torch.sort(keys)
        if len(keys) and bool((self._sorted_keys[1:] == self._sorted_keys[:-1]).any()):
            raise ModelError('two rows of a sparse grid have the same coordinates')

    def __len__(self) -> int:
        return len(self.coords)

    @property
    def samples(self) -> Tensor:
        """(N,) int64 sample of each voxel."""
        return self.coords[:, 0]

    def _keys(self, coords: Tensor) -> Tensor:
        b, x, y, z = self._strides
        c = coords[:, 1:] - self._origin
        return coords[:, 0] * b + c[:, 0] * x + c[:, 1] * y + c[:, 2] * z

    @cached_property
    def neighbours(self) -> KernelMap:
        """Pairs of the submanifold 3 x 3 x 3 convolution."""
        n = len(self)
        rows = torch.arange(n, device=self.coords.device)
        keys = self._keys(self.coords)
        _, x, y, z = self._strides
        sources: list[Tensor] = [rows] * 27
        targets: list[Tensor] = [rows] * 27
        for t in range(13):  # the other half are these pairs the other way round
            dx, dy, dz = t % 3 - 1, t // 3 % 3 - 1, t // 9 - 1
            wanted = keys + dx * x + dy * y + dz * z
            position = torch.searchsorted(self._sorted_keys, wanted).clamp_(max=max(n - 1, 0))
            hit = self._sorted_keys[position] == wanted
            sources[t], targets[t] = self._order[position[hit]], rows[hit]
            sources[26 - t], targets[26 - t] = targets[t], sources[t]
        return KernelMap(sources, targets, n, n, centre=13)

    @cached_property
    def coarser(self) -> tuple[SparseGrid, KernelMap]:
        """The grid at twice the stride, and the pairs of the 2 x 2 x 2 convolution to it."""
        halved = self.coords.clone()
        halved[:, 1:] = torch.div(self.coords[:, 1:], 2, rounding_mode='floor')
        _, parent = torch.unique(self._keys(halved), return_inverse=True)
        count = int(parent.max()) + 1 if len(parent) else 0
        coarse = halved.new_empty((count, 4))
        coarse[parent] = halved
        corner = self.coords[:, 1:] - 2 * halved[:, 1:]
        octant = corner @ torch.tensor([4, 2, 1], device=corner.device)
        sources = tuple(torch.nonzero(octant == t).flatten() for t in range(8))
        targets = tuple(parent[s] for s in sources)
        return (
            SparseGrid(coarse, self.batch_size),
            KernelMap(sources, targets, len(self), count),
        )

    def mean_per_sample(self, features: Tensor) -> Tensor:
        """Average features over the voxels of each sample.

        Args:
            features: (N, C).

        Returns:
            (batch_size, C); zeros for a sample without voxels.
        """
        total = features.new_zeros((self.batch_size, features.shape[1]))
        total.index_add_(0, self.samples, features)
        count = torch.bincount(self.samples, minlength=self.batch_size).clamp_(min=1)
        return total / count[:, None].to(total.dtype)
