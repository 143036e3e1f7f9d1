# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Stage 4: figures with their goals, tables for people."""

from __future__ import annotations

import csv
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.shift_detectors import Outcome, Verdict
from benchmarks.shift_events import MILD, Event, Streams, drop_about
from benchmarks.shift_evidence import RIVALS, Described, scores_of
from benchmarks.shift_knowledge import Ladder
from benchmarks.shift_metrics import (
    FalseAlarms,
    auroc,
    balanced_accuracy,
    delays,
    fpr_at_tpr,
)
from benchmarks.shift_plan import MIDDLE, Size
from benchmarks.shift_quality import (
    OURS,
    OURS_WITHOUT,
    WINDOWS,
    Estimate,
    Naming,
    summed,
)
from benchmarks.shift_rows import Row, figure, markdown_table
from benchmarks.shift_streams import CLEAR
from clcp_ros.monitor.knowledge import Knowledge
from training.cli import atomic_path

GROUPS = {
    'harmful': 'drop of 0.10 or more', 'mild': 'drop of 0.05 to 0.10',
    'slight': 'drop of 0.02 to 0.05', 'harmless': 'drop below 0.02',
}  # fmt: skip
MONITOR, MONITOR_ERROR = 'monitor, WARN or ERROR', 'monitor, ERROR'

_FRAME_GOALS = {'night': '>= 0.98', 'fog': '>= 0.98', 'snow': '>= 0.98', 'rain': '>= 0.95'}
_DROPS = (0.05, 0.1, 0.2)
_DELAY_GOALS = {
    ('harmful', 'delay median, s'): '<= 3', ('harmful', 'delay p95, s'): '<= 10',
    ('mild', 'delay median, s'): '<= 30',
}  # fmt: skip


class FrameScores:
    """Scores of single frames by name; higher is stranger.

    Args:
        knowledge: Of the monitor.
        streams: The described streams.
    """

    NAMES = ('novelty', 'low', 'early', 'deep', *RIVALS)

    def __init__(self, knowledge: Knowledge, streams: Streams) -> None:
        self.knowledge, self.streams = knowledge, streams

    def of(self, frames: Described) -> dict[str, np.ndarray]:
        """(N,) by name, and `correction`, what the scene is taken to explain."""
        scores = scores_of(self.knowledge, frames)
        names = *self.NAMES[:4], 'correction'
        named = {n: np.array([getattr(s, n) for s in scores]) for n in names}
        return named | {n: frames.rivals[:, i] for i, n in enumerate(RIVALS)}

    @functools.cached_property
    def unseen(self) -> list[dict[str, np.ndarray]]:
        """`of` each of the test drives: the frames of a day."""
        return [self.of(described) for _, described in self.streams.drives('test')]


def separation_rows(events: Sequence[Event], ladder: Ladder, scores: FrameScores) -> Iterator[Row]:
    """AUROC and FPR95 of single frames, against unseen drives and those of the calibration.

    Args:
        events: What happens.
        ladder: Of the test drives.
        scores: Of frames.
    """
    negatives = {
        'unseen drives': _joined(scores.unseen),
        'calibration drives': _joined(
            [scores.of(d) for _, d in scores.streams.drives('calibration')]
        ),
    }
    for name in scores.NAMES:
        value = auroc(negatives['calibration drives'][name], negatives['unseen drives'][name])
        yield Row('frames, drives', name, 'AUROC unseen against calibration drives', value)
    positives: dict[tuple[str, str], list[dict[str, np.ndarray]]] = {}
    for event in events:
        case = event.case
        if not case.ramp_s and case.condition != 'frozen':
            key = (case.condition, f'{case.severity:.1f}')
            positives.setdefault(key, []).append(scores.of(event.frames))
    for frames in ladder.frames:
        for tag in dict.fromkeys(frames.case.tolist()):
            if tag != CLEAR:
                family, _, step = tag.partition(':')
                own = scores.of(frames.take(frames.case == tag))
                positives.setdefault((f'ladder {family}', step), []).append(own)
    for (condition, severity), parts in sorted(positives.items()):
        joined = _joined(parts)
        for where, nominal in negatives.items():
            section = f'frames against {where}'
            for name in scores.NAMES:
                goal = ''
                # Of five severities the third, on drives that nothing was fitted on.
                if name == 'novelty' and where == 'unseen drives' and severity == f'{MIDDLE:.1f}':
                    goal = _FRAME_GOALS.get(condition, '')
                what, count = f'{condition} {severity}, {name}', len(joined[name])
                value = auroc(nominal[name], joined[name])
                yield Row(section, what, 'AUROC', value, count, goal)
                yield Row(section, what, 'FPR95', fpr_at_tpr(nominal[name], joined[name]), count)


