# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""`demo/report.html`, what every step of the demo made on one page, and `demo/report.jpg`."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure as MatplotlibFigure

from clcp_ros.image_codec import decode_bytes
from clcp_ros.monitor import Level
from training.cli import atomic_path
from training.loop import METRICS, read_metrics
from training.reporting.page import Figure, Section, Table, figure_uri, jpeg_uri, render_page
from training.reporting.replay_shift import LEVEL_COLORS
from training.reporting.stored import SECTIONS, load_sections

REPORT = 'report.html'


def write_report(out: Path, steps: dict[str, tuple[str, float]]) -> Path:
    """Gather the steps' results.

    Args:
        out: Folder of the demo.
        steps: Command and seconds of each step, by title, in order.

    Returns:
        The page.
    """
    commands = [command for command, _ in steps.values()]
    evaluation = json.loads((out / 'evaluation/evaluation.json').read_text())
    summary = json.loads((out / 'replay/summary.json').read_text())
    sections = [
        _overview(steps, evaluation, summary),
        _conditions(out / 'sim', commands[0]),
        _pairs(out / 'pairs', commands[1]),
        _losses(out / 'runs', commands[2:4]),
        _evaluation(out / 'evaluation', evaluation, commands[4]),
        *load_sections(out / 'replay' / SECTIONS),
    ]
    page = render_page(
        'clcp_ros: from recordings to masks on the robot',
        sections,
        'A simulated drive, the real tools. Every figure on this page is of simulated data.',
    )
    with atomic_path(out / REPORT) as path:
        path.write_text(page, encoding='utf-8')
    return out / REPORT


def _overview(
    steps: dict[str, tuple[str, float]], evaluation: dict[str, Any], summary: dict[str, Any]
) -> Section:
    source = evaluation['conditions'][evaluation['source']]
    live = summary['live'] or {}
    facts = {
        f'mIoU, {evaluation["source"]}': f'{source["miou"]:.1f} %',
        'mean rPD': f'{evaluation["mean_rpd"]:.2f}',
        'frames through the node': f'{live.get("received", 0)} of {live.get("published", 0)}',
        'latency, median': f'{(live.get("latency_ms") or {}).get("p50") or 0:.0f} ms',
        'all steps': f'{sum(s for _, s in steps.values()) / 60:.1f} min',
    }
    rows = [
        (f'{i}. {title}', f'{seconds:.0f} s', command)
        for i, (title, (command, seconds)) in enumerate(steps.items(), 1)
    ]
    text = (
        'Recordings without labels became pairs, pairs pretrained a camera encoder, labelled '
        'frames of clear weather made it segment, the bundle ran in the ROS 2 node on a drive '
        'through a town that it had not seen, and the monitor watched the camera.',
    )
    table = Table(('step', 'time', 'to run it alone'), rows, is_text=True)
    return Section('Overview', text=text, facts=facts, tables=(table,))


