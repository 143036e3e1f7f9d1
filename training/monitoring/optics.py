# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What corruptions are made of: light, distance, grain, and things in the air and on the glass."""

from __future__ import annotations

import cv2
import numpy as np

Array = np.ndarray

WIDTH_PX = 480
"""Width at which lengths in pixels are stated."""

LEVELS = np.arange(256) / 255
LINEAR = np.where(LEVELS <= 0.04045, LEVELS / 12.92, ((LEVELS + 0.055) / 1.055) ** 2.4).astype(
    np.float32
)
# The root of the intensity is what indexes the table: its dark end needs the finer steps.
_STEPS = 4095
_INTENSITY = (np.arange(_STEPS + 1) / _STEPS) ** 2
_CURVE = np.round(
    255
    * np.where(
        _INTENSITY <= 0.0031308, 12.92 * _INTENSITY, 1.055 * _INTENSITY ** (1 / 2.4) - 0.055
    )
).astype(np.uint8)
LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)


def encode(linear: Array, contrast: float = 0.0) -> Array:
    """Linear intensities as 8-bit values.

    Args:
        linear: Any shape, 1 is white.
        contrast: Of the S that a camera's tone curve adds, 0 to 1.
    """
    index = (np.sqrt(np.clip(linear, 0, 1)) * np.float32(_STEPS) + 0.5).astype(np.int16)
    if not contrast:
        return _CURVE[index]
    curve = _CURVE / 255
    curve = curve + contrast * curve * (1 - curve) * (2 * curve - 1)
    return np.round(255 * curve).astype(np.uint8)[index]


def axes(height: int, width: int) -> tuple[Array, Array]:
    """Rows (H, 1) and columns (1, W) from 0 to 1, float32."""
    row = (np.arange(height, dtype=np.float32)[:, None] + 0.5) / height
    return row, (np.arange(width, dtype=np.float32)[None] + 0.5) / width


def field(height: int, width: int, rng: np.random.Generator, cells: int) -> Array:
    """(H, W) float32 in [0, 1], smooth, with about so many hills across, evenly distributed."""
    coarse = rng.random((cells, cells + 2))
    # Ranks: whatever was drawn, the same share lies above a threshold.
    coarse = np.argsort(np.argsort(coarse, axis=None)).reshape(coarse.shape) / (coarse.size - 1)
    smooth = cv2.resize(coarse.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth, 0, 1)


def distance(x: Array, rng: np.random.Generator) -> Array:
    """(H, W) float32 metres, as a lone picture suggests them.

    A flat road 1.5 m below the camera; beside it either rows of fronts along the street, or fronts
    10 to 200 m away wherever; above the fronts, where it is bright, the sky.
    """
    height, width = x.shape[:2]
    focal = 0.87 * width
    horizon = rng.uniform(0.4, 0.55)
    row, column = axes(height, width)
    below = np.maximum(row - horizon, 1e-3) * height
    ground = np.minimum(1.5 * focal / below, 300)
    hills = field(height, width, rng, 4)
    along, middle = rng.random() < 0.6, rng.uniform(0.35, 0.65)
    left, right = np.exp(rng.uniform(np.log(4), np.log(25), 2))
    if along:
        beside = np.where(column < middle, left, right).astype(np.float32)
        fronts = beside * focal / np.maximum(np.abs(column - middle) * width, 1)
        fronts = np.clip(fronts * 3 ** (hills - 0.5), 4, 400)
    else:
        fronts = 10 * 20**hills
    away = np.minimum(ground, fronts).astype(np.float32)
    clear = sky(x)
    return np.asarray(away + (1000 - away) * clear**2, np.float32)


def sky(x: Array) -> Array:
    """(H, W) float32 in [0, 1]: bright, and in the upper half."""
    row, _ = axes(*x.shape[:2])
    bright = np.clip((x @ LUMINANCE - 0.5) * 3, 0, 1)
    return np.asarray(bright * np.clip(1.2 - 2 * row, 0, 1))


