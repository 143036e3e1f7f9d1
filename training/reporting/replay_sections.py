# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a report says of a replay: the shift score over time, conditions compared, frames."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from clcp_ros.image_codec import encode_jpeg
from clcp_ros.monitor import Level
from clcp_ros.overlay import overlay
from clcp_ros.replay import FrameRecord, ReplayFrame, ReplayResult, mean_iou
from training.reporting.page import Figure, Section, Table, figure_uri, jpeg_uri
from training.reporting.replay_shift import condition_runs, settled, shift_figure

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


def replay_sections(
    result: ReplayResult,
    samples: Mapping[str, Sequence[Sample]],
    *,
    command: str = '',
) -> list[Section]:
    """The sections of a replay, for a page of its own or as part of another.

    Args:
        result: The replay.
        samples: Frames to show, by camera.
        command: What to type to get this alone.
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
            'Novelty of the camera over time, in standard deviations of new frames of the '
            'training domain, and the evidence that it sums up to; the mIoU that is to be '
            'expected of the last seconds, found without labels, with its interval. The '
            'background is the level the robot was told: novelty alone warns, harm makes it an '
            'error.'
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
                        figure_uri(shift_figure(records)),
                        'What the monitor said; dashed lines mark changes of the condition.'
                        if simulated
                        else 'What the monitor said.',
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
        novelty, expected = settled([r.novelty_z for r in own]), settled([r.miou_est for r in own])
        counts = confusion.get((own[0].camera, name))
        miou = math.nan if counts is None else mean_iou(counts)
        rows.append(
            [
                name or '(none)',
                str(len(own)),
                '-' if math.isnan(novelty) else f'{novelty:+.1f}',
                *(
                    f'{np.mean([r.level == level for r in own]):.0%}'
                    for level in (Level.OK, Level.WARN, Level.ERROR, Level.STALE)
                ),
                f'{warned} of {len(runs)}',
                _mean_seconds(alarm),
                _mean_seconds(relief),
                _kind(own),
                '-' if math.isnan(expected) else f'{expected:.3f}',
                '-' if math.isnan(miou) else f'{miou:.3f}',
            ]
        )
    header = ['condition', 'frames', 'novelty', 'OK', 'WARN', 'ERROR', 'STALE', 'warned at end',
              'warns after', 'OK after', 'kind', 'expected mIoU', 'mIoU']  # fmt: skip
    return Table(
        header,
        rows,
        'By condition. Novelty and expected mIoU are means; "warned at end" counts stretches of '
        'the condition at whose end the level was WARN or ERROR; the times are means over the '
        'stretches in which the level changed that way; the kind is the most frequent one of the '
        'alarms.',
    )


def _kind(records: Sequence[FrameRecord]) -> str:
    kinds = Counter(r.kind for r in records if _is_warning(r) and r.kind not in ('', 'none'))
    return kinds.most_common(1)[0][0] if kinds else '-'


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
