# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The camera's electronics: auto exposure, motion blur, shot and read noise, tone curve."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import cv2
import numpy as np

from training.simulation.sensors import CameraConfig
from training.simulation.view import View, shrink

Array = np.ndarray

UNIT_S = 1e-3
"""Exposure at gain 1 under which a radiance of 1 is white."""

_SHORTEST_S = 2e-5
_TARGET = 0.39
"""Mean grey value, 0 to 1, that the auto exposure aims at by day."""

_DARKER = 0.12
"""How much darker the aim is for each e-fold of exposure beyond the day's."""

_NOISE_LENGTH = 1 << 21
_TAPS = 5


@dataclass(frozen=True)
class Exposure:
    """How a picture was taken.

    Attributes:
        time_s: Shutter time.
        gain: Amplification of what it gave.
    """

    time_s: float
    gain: float

    @property
    def total(self) -> float:
        """Signal per unit of radiance."""
        return self.time_s / UNIT_S * self.gain


def meter(radiance: Array, camera: CameraConfig) -> Exposure:
    """Auto exposure, settled: a function of this picture alone, of no earlier one.

    The mean grey value, weighted towards the middle and the lower half, is brought to `_TARGET`;
    first the shutter opens, up to `camera.max_exposure_s`, then the gain rises, up to
    `camera.max_gain`: darker scenes stay dark.

    Args:
        radiance: (H, W, 3) float32.
        camera: Its limits.
    """
    small = shrink(radiance, 8)
    grey = small @ np.array([0.3, 0.59, 0.11], np.float32)
    weight = _weights(*grey.shape)
    low = np.log(_SHORTEST_S / UNIT_S)
    high = np.log(camera.max_exposure_s / UNIT_S * camera.max_gain)
    for _ in range(16):
        middle = (low + high) / 2
        brightness = float((_tone(grey * np.float32(np.exp(middle))) * weight).sum())
        if brightness < _target(middle):
            low = middle
        else:
            high = middle
    return _split(float(np.exp((low + high) / 2)), camera)


def _target(log_total: float) -> float:
    """Mean grey value aimed at: dusk is not to look like day, nor night like dusk."""
    return float(np.clip(_TARGET - _DARKER * max(log_total - np.log(4.0), 0), 0.16, 1))


def expose(exposure: Exposure, factor: float, camera: CameraConfig) -> Exposure:
    """The exposure times `factor`, not clamped: what a faulty auto exposure would choose."""
    total = exposure.total * factor
    time_s = float(np.clip(total * UNIT_S, _SHORTEST_S / 100, camera.max_exposure_s))
    return Exposure(time_s, total * UNIT_S / time_s)


def _split(total: float, camera: CameraConfig) -> Exposure:
    time_s = min(total * UNIT_S, camera.max_exposure_s)
    return Exposure(time_s, total * UNIT_S / time_s)


@functools.lru_cache(maxsize=16)
def _weights(h: int, w: int) -> Array:
    y, x = np.mgrid[0:h, 0:w]
    weight = np.exp(-(((x - w / 2) / (0.4 * w)) ** 2) - ((y - 0.6 * h) / (0.35 * h)) ** 2)
    return (weight / weight.sum()).astype(np.float32)


def motion_blur(picture: Array, view: View, time_s: float) -> Array:
    """Smear an (H, W, 3) picture along the flow of its pixels while the shutter is open.

    Pictures that move by less than half a pixel are returned as they are.
    """
    speed = view.flow_at(8)
    length = np.hypot(speed[..., 0], speed[..., 1]) * time_s
    if float(np.percentile(length, 95)) < 0.5:
        return picture
    map_x, map_y = _grid(*picture.shape[:2])
    flow = np.clip(view.flow * np.float32(time_s), -40, 40)
    total = picture.copy()
    for tap in range(_TAPS):
        if 2 * tap == _TAPS - 1:
            continue
        shift = np.float32(tap / (_TAPS - 1) - 0.5)
        total += cv2.remap(
            picture, map_x + flow[..., 0] * shift, map_y + flow[..., 1] * shift,
            cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE,
        )  # fmt: skip
    total *= np.float32(1 / _TAPS)
    return total


