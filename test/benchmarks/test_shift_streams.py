# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.shift_events import paired_drop, ramp_onset, source_drop
from benchmarks.shift_plan import SIZES, Case, Drive, Stop
from benchmarks.shift_streams import (
    Piece,
    ShiftBenchmarkError,
    _write_pieces,
    prepare,
    read_frames,
    stamp_of,
)

SIZE = replace(SIZES['tiny'], camera=(48, 32))
DRIVE = Drive('test', 201, 3)


@pytest.fixture(scope='module')
def streams(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drive of three seconds, and what happens after the first."""
    root = tmp_path_factory.mktemp('streams')
    cases = (Case('night', 0.8), Case('fog', 0.8, ramp_s=2), Case('frozen', 1.0))
    stop = Stop(0, DRIVE, 1, 2, (*cases, Case('place', 0.0, town=401)))
    _write_pieces(SIZE, root, [Piece(DRIVE, 0), Piece(DRIVE, stop=stop)])
    return root / 'streams'


def test_events_are_the_clear_drive_in_other_conditions(streams: Path) -> None:
    clear = list(read_frames(streams / 'test' / 'test-201' / '000.parquet'))
    seen = list(read_frames(streams / 'events' / 'switch-0000.parquet'))
    assert [f.stamp_ns for f in clear] == [stamp_of(DRIVE, k) for k in range(3)]
    for case in ('night-0.80', 'fog-0.80-ramp2', 'frozen-1.00'):
        own = [f for f in seen if f.case == case]
        assert [f.stamp_ns for f in own] == [f.stamp_ns for f in clear[1:]]
        for before, after in zip(clear[1:], own, strict=True):
            assert np.array_equal(before.label, after.label)
    night = [f.image.mean() for f in seen if f.case == 'night-0.80']
    assert max(night) < 0.7 * min(f.image.mean() for f in clear)


def test_ramp_starts_from_the_clear_picture_and_a_frozen_one_stays(streams: Path) -> None:
    clear = list(read_frames(streams / 'test' / 'test-201' / '000.parquet'))
    seen = list(read_frames(streams / 'events' / 'switch-0000.parquet'))
    ramp = [f for f in seen if f.case == 'fog-0.80-ramp2']
    assert ramp[0].jpeg == clear[1].jpeg
    assert ramp[1].jpeg != clear[2].jpeg
    assert [f.severity for f in ramp] == pytest.approx([0.0, 0.4])
    frozen = [f for f in seen if f.case == 'frozen-1.00']
    assert frozen[0].jpeg == frozen[1].jpeg == clear[1].jpeg


def test_another_place_shows_another_place(streams: Path) -> None:
    clear = list(read_frames(streams / 'test' / 'test-201' / '000.parquet'))
    seen = list(read_frames(streams / 'events' / 'switch-0000.parquet'))
    place = [f for f in seen if f.case == 'place-0.00-town401']
    assert len(place) == 2
    assert not np.array_equal(place[0].label, clear[1].label)


def test_folder_of_another_plan_is_refused(tmp_path: Path) -> None:
    prepare(SIZE, tmp_path)
    prepare(SIZE, tmp_path)
    with pytest.raises(ShiftBenchmarkError, match='another plan'):
        prepare(replace(SIZE, seed=2), tmp_path)


def test_missing_streams_say_which_stage_makes_them(tmp_path: Path) -> None:
    with pytest.raises(ShiftBenchmarkError, match='stage streams'):
        next(read_frames(tmp_path / 'no.parquet'))


def _confusions(right: list[int]) -> np.ndarray:
    """Frames of two classes and 100 pixels each, so many of which are right."""
    return np.array([[[r, 100 - r, 0], [100 - r, r, 0]] for r in right])


def test_drop_is_that_of_the_frames_together() -> None:
    clear, worse = _confusions([100, 100]), _confusions([80, 60])
    # 70 of 130 pixels in the union of each class.
    assert paired_drop(clear, worse) == pytest.approx(1 - 70 / 130)
    assert source_drop(worse.sum(axis=0), np.array([0.9, math.nan])) == pytest.approx(
        0.9 - 70 / 130
    )
    assert math.isnan(source_drop(worse.sum(axis=0), np.full(2, math.nan)))


def test_onset_of_a_ramp_is_when_the_loss_stays() -> None:
    right = [100] * 30 + [60] * 5 + [100] * 30 + [60] * 35
    onset = ramp_onset(_confusions([100] * 100), _confusions(right))
    assert 55 <= onset <= 70
    assert math.isnan(ramp_onset(_confusions([100] * 50), _confusions([100] * 50)))
    assert ramp_onset(_confusions([100] * 50), _confusions([60] * 50)) == 0
