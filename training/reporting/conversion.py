# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The report of a conversion as a page: what was kept, what was dropped, how it looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from training.reporting.page import Figure, Section, Table, figure_uri, jpeg_uri, render_page

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure as MatplotlibFigure

    from training.pairs.pair_set import PairSet

MOST_ROWS = 200
"""Recordings listed; a fleet has thousands, and report.json has them all."""

_BLUE = '#2b6cb0'


def report_page(
    report: Mapping[str, Any],
    index: pa.Table,
    pairs: PairSet,
    coverage: Sequence[Sequence[Sequence[int]]],
) -> str:
    """Put a conversion's report on a page.

    Args:
        report: Content of report.json.
        index: The set's index.
        pairs: The set, for pictures.
        coverage: Per recording, points per cell of the image (rows, columns).

    Returns:
        HTML that needs nothing else.
    """
    recordings = report['recordings']
    sections = [
        _summary(report, index),
        _times(index, recordings),
        _points(index, report, np.sum([np.asarray(c) for c in coverage], axis=0)),
        _pictures(pairs),
        _recordings(recordings),
    ]
    # The page must not depend on where the work folder was.
    return render_page('Pairs of camera frames and lidar scans', sections, _subtitle(report))


def _subtitle(report: Mapping[str, Any]) -> str:
    readers = sorted({r['reader'] for r in report['recordings']})
    count = len(report['recordings'])
    return (
        f'{count:,} recording{"" if count == 1 else "s"} read by {", ".join(readers)}; '
        f'clcp_ros {report["version"]}'
    )


def _summary(report: Mapping[str, Any], index: pa.Table) -> Section:
    splits = index.column('split').to_pylist()
    options = report['options']
    facts = {
        'pairs': f'{report["pairs"]:,}',
        'for training': f'{splits.count("train"):,}',
        'for validation': f'{splits.count("val"):,}',
        'camera frames': f'{report["camera_frames"]:,}',
        'scans': f'{report["scans"]:,}',
        'points per pair': f'{report["points"] / report["pairs"]:,.0f}',
        'of them on the image': f'{report["points_on_image"] / report["points"]:.0%}',
        'size': f'{_bytes(index) / 1e6:,.1f} MB',
    }
    dropped = [
        (reason, f'{count:,}', _example(report, reason))
        for reason, count in report['dropped'].items()
    ]
    tables = [
        Table(
            ('left out', 'how many', 'first'),
            dropped,
            'Reasons that begin with "points:" count points, the others camera frames.',
            is_text=True,
        )
    ]
    tables.append(
        Table(('option', 'value'), [(k, str(v)) for k, v in options.items()], 'Options used.')
    )
    return Section('Summary', facts=facts, tables=tables if dropped else tables[1:])


def _bytes(index: pa.Table) -> int:
    return sum(
        int(index.column(f'{k}_size').to_numpy().sum()) for k in ('image', 'points', 'json')
    )


def _example(report: Mapping[str, Any], reason: str) -> str:
    for recording in report['recordings']:
        if reason in recording['examples']:
            return recording['examples'][reason]
    return ''


def _times(index: pa.Table, recordings: Sequence[Mapping[str, Any]]) -> Section:
    by_name = {r['sequence'] for r in recordings if not r['gaps']}
    sequences = index.column('sequence').to_numpy(zero_copy_only=False)
    gaps = (
        index.column('lidar_stamp_ns').to_numpy() - index.column('camera_stamp_ns').to_numpy()
    ) / 1e6
    gaps = gaps[~np.isin(sequences, sorted(by_name))]
    text = []
    if by_name:
        text.append(
            f'{len(by_name)} of {len(recordings)} recordings are paired by name, as published: '
            'they have no gaps.'
        )
    offsets = _offsets(recordings)
    if not len(gaps):
        return Section('Time', text=text, figures=offsets)
    figure, axes = _figure(1)
    axes[0].hist(gaps, bins=60, color=_BLUE)
    axes[0].set_xlabel('scan minus frame [ms]')
    axes[0].set_ylabel('pairs')
    axes[0].axvline(float(np.median(gaps)), color='k', linewidth=1, linestyle='--')
    facts = {
        'median': f'{np.median(gaps):+.2f} ms',
        'median of the size': f'{np.median(np.abs(gaps)):.2f} ms',
        '95th percentile': f'{np.percentile(np.abs(gaps), 95):.2f} ms',
        'largest': f'{np.abs(gaps).max():.2f} ms',
    }
    return Section(
        'Time',
        text=[*text, 'A median (dashed) far from 0 hints at a clock offset between the sensors.'],
        facts=facts,
        figures=[Figure(figure_uri(figure), 'Gaps between frames and their scans'), *offsets],
    )


