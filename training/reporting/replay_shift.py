# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the shift monitor said over time: novelty, evidence, harm, level and kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from clcp_ros.monitor import Level
from clcp_ros.replay import FrameRecord

LEVEL_COLORS = {Level.WARN: '#f2b100', Level.ERROR: '#d62f2f', Level.STALE: '#9aa4b0'}
KIND_COLORS = {
    'dark': '#22304f', 'haze': '#9db4c0', 'rain': '#2e7fb8', 'snow': '#7fd0e6', 'blur': '#8f6bb3',
    'noise': '#5f5f5f', 'lens dirt': '#8a5a2b', 'exposure': '#e8a33d', 'compression': '#3f8f5f',
    'other': '#c2476b',
}  # fmt: skip
_DARK, _LIGHT, _TRUE = '#0b3d75', '#7aa7d9', '#2a7f3f'


def condition_runs(records: Sequence[FrameRecord]) -> list[tuple[str, int, int]]:
    """Stretches of one condition: name, first and one past the last index."""
    return _runs([record.condition for record in records])


def _runs(values: Sequence[Any]) -> list[tuple[Any, int, int]]:
    runs: list[tuple[Any, int, int]] = []
    for i, value in enumerate(values):
        if runs and runs[-1][0] == value:
            runs[-1] = (value, runs[-1][1], i + 1)
        else:
            runs.append((value, i, i + 1))
    return runs


class _Timeline:
    """Records of one camera as arrays."""

    def __init__(self, records: Sequence[FrameRecord]) -> None:
        self.records = records
        self.times = np.array([r.time_s for r in records])
        step = np.median(np.diff(self.times)) if len(records) > 1 else 1.0
        self.ends = np.append(self.times[1:], self.times[-1] + step)
        self.conditions = condition_runs(records)

    def column(self, name: str) -> np.ndarray:
        return np.array([getattr(r, name) for r in self.records], np.float64)

    def known(self, *names: str) -> bool:
        return any(np.isfinite(self.column(name)).any() for name in names)


def shift_figure(records: Sequence[FrameRecord]) -> Any:
    """What the monitor said of one camera; rows of what is not known are left out.

    Returns:
        A matplotlib figure.
    """
    from matplotlib.figure import Figure

    line = _Timeline(records)
    rows: list[tuple[float, Callable[[Any, _Timeline], None]]] = [(2.0, _novelty)]
    if line.known('novelty_cusum'):
        rows.append((1.2, _evidence))
    if line.known('miou_est', 'miou'):
        rows.append((1.6, _harm))
    if any(r.kind not in ('', 'none') for r in records):
        rows.append((0.35, _kinds))
    heights = [height for height, _ in rows]
    figure = Figure(figsize=(12, 0.9 + 1.25 * sum(heights)), layout='constrained')
    axes = figure.subplots(
        len(rows), 1, sharex=True, squeeze=False, gridspec_kw={'height_ratios': heights}
    )[:, 0]
    for axis, (_, draw) in zip(axes, rows, strict=True):
        _background(axis, line)
        draw(axis, line)
        axis.spines[['top', 'right']].set_visible(False)
    for name, first, last in line.conditions:
        if name:
            axes[0].text(
                (line.times[first] + line.ends[last - 1]) / 2, 1.02, name, ha='center',
                va='bottom', fontsize=9, transform=axes[0].get_xaxis_transform(),
            )  # fmt: skip
    axes[-1].set_xlabel('seconds')
    axes[-1].set_xlim(line.times[0], line.ends[-1])
    return figure


def _background(axis: Any, line: _Timeline) -> None:
    for level, first, last in _runs([r.level for r in line.records]):
        if level in LEVEL_COLORS:
            axis.axvspan(
                line.times[first], line.ends[last - 1], color=LEVEL_COLORS[level], alpha=0.25, lw=0
            )
    for _, first, _ in line.conditions[1:]:
        axis.axvline(line.times[first], color='#333', lw=1, ls='--')


def _novelty(axis: Any, line: _Timeline) -> None:
    from matplotlib.patches import Patch

    novelty = line.column('novelty_z')
    scored = np.isfinite(novelty)
    axis.plot(line.times[scored], novelty[scored], color=_DARK, lw=1.3, label='novelty')
    aligned = line.column('alignment_z')
    if np.isfinite(aligned).any():
        axis.plot(line.times, aligned, color='#b5532a', lw=1.1, label='agreement with the lidar')
    handles, _ = axis.get_legend_handles_labels()
    present = {r.level for r in line.records}
    handles += [
        Patch(color=color, alpha=0.25, label=level.name)
        for level, color in LEVEL_COLORS.items()
        if level in present
    ]
    low, high = min(0.0, axis.get_ylim()[0]), axis.get_ylim()[1]
    axis.set_ylim(low, high + 0.2 * (high - low))  # room for the legend
    axis.legend(handles=handles, loc='upper left', fontsize=8, ncols=len(handles), framealpha=0.9)
    axis.set_ylabel('novelty (sd)')


def _evidence(axis: Any, line: _Timeline) -> None:
    axis.plot(line.times, line.column('novelty_cusum'), color=_DARK, lw=1.3, label='CUSUM')
    axis.plot(
        line.times, line.column('cusum_threshold'), color='#b07a00', lw=1, ls=':',
        label='an alarm from here',
    )  # fmt: skip
    axis.set_ylim(bottom=0)
    axis.set_ylabel('evidence (sd s)')
    axis.legend(loc='upper left', fontsize=8, ncols=2, framealpha=0.9)


def _harm(axis: Any, line: _Timeline) -> None:
    estimate, true = line.column('miou_est'), line.column('miou')
    if np.isfinite(estimate).any():
        axis.fill_between(
            line.times, line.column('miou_lo'), line.column('miou_hi'), color=_LIGHT, alpha=0.35,
            lw=0, label='interval',
        )  # fmt: skip
        axis.plot(line.times, estimate, color=_DARK, lw=1.3, label='expected mIoU')
    if np.isfinite(true).any():
        axis.plot(line.times, true, color=_TRUE, lw=1.1, label='mIoU by the labels')
    axis.set_ylim(0, 1)
    axis.set_ylabel('mIoU')
    axis.legend(loc='upper right', fontsize=8, ncols=3, framealpha=0.9)


def _kinds(axis: Any, line: _Timeline) -> None:
    for kind, first, last in _runs([r.kind for r in line.records]):
        if kind in ('', 'none'):
            continue
        start, end = line.times[first], line.ends[last - 1]
        axis.axvspan(start, end, color=KIND_COLORS.get(kind, '#777'), lw=0)
        if end - start > 0.04 * (line.ends[-1] - line.times[0]):
            axis.text(
                (start + end) / 2, 0.5, kind, ha='center', va='center', fontsize=8, color='white',
                transform=axis.get_xaxis_transform(),
            )  # fmt: skip
    axis.set_yticks([])
    axis.set_ylabel('kind', rotation=0, ha='right', va='center')


def settled(values: Sequence[float]) -> float:
    """Mean of what is known; NaN when nothing is."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan
