# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Contrastive losses and what they can reach."""

from __future__ import annotations

import math

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


def clip_floor(pairs: int, scale: float) -> float:
    """The smallest value that `clip_loss` can take.

    Partners have a cosine of 1 and all others that of a simplex' corners, -1 / (pairs - 1), the
    smallest that so many directions can have to each other.

    Args:
        pairs: In the batch, at least two.
        scale: Inverse temperature.
    """
    return math.log1p((pairs - 1) * math.exp(-scale * pairs / (pairs - 1)))


def retrieval(image: Tensor, lidar: Tensor) -> dict[str, float]:
    """How well each modality finds its partner among all of the other.

    Args:
        image: (N, D) normalised.
        lidar: (N, D) normalised.

    Returns:
        `r1`, `r5` and `r10`, the share of queries (both ways) whose partner is among the first k,
        the median `rank`, from 1, and the same for each way: `image_to_lidar_r1`, ...
        `lidar_to_image_rank`. Of equal similarities the partner's comes last: embeddings that
        are all the same find nothing.
    """
    similarity = image @ lidar.T
    own = similarity.diagonal()
    ranks = {
        'image_to_lidar_': (similarity >= own[:, None]).sum(1),
        'lidar_to_image_': (similarity >= own[None]).sum(0),
    }
    ranks = {'': torch.cat(list(ranks.values())), **ranks}
    result = {}
    for way, rank in ranks.items():
        for k in (1, 5, 10):
            result[f'{way}r{k}'] = float((rank <= k).float().mean())
        result[f'{way}rank'] = float(rank.float().median())
    # Nothing is as large as NaN: all would come first.
    finite = bool(torch.isfinite(similarity).all())
    return result if finite else dict.fromkeys(result, math.nan)
