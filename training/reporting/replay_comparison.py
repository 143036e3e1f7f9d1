# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a report says of a replay against something: labels, another bundle, cameras, a lidar."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from clcp_ros.image_codec import encode_jpeg
from clcp_ros.overlay import overlay
from clcp_ros.replay import FrameRecord, ReplayFrame, ReplayResult, Versus, mean_iou
from clcp_ros.replay_scores import class_iou
from training.replaying.cameras import CameraPair
from training.replaying.lidar import LidarCheck, LidarSums
from training.reporting.page import Figure, Section, Table, figure_uri, jpeg_uri
from training.reporting.replay_sections import sum_confusion
from training.reporting.replay_shift import condition_runs

_WIDTH = 420
_WORST = 6
_APART_S = 1.0


class DisagreementSampler:
    """Keeps the frames on which two bundles agree least, not all of one moment.

    Args:
        palettes: (256, 3) uint8 RGB of the first and of the second bundle.
    """

    def __init__(self, palettes: tuple[np.ndarray, np.ndarray]) -> None:
        self._palettes = palettes
        self._numbers = itertools.count()
        self._worst: list[tuple[float, int, FrameRecord, bytes]] = []

    def add(self, frame: ReplayFrame) -> None:
        """Look at a frame."""
        record = frame.record
        if record.versus is None or frame.versus is None or math.isnan(record.versus.agreement):
            return
        badness = -record.versus.agreement
        near = [
            entry
            for entry in self._worst
            if entry[2].camera == record.camera and abs(entry[2].time_s - record.time_s) < _APART_S
        ]
        if near:
            if badness <= min(entry[0] for entry in near):
                return
            self._worst = [entry for entry in self._worst if entry not in near]
            heapq.heapify(self._worst)
        elif len(self._worst) == _WORST and badness <= self._worst[0][0]:
            return
        heapq.heappush(self._worst, (badness, next(self._numbers), record, self._picture(frame)))
        if len(self._worst) > _WORST:
            heapq.heappop(self._worst)

    def _picture(self, frame: ReplayFrame) -> bytes:
        assert frame.versus is not None
        small = frame.scaled_image(_WIDTH)
        masks = (frame.mask, frame.versus.mask)
        drawn = [overlay(small, m, p) for m, p in zip(masks, self._palettes, strict=True)]
        return encode_jpeg(np.hstack([small, *drawn]), 85)

    def figures(self) -> list[Figure]:
        """Image and both masks, the least agreement first."""
        found = sorted(self._worst, key=lambda entry: (-entry[0], entry[1]))
        return [
            Figure(jpeg_uri(jpeg), f'{_where(record)} · {-badness:.0%} of the pixels agree')
            for badness, _, record, jpeg in found
        ]


def _where(record: FrameRecord) -> str:
    parts = [record.camera, f'{record.time_s:.1f} s', record.condition]
    return ' · '.join(part for part in parts if part)


def labels_section(result: ReplayResult) -> Section | None:
    """IoU by class and condition; None where nothing was labelled."""
    if not result.confusion:
        return None
    conditions = list(dict.fromkeys(name for _, name in result.confusion))
    columns: dict[str, np.ndarray] = {}
    for name in conditions:
        counts = sum_confusion(result.confusion, condition=name)
        assert counts is not None
        columns[name or 'all'] = counts
    total = sum_confusion(result.confusion)
    assert total is not None
    if len(columns) > 1:
        columns['all'] = total
    iou = {name: class_iou(counts) for name, counts in columns.items()}
    rows = [
        [name, *(_percent(iou[column][number]) for column in columns)]
        for number, name in enumerate(result.bundle.classes.names)
        if total[number].any()
    ]
    rows.append(['mean', *(_percent(mean_iou(counts)) for counts in columns.values())])
    scored = sum(not math.isnan(record.miou) for record in result.records)
    text = [
        f'{scored} of {len(result.records)} frames have labels. IoU in percent, pixels of all '
        'frames counted together; the mean is over the classes that the labels contain.'
    ]
    if result.simulated:
        text.append('The labels are simulated: these figures are no evidence about real streets.')
    return Section('Against labels', text=text, tables=[Table(['class', *columns], rows)])


