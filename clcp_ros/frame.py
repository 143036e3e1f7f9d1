# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A camera's frame, decoded no earlier and no further than somebody needs it."""

from __future__ import annotations

from typing import Any

import numpy as np

from clcp_ros.errors import ImageError
from clcp_ros.image_codec import decode_compressed, decode_image


class Frame:
    """An image as it came in: a message of either kind, or pixels.

    Decoding happens on demand, once, and raises ImageError then. Not for use by two threads at
    the same time.

    Args:
        source: sensor_msgs/Image, sensor_msgs/CompressedImage (rclpy's or rosbags'), or
            (H, W, 3) uint8 RGB.

    Raises:
        ImageError: Neither a message nor such an array.
    """

    def __init__(self, source: Any) -> None:
        self._pixels: np.ndarray | None = None
        if isinstance(source, np.ndarray):
            if source.ndim != 3 or source.shape[2] != 3 or source.dtype != np.uint8:
                raise ImageError(
                    f'a frame of shape {source.shape} and type {source.dtype} is not '
                    '(H, W, 3) uint8'
                )
            self._pixels = source
        elif not hasattr(source, 'encoding') and not hasattr(source, 'format'):
            raise ImageError(f'a frame of type {type(source).__name__} is not an image')
        self._source = source

    @property
    def pixels(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB, all of it.

        Raises:
            ImageError: It cannot be decoded.
        """
        if self._pixels is None:
            decode = decode_image if hasattr(self._source, 'encoding') else decode_compressed
            self._pixels = decode(self._source)
        return self._pixels

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image as it was sent.

        Raises:
            ImageError: It cannot be decoded.
        """
        height, width = self.pixels.shape[:2]
        return height, width
