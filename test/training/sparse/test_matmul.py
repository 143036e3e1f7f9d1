# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from training.sparse.matmul import add_outer, blocks, multiply, put_product

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.02}


@pytest.mark.parametrize('dtype', list(TOLERANCE))
@pytest.mark.parametrize('rows', [0, 1, 15, 16, 100, 4096, 5003])
def test_products_of_any_number_of_rows(rows: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(rows)
    x, y, matrix = (
        torch.randn(*s, generator=generator, dtype=torch.float64).to(dtype)
        for s in ((rows, 96), (rows, 64), (96, 64))
    )
    exact = x.double() @ matrix.double() + 1
    out = torch.ones(rows, 64, dtype=dtype)
    put_product(out, x, matrix, add=True)
    assert (out.double() - exact).norm() <= TOLERANCE[dtype] * exact.norm()
    put_product(out, x, matrix)
    assert (out.double() - (exact - 1)).norm() <= TOLERANCE[dtype] * exact.norm()
    exact = x.double().T @ y.double() + 1
    out = torch.ones(96, 64, dtype=dtype)
    add_outer(out, x, y)
    assert (out.double() - exact).norm() <= TOLERANCE[dtype] * exact.norm()


def test_the_faster_library_stays_in_float32() -> None:
    """And the setting that lets it in is as before, also after an error."""
    before = torch.get_float32_matmul_precision()
    x, matrix = torch.randn(2048, 256), torch.randn(256, 256)
    out = torch.empty(2048, 256)
    multiply([x], [matrix], [out])
    exact = x.double() @ matrix.double()
    assert (out - exact).norm() < 1e-6 * exact.norm()
    assert torch.get_float32_matmul_precision() == before
    with pytest.raises(RuntimeError):
        multiply([x, x], [matrix, matrix[:100]], [out, out])
    assert torch.get_float32_matmul_precision() == before


def test_blocks_come_in_few_sizes() -> None:
    sizes = set()
    for n in range(0, 10000, 7):
        found = blocks(torch.empty(n, 1))
        assert sum(found) == n
        sizes |= {s for s in found if s >= 16}
    assert len(sizes) == 9
