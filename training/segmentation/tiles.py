# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Sliding-window inference: overlapping windows whose logits are averaged.

The windows are those of MMSegmentation's slide mode and of Segmenter: as many steps as reach the
far border, the last window moved back so that every one is whole.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from clcp_ros.tiling import Tiling

Forward = Callable[[Tensor], Tensor]
"""(B, 3, h, w) normalised windows -> (B, C, h', w') logits on any grid."""


def slide(image: Tensor, tiling: Tiling, forward: Forward, batch_size: int = 8) -> Tensor:
    """Average the logits of an image's windows.

    Args:
        image: (3, H, W), normalised. Where it is smaller than the window, it is padded with zeros
            (the mean) at the bottom and on the right.
        tiling: The windows.
        forward: The network.
        batch_size: Windows at a time.

    Returns:
        (C, H, W) float32 logits: in every pixel the mean over the windows that hold it.
    """
    height, width = image.shape[-2:]
    rows, columns = tiling.window
    image = F.pad(image, (0, max(columns - width, 0), 0, max(rows - height, 0)))
    corners = tiling.corners(*image.shape[-2:])
    total: Tensor | None = None
    count = image.new_zeros(image.shape[-2:])
    for first in range(0, len(corners), batch_size):
        chosen = corners[first : first + batch_size]
        logits = forward(torch.stack([image[:, t : t + rows, c : c + columns] for t, c in chosen]))
        logits = F.interpolate(
            logits.float(), size=tiling.window, mode='bilinear', align_corners=False
        )
        if total is None:
            total = logits.new_zeros((logits.shape[1], *image.shape[-2:]))
        for (top, left), part in zip(chosen, logits, strict=True):
            total[:, top : top + rows, left : left + columns] += part
            count[top : top + rows, left : left + columns] += 1
    assert total is not None
    return (total / count)[:, :height, :width]
