# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What goes wrong before and in a camera, put onto nominal frames in five severities.

The shift monitor learns from it what each kind of degradation looks like, and what it costs, on
the user's own frames: no labelled bad weather is needed. Optics and light are modelled in linear
intensities (IEC 61966-2-1), lengths scale with the image's width, and distance, which a lone
image does not tell, is guessed: a flat road, fronts along it or anywhere, the sky. These are
models of appearance, and the appearance is drawn anew for each frame: how the camera's exposure
and tones answer, whether the road mirrors, whether snow lies. What they cannot know (what stands
where, other traffic) stays as it was.

Own code, since none of the libraries fits: imagecorruptions (ImageNet-C; Hendrycks and Dietterich
2019) has stood still since 2020 and wants scikit-image and numba, Albumentations ended in 2025 and
goes on under AGPL, and none has darkness with its noise, exposure, dirt or drops on the lens.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

from clcp_ros.errors import ClcpError
from training.monitoring import optics
from training.monitoring.optics import LEVELS, LINEAR, LUMINANCE, WIDTH_PX, Array

if TYPE_CHECKING:
    from training.monitoring.samples import Item

SEVERITIES = (1, 2, 3, 4, 5)

Effect = Callable[[Array, int, np.random.Generator], Array]


_WARM = np.array([1.12, 1.0, 0.85], np.float32)


class CorruptionError(ClcpError):
    """There is no such family or severity, or the image is none."""


def corrupt(image: Array, family: str, severity: int, rng: np.random.Generator) -> Array:
    """Degrade an image.

    The same generator state draws the same drops, streaks and grain at every severity, more of
    them or stronger ones at a higher one.

    Args:
        image: (H, W, 3) uint8 RGB.
        family: One of `FAMILIES`.
        severity: 1, hardly seen, to 5, hardly anything seen.
        rng: Source of the randomness.

    Returns:
        (H, W, 3) uint8, another array.

    Raises:
        CorruptionError: An unknown family or severity, or not such an image.
    """
    if family not in _EFFECTS:
        raise CorruptionError(f'no corruption {family!r}; there are {", ".join(FAMILIES)}')
    if severity not in SEVERITIES:
        raise CorruptionError(f'severity must be 1, 2, 3, 4 or 5, not {severity}')
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise CorruptionError(f'an image is (H, W, 3) uint8, not {image.shape} {image.dtype}')
    return _EFFECTS[family][0](np.ascontiguousarray(image), severity - 1, rng)


def kind_of(tag: str) -> str:
    """The kind of degradation that a sample's tag stands for.

    Args:
        tag: A family with or without severity (`fog`, `fog:3`), or a condition of the simulator.

    Returns:
        `none` for a clear day, otherwise one of the monitor's kinds; `other` for a tag that is not
        known.
    """
    name = tag.partition(':')[0]
    if name in _EFFECTS:
        return _EFFECTS[name][1]
    return _SIMULATED.get(name, 'other')


def degrade(
    items: Iterable[Item],
    families: Sequence[str] | None = None,
    severities: Sequence[int] = SEVERITIES,
    draws: int | None = None,
    seed: int = 0,
) -> Iterator[Item]:
    """Degrade frames: of each one, every family at some severities.

    What is drawn for a frame follows from the seed, its drive and its stamp, whatever the order.

    Args:
        items: Nominal frames.
        families: Default: all.
        severities: To choose from.
        draws: How many severities a frame gets of each family; all without it.
        seed: Of the randomness.

    Yields:
        The frames with their drives, stamps and labels; the tag is `family:severity`.
    """
    chosen = FAMILIES if families is None else families
    for item in items:
        for family in chosen:
            key = zlib.crc32(f'{item.drive}/{family}'.encode())
            rng = np.random.default_rng([seed, key, item.stamp_ns % (1 << 63)])
            own = severities if draws is None else rng.permutation(severities)[:draws]
            state = rng.bit_generator.state
            for severity in sorted(int(s) for s in own):
                rng.bit_generator.state = state
                image = corrupt(item.image, family, severity, rng)
                yield item._replace(image=image, tag=f'{family}:{severity}')


# ------------------------------------------------------------------------------- before the lens


