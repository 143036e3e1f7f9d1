# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Rain drops and snow flakes: in the air before the camera, and water on its glass."""

from __future__ import annotations

import functools
import math

import cv2
import numpy as np

from training.simulation import atmosphere
from training.simulation.conditions import Condition
from training.simulation.light import Light
from training.simulation.view import View, shrink

Array = np.ndarray

_NEAR_M = 0.4
_STREAKS = 1500
"""Most streaks drawn; the nearest are kept, the others are too faint to be seen."""
_LEVELS = 6


def falling(
    view: View, condition: Condition, exposure_s: float, rng: np.random.Generator
) -> Array | None:
    """(H, W) float32 part of each pixel's light replaced by drops or flakes in the air.

    They are spread evenly in space and move with their terminal speed against the vehicle's, so
    that they stream out of the vanishing point. A drop covers a pixel for a part of the exposure
    only (Garg and Nayar 2007, "Vision and rain"): the alpha of a streak is the drop's width over
    the streak's length, times the part of the pixel it fills.
    """
    if condition.rain_mm_h > 0:
        # Smaller drops are a haze, which the extinction stands for.
        smallest = 1.0
        density = atmosphere.raindrops_per_m3(condition.rain_mm_h, smallest)
        mean = 1e-3 * atmosphere.mean_drop_mm(condition.rain_mm_h, smallest)
        reach, drift, gain = 5.0, 0.3, 2.2
    elif condition.snow_mm_h > 0:
        # Water content S / speed at 1 m/s, flakes of 3 mg: 90 per m3 for each mm/h.
        density, mean = 90 * condition.snow_mm_h, 4e-3
        reach, drift, gain = 7.0, 0.5, 1.0
    else:
        return None
    camera, (h, w) = view.camera, view.hit.shape
    f = (float(camera.K[0, 0]) + float(camera.K[1, 1])) / 2
    volume = (w / f) * (h / f) * (reach**3 - _NEAR_M**3) / 3
    count = int(rng.poisson(min(density * volume, 50_000)))
    z = np.cbrt(rng.uniform(_NEAR_M**3, reach**3, count))
    place = np.column_stack(
        [
            (rng.uniform(0, w, count) - camera.K[0, 2]) / camera.K[0, 0] * z,
            (rng.uniform(0, h, count) - camera.K[1, 2]) / camera.K[1, 1] * z,
            z,
        ]
    )
    diameter = 0.7 * mean + 0.3 * mean * rng.exponential(1, count)
    keep = np.argsort(z, kind='stable')[:_STREAKS]
    place, diameter, z = place[keep], diameter[keep], z[keep]
    speed = 1.0
    if condition.rain_mm_h > 0:
        speed = atmosphere.fall_speed(1e3 * mean)
    velocity = _relative_velocity(view, speed, drift, len(z), rng)
    return _streaks(view, place, velocity * exposure_s, diameter, f, gain)


def _relative_velocity(
    view: View, fall: float, drift: float, count: int, rng: np.random.Generator
) -> Array:
    """(N, 3) m/s in the optical frame."""
    own = np.asarray(view.scene.velocity, np.float64)
    wind = rng.normal(0, 1.0, 2)
    base = np.column_stack(
        [
            wind[0] - own[0] + rng.normal(0, drift, count),
            wind[1] - own[1] + rng.normal(0, drift, count),
            np.full(count, -fall),
        ]
    )
    result: Array = base @ view.camera.T_base_camera[:3, :3]
    return result


def _streaks(
    view: View, place: Array, path: Array, diameter: Array, f: float, gain: float
) -> Array:
    K = view.camera.K
    h, w = view.hit.shape
    ends = np.stack([place - path / 2, place + path / 2], 1)
    ends[..., 2] = np.maximum(ends[..., 2], 0.15)
    pixels = ends[..., :2] / ends[..., 2:] * K[[0, 1], [0, 1]] + K[:2, 2]
    length = np.linalg.norm(pixels[:, 1] - pixels[:, 0], axis=1)
    z = place[:, 2]
    width = diameter * f / z
    # Out of focus when near: wider and fainter.
    blurred = np.hypot(width, 0.0012 * f * np.maximum(1 / z - 0.15, 0))
    drawn = np.maximum(blurred, 1.0)
    alpha = gain * np.minimum(width / np.maximum(length, width), 1) * width / drawn
    alpha = np.clip(alpha * width / blurred, 0, 0.95)
    level = np.clip((np.sqrt(alpha) * _LEVELS).astype(int), 0, _LEVELS - 1)
    thick = np.clip(np.round(drawn), 1, 9).astype(int)
    layer = np.zeros((h, w), np.float32)
    points = np.round(pixels * 16).astype(np.int32)
    for group in np.unique(level * 16 + thick):
        part = (level * 16 + thick) == group
        value = float(alpha[part].mean())
        if value < 0.004:
            continue
        cv2.polylines(
            layer, list(points[part]), False, value, int(group % 16), cv2.LINE_8, 4
        )  # fmt: skip
    return cv2.GaussianBlur(layer, (0, 0), 0.6)


