# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Products of tall matrices by whichever of PyTorch's two CPU libraries is faster at them.

PyTorch multiplies float32 matrices on a CPU with MKL, which keeps to AVX2 on processors that are
not Intel's: less than half the rate of oneDNN, which uses AVX-512. oneDNN in turn spends ten times
as long on preparing a small product. Both compute in full float32 here.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

# Multiplications from which oneDNN is faster, preparing included.
_LARGE = 2**20
# Whole blocks of these many rows, largest first: a new size costs oneDNN half a millisecond.
_BLOCKS = (4096, 2048, 1024, 512, 256, 128, 64, 32, 16)


@lru_cache(maxsize=1)
def onednn_is_faster() -> bool:
    """Whether float32 products should avoid MKL on this processor.

    Not where oneDNN would round to bfloat16 (Intel's AMX); decided by the kind of processor, not
    by measuring, so that results do not depend on the load of the machine.
    """
    if platform.machine() not in ('x86_64', 'AMD64') or not torch.backends.mkldnn.is_available():
        return False
    if (
        torch.backends.cpu.get_cpu_capability() != 'AVX512'
        or not torch.backends.mkl.is_available()
    ):
        return False
    try:
        text = Path('/proc/cpuinfo').read_text()
    except OSError:
        return False
    return 'AuthenticAMD' in text and 'amx_tile' not in text


@contextmanager
def _onednn() -> Iterator[None]:
    """Send float32 products to oneDNN: what lets it round on other processors lets it in here."""
    settings = getattr(torch.backends.mkldnn, 'matmul', None)
    if settings is None:  # PyTorch before 2.9
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision('medium')
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)
        return
    before = settings.fp32_precision
    settings.fp32_precision = 'bf16'
    try:
        yield
    finally:
        settings.fp32_precision = before


@contextmanager
def fast_products() -> Iterator[None]:
    """Let oneDNN compute float32 products on processors on which it is faster; still in float32.

    The setting is the process', not the thread's.
    """
    if not onednn_is_faster():
        yield
        return
    with _onednn():
        yield


def multiply(
    rows: Sequence[Tensor], matrices: Sequence[Tensor], out: Sequence[Tensor], add: bool = False
) -> None:
    """Multiply pairs of matrices.

    Args:
        rows: (n_i, K) each.
        matrices: (K, M) each.
        out: (n_i, M) each; where the products go.
        add: Add to `out` instead of overwriting it.
    """
    product = _add_product if add else _product
    if not rows:
        return
    if rows[0].dtype != torch.float32 or rows[0].device.type != 'cpu' or not onednn_is_faster():
        for a, b, c in zip(rows, matrices, out, strict=True):
            product(a, b, c)
        return
    large: list[tuple[Tensor, Tensor, Tensor]] = []
    small: list[tuple[Tensor, Tensor, Tensor]] = []
    for a, b, c in zip(rows, matrices, out, strict=True):
        rare = min(a.shape) < _BLOCKS[-1]  # what is left over comes in all sizes
        worth = not rare and a.shape[0] * a.shape[1] * b.shape[1] >= _LARGE
        (large if worth else small).append((a, b, c))
    for a, b, c in small:
        product(a, b, c)
    if large:
        with _onednn():
            for a, b, c in large:
                product(a, b, c)


def _product(a: Tensor, b: Tensor, out: Tensor) -> None:
    torch.mm(a, b, out=out)


def _add_product(a: Tensor, b: Tensor, out: Tensor) -> None:
    torch.addmm(out, a, b, out=out)


def blocks(x: Tensor) -> list[int]:
    """Split rows into few different sizes; what is left at the end is small."""
    n = len(x)
    if x.device.type != 'cpu':
        return [n]
    sizes = [_BLOCKS[0]] * (n // _BLOCKS[0])
    n %= _BLOCKS[0]
    for size in _BLOCKS[1:]:
        if n >= size:
            sizes.append(size)
            n -= size
    return [*sizes, n] if n else sizes


def put_product(out: Tensor, x: Tensor, matrix: Tensor, add: bool = False) -> None:
    """Put `x @ matrix` into `out` or add it, for any number of rows."""
    sizes = blocks(x)
    rows, sums = list(x.split(sizes)), list(out.split(sizes))
    if _is_odd(x, sizes):
        last = _pad(rows.pop()).mm(matrix)[: sizes[-1]]
        sums.pop().copy_(last) if not add else sums.pop().add_(last)
    multiply(rows, [matrix] * len(rows), sums, add)


def add_outer(out: Tensor, x: Tensor, y: Tensor) -> None:
    """Add `x.T @ y` to `out`, for any number of rows."""
    sizes = blocks(x)
    left, right = list(x.split(sizes)), list(y.split(sizes))
    if _is_odd(x, sizes):
        left[-1], right[-1] = _pad(left[-1]), _pad(right[-1])
    multiply([part.T for part in left], right, [out] * len(left), add=True)


def _is_odd(x: Tensor, sizes: list[int]) -> bool:
    """Whether the last part has a size of its own that only oneDNN would multiply."""
    rare = bool(sizes) and sizes[-1] < _BLOCKS[-1]
    return rare and x.device.type == 'cpu' and x.dtype in (torch.bfloat16, torch.float16)


def _pad(x: Tensor) -> Tensor:
    return torch.nn.functional.pad(x, (0, 0, 0, _BLOCKS[-1] - len(x)))
