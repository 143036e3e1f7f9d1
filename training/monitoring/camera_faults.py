# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What goes wrong on the lens, in the camera and on the wire, for `corruptions` beside it.

Each public function takes an image, (H, W, 3) uint8 RGB, a level from 0 to 4 and the generator of
the draw, and returns another image of that size.
"""

from __future__ import annotations

import cv2
import numpy as np

from training.monitoring import optics
from training.monitoring.optics import LEVELS, LINEAR, LUMINANCE, WIDTH_PX, Array

# ------------------------------------------------------------------------------------- on the lens


def drops(image: Array, level: int, rng: np.random.Generator) -> Array:
    """Drops of water on the glass alone: each a small lens that shows the scene upside down."""
    return optics.refract(image, (0.02, 0.05, 0.1, 0.18, 0.3)[level], rng)


def dirt(image: Array, level: int, rng: np.random.Generator) -> Array:
    """Mud far out of focus, or a thing that covers a part of the lens; they let little through."""
    height, width = image.shape[:2]
    share = (0.03, 0.07, 0.14, 0.24, 0.38)[level]
    colour = np.array([1.0, 0.82, 0.6], np.float32) * np.float32(rng.uniform(0.4, 1.0))
    x = LINEAR[image]
    if rng.random() < 0.5:
        mask = _occluder(height, width, min(3.5 * share, 0.9), rng)
        light = np.exp(rng.uniform(np.log(0.001), np.log(0.3)))
    else:
        mask, light = _mud(height, width, share, rng), rng.uniform(0, 0.3)
    # Mud is lit from behind by the scene: a dark, blurred, brown version of it.
    behind = optics.gaussian(x, 0.08 * width) * (np.float32(light) * colour)
    return optics.encode(x + (behind - x) * mask[..., None])


def _mud(height: int, width: int, share: float, rng: np.random.Generator) -> Array:
    """(H, W) float32 in [0, 1]: splashes, more of them low on the lens."""
    covered = share * height * width
    mask, area = np.zeros((height, width), np.float32), 0.0
    blur = 0.006 * width * float(np.exp(rng.uniform(-0.3, 1.3)))
    while area < covered:
        radius = width * 0.012 * np.exp(rng.normal(0, 0.6))
        u, v = rng.uniform(0, width), height * rng.beta(1.6, 1.1)
        axes = max(round(radius * rng.uniform(0.7, 1.6)), 1), max(round(radius), 1)
        cv2.ellipse(
            mask, (int(u), int(v)), axes, rng.uniform(0, 180), 0, 360,
            rng.uniform(0.45, 0.97), -1,
        )  # fmt: skip
        area += np.pi * axes[0] * axes[1]
    return optics.gaussian(mask, blur)


def _occluder(height: int, width: int, share: float, rng: np.random.Generator) -> Array:
    """(H, W) float32 in [0, 1]: tape, a leaf, a hand, which reaches in from one side."""
    row, column = optics.axes(height, width)
    angle, waves = rng.uniform(0, 2 * np.pi), optics.field(height, width, rng, 4)
    reach = (
        np.float32(np.cos(angle)) * (column - 0.5)
        + np.float32(np.sin(angle)) * (row - 0.5)
        + np.float32(rng.uniform(0, 0.5)) * (waves - 0.5)
    )
    edge = float(np.quantile(reach[::4, ::4], share))
    return np.clip((edge - reach) / np.float32(rng.uniform(0.02, 0.12)) + 0.5, 0, 1)


def smear(image: Array, level: int, rng: np.random.Generator) -> Array:
    """Grease, dust or breath in patches: behind it the scene is blurred and veiled."""
    height, width = image.shape[:2]
    x = LINEAR[image]
    threshold = (0.72, 0.6, 0.5, 0.4, 0.3)[level]
    strength = (0.6, 0.7, 0.8, 0.88, 0.95)[level]
    mask = (
        strength
        * np.clip((optics.field(height, width, rng, 5) - threshold) * 3.5, 0, 1)[..., None]
    )
    sigma = (2.0, 3.0, 4.0, 5.5, 7.0)[level] * width / WIDTH_PX
    film = 0.75 * optics.gaussian(x, sigma) + 0.25 * optics.skylight(x, rng) * np.float32(0.7)
    return optics.encode(x + (film - x) * mask)


# -------------------------------------------------------------------------- lens, sensor, exposure


def glare(image: Array, level: int, rng: np.random.Generator) -> Array:
    """A low sun in, above or beside the picture: stray light, warm colours, shaded fronts."""
    x = LINEAR[image]
    row, column = optics.axes(*x.shape[:2])
    u, v = rng.uniform(-0.3, 1.3), rng.uniform(-0.4, 0.35)
    away = np.sqrt((column - u) ** 2 + ((row - v) * x.shape[0] / x.shape[1]) ** 2)
    strength = (0.25, 0.45, 0.75, 1.2, 2.0)[level] * float(np.exp(rng.uniform(-1, 0)))
    # The eye's and a lens' glare both fall roughly with the square of the angle (CIE 1999).
    spread = 1 / (1 + (away / 0.09) ** 2) + np.float32(rng.uniform(0.0, 0.1))
    # Light of 3000 to 4500 K, of which the white balance takes a part.
    warm = np.array([1.12, 0.97, 0.72], np.float32)
    warmth = (0.5, 0.75, 1.0, 1.25, 1.5)[level] * rng.uniform(0, 1.3)
    # Fronts and road show the side that the sun does not reach.
    shaded = np.float32((0.1, 0.2, 0.3, 0.4, 0.5)[level] * rng.uniform(0, 1.5))
    x = x if rng.random() < 0.5 else optics.flatten(x, rng.uniform(0.7, 1))
    lit = x * (1 - shaded * (1 - optics.sky(x)))[..., None] * warm ** np.float32(warmth)
    return optics.exposed(lit + (strength * spread)[..., None] * warm, LINEAR[image], rng, 0.8)


def under_exposure(image: Array, level: int, rng: np.random.Generator) -> Array:
    """Too short a shutter by day: everything darker, shadows lost below the black level."""
    stops = (0.7, 1.5, 2.5, 3.7, 5.0)[level] * np.float32(rng.uniform(0.85, 1.15))
    x = optics.grain(LINEAR[image] * np.float32(2) ** -stops, optics.electrons(rng), 3.0, rng)
    black = np.float32(rng.uniform(0, 0.003))
    # What falls to the foot of the camera's tone curve turns darker than light alone would tell.
    return optics.encode(x - black, rng.uniform(0, 0.9))


def over_exposure(image: Array, level: int, rng: np.random.Generator) -> Array:
    """Too long a shutter: highlights are cut off, and bleed a little into their surroundings."""
    stops = (0.5, 0.9, 1.5, 2.3, 3.3)[level] * np.float32(rng.uniform(0.9, 1.1))
    x = LINEAR[image] * np.float32(2) ** stops
    bloom = optics.gaussian(np.maximum(x - 1, 0), 0.01 * image.shape[1])
    return optics.encode(x + 0.1 * bloom)


def defocus(image: Array, level: int, rng: np.random.Generator) -> Array:
    """A disc for a point, as a lens gives that is out of focus."""
    radius = (1.0, 1.7, 2.6, 4.0, 6.0)[level] * image.shape[1] / WIDTH_PX
    kernel = optics.disc(max(radius, 0.4 + 0.1 * level) * rng.uniform(1.0, 1.2))
    return optics.encode(cv2.filter2D(LINEAR[image], -1, kernel / kernel.sum()))


def motion(image: Array, level: int, rng: np.random.Generator) -> Array:
    """A line for a point: the camera turned or shook while the shutter was open."""
    length = (3.0, 5.5, 9.0, 14.0, 22.0)[level] * image.shape[1] / WIDTH_PX
    angle = rng.uniform(0, np.pi)
    kernel = optics.line(0.5 * length * np.cos(angle), 0.5 * length * np.sin(angle))
    return optics.encode(cv2.filter2D(LINEAR[image], -1, kernel))


def noise(image: Array, level: int, rng: np.random.Generator) -> Array:
    """Shot and read noise of a high gain; half the cameras smooth it as they demosaic."""
    electrons = (1500.0, 500.0, 180.0, 70.0, 28.0)[level]
    smooth = rng.uniform(0, 0.7) if rng.random() < 0.5 else 0.0
    return optics.encode(optics.grain(LINEAR[image], electrons, 2.5, rng, smooth))


def impulse(image: Array, level: int, rng: np.random.Generator) -> Array:
    """Hot and dead pixels, and bits lost on the way: single values thrown to either end."""
    share = (0.002, 0.005, 0.012, 0.03, 0.07)[level]
    draw = rng.random(image.shape, np.float32)
    out = image.copy()
    out[draw < share / 2] = 0
    out[draw > 1 - share / 2] = 255
    return out


def banding(image: Array, level: int, rng: np.random.Generator) -> Array:
    """Row noise, and the bars that lamps on mains power leave in a rolling shutter."""
    strength = (0.04, 0.08, 0.14, 0.22, 0.34)[level]
    rows = np.arange(image.shape[0], dtype=np.float32) / image.shape[0]
    bars = np.sin(2 * np.pi * (rng.uniform(1.5, 5) * rows + rng.random()))
    gain = 1 + strength * (bars + 0.5 * rng.standard_normal(len(rows), np.float32))
    offset = 0.02 * strength * rng.standard_normal(len(rows), np.float32)
    x = LINEAR[image] * gain[:, None, None].astype(np.float32) + offset[:, None, None]
    return optics.encode(x)


def colour_cast(image: Array, level: int, rng: np.random.Generator) -> Array:
    """White balance gone wrong, towards any hue."""
    amount, hue = (0.12, 0.22, 0.34, 0.48, 0.65)[level], rng.uniform(0, 2 * np.pi)
    gain = np.exp(amount * np.cos(hue + np.array([0, 2, 4]) * np.pi / 3)).astype(np.float32)
    return optics.encode(LINEAR[image] * (gain / float(gain @ LUMINANCE)))


def desaturate(image: Array, level: int, rng: np.random.Generator) -> Array:
    """Colour lost, down to a grey picture."""
    kept = (0.7, 0.5, 0.3, 0.15, 0.0)[level]
    gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(image, kept, gray, 1 - kept, 0)


# ------------------------------------------------------------------------------------- on the wire


def jpeg(image: Array, level: int, rng: np.random.Generator) -> Array:
    """JPEG at too low a quality."""
    return _recode(image, (35, 22, 14, 8, 4)[level])


def bitrate(image: Array, level: int, rng: np.random.Generator) -> Array:
    """A stream starved of bandwidth: coded smaller, at low quality, and scaled up again."""
    height, width = image.shape[:2]
    factor = (1.25, 1.5, 2.0, 2.6, 3.4)[level]
    size = max(round(width / factor), 1), max(round(height / factor), 1)
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    small = _recode(small, (40, 32, 25, 18, 12)[level])
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def posterize(image: Array, level: int, rng: np.random.Generator) -> Array:
    """Too few grey levels: contours in the sky."""
    levels = (40, 24, 14, 9, 6)[level]
    table = np.round(np.round(LEVELS * (levels - 1)) / (levels - 1) * 255).astype(np.uint8)
    return table[image]


def _recode(image: Array, quality: int) -> Array:
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    coded = cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    decoded = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB))
