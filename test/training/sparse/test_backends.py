# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from clcp_ros.errors import ModelError
from training.sparse import SparseConv, SparseGrid, find_backend, set_backend, sparse_conv
from training.sparse.backends import layouts, rows

Make = Callable[..., Any]

needs_spconv = pytest.mark.skipif(
    importlib.util.find_spec('spconv') is None, reason='spconv is not installed'
)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@needs_spconv
@pytest.mark.parametrize('kind', ['submanifold', 'strided', 'transposed', 'pointwise'])
def test_spconv_gives_the_same(kind: str, random_batch: Make) -> None:
    """Negative coordinates, odd and even extents, rows in random order, all gradients."""
    for seed, low in ((0, 0), (1, -3), (2, -6)):
        grid, features = random_batch(seed, low=low)
        coarse, down = grid.coarser
        maps = {'submanifold': grid.neighbours, 'strided': down, 'transposed': down.transposed}
        pairs = maps.get(kind)
        x = features[: len(coarse)] if kind == 'transposed' else features
        x = x.float().requires_grad_()
        shape = (3, 4) if pairs is None else (pairs.volume, 3, 4)
        kernel = torch.randn(shape, requires_grad=True)
        results = []
        for backend in ('torch', 'spconv'):
            y = sparse_conv(x, kernel, pairs, backend=backend)
            results.append((y, *torch.autograd.grad(y.square().sum(), (x, kernel))))
        for ours, theirs in zip(*results, strict=True):
            torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=1e-4)


@needs_spconv
def test_spconv_keeps_the_last_plane_of_an_odd_extent() -> None:
    grid = SparseGrid(torch.nonzero(torch.ones(1, 5, 5, 5)), 1)
    coarse, down = grid.coarser
    y = sparse_conv(torch.ones(125, 1), torch.ones(8, 1, 1), down, backend='spconv')
    assert y.sum() == 125
    up = sparse_conv(
        torch.ones(len(coarse), 1), torch.ones(8, 1, 1), down.transposed, backend='spconv'
    )
    assert (up == 1).all()


@needs_spconv
def test_spconv_reads_rows_that_are_not_contiguous(random_batch: Make) -> None:
    grid, features = random_batch(3)
    strided = SparseGrid(grid.coords.T.contiguous().T, 2)
    kernel = torch.randn(27, 3, 4)
    wide = features.float().repeat_interleave(2, dim=1)
    torch.testing.assert_close(
        sparse_conv(wide[:, ::2], kernel, strided.neighbours, backend='spconv'),
        sparse_conv(features.float(), kernel, grid.neighbours),
        atol=1e-5, rtol=1e-5,
    )  # fmt: skip


@needs_spconv
def test_spconv_is_right_whatever_the_number_of_threads(two_threads: None) -> None:
    """Its own scattering races at two threads."""
    generator = torch.Generator().manual_seed(0)
    coords = torch.nonzero(torch.rand((1, 40, 40, 10), generator=generator) < 0.4)
    x = torch.randn(len(coords), 16, generator=generator)
    kernel = torch.randn(27, 16, 16, generator=generator)
    expected = sparse_conv(x, kernel, SparseGrid(coords, 1).neighbours)
    for _ in range(5):
        x.requires_grad_()
        found = sparse_conv(x, kernel, SparseGrid(coords, 1).neighbours, backend='spconv')
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)
        found.sum().backward()
        assert torch.get_num_threads() == 2


@needs_spconv
def test_spconv_refuses_what_overflows_its_keys() -> None:
    corners = torch.tensor([[0, 0, 0, 0], [7, 3855, 3727, 111]])
    grid = SparseGrid(corners, 8)
    with pytest.raises(ModelError, match='use the backend torch'):
        sparse_conv(torch.ones(2, 1), torch.ones(27, 1, 1), grid.neighbours, backend='spconv')
    sparse_conv(torch.ones(2, 1), torch.ones(27, 1, 1), grid.neighbours)