def _fog(image: Array, level: int, rng: np.random.Generator) -> Array:
    """Koschmieder's law: `I t + A (1 - t)`, `t = exp(-3 d / visibility)`; patchy, neutral.

    There is no sun in it, and the camera answers with its exposure and its tones: what is near
    looks as on a dull day.
    """
    visibility_m = (800, 350, 160, 80, 38)[level] * float(np.exp(rng.normal(0, 0.4)))
    x = LINEAR[image]
    dull = optics.overcast(x, rng)
    airlight = _sky(x, rng) * np.float32(rng.uniform(0.55, 1))  # thick fog is no bright sky
    veiled = optics.veil(dull, optics.distance(x, rng), visibility_m, airlight)
    veiled += airlight * optics.lamps(len(x), x.shape[1], int(rng.integers(0, 6)), rng)
    return _exposed(veiled, x, rng)


def _low_contrast(image: Array, level: int, rng: np.random.Generator) -> Array:
    """Stray light that is the same everywhere: a film on the glass, thin haze, a foul pane."""
    kept = (0.86, 0.73, 0.58, 0.42, 0.27)[level]
    x = LINEAR[image]
    return _exposed(
        x * kept + _sky(x, rng) * (1 - kept) * np.float32(rng.uniform(0.5, 0.9)), x, rng
    )


def _dusk(image: Array, level: int, rng: np.random.Generator) -> Array:
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


def _night(image: Array, level: int, rng: np.random.Generator) -> Array:
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


def _rain(image: Array, level: int, rng: np.random.Generator) -> Array:
    """A dull, hazier scene, a wet road, streaks in the air (Garg and Nayar 2007), drops."""
    x = LINEAR[image]
    dim = optics.overcast(x, rng) * np.float32((0.9, 0.8, 0.7, 0.6, 0.5)[level])
    road = (0.5, 0.7, 0.8, 0.9, 1.0)[level] * float((rng.random() < 0.75) * rng.uniform(0.5, 1.2))
    dim = optics.wet(dim, min(road, 1.0), rng)
    sky = 0.7 * _sky(x, rng)
    visibility_m = (6000, 3000, 1500, 800, 400)[level] * float(np.exp(rng.normal(0, 0.5)))
    wet = optics.veil(dim, optics.distance(x, rng), visibility_m, sky)
    wet += sky * optics.lamps(len(x), x.shape[1], int(rng.integers(0, 6)), rng)
    covered = (0.006, 0.015, 0.03, 0.05, 0.08)[level] * float(np.exp(rng.uniform(-0.9, 0.7)))
    streaks = optics.streaks(len(x), x.shape[1], (150, 350, 700, 1100, 1600)[level], rng)
    seen = np.float32(rng.uniform(0, 1) ** 1.5)  # a long shutter smears them until nothing is seen
    wet += (1.3 * sky - wet) * (seen * np.minimum(streaks, 0.9))[..., None]
    return optics.refract(_exposed(wet, x, rng), covered, rng)


def _snow(image: Array, level: int, rng: np.random.Generator) -> Array:
    """Flakes from fine and far to large and out of focus, in a paler, hazy, often white scene."""
    x = LINEAR[image]
    height, width = x.shape[:2]
    pale = (0.1, 0.2, 0.3, 0.4, 0.5)[level] * rng.uniform(0.3, 1)
    sky = _sky(x, rng)
    visibility_m = (3000, 1500, 750, 380, 180)[level] * float(np.exp(rng.normal(0, 0.8)))
    scene = optics.overcast(x, rng)
    scene = scene * (1 - pale) + (scene @ LUMINANCE)[..., None] * pale
    lies = (0.35, 0.55, 0.75, 0.9, 1.0)[level] * float(rng.random() < 0.7)
    scene = optics.whiten(scene, lies * rng.uniform(0.6, 1), rng)
    scene = optics.veil(scene, optics.distance(x, rng), visibility_m, sky)
    amount = (0.25, 0.5, 1.0, 1.7, 2.6)[level] * float(np.exp(rng.uniform(-0.3, 0.7)))
    flakes = np.float32(rng.uniform(1, 1.6)) * sky
    cover = _flakes(height, width, amount, rng)[..., None]
    return _exposed(scene + (flakes - scene) * cover, x, rng)


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


# ----------------------------------------------------------------------------------- on the lens


def _drops(image: Array, level: int, rng: np.random.Generator) -> Array:
    """Drops of water on the glass alone: each a small lens that shows the scene upside down."""
    return optics.refract(image, (0.02, 0.05, 0.1, 0.18, 0.3)[level], rng)


def _dirt(image: Array, level: int, rng: np.random.Generator) -> Array:
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


