# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Large batches in little memory: the gradient of all pairs, the activations of a chunk.

GradCache (Gao et al. 2021, arXiv 2101.06983) embeds a batch chunk by chunk without keeping what
was computed, takes the loss over all embeddings, and embeds each chunk again for its gradients.
Activation checkpointing of one chunk does just that within one backward pass, so that DDP and
mixed precision need to know nothing of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from torch import nn
from torch.utils.checkpoint import checkpoint

_T = TypeVar('_T')


def embed_without_keeping(module: nn.Module, embed: Callable[[Any], _T], batch: Any) -> _T:
    """Compute `embed(batch)` now, and again when its gradients are asked for.

    Random numbers are the same both times; BatchNorm counts its statistics once.

    Args:
        module: What `embed` computes with.
        embed: A function of the batch and of random numbers alone.
        batch: Its argument.
    """
    return checkpoint(
        embed,
        batch,
        use_reentrant=False,
        context_fn=lambda: (contextlib.nullcontext(), _statistics_as_they_are(module)),
    )


@contextlib.contextmanager
def _statistics_as_they_are(module: nn.Module) -> Iterator[None]:
    kind = nn.modules.batchnorm._BatchNorm
    norms = [m for m in module.modules() if isinstance(m, kind) and m.training]
    before = [(m.momentum, m.num_batches_tracked) for m in norms]
    for norm in norms:
        # The same operation, so that as much is kept for the gradients as the first time.
        norm.momentum = 0.0
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked = norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
