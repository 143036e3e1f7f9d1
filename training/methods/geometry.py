# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Range, height, normal and intensity from image tokens: what the lidar knows, as a target.

These depend on neither light nor weather, so that an encoder which tells them by day and by night
has one code for both. One layer reads them, so that they must be plain in the tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_HEIGHTS = (-0.3, 8.0)


@dataclass(frozen=True)
class GeometryBins:
    """Classes of range: logarithmic, with soft borders.

    Attributes:
        count: Number of classes.
        near_m: Middle of the first, metres; for a focal length of the image's side.
        far_m: Middle of the last.
    """

    count: int = 32
    near_m: float = 2.0
    far_m: float = 120.0

    def soft_labels(self, log_range: Tensor) -> Tensor:
        """Share of each class: linear between the two nearest middles.

        Args:
            log_range: (N,) logarithm of metres.

        Returns:
            (N, count), rows of sum one.
        """
        low, high = math.log(self.near_m), math.log(self.far_m)
        place = (log_range - low) / (high - low) * (self.count - 1)
        place = place.clamp(0, self.count - 1)
        middles = torch.arange(self.count, device=place.device)
        return (1 - (place[:, None] - middles).abs()).clamp(min=0)


class GeometryHead(nn.Module):
    """A linear layer from tokens to what the lidar measured there.

    Args:
        c_in: Channels of the tokens.
        bins: Classes of range.
    """

    def __init__(self, c_in: int, bins: GeometryBins = GeometryBins()) -> None:
        super().__init__()
        self.bins = bins
        self.linear = nn.Linear(c_in, bins.count + 5)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Predict.

        Args:
            tokens: (N, c_in).

        Returns:
            (N, bins) logits of range, (N,) height, (N, 3) normal (not of unit length) and (N,)
            intensity, the last two of `compressed` height and intensity.
        """
        x = self.linear(tokens)
        k = self.bins.count
        return x[:, :k], x[:, k], x[:, k + 1 : k + 4], x[:, k + 4]

    def values(self, tokens: Tensor, geometry: Tensor) -> Tensor:
        """Sum of the four disagreements.

        Cross-entropy of the range (less what soft labels cost at least), smooth L1 of height and
        intensity, `1 - cos` of the normal; a part that is not known of a point is 0.

        Args:
            tokens: (N, c_in).
            geometry: (N, 6), see `training.pairs.contrastive.GEOMETRY`.

        Returns:
            (N,).
        """
        logits, height, normal, intensity = self(tokens)
        soft = self.bins.soft_labels(geometry[:, 0])
        least = -torch.xlogy(soft, soft).sum(dim=1)
        ranges = F.cross_entropy(logits, soft, reduction='none') - least
        known = geometry[:, 1].isfinite()
        wanted = compressed(geometry[:, 1].nan_to_num(0.0))
        heights = F.smooth_l1_loss(height, wanted, reduction='none', beta=0.2) * known
        has_normal = geometry[:, 2:5].abs().sum(dim=1) > 0
        normals = (1 - F.cosine_similarity(normal, geometry[:, 2:5], dim=1)) * has_normal
        intensities = F.smooth_l1_loss(intensity, geometry[:, 5], reduction='none', beta=0.1)
        return ranges + heights + normals + intensities


def compressed(height: Tensor) -> Tensor:
    """Heights in metres with the differences near the road drawn apart: asinh(2 h) / 2.

    Args:
        height: (N,) metres.

    Returns:
        (N,), limited to what -0.3 to 8 m give.
    """
    return torch.asinh(2 * height.clamp(*_HEIGHTS)) / 2
