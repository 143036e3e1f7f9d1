# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""MMDetection3D's MinkUNet checkpoints: three libraries, three sets of names, three orders.

The same network exists there for torchsparse, spconv and MinkowskiEngine. All of them
cross-correlate, with kernels of these shapes; k numbers the offsets (ix, iy, iz), each counted
from its lowest:

=========== ======================= ============================ ==================== ===========
library     shape                   3 x 3 x 3                    2 x 2 x 2            1 x 1 x 1
=========== ======================= ============================ ==================== ===========
torchsparse (K, C_in, C_out)        k = ix + 3 iy + 9 iz         k = 4 ix + 2 iy + iz (C_in, C_out)
Minkowski   (K, C_in, C_out)        k = ix + 3 iy + 9 iz         k = ix + 2 iy + 4 iz (C_in, C_out)
spconv 2    (C_out, x, y, z, C_in)  by axis                      by axis              see below
spconv 1    (x, y, z, C_in, C_out)  by axis                      by axis              (C_in, C_out)
=========== ======================= ============================ ==================== ===========

spconv 2 declares its 1 x 1 x 1 kernels as (C_out, 1, 1, 1, C_in), but multiplies by the same
memory read as (C_in, C_out) (`spconv/pytorch/conv.py`, `weight.view(in_channels, out_channels)`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from clcp_ros.errors import ModelError

Layout = Literal['torchsparse', 'spconv', 'minkowski']

BACKBONE = 'backbone.'
# Position of each layer of a residual block in torchsparse's nn.Sequential.
_IN_BLOCK = {
    'conv1': 'net.0', 'bn1': 'net.1', 'norm1': 'net.1',
    'conv2': 'net.3', 'bn2': 'net.4', 'norm2': 'net.4',
}  # fmt: skip
# spconv keeps how many voxels it once saw beside its weights.
_NOT_WEIGHTS = '_max_num_voxels_during_training'


def detect_layout(names: Mapping[str, object]) -> Layout:
    """Which library a MinkUNet's state dict was written with, from its names.

    Args:
        names: Of the backbone's tensors, without `backbone.`.

    Returns:
        The library.

    Raises:
        ModelError: They are not the names of a MinkUNet.
    """
    if any('.bn.' in name for name in names):
        return 'minkowski'
    if 'conv_input.0.0.weight' in names:
        return 'spconv'
    if 'conv_input.0.net.0.kernel' in names:
        return 'torchsparse'
    first = ', '.join(sorted(names)[:3]) or 'nothing'
    raise ModelError(
        f"not MMDetection3D's MinkUNet in the names of torchsparse, spconv or Minkowski: {first}"
    )


def to_torchsparse(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Layout]:
    """Translate a backbone's state dict into torchsparse's names and order.

    Args:
        state: Tensors of the backbone, without `backbone.`.

    Returns:
        The tensors in torchsparse's layout, and the layout they had.

    Raises:
        ModelError: Unknown names, or a kernel of a shape that its layout does not have.
    """
    layout = detect_layout(state)
    if layout == 'torchsparse':
        return dict(state), layout
    rename = _from_spconv if layout == 'spconv' else _from_minkowski
    named = {rename(k): (k, v) for k, v in state.items() if not k.endswith(_NOT_WEIGHTS)}
    kernels = [tuple(v.shape) for k, (_, v) in named.items() if k.endswith('.kernel')]
    # Few kernels may be of either version, and all are of one.
    certain = {v[0] for shape in kernels if len(v := _spconv_versions(shape)) == 1}
    version = certain.pop() if len(certain) == 1 else None
    out: dict[str, Tensor] = {}
    for name, (old, tensor) in named.items():
        out[name] = tensor
        if name.endswith('.kernel'):
            try:
                out[name] = (
                    spconv_kernel(tensor, version)
                    if layout == 'spconv'
                    else minkowski_kernel(tensor)
                )
            except ModelError as error:
                raise ModelError(f'{old}: {error}') from None
    return out, layout


def spconv_kernel(weight: Tensor, version: int | None = None) -> Tensor:
    """A kernel of spconv as torchsparse has it.

    Args:
        weight: (C_out, k, k, k, C_in) of spconv 2, or (k, k, k, C_in, C_out) of spconv 1; k is 1,
            2 or 3, the axes are x, y, z.
        version: Of spconv. By default the shape says, which is enough unless there are as many
            channels as the kernel is wide.

    Returns:
        (k^3, C_in, C_out), or (C_in, C_out) for k = 1.

    Raises:
        ModelError: Another shape, or one that may be either.
    """
    shape = tuple(weight.shape)
    possible = _spconv_versions(shape)
    if version is None and len(possible) == 2:
        raise ModelError(f'{shape} may be a kernel of spconv 1 or 2')
    version = version or next(iter(possible), None)
    if version not in possible:
        raise ModelError(f'{shape} is no shape of a kernel of spconv {version or ""}'.rstrip())
    if version == 2:
        k, c_in, c_out = shape[1], shape[4], shape[0]
    else:
        k, c_in, c_out = shape[0], shape[3], shape[4]
    if k == 1:
        return weight.reshape(c_in, c_out)
    by_axis = weight.permute(1, 2, 3, 4, 0) if version == 2 else weight
    if k == 3:  # torchsparse lets x run fastest in odd kernels
        by_axis = by_axis.permute(2, 1, 0, 3, 4)
    return by_axis.reshape(k**3, c_in, c_out).contiguous()


def _spconv_versions(shape: tuple[int, ...]) -> list[int]:
    """The versions of spconv of which this may be a kernel."""
    if len(shape) != 5:
        return []
    axes = {1: shape[:3], 2: shape[1:4]}
    return [v for v, k in axes.items() if len(set(k)) == 1 and k[0] in (1, 2, 3)]


def minkowski_kernel(kernel: Tensor) -> Tensor:
    """A kernel of MinkowskiEngine as torchsparse has it: only 2 x 2 x 2 differs.

    Args:
        kernel: (27, C_in, C_out), (8, C_in, C_out) or (C_in, C_out).

    Returns:
        The same shape.

    Raises:
        ModelError: Another shape.
    """
    shape = tuple(kernel.shape)
    if len(shape) == 2 or (len(shape) == 3 and shape[0] == 27):
        return kernel
    if len(shape) == 3 and shape[0] == 8:
        return kernel.view(2, 2, 2, *shape[1:]).permute(2, 1, 0, 3, 4).reshape(shape)
    raise ModelError(f'{shape} is no shape of a kernel of MinkowskiEngine')


def compare_states(
    given: Mapping[str, Tensor | torch.Size], wanted: Mapping[str, Tensor | torch.Size]
) -> str:
    """Say how two state dicts differ in names and shapes.

    Args:
        given: What a file holds.
        wanted: What a network needs.

    Returns:
        One line; empty where they agree.
    """
    missing = [k for k in wanted if k not in given]
    unexpected = [k for k in given if k not in wanted]
    shapes = [
        f'{k} {tuple(_shape(given[k]))} instead of {tuple(_shape(wanted[k]))}'
        for k in wanted
        if k in given and _shape(given[k]) != _shape(wanted[k])
    ]
    parts = [
        f'{len(keys)} {what} ({", ".join(keys[:3])}{", ..." if len(keys) > 3 else ""})'
        for what, keys in (
            ('missing', missing), ('unexpected', unexpected), ('of another shape', shapes),
        )
        if keys
    ]  # fmt: skip
    return '; '.join(parts)


def _shape(value: Tensor | torch.Size) -> torch.Size:
    return value.shape if isinstance(value, Tensor) else value


def _from_spconv(name: str) -> str:
    name = re.sub(
        r'^(conv_input\.\d+|encoder\.\d+\.0|decoder\.\d+\.0)\.([01])\.', r'\1.net.\2.', name
    )
    name = _rename_block(name)
    # In spconv's names every layer with a `weight` at an even place is a convolution.
    return re.sub(r'(\.net\.[03]|\.downsample\.0)\.weight$', r'\1.kernel', name)


def _from_minkowski(name: str) -> str:
    return _rename_block(name.replace('.bn.', '.').replace('.downsample.net.', '.downsample.'))


def _rename_block(name: str) -> str:
    return re.sub(r'\.(conv[12]|bn[12]|norm[12])\.', lambda m: f'.{_IN_BLOCK[m[1]]}.', name)
