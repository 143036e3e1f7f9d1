# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Contrastive losses and what tells whether they work."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def clip_loss(image: Tensor, lidar: Tensor, scale: Tensor | float) -> Tensor:
    """Symmetric InfoNCE over a batch of pairs (Radford et al. 2021, figure 3).

    Args:
        image: (B, D) image embeddings, L2-normalised.
        lidar: (B, D) lidar embeddings, L2-normalised; row i belongs to row i of `image`.
        scale: Inverse temperature that multiplies the cosines; 14.3 is a temperature of 0.07.

    Returns:
        Scalar.
    """
    logits = scale * image @ lidar.T
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def retrieval(image: Tensor, lidar: Tensor) -> dict[str, float]:
    """How well one modality finds its partner among all of the other.

    Args:
        image: (N, D) normalised.
        lidar: (N, D) normalised.

    Returns:
        `r1` and `r5`, the share of queries (both ways) whose partner is first or among the first
        five, and the median `rank`, from 1.
    """
    similarity = image @ lidar.T
    own = similarity.diagonal()
    ranks = torch.cat([(similarity > own[:, None]).sum(1), (similarity > own[None]).sum(0)]) + 1
    return {
        'r1': float((ranks <= 1).float().mean()),
        'r5': float((ranks <= 5).float().mean()),
        'rank': float(ranks.float().median()),
    }