def _smear(image: Array, level: int, rng: np.random.Generator) -> Array:
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
    film = 0.75 * optics.gaussian(x, sigma) + 0.25 * _sky(x, rng) * np.float32(0.7)
    return optics.encode(x + (film - x) * mask)


# ------------------------------------------------------------------------- lens, sensor, exposure


def _glare(image: Array, level: int, rng: np.random.Generator) -> Array:
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
    return _exposed(lit + (strength * spread)[..., None] * warm, LINEAR[image], rng, 0.8)


def _under_exposure(image: Array, level: int, rng: np.random.Generator) -> Array:
    """Too short a shutter by day: everything darker, shadows lost below the black level."""
    stops = (0.7, 1.4, 2.3, 3.4, 4.6)[level] * np.float32(rng.uniform(0.85, 1.15))
    x = optics.grain(LINEAR[image] * np.float32(2) ** -stops, _electrons(rng), 3.0, rng)
    return optics.encode(x - np.float32(rng.uniform(0, 0.003)))


def _over_exposure(image: Array, level: int, rng: np.random.Generator) -> Array:
    """Too long a shutter: highlights are cut off, and bleed a little into their surroundings."""
    stops = (0.5, 0.9, 1.4, 2.0, 2.7)[level] * np.float32(rng.uniform(0.9, 1.1))
    x = LINEAR[image] * np.float32(2) ** stops
    bloom = optics.gaussian(np.maximum(x - 1, 0), 0.01 * image.shape[1])
    return optics.encode(x + 0.1 * bloom)


def _defocus(image: Array, level: int, rng: np.random.Generator) -> Array:
    """A disc for a point, as a lens gives that is out of focus."""
    radius = (1.0, 1.7, 2.6, 4.0, 6.0)[level] * image.shape[1] / WIDTH_PX
    kernel = optics.disc(max(radius, 0.4 + 0.1 * level) * rng.uniform(1.0, 1.2))
    return optics.encode(cv2.filter2D(LINEAR[image], -1, kernel / kernel.sum()))


def _motion(image: Array, level: int, rng: np.random.Generator) -> Array:
    """A line for a point: the camera turned or shook while the shutter was open."""
    length = (3.0, 5.5, 9.0, 14.0, 22.0)[level] * image.shape[1] / WIDTH_PX
    angle = rng.uniform(0, np.pi)
    kernel = optics.line(0.5 * length * np.cos(angle), 0.5 * length * np.sin(angle))
    return optics.encode(cv2.filter2D(LINEAR[image], -1, kernel))


def _noise(image: Array, level: int, rng: np.random.Generator) -> Array:
    """Shot and read noise of a high gain; half the cameras smooth it as they demosaic."""
    electrons = (1500.0, 500.0, 180.0, 70.0, 28.0)[level]
    smooth = rng.uniform(0, 0.7) if rng.random() < 0.5 else 0.0
    return optics.encode(optics.grain(LINEAR[image], electrons, 2.5, rng, smooth))


def _impulse(image: Array, level: int, rng: np.random.Generator) -> Array:
    """Hot and dead pixels, and bits lost on the way: single values thrown to either end."""
    share = (0.002, 0.005, 0.012, 0.03, 0.07)[level]
    draw = rng.random(image.shape, np.float32)
    out = image.copy()
    out[draw < share / 2] = 0
    out[draw > 1 - share / 2] = 255
    return out


def _banding(image: Array, level: int, rng: np.random.Generator) -> Array:
    """Row noise, and the bars that lamps on mains power leave in a rolling shutter."""
    strength = (0.04, 0.08, 0.14, 0.22, 0.34)[level]
    rows = np.arange(image.shape[0], dtype=np.float32) / image.shape[0]
    bars = np.sin(2 * np.pi * (rng.uniform(1.5, 5) * rows + rng.random()))
    gain = 1 + strength * (bars + 0.5 * rng.standard_normal(len(rows), np.float32))
    offset = 0.02 * strength * rng.standard_normal(len(rows), np.float32)
    x = LINEAR[image] * gain[:, None, None].astype(np.float32) + offset[:, None, None]
    return optics.encode(x)


def _colour_cast(image: Array, level: int, rng: np.random.Generator) -> Array:
    """White balance gone wrong, towards any hue."""
    amount, hue = (0.12, 0.22, 0.34, 0.48, 0.65)[level], rng.uniform(0, 2 * np.pi)
    gain = np.exp(amount * np.cos(hue + np.array([0, 2, 4]) * np.pi / 3)).astype(np.float32)
    return optics.encode(LINEAR[image] * (gain / float(gain @ LUMINANCE)))