def versus_section(
    result: ReplayResult, sampler: DisagreementSampler, timing: bool = False
) -> Section | None:
    """Two bundles on the same frames; None where there is one.

    Args:
        result: The replay.
        sampler: Saw its frames.
        timing: Whether to tell latencies, which are never twice the same.
    """
    other = result.versus
    if other is None:
        return None
    first, second = result.bundle, other.bundle
    records = [r for r in result.records if r.versus is not None]
    agreements = np.array([r.versus.agreement for r in records if r.versus])
    facts = {
        'First': f'{first.name} ({first.id})',
        'Second': f'{second.name} ({second.id})',
        'Frames of both': str(len(records)),
        'Pixels that agree': _percent(_mean(agreements)) + ' %',
    }
    counts = (sum_confusion(result.confusion), sum_confusion(other.confusion))
    if counts[0] is not None and counts[1] is not None:
        means = [mean_iou(c) for c in counts if c is not None]
        facts['mIoU first'], facts['mIoU second'] = (_percent(m) + ' %' for m in means)
        facts['Difference'] = f'{(means[1] - means[0]) * 100:+.2f} points'
    tables = [_condition_versus(result, records), _share_table(result, other, records)]
    if timing:
        tables.append(_latency_table(records))
    figures = [
        Figure(
            figure_uri(_versus_figure(records)),
            'Above: novelty of both. Below: share of pixels of one class.',
        )
    ]
    return Section(
        'Against another bundle',
        text=[
            'Both bundles on the same frames. Agreement is the share of pixels to which both give '
            "the same class, by the classes' names; it says nothing about who is right.",
            'The pictures show the moments of least agreement: the image, the first bundle, the '
            'second.',
        ],
        facts=facts,
        figures=figures,
        tables=tables,
        gallery=sampler.figures(),
    )


def _condition_versus(result: ReplayResult, records: Sequence[FrameRecord]) -> Table:
    other = result.versus
    assert other is not None
    labelled = bool(result.confusion)
    rows = []
    names = list(dict.fromkeys(r.condition for r in records))
    for name in [*names, *([None] if len(names) > 1 else [])]:
        own = [r for r in records if name in (None, r.condition)]
        row = ['all' if name is None else name or 'all', str(len(own))]
        row.append(_percent(_mean([r.versus.agreement for r in own if r.versus])))
        for level_of in (lambda r: r.level, lambda r: r.versus.level):
            row.append(f'{np.mean([level_of(r).name in ("WARN", "ERROR") for r in own]):.0%}')
        if labelled:
            one = sum_confusion(result.confusion, condition=name)
            two = sum_confusion(other.confusion, condition=name)
            means = [math.nan if c is None else mean_iou(c) for c in (one, two)]
            row += [_percent(m) for m in means]
            row.append('-' if any(map(math.isnan, means)) else
                       f'{(means[1] - means[0]) * 100:+.2f}')  # fmt: skip
        rows.append(row)
    header = ['condition', 'frames', 'agreement %', 'warns, first', 'warns, second']
    header += ['mIoU first', 'mIoU second', 'difference'] if labelled else []
    return Table(header, rows, 'By condition.')


