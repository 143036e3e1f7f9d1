# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What runs before 2026-11-21 wrote, as it is read now: the logit scale was a scalar."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def update_heads(state: dict[str, Tensor]) -> None:
    """Give the logit scale its row.

    Args:
        state: Weights of a method; changed in place.
    """
    _to_rows(state, 'logit_scale')


def update_checkpoint(checkpoint: dict[str, Any]) -> None:
    """Give the logit scale and the optimizer's averages of it their row.

    Args:
        checkpoint: Of Lightning; changed in place.
    """
    update_heads(checkpoint['state_dict'])
    for optimizer in checkpoint.get('optimizer_states', ()):
        for averages in optimizer['state'].values():
            _to_rows(averages, 'exp_avg', 'exp_avg_sq')


def _to_rows(tensors: dict[str, Any], *names: str) -> None:
    for name in names:
        if name in tensors and not tensors[name].ndim:
            tensors[name] = tensors[name].view(1)