@functools.lru_cache(maxsize=8)
def _grid(h: int, w: int) -> tuple[Array, Array]:
    x, y = np.meshgrid(np.arange(w, dtype=np.float32), np.arange(h, dtype=np.float32))
    return x, y


@functools.lru_cache(maxsize=16)
def vignette(camera: CameraConfig) -> Array:
    """(H, W, 3) float32 light that arrives, 1 on the axis.

    1 - vignetting r^2 with r = 1 in the image's farthest corner: the first term of the even
    polynomial of Goldman 2010, "Vignette and exposure calibration and compensation".
    """
    x, y = _grid(camera.height, camera.width)
    K = camera.K
    r2 = (x - K[0, 2]) ** 2 + (y - K[1, 2]) ** 2
    fall = 1 - camera.vignetting * r2 / r2.max()
    return np.repeat(fall.astype(np.float32)[..., None], 3, axis=2)


def develop(
    picture: Array,
    exposure: Exposure,
    camera: CameraConfig,
    rng: np.random.Generator,
    extra_noise: float = 0.0,
) -> Array:
    """Expose, add noise, and turn light into grey values.

    Noise as in Foi et al. 2008, "Practical Poissonian-Gaussian noise modeling and fitting for
    single-image raw-data": the variance of the signal s (1 is white) is s g / N + (g r / N)^2 with
    gain g, full well N and read noise r in electrons.

    Args:
        picture: (H, W, 3) float32 radiance; overwritten.
        exposure: Shutter and gain.
        camera: Full well and read noise.
        rng: Source of the noise.
        extra_noise: How much of the full well a fault takes away, in stops.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    picture *= np.float32(exposure.total)
    np.clip(picture, 0, 60, out=picture)
    per_electron = exposure.gain / camera.full_well * 2.0**extra_noise
    sigma = np.minimum(picture, np.float32(1.5))
    sigma *= np.float32(per_electron)
    sigma += np.float32((camera.read_noise * per_electron) ** 2)
    np.sqrt(sigma, out=sigma)
    sigma *= _normals(picture.shape, rng)
    picture += sigma
    index = _tone_index(picture)
    return np.asarray(_TONE[index])


def _normals(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Standard normal numbers; a random stretch of a long sequence, as drawing them is slow."""
    count = int(np.prod(shape))
    start = int(rng.integers(_NOISE_LENGTH))
    stock = _noise_stock()
    if start + count <= len(stock):
        return stock[start : start + count].reshape(shape)
    return np.take(stock, np.arange(start, start + count), mode='wrap').reshape(shape)


@functools.lru_cache(maxsize=1)
def _noise_stock() -> Array:
    numbers = np.random.default_rng(11).standard_normal(_NOISE_LENGTH, np.float32)
    return np.concatenate([numbers, numbers[: 1 << 20]])


_WHITE = 4.0
"""Signal at which the tone curve's table ends."""

_CONTRAST = 0.9


def _curve(signal: Array) -> Array:
    """Grey value in [0, 1] of a signal: soft clipping, gamma, and an S for contrast."""
    clipped = signal / (1 + (signal / 1.15) ** 3) ** (1 / 3)
    grey = np.clip(clipped, 0, 1) ** (1 / 2.2)
    return np.clip(grey + _CONTRAST * grey * (1 - grey) * (2 * grey - 1), 0, 1)


# The table is even in the square root of the signal, finer in the dark.
_TABLE_SIZE = 4096
_TONE = np.round(255 * _curve(_WHITE * (np.arange(_TABLE_SIZE) / (_TABLE_SIZE - 1)) ** 2)).astype(
    np.uint8
)


def _tone_index(signal: Array) -> Array:
    np.clip(signal, 0, _WHITE, out=signal)
    signal *= np.float32((_TABLE_SIZE - 1) ** 2 / _WHITE)
    np.sqrt(signal, out=signal)
    return signal.astype(np.uint16)


def _tone(signal: Array) -> Array:
    return np.asarray(_curve(np.clip(signal, 0, _WHITE)))
