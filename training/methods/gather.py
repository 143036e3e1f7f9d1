# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the processes of a run tell each other, with gradients.

DDP averages the gradients of the ranks. So that two processes give the gradients of one, a loss
that every rank computes over all rows goes back through `gather_rows`, whose gradient is the sum
over the ranks, and a mean over samples is `mean_over_ranks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of processes of the run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_rows(x: Tensor) -> Tensor:
    """The rows of all ranks, rank after rank; its gradient reaches the rank that a row is from.

    Args:
        x: (B, ...), of the same shape on all ranks.

    Returns:
        (world_size * B, ...).
    """
    return x if world_size() == 1 else _GatherRows.apply(x)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = len(x)
        gathered = x.new_empty((world_size(), *x.shape))
        dist.all_gather(list(gathered.unbind()), x.contiguous())
        return gathered.flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        own = dist.get_rank() * ctx.rows
        return gradient[own : own + ctx.rows]


def means_over_ranks(terms: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """The mean of the values of all ranks, for each of some terms.

    Args:
        terms: (n,) values of this rank each; n may differ between ranks and be 0.

    Returns:
        Scalars with this rank's share of the gradient, scaled such that DDP's average over the
        ranks is the gradient of the mean; and the means, for showing.
    """
    if not terms:
        return [], []
    sums = torch.stack([t.sum() for t in terms])
    totals = torch.stack(
        [sums.detach(), torch.tensor([float(len(t)) for t in terms], device=sums.device)]
    )
    if world_size() > 1:
        dist.all_reduce(totals)
    counts = totals[1].clamp(min=1)
    shares = sums * world_size() / counts
    return list(shares), list(totals[0] / counts)
