# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Names in LIP-Loc's published checkpoints (arXiv 2312.16648).

A checkpoint holds two timm encoders, `encoder_camera.model.*` and `encoder_lidar.model.*`; with a
vision transformer each is followed by `fc`; then come `projection_camera` and `projection_lidar`.
"""

from __future__ import annotations

from typing import Literal

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

Tower = Literal['camera', 'lidar']

IMAGENET = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
"""Mean and deviation that LIP-Loc normalises images and range images with."""

_HEAD = {
    'encoder_{}.fc': 'fc',
    'projection_{}.projection': 'projection',
    'projection_{}.fc': 'hidden',
    'projection_{}.layer_norm': 'norm',
}


def is_lip_loc(state: dict[str, Tensor]) -> bool:
    """Whether these are the names of LIP-Loc."""
    return any(key.startswith('encoder_camera.model.') for key in state)


def encoder_of(state: dict[str, Tensor], tower: Tower) -> dict[str, Tensor]:
    """One encoder under timm's names: 150 tensors of a ViT-S/16.

    Args:
        state: LIP-Loc's.
        tower: Which.
    """
    prefix = f'encoder_{tower}.model.'
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def head_of(state: dict[str, Tensor], tower: Tower) -> dict[str, Tensor]:
    """What follows an encoder, under the names of `training.methods.lip_loc.ProjectionHead`.

    Args:
        state: LIP-Loc's.
        tower: Which.
    """
    found = {}
    for theirs, ours in _HEAD.items():
        for leaf in ('weight', 'bias'):
            if (key := f'{theirs.format(tower)}.{leaf}') in state:
                found[f'{ours}.{leaf}'] = state[key]
    return found