def overcast(x: Array, rng: np.random.Generator) -> Array:
    """The light of a covered sky: colder than the sun's, and without its shadows.

    Args:
        x: (H, W, 3) float32.
        rng: How much contrast stays, in logarithms, and how cold it is.
    """
    cold, pale = np.float32(rng.uniform(0, 0.22)), np.float32(rng.uniform(0, 0.35))
    x = x * np.array([1 - cold, 1, 1 + cold], np.float32)
    x += ((x @ LUMINANCE)[..., None] - x) * pale
    lifted, dimmed = rng.uniform(0.6, 1), np.float32(rng.uniform(0, 0.6))
    if rng.random() < 0.5:  # the sky lights the shadows
        return flatten(x, lifted)
    luminance = x @ LUMINANCE
    middle = np.float32(np.median(luminance[::4, ::4]) + 1e-3)
    # What the sun shone on loses its light, what lay in the shadow keeps the sky's.
    dull: Array = x / (1 + dimmed * luminance / middle)[..., None]
    return dull


def flatten(x: Array, kept: float) -> Array:
    """Less contrast in logarithms, of which a share is kept, about the same middle."""
    luminance = x @ LUMINANCE + np.float32(1e-3)
    middle = float(np.exp(np.log(luminance[::4, ::4]).mean()))
    flat: Array = x * ((luminance / np.float32(middle)) ** np.float32(kept - 1))[..., None]
    return flat


def wet(x: Array, amount: float, rng: np.random.Generator) -> Array:
    """A wet road: darker, and in places it mirrors what stands above it.

    Args:
        x: (H, W, 3) float32.
        amount: 0 to 1.
        rng: Where the water stands.
    """
    height, width = x.shape[:2]
    horizon = min(int(rng.uniform(0.45, 0.6) * height), height - 1)
    puddles = np.clip(field(height, width, rng, 6) * 2 - rng.uniform(-0.5, 1.0), 0, 1)
    below = height - horizon
    rows = np.clip(horizon - 1 - np.arange(below), 0, None)
    mirrored = cv2.blur(x[rows], (max(width // 100, 1), max(height // 8, 1)))
    depth = np.linspace(1, 0.15, below, dtype=np.float32)  # a flat glance mirrors more (Fresnel)
    share = (np.float32(0.75 * amount) * puddles[horizon:] * depth[:, None])[..., None]
    out = x.copy()
    out[horizon:] = x[horizon:] * np.float32(1 - 0.45 * amount) * (1 - share) + mirrored * share
    return out


def whiten(x: Array, amount: float, rng: np.random.Generator) -> Array:
    """Snow on the ground and, less, on what stands beside it, with tracks and bare patches.

    Args:
        x: (H, W, 3) float32.
        amount: 0 to 1.
        rng: Where it lies.
    """
    height, width = x.shape[:2]
    row, column = axes(height, width)
    horizon = rng.uniform(0.45, 0.6)
    lies = np.clip((row - horizon) / 0.06, 0, 1) * np.ones_like(column)
    bare = np.clip(field(height, width, rng, 5) * 2.5 - 3 * amount, 0, 1)
    # Wheels clear two tracks, which meet at the horizon.
    reach = np.maximum(row - horizon, 0) / (1 - horizon)
    middle, apart, broad = rng.uniform(0.35, 0.65), rng.uniform(0.15, 0.4), rng.uniform(0.03, 0.1)
    tracks = sum(
        np.exp(-(((column - middle - side * apart * reach) / (broad * reach + 0.01)) ** 2))
        for side in (-1, 1)
    ) * np.float32(rng.uniform(0, 0.9))
    cover = lies * (1 - bare) * np.clip(1 - tracks, 0, 1)
    luminance = x @ LUMINANCE
    white = float(np.quantile(luminance[::4, ::4], 0.92)) * rng.uniform(0.5, 1.0)
    # What is upright stays dark: it is where the picture changes much.
    edges = gaussian(np.abs(luminance - gaussian(luminance, 0.02 * width)), 0.005 * width)
    cover = cover * np.clip(1.2 - 3 * edges / max(white, 0.05), 0, 1) * np.float32(amount > 0)
    shade = np.float32(white) * (0.8 + 0.4 * luminance / max(white, 0.05))
    # Ruts and lumps: neither trodden nor driven snow is smooth.
    lumps = gaussian(rng.standard_normal((height, width), np.float32), 1.5 * width / WIDTH_PX)
    shade *= 1 + np.float32(rng.uniform(0, 0.15) / max(float(lumps.std()), 1e-6)) * lumps
    snow = shade[..., None] * tint(rng, 0.03)
    covered: Array = x + (snow - x) * (0.9 * cover)[..., None]
    return covered


def veil(x: Array, distance: Array, visibility_m: float, airlight: Array) -> Array:
    """Koschmieder's law for (H, W, 3) intensities at (H, W) metres."""
    kept = np.exp(distance * np.float32(-3 / visibility_m))[..., None]
    veiled: Array = x * kept + airlight * (1 - kept)
    return veiled


def tint(rng: np.random.Generator, most: float) -> Array:
    """A light's colour: warm to cold, (3,) float32 with a middle of one."""
    warm = rng.uniform(-most, most)
    return np.array([1 + warm, 1 + 0.1 * warm, 1 - warm], np.float32)


def grain(
    x: Array, electrons: float, read: float, rng: np.random.Generator, smooth: float = 0.0
) -> Array:
    """Add shot noise, whose variance is the signal, and read noise (EMVA 1288, linear model).

    Args:
        x: (H, W, 3) float32, 1 is white.
        electrons: That make white.
        read: Standard deviation of the read noise in electrons.
        rng: Source of the randomness.
        smooth: Standard deviation in pixels of a smoothing that keeps the noise's variance.
    """
    noise: Array = rng.standard_normal(x.shape, np.float32)
    if smooth > 0.2:
        noise = cv2.GaussianBlur(noise, (0, 0), smooth)
        noise = noise / max(float(noise.std()), 1e-6)
    deviation = np.sqrt(
        np.maximum(x, 0) / np.float32(electrons) + np.float32(read / electrons) ** 2
    )
    noisy: Array = x + deviation * noise
    return noisy


def gaussian(x: Array, sigma: float) -> Array:
    """A Gaussian blur; of a smaller picture where it is wide, since the result is smooth."""
    height, width = x.shape[:2]
    step = int(min(sigma / 2, height / 4, width / 4))
    if step < 2:
        return np.asarray(cv2.GaussianBlur(x, (0, 0), max(sigma, 0.1)))
    size = max(round(width / step), 1), max(round(height / step), 1)
    small = cv2.resize(x, size, interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), sigma / step)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR))


