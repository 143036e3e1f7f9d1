# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clcp_ros.errors import ModelError
from training.sparse import SparseGrid, octree
from training.sparse.kernel_map import padded_sizes
from training.sparse.morton import KeySpace


def grid_of(*rows: tuple[int, ...], samples: int = 1) -> SparseGrid:
    return SparseGrid(torch.tensor(rows, dtype=torch.int64).view(-1, 4), samples)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), *(st.integers(0, 2**19 - 1) for _ in range(3)))),
    st.integers(-(2**40), 2**40),
)
def test_keys_are_a_bijection_in_order(rows: list[tuple[int, ...]], origin: int) -> None:
    coords = torch.tensor(rows, dtype=torch.int64).view(-1, 4)
    coords[:, 1:] += origin
    space = KeySpace.around(coords, 5)
    keys, inside = space.encode(coords)
    assert inside.all()
    assert (keys >= 0).all()
    assert torch.equal(space.decode(keys), coords)
    parents = coords.clone()
    parents[:, 1:] = torch.div(coords[:, 1:], 2, rounding_mode='floor')
    assert torch.equal(space.halved.decode(keys >> 3), parents)
    octant = (coords[:, 1:] % 2) @ torch.tensor([4, 2, 1])
    assert torch.equal(keys & 7, octant)


def test_neighbours_by_parents_are_those_by_search() -> None:
    """Enough voxels that several levels are refined."""
    generator = torch.Generator().manual_seed(0)
    coords = torch.nonzero(torch.rand((3, 25, 25, 25), generator=generator) < 0.2)
    coords[:, 1:] -= 12
    grid = SparseGrid(coords[torch.randperm(len(coords), generator=generator)], 3)
    keys, order = torch.sort(grid._space.encode(grid.coords)[0])
    searched = octree.search(keys, grid._space).long()
    expected = torch.full_like(searched, -1)
    expected[order] = torch.where(searched < 0, -1, order[searched.clamp(min=0)])
    assert torch.equal(grid.neighbours.table.long(), expected)
    assert len(grid._tree.keys) > 256
    assert 'up' in vars(grid._tree)


def test_samples_never_touch() -> None:
    rows = [(b, x, 0, 0) for b in range(4) for x in (0, 1023)]
    grid = grid_of(*rows, samples=4)
    assert grid.neighbours.n_pairs == len(rows)


def test_far_apart_voxels_never_touch() -> None:
    far = 2**20 - 1025
    grid = grid_of((0, -1024, 0, 0), (0, far, 0, 0), (0, far, far, 0), (0, 0, 0, far))
    assert grid.neighbours.n_pairs == 4


def test_overflow_is_an_error_not_a_wrong_neighbour() -> None:
    with pytest.raises(ModelError, match='too large'):
        grid_of((0, 0, 0, 0), (0, 2**22, 2**22, 2**22))
    with pytest.raises(ModelError, match='too large'):
        grid_of((0, -(2**59), 0, 0), (0, 2**59, 0, 0))
    with pytest.raises(ModelError, match=r'beyond 2\*\*60'):
        grid_of((0, -(2**63), 0, 0), (0, 2**63 - 1, 0, 0))
    wide = torch.tensor([[0, 0, 0, 0], [1, 2**20 - 1, 0, 0]])
    assert SparseGrid(wide, 2).neighbours.n_pairs == 2
    with pytest.raises(ModelError, match='of 1000 samples'):
        SparseGrid(wide, 1000)


def test_bad_coordinates_are_refused() -> None:
    with pytest.raises(ModelError, match='same coordinates'):
        grid_of((0, 1, 2, 3), (0, 0, 0, 0), (0, 1, 2, 3))
    with pytest.raises(ModelError, match='samples 0 to 2 in a batch of 2'):
        grid_of((0, 0, 0, 0), (2, 0, 0, 0), samples=2)
    with pytest.raises(ModelError, match='samples -1'):
        grid_of((-1, 0, 0, 0))
    with pytest.raises(ModelError, match='integer coordinates'):
        SparseGrid(torch.zeros(3, 4), 1)
    with pytest.raises(ModelError, match='integer coordinates'):
        SparseGrid(torch.zeros((3, 3), dtype=torch.int64), 1)


