# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Low-level statistics of the raw frame: light, contrast, colour, sharpness, haze, noise, dirt.

They are meant to differ in how they answer to darkness, haze, rain, snow, blur, noise, dirt on the
lens, exposure and compression. Hence ratios where possible: blur changes the ratio of fine to
coarse differences, haze does not, although both take contrast.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from clcp_ros.frame import Frame
from clcp_ros.monitor.order import (
    byte_counts,
    counted_moments,
    counted_quantiles,
    median,
    middle,
    moments,
    quantile,
    quantiles,
)
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


def _differences(place: np.ndarray, length: int) -> np.ndarray:
    """Which differences of neighbours are within a crop, at the border of JPEG blocks, amid them.

    Args:
        place: (N,) of the first of the two pixels.
        length: Of a crop.

    Returns:
        (N, 3) float64, 0 or 1.
    """
    within, at = place < length - 1, place % _BLOCK
    chosen = within, within & (at == _BLOCK - 1), within & (at == _BLOCK // 2 - 1)
    return np.stack(chosen, axis=1).astype(np.float64)


_ROW = np.arange(_CROPS[0] * _CROPS[1] * _CROP[0]) % _CROP[0]  # in its crop, of all crops
_COLUMNS = _differences(np.arange(_CROP[1] - 1), _CROP[1])
_ROWS = _differences(_ROW[:-1], _CROP[0])
_COARSE_ROWS = (_ROW[:-4] < _CROP[0] - 4).astype(np.float64)
_COLUMN_COUNTS, _ROW_COUNTS = _COLUMNS.sum(axis=0), _ROWS.sum(axis=0)
_COARSE_COUNT = float(_COARSE_ROWS.sum())


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
    across, down = (plane.astype(np.float32) for plane in cv2.spatialGradient(gray))
    across *= across
    down *= down
    across += down
    # cv2.magnitude rounds by where in memory its arguments lie, and two runs would differ.
    gradient = np.sqrt(across, out=across)
    channels, rows = cv2.split(small), _sums(gray, across=True)
    native = image if luminance is None else luminance
    *light, spread = _light(small, channels, gray, rows, gradient, native)
    return np.array(
        [
            *light,
            spread,
            _colourfulness(*channels),
            *_picture(gray, rows, gradient),
            *_texture(_crops(native)),
        ],
        np.float64,
    )


def _light(
    small: np.ndarray,
    channels: Sequence[np.ndarray],
    gray: np.ndarray,
    rows: np.ndarray,
    gradient: np.ndarray,
    native: np.ndarray,
) -> list[float]:
    """Brightness, colour and sharpness of the whole: the first 16 statistics."""
    counts = byte_counts(gray)
    p05, p50, p95, p01, p99 = (
        level / 255 for level in counted_quantiles(counts, (0.05, 0.5, 0.95, 0.01, 0.99))
    )
    mean, variance = counted_moments(counts)
    dark, bright = np.add.reduceat(counts, (0, 16, 241))[[0, 2]]
    red, green, blue = (value / 255 for value in cv2.mean(small)[:3])
    largest, smallest = (f(f(*channels[:2]), channels[2]) for f in (cv2.max, cv2.min))
    saturation = (largest - smallest) / np.maximum(largest, 1)
    # Noise and sharpness need native pixels: area resizing averages both away.
    height, width = native.shape[:2]
    crop = native[height // 4 : height // 4 + 128, width // 4 : width // 4 + 192]
    edges = np.abs(cv2.Laplacian(_gray(crop), cv2.CV_16S))
    third = _SIZE[1] // 3
    return [
        mean / 255, variance**0.5 / 255, p05, p50, p95,
        dark / gray.size, bright / gray.size, _mean_of(saturation),
        *np.log([(red + 0.01) / (green + 0.01), (blue + 0.01) / (green + 0.01)]),
        _mean_of(gradient) / 255, *np.log1p([moments(edges)[1], middle(edges)]),
        # Dark channel (He et al. 2009): near zero in clear scenes, bright in haze.
        _mean(cv2.erode(smallest, _WINDOW)) / 255,
        float(rows[:third].sum() - rows[-third:].sum()) / (third * _SIZE[0]) / 255, p99 - p01,
    ]  # fmt: skip


def _colourfulness(red: np.ndarray, green: np.ndarray, blue: np.ndarray) -> float:
    """Of Hasler and Süsstrunk (2003), eq. 2, over 255: unlike saturation, small in the dark."""
    sums = cv2.add(red, green, dtype=cv2.CV_16S)
    # The second one twice, to stay with whole numbers.
    (mean_1, std_1), (mean_2, std_2) = (
        (float(x[0, 0]) for x in cv2.meanStdDev(opponent))
        for opponent in (
            cv2.subtract(red, green, dtype=cv2.CV_16S),
            cv2.subtract(sums, cv2.add(blue, blue, dtype=cv2.CV_16S)),
        )
    )
    return (math.hypot(std_1, std_2 / 2) + 0.3 * math.hypot(mean_1, mean_2 / 2)) / 255


def _picture(gray: np.ndarray, rows: np.ndarray, gradient: np.ndarray) -> list[float]:
    """Where in the small image there is how much contrast: weather, and dirt on the lens.

    Args:
        gray: (120, 160) uint8.
        rows: (120,) sums of its rows.
        gradient: (120, 160) float32, its magnitude.
    """
    around = cv2.medianBlur(gray, 5)
    height, width = gray.shape
    far = gradient[int(0.35 * height) : int(0.55 * height)]  # about the horizon
    near = gradient[2 * height // 3 :]
    sharpness = np.log(_tiles(gradient).mean(axis=1) + 1)
    least, usual = quantiles(sharpness, (0.1, 0.5))
    pixels = _TILE * _TILE
    total, squares = _tile_sums(gray)
    light = np.log(total / pixels + 1)
    deviation = np.sqrt(pixels * squares - total**2) / pixels
    # Differences that would be negative are zero.
    flecks = [
        np.count_nonzero(cv2.subtract(*pair) > _FLECK) / gray.size
        for pair in ((gray, around), (around, gray))
    ]
    means = rows / width
    steps = means[1:] - means[:-1]
    bends = np.abs(steps[1:] - steps[:-1])
    bright, dark, banding, contrast = np.log1p([
        *(100 * share for share in flecks), _mean_of(bends), median(deviation),
    ])  # fmt: skip
    return [
        # Snow and rain are brighter than what is behind them, noise is so half of the time.
        bright,
        dark,
        banding,
        # Fog takes contrast from afar, a flat exposure from everywhere.
        np.log((_mean_of(far) + _LEAST) / (_mean_of(near) + _LEAST)),
        contrast,
        light.min() - median(light),
        least - usual,
        sharpness.std(),
    ]


def _tile_sums(gray: np.ndarray) -> np.ndarray:
    """(2, 48) float64 sums of the values and of their squares over the tiles of a small image."""
    tables = cv2.integral2(gray)
    corners = np.array([table[::_TILE, ::_TILE] for table in tables], np.float64)
    sums = corners[:, 1:] - corners[:, :-1]
    return (sums[..., 1:] - sums[..., :-1]).reshape(2, -1)


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


def _mean_of(values: np.ndarray) -> Any:
    """numpy.mean of floats, of their type, without its overhead."""
    return values.dtype.type(np.add.reduce(values, axis=None) / values.size)


def _gray(image: np.ndarray) -> np.ndarray:
    """(H, W) uint8 of RGB or of what is grey already."""
    if image.ndim == 2:
        return image
    return cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)


def _crops(native: np.ndarray) -> np.ndarray:
    """(432, 96) uint8 luminance of nine crops below each other, aligned to JPEG's blocks.

    They are spread over the frame: a single one might show nothing but sky. A frame that is
    smaller than a crop is mirrored.
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
    crops = np.empty((_CROPS[0] * _CROPS[1], *_CROP, *native.shape[2:]), np.uint8)
    places = ((top, left) for top in tops for left in lefts)
    for crop, (top, left) in zip(crops, places, strict=True):
        crop[:] = native[top : top + _CROP[0], left : left + _CROP[1]]
    return _gray(crops.reshape(-1, *crops.shape[2:]))


def _texture(sheet: np.ndarray) -> list[float]:
    """What only native pixels show: blur by direction, noise, compression, rain.

    Args:
        sheet: (432, 96) uint8, the crops below each other.
    """
    height, width = sheet.shape
    # Differences of neighbours, as sums of whole numbers, their order does not matter.
    fine, rough = (
        (
            _sums(cv2.absdiff(sheet[:, step:], sheet[:, :-step]), across=False),
            _sums(cv2.absdiff(sheet[step:], sheet[:-step]), across=True),
        )
        for step in (1, 4)
    )
    fine_x, border_x, middle_x = fine[0] @ _COLUMNS / _COLUMN_COUNTS / height
    fine_y, border_y, middle_y = fine[1] @ _ROWS / _ROW_COUNTS / width
    rough_x = float(rough[0].sum()) / rough[0].size / height
    rough_y = float(rough[1] @ _COARSE_ROWS) / _COARSE_COUNT / width
    laplacian = np.abs(cv2.Laplacian(sheet, cv2.CV_16S))
    strips = np.add.reduce(laplacian.reshape(height // 16, 16, width), axis=1, dtype=np.int32)
    cells = np.add.reduce(strips.reshape(-1, 16), axis=1) / 256
    lying, upright = (_mean(cv2.morphologyEx(sheet, cv2.MORPH_TOPHAT, line)) for line in _LINES)
    counts = byte_counts(sheet)
    low, high = (int(level) for level in counted_quantiles(counts, (0.01, 0.99)))
    sharp_x, sharp_y, blocks, streaks = np.log([
        (fine_x + _LEAST) / (rough_x + _LEAST),
        (fine_y + _LEAST) / (rough_y + _LEAST),
        (border_x + border_y + _LEAST) / (middle_x + middle_y + _LEAST),
        # A bright upright line vanishes under a lying one and stays under an upright one.
        (lying + _LEAST) / (upright + _LEAST),
    ])  # fmt: skip
    return [
        sharp_x,
        sharp_y,
        # Texture leaves some cells alone, noise leaves none.
        np.log1p(quantile(cells, 0.15)),
        blocks,
        streaks,
        np.count_nonzero(counts[low : high + 1] == 0) / (high + 1 - low),
    ]
