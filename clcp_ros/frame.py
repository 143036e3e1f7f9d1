# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A camera's frame, decoded no earlier and no further than somebody needs it."""

from __future__ import annotations

from typing import Any

import numpy as np

from clcp_ros.errors import ImageError
from clcp_ros.image_codec import decode_compressed, decode_image, image_size


class Frame:
    """An image as it came in: a message of either kind, or pixels.

    Decoding happens on demand and raises ImageError then.

    Args:
        source: sensor_msgs/Image, sensor_msgs/CompressedImage (rclpy's or rosbags'), or
            (H, W, 3) uint8 RGB.

    Raises:
        ImageError: Neither a message nor such an array.
    """

    def __init__(self, source: Any) -> None:
        self._source = source
        self._pixels: np.ndarray | None = None
        if isinstance(source, np.ndarray):
            if source.ndim != 3 or source.shape[2] != 3 or source.dtype != np.uint8:
                raise ImageError(
                    f'a frame of shape {source.shape} and type {source.dtype} is not '
                    '(H, W, 3) uint8'
                )
            self._pixels = source
        elif hasattr(source, 'encoding'):
            self._decode: Any = decode_image
        elif hasattr(source, 'format'):
            self._decode = decode_compressed
        else:
            raise ImageError(f'a frame of type {type(source).__name__} is not an image')

    @property
    def pixels(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB, all of it.

        Raises:
            ImageError: It cannot be decoded.
        """
        if self._pixels is None:
            self._pixels = self._decode(self._source)
        return self._pixels

    def at_least(self, height: int, width: int) -> np.ndarray:
        """The image, halved while it is decoded where that leaves no less than this size.

        What it gives depends on the source alone, not on what was asked for before.

        Args:
            height: Rows that are enough.
            width: Columns that are enough.

        Returns:
            (H, W, 3) uint8 RGB; it may still be several times as large.

        Raises:
            ImageError: It cannot be decoded.
        """
        if isinstance(self._source, np.ndarray):
            return self._source
        image = self._decode(self._source, (height, width))
        if image.shape[:2] == self.size:
            self._pixels = image
        return image

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image as it was sent, from its header.

        Raises:
            ImageError: It has none.
        """
        if self._pixels is not None:
            height, width = self._pixels.shape[:2]
        elif hasattr(self._source, 'encoding'):
            height, width = int(self._source.height), int(self._source.width)
        else:
            width, height = image_size(self._source.data)
        return height, width
