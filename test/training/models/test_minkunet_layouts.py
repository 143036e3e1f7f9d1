# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Each layout gives the same convolution: by spconv itself, or by definition."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from clcp_ros.errors import ModelError
from training.models.minkunet_layouts import (
    compare_states,
    detect_layout,
    minkowski_kernel,
    spconv_kernel,
    to_torchsparse,
)
from training.sparse import SparseGrid, sparse_conv

C_IN, C_OUT = 3, 5


@pytest.fixture
def one_thread() -> Iterator[None]:
    """spconv's CPU kernels race with more than one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def cells(seed: int = 0, size: int = 8, samples: int = 2) -> Tensor:
    """Random voxels with non-negative coordinates; no symmetry between the axes."""
    rng = np.random.default_rng(seed)
    found = {tuple(c) for c in rng.integers(0, [samples, size, size - 2, size - 4], (150, 4))}
    return torch.tensor(sorted(found))


def by_definition(
    coords: Tensor, features: Tensor, kernel: dict[tuple[int, int, int], Tensor], stride: int
) -> dict[tuple[int, ...], Tensor]:
    """`out[o] = sum over offsets of in[o * stride + offset] W[offset]`, as the libraries say."""
    rows = {tuple(c): f for c, f in zip(coords.tolist(), features, strict=True)}
    targets = {(b, *(v // stride for v in xyz)) for b, *xyz in rows}
    return {
        (b, *o): sum(
            rows[q] @ weight
            for offset, weight in kernel.items()
            if (q := (b, *(v * stride + d for v, d in zip(o, offset, strict=True)))) in rows
        )
        for b, *o in targets
    }


def as_dict(grid: SparseGrid, features: Tensor) -> dict[tuple[int, ...], Tensor]:
    return {tuple(c): f for c, f in zip(grid.coords.tolist(), features, strict=True)}


def assert_equal(a: dict[tuple[int, ...], Tensor], b: dict[tuple[int, ...], Tensor]) -> None:
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('size', [2, 3])
def test_minkowski_numbers_offsets_with_x_fastest(size: int) -> None:
    # kernel_region.hpp: the index is divided by the size axis by axis, x first; the offset is
    # counted from the corner for even sizes and from the middle for odd ones.
    kernel = torch.randn(size**3, C_IN, C_OUT)
    low = -(size // 2) if size % 2 else 0
    offsets = {
        (low + k % size, low + k // size % size, low + k // size**2): kernel[k]
        for k in range(size**3)
    }
    coords, grid = cells(), SparseGrid(cells(), 2)
    features = torch.randn(len(coords), C_IN)
    converted = minkowski_kernel(kernel)
    if size == 3:
        out = as_dict(grid, sparse_conv(features, converted, grid.neighbours))
        expected = by_definition(coords, features, offsets, 1)
    else:
        coarse, down = grid.coarser
        out = as_dict(coarse, sparse_conv(features, converted, down))
        expected = by_definition(coords, features, offsets, 2)
    assert_equal(out, expected)


def test_minkowski_transposed_uses_the_same_numbers() -> None:
    kernel = torch.randn(8, C_IN, C_OUT)
    coords, grid = cells(), SparseGrid(cells(), 2)
    coarse, down = grid.coarser
    features = torch.randn(len(coarse), C_IN)
    out = sparse_conv(features, minkowski_kernel(kernel), down.transposed)
    parents = as_dict(coarse, features)
    for (b, x, y, z), row in zip(coords.tolist(), out, strict=True):
        k = x % 2 + 2 * (y % 2) + 4 * (z % 2)
        expected = parents[b, x // 2, y // 2, z // 2] @ kernel[k]
        torch.testing.assert_close(row, expected, atol=1e-5, rtol=1e-5)


def spconv_input(coords: Tensor, features: Tensor) -> Any:
    spconv = pytest.importorskip('spconv.pytorch')
    shape = [16, 16, 16]  # even: spconv drops the last plane of an odd extent
    return spconv.SparseConvTensor(features, coords.int(), shape, 2)


@pytest.mark.usefixtures('one_thread')
@pytest.mark.parametrize('size', [1, 3])
def test_submanifold_kernels_of_spconv(size: int) -> None:
    spconv = pytest.importorskip('spconv.pytorch')
    conv = spconv.SubMConv3d(C_IN, C_OUT, size, bias=False)
    torch.nn.init.normal_(conv.weight)
    assert tuple(conv.weight.shape) == (C_OUT, size, size, size, C_IN)
    coords, grid = cells(), SparseGrid(cells(), 2)
    features = torch.randn(len(coords), C_IN)
    with torch.no_grad():
        expected = conv(spconv_input(coords, features)).features
    kernel = spconv_kernel(conv.weight.detach())
    out = sparse_conv(features, kernel, grid.neighbours if size == 3 else None)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures('one_thread')
def test_strided_and_inverse_kernels_of_spconv() -> None:
    spconv = pytest.importorskip('spconv.pytorch')
    down = spconv.SparseConv3d(C_IN, C_OUT, 2, stride=2, bias=False, indice_key='a')
    up = spconv.SparseInverseConv3d(C_OUT, C_IN, 2, bias=False, indice_key='a')
    for conv in (down, up):
        torch.nn.init.normal_(conv.weight)
    coords, grid = cells(), SparseGrid(cells(), 2)
    features = torch.randn(len(coords), C_IN)
    with torch.no_grad():
        middle = down(spconv_input(coords, features))
        last = up(middle)
    coarse, pairs = grid.coarser
    ours = sparse_conv(features, spconv_kernel(down.weight.detach()), pairs)
    theirs = zip(middle.indices.tolist(), middle.features, strict=True)
    assert_equal(as_dict(coarse, ours), {tuple(c): f for c, f in theirs})
    back = sparse_conv(ours, spconv_kernel(up.weight.detach()), pairs.transposed)
    assert last.indices.tolist() == coords.tolist()
    torch.testing.assert_close(back, last.features, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('size', [1, 2, 3])
def test_spconv_1_is_spconv_2_with_the_channels_last(size: int) -> None:
    second = torch.randn(C_OUT, size, size, size, C_IN)
    if size == 1:  # both multiply by the memory read as (C_in, C_out)
        first = second.reshape(1, 1, 1, C_IN, C_OUT)
    else:
        first = second.permute(1, 2, 3, 4, 0).contiguous()
    assert torch.equal(spconv_kernel(first, 1), spconv_kernel(second, 2))


def test_what_one_kernel_leaves_open_the_others_decide() -> None:
    """Three input channels and a 3 x 3 x 3 kernel: the shape alone fits both versions."""
    open_kernel = torch.randn(3, 3, 3, 3, 32)
    with pytest.raises(ModelError, match='spconv 1 or 2'):
        spconv_kernel(open_kernel)
    for version, other in ((1, (3, 3, 3, 32, 32)), (2, (32, 3, 3, 3, 32))):
        state = {
            'conv_input.0.0.weight': open_kernel,
            'conv_input.0.1.weight': torch.zeros(32),
            'conv_input.1.0.weight': torch.zeros(other),
        }
        converted, layout = to_torchsparse(state)
        assert layout == 'spconv'
        assert torch.equal(
            converted['conv_input.0.net.0.kernel'], spconv_kernel(open_kernel, version)
        )
        assert converted['conv_input.0.net.1.weight'].shape == (32,)


@pytest.mark.parametrize('size', [2, 3])
def test_spconv_kernels_are_dense_kernels_by_axis(size: int) -> None:
    """Against `conv3d`, whose weight (C_out, C_in, x, y, z) is spconv's with the axes moved."""
    weight = torch.randn(C_OUT, size, size, size, C_IN)
    coords, grid = cells(), SparseGrid(cells(), 2)
    features = torch.randn(len(coords), C_IN)
    volume = torch.zeros(2, C_IN, 8, 8, 8)
    b, x, y, z = coords.T
    volume[b, :, x, y, z] = features
    dense_weight = weight.permute(0, 4, 1, 2, 3)
    if size == 3:
        dense = torch.nn.functional.conv3d(volume, dense_weight, padding=1)
        out = sparse_conv(features, spconv_kernel(weight), grid.neighbours)
        torch.testing.assert_close(out, dense[b, :, x, y, z], atol=1e-4, rtol=1e-5)
    else:
        dense = torch.nn.functional.conv3d(volume, dense_weight, stride=2)
        coarse, down = grid.coarser
        b, x, y, z = coarse.coords.T
        out = sparse_conv(features, spconv_kernel(weight), down)
        torch.testing.assert_close(out, dense[b, :, x, y, z], atol=1e-4, rtol=1e-5)


