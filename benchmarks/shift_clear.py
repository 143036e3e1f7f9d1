# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""More clear driving: false alarms on drives that the size `day` does not have.

Once the false alarms of a day have been looked at, a change of the monitor cannot be confirmed on
that day. These drives are the rest of the test drives of the size `full`, watched by the monitor
that was fitted for `day`.
"""

from __future__ import annotations

if __name__ == '__main__' and __package__ in (None, ''):  # run as a file
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import training  # noqa: F401  # first: it sets how torch's threads wait

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from benchmarks.shift import Benchmark
from benchmarks.shift_detectors import verdict_of, watch
from benchmarks.shift_events import drop_about
from benchmarks.shift_evidence import Described, describe_pieces, described_drive
from benchmarks.shift_metrics import FalseAlarms
from benchmarks.shift_plan import SIZES, Drive
from benchmarks.shift_report import MONITOR, MONITOR_ERROR, rate_rows
from benchmarks.shift_rows import Row, write_rows
from benchmarks.shift_streams import (
    ShiftBenchmarkError,
    drive_pieces,
    prepare,
    simulate_pieces,
    start_worker,
)
from clcp_ros.monitor import Level, MonitorConfig
from clcp_ros.monitor.close import FILLED
from clcp_ros.monitor.knowledge import Knowledge
from training.cli import atomic_path, run_command

_SECTION = 'more clear driving'


@dataclass(frozen=True)
class Alarm:
    """A false alarm.

    Attributes:
        drive: Its name.
        second: Of the drive.
        level: As it began.
        vehicles: Share of the labelled pixels that are vehicles'.
        drop: True loss of mIoU about it, against the calibration drives on the same classes.
        reason: What the monitor says.
    """

    drive: str
    second: int
    level: str
    vehicles: float
    drop: float
    reason: str


@dataclass
class Watch:
    """What was seen of some drives.

    Attributes:
        alarms: Those of WARN or ERROR.
        errors: Those of ERROR.
        frames: How many frames there were.
        alarmed: How many of them in alarm.
        passed_over: Behind a vehicle.
    """

    alarms: list[Alarm]
    errors: int = 0
    frames: int = 0
    alarmed: float = 0.0
    passed_over: int = 0


def watch_drive(
    found: Watch,
    name: str,
    described: Described,
    knowledge: Knowledge,
    classes: Sequence[str],
    source_iou: np.ndarray,
) -> None:
    """Run the monitor over a clear drive.

    Args:
        found: Where to count.
        name: Of the drive.
        described: Its frames.
        knowledge: Of the monitor.
        classes: Names of the network's classes.
        source_iou: (C,) of the calibration drives.
    """
    watched = watch(knowledge, MonitorConfig(), described, classes)
    warned = verdict_of(watched, Level.WARN)
    found.frames += len(described)
    found.alarmed += warned.active * len(described)
    found.errors += len(verdict_of(watched, Level.ERROR).alarms)
    found.passed_over += sum(FILLED in reason for reason in watched.reason)
    for k in warned.alarms:
        labelled = described.confusion[k].sum(axis=1)
        share = 0.0
        if knowledge.close is not None:
            share = float(labelled[knowledge.close.vehicles].sum() / max(labelled.sum(), 1))
        drop = drop_about(described, k, source_iou)
        level, reason = Level(int(watched.level[k])).name, str(watched.reason[k])
        found.alarms.append(Alarm(name, k, level, share, drop, reason))


def rows_of(found: Watch, drives: int) -> Iterator[Row]:
    """The figures.

    Args:
        found: What was seen.
        drives: Of how many drives.
    """
    hours = found.frames / 3600
    alarmed = {alarm.drive for alarm in found.alarms}
    alarms = FalseAlarms(len(found.alarms), hours, len(alarmed))
    yield from rate_rows(MONITOR, alarms, '<= 1' if hours >= 8 else '')
    yield from rate_rows(MONITOR_ERROR, FalseAlarms(found.errors, hours))
    yield Row(_SECTION, MONITOR, 'drives with one', len(alarmed), drives)
    yield Row(_SECTION, MONITOR, 'hours', hours)
    yield Row(_SECTION, MONITOR, 'share of the time in alarm', found.alarmed / found.frames)
    share = found.passed_over / found.frames
    yield Row(_SECTION, 'behind a vehicle', 'share of the time passed over', share)


def write_alarms(path: Path, alarms: Sequence[Alarm]) -> None:
    """Write a CSV file, a line for each."""
    with atomic_path(path) as partial, partial.open('w', newline='') as file:
        names = [field.name for field in fields(Alarm)]
        writer = csv.DictWriter(file, names, lineterminator='\n')
        writer.writeheader()
        for alarm in alarms:
            rounded = {'vehicles': f'{alarm.vehicles:.2f}', 'drop': f'{alarm.drop:.3f}'}
            writer.writerow(asdict(alarm) | rounded)


def more_drives(number: int) -> tuple[Drive, ...]:
    """Test drives of `full` that `day` does not have.

    Raises:
        ShiftBenchmarkError: There are not so many.
    """
    known = len(SIZES['day'].drives_of('test'))
    drives = SIZES['full'].drives_of('test')[known:]
    if not 1 <= number <= len(drives):
        raise ShiftBenchmarkError(f'there are 1 to {len(drives)} more drives, not {number}')
    return drives[:number]


def main(
    bundle: Path = Path('runs/bundle'),
    out: Path = Path('shift'),
    drives: int = 16,
    interval_h: float = 8.0,
    workers: int | None = None,
) -> None:
    """Count false alarms on more drives; `benchmarks/shift.py --size day` has to be run before.

    Args:
        bundle: As of shift.py.
        out: As of shift.py; streams go to its folder of the size `full`, which has them, too.
        drives: How many, of half an hour each.
        interval_h: As of shift.py.
        workers: Processes, by default one per processor.
    """
    chosen, full = more_drives(drives), SIZES['full']
    count = (os.cpu_count() or 1) if workers is None else workers
    day = Benchmark(SIZES['day'], out / 'day', bundle, out / 'environments', interval_h, count)
    if not day.described.is_dir():
        raise ShiftBenchmarkError(f'{day.described} is missing; run shift.py --size day first')
    start_worker()
    root = out / full.name
    prepare(full, root)
    pieces = [piece for drive in chosen for piece in drive_pieces(drive)]
    simulate_pieces(full, root, pieces, count)
    folder = root / day.folder.name / day.described.name
    describe_pieces(root, folder, bundle, pieces, day.temperature, count, 'describe')
    found = Watch([])
    for drive in chosen:
        described = described_drive(folder, drive)
        watch_drive(
            found, drive.name, described, day.knowledge, day.classes, day.streams.source_iou
        )
    rows = list(rows_of(found, len(chosen)))
    results = day.results
    results.mkdir(parents=True, exist_ok=True)
    write_rows(results / 'clear.csv', rows)
    write_alarms(results / 'clear-alarms.csv', found.alarms)
    for row in rows:
        print(f'{row.what}, {row.quantity}: {row.value:.3g} {row.met}'.rstrip())
    print(results / 'clear.csv')


if __name__ == '__main__':
    run_command(main)
