# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From pixels to the network's input: one definition for training, evaluation, replay and node.

An image is shrunk by halves, each the mean of two by two pixels, while it is at least twice as
large as wanted, and then bilinearly. That is within the noise of JPEG of what a JPEG decoder gives
that decodes at half the size, so a frame of any transport ends as what was trained on, and it is
several times faster than the mean over the exact area.
"""

from __future__ import annotations

import functools

import cv2
import numpy as np

from clcp_ros.bundle import InputSpec


def halvings(size: int, wanted: int) -> int:
    """How often a length can be halved, rounding up, without falling below another one."""
    times = 0
    while size >= 2 * wanted > 0:
        size, times = (size + 1) // 2, times + 1
    return times


def halve(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Halve an image several times.

    Args:
        image: (H, W) or (H, W, C) uint8.
        rows: How often to halve its height.
        columns: How often to halve its width.

    Returns:
        The smaller image; `image` itself when both are 0. Odd lengths are rounded up.
    """
    while rows > 0 or columns > 0:
        height, width = image.shape[:2]
        size = (
            (width + 1) // 2 if columns > 0 else width,
            (height + 1) // 2 if rows > 0 else height,
        )
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        rows, columns = rows - 1, columns - 1
    return image


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize an image as the robot does.

    Args:
        image: (H, W, 3) uint8.
        height: New height.
        width: New width.

    Returns:
        (height, width, 3) uint8.
    """
    image = halve(image, halvings(image.shape[0], height), halvings(image.shape[1], width))
    if image.shape[:2] == (height, width):
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def normalize(image: np.ndarray, spec: InputSpec) -> np.ndarray:
    """Normalise an image for the network.

    Args:
        image: (H, W, 3) uint8 RGB.
        spec: Mean and standard deviation.

    Returns:
        (3, H, W) float32, a new array.
    """
    planes = np.empty((3, *image.shape[:2]), np.float32)
    tables = _tables(spec.mean, spec.std)
    for channel, table, plane in zip(cv2.split(image), tables, planes, strict=True):
        cv2.LUT(channel, table, dst=plane)
    return planes


@functools.lru_cache(maxsize=8)
def _tables(mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """(3, 256) float32: what becomes of each value of each channel."""
    values = np.arange(256, dtype=np.float32)
    offset = np.asarray(mean, np.float32)[:, None] * 255
    scale = 1 / (np.asarray(std, np.float32)[:, None] * 255)
    return (values - offset) * scale


def preprocess(image: np.ndarray, spec: InputSpec) -> np.ndarray:
    """Resize and normalise an image for the network.

    Args:
        image: (H, W, 3) uint8 RGB.
        spec: Geometry and normalisation.

    Returns:
        (3, height, width) float32.
    """
    return normalize(resize(image, spec.height, spec.width), spec)
