# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Sun, sky and air of each condition.

Radiance has one unit everywhere: 1 is a white surface in full daylight, about 12 000 cd/m2.
Irradiance is in the same unit (a surface of albedo a under E has the radiance a E), so that 1 is
about 40 000 lx. Lamps burn in every condition; by day the exposure hides them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from training.simulation import atmosphere
from training.simulation.conditions import Condition
from training.simulation.scene import Scene

Rgb = tuple[float, float, float]

LUX = 1 / 40_000
"""Irradiance of one lux."""


@dataclass(frozen=True)
class Light:
    """Radiometry of a moment, linear RGB.

    Attributes:
        sun: Irradiance of the sun on a surface facing it.
        ambient: Irradiance of the sky.
        horizon: Radiance of the sky just above the horizon; also of fog.
        zenith: Radiance of the sky overhead.
        clouds: Contrast of the clouds.
    """

    sun: Rgb
    ambient: Rgb
    horizon: Rgb
    zenith: Rgb
    clouds: float


_CLEAR = Light(
    sun=(2.5, 2.3, 2.0), ambient=(0.42, 0.50, 0.64), horizon=(1.30, 1.42, 1.55),
    zenith=(0.36, 0.58, 1.05), clouds=0.6,
)  # fmt: skip
_OVERCAST = Light(
    sun=(0.06, 0.06, 0.06), ambient=(0.42, 0.44, 0.47), horizon=(0.62, 0.66, 0.70),
    zenith=(0.42, 0.45, 0.50), clouds=0.5,
)  # fmt: skip
"""Of a fair day while clouds hide the sun; some 18 000 lx."""

_AT_SEVERITY_ONE = {
    'clear': _CLEAR,
    # 12 000 lx from a sun nine degrees high, in haze.
    'low_sun': Light(
        sun=(0.48, 0.31, 0.16), ambient=(0.10, 0.105, 0.12), horizon=(0.50, 0.38, 0.25),
        zenith=(0.08, 0.11, 0.19), clouds=0.45,
    ),
    # Some 25 lx: the sun is five degrees below the horizon (civil twilight).
    'dusk': Light(
        sun=(4e-7, 2.4e-7, 1.6e-7), ambient=(6.0e-4, 6.2e-4, 8.6e-4),
        horizon=(2.9e-3, 2.3e-3, 2.1e-3), zenith=(5.2e-4, 6.6e-4, 1.1e-3), clouds=0.6,
    ),
    # One lux: a town's sky glow.
    'night': Light(
        sun=(1e-9, 1e-9, 1e-9), ambient=(2.4e-5, 2.2e-5, 2.5e-5), horizon=(5.0e-5, 4.2e-5, 4.0e-5),
        zenith=(1.4e-5, 1.4e-5, 2.0e-5), clouds=0.3,
    ),
    'fog': Light(
        sun=(1e-3, 1e-3, 1e-3), ambient=(0.42, 0.44, 0.46), horizon=(0.47, 0.48, 0.49),
        zenith=(0.50, 0.51, 0.52), clouds=0.05,
    ),
    'rain': Light(
        sun=(1e-4, 1e-4, 1e-4), ambient=(0.080, 0.086, 0.095), horizon=(0.150, 0.157, 0.168),
        zenith=(0.110, 0.118, 0.130), clouds=0.4,
    ),
    'snow': Light(
        sun=(1e-4, 1e-4, 1e-4), ambient=(0.26, 0.27, 0.285), horizon=(0.29, 0.295, 0.305),
        zenith=(0.25, 0.26, 0.27), clouds=0.1,
    ),
}  # fmt: skip


def light(condition: Condition, cloud_cover: float = 0.0) -> Light:
    """The light of a condition, between clear (severity 0) and its worst (1), evenly in stops.

    Faults of the camera leave the clear day's.

    Args:
        condition: Light or weather.
        cloud_cover: How much of the clear day's sunlight clouds take, 0 to 1. A low sun stands
            below them.
    """
    if 'low_sun' in condition.parts:
        cloud_cover *= 1 - condition.severity
    day = _between(_CLEAR, _OVERCAST, cloud_cover)
    worst = _worst(condition)
    return day if worst is _CLEAR else _between(day, worst, condition.severity)


def _worst(condition: Condition) -> Light:
    first, *weather = (_AT_SEVERITY_ONE.get(part, _CLEAR) for part in condition.parts)
    if not weather:
        return first
    # Clouds take of the light what they take by day, but at night they give a town's light back.
    dimmed = ('sun',) if 'night' in condition.parts else ('sun', 'ambient', 'horizon', 'zenith')
    under = {
        name: tuple(
            a * b / c
            for a, b, c in zip(
                getattr(first, name), getattr(weather[0], name), getattr(_CLEAR, name), strict=True
            )
        )
        for name in dimmed
    }
    return replace(first, clouds=weather[0].clouds, **under)


def _between(a: Light, b: Light, share: float) -> Light:
    if share == 0:
        return a
    mixed = {}
    for f in fields(Light):
        x, y = np.asarray(getattr(a, f.name)), np.asarray(getattr(b, f.name))
        value = np.exp(np.log(x) * (1 - share) + np.log(y) * share)
        mixed[f.name] = tuple(map(float, value)) if value.ndim else float(value)
    return Light(**mixed)  # type: ignore[arg-type]


def sun_direction(scene: Scene, condition: Condition) -> np.ndarray:
    """(3,) float32 unit vector towards the sun in `base_link`.

    A low sun stands over the far end of the street, some degrees beside it, fixed in the world:
    drivers know why.
    """
    if 'low_sun' not in condition.parts or condition.is_clear:
        return np.asarray(scene.sun, np.float32)
    azimuth, elevation = np.radians(3), np.radians(9)
    low = np.array([np.cos(azimuth), np.sin(azimuth), np.tan(elevation)])
    low = scene.T_world_base[:3, :3].T @ (low / np.linalg.norm(low))
    share = 1 - (1 - condition.severity) ** 2
    mixed = (1 - share) * np.asarray(scene.sun, np.float64) + share * low
    result: np.ndarray = (mixed / np.linalg.norm(mixed)).astype(np.float32)
    return result


def visibility(condition: Condition) -> float:
    """Meteorological optical range in metres: where the contrast has fallen to 5 %."""
    return atmosphere.visibility(extinction(condition))


def extinction(condition: Condition) -> float:
    """Extinction coefficient of light in 1/m: clean air's and that of fog, rain or snow.

    Rain counts twice, for the spray of the other cars.
    """
    if condition.weather == 'fog':
        return atmosphere.koschmieder(condition.visibility_m)
    return (
        atmosphere.koschmieder(atmosphere.CLEAR_VISIBILITY_M)
        + 2 * atmosphere.rain_extinction(condition.rain_mm_h)
        + atmosphere.snow_extinction(condition.snow_mm_h, 550)
    )


def wetness(condition: Condition) -> float:
    """How wet the ground is, 0 to 1; a few millimetres per hour suffice (chosen)."""
    return 1 - float(np.exp(-condition.rain_mm_h / 3))
