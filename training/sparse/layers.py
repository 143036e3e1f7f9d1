# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Convolutions on rows of features, and what usually follows them."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from clcp_ros.errors import ModelError
from training.sparse.backends import BACKENDS, Backend, find_backend
from training.sparse.convolution import Epilogue, SparseConvFunction, convolve
from training.sparse.kernel_map import KernelMap
from training.sparse.pointwise import PointwiseFunction, pointwise


@torch.compiler.disable
def sparse_conv(
    features: Tensor,
    kernel: Tensor,
    pairs: KernelMap | None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    relu: bool = False,
    *,
    scale: Tensor | None = None,
    backend: str | Backend = 'auto',
) -> Tensor:
    """Convolve: `relu(conv(features) * scale + bias + residual)`.

    Without gradients what follows the convolution costs no further pass over memory. Features are
    cast to the kernel's type, and both to autocast's.

    Args:
        features: (n_sources, C_in).
        kernel: (offsets, C_in, C_out), offsets ordered as in `training.sparse.grid`; for volume 1
            also (C_in, C_out).
        pairs: Which rows each offset connects; None for volume 1.
        bias: (C_out,) or None.
        residual: (n_targets, C_out) or None.
        relu: Cut off negative values.
        scale: (C_out,) or None.
        backend: A name of `BACKENDS`, or a backend.

    Returns:
        (n_targets, C_out), of the kernel's type.

    Raises:
        ModelError: Shapes do not fit, or the backend is not there.
    """
    device = features.device.type
    if torch.is_autocast_enabled(device):
        kernel = kernel.to(torch.get_autocast_dtype(device))
    features = features.to(kernel.dtype)
    matrix = kernel[0] if kernel.ndim == 3 and pairs is None and len(kernel) == 1 else kernel
    _check(features, matrix, pairs)
    scale, bias, residual = (
        None if v is None else v.to(kernel.dtype) for v in (scale, bias, residual)
    )
    epilogue = Epilogue(scale, bias, residual, relu)
    found = find_backend(backend, device)
    if found is None:
        tensors = (features, kernel, scale, bias, residual)
        if not (
            torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
        ):
            if pairs is None:
                return pointwise(features, matrix, epilogue)
            return convolve(features, matrix, pairs, epilogue)
        if pairs is None:
            out = PointwiseFunction.apply(features, matrix)
        else:
            out = SparseConvFunction.apply(features, matrix, pairs)
    else:
        out = found.convolve(features, matrix, pairs) if pairs is not None else features @ matrix
    if epilogue.scale is not None:
        out = out * epilogue.scale
    if epilogue.shift is not None:
        out = out + epilogue.shift
    if epilogue.residual is not None:
        out = out + epilogue.residual
    return out.relu_() if relu else out


def _check(features: Tensor, kernel: Tensor, pairs: KernelMap | None) -> None:
    shape = tuple(kernel.shape)
    fits = len(shape) == 2 if pairs is None else len(shape) == 3 and shape[0] == pairs.volume
    if not fits:
        wanted = 'no pairs' if pairs is None else f'pairs of volume {pairs.volume}'
        raise ModelError(f'a kernel of shape {shape} does not fit {wanted}')
    if features.ndim != 2 or features.shape[1] != shape[-2]:
        raise ModelError(
            f'features of shape {tuple(features.shape)} for a kernel of {shape[-2]} input channels'
        )
    if pairs is not None and len(features) != pairs.n_sources:
        raise ModelError(f'{len(features)} rows of features on a grid of {pairs.n_sources} voxels')


