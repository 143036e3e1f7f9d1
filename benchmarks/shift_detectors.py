# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Stage 3: the monitor on every stream, and the scores that the rivals' detectors are given."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.shift_baselines import EPISODES, run_library
from benchmarks.shift_events import Event, Streams
from benchmarks.shift_evidence import RIVALS, Described, scores_of
from benchmarks.shift_metrics import onsets
from clcp_ros.monitor import Evidence, Level, MonitorConfig, ShiftMonitor
from clcp_ros.monitor.faults import Fault
from clcp_ros.monitor.knowledge import Knowledge
from training.cli import atomic_path

LEAD_OURS_S = 120
"""Of the clear drive before an event: longer than anything that the monitor remembers."""

LEAD_RIVALS_S = 300
"""The libraries' detectors learn what is normal as they go."""

SERIES = ('novelty', *RIVALS[:1])
"""What the libraries' detectors watch: our novelty, and what is at hand without us."""


@dataclass(frozen=True)
class Verdict:
    """What a detector did on one stream.

    Attributes:
        alarms: Frames at which an alarm began; of an event, counted from its onset.
        before: It was alarming already when the event began.
        active: Share of the frames in alarm.
        kind: Of degradation that was told most often while in alarm, where the detector tells one.
        harm: Of the drop that was estimated at the end; NaN without.
    """

    alarms: tuple[int, ...]
    before: bool = False
    active: float = 0.0
    kind: str = ''
    drop: float = math.nan


@dataclass
class Outcome:
    """What a detector did on all streams.

    Attributes:
        detector: Its name.
        nominal: By clear drive.
        events: By event.
    """

    detector: str
    nominal: dict[str, Verdict] = field(default_factory=dict)
    events: dict[str, Verdict] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write JSON, whole or not at all."""
        content = {
            'detector': self.detector,
            'nominal': {name: vars(v) for name, v in self.nominal.items()},
            'events': {name: vars(v) for name, v in self.events.items()},
        }
        with atomic_path(path) as partial:
            partial.write_text(json.dumps(content) + '\n')

    @classmethod
    def load(cls, path: Path) -> Outcome:
        """Read what `save` wrote."""
        content = json.loads(path.read_text())
        found = [
            {name: Verdict(**{**v, 'alarms': tuple(v['alarms'])}) for name, v in part.items()}
            for part in (content['nominal'], content['events'])
        ]
        return cls(content['detector'], *found)


def evidence_of(knowledge: Knowledge, described: Described) -> list[Evidence]:
    """What `ShiftMonitor.observe` gives for these frames."""
    scores = scores_of(knowledge, described)
    return [
        Evidence(
            described.low[i],
            score,
            described.soft[i].astype(np.float64),
            features=described.features(i),
        )
        for i, score in enumerate(scores)
    ]


@dataclass
class Watched:
    """The levels of a stream.

    Attributes:
        level: (N,) int.
        kind: (N,) str.
        drop: (N,) estimated drop, NaN where there is none.
        reason: (N,) str.
    """

    level: np.ndarray
    kind: np.ndarray
    drop: np.ndarray
    reason: np.ndarray


def watch(
    knowledge: Knowledge, config: MonitorConfig, described: Described, classes: Sequence[str]
) -> Watched:
    """Run the monitor over a stream.

    Args:
        knowledge: Of the monitor.
        config: Of the monitor.
        described: Frames in the order of their stamps.
        classes: Names of the network's classes.
    """
    monitor = ShiftMonitor(knowledge, config, classes=classes)
    states = []
    for i, evidence in enumerate(evidence_of(knowledge, described)):
        fault = str(described.fault[i])
        told = Fault(fault, fault) if fault else None
        states.append(monitor.judge(int(described.stamp_ns[i]), evidence, told))
    return Watched(
        np.array([int(state.level) for state in states]),
        np.array([state.kind for state in states]),
        np.array([state.miou_drop for state in states]),
        np.array([state.reason for state in states]),
    )


def ours(
    streams: Streams,
    events: Sequence[Event],
    knowledge: Knowledge,
    config: MonitorConfig,
    classes: Sequence[str],
) -> list[Outcome]:
    """The monitor on every stream: WARN or more, and ERROR.

    Args:
        streams: The described streams.
        events: What happens.
        knowledge: Of the monitor.
        config: Of the monitor.
        classes: Names of the network's classes.
    """
    levels = {'monitor, WARN or ERROR': Level.WARN, 'monitor, ERROR': Level.ERROR}
    outcomes = {name: Outcome(name) for name in levels}
    for drive, described in streams.drives('test'):
        watched = watch(knowledge, config, described, classes)
        for name, least in levels.items():
            outcomes[name].nominal[drive.name] = verdict_of(watched, least, 0)
    for event in tqdm(events, desc='judge events', unit='event'):
        clear = streams.drive(event.stop.drive)
        lead = clear.take(slice(max(0, event.stop.begin - LEAD_OURS_S), event.stop.begin))
        watched = watch(knowledge, config, Described.concat([lead, event.frames]), classes)
        for name, least in levels.items():
            outcomes[name].events[event.name] = verdict_of(watched, least, len(lead))
    return list(outcomes.values())


def verdict_of(watched: Watched, least: Level, begin: int = 0) -> Verdict:
    """What was said from a frame on.

    Args:
        watched: The levels of a stream.
        least: Level that is an alarm.
        begin: The frame.
    """
    # STALE is above ERROR in number and says nothing.
    active = (watched.level >= least) & (watched.level != Level.STALE)
    found = onsets(active) - begin
    after = active[begin:]
    kinds = watched.kind[begin:][after]
    names, counts = np.unique(kinds[kinds != ''], return_counts=True)
    finite = watched.drop[np.isfinite(watched.drop)]
    return Verdict(
        tuple(int(k) for k in found if k >= 0),
        before=bool(begin and active[begin - 1]),
        active=float(after.mean()) if after.size else 0.0,
        kind=str(names[counts.argmax()]) if names.size else '',
        drop=float(finite[-1]) if finite.size else math.nan,
    )


def series_of(knowledge: Knowledge, described: Described) -> dict[str, np.ndarray]:
    """What the libraries' detectors watch, by name."""
    novelty = np.array([score.novelty for score in scores_of(knowledge, described)])
    named = {'novelty': novelty}
    named |= {name: described.rivals[:, i].astype(np.float64) for i, name in enumerate(RIVALS)}
    return named


