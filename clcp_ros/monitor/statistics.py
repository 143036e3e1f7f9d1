# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Low-level statistics of the raw frame: light, contrast, colour, sharpness, haze, noise, dirt.

They are meant to differ in how they answer to darkness, haze, rain, snow, blur, noise, dirt on the
lens, exposure and compression. Hence ratios where possible: blur changes the ratio of fine to
coarse differences, haze does not, although both take contrast.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from clcp_ros.frame import Frame
from clcp_ros.monitor.order import counted_moments, counted_quantile, median, quantile
from clcp_ros.preprocess import halve

STATISTICS = (
    'luminance_mean', 'luminance_std', 'luminance_p05', 'luminance_p50', 'luminance_p95',
    'dark_fraction', 'bright_fraction', 'saturation_mean', 'red_green', 'blue_green',
    'gradient_mean', 'sharpness', 'noise', 'haze', 'top_bottom',
    'luminance_range', 'colourfulness', 'flecks', 'dark_flecks', 'banding', 'far_contrast',
    'tile_contrast', 'tile_dark', 'tile_sharpness_low', 'tile_sharpness_spread',
    'fineness_x', 'fineness_y', 'noise_floor', 'blockiness', 'streaks', 'empty_levels',
)  # fmt: skip
"""Names of the statistics, in the order of `image_statistics`."""

