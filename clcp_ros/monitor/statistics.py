# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Low-level statistics of the raw frame: brightness, contrast, colour, sharpness, haze, noise."""

from __future__ import annotations

import cv2
import numpy as np

from clcp_ros.frame import Frame
from clcp_ros.preprocess import halve

STATISTICS = (
    'luminance_mean', 'luminance_std', 'luminance_p05', 'luminance_p50', 'luminance_p95',
    'dark_fraction', 'bright_fraction', 'saturation_mean', 'red_green', 'blue_green',
    'gradient_mean', 'sharpness', 'noise', 'haze', 'top_bottom',
)  # fmt: skip
"""Names of the statistics, in the order of `image_statistics`."""

_SIZE = (160, 120)
_WINDOW = np.ones((7, 7), np.uint8)


def frame_statistics(frame: Frame) -> np.ndarray:
    """`image_statistics` of a frame, with no more decoding than they need.

    Those of a JPEG that is not decoded whole differ by what rounding differs: on photographs the
    score of this tap by 0.02 standard deviations at most.

    Raises:
        ImageError: It cannot be decoded.
    """
    views = frame.luminance(2 * _SIZE[1], 2 * _SIZE[0])
    return image_statistics(frame.pixels) if views is None else image_statistics(*views)


def image_statistics(image: np.ndarray, luminance: np.ndarray | None = None) -> np.ndarray:
    """Describe a frame before any resizing for the network or normalisation.

    Args:
        image: (H, W, 3) uint8 RGB, any size.
        luminance: (H, W) uint8 of every pixel, where `image` is a smaller version of the frame.

    Returns:
        (15,) float64, finite for every image; see `STATISTICS`. Luminances are in [0, 1].
    """
    small = image
    if all(
        size % 2 == 0 and size >= 4 * least
        for size, least in zip(image.shape, _SIZE[::-1], strict=False)
    ):
        small = halve(image, 1, 1)  # the same mean of an area but for rounding, in half the time
    small = cv2.resize(small, _SIZE, interpolation=cv2.INTER_AREA)
    gray8 = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    gray = gray8.astype(np.float32) / 255
    counts = np.bincount(gray8.ravel(), minlength=256)
    p05, p50, p95 = (_quantile(counts, q) / 255 for q in (0.05, 0.5, 0.95))
    red, green, blue = (value / 255 for value in cv2.mean(small)[:3])
    channels = cv2.split(small)
    largest, smallest = (f(f(*channels[:2]), channels[2]) for f in (cv2.max, cv2.min))
    saturation = (largest - smallest) / np.maximum(largest, 1)
    gradient = cv2.magnitude(cv2.Sobel(gray, cv2.CV_32F, 1, 0), cv2.Sobel(gray, cv2.CV_32F, 0, 1))
    # Noise and sharpness need native pixels: area resizing averages both away.
    native = image if luminance is None else luminance
    height, width = native.shape[:2]
    crop = native[height // 4 : height // 4 + 128, width // 4 : width // 4 + 192]
    if luminance is None:
        crop = cv2.cvtColor(np.ascontiguousarray(crop), cv2.COLOR_RGB2GRAY)
    laplacian = np.abs(cv2.Laplacian(crop.astype(np.float32), cv2.CV_32F))
    third = _SIZE[1] // 3
    return np.array(
        [
            gray.mean(), gray.std(), p05, p50, p95,
            counts[:16].sum() / gray8.size, counts[241:].sum() / gray8.size, saturation.mean(),
            np.log((red + 0.01) / (green + 0.01)), np.log((blue + 0.01) / (green + 0.01)),
            gradient.mean(), np.log1p(laplacian.var()), np.log1p(np.median(laplacian)),
            # Dark channel (He et al. 2009): near zero in clear scenes, bright in haze.
            cv2.erode(smallest, _WINDOW).mean() / 255,
            gray[:third].mean() - gray[-third:].mean(),
        ],
        np.float64,
    )  # fmt: skip


def _quantile(counts: np.ndarray, q: float) -> float:
    """A quantile of values 0, 1, ... that occur so many times, as numpy.quantile."""
    ends = counts.cumsum()
    position = q * (ends[-1] - 1)
    low, high = (
        np.searchsorted(ends, int(f(position)), side='right') for f in (np.floor, np.ceil)
    )
    return float(low + (high - low) * (position - np.floor(position)))
