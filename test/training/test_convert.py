# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The command as users type it: output, errors, running it again, being killed."""

from __future__ import annotations

import hashlib
import json
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from clcp_ros import image_codec
from training.pairs import PairSet


def drive(date: Path, name: str, count: int = 4, width: int = 120) -> Path:
    """A drive in KITTI raw's layout."""
    folder = date / name
    for sensor in ('image_02', 'velodyne_points'):
        (folder / sensor / 'data').mkdir(parents=True)
    (date / 'calib_cam_to_cam.txt').write_text(
        'R_rect_00: 1 0 0 0 1 0 0 0 1\nP_rect_02: 70 0 60 0 0 70 18 0 0 0 1 0\n'
    )
    (date / 'calib_velo_to_cam.txt').write_text('R: 0 -1 0 0 0 -1 1 0 0\nT: 0 -0.08 -0.27\n')
    for i in range(count):
        rng = np.random.default_rng(i)
        image = rng.integers(0, 255, (36, width, 3)).astype(np.uint8)
        (folder / 'image_02' / 'data' / f'{i:010d}.png').write_bytes(image_codec.encode_png(image))
        scan = rng.uniform([2, -9, -2, 0], [30, 9, 2, 1], (500, 4)).astype(np.float32)
        scan.tofile(folder / 'velodyne_points' / 'data' / f'{i:010d}.bin')
    return folder


@pytest.fixture
def date(tmp_path: Path) -> Path:
    drive(tmp_path / '2011_09_26', 'a_sync')
    drive(tmp_path / '2011_09_26', 'b_sync')
    return tmp_path / '2011_09_26'


def command(root: Path, *arguments: object) -> list[str]:
    return [sys.executable, str(root / 'training' / 'convert.py'), *map(str, arguments)]


def run(root: Path, folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(root, *arguments), cwd=folder, capture_output=True, text=True, timeout=120
    )


def content(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


def test_convert_and_convert_again(root, date, tmp_path):
    first = run(root, tmp_path, '2011_09_26', '--max-gap', 0.02)
    assert first.returncode == 0, first.stderr
    assert '2011_09_26 looks like kitti_raw: 2 recordings' in first.stdout
    assert 'pairs: 8 pairs of 8 camera frames and 8 scans' in first.stdout
    assert 'note: 2 recordings: no timestamps.txt' in first.stdout
    assert 'next: python training/pretrain.py --pairs pairs' in first.stdout
    assert 'pair/s' in first.stderr
    pairs = PairSet(tmp_path / 'pairs')
    assert (len(pairs), pairs.verify()) == (8, [])
    assert sorted(p.name for p in tmp_path.iterdir()) == ['2011_09_26', 'pairs']
    before = content(tmp_path / 'pairs')
    assert {'index.parquet', 'report.json', 'preview.png', 'shards/a_sync-000000.tar'} <= set(
        before
    )
    report = json.loads((tmp_path / 'pairs' / 'report.json').read_text())
    assert (report['pairs'], report['points'], report['options']['max_gap']) == (8, 4000, 0.02)

    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / 'pairs').rglob('*')}
    again = run(root, tmp_path, '2011_09_26', '--max-gap', 0.02)
    assert again.returncode == 0
    assert 'nothing was written' in again.stdout
    assert stamps == {p: p.stat().st_mtime_ns for p in (tmp_path / 'pairs').rglob('*')}

    other = run(root, tmp_path, '2011_09_26', '--image-format', 'png', '--no-preview')
    assert other.returncode == 1
    assert other.stderr.count('\n') == 1
    assert '--overwrite' in other.stderr
    assert content(tmp_path / 'pairs') == before

    anew = run(
        root, tmp_path, '2011_09_26', '--image-format', 'png', '--no-preview', '--overwrite'
    )
    assert anew.returncode == 0, anew.stderr
    after = content(tmp_path / 'pairs')
    assert 'preview.png' not in after
    recorded = (date / 'a_sync' / 'image_02' / 'data' / '0000000002.png').read_bytes()
    assert PairSet(tmp_path / 'pairs').image_bytes(2) == recorded


