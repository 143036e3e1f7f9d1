# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Masks in colour."""

from __future__ import annotations

import cv2
import numpy as np


def colorize(mask: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Colour a mask.

    Args:
        mask: (H, W) uint8 class ids.
        palette: (256, 3) uint8 RGB.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    # OpenCV's table of colours is several times faster than indexing with numpy.
    return cv2.applyColorMap(mask, np.ascontiguousarray(palette[:, None]))


def overlay(
    image: np.ndarray, mask: np.ndarray, palette: np.ndarray, opacity: float = 0.5
) -> np.ndarray:
    """Lay a coloured mask over its image.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (h, w) uint8 class ids; enlarged to the image when smaller.
        palette: (256, 3) uint8 RGB.
        opacity: Weight of the mask, in [0, 1].

    Returns:
        (H, W, 3) uint8 RGB.
    """
    if mask.shape != image.shape[:2]:
        mask = cv2.resize(mask, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    return cv2.addWeighted(colorize(mask, palette), opacity, image, 1 - opacity, 0)