@needs_spconv
def test_spconv_with_nothing_frozen_or_bfloat16(random_batch: Make) -> None:
    none = SparseGrid(torch.zeros((0, 4), dtype=torch.int64), 1)
    y = sparse_conv(torch.zeros(0, 3), torch.ones(27, 3, 4), none.neighbours, backend='spconv')
    assert y.shape == (0, 4)
    grid, features = random_batch(4)
    kernel = torch.randn(27, 3, 4)
    conv = SparseConv(3, 4, 27)
    set_backend(conv, 'spconv')
    x = features.float()
    conv.kernel.data = kernel
    expected = sparse_conv(x, kernel, grid.neighbours, torch.ones(4), relu=True)
    found = sparse_conv(x, kernel, grid.neighbours, torch.ones(4), relu=True, backend='spconv')
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    with torch.autocast('cpu', torch.bfloat16):
        y = conv(x, grid.neighbours)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert conv.kernel.grad.isfinite().all()


def test_choosing_a_backend() -> None:
    assert find_backend('auto', 'cpu') is None
    assert find_backend('torch', 'cuda') is None
    conv = torch.nn.Sequential(SparseConv(1, 1, 27))
    set_backend(conv, 'torch')
    assert conv[0].backend == 'torch'
    with pytest.raises(ModelError, match='unknown sparse backend'):
        set_backend(conv, 'minkowski')
    with pytest.raises(ModelError, match='unknown sparse backend'):
        find_backend('minkowski', 'cpu')


@pytest.mark.skipif(
    importlib.util.find_spec('torchsparse') is not None, reason='torchsparse is installed'
)
def test_a_missing_library_says_how_to_get_it() -> None:
    with pytest.raises(ModelError, match=r'torchsparse does not load .* build it from source'):
        set_backend(SparseConv(1, 1, 27), 'torchsparse')


@pytest.mark.parametrize(
    ('version', 'first'),
    [('1.4.0', False), ('2.0.0b', False), ('2.1.0', True), ('2.1.0+torch20cu118', True)],
)
def test_torchsparse_coordinates(version: str, first: bool) -> None:
    assert layouts.sample_first(version) is first
    coords = torch.tensor([[1, 2, 4, 6], [0, 8, 10, 12]])
    theirs = layouts.to_torchsparse(coords, first)
    assert theirs.dtype == torch.int32
    assert theirs.is_contiguous()
    assert theirs[0].tolist() == ([1, 2, 4, 6] if first else [2, 4, 6, 1])
    # At stride 2, 2.1 has divided the coordinates and the others have not.
    halved = coords.clone()
    halved[:, 1:] //= 2
    reported = layouts.to_torchsparse(halved if first else coords, first)
    assert layouts.from_torchsparse(reported, 2, first).tolist() == halved.tolist()


def test_spconv_weights() -> None:
    """By the offset each number stands for."""
    for volume, size, low in ((27, 3, -1), (8, 2, 0)):
        kernel = torch.randn(volume, 4, 5)
        weight = layouts.spconv_weight(kernel)
        assert weight.shape == (5, size, size, size, 4)
        for t in range(volume):
            x, y, z = (t % 3, t // 3 % 3, t // 9) if low else (t // 4, t // 2 % 2, t % 2)
            assert torch.equal(weight[:, x, y, z], kernel[t].T)
    matrix = torch.randn(4, 5)
    assert torch.equal(layouts.spconv_weight(matrix).view(4, 5), matrix)


def test_rows_in_another_order() -> None:
    coords = torch.tensor([[0, -3, 5, 0], [0, -2, 4, 2], [1, 7, 5, 1]])
    shifted, low = rows.from_zero(coords)
    assert low.tolist() == [0, -4, 4, 0]
    assert (shifted >= 0).all()
    order = torch.tensor([2, 0, 1])
    found = shifted[order].int()
    assert torch.equal(found[rows.match_rows(shifted, found, 'x')].long(), shifted)
    with pytest.raises(ModelError, match='x found other coarse voxels'):
        rows.match_rows(shifted, found[:2], 'x')