def test_halving_goes_by_floor_and_ends() -> None:
    grid = grid_of((0, -1, -1, -1), (0, 0, 0, 0), (0, -2, 3, 5))
    coarse, _ = grid.coarser
    assert sorted(coarse.coords[:, 1:].tolist()) == [[-1, -1, -1], [-1, 1, 2], [0, 0, 0]]
    assert (grid.stride, coarse.stride) == (1, 2)
    for _ in range(9):
        coarse, _ = coarse.coarser
    with pytest.raises(ModelError, match='halved 10 times'):
        _ = coarse.coarser


def test_find() -> None:
    grid = grid_of((0, 4, -5, 6), (1, 0, 0, 0), samples=2)
    wanted = [[1, 0, 0, 0], [0, 0, 0, 0], [0, 4, -5, 6], [0, 2**62, -(2**62), 0], [7, 0, 0, 0]]
    assert grid.find(torch.tensor(wanted)).tolist() == [1, -1, 0, -1, -1]


def test_maps_are_built_once_and_shared() -> None:
    grid = grid_of((0, 0, 0, 0), (0, 1, 0, 0))
    assert grid.neighbours is grid.neighbours
    _, down = grid.coarser
    assert down.transposed is grid.coarser[1].transposed
    assert down.transposed.transposed is down
    assert grid.neighbours.n_pairs == 4
    assert len(grid.neighbours.source) == 2  # without the centre's


def test_transposed_maps_hold_the_same_pairs() -> None:
    generator = torch.Generator().manual_seed(1)
    grid = SparseGrid(torch.nonzero(torch.rand((2, 6, 6, 6), generator=generator) < 0.3), 2)
    for pairs in (grid.neighbours, grid.coarser[1]):
        other = pairs.transposed
        for a, b in zip(pairs.slices, other.slices, strict=True):
            forth = set(zip(pairs.source[a].tolist(), pairs.target[a].tolist(), strict=True))
            back = set(zip(other.target[b].tolist(), other.source[b].tolist(), strict=True))
            assert forth == back


@pytest.mark.parametrize('mixed', [False, True])
def test_pooling_per_sample(mixed: bool) -> None:
    rows = (
        [(2, 0, 0, 0), (0, 1, 0, 0), (0, 0, 0, 0)]
        if mixed
        else [(0, 0, 0, 0), (0, 1, 0, 0), (2, 0, 0, 0)]
    )
    grid = grid_of(*rows, samples=4)
    features = torch.tensor([[-1.0, 4], [-3, 6], [5, -7]], dtype=torch.float64)
    features.requires_grad_()
    alone, pair = ([0], [1, 2]) if mixed else ([2], [0, 1])
    for pool, reduce in ((grid.mean_per_sample, torch.mean), (grid.max_per_sample, torch.amax)):
        zeros = torch.zeros(2, dtype=torch.float64)
        expected = [reduce(features[pair], 0), zeros, features[alone][0], zeros]
        torch.testing.assert_close(pool(features), torch.stack(expected))
        assert torch.autograd.gradcheck(pool, (features,))
    assert grid.mean_per_sample(features.bfloat16()).dtype == torch.bfloat16
    nothing = SparseGrid(torch.zeros((0, 4), dtype=torch.int64), 2)
    assert nothing.max_per_sample(torch.zeros(0, 3)).tolist() == [[0, 0, 0], [0, 0, 0]]


def test_padded_sizes() -> None:
    counts = np.arange(5000)
    sizes = padded_sizes(counts)
    assert (sizes >= counts).all()
    assert sizes[0] == 0
    assert (sizes[65:] <= 1.25 * counts[65:] + 1).all()
    assert (sizes[513:] <= 1.125 * counts[513:] + 1).all()
    assert len(np.unique(sizes)) < 50
    assert (sizes % 16 == 0).all()
