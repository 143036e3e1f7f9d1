# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clcp_ros.monitor.config import MonitorConfig
from clcp_ros.monitor.levels import HARM_SAMPLES, Level, LevelMachine, Signs

CONFIG = MonitorConfig()
STEP_NS = 500_000_000
NOVEL = Signs(evidence=1.2, novel=True)


def harm(drop: float, low: float, samples: int = 20) -> Signs:
    """A drop that has lasted."""
    return Signs(drop=drop, drop_low=low, lasting_drop=drop, lasting_low=low, drop_samples=samples)


HARMFUL = replace(harm(0.2, 0.1), evidence=1.2, novel=True)


def play(machine: LevelMachine, *signs: Signs, first: int = 0) -> list[Level]:
    return [machine.update((first + i) * STEP_NS, s, CONFIG) for i, s in enumerate(signs)]


def test_novelty_alone_warns_and_harm_makes_it_an_error() -> None:
    machine = LevelMachine()
    harmless = replace(NOVEL, drop=0.01, drop_low=-0.03, drop_samples=20)
    assert play(machine, Signs(), NOVEL, harmless, HARMFUL) == [
        Level.OK, Level.WARN, Level.WARN, Level.ERROR,
    ]  # fmt: skip


def test_a_bundle_without_an_estimate_never_makes_an_error() -> None:
    assert set(play(LevelMachine(), *[NOVEL] * 200)) == {Level.WARN}


@pytest.mark.parametrize('samples', [HARM_SAMPLES - 1, HARM_SAMPLES])
def test_an_error_needs_an_estimate_of_enough_samples(samples: int) -> None:
    level = play(LevelMachine(), replace(HARMFUL, drop_samples=samples))[0]
    assert level == (Level.ERROR if samples == HARM_SAMPLES else Level.WARN)


@pytest.mark.parametrize(
    ('drop', 'low', 'level'),
    [
        (0.04, 0.01, Level.OK),
        (0.06, -0.01, Level.OK),  # its interval holds zero
        (0.06, 0.01, Level.WARN),
        (0.20, 0.05, Level.WARN),  # may be less than an error, and nothing is novel
        (0.20, 0.11, Level.ERROR),
        (math.nan, math.nan, Level.OK),
    ],
)
def test_harm_without_novelty_needs_a_sure_estimate(drop: float, low: float, level: Level) -> None:
    signs = harm(drop, low, 40)
    assert play(LevelMachine(), signs)[0] == level


def test_drops_of_ordinary_drives_do_not_alarm_by_themselves() -> None:
    usual, sure = harm(0.12, 0.11), harm(0.16, 0.11)
    machine = LevelMachine(least_drop=0.15)
    assert play(machine, usual)[0] == Level.OK
    assert not machine.harmful
    assert play(machine, sure)[0] == Level.ERROR
    # While something is novel a harmful drop is an error as ever.
    novel = replace(usual, novel=True, evidence=1.2)
    assert play(LevelMachine(least_drop=0.15), novel)[0] == Level.ERROR
    # And it is over when the drop is ordinary again, not only when there is none.
    machine = LevelMachine(least_drop=0.15)
    play(machine, harm(0.16, 0.01))
    assert play(machine, *[harm(0.08, 0.0)] * 30, first=1)[-1] == Level.OK


def test_the_estimate_of_a_frame_or_two_says_nothing() -> None:
    signs = harm(0.3, 0.2, HARM_SAMPLES - 1)
    machine = LevelMachine()
    assert play(machine, signs)[0] == Level.OK
    assert not machine.harmful  # nor is it remembered


@pytest.mark.parametrize(
    ('lasting', 'low', 'level'),
    [
        (math.nan, math.nan, Level.OK),  # two seconds are all there is
        (0.00, -0.10, Level.OK),
        (0.04, -0.01, Level.OK),  # unsure
        (0.04, 0.01, Level.WARN),
        (0.08, 0.01, Level.ERROR),
    ],
)
def test_a_drop_counts_if_it_stays_without_its_worst_seconds(
    lasting: float, low: float, level: Level
) -> None:
    signs = replace(harm(0.3, 0.2), lasting_drop=lasting, lasting_low=low)
    machine = LevelMachine()
    assert play(machine, signs)[0] == level
    assert machine.harmful == (level > Level.OK)