def _offsets(recordings: Sequence[Mapping[str, Any]], most: int = 8) -> list[Figure]:
    """How well the edges of image and scan agree over the offset, where it was estimated."""
    curves = [(r['sequence'], r['offset']) for r in recordings if r.get('offset')]
    curves = [(name, offset) for name, offset in curves if offset['curve']]
    if not curves:
        return []
    figure, (axis,) = _figure(1)
    for name, offset in curves[:most]:
        seconds, agreement = np.array(offset['curve'], np.float64).T
        axis.plot(seconds * 1e3, agreement / max(np.abs(agreement).max(), 1e-9), label=name)
    axis.set_xlabel('added to the stamps of the camera [ms]')
    axis.set_ylabel('agreement')
    axis.legend(fontsize='small')
    return [
        Figure(
            figure_uri(figure),
            'Agreement of the edges of images and scans, of one for the best: a suggestion for '
            '--camera-offset; nothing was moved',
        )
    ]


def _points(index: pa.Table, report: Mapping[str, Any], coverage: np.ndarray) -> Section:
    figure, axes = _figure(1)
    axes[0].hist(index.column('points').to_numpy(), bins=60, color=_BLUE)
    axes[0].set_xlabel('points of a scan')
    axes[0].set_ylabel('pairs')
    figures = [Figure(figure_uri(figure), 'Points per frame, on the image or not')]
    map_figure, (axis,) = _figure(1)
    per_pair = coverage / report['pairs']
    drawn = axis.imshow(
        per_pair, cmap='magma', aspect='auto', extent=(0, 1, 1, 0), interpolation='nearest'
    )
    axis.set_xlabel('across the image')
    axis.set_ylabel('down the image')
    map_figure.colorbar(drawn, ax=axis, label='points per cell and pair')
    rows, columns = coverage.shape
    figures.append(
        Figure(
            figure_uri(map_figure),
            f'Where points fall on the image, in {columns} x {rows} cells: what stays dark is '
            'never seen by the lidar',
        )
    )
    empty = float((coverage == 0).mean())
    return Section('Points', facts={'of the image without points': f'{empty:.0%}'},
                   figures=figures)  # fmt: skip


def _pictures(pairs: PairSet, count: int = 6, width: int = 560) -> Section:
    from training.pairs.preview import draw_points, spread

    gallery = []
    for position in spread(len(pairs), count):
        pair = pairs[position]
        drawing, seen = draw_points(pair, min(width, pair.pixels().shape[1]))
        drawing = cv2.resize(
            drawing, (width, round(drawing.shape[0] * width / drawing.shape[1])),
            interpolation=cv2.INTER_NEAREST,
        ) if drawing.shape[1] < width else drawing  # fmt: skip
        caption = ', '.join([pair.key, *pair.tags.values(), f'{seen:,} points on the image'])
        gallery.append(Figure(jpeg_uri(drawing), caption))
    return Section(
        'Pictures',
        text=[
            'Points must lie on the objects, and colours (red is 2 m, blue 60 m and more) must '
            'change where the objects end. Points that hang beside their objects mean a wrong '
            'calibration or a time offset.'
        ],
        gallery=gallery,
    )


def _recordings(recordings: Sequence[Mapping[str, Any]]) -> Section:
    rows = [
        (
            r['sequence'],
            r['camera'],
            f'{r["camera_frames"]:,}',
            f'{r["scans"]:,}',
            f'{r["pairs"]:,}',
            f'{r["gaps"]["signed_median_ms"]:+.1f}' if r['gaps'] else '',
            f'{r["points"] / r["pairs"]:,.0f}' if r['pairs'] else '',
        )
        for r in recordings[:MOST_ROWS]
    ]
    header = ('sequence', 'camera', 'frames', 'scans', 'pairs', 'median gap [ms]', 'points')
    text = []
    if len(recordings) > MOST_ROWS:
        text.append(f'The first {MOST_ROWS} of {len(recordings):,}; report.json has them all.')
    notes: dict[str, list[str]] = {}
    for recording in recordings:
        for note in recording['notes']:
            notes.setdefault(note, []).append(recording['sequence'])
    tables = [Table(header, rows)]
    if notes:
        lines = [
            (found[0] if len(found) == 1 else f'{len(found)} recordings', note)
            for note, found in notes.items()
        ]
        caption = 'What was missing, chosen or assumed.'
        tables.append(Table(('where', 'note'), lines[:MOST_ROWS], caption, is_text=True))
    empty = [r['sequence'] for r in recordings if not r['pairs']]
    warnings = [f'{Path(name).name}: no pairs' for name in empty[:20]]
    return Section('Recordings', text=text, tables=tables, warnings=warnings)


def _figure(columns: int) -> tuple[MatplotlibFigure, list[Any]]:
    from matplotlib.figure import Figure as MatplotlibFigure

    figure = MatplotlibFigure(figsize=(9, 2.8))
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])