def _desaturate(image: Array, level: int, rng: np.random.Generator) -> Array:
    """Colour lost, down to a grey picture."""
    kept = (0.7, 0.5, 0.3, 0.15, 0.0)[level]
    gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(image, kept, gray, 1 - kept, 0)


# ------------------------------------------------------------------------------------ on the wire


def _jpeg(image: Array, level: int, rng: np.random.Generator) -> Array:
    """JPEG at too low a quality."""
    return _recode(image, (35, 22, 14, 8, 4)[level])


def _bitrate(image: Array, level: int, rng: np.random.Generator) -> Array:
    """A stream starved of bandwidth: coded smaller, at low quality, and scaled up again."""
    height, width = image.shape[:2]
    factor = (1.25, 1.5, 2.0, 2.6, 3.4)[level]
    size = max(round(width / factor), 1), max(round(height / factor), 1)
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    small = _recode(small, (40, 32, 25, 18, 12)[level])
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def _posterize(image: Array, level: int, rng: np.random.Generator) -> Array:
    """Too few grey levels: contours in the sky."""
    levels = (40, 24, 14, 9, 6)[level]
    table = np.round(np.round(LEVELS * (levels - 1)) / (levels - 1) * 255).astype(np.uint8)
    return table[image]


def _recode(image: Array, quality: int) -> Array:
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    coded = cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    decoded = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB))


def _exposed(x: Array, before: Array, rng: np.random.Generator, most: float = 1.1) -> Array:
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
    return optics.encode(lifted * np.float32(gain), max(rng.uniform(-0.4, 0.4), 0.0))


def _taken_in_the_dark(lit: Array, gain: float, rng: np.random.Generator) -> Array:
    """8-bit values of a dark scene: with grain, or smoothed by the camera, its shutter long."""
    contrast = rng.uniform(0, 0.9)
    if rng.random() < 0.5:
        length = rng.uniform(0, 3) * lit.shape[1] / optics.WIDTH_PX
        lit = cv2.filter2D(lit, -1, optics.line(length, 0.3 * length))
        return optics.encode(np.float32(gain) * optics.grain(lit, 1e7, 4.0, rng), contrast)
    return optics.encode(np.float32(gain) * optics.grain(lit, _electrons(rng), 4.0, rng), contrast)


def _sky(x: Array, rng: np.random.Generator) -> Array:
    """The light of the sky that this picture has, (3,) float32, nearly neutral."""
    bright = float(np.quantile(x[::4, ::4] @ LUMINANCE, 0.9))
    return np.float32(np.clip(bright, 0.15, 0.9) * rng.uniform(0.8, 1.1)) * optics.tint(rng, 0.04)


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


def _electrons(rng: np.random.Generator) -> float:
    """That make white: of small and large pixels, and of cameras that take their noise away."""
    return float(np.exp(rng.uniform(np.log(6e3), np.log(1e6))))


_EFFECTS: dict[str, tuple[Effect, str]] = {
    'fog': (_fog, 'haze'),
    'low_contrast': (_low_contrast, 'haze'),
    'dusk': (_dusk, 'dark'),
    'night': (_night, 'dark'),
    'rain': (_rain, 'rain'),
    'drops': (_drops, 'lens dirt'),
    'snow': (_snow, 'snow'),
    'dirt': (_dirt, 'lens dirt'),
    'smear': (_smear, 'lens dirt'),
    'glare': (_glare, 'exposure'),
    'over_exposure': (_over_exposure, 'exposure'),
    'under_exposure': (_under_exposure, 'exposure'),
    'defocus': (_defocus, 'blur'),
    'motion': (_motion, 'blur'),
    'noise': (_noise, 'noise'),
    'impulse': (_impulse, 'noise'),
    'banding': (_banding, 'noise'),
    'jpeg': (_jpeg, 'compression'),
    'bitrate': (_bitrate, 'compression'),
    'posterize': (_posterize, 'compression'),
    'colour_cast': (_colour_cast, 'other'),
    'desaturate': (_desaturate, 'other'),
}

FAMILIES = tuple(_EFFECTS)
"""What `corrupt` knows, by name."""

_SIMULATED = {
    'clear': 'none', 'low_sun': 'exposure', 'covered': 'lens dirt', 'compression': 'compression',
}  # fmt: skip
"""Conditions of the simulator that bear no family's name."""
