# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.signal import lfilter  # type: ignore[import-untyped]

from clcp_ros.errors import ModelError
from clcp_ros.monitor.sequential import NO_LIMIT, SequentialReference
from training.monitoring import run_length
from training.monitoring.drives import PERIOD_S, count_alarms, drives_of
from training.monitoring.novelty import Series
from training.monitoring.run_length import _marks, _solve, alarm_bound, alarming, solve


@pytest.fixture(autouse=True)
def few_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the resampling is enough where the rate itself is not the question."""
    monkeypatch.setattr(run_length, '_STREAMS', 60)
    monkeypatch.setattr(run_length, '_TRIED_STREAMS', 30)


def stream(rng: np.random.Generator, samples: int, rho: float) -> np.ndarray:
    """Autocorrelated noise of standard deviation one; `rho` at a lag of one second."""
    a = rho**PERIOD_S
    noise = rng.normal(size=samples + 200) * math.sqrt(1 - a * a)
    return lfilter([1], [1, -a], noise)[200:]


def drives(
    seed: int, count: int, samples: int = 2400, rho: float = 0.9, between: float = 0.5
) -> list[Series]:
    rng = np.random.default_rng(seed)
    stamps = np.arange(samples) * int(PERIOD_S * 1e9)
    return [
        Series(f'd{i}', stamps, stream(rng, samples, rho) + rng.normal() * between)
        for i in range(count)
    ]


def test_bounds_are_those_of_the_textbook() -> None:
    found = [alarm_bound(n) for n in range(3)]
    assert found == pytest.approx([3.0, 4.74, 6.30], abs=0.01)


@pytest.mark.parametrize(
    ('h', 'c', 'limit', 'c_lasting'),
    [
        (3.0, 99.0, NO_LIMIT, 99.0), (10.0, 99.0, NO_LIMIT, 99.0), (8.0, 2.5, NO_LIMIT, 99.0),
        (3.0, 99.0, 0.5, 99.0), (8.0, 99.0, NO_LIMIT, 1.5),
    ],
)  # fmt: skip
def test_marks_say_what_the_monitors_own_test_does(
    h: float, c: float, limit: float, c_lasting: float
) -> None:
    novelty = stream(np.random.default_rng(0), 40_000, 0.8)
    marks = _marks(novelty[:, None], SequentialReference(k=1.0, rho=0.8, limit=limit))
    own = SequentialReference(k=1.0, h=h, rho=0.8, c=c, cap=1e9, limit=limit, c_lasting=c_lasting)
    expected = alarming(marks, own).sum()
    found = count_alarms(own, [novelty])
    assert expected > 5
    assert found == pytest.approx(expected, rel=0.1, abs=2)


@pytest.mark.parametrize(('count', 'between'), [(10, 0.5), (24, 0.6)])
def test_false_alarms_are_no_more_than_promised_on_average_over_calibrations(
    count: int, between: float
) -> None:
    """Whom few drives mislead is chance: the promise is of the mean, and none may be far off."""
    interval_h, new = 8.0, drives(999, 300, between=between)
    novelty = np.stack([s.novelty for s in new], axis=1)
    found = []
    for seed in range(3, 9):
        calibration = drives_of(drives(seed, count, between=between))
        own = _solve(calibration, interval_h, 0.0, 5.0, 300, 0)[0].reference
        marks = _marks(novelty, own)
        alarms = int(alarming(marks, own).sum())
        found.append(alarms * interval_h / (novelty.size * PERIOD_S / 3600))
        # And not for want of sensitivity: a shift that costs 0.10 mIoU is found.
        shifted = np.concatenate([new[0].novelty, new[1].novelty + 5.0])
        assert count_alarms(own, [shifted]) >= 1
    assert np.mean(found) <= 1.0
    assert max(found) < 4.0


def test_thresholds_that_ignore_drives_and_autocorrelation_break_the_promise() -> None:
    """The reason for all of this: what is right for independent samples is not for a video."""
    naive = SequentialReference(k=0.5, h=8.0, rho=0.0, c=99.0)
    alarms = sum(count_alarms(naive, [s.novelty]) for s in drives(2, 30))
    assert alarms > 10 * len(drives(2, 30)) / 3


def test_a_longer_interval_asks_for_higher_thresholds() -> None:
    short, long = (solve(drives(1, 6, between=0.3), hours).reference for hours in (0.5, 24.0))
    assert (long.k, long.h) > (short.k, short.h)
    assert long.c >= short.c


def test_drives_that_differ_widen_the_indifference_zone() -> None:
    alike, different = (solve(drives(1, 8, between=b)).figures for b in (0.0, 1.5))
    assert different['k_for_new_drives'] > alike['k_for_new_drives'] + 1


def test_seconds_of_something_very_odd_are_limited_instead_of_waited_for() -> None:
    """A lorry at a red light: without a limit the sum would have to be as high as it makes it."""
    ordinary = drives(4, 8, between=0.2)
    for one in ordinary[::2]:
        one.novelty[400:430] += 10.0
    found = solve(ordinary)
    assert found.reference.limit == 2.0
    assert sum(count_alarms(found.reference, d.pieces) for d in drives_of(ordinary)) == 0
    # A shift that is worth finding is found sooner than such seconds would allow.
    assert found.figures['delay_at_harmful_s'] < 40
    assert solve(drives(4, 8, between=0.2)).reference.limit == NO_LIMIT


def test_a_share_of_the_false_alarms_is_a_longer_interval() -> None:
    whole, part = (solve(drives(1, 6, between=0.3), 8.0, share=share) for share in (1.0, 0.25))
    rare = solve(drives(1, 6, between=0.3), 32.0)
    assert part.reference == rare.reference
    assert (part.interval_h, rare.interval_h) == (8.0, 32.0)
    assert part.reference.h > whole.reference.h


def test_what_is_supported_follows_from_hours_and_alarms() -> None:
    quiet = solve(drives(3, 6, between=0.2))
    assert quiet.alarms == 0
    assert quiet.hours == pytest.approx(2.0, rel=0.01)
    assert quiet.supported_h == pytest.approx(2.0 / 3.0, rel=0.01)
    # A drive that is far off alarms with thresholds from the others, and costs support.
    odd = Series('odd', quiet_stamps := drives(9, 1)[0].stamp_ns, np.full(quiet_stamps.size, 9.0))
    loud = solve([*drives(3, 6, between=0.2), odd])
    assert loud.figures['by_drive'][-1]['alarms'] >= 1
    assert loud.supported_h < quiet.supported_h


def test_one_drive_supports_nothing() -> None:
    assert math.isnan(solve(drives(3, 1)).supported_h)


def test_frames_that_are_far_apart_count_for_one_period_each() -> None:
    rng = np.random.default_rng(0)
    stamps = np.arange(120) * 10**10
    run = solve([Series(f'd{i}', stamps, rng.normal(size=120)) for i in range(4)])
    assert run.hours == pytest.approx(4 * 120 * PERIOD_S / 3600)
    assert 'far apart' in run.hours_from
    assert run.figures['autocorrelation'] == 'assumed'


def test_streams_are_seen_as_the_monitor_sees_them() -> None:
    stamps = (np.r_[0:10:0.1, 20:30:0.1] * 1e9).astype(np.int64)
    (drive,) = drives_of([Series('d', stamps, stamps * 1e-9)])
    assert [piece.size for piece in drive.pieces] == [20, 20]
    np.testing.assert_allclose(drive.pieces[1], np.arange(20, 30, PERIOD_S), atol=0.11)


def test_the_result_does_not_depend_on_chance() -> None:
    assert solve(drives(1, 3)) == solve(drives(1, 3))


@pytest.mark.parametrize('hours', [0.0, -1.0, math.nan, math.inf])
def test_impossible_intervals_are_refused(hours: float) -> None:
    with pytest.raises(ModelError, match='must be positive'):
        solve(drives(1, 2, samples=100), hours)


def test_nothing_to_go_by_is_an_error() -> None:
    with pytest.raises(ModelError, match='held out'):
        solve([])
