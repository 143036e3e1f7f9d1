# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Weather and light before the lens, for `training.monitoring.corruptions`.

Each public function takes an image, (H, W, 3) uint8 RGB, a level from 0 to 4 and the generator of
the draw, and returns another image of that size.
"""

from __future__ import annotations

import cv2
import numpy as np

from training.monitoring import optics
from training.monitoring.optics import LINEAR, LUMINANCE, WIDTH_PX, Array

_WARM = np.array([1.12, 1.0, 0.85], np.float32)


def fog(image: Array, level: int, rng: np.random.Generator) -> Array:
    """Koschmieder's law: `I t + A (1 - t)`, `t = exp(-3 d / visibility)`; patchy, neutral.

    There is no sun in it, and the camera answers with its exposure and its tones: what is near
    looks as on a dull day.
    """
    visibility_m = (800, 350, 160, 80, 38)[level] * float(np.exp(rng.normal(0, 0.4)))
    x = LINEAR[image]
    dull = optics.overcast(x, rng)
    # Against a road that reflects a tenth of the same light, fog is as bright as any sky.
    dimmed = np.float32(rng.uniform(0.7, 1.2))
    airlight = optics.skylight(x, rng) * dimmed
    veiled = optics.veil(dull, optics.distance(x, rng), visibility_m, airlight)
    veiled += airlight * optics.lamps(len(x), x.shape[1], int(rng.integers(0, 6)), rng)
    return optics.exposed(veiled, x, rng)


def low_contrast(image: Array, level: int, rng: np.random.Generator) -> Array:
    """Stray light that is the same everywhere: a film on the glass, thin haze, a foul pane."""
    kept = (0.86, 0.73, 0.58, 0.42, 0.27)[level]
    x = LINEAR[image]
    return optics.exposed(
        x * kept + optics.skylight(x, rng) * (1 - kept) * np.float32(rng.uniform(0.5, 0.9)), x, rng
    )


def dusk(image: Array, level: int, rng: np.random.Generator) -> Array:
    """Little light, most of it in the sky, some lamps; the gain makes up for a part of it."""
    light = (0.25, 0.12, 0.06, 0.03, 0.015)[level]
    x = LINEAR[image]
    # The sky is the only light now: what lies below it turns darker than it does.
    below = float(np.exp(rng.uniform(np.log(0.04), 0)))
    ground = np.float32(below) + np.float32(1 - below) * optics.sky(x)
    lit = x * (ground[..., None] * np.float32(light) * _evening(rng))
    lit += light**0.5 * _lamplight(x, int(rng.integers(0, 13)), rng)
    # An automatic gain that leaves a darker scene darker.
    gain = light**-0.45 * below**-0.3 * rng.uniform(0.75, 1.2)
    return _taken_in_the_dark(lit, gain, rng)


def night(image: Array, level: int, rng: np.random.Generator) -> Array:
    """Sky glow, own headlights that fade with distance, lamps, and the grain of a high gain."""
    light = (0.04, 0.02, 0.01, 0.005, 0.002)[level]
    x = LINEAR[image]
    height, width = x.shape[:2]
    distance = optics.distance(x, rng)
    row, column = optics.axes(height, width)
    beside = (column - rng.uniform(0.4, 0.6)) / 0.4
    above = np.clip((0.6 - row) / 0.25, 0, None)
    cone = np.exp(-(beside**2)) * np.exp(-(above**2))
    strength = 0.02 * float(np.exp(rng.uniform(-1.5, 1)))
    beam = strength * cone / (1 + (distance / np.float32(rng.uniform(8, 20))) ** 2)
    # The bright sky of the day is what turns darkest.
    glow = light * (1 - np.float32(rng.uniform(0.3, 0.97)) * optics.sky(x))
    lit = x * (glow[..., None] * _evening(rng) + beam[..., None])
    lit += 1.5 * light**0.5 * _lamplight(x, int(rng.integers(3, 19)), rng)
    return _taken_in_the_dark(lit, np.float32(0.7 * light**-0.5 * rng.uniform(0.6, 1.2)), rng)


def rain(image: Array, level: int, rng: np.random.Generator) -> Array:
    """A dull, hazier scene, a wet road, streaks in the air (Garg and Nayar 2007), drops."""
    x = LINEAR[image]
    dim = optics.overcast(x, rng) * np.float32((0.9, 0.8, 0.7, 0.6, 0.5)[level])
    road = (0.5, 0.7, 0.8, 0.9, 1.0)[level] * float((rng.random() < 0.75) * rng.uniform(0.5, 1.2))
    dim = optics.wet(dim, min(road, 1.0), rng)
    sky = 0.7 * optics.skylight(x, rng)
    visibility_m = (6000, 3000, 1500, 800, 400)[level] * float(np.exp(rng.normal(0, 0.5)))
    wet = optics.veil(dim, optics.distance(x, rng), visibility_m, sky)
    wet += sky * optics.lamps(len(x), x.shape[1], int(rng.integers(0, 6)), rng)
    covered = (0.006, 0.015, 0.03, 0.05, 0.08)[level] * float(np.exp(rng.uniform(-0.9, 0.7)))
    streaks = optics.streaks(len(x), x.shape[1], (150, 350, 700, 1100, 1600)[level], rng)
    seen = np.float32(rng.uniform(0, 1) ** 1.5)  # a long shutter smears them until nothing is seen
    wet += (1.3 * sky - wet) * (seen * np.minimum(streaks, 0.9))[..., None]
    return optics.refract(optics.exposed(wet, x, rng), covered, rng)


def snow(image: Array, level: int, rng: np.random.Generator) -> Array:
    """Flakes from fine and far to large and out of focus, in a paler, hazy, often white scene."""
    x = LINEAR[image]
    height, width = x.shape[:2]
    pale = (0.1, 0.2, 0.3, 0.4, 0.5)[level] * rng.uniform(0.3, 1)
    sky = optics.skylight(x, rng)
    visibility_m = (3000, 1500, 750, 380, 180)[level] * float(np.exp(rng.normal(0, 0.8)))
    scene = optics.overcast(x, rng)
    scene = scene * (1 - pale) + (scene @ LUMINANCE)[..., None] * pale
    lies = (0.35, 0.55, 0.75, 0.9, 1.0)[level] * float(rng.random() < 0.7)
    scene = optics.whiten(scene, lies * rng.uniform(0.6, 1), rng)
    scene = optics.veil(scene, optics.distance(x, rng), visibility_m, sky)
    amount = (0.25, 0.5, 1.0, 1.7, 2.6)[level] * float(np.exp(rng.uniform(-0.3, 0.7)))
    flakes = np.float32(rng.uniform(1, 1.6)) * sky
    cover = _flakes(height, width, amount, rng)[..., None]
    return optics.exposed(scene + (flakes - scene) * cover, x, rng)


def _flakes(height: int, width: int, amount: float, rng: np.random.Generator) -> Array:
    """(H, W) float32 share of the light that flakes replace."""
    scale, lean, fall = width / WIDTH_PX, rng.uniform(-0.4, 0.4), rng.uniform(0, 2)
    cover = np.zeros((height, width), np.float32)
    for radius, share, opacity in ((0.75, 0.007, 0.5), (1.5, 0.007, 0.8), (3.1, 0.0045, 0.55)):
        # Flakes of one size cover a given share of the picture, whatever its size in pixels.
        radius = radius * scale * rng.uniform(0.8, 1.25)
        area = np.pi * max(radius, 0.7) ** 2
        flecks = optics.flecks(height, width, 3 * share / area, amount / 3, rng)
        # They fall while the shutter is open.
        path = optics.line(radius * fall * lean, radius * fall)
        flake: Array = np.pad(optics.disc(radius), len(path) // 2)
        smeared = cv2.filter2D(flake, -1, path, borderType=cv2.BORDER_CONSTANT)
        kernel: Array = smeared / np.float32(max(float(smeared.max()), 1e-6))
        flakes = cv2.filter2D(flecks, -1, kernel)
        cover = np.maximum(cover, opacity * np.minimum(flakes, 1))
    return cover


def _taken_in_the_dark(lit: Array, gain: float, rng: np.random.Generator) -> Array:
    """8-bit values of a dark scene: with grain, or smoothed by the camera, its shutter long."""
    contrast = rng.uniform(0, 0.9)
    if rng.random() < 0.5:
        length = rng.uniform(0, 3) * lit.shape[1] / WIDTH_PX
        lit = cv2.filter2D(lit, -1, optics.line(length, 0.3 * length))
        return optics.encode(np.float32(gain) * optics.grain(lit, 1e7, 4.0, rng), contrast)
    return optics.encode(
        np.float32(gain) * optics.grain(lit, optics.electrons(rng), 4.0, rng), contrast
    )


def _evening(rng: np.random.Generator) -> Array:
    """The colour of dusk, blue to red, or of street lamps, (3,) float32."""
    return optics.tint(rng, 0.3) ** np.float32(rng.uniform(0.5, 1)) * _WARM ** rng.choice(
        [-1, 0, 1, 2]
    )


def _lamplight(x: Array, lamps: int, rng: np.random.Generator) -> Array:
    """(H, W, 3) float32 lamps, and what some of them light up nearby."""
    height, width = x.shape[:2]
    pools = optics.lamps(height, width, int(rng.integers(0, 5)), rng, 12.0, 0.9)
    lights = optics.lamps(height, width, lamps, rng) + np.float32(0.7) * pools * x
    lit = int(rng.integers(0, 3) * rng.integers(0, 20))
    return np.asarray(lights + optics.windows(height, width, lit, rng))
