# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Light and weather: the numbers behind each condition and the physics they follow."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from training.simulation import atmosphere
from training.simulation.config import Condition

Rgb = tuple[float, float, float]


@dataclass(frozen=True)
class Light:
    """Radiometry of a moment, linear RGB, 1 is white in the picture at exposure 1.

    Attributes:
        sun: Irradiance of the sun on a surface facing it.
        ambient: Irradiance of the sky.
        horizon: Radiance of the sky just above the horizon; also of fog.
        zenith: Radiance of the sky overhead.
        lamps: How much of their light the lamps give, 0 to 1.
        exposure: Gain of the camera.
        shot: Variance of the picture's noise per unit of signal.
        read: Standard deviation of the noise in the dark.
        clouds: Contrast of the clouds.
    """

    sun: Rgb
    ambient: Rgb
    horizon: Rgb
    zenith: Rgb
    lamps: float
    exposure: float
    shot: float
    read: float
    clouds: float


_CLEAR = Light(
    sun=(2.5, 2.3, 2.0), ambient=(0.50, 0.58, 0.72), horizon=(0.85, 0.95, 1.08),
    zenith=(0.26, 0.46, 0.92), lamps=0.02, exposure=1.0, shot=2e-4, read=2e-3, clouds=0.5,
)  # fmt: skip
_OVERCAST = Light(
    sun=(1e-3, 1e-3, 1e-3), ambient=(0.80, 0.84, 0.90), horizon=(0.85, 0.87, 0.90),
    zenith=(0.66, 0.70, 0.76), lamps=0.10, exposure=0.85, shot=4e-4, read=3e-3, clouds=0.15,
)  # fmt: skip
_AT_SEVERITY_ONE = {
    'clear': _CLEAR,
    'dusk': Light(
        sun=(1e-3, 6e-4, 4e-4), ambient=(0.080, 0.068, 0.095), horizon=(0.46, 0.24, 0.16),
        zenith=(0.035, 0.05, 0.14), lamps=0.45, exposure=2.3, shot=1e-3, read=4e-3, clouds=0.6,
    ),
    'night': Light(
        sun=(1e-5, 1e-5, 1e-5), ambient=(0.0022, 0.0022, 0.0032), horizon=(0.007, 0.006, 0.007),
        zenith=(0.002, 0.002, 0.004), lamps=1.0, exposure=3.2, shot=8e-3, read=2.2e-2, clouds=0.3,
    ),
    'fog': _OVERCAST,
    'rain': Light(
        sun=(1e-3, 1e-3, 1e-3), ambient=(0.33, 0.36, 0.40), horizon=(0.48, 0.51, 0.55),
        zenith=(0.30, 0.33, 0.37), lamps=0.3, exposure=1.15, shot=8e-4, read=5e-3, clouds=0.4,
    ),
    'snow': _OVERCAST,
}  # fmt: skip


def light(condition: Condition) -> Light:
    """The light of a condition, between clear (severity 0) and its worst (1), evenly in stops."""
    worst = _AT_SEVERITY_ONE.get(condition.name, _CLEAR)
    mixed = {}
    for f in fields(Light):
        a, b = np.asarray(getattr(_CLEAR, f.name)), np.asarray(getattr(worst, f.name))
        value = np.exp(np.log(a) * (1 - condition.severity) + np.log(b) * condition.severity)
        mixed[f.name] = tuple(map(float, value)) if value.ndim else float(value)
    return Light(**mixed)  # type: ignore[arg-type]


def visibility(condition: Condition) -> float:
    """Meteorological optical range in metres: where the contrast has fallen to 5 %."""
    return atmosphere.visibility(extinction(condition))


def extinction(condition: Condition) -> float:
    """Extinction coefficient of light in 1/m: clean air's and that of fog, rain or snow.

    Rain counts twice, for the spray of the other cars.
    """
    if condition.name == 'fog':
        return atmosphere.koschmieder(condition.visibility_m)
    return (
        atmosphere.koschmieder(atmosphere.CLEAR_VISIBILITY_M)
        + 2 * atmosphere.rain_extinction(condition.rain_mm_h)
        + atmosphere.snow_extinction(condition.snow_mm_h, 550)
    )


def rain_rate(condition: Condition) -> float:
    """Millimetres of rain per hour."""
    return condition.rain_mm_h