def _joined(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def stream_rows(size: Size, events: Sequence[Event], outcome: Outcome) -> Iterator[Row]:
    """False alarms and delays of a detector.

    Args:
        size: The size.
        events: What happens.
        outcome: Of the detector.
    """
    verdicts = outcome.nominal.values()
    alarms = FalseAlarms(
        sum(len(v.alarms) for v in verdicts),
        size.nominal_hours,
        sum(bool(v.alarms) for v in verdicts),
    )
    ours = outcome.detector == MONITOR
    name = outcome.detector
    goal = '<= 1' if ours and size.nominal_hours >= 8 else ''  # less can neither meet nor miss it
    yield from rate_rows(name, alarms, goal)
    yield Row('false alarms', name, 'drives with one', alarms.by_drive, len(verdicts))
    yield Row('false alarms', name, 'hours', alarms.hours)
    if name == MONITOR:
        active = float(np.mean([v.active for v in verdicts])) if verdicts else math.nan
        yield Row('false alarms', name, 'share of the time in alarm', active)
    for ramps in (False, True):
        for group, text in GROUPS.items():
            own = [
                e for e in events
                if e.group == group and bool(e.case.ramp_s) == ramps and math.isfinite(e.onset)
            ]  # fmt: skip
            kind = 'ramps' if ramps else 'switches'
            yield from _delay_rows(kind, group, text, own, outcome, ours and not ramps)


def left_out_rows(size: Size, outcome: Outcome, card: Mapping[str, Any]) -> Iterator[Row]:
    """False alarms on the calibration drives, and on all drives that nothing was fitted on.

    Each calibration drive was judged with thresholds from the others.

    Args:
        size: The size.
        outcome: Of the monitor.
        card: Of the fit.
    """
    whole = card['false_alarms']['whole_monitor']
    tested = sum(len(v.alarms) for v in outcome.nominal.values())
    for what, alarms in (
        ('calibration drives left out', FalseAlarms(whole['alarms'], whole['hours'])),
        (
            'test drives and calibration drives left out',
            FalseAlarms(whole['alarms'] + tested, whole['hours'] + size.nominal_hours),
        ),
    ):
        name = f'{outcome.detector}, {what}'
        yield from rate_rows(name, alarms)
        yield Row('false alarms', name, 'hours', alarms.hours)


def rate_rows(name: str, alarms: FalseAlarms, goal: str = '') -> Iterator[Row]:
    """How often a detector alarms in 8 h, and its Poisson bound.

    Args:
        name: Of the detector.
        alarms: What was counted.
        goal: Of both.
    """
    yield Row('false alarms', name, 'per 8 h', alarms.per_8h, alarms.alarms, goal)
    yield Row('false alarms', name, 'per 8 h, 95 % bound', alarms.bound_8h, alarms.alarms, goal)


def true_drop_rows(streams: Streams, outcome: Outcome) -> Iterator[Row]:
    """How many of the false alarms came where the network really was worse than on the source.

    They count as false all the same: nothing but the place was unusual.

    Args:
        streams: The described streams.
        outcome: Of the monitor.
    """
    bad = 0
    for drive, described in streams.drives('test'):
        for k in outcome.nominal[drive.name].alarms:
            bad += drop_about(described, k, streams.source_iou) >= MILD
    yield Row('false alarms', outcome.detector, 'at a true drop of 0.05', float(bad))


def _delay_rows(
    kind: str, group: str, text: str, events: Sequence[Event], outcome: Outcome, goals: bool
) -> Iterator[Row]:
    found = [(e, outcome.events[e.name]) for e in events if e.name in outcome.events]
    free = [(e, v) for e, v in found if not v.before]
    section, what = f'delay, {kind}', f'{outcome.detector}, {text}'
    summary = delays([delay_of(e, v) for e, v in free])
    values = {
        'delay median, s': summary.median, 'delay p95, s': summary.p95,
        'missed': summary.missed / summary.cases if summary.cases else math.nan,
        'alarming already': float(len(found) - len(free)),
    }  # fmt: skip
    for quantity, value in values.items():
        goal = _DELAY_GOALS.get((group, quantity), '') if goals else ''
        yield Row(section, what, quantity, value, summary.cases, goal)
    if outcome.detector == MONITOR_ERROR and group == 'harmless' and kind == 'switches':
        share = float(np.mean([bool(v.alarms) for _, v in free])) if free else math.nan
        yield Row(section, what, 'share of cases', share, len(free), '<= 0.05')


def delay_of(event: Event, verdict: Verdict) -> float:
    """Seconds from the onset to the first alarm; negative where a ramp was noticed before.

    Args:
        event: With a frame each second.
        verdict: On it.

    Returns:
        NaN when it was missed.
    """
    if not verdict.alarms:
        return math.nan
    return float(verdict.alarms[0] - event.onset)


def quality_rows(found: Sequence[Estimate]) -> Iterator[Row]:
    """Errors of the label-free mIoU.

    Args:
        found: All windows.
    """
    for group in ('clear', 'conditions', 'ladder'):
        names = dict.fromkeys(e.estimator for e in found if e.group == group)
        for name in names:
            for size in WINDOWS:
                error = summed(found, group, name, size)
                unseen = (group, name) in (('ladder', OURS_WITHOUT), ('conditions', OURS))
                goal = '<= 0.03' if unseen and size == WINDOWS[-1] else ''
                what = f'{group}, {name}, {size} frames'
                yield Row('mIoU without labels', what, 'MAE', error.mae, error.windows, goal)
                yield Row('mIoU without labels', what, 'bias', error.bias, error.windows)
                yield Row('mIoU without labels', what, 'r', error.correlation, error.windows)
    yield from _drop_rows(found)
    families = dict.fromkeys((e.group, e.family) for e in found if e.group != 'clear')
    for group, family in families:
        name = OURS if group == 'conditions' else OURS_WITHOUT
        error = summed(found, group, name, WINDOWS[-1], family)
        if not error.windows:
            continue
        yield Row('mIoU without labels, by family', f'{group}, {family}, {name}', 'MAE',
                  error.mae, error.windows)  # fmt: skip


def _drop_rows(found: Sequence[Estimate]) -> Iterator[Row]:
    """How well windows that lose so much are told from the others, all groups together."""
    for size in WINDOWS:
        own = [e for e in found if e.frames == size and math.isfinite(e.truth)]
        clear = [e.truth for e in own if e.group == 'clear']
        if not clear:
            continue
        usual = float(np.mean(clear))
        for name in dict.fromkeys(e.estimator for e in own):
            told = [e for e in own if e.estimator == name]
            values = np.array([e.value for e in told])
            lost = usual - np.array([e.truth for e in told])
            for drop in _DROPS:
                bad = lost > drop
                what = f'{name}, {size} frames'
                yield Row('drop of the mIoU, windows', what, f'AUROC, over {drop:g}',
                          auroc(-values[~bad], -values[bad]), int(bad.sum()))  # fmt: skip


def drive_rows(scores: FrameScores) -> Iterator[Row]:
    """How much unseen drives differ among themselves, with and without the model of the scene.

    Args:
        scores: Of frames.
    """
    explained = [own['novelty'] for own in scores.unseen]
    plain = [own['novelty'] + own['correction'] for own in scores.unseen]
    for what, values in {'novelty': explained, 'novelty, scene not explained': plain}.items():
        means = [float(own.mean()) for own in values]
        between = float(np.std(means, ddof=1)) if len(means) > 1 else math.nan
        within = float(np.sqrt(np.mean([own.var() for own in values])))
        count = len(values)
        yield Row('drives', what, 'sd between drives', between, count)
        yield Row('drives', what, 'sd within drives', within, count)
        yield Row('drives', what, 'largest mean of a drive', max(means), count)


def kind_rows(found: Sequence[Naming]) -> Iterator[Row]:
    """How often the kind is right at middle severity.

    Args:
        found: What was named.
    """
    for group in ('conditions', 'alarms', 'ladder'):
        own = [n for n in found if n.group == group]
        wrong = [n for n in own if n.truth != 'none']
        right = float(np.mean([n.said == n.truth for n in wrong])) if wrong else math.nan
        goal = '' if group == 'alarms' else '>= 0.9'
        yield Row('kind', group, 'right', right, len(wrong), goal)
        balanced = balanced_accuracy([n.truth for n in own], [n.said for n in own])
        yield Row('kind', group, 'balanced accuracy, with clear', balanced, len(own))
        for family in dict.fromkeys(n.family for n in own):
            mine = [n for n in own if n.family == family]
            share = float(np.mean([n.said == n.truth for n in mine]))
            yield Row('kind, by family', f'{group}, {family} ({mine[0].truth})', 'right', share,
                      len(mine))  # fmt: skip


def write_events(path: Path, events: Sequence[Event], outcomes: Sequence[Outcome]) -> None:
    """A line for every event: what it costs, and when each detector found it.

    Args:
        path: The CSV file.
        events: What happens.
        outcomes: Of the detectors.
    """
    with atomic_path(path) as partial, partial.open('w', newline='') as file:
        writer = csv.writer(file, lineterminator='\n')
        head = ['event', 'drive', 'condition', 'severity', 'ramp_s', 'drop', 'onset_s', 'kind']
        writer.writerow([*head, *(o.detector for o in outcomes)])
        for e in events:
            kind = outcomes[0].events[e.name].kind
            cells = [e.name, e.stop.drive.name, e.case.condition, figure(e.case.severity),
                     str(e.case.ramp_s), figure(e.drop), figure(e.onset), kind]  # fmt: skip
            for outcome in outcomes:
                verdict = outcome.events[e.name]
                cells.append('before' if verdict.before else figure(delay_of(e, verdict)))
            writer.writerow(cells)


def markdown(rows: Sequence[Row], title: str, facts: dict[str, str]) -> str:
    """The report for people.

    Args:
        rows: All figures.
        title: Of the report.
        facts: What was run on what.
    """
    lines = [f'# {title}\n', *(f'- {name}: {value}' for name, value in facts.items()), '']
    goals = [r for r in rows if r.goal]
    lines += ['## Goals\n', markdown_table(
        ('section', 'what', 'quantity', 'value', 'of', 'goal', ''),
        [(r.section, r.what, r.quantity, figure(r.value), str(r.count or ''), r.goal, r.met)
         for r in goals],
    )]  # fmt: skip
    for section in dict.fromkeys(r.section for r in rows):
        own = [r for r in rows if r.section == section]
        quantities = list(dict.fromkeys(r.quantity for r in own))
        table: dict[str, dict[str, Row]] = {}
        for row in own:
            table.setdefault(row.what, {})[row.quantity] = row
        lines += [f'## {section}\n', markdown_table(
            ('', 'n', *quantities),
            [
                (what, str(next(iter(found.values())).count or ''),
                 *(figure(found[q].value) if q in found else '' for q in quantities))
                for what, found in table.items()
            ],
        )]  # fmt: skip
    return '\n'.join(lines)
