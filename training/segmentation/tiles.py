# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Sliding-window inference: overlapping windows whose logits are averaged.

The windows are those of MMSegmentation's slide mode and of Segmenter: as many steps as reach the
far border, the last window moved back so that every one is whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from clcp_ros.errors import ModelError

Forward = Callable[[Tensor], Tensor]
"""(B, 3, h, w) normalised windows -> (B, C, h', w') logits on any grid."""


@dataclass(frozen=True)
class Tiling:
    """Windows of an image.

    Attributes:
        window: (height, width) that the network sees.
        stride: (height, width) between windows, at most the window.

    Raises:
        ModelError: A stride that would leave pixels out, or sizes below one.
    """

    window: tuple[int, int]
    stride: tuple[int, int]

    def __post_init__(self) -> None:
        for window, stride in zip(self.window, self.stride, strict=True):
            if window < 1 or not 1 <= stride <= window:
                raise ModelError(
                    f'windows of {self.window[0]} x {self.window[1]} in steps of {self.stride[0]} '
                    f'x {self.stride[1]} leave pixels out; steps must lie in 1 ... window'
                )

    def corners(self, height: int, width: int) -> list[tuple[int, int]]:
        """(top, left) of every window of an image, row by row.

        Args:
            height: Of the image; a smaller one than the window is one window (padded).
            width: Of the image.
        """
        rows = _positions(height, self.window[0], self.stride[0])
        columns = _positions(width, self.window[1], self.stride[1])
        return [(top, left) for top in rows for left in columns]


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


def _positions(size: int, window: int, stride: int) -> list[int]:
    last = max(size - window, 0)
    return [min(i * stride, last) for i in range(-(-last // stride) + 1)]