def test_changed_input_is_noticed(root, date, tmp_path):
    assert run(root, tmp_path, date, '--out', 'x/pairs', '--no-preview').returncode == 0
    (date / 'b_sync' / 'velodyne_points' / 'data' / '0000000003.bin').write_bytes(bytes(1600))
    again = run(root, tmp_path, date, '--out', 'x/pairs', '--no-preview')
    assert again.returncode == 1
    assert 'other recordings or options' in again.stderr


def test_killed_and_started_again_gives_the_same_bytes(root, tmp_path):
    for name in ('a', 'b', 'c'):
        drive(tmp_path / 'in', name, count=40, width=1200)
    whole = run(root, tmp_path, 'in', '--out', 'whole')
    assert whole.returncode == 0
    process = subprocess.Popen(
        command(root, 'in', '--out', 'killed'),
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    work = tmp_path / '.killed.partial'
    until = time.monotonic() + 60
    while not (work / 'parts' / 'a.json').exists() and time.monotonic() < until:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert not (tmp_path / 'killed').exists(), 'too fast to be killed: make the drives longer'
    assert work.is_dir()
    resumed = run(root, tmp_path, 'in', '--out', 'killed')
    assert resumed.returncode == 0, resumed.stderr
    assert 'a: whole already, 40 pairs' in resumed.stderr + resumed.stdout
    assert content(tmp_path / 'killed') == content(tmp_path / 'whole')
    assert not work.exists()


def test_same_name_twice(root, tmp_path):
    drive(tmp_path / 'one', 'x_sync')
    drive(tmp_path / 'two', 'x_sync')
    assert run(root, tmp_path, 'one', 'two', '--no-preview').returncode == 0
    assert PairSet(tmp_path / 'pairs').sequences == ['x_sync', 'x_sync_2']


@pytest.mark.parametrize(
    ('arguments', 'says'),
    [
        (['nowhere'], 'nowhere does not exist'),
        (['.'], 'does not look like any recording'),
        (
            ['2011_09_26', '--reader', 'kitti'],
            "no reader 'kitti'; there are a2d2, ",
        ),
        (['2011_09_26', '--camera', 'image_09'], "camera 'image_09'; it has image_02"),
        (['2011_09_26', '--image-topic', '/x'], '--image_topic means nothing'),
        (['2011_09_26', '--max-gap', '-1'], 'must not be negative'),
        (['2011_09_26', '--val-fraction', '1.5'], 'not in [0, 1)'),
        (['2011_09_26', '--out', '2011_09_26', '--overwrite'], 'is not a pair set'),
    ],
)
def test_wrong_input(root, tmp_path, arguments, says):
    drive(tmp_path / '2011_09_26' / 'deep' if arguments == ['.'] else tmp_path / '2011_09_26', 'a')
    if arguments == ['.']:
        (tmp_path / 'empty').mkdir()
        arguments = ['empty']
    before = content(tmp_path)
    done = run(root, tmp_path, *arguments)
    assert done.returncode != 0
    assert done.stderr.startswith('error: ')
    assert done.stderr.count('\n') == 1
    assert says in done.stderr
    assert content(tmp_path) == before


def test_no_pairs_leaves_nothing(root, date, tmp_path):
    for path in date.rglob('*.png'):
        path.write_bytes(path.read_bytes()[:100])
    done = run(root, tmp_path, date)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        'error: no pairs: image: truncated PNG (8, first'
    )
    assert [p.name for p in tmp_path.iterdir()] == ['2011_09_26']


def test_disk_full_leaves_nothing(root, date, tmp_path):
    done = subprocess.run(
        command(root, date),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith('error: [Errno 27] File too large')
    assert [p.name for p in tmp_path.iterdir()] == ['2011_09_26']
