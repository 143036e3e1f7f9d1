# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Make a pair set of recordings: synchronized, calibrated camera frames and lidar scans.

Reads A2D2, KITTI raw, and ROS 1 and ROS 2 bags; what a path holds is guessed, and said. The same
command again reuses what is whole.
"""

from __future__ import annotations

if __package__ in (None, ''):
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import training  # noqa: F401  # first: it sets how torch's threads wait

import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from training.cli import next_step, run_command
from training.pairs.build import BuildOptions, Job, build, plan, plan_remote
from training.pairs.engine import Engine
from training.pairs.job import Update
from training.pairs.storage import is_remote
from training.sources import SourceOptions, open_source


def convert(
    paths: list[str],
    out: str | Path = 'pairs',
    max_gap: float = 0.05,
    min_time: float = 0.0,
    min_distance: float = 0.0,
    visible_only: bool = False,
    split: str = 'time',
    val_fraction: float = 0.15,
    image_format: Literal['jpg', 'png'] = 'jpg',
    shard_mb: int = 256,
    preview: bool = True,
    workers: int = 1,
    engine: Literal['local', 'ray'] = 'local',
    reader: str = 'auto',
    camera: str | None = None,
    image_topic: str | None = None,
    points_topic: str | None = None,
    camera_info_topic: str | None = None,
    calibration: Path | None = None,
    stamp: Literal['header', 'bag'] | None = None,
    camera_offset: float | None = None,
    lidar_offset: float | None = None,
    estimate_offset: bool = False,
    deskew: Literal['auto', 'none', 'poses', 'odom', 'tf', 'kiss-icp'] | None = None,
    overwrite: bool = False,
) -> None:
    """Make a pair set of recordings.

    Args:
        paths: One or several recordings: data set folders, bag files, bag folders; also URLs that
            fsspec knows (s3://..., with * for several), fetched one at a time.
        out: Folder or URL of the pair set.
        max_gap: Largest distance in time of a frame and its scan, seconds.
        min_time: Keep only frames at least this many seconds after the one before.
        min_distance: Keep only frames at least this many metres from the one before.
        visible_only: Remove points that something hides from the camera.
        split: What is for validation: time (the last part of each sequence), sequence:FRACTION,
            sequence:NAME,NAME or tag:NAME=VALUE, such as tag:condition=night.
        val_fraction: Last part of each sequence that is for validation, for --split time.
        image_format: How images are stored; recorded files of that format are kept as they are.
        shard_mb: A new shard is begun when one grows beyond this many megabytes.
        preview: Write preview.png, lidar points over images: look at it.
        workers: Processes that convert recordings side by side; 0 is one for each processor.
        engine: Where the work is done: on this machine, or as Ray Data tasks on a cluster.
        reader: Name of the reader instead of guessing.
        camera: Which camera of a data set that names them; several with commas, or all.
        image_topic: Topic of the images in a bag.
        points_topic: Topic of the scans in a bag.
        camera_info_topic: Topic of the calibration in a bag.
        calibration: YAML file with K, D, distortion_model, T_camera_lidar for a bag without.
        stamp: Which time of a bag's message counts: its header's (default) or that of recording.
        camera_offset: Seconds added to the stamps of the camera.
        lidar_offset: Seconds added to the stamps of the lidar.
        estimate_offset: Estimate the time between the clocks and say it; nothing is moved.
        deskew: Where the motion within a scan comes from; auto takes what there is.
        overwrite: Replace a pair set of other recordings or options.
    """
    options = BuildOptions(
        max_gap, val_fraction, image_format, split, min_time, min_distance, visible_only, shard_mb,
        estimate_offset,
    )  # fmt: skip
    hints = SourceOptions(
        camera, image_topic, points_topic, camera_info_topic, calibration, stamp, camera_offset,
        lidar_offset, deskew,
    )  # fmt: skip
    jobs = _plan(paths, reader, hints)
    with _Bar() as bar:
        report, reused = build(
            jobs, out, options, overwrite, preview, bar, bar.write, Engine(engine, workers)
        )
    _print_notes(report)
    if reused:
        print(f'{out} is whole already, from the same recordings and options; nothing was written')
    print(_summary(report, out))
    if preview:
        print(f'look at {out}/preview.png: the points must lie on the objects')
    print(f'more in {out}/report.html')
    next_step(f'python training/pretrain.py --pairs {out}')


def _plan(paths: list[str], reader: str, hints: SourceOptions) -> list[Job]:
    found: list[Any] = []
    urls = []
    for path in paths:
        if is_remote(path):
            urls.append(path)
            continue
        source, recordings = open_source(Path(path), reader, hints)
        guessed = 'looks like' if reader == 'auto' else 'is read as'
        print(f'{path} {guessed} {source.name}: {_count(len(recordings), "recording")}')
        found += [(source.name, path, recording) for recording in recordings]
    jobs = plan(found)
    for url in urls:
        fetched = plan_remote(url, reader, hints, jobs)
        print(f'{url}: {_count(len(fetched), "place")} to fetch')
        jobs += fetched
    return jobs


class _Bar:
    """A progress bar with rates and the reasons of drops."""

    def __init__(self) -> None:
        self.bar: tqdm[Any] | None = None
        self.dropped: Counter[str] = Counter()
        self.size = 0
        self.begun = time.monotonic()

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def start(self, total: int) -> None:
        self.begun = time.monotonic()
        self.bar = tqdm(total=total, unit='pair', smoothing=0.1)

    def advance(self, update: Update) -> None:
        assert self.bar is not None
        self.dropped.update(update.dropped)
        self.size += update.size
        rate = self.size / 1e6 / max(time.monotonic() - self.begun, 1e-3)
        text = f'{rate:.1f} MB/s'
        if self.dropped:
            reasons = self.dropped.most_common(2)
            text += ', dropped: ' + ', '.join(f'{count} {reason}' for reason, count in reasons)
        self.bar.set_postfix_str(text, refresh=False)
        if update.total:
            self.bar.total = (self.bar.total or 0) + update.total
        self.bar.update(update.pairs)

    def write(self, text: str) -> None:
        tqdm.write(text)


def _count(number: int, noun: str) -> str:
    return f'{number:,} {noun}{"" if number == 1 else "s"}'


def _print_notes(report: dict[str, Any]) -> None:
    notes: dict[str, list[str]] = {}
    for recording in report['recordings']:
        for note in recording['notes']:
            notes.setdefault(note, []).append(recording['sequence'])
    for note, sequences in notes.items():
        where = sequences[0] if len(sequences) == 1 else _count(len(sequences), 'recording')
        print(f'note: {where}: {note}')


def _summary(report: dict[str, Any], out: str | Path) -> str:
    pairs = report['pairs']
    text = (
        f'{out}: {_count(pairs, "pair")} of {_count(report["camera_frames"], "camera frame")} and '
        f'{_count(report["scans"], "scan")}, {report["points"] // pairs:,} points each on average'
    )
    gaps = [r['gaps']['max_ms'] for r in report['recordings'] if r['gaps']]
    if gaps:
        text += f', largest gap {max(gaps):.1f} ms'
    splits = report['splits']
    text += f'\n  {splits["train"]:,} for training, {splits["val"]:,} for validation'
    for reason, count in report['dropped'].items():
        text += f'\n  dropped {count:,}: {reason}'
    return text


if __name__ == '__main__':
    run_command(convert)
