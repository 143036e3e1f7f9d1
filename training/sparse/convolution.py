# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Gather, multiply, sum: convolution over the pairs of a kernel map, in plain PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from training.sparse.kernel_map import Chunk, KernelMap
from training.sparse.matmul import add_outer, multiply, put_product


@dataclass(frozen=True)
class Epilogue:
    """What happens to each output row at the end: `relu(x * scale + shift + residual)`.

    Attributes:
        scale: (C,) or None.
        shift: (C,) or None.
        residual: (n_targets, C) or None.
        relu: Cut off negative values.
    """

    scale: Tensor | None = None
    shift: Tensor | None = None
    residual: Tensor | None = None
    relu: bool = False

    def apply_(self, out: Tensor, rows: slice) -> None:
        """Change a range of rows in place."""
        if self.scale is not None:
            out.mul_(self.scale)
        if self.shift is not None:
            out.add_(self.shift)
        if self.residual is not None:
            out.add_(self.residual[rows])
        if self.relu:
            out.relu_()


def convolve(
    features: Tensor, kernel: Tensor, pairs: KernelMap, epilogue: Epilogue | None = None
) -> Tensor:
    """Convolve, without autograd.

    Range after range of output rows: their inputs are gathered offset by offset, multiplied, and
    summed row by row. The sums run over sorted segments: in parallel, in the same order every
    time, and far faster than scattering.

    Args:
        features: (n_sources, C_in).
        kernel: (offsets, C_in, C_out) of the same type.
        pairs: Which rows each offset connects.
        epilogue: Applied to every range while it is in the cache.

    Returns:
        (n_targets, C_out).
    """
    out, matrices = None, kernel.unbind(0)
    for chunk in pairs.chunks:
        rows = chunk.rows
        out = _put(out, pairs.n_targets, rows, _sums(_gather(features, chunk), matrices, chunk))
        if pairs.centre is not None:
            put_product(out[rows], features[rows], matrices[pairs.centre], add=True)
        if epilogue is not None:
            epilogue.apply_(out[rows], rows)
    return features.new_empty((0, kernel.shape[2])) if out is None else out


def _put(out: Tensor | None, n: int, rows: slice, values: Tensor) -> Tensor:
    """Put rows into n of them, which are made with the first; if these are all, they are it."""
    if out is None:
        if len(values) == n:
            return values
        out = values.new_empty((n, values.shape[1]))
    out[rows] = values
    return out


def _gather(features: Tensor, chunk: Chunk) -> Tensor:
    return features.index_select(0, chunk.gather)


def _sums(gathered: Tensor, matrices: tuple[Tensor, ...], chunk: Chunk) -> Tensor:
    """Multiply what was gathered and sum up the products of each output row."""
    products = gathered.new_empty((len(gathered), matrices[0].shape[1]))
    multiply(
        gathered.split(chunk.sizes),
        [matrices[t] for t in chunk.offsets],
        products.split(chunk.sizes),
    )
    return F.embedding_bag(
        chunk.order, products, chunk.begins, mode='sum', include_last_offset=True
    )


def gradients(
    features: Tensor, kernel: Tensor, grad: Tensor, pairs: KernelMap, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Both gradients of `convolve` in one pass over the pairs in the other direction.

    A row of `grad` is gathered once and used twice: multiplied with the transposed kernel for the
    gradient of the features, and with the features it came from for that of the kernel.

    Args:
        features: (n_sources, C_in).
        kernel: (offsets, C_in, C_out).
        grad: (n_targets, C_out), contiguous.
        pairs: Of the convolution.
        wanted: Whether the gradient of the features and that of the kernel are.

    Returns:
        Gradients of the features and of the kernel.
    """
    centre = pairs.centre
    # The pairs of offset t of a submanifold map, turned round, are those of offset 26 - t.
    back = pairs.transposed if centre is None else pairs
    turned = [len(kernel) - 1 - t if centre is not None else t for t in range(len(kernel))]
    by_offset = kernel.transpose(1, 2).unbind(0)
    matrices = tuple(by_offset[t] for t in turned)
    out = features.new_empty(features.shape) if wanted[0] and not back.chunks else None
    kernel_grad = torch.zeros_like(kernel) if wanted[1] else None
    for chunk in back.chunks:
        rows = chunk.rows
        gathered = _gather(grad, chunk)
        if wanted[0]:
            out = _put(out, len(features), rows, _sums(gathered, matrices, chunk))
            if centre is not None:
                put_product(out[rows], grad[rows], matrices[centre], add=True)
        if kernel_grad is not None:
            gathered.index_fill_(0, chunk.blank, 0)
            inputs = features.index_select(0, chunk.scatter)
            targets = [kernel_grad[turned[t]] for t in chunk.offsets]
            columns = [part.T for part in inputs.split(chunk.sizes)]
            several = len(back.chunks) > 1  # one alone overwrites, which is cheaper than adding
            multiply(columns, gathered.split(chunk.sizes), targets, add=several)
            if centre is not None:
                add_outer(kernel_grad[centre], features[rows], grad[rows])
    return out, kernel_grad


class SparseConvFunction(torch.autograd.Function):
    """`convolve` with gradients; only features and kernel are kept, what was gathered is not."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, kernel: Tensor, pairs: KernelMap) -> Tensor:
        """See `convolve`."""
        ctx.save_for_backward(features, kernel)
        ctx.pairs = pairs
        return convolve(features, kernel, pairs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """See `gradients`."""
        features, kernel = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:2]
        return (
            *gradients(features, kernel, grads[0].contiguous(), ctx.pairs, wanted),
            None,
        )
