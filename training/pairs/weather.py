# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Bad weather and light put onto an image, with the depth that the lidar measured.

Fog and the reach of headlights depend on distance, which an image alone does not tell; a
camera-lidar pair does. These are rough, quick models to learn invariance from, not a simulation:
light is added up in linear intensities, the camera's curve is taken for a power of 2.2.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from training.pairs.augment import gaussian_blur, gaussian_noise, jitter

_LINEAR = ((np.arange(256) / 255) ** 2.2).astype(np.float32)
_STEPS = 4095
# The root of the intensity is what indexes the table: its dark end needs the finer steps.
_CURVE = np.round((np.arange(_STEPS + 1) / _STEPS) ** (2 / 2.2) * 255).astype(np.uint8)

_CELL_PX = 8
_UNKNOWN_M = 40.0
_KOSCHMIEDER = 3.0


def dense_depth(uv: np.ndarray, depth: np.ndarray, height: int, width: int) -> np.ndarray:
    """Fill an image with depth from a few points: the nearest cell of 8 pixels that has some.

    Args:
        uv: (N, 2) pixels of visible points.
        depth: (N,) metres.
        height: Rows of the image.
        width: Columns of the image.

    Returns:
        (height, width) float32 metres; 40 m everywhere without points.
    """
    filled = fill(uv, np.log(np.maximum(depth, 0.5)), height, width)
    if filled is None:
        return np.full((height, width), _UNKNOWN_M, np.float32)
    return np.exp(filled)


