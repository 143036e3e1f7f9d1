# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Quantities that tell what embeddings and patch tokens are worth."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def alignment(image: Tensor, lidar: Tensor) -> float:
    """Mean squared distance of partners on the sphere (Wang and Isola 2020); 0 is best, 2 chance.

    Args:
        image: (N, D).
        lidar: (N, D).
    """
    squared = (F.normalize(image, dim=1) - F.normalize(lidar, dim=1)).square().sum(1)
    return float(squared.mean())


def uniformity(x: Tensor, t: float = 2.0) -> float:
    """Logarithm of the mean Gaussian potential of all pairs (Wang and Isola 2020).

    Args:
        x: (N, D), at least two rows.
        t: Of the potential.

    Returns:
        0 where all rows point the same way, about -2 t where they are spread over the sphere.
    """
    x = F.normalize(x, dim=1)
    cosine = x @ x.T
    squared = (2 - 2 * cosine).clamp(min=0)
    n = len(x)
    others = ~torch.eye(n, dtype=torch.bool, device=x.device)
    return float((-t * squared[others]).exp().mean().log())


def effective_rank(x: Tensor) -> float:
    """Exponential of the entropy of the covariance's eigenvalues (Roy and Vetterli 2007).

    Args:
        x: (N, D).

    Returns:
        Between 1 (all on a line) and min(N - 1, D); 0 where all rows are the same; NaN where one
        is not finite.
    """
    x = x.double() - x.double().mean(0)
    small = x.T @ x if x.shape[1] <= len(x) else x @ x.T
    if not bool(torch.isfinite(small).all()):
        return math.nan
    values = torch.linalg.eigvalsh(small).clamp(min=0)
    total = values.sum()
    if total <= 1e-12:
        return 0.0
    p = values / total
    return float(torch.special.entr(p).sum().exp())


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Linear centred kernel alignment (Kornblith et al. 2019): 1 for the same up to rotation.

    Args:
        x: (N, D1).
        y: (N, D2); row i belongs to row i of `x`.

    Returns:
        Between 0 and 1; NaN where a value is not finite.
    """
    x, y = (a.double() - a.double().mean(0) for a in (x, y))
    between = (x.T @ y).square().sum()
    within = (x.T @ x).square().sum().sqrt() * (y.T @ y).square().sum().sqrt()
    return float(between / within) if within != 0 else 0.0


def patch_cosines(x: Tensor, y: Tensor) -> Tensor:
    """Cosine of each patch token with the same one of another encoder.

    Args:
        x: (B, P, D).
        y: (B, P, D).

    Returns:
        (B * P,).
    """
    return F.cosine_similarity(x, y, dim=2).flatten()


def patch_similarity(x: Tensor) -> float:
    """Mean cosine between the patches of an image; near 1 they all say the same.

    Args:
        x: (B, P, D), at least two patches.
    """
    x = F.normalize(x, dim=2)
    patches = x.shape[1]
    # The sum over all pairs is the squared length of the sum.
    pairs = x.sum(1).square().sum(1) - patches
    return float((pairs / (patches * (patches - 1))).mean())
