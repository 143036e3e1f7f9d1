# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks.shift_plan import (
    PLACE,
    RAMPS,
    SETS,
    SEVERITIES,
    SIZES,
    Case,
    Size,
    clips,
    stops,
)
from training.simdg.sizes import SIZES as SIMDG
from training.simulation.config import ALL_CONDITIONS, Condition
from training.simulation.roads import environment_of


@pytest.fixture(params=list(SIZES))
def size(request: pytest.FixtureRequest) -> Size:
    return SIZES[request.param]


def test_no_place_is_in_two_sets(size: Size) -> None:
    towns = [d.town for part in SETS for d in size.drives_of(part)]
    towns += [c.town for s in stops(size) for c in s.cases if c.condition == PLACE]
    assert len(set(towns)) == len(towns)
    simdg = SIMDG['small']
    held_out = {*simdg.val_towns, *simdg.test_towns}
    assert not held_out & set(towns)
    assert {d.town for d in size.drives_of('fit')} <= set(simdg.train_towns)


def test_full_size_shows_what_the_goal_asks_for() -> None:
    full = SIZES['full']
    drives = full.drives_of('test')
    assert full.nominal_hours >= 24
    assert len(drives) >= 10
    kinds = {environment_of(d.town) for d in drives}
    assert kinds == {'town', 'country', 'motorway'}
    cases = Counter(
        (c.condition, c.severity) for s in stops(full) for c in s.cases if not c.ramp_s
    )
    for condition in set(ALL_CONDITIONS) - {'clear', 'frozen'}:
        assert all(cases[condition, severity] == full.repeats for severity in SEVERITIES)
    ramps = Counter(c.condition for s in stops(full) for c in s.cases if c.ramp_s)
    assert ramps == dict.fromkeys(RAMPS, full.ramps)


def test_what_happens_fits_its_drive_and_can_be_simulated(size: Size) -> None:
    found = stops(size)
    assert len({stop.name for stop in found}) == len(found)
    for stop in found:
        assert stop.begin > 0
        assert stop.begin + stop.seconds <= stop.drive.seconds
        assert len({case.name for case in stop.cases}) == len(stop.cases)
        for case in stop.cases:
            if case.condition != PLACE:
                Condition(case.condition, case.severity_at(stop.seconds))
    assert stops(size) == found


def test_ramp_begins_clear_and_stays_at_its_end() -> None:
    ramp = Case('fog', 0.8, ramp_s=40)
    assert [ramp.severity_at(t) for t in (0, 20, 40, 99)] == [0, 0.4, 0.8, 0.8]
    assert Case('fog', 0.8).severity_at(0) == 0.8


@pytest.mark.parametrize('scans', [False, True])
def test_clips_lie_in_their_drives(size: Size, scans: bool) -> None:
    for part in ('calibration', 'test'):
        found = clips(size, part, scans)
        assert found
        for clip in found:
            assert clip.drive.part == part
            assert clip.begin >= 0
            assert clip.begin + clip.frames <= clip.drive.seconds