def fill(uv: np.ndarray, values: np.ndarray, height: int, width: int) -> np.ndarray | None:
    """Fill an image with what is known at some points: the mean of the nearest cell that has any.

    Args:
        uv: (N, 2) pixels.
        values: (N,).
        height: Rows.
        width: Columns.

    Returns:
        (height, width) float32; None without points.
    """
    rows, columns = -(-height // _CELL_PX), -(-width // _CELL_PX)
    cell = ((uv + 0.5) // _CELL_PX).astype(np.int64)
    cell = np.clip(cell, 0, [columns - 1, rows - 1])
    index = cell[:, 1] * columns + cell[:, 0]
    count = np.bincount(index, minlength=rows * columns)
    if not count.any():
        return None
    total = np.bincount(index, values, minlength=rows * columns)
    mean = (total / np.maximum(count, 1)).astype(np.float32).reshape(rows, columns)
    empty = (count == 0).astype(np.uint8).reshape(rows, columns)
    _, label = cv2.distanceTransformWithLabels(
        empty, cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL
    )
    source = np.zeros(label.max() + 1, np.float32)
    known = empty == 0
    source[label[known]] = mean[known]
    whole = cv2.blur(source[label], (3, 3))
    return cv2.resize(whole, (width, height), interpolation=cv2.INTER_LINEAR)


def weather(
    image: np.ndarray,
    depth: np.ndarray,
    rng: np.random.Generator,
    ground: np.ndarray | None = None,
    probability: float = 0.7,
) -> np.ndarray:
    """Draw a condition and put it onto an image, or none.

    Args:
        image: (H, W, 3) uint8 RGB.
        depth: (H, W) float32 metres, as from `dense_depth`.
        rng: Source of the randomness.
        ground: (H, W) float32 in [0, 1], where the road is: where snow lies and water stands.
        probability: Of any condition at all.

    Returns:
        (H, W, 3) uint8.
    """
    image = jitter(image, rng)
    if rng.random() < probability:
        names = list(CONDITIONS)
        image = CONDITIONS[names[int(rng.integers(len(names)))]](image, depth, ground, rng)
    if rng.random() < 0.3:
        image = gaussian_blur(image, rng)
    if rng.random() < 0.3:
        image = gaussian_noise(image, rng)
    return image


def fog(
    image: np.ndarray, depth: np.ndarray, ground: np.ndarray | None, rng: np.random.Generator
) -> np.ndarray:
    """Koschmieder's law: `I t + A (1 - t)` with `t = exp(-3 d / visibility)`, 15 to 150 m."""
    visibility = np.exp(rng.uniform(np.log(20), np.log(200)))
    return _curve(_veil(_LINEAR[image], depth, visibility, _airlight(rng, 0.3, 0.8)))


def night(
    image: np.ndarray, depth: np.ndarray, ground: np.ndarray | None, rng: np.random.Generator
) -> np.ndarray:
    """A dark scene in headlights that fade with the square of the distance; lamps; noise."""
    x = _LINEAR[image]
    height, width = x.shape[:2]
    sky_glow = rng.uniform(0.005, 0.08) * _tint(rng, 0.25)
    reach = rng.uniform(8, 25)
    row, column = np.mgrid[0:height, 0:width].astype(np.float32)
    beside = (column / width - rng.uniform(0.35, 0.65)) / 0.45
    above = np.clip((0.6 - row / height) / 0.3, 0, None)
    cone = np.exp(-(beside**2) - above**2)
    beam = rng.uniform(0.1, 0.6) * cone / (1 + (depth / reach) ** 2)
    x = x * (sky_glow + beam[..., None])
    for _ in range(int(rng.integers(0, 5))):
        x = x + _lamp(row, column, rng)
    # Fewer photons, and an exposure that makes up for some of them.
    wanted = np.exp(rng.uniform(np.log(0.01), np.log(0.1)))
    gain = float(np.clip(wanted / max(float(x.mean()), 1e-3), 0.7, 3))
    grain = rng.uniform(0.002, 0.012) * rng.standard_normal(x.shape, np.float32)
    return _curve(gain * (x + grain * np.sqrt(x + 0.05)))


def dusk(
    image: np.ndarray, depth: np.ndarray, ground: np.ndarray | None, rng: np.random.Generator
) -> np.ndarray:
    """Less light, of another colour."""
    x = _LINEAR[image] * (rng.uniform(0.08, 0.5) * _tint(rng, 0.35))
    return _curve(x + 0.004 * rng.standard_normal(x.shape, np.float32))


def low_sun(
    image: np.ndarray, depth: np.ndarray, ground: np.ndarray | None, rng: np.random.Generator
) -> np.ndarray:
    """Too much light: a warm tint, high exposure, and glare from somewhere."""
    x = _LINEAR[image] * (rng.uniform(0.7, 2.5) * _tint(rng, 0.2))
    height, width = x.shape[:2]
    row, column = np.mgrid[0:height, 0:width].astype(np.float32)
    u, v = rng.uniform(-0.2, 1.2) * width, rng.uniform(-0.3, 0.5) * height
    away = ((column - u) / width) ** 2 + ((row - v) / height) ** 2
    glare = rng.uniform(0, 0.7) * np.exp(-away / rng.uniform(0.02, 0.3))
    return _curve(x + glare[..., None] * np.array([1, 0.9, 0.7], np.float32))


def rain(
    image: np.ndarray, depth: np.ndarray, ground: np.ndarray | None, rng: np.random.Generator
) -> np.ndarray:
    """A darker, hazy scene with a wet road, streaks in the air and drops on the lens."""
    x = _LINEAR[image] * rng.uniform(0.25, 0.8)
    if ground is not None:
        # Water darkens asphalt and mirrors what stands behind, drawn out downwards.
        mirror = cv2.blur(x[::-1], (3, 2 * (len(x) // 12) + 1))
        share = (ground * rng.uniform(0, 0.5))[..., None]
        x = x * (1 - 0.5 * share) + 0.5 * share * mirror
    airlight = _airlight(rng, 0.1, 0.4)
    x = _veil(x, depth, np.exp(rng.uniform(np.log(50), np.log(400))), airlight)
    streaks = _flecks(x.shape[:2], rng.uniform(0.001, 0.006), rng)
    length = int(rng.integers(3, 12))
    kernel = np.zeros((length, length), np.float32)
    lean = rng.uniform(-0.3, 0.3)
    cv2.line(kernel, (round(length / 2 - lean * length), 0), (round(length / 2), length - 1), 1.0)
    streaks = cv2.filter2D(streaks, -1, kernel / max(float(kernel.sum()), 1.0) * 2)
    x = x + (streaks * rng.uniform(0.1, 0.4))[..., None]
    return _drops(_curve(x), rng)


def snow(
    image: np.ndarray, depth: np.ndarray, ground: np.ndarray | None, rng: np.random.Generator
) -> np.ndarray:
    """Flakes in a pale, hazy scene, and snow on the ground in patches."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
    share = rng.uniform(0.2, 0.8)
    x = _LINEAR[np.uint8(gray * share + image * (1 - share))] * rng.uniform(0.5, 1.0)
    height, width = x.shape[:2]
    if ground is not None:
        patches = cv2.resize(
            rng.random((6, 6), np.float32), (width, height), interpolation=cv2.INTER_CUBIC
        )
        cover = ground * np.clip((patches - rng.uniform(-0.3, 0.9)) * 3, 0, 1)
        x = x + cover[..., None] * (rng.uniform(0.4, 0.9) - x)
    airlight = _airlight(rng, 0.3, 0.8)
    x = _veil(x, depth, np.exp(rng.uniform(np.log(40), np.log(300))), airlight)
    flakes = np.zeros((height, width), np.float32)
    for size, rate in ((1, 0.006), (2, 0.0015), (4, 0.0003)):
        some = _flecks((height, width), rate * rng.uniform(0.2, 1.5), rng)
        flakes += cv2.GaussianBlur(some, (0, 0), 0.5 * size) * 3 * size**2
    cover = np.clip(flakes, 0, 1)[..., None] * rng.uniform(0.4, 0.95)
    return _curve(x * (1 - cover) + cover * 0.85)


Effect = Callable[[np.ndarray, np.ndarray, 'np.ndarray | None', np.random.Generator], np.ndarray]

CONDITIONS: dict[str, Effect] = {
    'fog': fog, 'night': night, 'dusk': dusk, 'low_sun': low_sun, 'rain': rain, 'snow': snow,
}  # fmt: skip
"""What `weather` draws from, all equally likely."""


def _curve(linear: np.ndarray) -> np.ndarray:
    """Linear intensities as 8-bit values."""
    return _CURVE[(np.sqrt(np.clip(linear, 0, 1)) * _STEPS).astype(np.int16)]


def _veil(
    x: np.ndarray, depth: np.ndarray, visibility_m: float, airlight: np.ndarray
) -> np.ndarray:
    kept = np.exp(depth * np.float32(-_KOSCHMIEDER / visibility_m))[..., None]
    return x * kept + airlight * (1 - kept)


def _airlight(rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    return rng.uniform(low, high) * _tint(rng, 0.08)


def _tint(rng: np.random.Generator, most: float) -> np.ndarray:
    """A light's colour: warm to cold, (3,) float32 with a middle of one."""
    warm = rng.uniform(-most, most)
    return np.array([1 + warm, 1 + 0.2 * warm, 1 - warm], np.float32)


def _lamp(row: np.ndarray, column: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = row.shape
    u, v = rng.uniform(0, width), rng.uniform(0.1, 0.65) * height
    away = (column - u) ** 2 + (row - v) ** 2
    size = rng.uniform(0.006, 0.02) * width
    shine = np.exp(-away / size**2) + 0.15 / (1 + away / (3 * size) ** 2)
    return (rng.uniform(0.3, 1.5) * shine)[..., None] * _tint(rng, 0.3)


def _flecks(shape: tuple[int, int], rate: float, rng: np.random.Generator) -> np.ndarray:
    """An image of zeros with ones at random places."""
    out = np.zeros(shape, np.float32)
    count = int(rng.poisson(rate * out.size))
    out[rng.integers(0, shape[0], count), rng.integers(0, shape[1], count)] = 1
    return out


def _drops(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blurred discs, as drops on a lens are."""
    count = int(rng.integers(0, 8))
    if not count:
        return image
    height, width = image.shape[:2]
    mask = np.zeros((height, width), np.uint8)
    for _ in range(count):
        place = int(rng.integers(0, width)), int(rng.integers(0, height))
        cv2.circle(mask, place, max(round(rng.uniform(0.01, 0.05) * width), 1), 255, -1)
    blurred = cv2.GaussianBlur(image, (0, 0), 0.03 * width)
    share = cv2.GaussianBlur(mask, (0, 0), 1.0)[..., None].astype(np.float32) / 255
    return np.uint8(image * (1 - share) + blurred * share)