def _conditions(sim: Path, command: str) -> Section:
    towns = sorted((sim / 'cityscapes/leftImg8bit/val').iterdir())
    gallery = []
    for town in towns:
        files = sorted(town.glob('*.png'))
        image = decode_bytes(files[len(files) // 2].read_bytes())
        gallery.append(Figure(jpeg_uri(image), town.name))
    text = ('The same place in every condition: camera and lidar are ray-cast from one geometry.',)
    return Section('The simulated street', text=text, gallery=gallery, command=command)


def _pairs(pairs: Path, command: str) -> Section:
    report = json.loads((pairs / 'report.json').read_text())
    sheet = decode_bytes((pairs / 'preview.png').read_bytes())
    figure = Figure(jpeg_uri(sheet), 'Lidar points over their images, coloured by depth.')
    text = (f'{report["pairs"]} pairs; the points must lie on the objects.',)
    return Section('Lidar over the images', text=text, figures=(figure,), command=command)


def _losses(runs: Path, commands: Sequence[str]) -> Section:
    pretrain, finetune = (read_metrics(runs / n / METRICS) for n in ('pretrain', 'finetune'))
    figure = MatplotlibFigure(figsize=(12, 3.4), layout='constrained')
    left, middle, right = figure.subplots(1, 3)
    _curve(left, pretrain, 'loss', 'training batches')
    _curve(left, pretrain, 'val_loss', 'validation', marker='o')
    chance = [np.log(v) for _, n, v in pretrain if n == 'val_pairs']
    if chance:
        left.axhline(chance[-1], ls=':', color='grey', label='validation, by chance')
    left.set_title('contrastive pretraining: loss')
    for name, label in (('val_r1', 'partner first'), ('val_r5', 'partner among five')):
        _curve(middle, pretrain, name, label, marker='o')
    middle.set_title('finding the partner (validation)')
    middle.set_ylim(0, 1)
    _curve(right, finetune, 'train_loss', 'training batches')
    right.set_title('finetuning: cross-entropy')
    for axis in (left, middle, right):
        axis.set_xlabel('step')
        axis.legend(frameon=False)
        axis.grid(alpha=0.3)
    text = (
        'Pretraining sees no labels: each image shall find the lidar points of its own moment '
        'among those of the batch. Neighbouring frames of a drive look alike, so that the loss '
        'does not go to zero.',
    )
    return Section(
        'Learning', text=text, figures=(Figure(figure_uri(figure)),), command=' ; '.join(commands)
    )


def _curve(
    axis: Any, rows: list[tuple[int, str, float]], name: str, label: str, **style: Any
) -> None:
    points = [(step, value) for step, n, value in rows if n == name]
    if points:
        axis.plot(*zip(*points, strict=True), label=label, lw=1.2, **style)


def _evaluation(folder: Path, evaluation: dict[str, Any], command: str) -> Section:
    conditions: dict[str, dict[str, Any]] = evaluation['conditions']
    rows = [
        (
            name + (' (source)' if name == evaluation['source'] else ''),
            str(c['frames']),
            _number(c['miou']),
            '' if c['rpd'] is None else f'{c["rpd"]:.2f}',
            _number(c['pixel_accuracy']),
        )
        for name, c in conditions.items()
    ]
    overall = Table(
        ('condition', 'frames', 'mIoU %', 'rPD', 'pixel accuracy %'), rows,
        'rPD is the mIoU of a condition relative to that of the source.',
    )  # fmt: skip
    names = list(next(iter(conditions.values()))['iou'])
    classes = Table(
        ('IoU %', *conditions),
        [(n, *(_number(c['iou'][n]) for c in conditions.values())) for n in names],
        'Per class; empty where the class does not occur.',
    )
    gallery = [
        Figure(jpeg_uri(decode_bytes(file.read_bytes())), f'{file.stem}: image, label, mask')
        for file in sorted((folder / 'predictions').glob('*.png'))
    ]
    text = (
        'Trained on labelled frames of clear weather in four towns, tested in a fifth. One '
        'confusion matrix per condition over all of its frames. One run of one seed: no claim '
        'about pretraining follows from it.',
    )
    return Section(
        'How it holds when the weather turns', text=text, tables=(overall, classes),
        gallery=gallery, command=command,
    )  # fmt: skip


def _number(value: float | None) -> str:
    return '' if value is None else f'{value:.1f}'


def write_picture(out: Path) -> Path:
    """`demo/report.jpg`: each condition with its mask, and the shift score over time.

    Args:
        out: Folder of the demo.

    Returns:
        The picture.
    """
    conditions = list(json.loads((out / 'evaluation/evaluation.json').read_text())['conditions'])
    with (out / 'replay/scores.csv').open(newline='') as file:
        rows = list(csv.DictReader(file))
    figure = MatplotlibFigure(figsize=(15, 5.2), dpi=80, layout='constrained')
    grid = figure.add_gridspec(3, len(conditions), height_ratios=(1, 1, 1.6))
    for i, name in enumerate(conditions):
        drawing = decode_bytes((out / f'evaluation/predictions/{name}-2.png').read_bytes())
        # Image, label and mask stand side by side.
        for row, part in enumerate((drawing[:, :320], drawing[:, 640:])):
            axis = figure.add_subplot(grid[row, i])
            axis.imshow(part)
            axis.set_axis_off()
            if row == 0:
                axis.set_title(name)
    axis = figure.add_subplot(grid[2, :])
    time_s = [float(r['time_s']) for r in rows]
    scored = [(t, float(r['novelty_z'])) for t, r in zip(time_s, rows, strict=True)]
    axis.plot(*zip(*(p for p in scored if p[1] == p[1]), strict=True), color='#0b3d75')
    for level in (Level.WARN, Level.ERROR):
        axis.fill_between(
            time_s, 0, 1, where=[r['level'] == level.name for r in rows],
            transform=axis.get_xaxis_transform(), color=LEVEL_COLORS[level], alpha=0.25,
            step='post', lw=0, label=level.name,
        )  # fmt: skip
    starts = [
        i for i, r in enumerate(rows) if i == 0 or r['condition'] != rows[i - 1]['condition']
    ]
    for i in starts:
        axis.axvline(time_s[i], color='#333', lw=0.8, ls='--')
        axis.text(
            time_s[i] + 0.1, 0.97, rows[i]['condition'], transform=axis.get_xaxis_transform(),
            va='top', fontsize=9,
        )  # fmt: skip
    axis.set_xlim(time_s[0], time_s[-1])
    axis.set_xlabel('seconds of the simulated test drive, through the ROS 2 node')
    axis.set_ylabel('novelty (sd)')
    axis.legend(loc='center left', frameon=False)
    with atomic_path(out / 'report.jpg') as path:
        figure.savefig(path, format='jpg', pil_kwargs={'quality': 85})
    return out / 'report.jpg'
