# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Weights between those of two networks of one kind."""

from __future__ import annotations

import torch
from torch import nn


def interpolate_weights(network: nn.Module, initial: nn.Module, share: float) -> None:
    """Mix weights: `share` of the network's own, the rest of the initial ones (WiSE-FT).

    BatchNorm's statistics are mixed as well; integers, such as its count of batches, stay.

    Args:
        network: Changed in place.
        initial: What it was trained from; not changed.
        share: In [0, 1]; 1 changes nothing.
    """
    before = initial.state_dict()
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                # Not lerp(..., 0), which is not exactly the initial value.
                mixed = share * value + (1 - share) * before[name]
                value.copy_(value if share == 1 else before[name] if share == 0 else mixed)


def move_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move an average of weights a step towards a network; buffers are taken over.

    Args:
        average: Changed in place.
        network: What is averaged, of the same structure.
        decay: Share that stays.
    """
    with torch.no_grad():
        for slow, fast in zip(average.parameters(), network.parameters(), strict=True):
            slow.lerp_(fast.to(slow.dtype), 1 - decay)
        for kept, new in zip(average.buffers(), network.buffers(), strict=True):
            kept.copy_(new)