def paint(radiance: Array, layer: Array, lit: Light) -> None:
    """Blend drops or flakes, which carry the light of the whole sky, into (3, H, W) in place."""
    for plane, a, b in zip(radiance, lit.horizon, lit.zenith, strict=True):
        plane += (np.float32(0.6 * a + 0.4 * b) - plane) * layer


# ------------------------------------------------------------------------------ on the glass


_PLACES = 50


def drops_on_glass(
    picture: Array, condition: Condition, time: float, seed: tuple[int, ...]
) -> None:
    """Refract an (H, W, 3) picture in the drops on the camera's glass, in place.

    A drop is a short lens close to the camera: it shows a wide field upside down and out of focus.
    Drops stay for seconds, so that consecutive pictures share them: each of a number of places has
    a drop for a while, then another one elsewhere; when and where follows from the seed.
    """
    h, w = picture.shape[:2]
    drops = _drops(condition.severity, time, seed)
    if not len(drops):
        return
    blurred = cv2.GaussianBlur(shrink(picture, 4), (0, 0), 1.2)
    for x, y, radius, strength in drops:
        _refract(picture, blurred, (x * w, y * h), radius * w, strength)


def _drops(severity: float, time: float, seed: tuple[int, ...]) -> list[tuple[float, ...]]:
    found: list[tuple[float, ...]] = []
    for place in range(_PLACES):
        lasts, phase, at = _slot(seed, place)
        # Ever more places are in use; a new one begins with a tiny drop.
        share = min(max(severity * _PLACES - place, 0.0), 1.0) if severity < 1 else 1.0
        if share == 0:
            break
        turn = math.floor((time + phase) / lasts)
        rng = np.random.default_rng([*seed, place, turn & 0xFFFFFFFF])
        age = (time + phase) / lasts - turn
        x, y = rng.uniform(0, 1), rng.uniform(0, 1) + 0.04 * age * at
        radius = rng.uniform(0.012, 0.048) * share**0.5
        found.append((x, y, radius, min(1.0, 6 * (1 - age))))
    return found


@functools.lru_cache(maxsize=512)
def _slot(seed: tuple[int, ...], place: int) -> tuple[float, float, float]:
    rng = np.random.default_rng([*seed, place])
    return float(rng.uniform(1.5, 6)), float(rng.uniform(0, 100)), float(rng.uniform(0, 1))


def _refract(
    picture: Array, blurred: Array, center: tuple[float, float], radius: float, strength: float
) -> None:
    h, w = picture.shape[:2]
    half = math.ceil(radius * 1.6)
    x0, x1 = max(0, int(center[0]) - half), min(w, int(center[0]) + half + 1)
    y0, y1 = max(0, int(center[1]) - half), min(h, int(center[1]) + half + 1)
    if x1 <= x0 or y1 <= y0:
        return
    x, y = np.meshgrid(
        np.arange(x0, x1, dtype=np.float32) - np.float32(center[0]),
        np.arange(y0, y1, dtype=np.float32) - np.float32(center[1]),
    )
    r = np.hypot(x, y * np.float32(0.85)) / np.float32(radius)
    soft = max(0.35, 1.5 / radius)
    alpha = np.clip((1 + soft / 2 - r) / soft, 0, 1) * np.float32(0.92 * strength)
    bend = np.float32(-0.22 * w / radius)
    sx = (np.float32(center[0]) + x * bend) * (blurred.shape[1] / w)
    sy = (np.float32(center[1]) + y * bend) * (blurred.shape[0] / h)
    inside = cv2.remap(blurred, sx, sy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    # Total reflection darkens a drop's rim.
    inside *= (1 - np.float32(0.45) * np.clip(r - 0.5, 0, 1))[..., None]
    patch = picture[y0:y1, x0:x1]
    patch += (inside - patch) * alpha[..., None]
