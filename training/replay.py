# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Run a bundle over a bag: masks, shift scores and a report.

By default the node's own code runs straight from the bag, as fast as the model and with the same
bytes every time. With --live the real node is started and the bag is played to it over DDS.
"""

from __future__ import annotations

if __package__ in (None, ''):
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import training  # noqa: F401  # first: it sets how torch's threads wait

import csv
import json
import math
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from clcp_ros.bundle import load_bundle
from clcp_ros.errors import ClcpError
from clcp_ros.image_codec import encode_png
from clcp_ros.monitor import Level
from clcp_ros.replay import (
    BagFrame,
    FrameRecord,
    ReplayFrame,
    ReplayResult,
    mean_iou,
    replay_direct,
)
from training.cli import atomic_path, next_step, run_command
from training.reporting import render_page
from training.reporting.replay_sections import FrameSampler, replay_sections, sum_confusion
from training.reporting.stored import SECTIONS, save_sections

COLUMNS = (
    'stamp_ns', 'time_s', 'level', 'novelty_z', 'novelty_smoothed', 'low_z', 'early_z', 'deep_z',
    'reason', 'condition', 'miou',
)  # fmt: skip


def main(
    bag: Path,
    bundle: Path = Path('bundle'),
    out: Path = Path('replay'),
    live: bool = False,
    rate: float = 1.0,
    image_topic: str | None = None,
    threads: int = 0,
) -> None:
    """Run a bundle over a bag.

    Args:
        bag: rosbag2 folder, MCAP or sqlite3 file, or ROS 1 bag.
        bundle: Folder of the bundle (written by training/export.py).
        out: Folder for masks/, scores.csv, summary.json and report.html; an older replay there is
            replaced.
        live: Start the real node and play the bag to it over DDS.
        rate: Speed of the playing relative to the recording (with --live).
        image_topic: Topic of the images; default: the only camera of the bag.
        threads: Threads inside a layer of the model; 0 leaves it to ONNX Runtime.
    """
    if out.exists() and not (out / 'scores.csv').is_file() and any(out.iterdir()):
        raise ClcpError(f'{out} exists and is not a replay; give another --out')
    result = replay_to_folder(bag, bundle, out, live, rate, image_topic, threads)
    levels = ', '.join(
        f'{sum(r.level == level for r in result.records)} {level.name}' for level in Level
    )
    print(f'{len(result.records)} frames in {result.seconds:.1f} s: {levels}')
    if result.live:
        print(f'{result.live.published} images sent, {result.live.dropped} without a mask')
    for note in result.notes:
        print(f'note: {note}')
    next_step(f'open {out / "report.html"}')


def replay_to_folder(
    bag: Path,
    bundle: Path,
    out: Path,
    live: bool = False,
    rate: float = 1.0,
    image_topic: str | None = None,
    threads: int = 0,
) -> ReplayResult:
    """Run a bundle over a bag and write everything; see `main`.

    Returns:
        The replay.

    Raises:
        ClcpError: The bag or the bundle cannot be used; nothing is written then.
    """
    sampler = FrameSampler(load_bundle(bundle).classes.palette)
    with atomic_path(out) as folder:
        (folder / 'masks').mkdir(parents=True)

        def on_frame(frame: ReplayFrame) -> None:
            name = f'{frame.record.stamp_ns}.png'
            (folder / 'masks' / name).write_bytes(encode_png(frame.mask))
            sampler.add(frame)

        options: dict[str, Any] = {
            'image_topic': image_topic, 'on_frame': on_frame, 'track': _progress,
            'threads': threads,
        }  # fmt: skip
        if live:
            from clcp_ros.replay_node import replay_live

            result = replay_live(bag, bundle, rate=rate, **options)
        else:
            result = replay_direct(bag, bundle, **options)
        write_scores(folder / 'scores.csv', result.records)
        summary = summarize(result)
        (folder / 'summary.json').write_text(json.dumps(summary, indent=2) + '\n')
        command = f'python training/replay.py {shlex.quote(str(bag))} --bundle {bundle}'
        sections = replay_sections(
            result, sampler.choose(), command=command + (' --live' if live else '')
        )
        save_sections(folder / SECTIONS, sections)
        page = render_page(
            f'Replay of {bag.name}',
            sections,
            f'{"Live, through the real node" if live else "Straight from the bag"}; '
            f'bundle {result.bundle.name}',
        )
        (folder / 'report.html').write_text(page, encoding='utf-8')
    return result


def _progress(frames: Iterator[BagFrame], total: int) -> Iterable[BagFrame]:
    return tqdm(frames, total=total, unit='frame', desc='replay')


def write_scores(path: Path, records: list[FrameRecord]) -> None:
    """Write one row per frame; figures have six decimals, so that equal scores are equal text."""
    with path.open('w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(COLUMNS)
        writer.writerows([_text(getattr(record, name)) for name in COLUMNS] for record in records)


def _text(value: Any) -> str:
    if isinstance(value, Level):
        return value.name
    return f'{value:.6f}' if isinstance(value, float) else str(value)


def summarize(result: ReplayResult) -> dict[str, Any]:
    """Figures of a replay as JSON; what is not known is null."""
    records = result.records
    conditions = {
        name: {
            'frames': len(own),
            'levels': _levels(own),
            'novelty_mean': _number(np.mean([r.novelty_z for r in own])),
            'miou': _number(mean_iou(result.confusion[name]))
            if name in result.confusion
            else None,
        }
        for name in dict.fromkeys(r.condition for r in records)
        for own in [[r for r in records if r.condition == name]]
    }
    summary: dict[str, Any] = {
        'bundle': {'name': result.bundle.name, 'id': result.bundle.id},
        'image_topic': result.image_topic,
        'frames': len(records),
        'bad_frames': [{'stamp_ns': stamp, 'reason': reason} for stamp, reason in result.bad],
        'levels': _levels(records),
        'miou': _number(mean_iou(sum_confusion(result))) if result.confusion else None,
        'conditions': conditions,
        'notes': result.notes,
        'seconds': round(result.seconds, 3),
        'live': None,
    }
    if result.live:
        live = result.live
        latency = live.latency_s or [math.nan]
        summary['live'] = {
            'published': live.published,
            'received': live.received,
            'dropped': live.dropped,
            'latency_ms': {
                f'p{q}': _number(np.percentile(latency, q) * 1e3) for q in (50, 95, 100)
            },
            'node': live.node_counts,
            'provider': live.provider,
            'exit_code': live.exit_code,
        }
    return summary


def _levels(records: list[FrameRecord]) -> dict[str, int]:
    return {level.name: sum(r.level == level for r in records) for level in Level}


def _number(value: float | np.floating[Any]) -> float | None:
    return round(float(value), 6) if math.isfinite(value) else None


if __name__ == '__main__':
    run_command(main)