def test_a_warning_stays_until_things_were_well_for_ten_seconds() -> None:
    machine = LevelMachine()
    calm = Signs(evidence=0.2, drop=0.02, drop_samples=20)
    play(machine, NOVEL)
    assert set(play(machine, *[calm] * 15, first=1)) == {Level.WARN}
    # What is not well begins the ten seconds anew, without being enough for a warning itself.
    assert set(play(machine, replace(calm, evidence=0.3), first=16)) == {Level.WARN}
    levels = play(machine, *[calm] * 22, first=17)
    assert levels.index(Level.OK) == 20
    assert set(levels[20:]) == {Level.OK}


def test_an_error_falls_to_a_warning_and_then_to_ok() -> None:
    machine = LevelMachine()
    play(machine, HARMFUL)
    better = Signs(evidence=0.4, drop=0.06, drop_low=-0.01, drop_samples=20)
    levels = play(machine, *[better] * 30, first=1)
    assert levels.index(Level.WARN) == 20
    assert Level.OK not in levels
    levels = play(machine, *[Signs(drop=0.0)] * 30, first=31)
    assert levels.index(Level.OK) == 20
    # And straight to OK where all is well at once.
    machine = LevelMachine()
    play(machine, HARMFUL)
    assert Level.WARN not in play(machine, *[Signs(drop=0.0)] * 30, first=1)


def test_a_value_between_the_thresholds_does_not_flicker() -> None:
    machine = LevelMachine()
    flicker = [replace(HARMFUL, drop=drop) for drop in (0.11, 0.09) * 50]
    assert set(play(machine, *flicker)) == {Level.ERROR}


def test_an_abrupt_change_holds_though_the_statistic_never_rises() -> None:
    machine = LevelMachine()
    abrupt = Signs(evidence=0.0, novel=True)
    levels = play(machine, abrupt, *[Signs()] * 25)
    assert levels.index(Level.OK) == 21
    harmful = harm(0.12, 0.02, 10)
    machine.reset()
    assert play(machine, abrupt, harmful) == [Level.WARN, Level.ERROR]


def test_misalignment_warns() -> None:
    machine = LevelMachine()
    assert play(machine, Signs(misaligned=True))[0] == Level.WARN
    assert machine.misaligned
    assert not machine.novel


@pytest.mark.parametrize(
    'wrong',
    [
        {'warn_drop': 0.2}, {'warn_drop': 0.0}, {'window_s': 0.0}, {'min_samples': 0},
        {'period_s': -1.0}, {'period_s': 3.0}, {'hold_s': -1.0}, {'frozen_s': math.nan},
        {'max_gap_s': math.nan}, {'false_alarm_interval_h': -1.0}, {'window_s': 3.9},
        {'window_s': 4.9, 'period_s': 1.0}, {'window_s': 20.0, 'period_s': 5.0, 'max_gap_s': 9.0},
    ],
)  # fmt: skip
def test_settings_that_contradict_each_other_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MonitorConfig(**wrong)  # type: ignore[arg-type]


numbers = st.floats(allow_nan=True, allow_infinity=True, width=32)
any_signs = st.builds(
    Signs,
    evidence=numbers,
    novel=st.booleans(),
    drop=numbers,
    drop_low=numbers,
    lasting_drop=numbers,
    lasting_low=numbers,
    drop_samples=st.integers(0, 60),
    misaligned=st.booleans(),
)


@given(st.lists(any_signs, max_size=60))
def test_whatever_comes_no_alarm_no_level(signs: list[Signs]) -> None:
    machine = LevelMachine()
    for i, sign in enumerate(signs):
        before = machine.level
        level = machine.update(i * STEP_NS, sign, CONFIG)
        assert level in (Level.OK, Level.WARN, Level.ERROR)
        if level > before:
            known = sign.drop >= CONFIG.warn_drop
            assert sign.novel or sign.misaligned or known or machine.novel
        if level < before:  # nothing falls before the hold time is over
            assert i * STEP_NS >= CONFIG.hold_s * 1e9
        if level == Level.OK:
            assert (machine.novel, machine.harmful, machine.misaligned) == (False,) * 3
