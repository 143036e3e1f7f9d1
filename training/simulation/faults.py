# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What goes wrong in the camera itself. Places of dirt and covers stay the same in a drive."""

from __future__ import annotations

import functools
import math

import cv2
import numpy as np

from clcp_ros.image_codec import decode_bytes, encode_jpeg
from training.simulation.surface import noise
from training.simulation.view import shrink

Array = np.ndarray

_BEST_QUALITY, _WORST_QUALITY = 95, 3
_STOPS_OVER, _STOPS_UNDER, _STOPS_NOISE = 4.0, 7.0, 9.0
_DEFOCUS = 0.022
"""Radius of the blur disc at severity 1, as a share of the image's width."""


def on_glass(picture: Array, name: str, severity: float, seed: tuple[int, ...]) -> Array:
    """Dirt, cover or defocus on (H, W, 3) radiance; any other fault leaves it as it is."""
    if name == 'dirt':
        return _dirty(picture, severity, seed)
    if name == 'covered':
        return _covered(picture, severity, seed)
    if name == 'defocus':
        return _defocused(picture, severity)
    return picture


def exposure_factor(name: str, severity: float) -> float:
    """What a fault multiplies the exposure by."""
    if name == 'over_exposure':
        return 2.0 ** (_STOPS_OVER * severity)
    if name == 'under_exposure':
        return 2.0 ** (-_STOPS_UNDER * severity)
    return 1.0


def extra_noise(name: str, severity: float) -> float:
    """Stops of light that the sensor does not use."""
    return _STOPS_NOISE * severity if name == 'noise' else 0.0


def compressed(image: Array, severity: float) -> Array:
    """The (H, W, 3) uint8 image after a JPEG of quality 95 (severity 0) to 3 (1)."""
    quality = _BEST_QUALITY * (_WORST_QUALITY / _BEST_QUALITY) ** severity
    return decode_bytes(encode_jpeg(image, max(1, round(quality))))


def _dirty(picture: Array, severity: float, seed: tuple[int, ...]) -> Array:
    """Dried mud and dust: far out of focus, it takes light and scatters some of the rest."""
    h, w = picture.shape[:2]
    mask = _mud(h, w, seed)
    # The dirt grows: no pixel becomes cleaner.
    cover = np.clip((mask - np.float32(1 - 0.65 * severity)) / np.float32(0.35), 0, 1)
    cover *= np.float32(0.5 + 0.45 * severity) * np.float32(min(1.0, 5 * severity))
    around = picture.mean(axis=(0, 1)) * np.array([0.42, 0.36, 0.28], np.float32)
    cover3 = cv2.merge([cover, cover, cover])
    scattered = cover3 * around
    result: Array = picture * (1 - cover3) + scattered
    return result


@functools.lru_cache(maxsize=8)
def _mud(h: int, w: int, seed: tuple[int, ...]) -> Array:
    """(H, W) float32 in [0, 1]: the share of the image that is cleaner than a pixel."""
    rng = np.random.default_rng([*seed, 1])
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    sx, sy = rng.uniform(0, 100, 2)
    u, v = x / w * 6 + np.float32(sx), y / w * 6 + np.float32(sy)
    cloud = 0.5 + 0.35 * noise(u, v, 3.0) + 0.2 * noise(v, u, 1.0)
    for _ in range(40):
        cx, cy, r = rng.uniform(0, w), rng.uniform(0, h), w * rng.uniform(0.008, 0.05)
        blob = np.exp(-((((x - cx) ** 2 + (y - cy) ** 2) / r**2) ** 1.5))
        cloud = np.maximum(cloud, blob * rng.uniform(0.6, 1.05))
    # Splashes come from below.
    cloud += 0.15 * (y / h - 0.5)
    soft = cv2.GaussianBlur(cloud.astype(np.float32), (0, 0), w / 60)
    return _ranked(soft)


def _covered(picture: Array, severity: float, seed: tuple[int, ...]) -> Array:
    """Something opaque before the lens: tape, a leaf, a hand; nothing is left at severity 1."""
    h, w = picture.shape[:2]
    rank = _cover_order(h, w, seed)
    open_ = np.clip((rank - np.float32(1.08 * severity - 0.08)) / np.float32(0.08), 0, 1)
    # A little light leaks through and around the cover.
    leak = picture.mean(axis=(0, 1)) * np.array([0.0020, 0.0015, 0.0012], np.float32)
    open3 = cv2.merge([open_, open_, open_])
    result: Array = picture * open3 + (1 - open3) * leak
    return result


@functools.lru_cache(maxsize=8)
def _cover_order(h: int, w: int, seed: tuple[int, ...]) -> Array:
    """(H, W) float32 in [0, 1]: the share of the image that is covered when a pixel is."""
    rng = np.random.default_rng([*seed, 2])
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    angle = rng.uniform(0, 2 * math.pi)
    along = (x - w / 2) * np.float32(math.cos(angle)) + (y - h / 2) * np.float32(math.sin(angle))
    wobble = noise(x / w * 4, y / w * 4 + np.float32(rng.uniform(0, 9)), 6.0) * np.float32(
        0.15 * w
    )
    field = cv2.GaussianBlur(along + wobble, (0, 0), w / 60)
    return _ranked(field)


def _ranked(field: Array) -> Array:
    """Ranks of the values, 0 the lowest and 1 the highest."""
    order = np.empty(field.size, np.float32)
    order[np.argsort(field.ravel(), kind='stable')] = np.linspace(0, 1, field.size)
    return order.reshape(field.shape)


def _defocused(picture: Array, severity: float) -> Array:
    """A disc of confusion; wide ones are drawn at half the size."""
    h, w = picture.shape[:2]
    radius = _DEFOCUS * w * severity
    if radius < 5:
        return np.asarray(cv2.filter2D(picture, -1, _disc(radius)))
    small = cv2.filter2D(shrink(picture, 2), -1, _disc(radius / 2))
    return np.asarray(cv2.resize(small, (w, h), interpolation=cv2.INTER_LINEAR))


def _disc(radius: float) -> Array:
    half = max(1, math.ceil(radius))
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    disc = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1)
    disc[half, half] = max(disc[half, half], 1e-3)
    return (disc / disc.sum()).astype(np.float32)
