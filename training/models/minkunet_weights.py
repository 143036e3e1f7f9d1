# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Weights of MinkUNet in files: read in any published layout, written in one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from clcp_ros.errors import ModelError
from training.models.foreign_checkpoint import read_foreign_checkpoint
from training.models.image_encoder import read_weights, write_weights
from training.models.minkunet_layouts import BACKBONE, Layout, to_torchsparse

_HEAD = 'decode_head.'


class MinkUNetWeights(NamedTuple):
    """What a file of weights holds.

    Attributes:
        backbone: Tensors of the network in torchsparse's names and order, without a prefix.
        head: Tensors of MMDetection3D's segmentation head (`decode_head.*`), if there are any.
        left_out: Names of all other tensors.
        layout: The layout that the file has.
        metadata: Of a `.safetensors` file.
    """

    backbone: dict[str, Tensor]
    head: dict[str, Tensor]
    left_out: list[str]
    layout: Layout
    metadata: dict[str, str]


def read_minkunet_weights(path: Path) -> MinkUNetWeights:
    """Read a MinkUNet from a file, executing nothing that is in it.

    Args:
        path: A `.safetensors` file, or a checkpoint of torch, in the names of MMDetection3D's
            torchsparse, spconv or MinkowskiEngine network; the names may have a prefix such as
            `backbone.` or `lidar_encoder.`.

    Returns:
        The tensors.

    Raises:
        ModelError: The file is missing, damaged, or holds no MinkUNet.
    """
    if path.suffix == '.safetensors':
        state, metadata = read_weights(path)
    else:
        state, metadata = read_foreign_checkpoint(path), {}
    first = next((m for k in state if (m := re.match(r'(.*?)conv_input\.0\.', k))), None)
    if first is None:
        some = ', '.join(sorted(state)[:3])
        raise ModelError(f'{path} holds no MinkUNet: no conv_input among its names ({some}, ...)')
    prefix = first[1]
    ours = re.compile(re.escape(prefix) + r'(conv_input|encoder|decoder)\.')
    backbone = {k.removeprefix(prefix): v for k, v in state.items() if ours.match(k)}
    head = {_HEAD + k.partition(_HEAD)[2]: v for k, v in state.items() if _HEAD in k}
    left_out = [k for k in state if not ours.match(k) and _HEAD not in k]
    try:
        converted, layout = to_torchsparse(backbone)
    except ModelError as error:
        raise ModelError(f'{path}: {error}') from None
    return MinkUNetWeights(_complete(converted), head, left_out, layout, metadata)


def write_minkunet_weights(
    path: Path,
    backbone: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    head: Mapping[str, Tensor] | None = None,
) -> None:
    """Write weights in the names of MMDetection3D's torchsparse checkpoints.

    Args:
        path: A `.safetensors` file; appears only when it is whole.
        backbone: A state dict of `MinkUNet`, frozen or not.
        metadata: Strings; at least `architecture`.
        head: Tensors of a segmentation head, under their full names.
    """
    state = {f'{BACKBONE}{k}': v for k, v in backbone.items()} | dict(head or {})
    write_weights(path, state, {**metadata, 'layout': 'torchsparse'})


def _complete(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add the counters that torch before 0.4.1 did not keep; nothing is computed from them."""
    for name in [k for k in state if k.endswith('.running_mean')]:
        counter = f'{name.removesuffix("running_mean")}num_batches_tracked'
        state.setdefault(counter, torch.zeros((), dtype=torch.int64))
    return state
