# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a report says of a replay: the shift score over time, conditions compared, frames."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from clcp_ros.image_codec import encode_jpeg
from clcp_ros.monitor import Level, MonitorConfig
from clcp_ros.overlay import overlay
from clcp_ros.replay import FrameRecord, ReplayFrame, ReplayResult, mean_iou
from training.reporting.page import Figure, Section, Table, figure_uri, jpeg_uri

LEVEL_COLORS = {Level.WARN: '#f2b100', Level.ERROR: '#d62f2f', Level.STALE: '#9aa4b0'}
_MANY = 64
_WIDTH = 640


@dataclass(frozen=True)
class Sample:
    """A frame kept for the report.

    Attributes:
        record: Its scores.
        jpeg: Image and overlay side by side, encoded.
    """

    record: FrameRecord
    jpeg: bytes


class FrameSampler:
    """Keeps evenly spread frames of a replay of unknown length; pass it frames in order.

    Args:
        palette: (256, 3) uint8 RGB.
    """

    def __init__(self, palette: np.ndarray) -> None:
        self._palette = palette
        self._every = 1
        self._count = 0
        self.samples: list[Sample] = []

    def add(self, frame: ReplayFrame) -> None:
        """Look at a frame."""
        keep = self._count % self._every == 0
        self._count += 1
        if not keep:
            return
        if len(self.samples) == _MANY:
            self.samples = self.samples[::2]
            self._every *= 2
            if (self._count - 1) % self._every:
                return
        self.samples.append(Sample(frame.record, self._picture(frame)))

    def _picture(self, frame: ReplayFrame) -> bytes:
        image = frame.scaled_image(_WIDTH)
        stack = np.vstack if image.shape[1] > 1.8 * image.shape[0] else np.hstack
        return encode_jpeg(stack([image, overlay(image, frame.mask, self._palette)]), 85)

    def choose(self, number: int = 12) -> list[Sample]:
        """Some of them, such that every condition is shown."""
        runs: dict[str, list[Sample]] = {}
        for sample in self.samples:
            runs.setdefault(sample.record.condition, []).append(sample)
        if not runs:
            return []
        share = max(1, number // len(runs))
        chosen = [sample for run in runs.values() for sample in _spread(run, share)]
        return sorted(chosen, key=lambda sample: sample.record.stamp_ns)


def _spread(run: Sequence[Sample], number: int) -> list[Sample]:
    """Middles of `number` equal parts."""
    number = min(number, len(run))
    return [run[(2 * i + 1) * len(run) // (2 * number)] for i in range(number)]


def condition_runs(records: Sequence[FrameRecord]) -> list[tuple[str, int, int]]:
    """Stretches of one condition: name, first and one past the last index."""
    runs: list[tuple[str, int, int]] = []
    for i, record in enumerate(records):
        if runs and runs[-1][0] == record.condition:
            runs[-1] = (record.condition, runs[-1][1], i + 1)
        else:
            runs.append((record.condition, i, i + 1))
    return runs


def replay_sections(
    result: ReplayResult,
    samples: Mapping[str, Sequence[Sample]],
    *,
    command: str = '',
    config: MonitorConfig | None = None,
) -> list[Section]:
    """The sections of a replay, for a page of its own or as part of another.

    Args:
        result: The replay.
        samples: Frames to show, by camera.
        command: What to type to get this alone.
        config: Thresholds the monitor ran with.
    """
    bundle = result.bundle
    several = len(result.cameras) > 1
    sections: list[Section] = []
    for camera in result.cameras:
        records = [r for r in result.records if r.camera == camera.name]
        if not records:
            continue
        first = not sections
        simulated = any(record.condition for record in records)
        facts = {
            'Bundle': f'{bundle.name} ({bundle.id})',
            'Images': camera.topic,
            'Frames': str(len(records)),
            'Duration': f'{records[-1].time_s - records[0].time_s:.1f} s',
        }
        own = sum_confusion(result.confusion, camera.name)
        if own is not None:
            facts['mIoU'] = f'{mean_iou(own):.3f}'
        text = [
            'Smoothed novelty of the camera over time, in standard deviations of new frames of '
            'the training domain. The background is the level the robot was told.'
        ]
        if result.simulated:
            text.append('Conditions and labels are simulated: so are all figures made of them.')
        sections.append(
            Section(
                f'Shift over time: {camera.name}' if several else 'Shift over time',
                text=text,
                facts=facts,
                figures=[
                    Figure(
                        figure_uri(shift_figure(records, config or MonitorConfig())),
                        'Shift score; dashed lines mark changes of the condition.'
                        if simulated
                        else 'Shift score.',
                    )
                ],
                tables=[
                    condition_table(records, result.confusion)
                    if simulated
                    else level_table(records)
                ],
                warnings=result.notes if first else (),
                command=command if first else '',
            )
        )
    if result.live:
        sections.append(_live_section(result))
    for name, shown in samples.items():
        if shown:
            sections.append(
                Section(
                    f'Frames: {name}' if several else 'Frames',
                    text=['Each image and the mask over it.'],
                    legend=list(zip(bundle.classes.names, bundle.classes.colors, strict=True)),
                    gallery=[
                        Figure(jpeg_uri(sample.jpeg), _caption(sample.record)) for sample in shown
                    ],
                )
            )
    return sections


def sum_confusion(
    confusion: Mapping[tuple[str, str], np.ndarray],
    camera: str | None = None,
    condition: str | None = None,
) -> np.ndarray | None:
    """Confusion over cameras and conditions.

    Args:
        confusion: (C, C + 1) by camera and condition.
        camera: Only this one.
        condition: Only this one.

    Returns:
        (C, C + 1), or None where nothing was labelled.
    """
    chosen = [
        counts
        for (own, name), counts in confusion.items()
        if camera in (None, own) and condition in (None, name)
    ]
    return np.sum(chosen, axis=0) if chosen else None


def _caption(record: FrameRecord) -> str:
    parts = [f'{record.time_s:.1f} s', record.condition, record.level.name, record.reason]
    if not math.isnan(record.miou):
        parts.append(f'mIoU {record.miou:.2f}')
    return ' · '.join(part for part in parts if part)


def shift_figure(records: Sequence[FrameRecord], config: MonitorConfig):  # type: ignore[no-untyped-def]
    """Score over time with levels and conditions, and mIoU below where it is known.

    Returns:
        A matplotlib figure.
    """
    from matplotlib.figure import Figure as MatplotlibFigure
    from matplotlib.patches import Patch

    times = np.array([r.time_s for r in records])
    ends = np.append(times[1:], times[-1] + (np.median(np.diff(times)) if len(times) > 1 else 1))
    miou = np.array([r.miou for r in records])
    rows = 2 if np.isfinite(miou).any() else 1
    figure = MatplotlibFigure(figsize=(12, 3.4 + 1.6 * (rows - 1)))
    axes = figure.subplots(
        rows, 1, sharex=True, squeeze=False, gridspec_kw={'height_ratios': [2.2, 1][:rows]}
    )[:, 0]
    top = axes[0]
    for axis in axes:
        _shade_levels(axis, records, times, ends)
        for _, first, _ in condition_runs(records)[1:]:
            axis.axvline(times[first], color='#333', lw=1, ls='--')
        axis.spines[['top', 'right']].set_visible(False)
    for name, first, last in condition_runs(records):
        if name:
            middle = (times[first] + ends[last - 1]) / 2
            top.text(
                middle, 1.02, name, transform=top.get_xaxis_transform(), ha='center', va='bottom',
                fontsize=9,
            )  # fmt: skip
    scored = np.array([not math.isnan(r.novelty_z) for r in records])
    top.plot(
        times[scored],
        [r.novelty_z for r in records if not math.isnan(r.novelty_z)],
        color='#7aa7d9', lw=0.8, label='each sample',
    )  # fmt: skip
    top.plot(
        times, [r.novelty_smoothed for r in records], color='#0b3d75', lw=1.8, label='smoothed'
    )
    top.axhline(config.warn_enter, color='#b07a00', lw=1, ls=':', label='warns from here')
    handles, _ = top.get_legend_handles_labels()
    present = {r.level for r in records}
    handles += [
        Patch(color=color, alpha=0.25, label=level.name)
        for level, color in LEVEL_COLORS.items()
        if level in present
    ]
    top.legend(handles=handles, loc='upper left', fontsize=8, ncols=len(handles), framealpha=0.9)
    low, high = min(0.0, top.get_ylim()[0]), top.get_ylim()[1]
    top.set_ylim(low, high + 0.18 * (high - low))  # room for the legend
    top.set_ylabel('novelty (sd)')
    if rows == 2:
        axes[1].plot(times, miou, color='#2a7f3f', lw=1.2)
        axes[1].set_ylabel('mIoU')
        axes[1].set_ylim(0, 1)
    axes[-1].set_xlabel('seconds')
    axes[-1].set_xlim(times[0], ends[-1])
    return figure


def _shade_levels(axis, records, times, ends) -> None:  # type: ignore[no-untyped-def]
    start = 0
    for i in range(1, len(records) + 1):
        if i == len(records) or records[i].level != records[start].level:
            color = LEVEL_COLORS.get(records[start].level)
            if color:
                axis.axvspan(times[start], ends[i - 1], color=color, alpha=0.25, lw=0)
            start = i


def condition_table(
    records: Sequence[FrameRecord], confusion: Mapping[tuple[str, str], np.ndarray]
) -> Table:
    """One row per condition: scores, levels, how fast the level follows, mIoU.

    Args:
        records: Of one camera.
        confusion: Of all cameras.
    """
    rows = []
    for name in dict.fromkeys(r.condition for r in records):
        own = [r for r in records if r.condition == name]
        runs = [(a, b) for n, a, b in condition_runs(records) if n == name]
        warned = sum(_is_warning(r) for a, b in runs for r in records[a:b][-1:])
        alarm = [_delay(records[a:b], True) for a, b in runs]
        relief = [_delay(records[a:b], False) for a, b in runs]
        novelty = np.array([r.novelty_smoothed for r in own])
        counts = confusion.get((own[0].camera, name))
        miou = math.nan if counts is None else mean_iou(counts)
        rows.append(
            [
                name or '(none)',
                str(len(own)),
                f'{np.nanmean(novelty):+.1f}' if np.isfinite(novelty).any() else '-',
                *(
                    f'{np.mean([r.level == level for r in own]):.0%}'
                    for level in (Level.OK, Level.WARN, Level.ERROR, Level.STALE)
                ),
                f'{warned} of {len(runs)}',
                _mean_seconds(alarm),
                _mean_seconds(relief),
                '-' if math.isnan(miou) else f'{miou:.3f}',
            ]
        )
    header = ['condition', 'frames', 'novelty', 'OK', 'WARN', 'ERROR', 'STALE', 'warned at end',
              'warns after', 'OK after', 'mIoU']  # fmt: skip
    return Table(
        header,
        rows,
        'By condition. Novelty is the mean of the smoothed score; "warned at end" '
        'counts stretches of the condition at whose end the level was WARN or ERROR; the times '
        'are means over the stretches in which the level changed that way.',
    )


def _is_warning(record: FrameRecord) -> bool:
    return record.level in (Level.WARN, Level.ERROR)


def _delay(run: Sequence[FrameRecord], warning: bool) -> float | None:
    """Seconds from a stretch's start to its first frame with (or without) a warning.

    None when it began like that already, or never came to be.
    """
    wanted = [_is_warning(r) if warning else r.level == Level.OK for r in run]
    if wanted[0] or not any(wanted):
        return None
    return run[wanted.index(True)].time_s - run[0].time_s


def _mean_seconds(delays: Sequence[float | None]) -> str:
    known = [delay for delay in delays if delay is not None]
    return f'{np.mean(known):.1f} s' if known else '-'


def level_table(records: Sequence[FrameRecord]) -> Table:
    """Share of the levels."""
    number = len(records)
    counts = {level: sum(r.level == level for r in records) for level in Level}
    rows = [[level.name, str(count), f'{count / number:.0%}'] for level, count in counts.items()]
    return Table(['level', 'frames', 'share'], rows)


def _live_section(result: ReplayResult) -> Section:
    live = result.live
    assert live is not None
    facts = {
        'Images sent': str(live.published),
        'Masks received': str(live.received),
        'Without a mask': str(live.dropped),
        'Execution provider': live.provider or '-',
        'Exit code after Ctrl-C': str(live.exit_code),
    }
    if live.latency_s:
        p50, p95 = np.percentile(live.latency_s, [50, 95]) * 1e3
        facts['Latency median'] = f'{p50:.0f} ms'
        facts['Latency 95 %'] = f'{p95:.0f} ms'
    facts |= {f'Node: {name}': str(count) for name, count in live.node_counts.items()}
    if len(live.by_camera) > 1:
        facts |= {
            f'{name}: masks of images': f'{received} of {sent}'
            for name, (sent, received) in live.by_camera.items()
        }
    return Section(
        'Through the real node',
        text=['The bag was played to the node over DDS; latency is from sending an image to '
              'receiving its mask.'],
        facts=facts,
    )  # fmt: skip