def export_series(
    streams: Streams, events: Sequence[Event], knowledge: Knowledge, path: Path
) -> None:
    """Write what the libraries' detectors watch: streams end to end, with where each begins.

    Args:
        streams: The described streams.
        events: What happens.
        knowledge: For the novelty.
        path: The .npz file.
    """
    nominal = {d.name: series_of(knowledge, described) for d, described in streams.drives('test')}
    names, kinds, begins, lengths = [], [], [], []
    parts: dict[str, list[np.ndarray]] = {name: [] for name in SERIES}
    rows: Iterator[tuple[str, str, int, dict[str, np.ndarray]]] = (
        (name, 'nominal', 0, series) for name, series in nominal.items()
    )
    for name, kind, begin, series in [*rows, *_event_series(events, nominal, knowledge)]:
        names.append(name)
        kinds.append(kind)
        begins.append(begin)
        lengths.append(len(series['novelty']))
        for key in SERIES:
            parts[key].append(series[key])
    arrays = {f'series.{key}': np.concatenate(parts[key]) for key in SERIES}
    with atomic_path(path) as partial, partial.open('wb') as file:
        np.savez_compressed(
            file, allow_pickle=False, name=np.array(names), kind=np.array(kinds),
            begin=np.array(begins), length=np.array(lengths), **arrays,
        )  # fmt: skip


def _event_series(
    events: Sequence[Event], nominal: dict[str, dict[str, np.ndarray]], knowledge: Knowledge
) -> Iterator[tuple[str, str, int, dict[str, np.ndarray]]]:
    for event in events:
        own = series_of(knowledge, event.frames)
        end = event.stop.begin
        begin = max(0, end - LEAD_RIVALS_S)
        lead = nominal[event.stop.drive.name]
        joined = {key: np.concatenate([lead[key][begin:end], own[key]]) for key in SERIES}
        yield event.name, 'event', end - begin, joined


def rivals(python: Path, library: str, series: Path, out: Path) -> list[Outcome]:
    """Run a library's detectors in its own environment.

    Args:
        python: Of the environment.
        library: Its name.
        series: From `export_series`.
        out: The JSON file that it writes.
    """
    if not out.is_file():
        run_library(python, 'detect', library, str(series), str(out))
    with np.load(series, allow_pickle=False) as stored:
        names, begins, kinds = (stored[key] for key in ('name', 'begin', 'kind'))
    content = json.loads(out.read_text())
    outcomes = []
    for detector, found in content[EPISODES].items():
        outcome = Outcome(detector)
        for name, begin, kind, alarms in zip(names, begins, kinds, found, strict=True):
            verdict = Verdict(tuple(int(a - begin) for a in alarms if a >= begin))
            target = outcome.nominal if kind == 'nominal' else outcome.events
            target[str(name)] = verdict
        outcomes.append(outcome)
    return outcomes
