# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Gather, multiply, scatter: convolution over the pairs of a kernel map."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from training.sparse.grid import KernelMap


class _SparseConv(torch.autograd.Function):
    """Keeps only its inputs for the backward pass, not 27 gathered copies of them."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, kernel: Tensor, pairs: KernelMap) -> Tensor:
        ctx.save_for_backward(features, kernel)
        ctx.pairs = pairs
        out = features.new_zeros((pairs.n_targets, kernel.shape[2]))
        for t, (source, target) in enumerate(zip(pairs.sources, pairs.targets, strict=True)):
            if len(source):
                out.index_add_(0, target, features.index_select(0, source) @ kernel[t])
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        features, kernel = ctx.saved_tensors
        (grad,) = grads
        to_features, to_kernel = ctx.needs_input_grad[:2]
        grad_features = torch.zeros_like(features) if to_features else None
        grad_kernel = torch.zeros_like(kernel) if to_kernel else None
        pairs = ctx.pairs
        for t, (source, target) in enumerate(zip(pairs.sources, pairs.targets, strict=True)):
            if not len(source):
                continue
            rows = grad.index_select(0, target)
            if grad_features is not None:
                grad_features.index_add_(0, source, rows @ kernel[t].T)
            if grad_kernel is not None:
                torch.mm(features.index_select(0, source).T, rows, out=grad_kernel[t])
        return grad_features, grad_kernel, None


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
