# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmark of the shift monitor: false alarms, delays, expected mIoU, kinds, cost.

Four stages, each of which keeps what it made and goes on where it stopped: `streams` simulates
drives in three disjoint sets and what happens on the last of them; `evidence` runs the network
and the monitor's measurements on every frame and fits the monitor on the first two sets;
`detectors` runs the monitor, and river's and frouros' detectors in environments of their own, over
all streams; `report` writes tables, plots and whether the goals are met. Everything is simulated
but CamVid's frames, which take a bundle of their own.
"""

from __future__ import annotations

if __package__ in (None, ''):
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import training  # noqa: F401  # first: it sets how torch's threads wait

import concurrent.futures
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from benchmarks.shift_alignment import alignment_rows, simulate_scans
from benchmarks.shift_baselines import LIBRARIES, VERSIONS, make_environment
from benchmarks.shift_cost import cost_rows
from benchmarks.shift_detectors import (
    LEAD_OURS_S,
    Outcome,
    Watched,
    export_series,
    ours,
    rivals,
    watch,
)
from benchmarks.shift_events import Event, Streams
from benchmarks.shift_evidence import Described, describe_pieces, measurements_digest
from benchmarks.shift_knowledge import (
    CARD,
    KNOWLEDGE,
    Ladder,
    describe_ladder,
    fit_monitor,
    keep_drives,
    temperature_of,
)
from benchmarks.shift_libraries import library_rows
from benchmarks.shift_plan import SETS, SIZES, Size
from benchmarks.shift_plots import plot
from benchmarks.shift_quality import Estimate, estimates, namings
from benchmarks.shift_real import real_rows
from benchmarks.shift_report import (
    FrameScores,
    drive_rows,
    kind_rows,
    left_out_rows,
    markdown,
    quality_rows,
    separation_rows,
    stream_rows,
    true_drop_rows,
    write_events,
)
from benchmarks.shift_rows import Row, figure, write_rows
from benchmarks.shift_streams import ShiftBenchmarkError, pieces, simulate, start_worker
from clcp_ros.bundle import load_bundle, sha256_of
from clcp_ros.classes import CITYSCAPES
from clcp_ros.errors import ClcpError
from clcp_ros.monitor import MonitorConfig
from clcp_ros.monitor.knowledge import Knowledge
from training.cli import atomic_path, git_commit, run_command

Stage = Literal['all', 'streams', 'evidence', 'detectors', 'report']


@dataclass
class Benchmark:
    """A size, a bundle, and where their results lie.

    Attributes:
        size: How much.
        root: Folder of the size.
        bundle: Whose network is used.
        environments: Folder of the libraries' environments.
        interval_h: Hours between two false alarms that the monitor is asked for.
        workers: Processes.
    """

    size: Size
    root: Path
    bundle: Path
    environments: Path
    interval_h: float
    workers: int

    @cached_property
    def folder(self) -> Path:
        """Of what depends on the network."""
        return self.root / f'bundle-{load_bundle(self.bundle).id}'

    @property
    def described(self) -> Path:
        """Folder of what is kept of every frame: with other measurements it is another."""
        return self.folder / f'described-{measurements_digest()}-{self.temperature:.5f}'

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the network's classes."""
        return tuple(load_bundle(self.bundle).classes.names)

    @cached_property
    def temperature(self) -> float:
        """Of the network's logits, as the monitor is fitted."""
        return temperature_of(self.size, self.root, self.bundle, self.fitted)

    @cached_property
    def streams(self) -> Streams:
        """The described streams."""
        return Streams(self.size, self.described)

    @cached_property
    def events(self) -> list[Event]:
        """What happens on the test drives."""
        return list(self.streams.events())

    @cached_property
    def fitted(self) -> Path:
        """Folder of the monitor that was fitted."""
        return self.folder / f'monitor-{self.interval_h:g}h'

    @cached_property
    def knowledge(self) -> Knowledge:
        """What the monitor knows."""
        return fit_monitor(self.size, self.root, self.bundle, self.interval_h, self.fitted)

    @cached_property
    def results(self) -> Path:
        """Folder of what this very monitor says: another fit has a folder of its own."""
        _ = self.knowledge
        return self.fitted / f'results-{sha256_of(self.fitted / KNOWLEDGE)[:8]}'

    def evidence(self) -> None:
        """Describe all frames and fit the monitor."""
        size, root, bundle, workers = self.size, self.root, self.bundle, self.workers
        folder, temperature = self.described, self.temperature
        for part in (*SETS, 'events'):
            chosen = [p for p in pieces(size) if p.name.split('/')[0] == part]
            describe_pieces(root, folder, bundle, chosen, temperature, workers, f'describe {part}')
        for part in ('calibration', 'test'):
            describe_ladder(size, root, folder, bundle, part, temperature, workers)
        keep_drives(size, root, folder, bundle, self.fitted, temperature, workers)
        _ = self.knowledge

    def detectors(self) -> list[Outcome]:
        """Run the monitor and the libraries' detectors, or take what they said."""
        libraries = ('river', 'frouros')
        pythons = {name: make_environment(name, self.environments) for name in libraries}
        series = self.results / 'series.npz'
        if not series.is_file():
            export_series(self.streams, self.events, self.knowledge, series)
        # They are processes of their own and take as long as ours does.
        with concurrent.futures.ThreadPoolExecutor(self.workers) as pool:
            theirs = [
                pool.submit(rivals, pythons[name], name, series, self._alarms(name))
                for name in libraries
            ]
            outcomes = self._ours()
            return outcomes + [outcome for future in theirs for outcome in future.result()]

    def _alarms(self, library: str) -> Path:
        return self.results / f'alarms-{library}.json'

    def _ours(self) -> list[Outcome]:
        stored = [self.results / f'outcome-{i}.json' for i in range(2)]
        if not all(path.is_file() for path in stored):
            found = ours(self.streams, self.events, self.knowledge, MonitorConfig(), self.classes)
            for path, outcome in zip(stored, found, strict=True):
                outcome.save(path)
        return [Outcome.load(path) for path in stored]

    def rows(
        self, outcomes: Sequence[Outcome], real: tuple[Path, Path] | None
    ) -> tuple[list[Row], list[Estimate]]:
        """All figures, and the estimates of the mIoU.

        Args:
            outcomes: Of the detectors.
            real: Bundle of CamVid's day and folder of CamVid.
        """
        calibration = Ladder.load(self.size, self.described, 'calibration')
        test = Ladder.load(self.size, self.described, 'test')
        rows = [
            row for outcome in outcomes for row in stream_rows(self.size, self.events, outcome)
        ]
        card = json.loads((self.fitted / CARD).read_text())
        rows += left_out_rows(self.size, outcomes[0], card)
        rows += true_drop_rows(self.streams, outcomes[0])
        scores = FrameScores(self.knowledge, self.streams)
        rows += drive_rows(scores)
        rows += separation_rows(self.events, test, scores)
        python = make_environment('pytorch-ood', self.environments)
        rows += library_rows(
            self.streams, self.events, self.root, self.bundle, python, self.results
        )
        found = list(
            estimates(
                self.streams, self.events, calibration, test, self.knowledge, self.temperature
            )
        )
        rows += quality_rows(found)
        told = {name: verdict.kind for name, verdict in outcomes[0].events.items()}
        rows += kind_rows(namings(self.events, test, self.knowledge.kinds, told))
        rows += alignment_rows(self.size, self.root, self.bundle, self.knowledge)
        rows += cost_rows(self.size, self.root, self.bundle, self.knowledge, self.classes)
        if real is not None:
            rows += real_rows(*real, self.described)
        return rows, found

    def facts(self) -> dict[str, str]:
        """What was run on what, for the report."""
        size, facts = self.size, self.knowledge.facts
        drives = {part: size.drives_of(part) for part in ('fit', 'calibration', 'test')}
        found = {
            'everything': 'simulated, but for the sections that say real',
            'commit': git_commit(),
            'bundle': f'{self.bundle.name} ({load_bundle(self.bundle).id})',
        }  # fmt: skip
        found |= {
            f'{part} drives': f'{len(own)}, {sum(d.seconds for d in own) / 3600:.2f} h'
            for part, own in drives.items()
        }
        found['events'] = f'{len(self.events)}, {size.switch_s} s each, ramps of {size.ramp_s} s'
        found['frames'] = f'{size.camera[0]} x {size.camera[1]}, one a second, JPEG'
        found['false alarms asked for'] = f'one in {self.interval_h:g} h'
        found['false alarms supported by the calibration'] = f'one in {facts.supported_h:.3g} h'
        for library in LIBRARIES:
            scored = library == 'pytorch-ood'
            out = self.results / 'ood.json' if scored else self._alarms(library)
            if out.is_file():
                versions = json.loads(out.read_text())[VERSIONS]
                found[library] = ', '.join(f'{n} {v}' for n, v in versions.items())
        return found

    def ramp(self) -> tuple[Event, Watched, int] | None:
        """A ramp and what the monitor said of it."""
        ramps = [e for e in self.events if e.case.ramp_s and e.drop == e.drop]
        if not ramps:
            return None
        event = max(ramps, key=lambda e: e.drop)
        begin = event.stop.begin
        lead = self.streams.drive(event.stop.drive).take(slice(max(0, begin - LEAD_OURS_S), begin))
        joined = Described.concat([lead, event.frames])
        return event, watch(self.knowledge, MonitorConfig(), joined, self.classes), len(lead)


