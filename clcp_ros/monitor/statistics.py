# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Low-level statistics of the raw frame: brightness, contrast, colour, sharpness, haze, noise."""

from __future__ import annotations

import cv2
import numpy as np

STATISTICS = (
    'luminance_mean', 'luminance_std', 'luminance_p05', 'luminance_p50', 'luminance_p95',
    'dark_fraction', 'bright_fraction', 'saturation_mean', 'red_green', 'blue_green',
    'gradient_mean', 'sharpness', 'noise', 'haze', 'top_bottom',
)  # fmt: skip
"""Names of the statistics, in the order of `image_statistics`."""

_SIZE = (160, 120)


def image_statistics(image: np.ndarray) -> np.ndarray:
    """Describe a frame before any resizing for the network or normalisation.

    Args:
        image: (H, W, 3) uint8 RGB, any size.

    Returns:
        (15,) float64, finite for every image; see `STATISTICS`. Luminances are in [0, 1].
    """
    small = cv2.resize(image, _SIZE, interpolation=cv2.INTER_AREA)
    gray8 = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    gray = gray8.astype(np.float32) / 255
    p05, p50, p95 = np.percentile(gray, (5, 50, 95))
    red, green, blue = (small[..., i].astype(np.float32).mean() / 255 for i in range(3))
    largest, smallest = small.max(axis=2), small.min(axis=2)
    saturation = (largest - smallest) / np.maximum(largest, 1)
    gradient = np.hypot(cv2.Sobel(gray, cv2.CV_32F, 1, 0), cv2.Sobel(gray, cv2.CV_32F, 0, 1))
    # Noise and sharpness need native pixels: area resizing averages both away.
    height, width = image.shape[:2]
    crop = image[height // 4 : height // 4 + 128, width // 4 : width // 4 + 192]
    native = cv2.cvtColor(np.ascontiguousarray(crop), cv2.COLOR_RGB2GRAY).astype(np.float32)
    laplacian = np.abs(cv2.Laplacian(native, cv2.CV_32F))
    third = _SIZE[1] // 3
    return np.array(
        [
            gray.mean(), gray.std(), p05, p50, p95,
            np.mean(gray8 < 16), np.mean(gray8 > 240), saturation.mean(),
            np.log((red + 0.01) / (green + 0.01)), np.log((blue + 0.01) / (green + 0.01)),
            gradient.mean(), np.log1p(laplacian.var()), np.log1p(np.median(laplacian)),
            # Dark channel (He et al. 2009): near zero in clear scenes, bright in haze.
            cv2.erode(smallest, np.ones((7, 7), np.uint8)).mean() / 255,
            gray[:third].mean() - gray[-third:].mean(),
        ],
        np.float64,
    )  # fmt: skip
