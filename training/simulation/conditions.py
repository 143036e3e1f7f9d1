# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Light, weather, both, and camera faults by name, with a severity from 0 (clear) to 1."""

from __future__ import annotations

from dataclasses import dataclass

from clcp_ros.errors import ClcpError
from training.simulation.atmosphere import CLEAR_VISIBILITY_M, koschmieder, visibility

LIGHTS = ('clear', 'low_sun', 'dusk', 'night')
WEATHER = ('fog', 'rain', 'snow')
FAULTS = (
    'dirt', 'covered', 'defocus', 'frozen', 'over_exposure', 'under_exposure', 'noise',
    'compression',
)  # fmt: skip
"""What goes wrong in the camera; the lidar and the true labels know nothing of it."""

CONDITIONS = LIGHTS + WEATHER
"""What happens outside, clear day first."""

ALL_CONDITIONS = CONDITIONS + FAULTS

DENSEST_FOG_M = 50.0
_FOG_POWER, _RAIN_POWER, _SNOW_POWER = 5.0, 2.0, 1.5
HEAVIEST_RAIN_MM_H = 40.0
HEAVIEST_SNOW_MM_H = 8.0
"""In water; 4 and more is heavy snow fall."""

FROZEN_S = 2.0
"""How long ago a camera froze at severity 1, unless `Condition.since` says it."""


class SimulationError(ClcpError):
    """Parameters that cannot be simulated, or a scene that lacks what was asked of it."""


@dataclass(frozen=True)
class Condition:
    """Light, weather or a fault of the camera.

    Attributes:
        name: One of `ALL_CONDITIONS`, or a light and a weather at once, such as `night+rain`.
        severity: 0 (exactly the clear day) to 1 (moonless night, 50 m of visibility, cloudburst,
            heavy snow fall, black picture).
        since: For `frozen`: seconds of the drive at which the camera froze.
    """

    name: str = 'clear'
    severity: float = 0.8
    since: float | None = None

    def __post_init__(self) -> None:
        both = len(self.parts) == 2 and self.parts[0] in LIGHTS[1:] and self.parts[1] in WEATHER
        if self.name not in ALL_CONDITIONS and not both:
            raise SimulationError(
                f'no condition {self.name!r}; there are {", ".join(ALL_CONDITIONS)}, and '
                f'low_sun, dusk or night with fog, rain or snow, such as night+rain'
            )
        if not 0 <= self.severity <= 1:
            raise SimulationError(f'severity must lie in [0, 1], not {self.severity}')
        if self.since is not None and self.name != 'frozen':
            raise SimulationError(f'since belongs to frozen, not to {self.name}')

    @classmethod
    def fog(cls, visibility_m: float) -> Condition:
        """Fog of a meteorological optical range between 50 m and 40 km."""
        if not DENSEST_FOG_M <= visibility_m <= CLEAR_VISIBILITY_M:
            raise SimulationError(
                f'visibility_m must lie in [{DENSEST_FOG_M:g}, {CLEAR_VISIBILITY_M:g}], '
                f'not {visibility_m}'
            )
        clear, worst = koschmieder(CLEAR_VISIBILITY_M), koschmieder(DENSEST_FOG_M)
        return cls(
            'fog', ((koschmieder(visibility_m) - clear) / (worst - clear)) ** (1 / _FOG_POWER)
        )

    @classmethod
    def rain(cls, rain_mm_h: float) -> Condition:
        """Rain of 0 to 40 mm/h."""
        share = _share(rain_mm_h, HEAVIEST_RAIN_MM_H, 'rain_mm_h')
        return cls('rain', share ** (1 / _RAIN_POWER))

    @classmethod
    def snow(cls, snow_mm_h: float) -> Condition:
        """Snow of 0 to 8 mm of water per hour."""
        share = _share(snow_mm_h, HEAVIEST_SNOW_MM_H, 'snow_mm_h')
        return cls('snow', share ** (1 / _SNOW_POWER))

    @property
    def parts(self) -> tuple[str, ...]:
        """What it is made of: one name, or that of the light and that of the weather."""
        return tuple(self.name.split('+'))

    @property
    def weather(self) -> str:
        """`fog`, `rain`, `snow` or nothing."""
        return self.parts[-1] if self.parts[-1] in WEATHER else ''

    @property
    def is_clear(self) -> bool:
        """Nothing differs from the clear day."""
        return self.name == 'clear' or self.severity == 0

    @property
    def visibility_m(self) -> float:
        """Meteorological optical range of the fog, clean air's in any other condition.

        The extinction grows with the severity's fifth power: 1.5 km at 0.5, 150 m at 0.8.
        """
        if self.weather != 'fog':
            return CLEAR_VISIBILITY_M
        clear, worst = koschmieder(CLEAR_VISIBILITY_M), koschmieder(DENSEST_FOG_M)
        return visibility(clear + (worst - clear) * self.severity**_FOG_POWER)

    @property
    def rain_mm_h(self) -> float:
        """Millimetres of rain per hour: drizzle to cloudburst."""
        return HEAVIEST_RAIN_MM_H * self.severity**_RAIN_POWER if self.weather == 'rain' else 0.0

    @property
    def snow_mm_h(self) -> float:
        """Millimetres of water per hour falling as snow."""
        return HEAVIEST_SNOW_MM_H * self.severity**_SNOW_POWER if self.weather == 'snow' else 0.0


def _share(value: float, most: float, name: str) -> float:
    if not 0 <= value <= most:
        raise SimulationError(f'{name} must lie in [0, {most:g}], not {value}')
    return value / most
