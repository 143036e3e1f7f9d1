# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How far one sees through air, fog, rain and snow: published relations, nothing tuned."""

from __future__ import annotations

import math

CLEAR_VISIBILITY_M = 40_000.0
"""Meteorological optical range of clean air."""

_CONTRAST = 0.05
_NEPER_PER_DB = math.log(10) / 10


def koschmieder(visibility_m: float) -> float:
    """Extinction coefficient in 1/m of air in which one sees `visibility_m` far.

    Koschmieder 1924, "Theorie der horizontalen Sichtweite": contrast falls as exp(-beta d). The
    meteorological optical range is where 5 % are left (WMO-No. 8, Guide to Instruments and Methods
    of Observation, chapter 9), hence beta = -ln(0.05) / V = 2.996 / V.
    """
    return -math.log(_CONTRAST) / visibility_m


def visibility(extinction: float) -> float:
    """Meteorological optical range in metres, the inverse of `koschmieder`."""
    return -math.log(_CONTRAST) / extinction


def fog_extinction_at(visibility_m: float, wavelength_nm: float = 905.0) -> float:
    """Extinction coefficient of fog in 1/m at a laser's wavelength.

    Kim, McArthur and Korevaar 2001, "Comparison of laser beam propagation at 785 nm and 1550 nm in
    fog and haze": beta = 3.912 / V * (lambda / 550 nm)^-q, with V in km at a contrast of 2 % and
    q = 0 for V < 0.5 km, V - 0.5 to 1 km, 0.16 V + 0.34 to 6 km, 1.3 to 50 km. The factor is
    applied to `koschmieder`'s coefficient here, so that light and laser agree in dense fog.
    """
    km = visibility_m / 1000
    if km < 0.5:
        q = 0.0
    elif km < 1:
        q = km - 0.5
    elif km < 6:
        q = 0.16 * km + 0.34
    else:
        q = 1.3 if km < 50 else 1.6
    return koschmieder(visibility_m) * (wavelength_nm / 550) ** -q


def rain_extinction(rate_mm_h: float) -> float:
    """Extinction coefficient of rain in 1/m, visible and near infrared.

    Carbonneau and Wisely 1998, as in ITU-R P.1814: 1.076 R^0.67 dB/km, R in mm/h. Drops are large
    against the wavelength, so that the colour plays no part.
    """
    return 1.076 * rate_mm_h**0.67 / 1000 * _NEPER_PER_DB


def snow_extinction(rate_mm_h: float, wavelength_nm: float = 905.0) -> float:
    """Extinction coefficient of dry snow in 1/m.

    ITU-R P.1814: a S^1.38 dB/km with a = 5.42e-5 lambda + 5.496, S in mm of water per hour.
    """
    a = 5.42e-5 * wavelength_nm + 5.496
    return a * rate_mm_h**1.38 / 1000 * _NEPER_PER_DB


def raindrops_per_m3(rate_mm_h: float, smallest_mm: float = 0.0) -> float:
    """Number of drops wider than `smallest_mm` in a cubic metre.

    Marshall and Palmer 1948, "The distribution of raindrops with size": N(D) = N0 exp(-L D) with
    N0 = 8000 per m3 and mm, L = 4.1 R^-0.21 per mm; the integral from the smallest diameter on.
    """
    if rate_mm_h <= 0:
        return 0.0
    slope = 4.1 * rate_mm_h**-0.21
    return 8000 / slope * math.exp(-slope * smallest_mm)


def mean_drop_mm(rate_mm_h: float, smallest_mm: float = 0.0) -> float:
    """Mean diameter of the drops wider than `smallest_mm` (same source): smallest + 1 / L."""
    return smallest_mm + 1 / (4.1 * max(rate_mm_h, 1e-3) ** -0.21)


def fall_speed(diameter_mm: float) -> float:
    """Terminal speed of a raindrop in m/s: 9.65 - 10.3 exp(-0.6 D), D in mm.

    Atlas, Srivastava and Sekhon 1973, "Doppler radar characteristics of precipitation at vertical
    incidence", fitted to Gunn and Kinzer's measurements; zero for the smallest drops.
    """
    return max(9.65 - 10.3 * math.exp(-0.6 * diameter_mm), 0.0)
