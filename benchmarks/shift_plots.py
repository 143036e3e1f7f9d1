# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Stage 4: what the figures look like."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.shift_detectors import Outcome, Watched
from benchmarks.shift_events import HARMFUL, HARMLESS, MILD, Event
from benchmarks.shift_metrics import FalseAlarms, delays
from benchmarks.shift_plan import PLACE, Size
from benchmarks.shift_quality import OURS, OURS_WITHOUT, WINDOWS, Estimate
from benchmarks.shift_report import delay_of
from training.cli import atomic_path

_LEVELS = ('OK', 'WARN', 'ERROR', 'STALE')
_MARKERS = 'oosD^v<>PXsD^v<>'


def plot(
    path: Path,
    size: Size,
    events: Sequence[Event],
    outcomes: Sequence[Outcome],
    found: Sequence[Estimate],
    ramp: tuple[Event, Watched, int] | None,
) -> None:
    """Draw delays, detectors, estimates and a ramp.

    Args:
        path: The PNG file.
        size: The size.
        events: What happens.
        outcomes: Of the detectors, the monitor's first.
        found: Estimates of the mIoU.
        ramp: A ramp, what the monitor said of it, and how many frames precede it.
    """
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib.figure import Figure

    figure = Figure((12, 8.4), layout='constrained')
    axes = figure.subplots(2, 2)
    figure.suptitle(f'Shift monitor, all simulated, size {size.name}', fontsize=11)
    _delays(axes[0, 0], size, events, outcomes[0])
    _detectors(axes[0, 1], size, events, outcomes)
    _estimates(axes[1, 0], found)
    _ramp(axes[1, 1], ramp)
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=110, format='png')


def _delays(ax: Any, size: Size, events: Sequence[Event], outcome: Outcome) -> None:
    # What a false alarm was on before says nothing of a delay.
    switches = [e for e in events if not e.case.ramp_s and not outcome.events[e.name].before]
    missed = size.switch_s * 1.3
    for places, color, label in ((False, 'C0', 'condition'), (True, 'C1', 'another place')):
        own = [e for e in switches if (e.case.condition == PLACE) == places]
        late = [delay_of(e, outcome.events[e.name]) for e in own]
        y = [missed if math.isnan(d) else max(d, 0.5) for d in late]
        ax.scatter([e.drop for e in own], y, s=12, color=color, label=label, alpha=0.6)
    for drop in (HARMLESS, MILD, HARMFUL):
        ax.axvline(drop, color='0.8', lw=0.8, zorder=0)
    ax.axhline(missed, color='0.8', lw=0.8, ls=':', zorder=0)
    ax.text(ax.get_xlim()[0], missed, ' no alarm', va='bottom', fontsize=7)
    ax.set(yscale='log', ylim=(0.4, 2 * missed), xlabel='true drop of mIoU',
           ylabel='seconds to WARN or ERROR',
           title='Switches: how soon the monitor warns')  # fmt: skip
    _plain(ax)
    ax.legend(fontsize=7)


def _detectors(ax: Any, size: Size, events: Sequence[Event], outcomes: Sequence[Outcome]) -> None:
    harmful = [e for e in events if e.group == 'harmful' and not e.case.ramp_s]
    limit = size.switch_s * 1.3
    for number, outcome in enumerate(outcomes):
        alarms = sum(len(v.alarms) for v in outcome.nominal.values())
        rate = FalseAlarms(alarms, size.nominal_hours).per_8h
        free = [e for e in harmful if not outcome.events[e.name].before]
        median = delays([delay_of(e, outcome.events[e.name]) for e in free]).median
        own = outcome.detector.startswith('monitor')
        y = max(median, 0.5) if math.isfinite(median) else limit
        marker = _MARKERS[number % len(_MARKERS)]
        color = 'C3' if own else f'C{0 if outcome.detector.startswith("river") else 2}'
        ax.scatter(max(rate, 0.1), y, s=34, color=color, marker=marker, alpha=0.7,
                   label=outcome.detector)  # fmt: skip
    ax.axvline(1, color='0.8', lw=0.8, zorder=0)
    ax.axhline(limit, color='0.8', lw=0.8, ls=':', zorder=0)
    ax.set(xscale='log', yscale='log', xlim=(0.07, 2000), ylim=(0.4, 2 * limit),
           xlabel='false alarms in 8 h (0.1: none)', ylabel='median seconds (dotted: missed)',
           title='Drops of 0.10 or more: delay against false alarms')  # fmt: skip
    _plain(ax)
    ax.legend(fontsize=5.5, ncols=2)


def _plain(ax: Any) -> None:
    """Numbers instead of powers of ten."""
    from matplotlib.ticker import FormatStrFormatter, NullFormatter

    for axis in (ax.xaxis, ax.yaxis):
        if axis.get_scale() == 'log':
            axis.set_major_formatter(FormatStrFormatter('%g'))
            axis.set_minor_formatter(NullFormatter())


def _estimates(ax: Any, found: Sequence[Estimate]) -> None:
    shown = {e.frames for e in found if e.group != 'clear'}
    sizes = [s for s in WINDOWS if s in shown]
    if not sizes:
        ax.set_title('no estimate of the mIoU')
        return
    groups = (
        ('clear', OURS, 'clear drives'), ('conditions', OURS, 'conditions'),
        ('ladder', OURS_WITHOUT, 'ladder, family left out'),
    )  # fmt: skip
    top = 0.3
    for group, name, label in groups:
        own = [
            e for e in found if (e.group, e.estimator, e.frames) == (group, name, sizes[-1])
            and np.isfinite(e.truth)
        ]  # fmt: skip
        top = max([top, *(max(e.truth, e.value) + 0.05 for e in own)])
        ax.scatter([e.truth for e in own], [e.value for e in own], s=8, alpha=0.5, label=label)
    ax.plot([0, 1], [0, 1], color='0.7', lw=0.8, zorder=0)
    ax.set(xlim=(0, top), ylim=(0, top), xlabel='mIoU by labels', ylabel='mIoU expected',
           title=f'mIoU without labels, windows of {sizes[-1]} frames')  # fmt: skip
    ax.legend(fontsize=7)


def _ramp(ax: Any, ramp: tuple[Event, Watched, int] | None) -> None:
    if ramp is None:
        ax.set_title('no ramp')
        return
    event, watched, lead = ramp
    seconds = np.arange(len(watched.level)) - lead
    ax.plot(seconds, watched.drop, color='C0', label='expected drop')
    ax.plot(seconds[lead:], event.frames.severity, color='0.6', lw=1, label='severity')
    if math.isfinite(event.onset):
        ax.axvline(event.onset, color='C2', lw=1, label='true drop reaches 0.05')
    ax.axhline(event.drop, color='C2', lw=1, ls=':', label='true drop at the end')
    ax.set(xlabel='seconds', title=f'{event.case.condition} comes up')
    ax.legend(fontsize=7, loc='upper left')
    levels = ax.twinx()
    levels.step(seconds, watched.level, where='post', color='C3', lw=1)
    levels.set_yticks(range(len(_LEVELS)), _LEVELS, color='C3')
    levels.set_ylim(-0.2, 6)
