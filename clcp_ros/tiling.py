# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Frames seen through overlapping windows of the network's input size.

The windows are those of MMSegmentation's slide mode and of Segmenter: as many steps as reach the
far border, the last window moved back so that every one is whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clcp_ros.errors import ModelError


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


@dataclass(frozen=True)
class FrameTiling:
    """Windows of frames of one size, as a bundle describes them.

    Logits of the windows are averaged on the network's grid, which is why every window must lie on
    it. Averaging pixels instead would cost as much as a network, and differs along the borders of
    windows alone.

    Attributes:
        height: That frames are resized to.
        width: That frames are resized to.
        tiling: The windows.

    Raises:
        ModelError: The frame is smaller than a window.
    """

    height: int
    width: int
    tiling: Tiling

    def __post_init__(self) -> None:
        rows, columns = self.tiling.window
        if self.height < rows or self.width < columns:
            raise ModelError(
                f'a frame of {self.height} x {self.width} is smaller than its windows of {rows} x '
                f'{columns}'
            )

    @property
    def corners(self) -> list[tuple[int, int]]:
        """(top, left) of every window, row by row."""
        return self.tiling.corners(self.height, self.width)

    def cut(self, frame: np.ndarray) -> np.ndarray:
        """The windows of a prepared frame.

        Args:
            frame: (3, height, width).

        Returns:
            (W, 3, h, w), a copy.
        """
        rows, columns = self.tiling.window
        return np.stack([frame[:, t : t + rows, c : c + columns] for t, c in self.corners])

    def cell(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Pixels of a step of the network's grid.

        Args:
            grid: (height, width) of a window's logits.

        Raises:
            ModelError: Some window does not lie on the grid of the frame.
        """
        sizes = []
        for size, window, stride, points in zip(
            (self.height, self.width), self.tiling.window, self.tiling.stride, grid, strict=True
        ):
            step = window // max(points, 1)
            if step * points != window or stride % step or (size - window) % step:
                raise ModelError(
                    f'a frame of {size} pixels in windows of {window} and steps of {stride} does '
                    f'not fit the {points} cells of a window: steps, and frame less window, must '
                    f'be multiples of {max(step, 1)}'
                )
            sizes.append(step)
        return sizes[0], sizes[1]

    def merge(self, logits: np.ndarray) -> np.ndarray:
        """Average the logits of a frame's windows.

        Args:
            logits: (W, C, gh, gw) float32, in the order of `corners`.

        Returns:
            (C, GH, GW) float32 on the frame's grid.
        """
        rows, columns = logits.shape[2:]
        high, wide = self.cell((rows, columns))
        shape = self.height // high, self.width // wide
        total = np.zeros((logits.shape[1], *shape), np.float32)
        count = np.zeros(shape, np.float32)
        for part, (top, left) in zip(logits, self.corners, strict=True):
            y, x = top // high, left // wide
            total[:, y : y + rows, x : x + columns] += part
            count[y : y + rows, x : x + columns] += 1
        total /= count
        return total


def _positions(size: int, window: int, stride: int) -> list[int]:
    last = max(size - window, 0)
    return [min(i * stride, last) for i in range(-(-last // stride) + 1)]
