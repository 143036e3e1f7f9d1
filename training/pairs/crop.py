# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The same window of a pair's image and points.

The points of a crop are those that project into it: then both encoders are shown the same piece of
the world (CLCP thesis, section on joint cropping).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from training.pairs.geometry import inside_image


@dataclass(frozen=True)
class Crop:
    """A window of an image, in whole pixels.

    Attributes:
        x: Left column.
        y: Top row.
        width: Columns.
        height: Rows.
    """

    x: int
    y: int
    width: int
    height: int

    def contains(self, uv: np.ndarray) -> np.ndarray:
        """(N,) bool: which (N, 2) pixel coordinates fall into the window."""
        return inside_image(uv - np.array([self.x, self.y]), self.width, self.height)

    def adjust(self, K: np.ndarray, width: int, height: int) -> np.ndarray:
        """K of the window resized to width x height, (3, 3) float64."""
        scale = np.array([width / self.width, height / self.height])
        adjusted = np.array(K, np.float64)
        adjusted[:2] *= scale[:, None]
        # Pixel centres are whole numbers, but it is the outer edges (-0.5) that scale.
        origin = np.array([self.x, self.y])
        adjusted[:2, 2] = (np.asarray(K)[:2, 2] + 0.5 - origin) * scale - 0.5
        return adjusted


def crop_image(image: np.ndarray, crop: Crop, width: int, height: int) -> np.ndarray:
    """The window of an (H, W, ...) image, resized to (height, width, ...)."""
    window = image[crop.y : crop.y + crop.height, crop.x : crop.x + crop.width]
    if window.shape[:2] == (height, width):
        return np.ascontiguousarray(window)
    shrinks = width < crop.width or height < crop.height
    return cv2.resize(
        window, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )


def crop_pair(
    image: np.ndarray,
    points: np.ndarray,
    uv: np.ndarray,
    K: np.ndarray,
    crop: Crop,
    size: int | tuple[int, int],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Crop image and points together.

    Args:
        image: (H, W, 3) uint8.
        points: (N, C), any columns.
        uv: (N, 2) their pixels in `image` (`geometry.project_points`), NaN behind the camera.
        K: (3, 3) of `image`.
        crop: The window.
        size: (width, height) of the result, or one number for a square.

    Returns:
        image (height, width, 3), the points (M, C) that project into the window, and its K (3, 3).
    """
    width, height = (size, size) if isinstance(size, int) else size
    kept = points[crop.contains(uv)]
    return crop_image(image, crop, width, height), kept, crop.adjust(K, width, height)


def sample_square(
    rng: np.random.Generator,
    uv: np.ndarray,
    image_size: tuple[int, int],
    side: int | tuple[int, int],
    min_points: int = 1,
    attempts: int = 10,
) -> Crop:
    """A random square that holds enough points.

    Args:
        rng: Source of the randomness; the same state gives the same square.
        uv: (N, 2) pixels of the points, NaN behind the camera.
        image_size: (width, height), pixels.
        side: Side in pixels, or (smallest, largest); cut to what fits into the image.
        min_points: Fewest points wanted.
        attempts: Squares tried; the one with most points is taken when none has enough.

    Returns:
        The square. It may hold fewer than `min_points` where the scan has no more to give.
    """
    width, height = image_size
    low, high = (side, side) if isinstance(side, int) else side
    largest = min(width, height)
    best, most = None, -1
    for _ in range(max(attempts, 1)):
        length = int(rng.integers(min(low, largest), min(high, largest) + 1))
        x = int(rng.integers(0, width - length + 1))
        y = int(rng.integers(0, height - length + 1))
        crop = Crop(x, y, length, length)
        count = int(crop.contains(uv).sum())
        if count > most:
            best, most = crop, count
        if count >= min_points:
            break
    assert best is not None
    return best