def test_shapes_that_no_layout_has() -> None:
    for shape in [(5, 4, 4, 4, 3), (2, 3, 4), (27, 3, 5), (5, 3, 2, 3, 3)]:
        with pytest.raises(ModelError, match='no shape of a kernel of spconv'):
            spconv_kernel(torch.zeros(shape))
    for shape in [(9, 3, 5), (5, 3, 3, 3, 3)]:
        with pytest.raises(ModelError, match='no shape of a kernel of Minkowski'):
            minkowski_kernel(torch.zeros(shape))
    state = {'conv_input.0.0.weight': torch.zeros(5, 4, 4, 4, 3)}
    with pytest.raises(ModelError, match=r'conv_input\.0\.0\.weight: \(5, 4'):
        to_torchsparse(state)


def test_layouts_are_told_apart() -> None:
    assert detect_layout({'conv_input.0.net.0.kernel': 0}) == 'torchsparse'
    assert detect_layout({'conv_input.0.0.weight': 0}) == 'spconv'
    assert (
        detect_layout({'conv_input.0.net.0.kernel': 0, 'conv_input.0.net.1.bn.weight': 0})
        == 'minkowski'
    )
    with pytest.raises(ModelError, match=r'names of torchsparse.*: layer1'):
        detect_layout({'layer1.weight': 0})


def test_differences_are_named() -> None:
    a = {f'k{i}': torch.zeros(i) for i in range(6)}
    assert compare_states(a, dict(a)) == ''
    assert compare_states({'k1': a['k1']}, a) == '5 missing (k0, k2, k3, ...)'
    assert compare_states({**a, 'x': a['k1']}, a) == '1 unexpected (x)'
    assert (
        compare_states({**a, 'k2': a['k3']}, a) == '1 of another shape (k2 (3,) instead of (2,))'
    )
    for x, y in itertools.permutations(('k1', 'k2')):
        assert x in compare_states({y: a[y]}, {x: a[x], y: a[y]})
