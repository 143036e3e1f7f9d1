# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.shift_clear import Alarm, Watch, more_drives, rows_of, watch_drive, write_alarms
from benchmarks.shift_evidence import Describer, Sight, segmenter_of
from benchmarks.shift_plan import SIZES
from benchmarks.shift_report import MONITOR
from benchmarks.shift_streams import ShiftBenchmarkError
from clcp_ros.bundle import MODEL, load_bundle
from clcp_ros.monitor.close import CloseReference
from clcp_ros.monitor.knowledge import Knowledge


def test_more_drives_are_none_of_the_day() -> None:
    known = {drive.town for part in ('fit', 'calibration', 'test') for drive in
             SIZES['day'].drives_of(part)}  # fmt: skip
    drives = more_drives(16)
    assert not known & {drive.town for drive in drives}
    assert set(drives) <= set(SIZES['full'].drives_of('test'))
    assert more_drives(3) == drives[:3]
    for number in (0, 17):
        with pytest.raises(ShiftBenchmarkError, match='1 to 16 more drives'):
            more_drives(number)


def test_alarms_are_counted_with_what_stood_there(
    tiny_bundle: Path, daylight_image: Callable[..., Any], tmp_path: Path
) -> None:
    bundle = load_bundle(tiny_bundle)
    knowledge = Knowledge.load(bundle.reference_path, bundle.sha256[MODEL])
    names = bundle.classes.names
    vehicles = np.arange(len(names)) == 1
    knowledge = replace(knowledge, close=CloseReference(vehicles))
    # An hour's third of them is another world.
    images = [daylight_image(i) if i < 40 else np.full((60, 80, 3), 250, np.uint8)
              for i in range(60)]  # fmt: skip
    half = np.zeros((60, 80), np.uint8)
    half[:30] = 1
    sights = [
        Sight('clear', i * 1_000_000_000, 0.0, image, half) for i, image in enumerate(images)
    ]
    described = Describer(segmenter_of(tiny_bundle)).describe(sights)
    found = Watch([])
    iou = np.full(len(names), 0.9)
    watch_drive(found, 'a', described, knowledge, names, iou)
    assert found.frames == 60
    assert [alarm.drive for alarm in found.alarms] == ['a']
    alarm = found.alarms[0]
    assert 40 <= alarm.second < 60
    assert alarm.vehicles == pytest.approx(0.5)
    assert alarm.drop > 0
    assert 0 < found.alarmed <= 20
    rows = {(row.what, row.quantity): row.value for row in rows_of(found, 1)}
    assert rows[MONITOR, 'per 8 h'] == pytest.approx(8 * 60)
    assert rows[MONITOR, 'share of the time in alarm'] == found.alarmed / 60
    write_alarms(tmp_path / 'alarms.csv', [*found.alarms, Alarm('b', 3, 'WARN', 0.1, 0.2, 'x; y')])
    with (tmp_path / 'alarms.csv').open() as file:
        read = list(csv.DictReader(file))
    assert [row['vehicles'] for row in read] == ['0.50', '0.10']
    assert read[1]['reason'] == 'x; y'
