# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Convolution of volume 1: a matrix product with any number of rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from training.sparse.convolution import Epilogue
from training.sparse.matmul import add_outer, put_product


def pointwise(features: Tensor, matrix: Tensor, epilogue: Epilogue | None = None) -> Tensor:
    """Multiply, without autograd.

    Args:
        features: (N, C_in).
        matrix: (C_in, C_out) of the same type.
        epilogue: Applied to the product.

    Returns:
        (N, C_out).
    """
    out = features.new_empty((len(features), matrix.shape[1]))
    put_product(out, features, matrix)
    if epilogue is not None:
        epilogue.apply_(out, slice(None))
    return out


class PointwiseFunction(torch.autograd.Function):
    """`pointwise` with gradients."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, matrix: Tensor) -> Tensor:
        """See `pointwise`."""
        ctx.save_for_backward(features, matrix)
        return pointwise(features, matrix)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Two products."""
        features, matrix = ctx.saved_tensors
        grad, back = grads[0].contiguous(), None
        if ctx.needs_input_grad[1]:
            back = torch.zeros_like(matrix)
            add_outer(back, features, grad)
        return pointwise(grad, matrix.T) if ctx.needs_input_grad[0] else None, back
