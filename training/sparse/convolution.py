# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Gather, multiply, sum: convolution over the pairs of a kernel map."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.sparse.grid import KernelMap


class _SparseConv(torch.autograd.Function):
    """One gather, a product per offset, one sum over each row's pairs.

    The sums run over sorted segments: in parallel, in the same order every time, and far faster
    than scattering. The backward pass gathers again instead of keeping what the forward gathered.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, kernel: Tensor, pairs: KernelMap) -> Tensor:
        ctx.save_for_backward(features, kernel)
        ctx.pairs = pairs
        gathered = features.index_select(0, pairs.source)
        out = _sum(_multiply(gathered, kernel, pairs), *pairs.by_target)
        if pairs.centre is not None:
            out.addmm_(features, kernel[pairs.centre])
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        features, kernel = ctx.saved_tensors
        grad, pairs = grads[0].contiguous(), ctx.pairs
        grad_features = grad_kernel = None
        rows = grad.index_select(0, pairs.target)
        if ctx.needs_input_grad[0]:
            transposed = kernel.transpose(1, 2)
            grad_features = _sum(_multiply(rows, transposed, pairs), *pairs.by_source)
            if pairs.centre is not None:
                grad_features.addmm_(grad, transposed[pairs.centre])
        if ctx.needs_input_grad[1]:
            grad_kernel = torch.zeros_like(kernel)
            gathered = features.index_select(0, pairs.source)
            for t, part in enumerate(pairs.slices):
                torch.mm(gathered[part].T, rows[part], out=grad_kernel[t])
            if pairs.centre is not None:
                torch.mm(features.T, grad, out=grad_kernel[pairs.centre])
        return grad_features, grad_kernel, None


def _multiply(rows: Tensor, kernel: Tensor, pairs: KernelMap) -> Tensor:
    products = rows.new_empty((len(rows), kernel.shape[2]))
    for t, part in enumerate(pairs.slices):
        torch.mm(rows[part], kernel[t], out=products[part])
    return products


def _sum(products: Tensor, order: Tensor, begins: Tensor) -> Tensor:
    return F.embedding_bag(order, products, begins, mode='sum', include_last_offset=True)


def sparse_conv(features: Tensor, kernel: Tensor, pairs: KernelMap) -> Tensor:
    """Convolve over a kernel map.

    Args:
        features: (n_sources, C_in).
        kernel: (offsets, C_in, C_out), offsets ordered as in `training.sparse.grid`.
        pairs: Which rows each offset connects.

    Returns:
        (n_targets, C_out): for every target, the sum of `features[source] @ kernel[t]` over its
        pairs.
    """
    if torch.is_autocast_enabled(features.device.type):
        dtype = torch.get_autocast_dtype(features.device.type)
        features, kernel = features.to(dtype), kernel.to(dtype)
    return _SparseConv.apply(features, kernel, pairs)


class SparseConv(nn.Module):
    """A bias-free convolution over sparse rows.

    Args:
        c_in: Input channels.
        c_out: Output channels.
        volume: Kernel volume: 27 (3 x 3 x 3), 8 (2 x 2 x 2, also transposed) or 1.
    """

    def __init__(self, c_in: int, c_out: int, volume: int) -> None:
        super().__init__()
        # torchsparse keeps kernels of volume 1 as matrices, and so do its checkpoints.
        shape = (c_in, c_out) if volume == 1 else (volume, c_in, c_out)
        self.kernel = nn.Parameter(torch.empty(shape))
        bound = 1 / math.sqrt(c_in * volume)
        nn.init.uniform_(self.kernel, -bound, bound)

    def forward(self, features: Tensor, pairs: KernelMap | None = None) -> Tensor:
        """Convolve.

        Args:
            features: (n_sources, C_in).
            pairs: The kernel map; None for volume 1.

        Returns:
            (n_targets, C_out).
        """
        if pairs is None:
            return features @ self.kernel
        return sparse_conv(features, self.kernel, pairs)

    def extra_repr(self) -> str:
        """Show the kernel's shape in `repr`."""
        return str(tuple(self.kernel.shape))
