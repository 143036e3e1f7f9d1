# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685): W + B A, trained in place of W.

Written as a parametrization of the weight, so that the network's own code runs unchanged and
merging is exact: the weight that was computed is the one that is kept.
"""

from __future__ import annotations

import re
from typing import cast

from torch import Tensor, nn
from torch.nn.utils import parametrize

from clcp_ros.errors import ModelError

ATTENTION = r'attn\.(qkv|proj)$'
"""The layers of timm's vision transformers that are adapted by default."""


class LowRank(nn.Module):
    """Adds `scale * B A` to a weight; nothing at first, since B starts with zeros.

    Args:
        weight: (out, in, ...) that it is for.
        rank: Columns of B and rows of A.
        alpha: `scale` times `rank`.
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        self.scale = alpha / rank
        self.a = nn.Parameter(weight.new_empty(rank, weight[0].numel()))
        self.b = nn.Parameter(weight.new_zeros(len(weight), rank))
        nn.init.kaiming_uniform_(self.a, a=5**0.5)

    def forward(self, weight: Tensor) -> Tensor:
        """The adapted weight."""
        return weight + self.scale * (self.b @ self.a).view_as(weight)


def add_lora(
    network: nn.Module, rank: int, alpha: float | None = None, layers: str = ATTENTION
) -> list[str]:
    """Freeze a network but for low-rank changes of some of its layers.

    Args:
        network: What to adapt, in place.
        rank: Of the changes.
        alpha: Their scale times the rank; twice the rank when None.
        layers: Regular expression, searched in the names of linear and convolutional layers.

    Returns:
        Names of the adapted layers.

    Raises:
        ModelError: No layer matches, or the rank is not positive.
    """
    if rank < 1:
        raise ModelError(f'the rank of a low-rank adaptation must be positive, not {rank}')
    chosen = [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and re.search(layers, name)
    ]
    if not chosen:
        raise ModelError(
            f'no layer of this network matches {layers!r}, so there is nothing to adapt; '
            'convolutional networks need another expression, or layer decay instead'
        )
    network.requires_grad_(False)
    for _, module in chosen:
        change = LowRank(module.weight, rank, 2 * rank if alpha is None else alpha)
        parametrize.register_parametrization(module, 'weight', change)
    return [name for name, _ in chosen]


def merge_lora(network: nn.Module) -> nn.Module:
    """Write the changes into the weights, in place; the names are the network's own again.

    Args:
        network: From `add_lora`; one without adaptations stays as it is.

    Returns:
        The network.
    """
    for module in network.modules():
        if parametrize.is_parametrized(module, 'weight'):
            weight = nn.Parameter(cast('Tensor', module.weight).detach().clone())
            # Not remove_parametrizations, which takes the weight from the class that copies of
            # this module share with it.
            del module.parametrizations
            module.__class__ = type(module).__bases__[0]
            module.weight = weight
    return network
