# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Parameter names of other releases in timm's terms, for the weights people already have.

Known are torchvision's MobileNetV2, the TinyViT of its authors, which MobileSAM's image encoder
is, too, and the camera's encoder in LIP-Loc's checkpoints.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from training.models.lip_loc_names import encoder_of, is_lip_loc
from training.models.torchvision_names import torchvision_mobilenetv2_to_timm

# Where TinyViT's convolutions lie in its authors' release; the others are numbered alike in both.
_TINY_VIT = (
    (r'^patch_embed\.seq\.0\.', 'patch_embed.conv1.'),
    (r'^patch_embed\.seq\.2\.', 'patch_embed.conv2.'),
    (r'^layers\.(\d+)\.', r'stages.\1.'),
    (r'\.c\.weight$', '.conv.weight'),
    (r'^norm_head\.', 'head.norm.'),
    (r'^head\.(weight|bias)$', r'head.fc.\1'),
)


class Renamed(NamedTuple):
    """Weights under timm's names.

    Attributes:
        state: The tensors.
        mean: Of the images that they were trained with, where the names tell; else None.
        std: Likewise.
    """

    state: dict[str, Tensor]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def to_timm_names(state: dict[str, Tensor], architecture: str) -> Renamed:
    """Rename what another project calls differently; anything else stays as it is.

    Args:
        state: A state dict.
        architecture: timm's name of the network that is to take it.
    """
    imagenet = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    if architecture.startswith('mobilenetv2_100') and 'features.0.0.weight' in state:
        return Renamed(torchvision_mobilenetv2_to_timm(state), *imagenet)
    if architecture.startswith('tiny_vit'):
        inner = {k.removeprefix('image_encoder.'): v for k, v in state.items()}
        if 'patch_embed.seq.0.c.weight' in inner:
            return Renamed(tiny_vit_to_timm(inner), *imagenet)
    if is_lip_loc(state):
        return Renamed(encoder_of(state, 'camera'), *imagenet)
    return Renamed(state)


def tiny_vit_to_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the TinyViT of its authors (Wu et al., ECCV 2022) to timm's `tiny_vit_*`.

    Args:
        state: Their state dict. A stage's downsampling stands at its end there, at the beginning
            of the next one in timm.

    Returns:
        The same tensors under timm's names; a neck that MobileSAM adds is left out.
    """
    renamed = {}
    for key, value in state.items():
        if key.startswith('neck.') or key.endswith('attention_bias_idxs'):
            continue
        name = key
        for pattern, replacement in _TINY_VIT:
            name = re.sub(pattern, replacement, name)
        if match := re.match(r'stages\.(\d+)\.downsample\.(.+)', name):
            name = f'stages.{int(match[1]) + 1}.downsample.{match[2]}'
        renamed[name] = value
    return renamed
