# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import numpy as np
import pytest

from training.simulation import atmosphere
from training.simulation.config import Condition, SimulationError
from training.simulation.light import extinction, visibility


def test_koschmieder_by_hand() -> None:
    # -ln 0.05 = 2.99573; over 100 m.
    assert atmosphere.koschmieder(100) == pytest.approx(0.0299573, rel=1e-5)
    assert atmosphere.visibility(atmosphere.koschmieder(123.0)) == pytest.approx(123.0)


def test_rain_and_snow_by_hand() -> None:
    # 1.076 * 10^0.67 = 5.0328 dB/km; one dB is 0.230259 neper.
    assert atmosphere.rain_extinction(10) == pytest.approx(5.0328e-3 * 0.230259, rel=1e-3)
    # a = 5.42e-5 * 905 + 5.496 = 5.54505; 3^1.38 = 4.5543; 25.254 dB/km.
    assert atmosphere.snow_extinction(3) == pytest.approx(25.254e-3 * 0.230259, rel=1e-3)
    assert atmosphere.rain_extinction(0) == atmosphere.snow_extinction(0) == 0


def test_fog_at_the_lasers_wavelength_by_hand() -> None:
    assert atmosphere.fog_extinction_at(200) == atmosphere.koschmieder(200)
    # V = 0.8 km: q = 0.3, (905 / 550)^-0.3 = 0.86118.
    assert atmosphere.fog_extinction_at(800) == pytest.approx(
        atmosphere.koschmieder(800) * 0.86118, rel=1e-4
    )


def test_drops_by_hand() -> None:
    # At 10 mm/h: slope 4.1 * 10^-0.21 = 2.5280 per mm.
    assert atmosphere.raindrops_per_m3(10) == pytest.approx(8000 / 2.5280, rel=1e-3)
    assert atmosphere.raindrops_per_m3(10, 1.0) == pytest.approx(
        8000 / 2.5280 * np.exp(-2.5280), rel=1e-3
    )
    assert atmosphere.mean_drop_mm(10, 1.0) == pytest.approx(1 + 1 / 2.5280, rel=1e-3)
    assert atmosphere.raindrops_per_m3(0) == 0
    # 9.65 - 10.3 exp(-1.2) = 6.548 m/s for 2 mm.
    assert atmosphere.fall_speed(2) == pytest.approx(6.5477, rel=1e-4)
    assert atmosphere.fall_speed(0.05) == 0


@pytest.mark.parametrize('metres', [50.0, 80.0, 200.0, 1500.0, 40_000.0])
def test_fog_by_visibility(metres: float) -> None:
    fog = Condition.fog(metres)
    assert fog.visibility_m == pytest.approx(metres)
    assert visibility(fog) == pytest.approx(metres)
    assert np.exp(-extinction(fog) * metres) == pytest.approx(0.05)


def test_rain_and_snow_by_rate() -> None:
    assert Condition.rain(12.5).rain_mm_h == pytest.approx(12.5)
    assert Condition.snow(2.5).snow_mm_h == pytest.approx(2.5)
    assert Condition.rain(0).is_clear
    assert Condition('clear').visibility_m == Condition('night').visibility_m == 40_000


@pytest.mark.parametrize('name', ['fog', 'rain', 'snow'])
def test_extinction_grows_with_severity_from_that_of_clean_air(name: str) -> None:
    values = [extinction(Condition(name, s)) for s in np.linspace(0, 1, 11)]
    assert values[0] == pytest.approx(extinction(Condition('clear')))
    assert values == sorted(values)
    assert len(set(values)) == 11


def test_impossible_weather_is_refused() -> None:
    for make in (
        lambda: Condition.fog(10),
        lambda: Condition.fog(50_000),
        lambda: Condition.rain(-1),
        lambda: Condition.rain(500),
        lambda: Condition.snow(99),
        lambda: Condition('fog', float('nan')),
        lambda: Condition('night', since=1.0),
    ):
        with pytest.raises(SimulationError):
            make()
