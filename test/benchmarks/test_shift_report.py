# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import shift_baselines
from benchmarks.shift_detectors import Outcome, Verdict, rivals
from benchmarks.shift_events import Event
from benchmarks.shift_evidence import BINS, Described
from benchmarks.shift_plan import SIZES, Case, Drive, Stop
from benchmarks.shift_quality import SOFT, Estimate, Source
from benchmarks.shift_report import (
    MONITOR,
    delay_of,
    left_out_rows,
    markdown,
    quality_rows,
    stream_rows,
    write_events,
)
from benchmarks.shift_rows import Row, figure, write_rows
from clcp_ros.replay_scores import mean_iou

SIZE = SIZES['tiny']


def frames(count: int = 1, right: int = 80) -> Described:
    """Frames of two classes, so many of 100 pixels of each right."""
    confusion = np.array([[right, 100 - right, 0], [100 - right, right, 0]])
    soft = np.array([[0.45, 0.05, -1.0], [0.05, 0.45, -1.0]])
    histogram = np.zeros(BINS, int)
    histogram[[100, 250]] = 20, 80
    one = np.zeros(count)
    return Described(
        np.array(['clear'] * count), np.arange(count), one, one, one, one, one,
        np.stack([soft] * count), np.stack([confusion] * count), one,
        np.stack([histogram] * count), np.array([''] * count),
    )  # fmt: skip


def event(number: int, drop: float, ramp_s: int = 0, onset: float = 0.0) -> Event:
    case = Case('fog', 0.6, ramp_s)
    return Event(
        Stop(number, Drive('test', 201, 50), 20, 10, (case,)), case, frames(), drop, onset
    )


def test_goals_are_met_missed_or_not_measured() -> None:
    assert Row('s', 'w', 'q', 3.0, goal='<= 3').met == 'met'
    assert Row('s', 'w', 'q', math.inf, goal='<= 3').met == 'missed'
    assert Row('s', 'w', 'q', 0.97, goal='>= 0.98').met == 'missed'
    assert Row('s', 'w', 'q', math.nan, goal='>= 0.98').met == 'not measured'
    assert Row('s', 'w', 'q', 1.0).met == ''


def test_rows_of_a_detector() -> None:
    events = [event(0, 0.2), event(1, 0.3), event(2, 0.4), event(3, 0.0), event(4, 0.2, 5, 2.0)]
    verdicts = [
        Verdict((4,)), Verdict(()), Verdict((1,), before=True), Verdict((2,)), Verdict((1, 5)),
    ]  # fmt: skip
    outcome = Outcome(MONITOR, {'a': Verdict((3, 9)), 'b': Verdict(())})
    outcome.events = {e.name: v for e, v in zip(events, verdicts, strict=True)}
    rows = {(r.section, r.what, r.quantity): r for r in stream_rows(SIZE, events, outcome)}
    rate = rows['false alarms', MONITOR, 'per 8 h']
    assert rate.value == pytest.approx(8 * 2 / SIZE.nominal_hours)
    assert rows['false alarms', MONITOR, 'drives with one'].value == 1
    assert rows['false alarms', MONITOR, 'hours'].value == SIZE.nominal_hours
    card = {'false_alarms': {'whole_monitor': {'alarms': 3, 'hours': 12.0}}}
    left_out = {(r.what, r.quantity): r.value for r in left_out_rows(SIZE, outcome, card)}
    assert left_out[f'{MONITOR}, calibration drives left out', 'per 8 h'] == 2.0
    both = f'{MONITOR}, test drives and calibration drives left out'
    assert left_out[both, 'hours'] == 12 + SIZE.nominal_hours
    assert left_out[both, 'per 8 h'] == pytest.approx(8 * 5 / (12 + SIZE.nominal_hours))
    harmful = f'{MONITOR}, drop of 0.10 or more'
    # The third was alarming before, so two are left: one after four seconds, one missed.
    median = rows['delay, switches', harmful, 'delay median, s']
    assert (median.value, median.count, median.met) == (4.0, 2, 'missed')
    assert rows['delay, switches', harmful, 'missed'].value == 0.5
    assert rows['delay, switches', harmful, 'alarming already'].value == 1
    # A ramp that is noticed a second before it costs anything.
    assert rows['delay, ramps', harmful, 'delay median, s'].value == -1
    assert math.isnan(delay_of(events[0], Verdict(())))