def _share_table(result: ReplayResult, other: Versus, records: Sequence[FrameRecord]) -> Table:
    shares = [
        np.mean([r.shares for r in records], axis=0),
        np.mean([r.versus.shares for r in records if r.versus], axis=0),
    ]
    names = [result.bundle.classes.names, other.bundle.classes.names]
    rows = []
    for name in dict.fromkeys((*names[0], *names[1])):
        found = [
            float(share[own.index(name)]) if name in own else math.nan
            for share, own in zip(shares, names, strict=True)
        ]
        if not any(value > 0 for value in found):
            continue
        change = found[1] - found[0]
        kept = ''
        if name in names[0]:
            kept = _kept(result, other, name)
        rows.append(
            [name, *map(_percent, found), '-' if math.isnan(change) else f'{change * 100:+.2f}',
             kept]
        )  # fmt: skip
    unlabelled = [float(share[-1]) for share in shares]
    if any(unlabelled):
        rows.append(['unlabelled', *map(_percent, unlabelled),
                     f'{(unlabelled[1] - unlabelled[0]) * 100:+.2f}', ''])  # fmt: skip
    return Table(
        ['class', 'first %', 'second %', 'difference', 'kept %'],
        rows,
        'Share of the pixels of each class. "Kept" is how many of the pixels to which the first '
        'bundle gives the class have it from the second, too.',
    )


def _kept(result: ReplayResult, other: Versus, name: str) -> str:
    row = other.crossed[result.bundle.classes.names.index(name)]
    if name not in other.bundle.classes.names or not row.sum():
        return '-'
    return _percent(row[other.bundle.classes.names.index(name)] / row.sum())


def _latency_table(records: Sequence[FrameRecord]) -> Table:
    rows = []
    stages = list(dict.fromkeys(s for r in records for s in r.seconds))
    for stage in stages:
        row = [stage]
        for pick in (lambda r: r.seconds, lambda r: r.versus.seconds):
            values = [pick(r)[stage] * 1e3 for r in records if stage in pick(r)]
            row += [f'{v:.1f}' for v in np.percentile(values, [50, 95])] if values else ['-', '-']
        rows.append(row)
    return Table(
        ['stage', 'first median ms', 'first 95 %', 'second median ms', 'second 95 %'],
        rows,
        'Measured during this replay on this machine, both bundles in turn on every frame.',
    )


def _versus_figure(records: Sequence[FrameRecord]) -> Any:
    from matplotlib.figure import Figure as MatplotlibFigure

    figure = MatplotlibFigure(figsize=(12, 4.6))
    top, bottom = figure.subplots(2, 1, sharex=True, gridspec_kw={'height_ratios': [1.4, 1]})
    cameras = list(dict.fromkeys(r.camera for r in records))
    for number, camera in enumerate(cameras):
        own = [r for r in records if r.camera == camera]
        times = [r.time_s for r in own]
        name = f'{camera}: ' if len(cameras) > 1 else ''
        colors = [f'C{(2 * number) % 10}', f'C{(2 * number + 1) % 10}']
        scored = [r for r in own if r.versus and not math.isnan(r.novelty_z)]
        for label, color, values in (
            ('first', colors[0], [r.novelty_z for r in scored]),
            ('second', colors[1], [r.versus.novelty_z for r in scored if r.versus]),
        ):
            top.plot([r.time_s for r in scored], values, color=color, label=f'{name}{label}')
        bottom.plot(
            times,
            [100 * r.versus.agreement for r in own if r.versus],
            color=colors[0],
            label=camera,
        )
        if not number:
            for condition, first, last in condition_runs(own):
                if condition:
                    middle = (times[first] + times[last - 1]) / 2
                    top.text(
                        middle, 1.02, condition, transform=top.get_xaxis_transform(),
                        ha='center', va='bottom', fontsize=9,
                    )  # fmt: skip
                if first:
                    for axis in (top, bottom):
                        axis.axvline(times[first], color='#333', lw=1, ls='--')
    top.set_ylabel('novelty (sd)')
    top.legend(fontsize=8, ncols=4)
    bottom.set_ylabel('agreement (%)')
    bottom.set_ylim(0, 101)
    bottom.set_xlabel('seconds')
    for axis in (top, bottom):
        axis.spines[['top', 'right']].set_visible(False)
    return figure


