# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""torchvision's parameter names in timm's terms, for the weights people already have."""

from __future__ import annotations

from torch import Tensor

# Blocks per stage of MobileNetV2 (Sandler et al. 2018, table 2).
_STAGES = (1, 2, 3, 4, 3, 3, 1)


def torchvision_mobilenetv2_to_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename torchvision's `mobilenet_v2` to timm's `mobilenetv2_100`.

    Args:
        state: torchvision's state dict.

    Returns:
        The same tensors under timm's names; the classifier is left out.
    """
    prefixes = {
        'features.0.0': 'conv_stem',
        'features.0.1': 'bn1',
        'features.18.0': 'conv_head',
        'features.18.1': 'bn2',
    }
    index = 0
    for stage, blocks in enumerate(_STAGES):
        for block in range(blocks):
            index += 1
            source, target = f'features.{index}.conv', f'blocks.{stage}.{block}'
            if stage == 0:  # depthwise separable: no expansion
                pairs = {'0.0': 'conv_dw', '0.1': 'bn1', '1': 'conv_pw', '2': 'bn2'}
            else:
                pairs = {
                    '0.0': 'conv_pw', '0.1': 'bn1', '1.0': 'conv_dw', '1.1': 'bn2',
                    '2': 'conv_pwl', '3': 'bn3',
                }  # fmt: skip
            prefixes |= {f'{source}.{a}': f'{target}.{b}' for a, b in pairs.items()}
    renamed = {}
    for key, value in state.items():
        prefix, _, leaf = key.rpartition('.')
        if prefix in prefixes:
            renamed[f'{prefixes[prefix]}.{leaf}'] = value
    return renamed
