# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Convolution by spconv 2.x (https://github.com/traveller59/spconv).

What its CPU build needs to be right (2.3.8): one thread, since its scattering races; fewer than
2**31 cells, since its hash keys are 32-bit; a substitute for the CUDA stream that its gradients
ask for. And on any device: even extents, since the last plane of an odd one is dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import spconv.pytorch as spconv
import torch
from spconv.core import ConvAlgo
from spconv.pytorch import ops
from torch import Tensor, nn

from clcp_ros.errors import ModelError
from training.sparse.backends.layouts import spconv_weight
from training.sparse.backends.rows import from_zero, match_rows
from training.sparse.kernel_map import KernelMap

_stream = ops.get_current_stream
ops.get_current_stream = lambda: _stream() if torch.cuda.is_available() else 0


class SpconvBackend:
    """See `training.sparse.backends.Backend`."""

    def convolve(self, features: Tensor, kernel: Tensor, pairs: KernelMap) -> Tensor:
        """Convolve with autograd.

        Raises:
            ModelError: The grid is too large for spconv's CPU build.
        """
        if pairs.n_sources == 0 or pairs.n_targets == 0:
            return features.new_zeros((pairs.n_targets, kernel.shape[2])) + 0 * kernel.sum()
        if features.is_cuda:
            return _run(features, kernel, pairs)
        with _one_thread():
            return _OneThread.apply(features, kernel, pairs)


class _OneThread(torch.autograd.Function):
    """spconv's own gradients in float32, kept to one thread as well."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, kernel: Tensor, pairs: KernelMap) -> Tensor:
        """Convolve."""
        dtype = torch.promote_types(features.dtype, torch.float32)
        with torch.enable_grad():
            inputs = [
                x.detach().to(dtype).requires_grad_(wanted)
                for x, wanted in zip((features, kernel), ctx.needs_input_grad, strict=False)
            ]
            out = _run(inputs[0], inputs[1], pairs)
        ctx.inputs, ctx.out, ctx.dtype = inputs, out, features.dtype
        return out.detach().to(features.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Differentiate."""
        wanted = [x for x in ctx.inputs if x.requires_grad]
        with _one_thread():
            found = iter(torch.autograd.grad(ctx.out, wanted, grads[0].to(ctx.out.dtype)))
        return (
            *(next(found).to(ctx.dtype) if x.requires_grad else None for x in ctx.inputs),
            None,
        )


def _run(features: Tensor, kernel: Tensor, pairs: KernelMap) -> Tensor:
    native = not features.is_cuda
    # A transposed convolution goes back along the pairs of a strided one.
    base = pairs.transposed if pairs.kind == 'transposed' else pairs
    if 'spconv' not in base.backend_state:
        base.backend_state['spconv'] = _prepare(base, features.device, native)
    source, target, order = base.backend_state['spconv']
    if pairs.kind == 'transposed':
        x = target.replace_feature(
            features.new_empty(features.shape).index_copy(0, order, features)
        )
    else:
        x = source.replace_feature(features.contiguous())
    module = _module(pairs.kind, *kernel.shape[1:], native)
    module.train(torch.is_grad_enabled())
    with torch.autocast(features.device.type, enabled=False):  # the types are settled
        y = torch.func.functional_call(module, {'weight': spconv_weight(kernel)}, (x,)).features
    return y.index_select(0, order) if pairs.kind == 'strided' else y


def _prepare(pairs: KernelMap, device: torch.device, native: bool) -> tuple[Any, Any, Tensor]:
    """Sparse tensors of the input and output with their pairs, and where spconv put our rows."""
    coords, low = from_zero(pairs.source_coords)
    shape = [int(v) // 2 * 2 + 2 for v in coords[:, 1:].amax(dim=0)]
    cells = pairs.batch_size * shape[0] * shape[1] * shape[2]
    if native and cells >= 2**31:
        raise ModelError(
            f'{cells:.2g} cells are too many for spconv on a CPU, which would find wrong '
            'neighbours; use the backend torch'
        )
    indices = coords.int().contiguous()
    empty = torch.ones((len(coords), 1), device=device)
    source = spconv.SparseConvTensor(empty, indices, shape, pairs.batch_size)
    with torch.no_grad():
        module = _module(pairs.kind, 1, 1, native).to(device)
        module.train()
        target = module(source)
    if pairs.kind == 'submanifold':  # spconv shares the pairs of these only
        source.indice_dict.update(target.indice_dict)
        return source, target, torch.arange(len(coords), device=device)
    wanted = pairs.target_coords - torch.div(low, 2, rounding_mode='floor')
    return source, target, match_rows(wanted, target.indices, 'spconv')


@lru_cache(maxsize=256)
def _module(kind: str, c_in: int, c_out: int, native: bool) -> nn.Module:
    """A module whose weight is replaced in every call; the key finds the pairs in the tensor."""
    classes = {
        'submanifold': (spconv.SubMConv3d, 3, {}),
        'strided': (spconv.SparseConv3d, 2, {'stride': 2}),
        'transposed': (spconv.SparseInverseConv3d, 2, {}),
    }
    cls, size, options = classes[kind]
    algo = ConvAlgo.Native if native else None
    return cls(c_in, c_out, size, bias=False, indice_key='pairs', algo=algo, **options)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def load() -> SpconvBackend:
    """The backend."""
    return SpconvBackend()
