# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Masks from the logits of overlapping windows.

What papers do with a window's logits, upsample them bilinearly, average them with those of other
windows in every pixel, resize the mean to the label's size, is linear and separable: each pixel of
a row is a weighted sum of few grid points, whatever the row. So it is two products with narrow
matrices, of the rows and of the columns, and logits in pixels exist only for a few rows at a time.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clcp_ros.tiling import Tiling

_STRIP_CPU = 16
"""Rows of a mask decided at once: 19 classes of 2048 columns are 2.5 MB, which stay in a cache."""

_STRIP_DEVICE = 256
"""The same on an accelerator, which wants large pieces; 160 MB for a frame of Cityscapes."""


class Decision(NamedTuple):
    """What is published of a frame.

    Attributes:
        mask: (H, W) uint8 class ids.
        confidence: (H, W) uint8, 255 stands for a softmax probability of 1.
    """

    mask: np.ndarray
    confidence: np.ndarray


class _Axis(NamedTuple):
    """How pixels of one axis are made of grid points.

    Attributes:
        weights: (pixels, windows x points) float32.
        first: (pixels,) first point with a weight; it never falls.
        last: (pixels,) last point with one; it never falls, either.
    """

    weights: Tensor
    first: tuple[int, ...]
    last: tuple[int, ...]


class Mosaic:
    """Puts the windows of an image together.

    Args:
        tiling: The windows; an image smaller than one was padded at the bottom and on the right.
        size: (height, width) of the image that the windows were cut from.
        grid: (h, w) of a window's logits.
        target: (height, width) of the mask.
        device: Where the logits are.
    """

    def __init__(
        self,
        tiling: Tiling,
        size: tuple[int, int],
        grid: tuple[int, int],
        target: tuple[int, int],
        device: torch.device | str = 'cpu',
    ) -> None:
        self._axes = [
            _axis(tiling.window[i], tiling.stride[i], size[i], grid[i], target[i], str(device))
            for i in range(2)
        ]
        self._grid, self._target = grid, target

    @torch.inference_mode()
    def logits(self, windows: Tensor) -> Tensor:
        """Logits in pixels, all at once: a lot of memory.

        Args:
            windows: (W, C, h, w) float32, in the order of `Tiling.corners`.

        Returns:
            (C, height, width) float32: the mean over the windows that hold a pixel, resized.
        """
        rows, _ = self._axes
        wide = self._across(windows)
        points, classes, width = wide.shape
        return (rows.weights @ wide.view(points, -1)).view(-1, classes, width).transpose(0, 1)

    @torch.inference_mode()
    def decide(self, windows: Tensor) -> Decision:
        """The best class of each pixel and its probability.

        Args:
            windows: (W, C, h, w) float32, in the order of `Tiling.corners`.

        Returns:
            Mask and confidence, of the target's size.
        """
        rows, _ = self._axes
        wide = self._across(windows)
        _, classes, width = wide.shape
        mask = torch.empty(self._target, dtype=torch.uint8, device=wide.device)
        confidence = torch.empty_like(mask)
        on_cpu = wide.device.type == 'cpu'
        step = _STRIP_CPU if on_cpu else _STRIP_DEVICE
        for top in range(0, self._target[0], step):
            bottom = min(top + step, self._target[0])
            low, high = rows.first[top], rows.last[bottom - 1] + 1
            part = rows.weights[top:bottom, low:high] @ wide[low:high].view(high - low, -1)
            part = part.view(bottom - top, classes, width)
            if on_cpu:
                best = part.amax(1)
                mask[top:bottom] = _places(part, best)
            else:
                best, ids = part.max(dim=1)
                mask[top:bottom] = ids
            peak = part.sub_(best[:, None]).exp_().sum(1).reciprocal_().mul_(255)
            confidence[top:bottom] = peak.round_()
        return Decision(mask.cpu().numpy(), confidence.cpu().numpy())

    def _across(self, windows: Tensor) -> Tensor:
        """(rows of windows x h, C, width): the windows side by side, upsampled along the rows."""
        _, columns = self._axes
        down, right = self._grid
        number = columns.weights.shape[1] // right
        classes = windows.shape[1]
        side = windows.float().view(-1, number, classes, down, right).permute(0, 3, 2, 1, 4)
        points = side.reshape(-1, number * right)
        wide = torch.empty(len(points), self._target[1], device=windows.device)
        # Few points reach into a stretch of columns; the rest of the matrix is zero.
        step = 16 * max(1, self._target[1] // max(columns.weights.shape[1], 1))
        for left in range(0, self._target[1], step):
            end = min(left + step, self._target[1])
            low, high = columns.first[left], columns.last[end - 1] + 1
            torch.mm(
                points[:, low:high], columns.weights[left:end, low:high].T, out=wide[:, left:end]
            )
        return wide.view(-1, classes, self._target[1])


def _places(part: Tensor, best: Tensor) -> Tensor:
    """(rows, width) uint8: the first class of (rows, C, width) with the best value.

    torch's own argmax across a middle axis takes five times as long on a CPU.
    """
    ids = torch.zeros(best.shape, dtype=torch.uint8)
    for c in range(part.shape[1] - 1, 0, -1):
        ids.masked_fill_(part[:, c] == best, c)
    return ids.masked_fill_(part[:, 0] == best, 0)


@functools.lru_cache(maxsize=64)
def _axis(window: int, stride: int, size: int, points: int, target: int, device: str) -> _Axis:
    padded = max(size, window)
    starts = [top for top, _ in Tiling((window, 1), (stride, 1)).corners(padded, 1)]
    upsample = _interpolation(points, window)
    weights = torch.zeros(padded, len(starts) * points, dtype=torch.float64)
    for i, start in enumerate(starts):
        weights[start : start + window, i * points : (i + 1) * points] = upsample
    # Every window gives a pixel weights that sum to one, so that this is their mean.
    weights /= weights.sum(1, keepdim=True)
    weights = _interpolation(size, target) @ weights[:size]
    used = weights != 0
    first = used.to(torch.uint8).argmax(1)
    last = used.shape[1] - 1 - used.flip(1).to(torch.uint8).argmax(1)
    return _Axis(
        weights.float().to(device),
        # Monotone already where windows overlap little; where they do not, made so.
        tuple(first.flip(0).cummin(0).values.flip(0).tolist()),
        tuple(last.cummax(0).values.tolist()),
    )


def _interpolation(points: int, pixels: int) -> Tensor:
    """(pixels, points) float64: bilinear, half-pixel centres, as torch's interpolate."""
    eye = torch.eye(points, dtype=torch.float64)[None]
    return F.interpolate(eye, size=pixels, mode='linear', align_corners=False)[0].T
