# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Changes of a training image that keep its geometry: what `ViewConfig.augment` names.

All randomness comes from the generator that is passed in, so a sample is a function of its seed.
"""

from __future__ import annotations

import cv2
import numpy as np

HOLE_PX = (50, 100)
"""Least and largest side of a hole of LIP-Loc's CoarseDropout, in an image of 224 x 224."""

_HOLES = 5
_HOLE_OF = 224


def jitter(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change brightness, contrast and saturation at random (`light`).

    Args:
        image: (H, W, 3) uint8 RGB.
        rng: Source of the randomness.

    Returns:
        The same shape and type.
    """
    x = image.astype(np.float32)
    if rng.random() < 0.8:
        contrast, brightness, saturation = rng.uniform(0.6, 1.4, 3)
        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)[..., None]
        x = gray + (x - gray) * saturation
        x = (x - gray.mean()) * contrast + gray.mean() * brightness
    if rng.random() < 0.2:
        x = np.repeat(x.mean(axis=2, keepdims=True), 3, axis=2)
    return np.clip(x, 0, 255).astype(np.uint8)


def thesis(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Augment as the CLCP thesis does (section 4.2.4, figure 4.6).

    With probability 0.9 one of: a moderate colour jitter (0.7), a significant darkening (0.2),
    grey (0.1). On top of that, with probability 0.5, one of Gaussian blur, Gaussian noise and
    glass blur, equally likely. Strengths are not stated there; these are ours.

    Args:
        image: (H, W, 3) uint8 RGB.
        rng: Source of the randomness.

    Returns:
        The same shape and type.
    """
    if rng.random() < 0.9:
        kind = rng.random()
        if kind < 0.7:
            image = _color_jitter(image, rng)
        elif kind < 0.9:
            image = cv2.convertScaleAbs(image, alpha=rng.uniform(0.2, 0.5))
        else:
            image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if rng.random() < 0.5:
        blur_or_noise = (gaussian_blur, gaussian_noise, glass_blur)[int(rng.integers(3))]
        image = blur_or_noise(image, rng)
    return image


def _color_jitter(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast and saturation by up to a fifth, hue by up to 18 degrees."""
    brightness, contrast, saturation = rng.uniform(0.8, 1.2, 3)
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    # OpenCV's 8-bit hue counts half degrees.
    hsv[..., 0] = (hsv[..., 0].astype(np.int16) + int(rng.integers(-9, 10))) % 180
    hsv[..., 1] = cv2.convertScaleAbs(hsv[..., 1], alpha=saturation)
    image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    middle = float(image.mean())
    x = (image.astype(np.float32) - middle) * contrast + middle * brightness
    return np.clip(x, 0, 255).astype(np.uint8)


def gaussian_blur(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blur by a Gaussian of 0.5 to 2 pixels."""
    return cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 2.0))


def gaussian_noise(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add noise of a deviation of 3 to 20 grey levels, per pixel and channel."""
    noise = rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(3, 20))
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def glass_blur(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Take each pixel from up to 2 pixels away, at random, between two slight blurs.

    The effect of ImageNet-C's "glass blur" (Hendrycks and Dietterich 2019), in one pass instead of
    a swap per pixel.
    """
    height, width = image.shape[:2]
    image = cv2.GaussianBlur(image, (0, 0), 0.7)
    away = rng.integers(-2, 3, (2, height, width), np.int8).astype(np.float32)
    row, column = np.mgrid[0:height, 0:width].astype(np.float32)
    image = cv2.remap(
        image, column + away[0], row + away[1], cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT
    )
    return cv2.GaussianBlur(image, (0, 0), 0.7)


def coarse_dropout(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Draw LIP-Loc's holes: with probability 0.9, one to five of 50 to 100 pixels a side.

    Sizes are for 224 pixels and scale with the image. LIP-Loc fills them after normalisation with
    zeros, the mean colour.

    Args:
        height: Rows.
        width: Columns.
        rng: Source of the randomness.

    Returns:
        (height, width) bool, True in a hole.
    """
    holes = np.zeros((height, width), bool)
    if rng.random() >= 0.9:
        return holes
    low, high = HOLE_PX
    for _ in range(int(rng.integers(1, _HOLES + 1))):
        rows, columns = rng.integers(low, high + 1, 2)
        h = min(max(round(rows * height / _HOLE_OF), 1), height)
        w = min(max(round(columns * width / _HOLE_OF), 1), width)
        top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
        holes[top : top + h, left : left + w] = True
    return holes