class SparseConv(nn.Module):
    """A convolution over sparse rows, without bias until BatchNorm is folded into it.

    Args:
        c_in: Input channels.
        c_out: Output channels.
        volume: Kernel volume: 27 (3 x 3 x 3), 8 (2 x 2 x 2, also transposed) or 1.

    Attributes:
        kernel: (volume, C_in, C_out), or (C_in, C_out) for volume 1.
        bias: (C_out,), or None.
        backend: A name of `BACKENDS`, or a backend.
    """

    bias: nn.Parameter | None

    def __init__(self, c_in: int, c_out: int, volume: int) -> None:
        super().__init__()
        # torchsparse keeps kernels of volume 1 as matrices, and so do its checkpoints.
        shape = (c_in, c_out) if volume == 1 else (volume, c_in, c_out)
        self.kernel = nn.Parameter(torch.empty(shape))
        self.register_parameter('bias', None)
        self.backend: str | Backend = 'auto'
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
        return sparse_conv(features, self.kernel, pairs, self.bias, backend=self.backend)

    def extra_repr(self) -> str:
        """Show the kernel's shape in `repr`."""
        return str(tuple(self.kernel.shape))


def set_backend(module: nn.Module, name: str) -> None:
    """Choose the backend of every sparse convolution of a network.

    Args:
        module: The network.
        name: One of `BACKENDS`.

    Raises:
        ModelError: Unknown, or not installed.
    """
    if name not in BACKENDS:
        raise ModelError(f'unknown sparse backend {name!r}; known: {", ".join(BACKENDS)}')
    find_backend(name, 'cpu')
    for part in module.modules():
        if isinstance(part, SparseConv):
            part.backend = name


def conv_norm_act(
    conv: SparseConv,
    norm: nn.Module | None,
    x: Tensor,
    pairs: KernelMap | None = None,
    *,
    residual: Tensor | None = None,
    relu: bool = True,
) -> Tensor:
    """`relu(norm(conv(x)) + residual)`, in one pass where nothing is trained.

    Args:
        conv: The convolution.
        norm: BatchNorm; None or `nn.Identity` when it has been folded into the convolution.
        x: (n_sources, C_in).
        pairs: The kernel map; None for volume 1.
        residual: (n_targets, C_out), added before the ReLU.
        relu: Whether there is one.

    Returns:
        (n_targets, C_out).
    """
    if norm is None or isinstance(norm, nn.Identity):
        return sparse_conv(x, conv.kernel, pairs, conv.bias, residual, relu, backend=conv.backend)
    frozen = not torch.is_grad_enabled() and not norm.training
    if (
        frozen
        and isinstance(norm, nn.BatchNorm1d)
        and norm.running_mean is not None
        and conv.bias is None
    ):
        scale, shift = _affine(norm)
        return sparse_conv(
            x, conv.kernel, pairs, shift, residual, relu, scale=scale, backend=conv.backend
        )
    y = norm(conv(x, pairs))
    # In place: BatchNorm's gradient needs its input only, and the ReLU's its output.
    if residual is not None:
        y = y.add_(residual)
    return y.relu_() if relu else y


def fold_norm(conv: SparseConv, norm: nn.BatchNorm1d, dtype: torch.dtype | None = None) -> None:
    """Put a BatchNorm in evaluation into the convolution before it; frozen from then on.

    Args:
        conv: Its kernel is scaled, and it gets a bias (float32).
        norm: To be dropped afterwards.
        dtype: New type of the kernel, such as `torch.bfloat16`; None keeps it.
    """
    scale, shift = _affine(norm, torch.float64)
    kernel = conv.kernel.detach().double() * scale
    conv.kernel = nn.Parameter(kernel.to(dtype or conv.kernel.dtype), requires_grad=False)
    old = 0 if conv.bias is None else conv.bias.detach().double() * scale
    conv.bias = nn.Parameter((shift + old).float(), requires_grad=False)


def _affine(norm: nn.BatchNorm1d, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    """Scale and shift of a BatchNorm in evaluation."""
    mean, var = cast('Tensor', norm.running_mean), cast('Tensor', norm.running_var)
    if dtype is not None:
        mean, var = mean.detach().to(dtype), var.detach().to(dtype)
    scale = torch.rsqrt(var + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.detach()
    shift = -mean * scale
    if norm.bias is not None:
        shift = shift + norm.bias.detach()
    return scale, shift
