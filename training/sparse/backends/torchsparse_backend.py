# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Convolution by torchsparse 1.4, 2.0 or 2.1 (https://github.com/mit-han-lab/torchsparse).

Written after its sources and never run against it: it installs nowhere without a CUDA compiler.
What differs between the versions: 2.1 keeps the sample in the first column and divides coordinates
by the stride, the others keep it in the last and do not; 2.1 has an argument `padding` in the
middle, so that only keywords are safe; and by default it drops the last plane of even extents.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torchsparse
from torch import Tensor, nn

from clcp_ros.errors import ModelError
from training.sparse.backends.layouts import from_torchsparse, sample_first, to_torchsparse
from training.sparse.backends.rows import from_zero, match_rows
from training.sparse.kernel_map import KernelMap

_SAMPLE_FIRST = sample_first(getattr(torchsparse, '__version__', '2.1'))


class TorchsparseBackend:
    """See `training.sparse.backends.Backend`."""

    def convolve(self, features: Tensor, kernel: Tensor, pairs: KernelMap) -> Tensor:
        """Convolve with autograd.

        Raises:
            ModelError: On a CPU, where torchsparse is wrong (1.4) or missing (2.x).
        """
        if not features.is_cuda:
            raise ModelError('torchsparse needs a GPU; use the backend torch or spconv on a CPU')
        if pairs.n_sources == 0 or pairs.n_targets == 0:
            return features.new_zeros((pairs.n_targets, kernel.shape[2])) + 0 * kernel.sum()
        # A transposed convolution goes back along the pairs of a strided one.
        base = pairs.transposed if pairs.kind == 'transposed' else pairs
        if 'torchsparse' not in base.backend_state:
            base.backend_state['torchsparse'] = _prepare(base, features.device)
        source, target, order = base.backend_state['torchsparse']
        if pairs.kind == 'transposed':
            rows = torch.empty_like(features).index_copy(0, order, features)
            x = _with_features(target, rows)
        else:
            x = _with_features(source, features)
        module = _module(pairs.kind, *kernel.shape[1:])
        module.train(torch.is_grad_enabled())
        y = torch.func.functional_call(module, {'kernel': kernel}, (x,))
        rows = y.feats.to(features.dtype)
        return rows.index_select(0, order) if pairs.kind == 'strided' else rows


def _prepare(pairs: KernelMap, device: torch.device) -> tuple[Any, Any, Tensor]:
    """Sparse tensors of the input and output with their maps, and where our rows are."""
    coords, low = from_zero(pairs.source_coords)
    ones = torch.ones((len(coords), 1), device=device)
    source = torchsparse.SparseTensor(
        coords=to_torchsparse(coords, _SAMPLE_FIRST), feats=ones, stride=1
    )
    with torch.no_grad():
        target = _module(pairs.kind, 1, 1).to(device)(source)
    if pairs.kind == 'submanifold':
        return source, target, torch.arange(len(coords), device=device)
    found = from_torchsparse(target.coords, 2, _SAMPLE_FIRST)
    wanted = pairs.target_coords - torch.div(low, 2, rounding_mode='floor')
    return source, target, match_rows(wanted, found, 'torchsparse')


def _with_features(template: Any, features: Tensor) -> Any:
    """Other features with a tensor's coordinates, stride and maps."""
    options = {}
    if hasattr(template, 'spatial_range'):
        options['spatial_range'] = template.spatial_range
    x = torchsparse.SparseTensor(
        coords=template.coords, feats=features.contiguous(), stride=template.stride, **options
    )
    for name in ('_caches', 'cmaps', 'kmaps'):  # 2.1 has the first, 1.4 and 2.0 the others
        if name in vars(template):
            setattr(x, name, getattr(template, name))
    return x


@lru_cache(maxsize=256)
def _module(kind: str, c_in: int, c_out: int) -> nn.Module:
    """A module whose kernel is replaced in every call."""
    options: dict[str, Any] = {'stride': 1 if kind == 'submanifold' else 2, 'bias': False}
    if _SAMPLE_FIRST:
        from torchsparse.nn import functional as F

        config = F.conv_config.get_default_conv_config(conv_mode=F.get_conv_mode())
        config.kmap_mode = 'hashmap'  # the default, on the fly, loses voxels at the far end
        options['config'] = config
    size = 3 if kind == 'submanifold' else 2
    return torchsparse.nn.Conv3d(
        c_in, c_out, kernel_size=size, transposed=kind == 'transposed', **options
    )


def load() -> TorchsparseBackend:
    """The backend."""
    return TorchsparseBackend()
