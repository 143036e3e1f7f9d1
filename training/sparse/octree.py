# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which voxels touch: the neighbours of children from the neighbours of their parents.

A voxel's neighbour is a child of one of its parent's 27 neighbours, and which child of which
neighbour depends on the voxel's octant alone. So a level's neighbours are two gathers from the
level above: no hash table, no search (Wang et al. 2017, O-CNN, arXiv 1712.01537, section 3.2).
"""

from __future__ import annotations

import itertools
from functools import lru_cache

import torch
from torch import Tensor

from training.sparse.morton import KeySpace

# Offsets in the order of 3 x 3 x 3 kernels: x fastest.
OFFSETS = [(x, y, z) for z, y, x in itertools.product((-1, 0, 1), repeat=3)]


def children(parent: Tensor, octant: Tensor, n_parents: int) -> Tensor:
    """Where each parent's children are.

    Args:
        parent: (N,) int64 row of each voxel's parent.
        octant: (N,) int64 octant of each voxel.
        n_parents: M.

    Returns:
        (M + 1, 8) int32 rows, -1 where there is no child. The last row, which the index -1 finds,
        is a parent that does not exist.
    """
    table = torch.full((n_parents + 1, 8), -1, dtype=torch.int32, device=parent.device)
    rows = torch.arange(len(parent), dtype=torch.int32, device=parent.device)
    table.view(-1)[parent * 8 + octant] = rows
    return table


def refine(parents: Tensor, parent: Tensor, octant: Tensor, child: Tensor) -> Tensor:
    """Neighbours of the children.

    Args:
        parents: (M, 27) int32 neighbours of the parents, -1 for none.
        parent: (N,) int64 row of each voxel's parent.
        octant: (N,) int64 octant of each voxel.
        child: Of `children`.

    Returns:
        (N, 27) int32 neighbours, -1 for none.
    """
    which_parent, which_child = _tables(str(parent.device))
    n_parents = len(parents)
    # Row M of `child` holds no children: neighbours that do not exist lead there.
    first = torch.where(parents < 0, n_parents, parents).mul_(8).view(-1)
    at = (parent.to(torch.int32) * 27)[:, None] + which_parent.index_select(0, octant)
    at = first.index_select(0, at.view(-1)).view(-1, 27)
    at += which_child.index_select(0, octant)
    return child.view(-1).index_select(0, at.view(-1)).view(-1, 27)


def search(keys: Tensor, space: KeySpace) -> Tensor:
    """Neighbours by looking every one of them up: for the few voxels of the coarsest level.

    Args:
        keys: (N,) int64, ascending.
        space: Of the keys.

    Returns:
        (N, 27) int32 neighbours, -1 for none.
    """
    coords = space.decode(keys)
    around = torch.tensor([(0, *d) for d in OFFSETS], device=keys.device)
    wanted, _ = space.encode((coords[:, None] + around).view(-1, 4))
    return find(keys, wanted).view(-1, 27)


def find(keys: Tensor, wanted: Tensor) -> Tensor:
    """Positions of keys.

    Args:
        keys: (N,) int64, ascending, not negative.
        wanted: (M,) int64; negative ones are not found.

    Returns:
        (M,) int32 positions, -1 for keys that are not there.
    """
    if len(keys) == 0:
        return torch.full(wanted.shape, -1, dtype=torch.int32, device=wanted.device)
    at = torch.searchsorted(keys, wanted, out_int32=True).clamp_(max=len(keys) - 1)
    return torch.where(keys.index_select(0, at) == wanted, at, -1)


@lru_cache(maxsize=8)
def _tables(device: str) -> tuple[Tensor, Tensor]:
    """Per octant and offset: the offset of the neighbour's parent, and the neighbour's octant."""
    parent, child = torch.empty(2, 8, 27, dtype=torch.int32)
    for octant, corner in enumerate(itertools.product((0, 1), repeat=3)):
        for t, offset in enumerate(OFFSETS):
            x, y, z = (c + d for c, d in zip(corner, offset, strict=True))
            parent[octant, t] = (x // 2 + 1) + 3 * (y // 2 + 1) + 9 * (z // 2 + 1)
            child[octant, t] = 4 * (x % 2) + 2 * (y % 2) + z % 2
    return parent.to(device), child.to(device)
