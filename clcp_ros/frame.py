# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A camera's frame, decoded no earlier and no further than somebody needs it."""

from __future__ import annotations

from typing import Any

import numpy as np

from clcp_ros.errors import ImageError
from clcp_ros.image_codec import (
    decode_compressed,
    decode_gray,
    decode_image,
    image_format,
    image_size,
    is_plain_file,
)


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
        self._reduced: np.ndarray | None = None
        if isinstance(source, np.ndarray):
            if source.ndim != 3 or source.shape[2] != 3 or source.dtype != np.uint8:
                raise ImageError(
                    f'a frame of shape {source.shape} and type {source.dtype} is not '
                    '(H, W, 3) uint8'
                )
            self._pixels = source
        elif not hasattr(source, 'data'):
            raise ImageError(f'a frame of type {type(source).__name__} is not an image')
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
        self._reduced = image
        return image

    def luminance(self, height: int, width: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Colours of no less than some size, and luminance of every pixel, where that is cheap.

        A JPEG holds luminance by itself, and its colours may have been decoded at a lower
        resolution already.

        Args:
            height: Rows that are enough for the colours.
            width: Columns that are enough for the colours.

        Returns:
            (h, w, 3) uint8 RGB and (H, W) uint8; None where `pixels` is the way.

        Raises:
            ImageError: It cannot be decoded.
        """
        source = self._source
        if self._pixels is not None or not hasattr(source, 'format'):
            return None
        if image_format(source.data) != 'jpg' or not is_plain_file(source.format, source.data):
            return None
        colors = self._reduced
        if colors is None or colors.shape[0] < height or colors.shape[1] < width:
            colors = self.at_least(height, width)
        return colors, decode_gray(source.data)

    @property
    def encoding(self) -> str:
        """What the image was sent as: a raw image's encoding, or a compressed one's format."""
        if hasattr(self._source, 'encoding'):
            return str(self._source.encoding)
        return str(self._source.format) if hasattr(self._source, 'format') else 'rgb8'

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