def disc(radius: float) -> Array:
    """(2n+1, 2n+1) float32: the share of each pixel that a disc covers."""
    half = max(int(np.ceil(radius + 0.5)), 1)
    along = np.arange(-half, half + 1, dtype=np.float32)
    away = np.hypot(along[:, None], along[None])
    return np.clip(np.float32(radius + 0.5) - away, 0, 1)


def line(du: float, dv: float) -> Array:
    """(2n+1, 2n+1) float32 of sum one: a line from (-du, -dv) to (du, dv) around the middle."""
    half = int(np.ceil(max(abs(du), abs(dv), 0.5))) + 1
    kernel = np.zeros((2 * half + 1, 2 * half + 1), np.float32)
    along = np.linspace(-1, 1, 8 * half + 1)
    u, v = half + du * along, half + dv * along
    # Each sample of the line is shared out among the four pixels around it.
    for right in (0, 1):
        for below in (0, 1):
            share = np.abs(1 - right - u % 1) * np.abs(1 - below - v % 1)
            np.add.at(kernel, (v.astype(int) + below, u.astype(int) + right), share)
    return kernel / kernel.sum()


def flecks(
    height: int, width: int, share: float, amount: float, rng: np.random.Generator
) -> Array:
    """(H, W) float32 zeros with ones at random places: `amount` of all those that are drawn."""
    flecks = np.zeros((height, width), np.float32)
    count = int(rng.poisson(share * height * width))
    rows, columns = rng.integers(0, height, count), rng.integers(0, width, count)
    shown = round(min(amount, 1.0) * count)
    flecks[rows[:shown], columns[:shown]] = 1
    return flecks


