# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

from clcp_ros.errors import ModelError
from training.sparse import (
    SparseConv,
    SparseGrid,
    conv_norm_act,
    fold_norm,
    kernel_map,
    sparse_conv,
)
from training.sparse.kernel_map import KernelMap

Make = Callable[..., Any]


def dense_weight(kernel: torch.Tensor) -> torch.Tensor:
    """A submanifold kernel, numbered with x fastest, as conv3d wants it."""
    return kernel.view(3, 3, 3, *kernel.shape[1:]).permute(4, 3, 2, 1, 0)


def by_hand(features: torch.Tensor, kernel: torch.Tensor, pairs: KernelMap) -> torch.Tensor:
    """The definition, from the table alone; autograd's gradients."""
    out = features.new_zeros((pairs.n_targets, kernel.shape[2]))
    for t in range(pairs.volume):
        source = pairs.table[:, t].long()
        hit = source >= 0
        out = out.index_add(0, hit.nonzero()[:, 0], features[source[hit]] @ kernel[t])
    return out


def test_submanifold_equals_dense_conv3d_forward_and_backward(
    random_batch: Make, to_dense: Make
) -> None:
    grid, features = random_batch(0)
    kernel = torch.randn(27, 3, 4, dtype=torch.float64, requires_grad=True)
    features.requires_grad_()
    dense = F.conv3d(to_dense(grid, features), dense_weight(kernel), padding=1)
    expected = dense.permute(0, 2, 3, 4, 1)[tuple(grid.coords.T)]
    found = sparse_conv(features, kernel, grid.neighbours)
    torch.testing.assert_close(found, expected)
    loss = torch.randn_like(expected)
    for a, b in zip(
        torch.autograd.grad((found * loss).sum(), (features, kernel)),
        torch.autograd.grad((expected * loss).sum(), (features, kernel)),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_strided_and_transposed_equal_dense(random_batch: Make, to_dense: Make) -> None:
    grid, features = random_batch(1)
    features.requires_grad_()
    kernel = torch.randn(8, 3, 4, dtype=torch.float64, requires_grad=True)
    back = torch.randn(8, 4, 2, dtype=torch.float64, requires_grad=True)
    coarse, down = grid.coarser
    # Even kernels are numbered with z fastest: [x][y][z].
    weight = kernel.view(2, 2, 2, 3, 4).permute(4, 3, 0, 1, 2)
    padded = F.pad(to_dense(grid, features), (0, 1, 0, 0, 0, 1))
    dense = F.conv3d(padded, weight, stride=2)
    y = sparse_conv(features, kernel, down)
    torch.testing.assert_close(y, dense.permute(0, 2, 3, 4, 1)[tuple(coarse.coords.T)])
    assert int((dense.abs().sum(dim=1) > 0).sum()) == len(coarse)

    dense_up = F.conv_transpose3d(dense, back.view(2, 2, 2, 4, 2).permute(3, 4, 0, 1, 2), stride=2)
    expected = dense_up.permute(0, 2, 3, 4, 1)[tuple(grid.coords.T)]
    up = sparse_conv(y, back, down.transposed)
    torch.testing.assert_close(up, expected)
    for a, b in zip(
        torch.autograd.grad(up.square().sum(), (features, kernel, back)),
        torch.autograd.grad(expected.square().sum(), (features, kernel, back)),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('kind', ['submanifold', 'strided', 'transposed', 'pointwise'])
def test_gradients(kind: str, random_batch: Make) -> None:
    grid, features = random_batch(2, samples=1, share=0.15)
    coarse, down = grid.coarser
    pairs = {'submanifold': grid.neighbours, 'strided': down, 'transposed': down.transposed}.get(
        kind
    )
    rows = features[: len(coarse)] if kind == 'transposed' else features
    volume = 1 if pairs is None else pairs.volume
    kernel = torch.randn(volume, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda f, k: sparse_conv(f, k, pairs), (rows.clone().requires_grad_(), kernel)
    )


@pytest.mark.parametrize('chunk', [64, 4096, 10**9])
def test_chunks_change_nothing(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_map, 'CHUNK_PAIRS', chunk)
    generator = torch.Generator().manual_seed(0)
    coords = torch.nonzero(torch.rand((1, 30, 30, 4), generator=generator) < 0.5)
    grid = SparseGrid(coords, 1)
    x = torch.randn(len(grid), 4, generator=generator, dtype=torch.float64, requires_grad=True)
    for pairs in (grid.neighbours, grid.coarser[1]):
        kernel = torch.randn(
            pairs.volume, 4, 5, generator=generator, dtype=torch.float64, requires_grad=True
        )
        assert len(pairs.chunks) > 1 or chunk > 64
        found, expected = sparse_conv(x, kernel, pairs), by_hand(x, kernel, pairs)
        torch.testing.assert_close(found, expected)
        for a, b in zip(
            torch.autograd.grad(found.square().sum(), (x, kernel)),
            torch.autograd.grad(expected.square().sum(), (x, kernel)),
            strict=True,
        ):
            torch.testing.assert_close(a, b)


def test_float32_is_exact_to_1e_5(random_batch: Make) -> None:
    """Wide enough for the faster library, which must not round to bfloat16."""
    generator = torch.Generator().manual_seed(5)
    coords = torch.nonzero(torch.rand((1, 24, 24, 8), generator=generator) < 0.6)
    grid = SparseGrid(coords, 1)
    x = torch.randn(len(grid), 96, generator=generator)
    kernel = torch.randn(27, 96, 96, generator=generator)
    exact = sparse_conv(x.double(), kernel.double(), grid.neighbours)
    found = sparse_conv(x, kernel, grid.neighbours).double()
    assert (found - exact).norm() < 1e-6 * exact.norm()
    assert (found - exact).abs().max() < 1e-5 * exact.abs().max()
    assert torch.get_float32_matmul_precision() == 'highest'


def test_a_batch_is_its_samples(random_batch: Make) -> None:
    grid, features = random_batch(3, samples=3)
    kernel = torch.randn(27, 3, 4, dtype=torch.float64)
    down_kernel = torch.randn(8, 3, 4, dtype=torch.float64)
    whole = sparse_conv(features, kernel, grid.neighbours)
    coarse, down = grid.coarser
    whole_down = sparse_conv(features, down_kernel, down)
    for i in range(3):
        rows = grid.samples == i
        single = grid.coords[rows].clone()
        single[:, 0] = 0
        alone = SparseGrid(single, 1)
        torch.testing.assert_close(
            whole[rows], sparse_conv(features[rows], kernel, alone.neighbours)
        )
        torch.testing.assert_close(
            whole_down[coarse.samples == i],
            sparse_conv(features[rows], down_kernel, alone.coarser[1]),
        )


def test_order_of_rows_does_not_matter(random_batch: Make) -> None:
    grid, features = random_batch(4)
    order = torch.randperm(len(grid), generator=torch.Generator().manual_seed(1))
    other = SparseGrid(grid.coords[order], 2)
    kernel = torch.randn(27, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(
        sparse_conv(features[order], kernel, other.neighbours),
        sparse_conv(features, kernel, grid.neighbours)[order],
    )
    assert torch.equal(grid.coarser[0].coords, other.coarser[0].coords)


def test_non_contiguous_input(random_batch: Make) -> None:
    grid, features = random_batch(5)
    kernel = torch.randn(27, 3, 4, dtype=torch.float64)
    expected = sparse_conv(features, kernel, grid.neighbours)
    wide = torch.randn(len(grid), 6, dtype=torch.float64)
    wide[:, ::2] = features
    x = wide[:, ::2].requires_grad_()
    strided = SparseGrid(grid.coords.T.contiguous().T, 2)
    found = sparse_conv(x, kernel.transpose(1, 2).contiguous().transpose(1, 2), strided.neighbours)
    torch.testing.assert_close(found, expected)
    found.T.contiguous().T.expand(2, -1, -1).sum().backward()  # a gradient without memory


def test_single_voxel_and_no_voxel() -> None:
    kernel = torch.randn(27, 3, 4)
    x = torch.randn(1, 3)
    one = SparseGrid(torch.tensor([[0, 5, -7, 9]]), 1)
    torch.testing.assert_close(sparse_conv(x, kernel, one.neighbours), x @ kernel[13])
    none = SparseGrid(torch.zeros((0, 4), dtype=torch.int64), 2)
    x = torch.zeros((0, 3), requires_grad=True)
    weight = kernel.clone().requires_grad_()
    y = sparse_conv(x, weight, none.neighbours)
    assert y.shape == (0, 4)
    y.sum().backward()
    assert not weight.grad.any()
    coarse, down = none.coarser
    assert sparse_conv(x, torch.randn(8, 3, 4), down).shape == (0, 4)
    assert len(coarse) == 0


def test_the_same_bits_every_time(random_batch: Make) -> None:
    generator = torch.Generator().manual_seed(7)
    coords = torch.nonzero(torch.rand((2, 20, 20, 10), generator=generator) < 0.4)
    x, kernel = (torch.randn(*s, generator=generator) for s in ((len(coords), 32), (27, 32, 64)))
    results = []
    for _ in range(3):
        f, k = x.clone().requires_grad_(), kernel.clone().requires_grad_()
        y = sparse_conv(f, k, SparseGrid(coords, 2).neighbours)
        y.square().sum().backward()
        results.append((y, f.grad, k.grad))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_autocast_and_bfloat16(random_batch: Make) -> None:
    grid, features = random_batch(8)
    x, kernel = features.float().requires_grad_(), torch.randn(27, 3, 4, requires_grad=True)
    exact = sparse_conv(x, kernel, grid.neighbours)
    with torch.autocast('cpu', torch.bfloat16):
        y = sparse_conv(x, kernel, grid.neighbours)
        point = sparse_conv(x, kernel[13], None)
    assert y.dtype == point.dtype == torch.bfloat16
    assert (y - exact).norm() < 0.01 * exact.norm()
    (wanted,) = torch.autograd.grad(exact.sum(), kernel)
    y.float().sum().backward()
    assert kernel.grad.dtype == x.grad.dtype == torch.float32
    assert (kernel.grad - wanted).norm() < 0.02 * wanted.norm()
    plain = sparse_conv(features.float(), kernel.detach().bfloat16(), grid.neighbours)
    torch.testing.assert_close(plain, y)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = SparseConv(3, 3, 27).double(), nn.BatchNorm1d(3).double()

    def forward(self, x: torch.Tensor, grid: SparseGrid) -> torch.Tensor:
        return conv_norm_act(self.conv, self.norm, torch.sin(x), grid.neighbours, residual=x) * 2


def test_compiles_around_it(random_batch: Make) -> None:
    torch._dynamo.reset()
    block = Block()
    compiled = torch.compile(block, backend='eager')
    for seed in (9, 10):
        grid, features = random_batch(seed)
        x = features.clone().requires_grad_()
        y = compiled(x, grid)
        torch.testing.assert_close(y, block(features, SparseGrid(grid.coords, 2)))
        y.sum().backward()
        assert x.grad.abs().sum() > 0
        with torch.no_grad():
            torch.testing.assert_close(compiled.eval()(x, grid), block.eval()(x, grid))
        block.train()


def test_checkpointed_gradients_are_the_same(random_batch: Make) -> None:
    grid, features = random_batch(11)
    block = Block()
    grads = []
    for run in (block, lambda *a: checkpoint(block, *a, use_reentrant=False)):
        x = features.clone().requires_grad_()
        block.zero_grad()
        run(x, grid).square().sum().backward()
        grads.append((x.grad, block.conv.kernel.grad.clone()))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('volume', [27, 1])
@pytest.mark.parametrize('relu', [True, False])
def test_one_pass_equals_its_parts(volume: int, relu: bool, random_batch: Make) -> None:
    grid, features = random_batch(12)
    conv, norm = SparseConv(3, 4, volume).double(), nn.BatchNorm1d(4).double()
    for value in (norm.weight.data, norm.bias.data, norm.running_mean):
        value.normal_()
    norm.running_var.uniform_(0.5, 2)
    residual = torch.randn(len(grid), 4, dtype=torch.float64)
    pairs = grid.neighbours if volume == 27 else None
    before = features.clone(), residual.clone()
    expected = norm.eval()(conv(features, pairs)) + residual
    expected = expected.relu() if relu else expected
    kwargs: dict[str, Any] = {'residual': residual, 'relu': relu}
    torch.testing.assert_close(conv_norm_act(conv, norm, features, pairs, **kwargs), expected)
    with torch.no_grad():
        torch.testing.assert_close(conv_norm_act(conv, norm, features, pairs, **kwargs), expected)
        assert torch.equal(features, before[0])
        assert torch.equal(residual, before[1])
        fold_norm(conv, norm)
        folded = conv_norm_act(conv, None, features, pairs, **kwargs)
        # The shift is kept in float32.
        torch.testing.assert_close(folded, expected, atol=1e-6, rtol=1e-6)
    assert not any(p.requires_grad for p in conv.parameters())


def test_shapes_that_do_not_fit(random_batch: Make) -> None:
    grid, features = random_batch(13)
    with pytest.raises(ModelError, match='pairs of volume 27'):
        sparse_conv(features, torch.randn(8, 3, 4).double(), grid.neighbours)
    with pytest.raises(ModelError, match='5 input channels'):
        sparse_conv(features, torch.randn(27, 5, 4).double(), grid.neighbours)
    with pytest.raises(ModelError, match='rows of features'):
        sparse_conv(features[1:], torch.randn(27, 3, 4).double(), grid.neighbours)
    with pytest.raises(ModelError, match='no pairs'):
        sparse_conv(features, torch.randn(27, 3, 4).double(), None)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), *(st.integers(-9, 9) for _ in range(3))),
        unique=True, max_size=60,
    ),
    st.sampled_from([0, -(2**19), 10**12]),
)  # fmt: skip
def test_any_cloud(rows: list[tuple[int, int, int, int]], far: int) -> None:
    coords = torch.tensor(rows, dtype=torch.int64).view(-1, 4)
    coords[:, 1:] += far
    grid = SparseGrid(coords, 3)
    place = {tuple(c): i for i, c in enumerate(coords.tolist())}
    kernel = torch.randn(27, 2, 3, dtype=torch.float64)
    features = torch.randn(len(coords), 2, dtype=torch.float64)
    expected = torch.zeros(len(coords), 3, dtype=torch.float64)
    for i, (b, x, y, z) in enumerate(coords.tolist()):
        for t in range(27):
            source = place.get((b, x + t % 3 - 1, y + t // 3 % 3 - 1, z + t // 9 - 1))
            if source is not None:
                expected[i] += features[source] @ kernel[t]
    torch.testing.assert_close(sparse_conv(features, kernel, grid.neighbours), expected)
    coarse, down = grid.coarser
    halved = {(b, x // 2, y // 2, z // 2) for b, x, y, z in coords.tolist()}
    assert {tuple(c) for c in coarse.coords.tolist()} == halved
    for row, children in zip(coarse.coords.tolist(), down.table.tolist(), strict=True):
        for t, child in enumerate(children):
            wanted = (row[0], *(2 * v + d for v, d in zip(row[1:], (t // 4, t // 2 % 2, t % 2))))  # noqa: B905
            assert place.get(wanted, -1) == child