_SIZE = (160, 120)
_WINDOW = np.ones((7, 7), np.uint8)
_TILE = 20  # side of a tile of the small image
_CROPS = (3, 3)  # rows and columns of crops at native resolution
_CROP = (48, 96)  # their height and width
_BLOCK = 8  # of JPEG
_LINES = np.ones((1, 7), np.uint8), np.ones((7, 1), np.uint8)
_LEAST = 0.25  # grey levels, on both sides of a ratio: a flat image has nothing to compare
_FLECK = 8  # grey levels by which a fleck differs from its surroundings


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
        (S,) float64, finite for every image; see `STATISTICS`. Luminances are in [0, 1], ratios
        and amounts of texture are logarithms.
    """
    small = image
    # The same mean of an area but for rounding, several times as fast.
    while all(
        size % 2 == 0 and size >= 4 * least
        for size, least in zip(small.shape, _SIZE[::-1], strict=False)
    ):
        small = halve(small, 1, 1)
    small = cv2.resize(small, _SIZE, interpolation=cv2.INTER_AREA)
    gray = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    counts = np.bincount(gray.ravel(), minlength=256)
    across, down = (cv2.Sobel(gray, cv2.CV_32F, *axis) for axis in ((1, 0), (0, 1)))
    # cv2.magnitude rounds by where in memory its arguments lie, and two runs would differ.
    gradient = np.sqrt(across * across + down * down)
    native = image if luminance is None else luminance
    return np.array(
        [
            *_light(small, gray, counts, gradient, native),
            counted_quantile(counts, 0.99) / 255 - counted_quantile(counts, 0.01) / 255,
            _colourfulness(small),
            *_picture(gray, gradient),
            *_texture(_crops(native)),
        ],
        np.float64,
    )


def _light(
    small: np.ndarray,
    gray: np.ndarray,
    counts: np.ndarray,
    gradient: np.ndarray,
    native: np.ndarray,
) -> list[float]:
    """Brightness, colour and sharpness of the whole: the first 15 statistics."""
    p05, p50, p95 = (counted_quantile(counts, q) / 255 for q in (0.05, 0.5, 0.95))
    mean, variance = counted_moments(counts)
    red, green, blue = (value / 255 for value in cv2.mean(small)[:3])
    channels = cv2.split(small)
    largest, smallest = (f(f(*channels[:2]), channels[2]) for f in (cv2.max, cv2.min))
    saturation = (largest - smallest) / np.maximum(largest, 1)
    # Noise and sharpness need native pixels: area resizing averages both away.
    height, width = native.shape[:2]
    crop = native[height // 4 : height // 4 + 128, width // 4 : width // 4 + 192]
    edges = np.bincount(np.abs(cv2.Laplacian(_gray(crop), cv2.CV_16S)).ravel())
    rows, third = _sums(gray, across=True), _SIZE[1] // 3
    return [
        mean / 255, variance**0.5 / 255, p05, p50, p95,
        counts[:16].sum() / gray.size, counts[241:].sum() / gray.size, saturation.mean(),
        np.log((red + 0.01) / (green + 0.01)), np.log((blue + 0.01) / (green + 0.01)),
        gradient.mean() / 255, np.log1p(counted_moments(edges)[1]),
        np.log1p(counted_quantile(edges, 0.5)),
        # Dark channel (He et al. 2009): near zero in clear scenes, bright in haze.
        _mean(cv2.erode(smallest, _WINDOW)) / 255,
        float(rows[:third].sum() - rows[-third:].sum()) / (third * _SIZE[0]) / 255,
    ]  # fmt: skip


def _colourfulness(small: np.ndarray) -> float:
    """Of Hasler and Süsstrunk (2003), eq. 2, over 255: unlike saturation, small in the dark."""
    red, green, blue = (channel.astype(np.int16) for channel in cv2.split(small))
    # The second one twice, to stay with whole numbers.
    (mean_1, std_1), (mean_2, std_2) = (
        (float(x[0, 0]) for x in cv2.meanStdDev(opponent))
        for opponent in (red - green, red + green - 2 * blue)
    )
    return (math.hypot(std_1, std_2 / 2) + 0.3 * math.hypot(mean_1, mean_2 / 2)) / 255


def _picture(gray: np.ndarray, gradient: np.ndarray) -> list[float]:
    """Where in the small image there is how much contrast: weather, and dirt on the lens.

    Args:
        gray: (120, 160) uint8.
        gradient: (120, 160) float32, its magnitude.
    """
    around = cv2.medianBlur(gray, 5)
    rows = _sums(gray, across=True) / gray.shape[1]
    height = gray.shape[0]
    far = gradient[int(0.35 * height) : int(0.55 * height)]  # about the horizon
    near = gradient[2 * height // 3 :]
    sharpness = np.log(_tiles(gradient).mean(axis=1) + 1)
    middle = median(sharpness)
    tiles = _tiles(gray.astype(np.int32))
    total, squares = tiles.sum(axis=1, dtype=np.int64), np.einsum('ij,ij->i', tiles, tiles)
    light = np.log(total / tiles.shape[1] + 1)
    deviation = np.sqrt(tiles.shape[1] * squares.astype(np.int64) - total**2) / tiles.shape[1]
    # Differences that would be negative are zero.
    flecks = (
        np.count_nonzero(cv2.subtract(*pair) > _FLECK) / gray.size
        for pair in ((gray, around), (around, gray))
    )
    return [
        # Snow and rain are brighter than what is behind them, noise is so half of the time.
        *(np.log1p(100 * share) for share in flecks),
        np.log1p(np.abs(np.diff(rows, 2)).mean()),
        # Fog takes contrast from afar, a flat exposure from everywhere.
        np.log((far.mean() + _LEAST) / (near.mean() + _LEAST)),
        np.log1p(median(deviation)),
        light.min() - median(light),
        quantile(sharpness, 0.1) - middle,
        sharpness.std(),
    ]


def _tiles(small: np.ndarray) -> np.ndarray:
    """(48, 400) pixels of the tiles of a small image."""
    rows, columns = small.shape[0] // _TILE, small.shape[1] // _TILE
    return small.reshape(rows, _TILE, columns, _TILE).swapaxes(1, 2).reshape(rows * columns, -1)


def _sums(plane: np.ndarray, *, across: bool) -> np.ndarray:
    """Sums of the rows of (h, w) uint8, int32, or of its columns."""
    return cv2.reduce(plane, int(across), cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel()


def _mean(plane: np.ndarray) -> float:
    """Of (h, w) uint8."""
    return float(cv2.sumElems(plane)[0]) / plane.size


def _gray(image: np.ndarray) -> np.ndarray:
    """(H, W) uint8 of RGB or of what is grey already."""
    if image.ndim == 2:
        return image
    return cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)


def _crops(native: np.ndarray) -> np.ndarray:
    """(9, 48, 96) uint8 luminance, spread over the frame, aligned to its JPEG blocks.

    A single one might show nothing but sky. A frame that is smaller than a crop is mirrored.
    """
    rows, columns = (max(0, least - n) for n, least in zip(native.shape, _CROP, strict=False))
    if rows or columns:
        native = np.pad(
            native, ((0, rows), (0, columns), *[(0, 0)] * (native.ndim - 2)), mode='symmetric'
        )
    tops, lefts = (
        [(size - length) * (2 * i + 1) // (2 * number) // _BLOCK * _BLOCK for i in range(number)]
        for size, length, number in zip(native.shape, _CROP, _CROPS, strict=False)
    )
    return np.stack([
        _gray(native[top : top + _CROP[0], left : left + _CROP[1]])
        for top in tops
        for left in lefts
    ])  # fmt: skip


def _texture(crops: np.ndarray) -> list[float]:
    """What only native pixels show: blur by direction, noise, compression, rain.

    Args:
        crops: (9, 48, 96) uint8.
    """
    number, height, width = crops.shape
    sheet = crops.reshape(-1, width)
    # Differences of neighbours, as sums of whole numbers: along each column of all crops, and
    # along each row of every crop, without those between two crops.
    across, coarse_x = (
        _sums(cv2.absdiff(sheet[:, step:], sheet[:, :-step]), across=False) for step in (1, 4)
    )
    down, coarse_y = (
        np.resize(
            _sums(cv2.absdiff(sheet[step:], sheet[:-step]), across=True), sheet.shape[0]
        ).reshape(number, height)[:, :-step]
        for step in (1, 4)
    )
    boundary = np.s_[_BLOCK - 1 :: _BLOCK]
    middle = np.s_[_BLOCK // 2 - 1 :: _BLOCK]
    at_blocks, inside = (
        across[s].mean() / len(sheet) + down[:, s].mean() / width for s in (boundary, middle)
    )
    laplacian = np.abs(cv2.Laplacian(sheet, cv2.CV_16S))
    strips = laplacian.reshape(len(sheet) // 16, 16, width).sum(axis=1, dtype=np.int32)
    cells = strips.reshape(-1, 16).sum(axis=1) / 256
    lying, upright = (_mean(cv2.morphologyEx(sheet, cv2.MORPH_TOPHAT, line)) for line in _LINES)
    counts = np.bincount(sheet.ravel(), minlength=256)
    low, high = (int(counted_quantile(counts, q)) for q in (0.01, 0.99))
    fine_x, fine_y = across.mean() / len(sheet), down.mean() / width
    rough_x, rough_y = coarse_x.mean() / len(sheet), coarse_y.mean() / width
    return [
        np.log((fine_x + _LEAST) / (rough_x + _LEAST)),
        np.log((fine_y + _LEAST) / (rough_y + _LEAST)),
        # Texture leaves some cells alone, noise leaves none.
        np.log1p(quantile(cells, 0.15)),
        np.log((at_blocks + _LEAST) / (inside + _LEAST)),
        # A bright upright line vanishes under a lying one and stays under an upright one.
        np.log((lying + _LEAST) / (upright + _LEAST)),
        (counts[low : high + 1] == 0).mean(),
    ]