def test_tables_hold_every_figure(tmp_path: Path) -> None:
    rows = [
        Row('one', 'a', 'x', 0.5, 3, '>= 0.9'), Row('one', 'b', 'y', math.nan),
        Row('two', 'a', 'x', math.inf),
    ]  # fmt: skip
    write_rows(tmp_path / 'rows.csv', rows)
    with (tmp_path / 'rows.csv').open() as file:
        found = list(csv.DictReader(file))
    assert [r['value'] for r in found] == ['0.5', '', 'inf']
    assert [r['met'] for r in found] == ['missed', '', '']
    text = markdown(rows, 'Title', {'everything': 'simulated'})
    assert '- everything: simulated' in text
    assert '| one | a | x | 0.5 | 3 | >= 0.9 | missed |' in text
    assert '| b |  |  |  |' in text
    assert figure(1 / 3) == '0.3333'


def test_events_are_listed_with_every_detector(tmp_path: Path) -> None:
    events = [event(0, 0.2), event(1, 0.3)]
    outcome = Outcome(MONITOR)
    outcome.events = {
        events[0].name: Verdict((4,), kind='haze'), events[1].name: Verdict((), before=True),
    }  # fmt: skip
    write_events(tmp_path / 'events.csv', events, [outcome])
    with (tmp_path / 'events.csv').open() as file:
        found = list(csv.DictReader(file))
    assert [r[MONITOR] for r in found] == ['4', 'before']
    assert [r['kind'] for r in found] == ['haze', '']


def test_rivals_give_the_source_its_own_miou() -> None:
    clear = frames(4)
    source = Source.of(clear)
    assert source.miou == pytest.approx(mean_iou(clear.confusion.sum(axis=0)))
    assert source.accuracy == pytest.approx(0.8)
    told = source.estimates(clear.histogram.sum(axis=0), clear.soft.mean(axis=0))
    for name in ('DoC', 'ATC', SOFT):
        assert told[name] == pytest.approx(source.miou), name
    # Average confidence is wrong by as much as the network is too sure.
    assert told['AC'] == pytest.approx(source.miou * source.confidence / 0.8)
    unsure = np.zeros(BINS, int)
    unsure[100] = 100
    worse = source.estimates(unsure, clear.soft.mean(axis=0))
    assert max(worse[name] for name in ('AC', 'DoC', 'ATC')) < source.miou


def test_windows_that_lose_much_are_told_from_the_others() -> None:
    found = [Estimate('clear', 'clear', 5, 'monitor', 0.5, 0.5)] * 3
    found += [Estimate('conditions', 'fog', 5, 'monitor', 0.35, 0.35)]
    found += [Estimate('conditions', 'snow', 5, 'monitor', 0.6, 0.2)]
    rows = {(r.what, r.quantity): r for r in quality_rows(found)}
    assert rows['monitor, 5 frames', 'AUROC, over 0.1'].value == 0.5
    assert rows['monitor, 5 frames', 'AUROC, over 0.1'].count == 2
    assert rows['monitor, 5 frames', 'AUROC, over 0.2'].value == 0.0
    goal = rows['conditions, monitor, 20 frames', 'MAE']
    assert (goal.goal, goal.met) == ('<= 0.03', 'not measured')
    assert rows['conditions, monitor, 5 frames', 'MAE'].value == pytest.approx(0.2)


class _Above:
    """Reports what is above a limit."""

    def __init__(self) -> None:
        self.drift_detected = False

    def update(self, value: float) -> None:
        self.drift_detected = value > 1


def test_alarms_are_counted_from_the_onset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detectors: dict[str, Any] = {'river': lambda: {'above': _Above}}
    monkeypatch.setattr(shift_baselines, '_DETECTORS', detectors)
    monkeypatch.setattr(shift_baselines, '_versions', lambda library: {library: '0'})
    series, out = tmp_path / 'series.npz', tmp_path / 'out.json'
    np.savez(
        series, name=['drive', 'event'], kind=['nominal', 'event'], begin=[0, 2], length=[3, 4],
        **{'series.novelty': np.array([0, 2, 0, 2, 0, 2, 2.0])},
    )  # fmt: skip
    shift_baselines.detect('river', series, out)
    assert json.loads(out.read_text())['versions'] == {'river': '0'}
    (outcome,) = rivals(Path('none'), 'river', series, out)
    assert outcome.detector == 'above on novelty'
    assert outcome.nominal['drive'].alarms == (1,)
    # Its alarm before the onset does not count as having found it.
    assert outcome.events['event'].alarms == (0, 1)
