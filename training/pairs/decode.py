# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Decodes of an image only what a crop needs, at the scale that it is resized to."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from clcp_ros import image_codec
from clcp_ros.errors import ImageError
from training.pairs import jpeg
from training.pairs.crop import Crop, crop_image

_FLAGS = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


def reduction(crop: Crop, width: int, height: int) -> int:
    """The largest of 8, 4, 2 and 1 by which a crop may shrink and still have all pixels wanted.

    Args:
        crop: The window.
        width: Columns wanted of it.
        height: Rows wanted.
    """
    return next(
        (s for s in (8, 4, 2) if crop.width // s >= width and crop.height // s >= height), 1
    )


def snap(crop: Crop, width: int, height: int, image_size: tuple[int, int]) -> Crop:
    """Move a crop to whole pixels of the reduced image, so that its geometry stays exact.

    A crop of 896 that is resized to 224 moves by at most 2 pixels and keeps its size.

    Args:
        crop: The window.
        width: Columns wanted of it.
        height: Rows wanted.
        image_size: (width, height) of the image, pixels.

    Returns:
        A window that is at most 7 pixels smaller each way, inside of the image.
    """
    step = reduction(crop, width, height)
    if step == 1:
        return crop
    w, h = crop.width // step * step, crop.height // step * step
    # An incomplete last column of the reduced image is not one of whole pixels.
    x = min(round(crop.x / step) * step, image_size[0] // step * step - w)
    y = min(round(crop.y / step) * step, image_size[1] // step * step - h)
    return Crop(x, y, w, h)


def decode_crop(data: bytes | memoryview, crop: Crop, width: int, height: int) -> np.ndarray:
    """Decode a window of an image file, resized.

    A JPEG is decoded at 1/2, 1/4 or 1/8 where the window is on whole pixels of that (`snap`), and
    only the window itself where its restart markers allow (`jpeg.cut`). A PNG has no such ways in.

    Args:
        data: A whole JPEG or PNG file.
        crop: The window, inside of the image.
        width: Columns of the result.
        height: Rows of the result.

    Returns:
        (height, width, 3) uint8 RGB.

    Raises:
        ImageError: The file is damaged, or smaller than the window.
    """
    if bytes(data[:2]) != b'\xff\xd8':
        image = image_codec.decode_bytes(data)
        if crop.x + crop.width > image.shape[1] or crop.y + crop.height > image.shape[0]:
            raise ImageError(f'{crop} is not inside of the image, {image.shape[:2]}')
        return crop_image(image, crop, width, height)
    step = reduction(crop, width, height)
    while any(v % step for v in (crop.x, crop.y, crop.width, crop.height)):
        step //= 2
    # At full size the decoder interpolates colours across the edges of its blocks.
    part = jpeg.cut(data, crop.x, crop.y, crop.width, crop.height, margin=int(step == 1))
    left = top = 0
    if part is not None:
        data, left, top = part
    image = _decode(data, step)
    window = Crop(
        (crop.x - left) // step, (crop.y - top) // step, crop.width // step, crop.height // step
    )
    if window.x + window.width > image.shape[1] or window.y + window.height > image.shape[0]:
        raise ImageError(f'{replace(crop)} is not inside of the image')
    small = crop_image(image, window, width, height)
    return cv2.cvtColor(small, cv2.COLOR_BGR2RGB, dst=small)


def _decode(data: bytes | memoryview, step: int) -> np.ndarray:
    """(h, w, 3) uint8 BGR at 1/step of the size."""
    flags = _FLAGS[step] | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        image = None
    if image is None:
        raise ImageError(f'damaged image: a JPEG of {len(data)} bytes that cannot be decoded')
    return image
