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

import numpy as np

from clcp_ros.errors import ClcpError
from training.monitoring import camera_faults, weather
from training.monitoring.optics import Array

if TYPE_CHECKING:
    from training.monitoring.samples import Item

SEVERITIES = (1, 2, 3, 4, 5)

VERSION = 3
"""Counts up when an image comes out differently: caches of degraded frames are made anew."""

Effect = Callable[[Array, int, np.random.Generator], Array]


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


_EFFECTS: dict[str, tuple[Effect, str]] = {
    'fog': (weather.fog, 'haze'),
    'low_contrast': (weather.low_contrast, 'haze'),
    'dusk': (weather.dusk, 'dark'),
    'night': (weather.night, 'dark'),
    'rain': (weather.rain, 'rain'),
    'drops': (camera_faults.drops, 'lens dirt'),
    'snow': (weather.snow, 'snow'),
    'dirt': (camera_faults.dirt, 'lens dirt'),
    'smear': (camera_faults.smear, 'lens dirt'),
    'glare': (camera_faults.glare, 'exposure'),
    'over_exposure': (camera_faults.over_exposure, 'exposure'),
    'under_exposure': (camera_faults.under_exposure, 'exposure'),
    'defocus': (camera_faults.defocus, 'blur'),
    'motion': (camera_faults.motion, 'blur'),
    'noise': (camera_faults.noise, 'noise'),
    'impulse': (camera_faults.impulse, 'noise'),
    'banding': (camera_faults.banding, 'noise'),
    'jpeg': (camera_faults.jpeg, 'compression'),
    'bitrate': (camera_faults.bitrate, 'compression'),
    'posterize': (camera_faults.posterize, 'compression'),
    'colour_cast': (camera_faults.colour_cast, 'other'),
    'desaturate': (camera_faults.desaturate, 'other'),
}

FAMILIES = tuple(_EFFECTS)
"""What `corrupt` knows, by name."""

_SIMULATED = {
    'clear': 'none', 'low_sun': 'exposure', 'covered': 'lens dirt', 'compression': 'compression',
}  # fmt: skip
"""Conditions of the simulator that bear no family's name."""