def lamps(
    height: int,
    width: int,
    number: int,
    rng: np.random.Generator,
    larger: float = 1.0,
    lowest: float = 0.6,
) -> Array:
    """(H, W, 3) float32: lamps with their glow.

    Args:
        height: Rows.
        width: Columns.
        number: Of lamps.
        rng: Where they are, how strong, and of which colour.
        larger: So many times as wide as a street lamp or head lamp in the distance.
        lowest: Row of the lowest, 1 is the lower edge.
    """
    row, column = axes(-(-height // 2), -(-width // 2))  # glow is smooth: half the size will do
    light = np.zeros((len(row), column.shape[1], 3), np.float32)
    for _ in range(number):
        u, v = rng.uniform(0, 1), rng.uniform(0.15, lowest)
        size = np.float32(larger * 0.003 * np.exp(rng.uniform(0, 1.5)))
        away = ((column - u) / size) ** 2 + ((row - v) * height / width / size) ** 2
        shine = np.exp(-np.minimum(away, 50)) + 0.03 / (1 + away / 9)
        light += (rng.uniform(0.3, 1.5) * shine)[..., None] * tint(rng, 0.3)
    return np.asarray(cv2.resize(light, (width, height), interpolation=cv2.INTER_LINEAR))


def windows(height: int, width: int, number: int, rng: np.random.Generator) -> Array:
    """(H, W, 3) float32: lit windows, signs and shop fronts, in groups about the horizon."""
    light = np.zeros((height, width, 3), np.float32)
    middle, spread = rng.uniform(0.1, 0.9), rng.uniform(0.05, 0.3)
    for _ in range(number):
        u, v = rng.normal(middle, spread), rng.uniform(0.25, 0.58)
        wide, tall = np.exp(rng.uniform(np.log(0.004), np.log(0.04), 2))
        colour = np.float32(rng.uniform(0.1, 1.0)) * tint(rng, 0.35)
        left, top = round(float(u * width)), round(float(v * height))
        across, down = max(round(float(wide * width)), 1), max(round(float(tall * height)), 1)
        cv2.rectangle(light, (left, top), (left + across, top + down), colour.tolist(), -1)
    return light


_MOST_STREAKS = 1600


def streaks(height: int, width: int, count: int, rng: np.random.Generator) -> Array:
    """(H, W) float32 share of the light that falling drops replace; near ones are long, faint."""
    lean = rng.normal(0, 0.12)
    near = rng.random(_MOST_STREAKS)
    u, v = rng.uniform(-0.1, 1.1, _MOST_STREAKS) * width, rng.uniform(-0.1, 1, _MOST_STREAKS)
    scale = width / WIDTH_PX
    length = (6 + 40 * near**3) * scale * rng.uniform(0.7, 1.3, _MOST_STREAKS)
    slope = lean + rng.normal(0, 0.03, _MOST_STREAKS)
    start = np.column_stack([u, v * height])
    lines = np.round(
        np.stack([start, start + length[:, None] * np.column_stack([slope, np.ones(len(u))])], 1)
        * 16
    ).astype(np.int32)
    alpha = (0.16 + 0.14 * (1 - near)) * rng.uniform(0.5, 1.5, _MOST_STREAKS)
    thick = np.clip(np.round((0.8 + 1.4 * near**3) * scale), 1, 20).astype(int)
    layer = np.zeros((height, width), np.float32)
    level = np.round(alpha * 12).astype(int)
    shown = np.arange(_MOST_STREAKS) < count
    for group in np.unique(level[shown] * 32 + thick[shown]):
        part = shown & (level * 32 + thick == group)
        cv2.polylines(
            layer, list(lines[part]), False, int(group // 32) / 12, int(group % 32),
            cv2.LINE_8, 4,
        )  # fmt: skip
    return np.asarray(cv2.GaussianBlur(layer, (0, 0), max(0.6 * scale, 0.5)))


def refract(image: Array, covered: float, rng: np.random.Generator) -> Array:
    """Put drops on the glass that cover so much of the picture."""
    height, width = image.shape[:2]
    step = max(width // 60, 1)
    small = cv2.resize(
        image, (max(width // step, 1), max(height // step, 1)), interpolation=cv2.INTER_AREA
    )
    # How far the glass lies in front of what is in focus.
    soft = max(0.004 * width * float(np.exp(rng.uniform(0, np.log(4)))), 1.0)
    out, area = image.copy(), 0.0
    while area < covered * height * width:
        radius = max(width * 0.018 * float(np.exp(rng.normal(0, 0.5))), 1.0)
        u, v, tall = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0.9, 1.4)
        area += np.pi * radius**2 * tall
        top, left = max(int(v - radius * tall), 0), max(int(u - radius), 0)
        bottom, right = min(int(v + radius * tall) + 2, height), min(int(u + radius) + 2, width)
        dv = (np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(v)) / tall
        du = np.arange(left, right, dtype=np.float32)[None] - np.float32(u)
        away = np.sqrt(dv**2 + du**2) / np.float32(radius)
        # A wide field, upside down: half the picture's width across the drop.
        pull = 0.25 * width / radius / step * (1 + away**2)
        seen = cv2.remap(
            small, (u / step - du * pull).astype(np.float32),
            (v / step - dv * pull).astype(np.float32), cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT_101,
        )  # fmt: skip
        shade = 1.08 - 0.55 * np.clip(away, 0, 1) ** 4
        edge = np.clip((1 - away) * radius / soft, 0, 1)[..., None]
        patch = out[top:bottom, left:right]
        mixed = patch * (1 - edge) + np.minimum(seen * shade[..., None], 255) * edge
        out[top:bottom, left:right] = mixed.astype(np.uint8)
    return out


def skylight(x: Array, rng: np.random.Generator) -> Array:
    """The light of the sky that this picture has, (3,) float32, nearly neutral."""
    bright = float(np.quantile(x[::4, ::4] @ LUMINANCE, 0.9))
    return np.float32(np.clip(bright, 0.15, 0.9) * rng.uniform(0.8, 1.1)) * tint(rng, 0.04)


def exposed(x: Array, before: Array, rng: np.random.Generator, most: float = 1.1) -> Array:
    """8-bit values of a scene to which the camera's automatic exposure answers, or in part.

    Args:
        x: (H, W, 3) float32.
        before: The nominal frame, as bright as the camera wants frames to be.
        rng: How much of the change the exposure makes up for, and how much contrast is won back.
        most: At most so much of it.
    """
    answer = rng.uniform(0, most) if rng.random() < 0.4 else most * rng.uniform(0.7, 1)
    # Many cameras move the black point to what is darkest, or expose for what is bright.
    black = float(rng.uniform(0, 0.9) * (rng.random() < 0.5))
    bright = float(rng.uniform(0, 1) * (rng.random() < 0.5))
    lows = [float(np.quantile(part[::4, ::4] @ LUMINANCE, 0.01)) for part in (before, x)]
    lifted = x - np.float32(black * max(lows[1] - lows[0], 0))
    thin = [np.maximum(part[::4, ::4] @ LUMINANCE, 0) for part in (before, lifted)]
    means = [float(np.sqrt(part).mean()) ** 2 + 1e-3 for part in thin]
    highs = [float(np.quantile(part, 0.98)) + 1e-3 for part in thin]
    ratio = (means[0] / means[1]) ** (1 - bright) * (highs[0] / highs[1]) ** bright
    gain = np.clip(ratio**answer, 0.3, 4)
    return encode(lifted * np.float32(gain), max(rng.uniform(-0.4, 0.4), 0.0))


def electrons(rng: np.random.Generator) -> float:
    """That make white: of small and large pixels, and of cameras that take their noise away."""
    return float(np.exp(rng.uniform(np.log(6e3), np.log(1e6))))