def cameras_section(
    pairs: Sequence[CameraPair], points: Mapping[tuple[str, str], np.ndarray]
) -> Section | None:
    """Cameras against each other; None where there is one.

    Args:
        pairs: Every pair of cameras.
        points: Lidar points that two cameras see, and how many they give the same class.
    """
    if not pairs:
        return None
    rows = []
    for pair in pairs:
        seen, same = points.get(
            (min(pair.first, pair.second), max(pair.first, pair.second)), np.zeros(2, np.int64)
        ).tolist()
        rows.append(
            [
                f'{pair.first} and {pair.second}',
                str(pair.moments),
                _percent(pair.same_level),
                '-' if math.isnan(pair.correlation) else f'{pair.correlation:+.2f}',
                _percent(pair.shares_distance),
                f'{_percent(same / seen)} of {seen}' if seen else '-',
            ]
        )
    header = ['cameras', 'moments', 'same level %', 'novelties correlate', 'shares differ by %',
              'same class of points %']  # fmt: skip
    return Section(
        'Cameras compared',
        text=[
            'Frames of two cameras of the same moment. What concerns the surroundings (night, '
            'fog) should move both scores together; what concerns one camera (dirt, a blinded '
            'lens) moves one. Cameras that look elsewhere have other shares of the classes, '
            'rightly. Where the bag holds a calibrated lidar, the last column is the share of '
            'points seen by both cameras that both give the same class.'
        ],
        tables=[Table(header, rows)],
    )


def lidar_section(check: LidarCheck | None) -> Section | None:
    """Masks against a lidar; None without one, or without a scan at the time of an image."""
    if check is None or not check.sums:
        return None
    rows = [
        _lidar_row(f'{camera} {condition}'.strip(), sums, check.versus.get((camera, condition)))
        for (camera, condition), sums in check.sums.items()
    ]
    if len(rows) > 1:
        others = _lidar_total(check.versus.values()) if check.versus else None
        rows.append(_lidar_row('all', _lidar_total(check.sums.values()), others))
    header = ['', 'frames', 'points in the image %', 'class changes at jumps %',
              'class changes on surfaces %', 'ratio']  # fmt: skip
    if check.versus:
        header.append('ratio, second bundle')
    return Section(
        'Against the lidar',
        text=[
            f'Points of {check.topic} that fall on the images. Neighbouring points whose depths '
            'differ by more than 20 % are at the border of a thing, those within 3 % on one '
            'surface. Borders of the mask that lie on borders of things make the ratio large; '
            'masks drawn at random have 1.',
            'This is weak evidence: kerbs and markings have no jump in depth, two cars one behind '
            'the other have one and are one class, the vehicle moves between image and scan, and '
            'the lidar sees past edges. Compare conditions or bundles, not the figure itself.',
        ],
        tables=[Table(header, rows)],
        warnings=check.notes,
    )


def _lidar_total(parts: Iterable[LidarSums]) -> LidarSums:
    total = LidarSums()
    for sums in parts:
        total.frames += sums.frames
        total.points += sums.points
        total.inside += sums.inside
        total.jumps = total.jumps + sums.jumps
        total.smooth = total.smooth + sums.smooth
    return total


def _lidar_row(name: str, sums: LidarSums, other: LidarSums | None) -> list[str]:
    jump, smooth = _changes(sums)
    row = [
        name or 'all',
        str(sums.frames),
        _percent(sums.inside / sums.points if sums.points else math.nan),
        _percent(jump),
        _percent(smooth),
        f'{jump / smooth:.1f}' if smooth > 0 else '-',
    ]
    if other is not None:
        jump, smooth = _changes(other)
        row.append(f'{jump / smooth:.1f}' if smooth > 0 else '-')
    return row


def _changes(sums: LidarSums) -> tuple[float, float]:
    """Share of neighbouring points that change class, at jumps and on surfaces."""
    jump, smooth = (float(c[1] / c[0]) if c[0] else math.nan for c in (sums.jumps, sums.smooth))
    return jump, smooth


def _mean(values: Sequence[float] | np.ndarray) -> float:
    known = np.asarray(values, np.float64)
    known = known[np.isfinite(known)]
    return float(known.mean()) if len(known) else math.nan


def _percent(value: float | np.floating[Any]) -> str:
    return f'{100 * float(value):.2f}' if math.isfinite(value) else '-'
