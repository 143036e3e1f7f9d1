# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""BatchNorm that bears batches of one row, and blocks that are computed twice."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class _Bearing(nn.modules.batchnorm._BatchNorm):
    """What both of the classes below change."""

    recomputing = False

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        if x.numel() // max(x.shape[1], 1) < 2:  # a single value per channel has no variance
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, False, 0, self.eps
            )
        if self.recomputing and self.running_mean is not None and self.running_var is not None:
            # Copies, since what is kept for the gradients must be as much as the first time.
            mean, var = self.running_mean.clone(), self.running_var.clone()
            return F.batch_norm(x, mean, var, self.weight, self.bias, True, 0, self.eps)
        return super().forward(x)


class BatchNorm1d(_Bearing, nn.BatchNorm1d):
    """`nn.BatchNorm1d`; a single row is normalised as in evaluation, statistics count once."""


class BatchNorm2d(_Bearing, nn.BatchNorm2d):
    """`nn.BatchNorm2d`; a single pixel is normalised as in evaluation, statistics count once."""


def run_twice(block: nn.Module, *args: Any) -> Any:
    """Run a block without keeping what it computes: that is done again for the gradients.

    BatchNorm of the classes above counts its statistics only the first time.

    Args:
        block: Must compute the same both times.
        args: Its arguments.

    Returns:
        What the block returns.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return contextlib.nullcontext(), _recomputing(block)

    return checkpoint(block, *args, use_reentrant=False, context_fn=contexts)


@contextlib.contextmanager
def _recomputing(block: nn.Module) -> Iterator[None]:
    norms = [m for m in block.modules() if isinstance(m, _Bearing)]
    for norm in norms:
        norm.recomputing = True
    try:
        yield
    finally:
        for norm in norms:
            norm.recomputing = False


def bfloat16_if(wanted: bool, device: torch.device) -> AbstractContextManager[Any]:
    """Autocast to bfloat16, or nothing.

    Args:
        wanted: Whether to.
        device: Where it is computed.
    """
    if not wanted:
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)
