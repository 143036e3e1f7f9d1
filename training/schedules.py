# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Learning rates as functions of the step, and which parameters decay."""

from __future__ import annotations

import math
from typing import Any

from timm.optim import param_groups_layer_decay
from torch import nn


def cosine_restarts(step: int, *, warmup: int, cycle: int, mult: float, floor: float) -> float:
    """Linear warm-up, then cosine cycles that grow (Loshchilov and Hutter 2017).

    With 95 steps an epoch, `warmup=475, cycle=95, mult=2` is the schedule of the thesis' tuned
    run: cycles end after 1, 3, 7, 15, 31 and 63 epochs.

    Args:
        step: Step, from 0.
        warmup: Steps of the warm-up.
        cycle: Steps of the first cycle.
        mult: Length of each cycle relative to the one before.
        floor: Lowest factor.

    Returns:
        Factor of the peak learning rate, in (0, 1].
    """
    if step < warmup:
        return max((step + 1) / (warmup + 1), floor)
    position, length = float(step - warmup), float(max(cycle, 1))
    while position >= length:
        position -= length
        length *= mult
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * position / length))


_NEVER_DECAYED = ('pos_embed', 'cls_token', 'reg_token', 'dist_token', 'logit_scale', 'cls_emb')


def decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups: matrices decay; biases, norms, embeddings and scales do not.

    Args:
        module: What to train; frozen parameters are left out.
        weight_decay: For the first group.

    Returns:
        Two groups for an optimizer.
    """
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        leaf = name.rpartition('.')[2]
        (kept if parameter.ndim <= 1 or leaf in _NEVER_DECAYED else decayed).append(parameter)
    return [
        {'params': decayed, 'weight_decay': weight_decay},
        {'params': kept, 'weight_decay': 0.0},
    ]


def layer_decay_groups(
    encoder: nn.Module, weight_decay: float, layer_decay: float
) -> list[dict[str, Any]]:
    """Parameter groups of a timm network whose learning rate falls towards the input.

    Early layers are the most general; a smaller step keeps what their weights know (Clark et al.
    2020, BEiT).

    Args:
        encoder: A timm network, which says itself how its layers follow each other.
        weight_decay: Of matrices; biases, norms and embeddings have none.
        layer_decay: Factor from one layer to the one before, in (0, 1]; the last that is trained
            has 1.

    Returns:
        Groups for an optimizer, each with its factor as `lr_scale`.
    """
    named = getattr(encoder, 'no_weight_decay', None)
    skipped = named() if callable(named) else ()
    groups: list[dict[str, Any]] = param_groups_layer_decay(
        encoder, weight_decay, no_weight_decay_list=skipped, layer_decay=layer_decay
    )
    # timm counts from the classifier and over layers that are not trained: frozen ones, because
    # nothing reads them.
    last = max((group['lr_scale'] for group in groups), default=1.0)
    return [{**group, 'lr_scale': group['lr_scale'] / last} for group in groups]