def main(
    bundle: Path = Path('runs/bundle'),
    size: Literal['tiny', 'small', 'hours', 'day', 'full'] = 'small',
    stage: Stage = 'all',
    out: Path = Path('shift'),
    interval_h: float = 8.0,
    environments: Path = Path('shift/environments'),
    real_bundle: Path | None = None,
    camvid: Path | None = None,
    workers: int | None = None,
) -> None:
    """Run the benchmark of the shift monitor.

    Args:
        bundle: Its network is measured; finetuned on simdg's training towns (simdg small). What
            its monitor knows is not used: one is fitted on the benchmark's own drives.
        size: tiny (shows only that everything runs), small (that it works), day and full (for
            figures: a day of clear driving that nothing was fitted on, 24 hours to test on and 24
            to calibrate on, or 16 and 8 whose drives judge each other) and hours (a part of day).
        stage: The last stage that is run.
        out: Folder; streams are kept there and serve every network.
        interval_h: Hours between two false alarms that the monitor is fitted for.
        environments: Folder of the environments of river, frouros and pytorch-ood.
        real_bundle: Exported from a network that was finetuned on CamVid's day, with its monitor.
        camvid: CamVid's folder, for that bundle.
        workers: Processes, by default one per processor.
    """
    if (real_bundle is None) != (camvid is None):
        raise ClcpError('real frames take both, --real_bundle and --camvid')
    count = (os.cpu_count() or 1) if workers is None else workers
    if stage != 'streams':
        # Before hours are spent on simulating for it.
        _check_bundle(bundle)
    start_worker()
    begin = time.monotonic()
    chosen = SIZES[size]
    root = out / chosen.name
    simulate(chosen, root, count)
    simulate_scans(chosen, root, count)
    if stage == 'streams':
        return
    run = Benchmark(chosen, root, bundle, environments, interval_h, count)
    run.evidence()
    if stage == 'evidence':
        return
    outcomes = run.detectors()
    if stage == 'detectors':
        return
    real = None if real_bundle is None or camvid is None else (real_bundle, camvid)
    rows, found = run.rows(outcomes, real)
    write_rows(run.results / 'shift.csv', rows)
    write_events(run.results / 'events.csv', run.events, outcomes)
    with atomic_path(run.results / 'shift.md') as partial:
        partial.write_text(markdown(rows, 'The shift monitor, measured', run.facts()))
    plot(run.results / 'shift.png', chosen, run.events, outcomes, found, run.ramp())
    for row in rows:
        if row.goal:
            value = figure(row.value) or '-'
            print(f'{row.met:>12}: {row.what}, {row.quantity}: {value} (goal {row.goal})')
    print(f'{time.monotonic() - begin:.0f} s; {run.results}/shift.md, shift.csv, shift.png')


def _check_bundle(bundle: Path) -> None:
    classes = load_bundle(bundle).classes
    if classes.names != CITYSCAPES.names:
        raise ShiftBenchmarkError(
            f'{bundle} tells {classes.name}; the streams are labelled with the classes of '
            f'Cityscapes: take a bundle that was finetuned on simdg'
        )


if __name__ == '__main__':
    run_command(main)
