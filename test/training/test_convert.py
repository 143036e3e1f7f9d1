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
from clcp_ros.errors import PairSetError, RecordingError
from training.pairs import PairSet
from training.pairs.build import BuildOptions, Job, build, plan
from training.pairs.engine import Engine
from training.sources import open_source


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


@pytest.fixture(scope='module')
def long_drives(root, tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """Three drives in folder `in`, and the content of their set."""
    folder = tmp_path_factory.mktemp('long')
    for name in ('a', 'b', 'c'):
        drive(folder / 'in', name, count=40, width=1200)
    done = run(root, folder, 'in', '--out', 'whole', '--shard-mb', 1)
    assert done.returncode == 0, done.stderr
    return folder, content(folder / 'whole')


KILL_POINTS = {
    'before anything': lambda work: work.is_dir(),
    'in the first shard': lambda work: any(work.glob('shards/.a-000000.tar.partial')),
    'after a shard': lambda work: (work / 'shards' / 'a-000000.tar').is_file(),
    'after a recording': lambda work: (work / 'parts' / 'a.json').is_file(),
    'in the last recording': lambda work: any(work.glob('shards/.c-*.partial')),
    'while finishing': lambda work: (work / 'report.html').is_file(),
    'after the index': lambda work: (work / 'index.parquet').is_file(),
}


@pytest.mark.slow
@pytest.mark.parametrize('workers', [1, 2])
@pytest.mark.parametrize('point', list(KILL_POINTS))
def test_killed_and_started_again_gives_the_same_bytes(root, long_drives, point, workers):
    folder, whole = long_drives
    out = f'killed-{point.replace(" ", "-")}-{workers}'
    arguments = ('in', '--out', out, '--shard-mb', 1, '--workers', workers)
    process = subprocess.Popen(
        command(root, *arguments), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    work = folder / f'.{out}.partial'
    until = time.monotonic() + 60
    while not KILL_POINTS[point](work) and time.monotonic() < until and process.poll() is None:
        time.sleep(0.0005)
    process.kill()
    process.communicate(timeout=60)
    # Workers of the killed process must not be in the way of the next.
    resumed = run(root, folder, *arguments)
    assert resumed.returncode == 0, resumed.stderr
    assert content(folder / out) == whole
    assert not work.exists()
    assert not (folder / f'.{out}.lock').exists()


def test_going_on_behind_the_last_whole_recording(root, long_drives):
    folder, whole = long_drives
    process = subprocess.Popen(
        command(root, 'in', '--out', 'stopped', '--shard-mb', 1),
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    until = time.monotonic() + 60
    while not KILL_POINTS['after a recording'](folder / '.stopped.partial'):
        assert time.monotonic() < until
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert 'run the same command again' in errors
    assert not (folder / 'stopped').exists(), 'too fast to be stopped: make the drives longer'
    resumed = run(root, folder, 'in', '--out', 'stopped', '--shard-mb', 1)
    assert 'a: whole already, 40 pairs' in resumed.stderr + resumed.stdout
    assert content(folder / 'stopped') == whole


def test_any_number_of_workers_gives_the_same_bytes(root, long_drives):
    folder, whole = long_drives
    shards = [name for name in whole if name.startswith('shards/')]
    assert len(shards) > 6
    done = run(root, folder, 'in', '--out', 'side-by-side', '--shard-mb', 1, '--workers', 3)
    assert done.returncode == 0, done.stderr
    assert 'MB/s' in done.stderr
    assert '120/120' in done.stderr
    assert content(folder / 'side-by-side') == whole


@pytest.mark.slow
def test_ray_gives_the_same_bytes(long_drives, monkeypatch):
    ray = pytest.importorskip('ray')
    folder, whole = long_drives
    monkeypatch.setenv('RAY_USAGE_STATS_ENABLED', '0')
    monkeypatch.chdir(folder)
    root = Path(__file__).resolve().parents[2]
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False,
        runtime_env={'env_vars': {'PYTHONPATH': str(root)}},
    )  # fmt: skip
    try:
        source, recordings = open_source(Path('in'))
        jobs = plan([(source.name, 'in', recording) for recording in recordings])
        build(jobs, 'by-ray', BuildOptions(shard_mb=1), engine=Engine('ray'))
        with pytest.raises(RecordingError, match='no pairs'):
            build(_unreadable(folder), 'none', BuildOptions(), engine=Engine('ray'))
    finally:
        ray.shutdown()
    assert content(folder / 'by-ray') == whole


def _unreadable(folder: Path) -> list[Job]:
    broken = drive(folder / 'broken', 'x', count=2)
    for path in broken.rglob('*.bin'):
        path.write_bytes(b'123')
    source, recordings = open_source(folder / 'broken')
    return plan([(source.name, 'broken', recording) for recording in recordings])


def test_one_conversion_at_a_time(root, long_drives):
    folder, whole = long_drives
    first = subprocess.Popen(
        command(root, 'in', '--out', 'twice', '--shard-mb', 1),
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    until = time.monotonic() + 60
    while not (folder / '.twice.lock').exists() and time.monotonic() < until:
        time.sleep(0.001)
    first.send_signal(signal.SIGSTOP)
    second = run(root, folder, 'in', '--out', 'twice', '--shard-mb', 1)
    first.send_signal(signal.SIGCONT)
    _, errors = first.communicate(timeout=60)
    assert first.returncode == 0, errors
    assert second.returncode == 1
    assert 'another conversion is writing there' in second.stderr
    assert second.stderr.count('\n') == 1
    assert content(folder / 'twice') == whole


def test_object_stores(root, date, tmp_path):
    """Recordings fetched from one place, the set written to another, and read there."""
    local = run(root, tmp_path, '2011_09_26', '--out', 'local', '--no-preview')
    assert local.returncode == 0, local.stderr
    url = f'file://{tmp_path}/store/pairs'
    arguments = ('--out', url, '--no-preview', '--workers', 2)
    stored = run(root, tmp_path, '2011_09_26', *arguments)
    assert stored.returncode == 0, stored.stderr
    assert content(tmp_path / 'store' / 'pairs') == content(tmp_path / 'local')
    again = run(root, tmp_path, '2011_09_26', *arguments)
    assert 'nothing was written' in again.stdout
    other = run(root, tmp_path, '2011_09_26', '--max-gap', 0.01, *arguments)
    assert '--overwrite' in other.stderr
    assert other.stderr.count('\n') == 1

    fetched = run(root, tmp_path, f'file://{date}', '--out', 'fetched', '--no-preview')
    assert fetched.returncode == 0, fetched.stderr
    assert 'to fetch' in fetched.stdout
    pairs, expected = PairSet(tmp_path / 'fetched'), PairSet(tmp_path / 'local')
    assert [r['sha256'] for r in map(pairs.row, range(2))] != []
    np.testing.assert_array_equal(pairs[3].image, expected[3].image)
    assert pairs.sequences == ['2011_09_26-a_sync', '2011_09_26-b_sync']
    missing = run(root, tmp_path, f'file://{tmp_path}/nothing.bag')
    assert missing.returncode == 1
    assert 'does not exist' in missing.stderr
    unknown = run(root, tmp_path, 'nosuch://bucket/x.bag')
    assert unknown.returncode == 1
    assert unknown.stderr.count('\n') == 1


def test_memory_store(date):
    from training.convert import convert

    convert([str(date)], 'memory://pairs-test', preview=False, min_time=0.15)
    pairs = PairSet('memory://pairs-test')
    assert len(pairs) == 4
    assert pairs.verify() == []
    assert pairs[1].points.shape == (500, 4)
    with pytest.raises(PairSetError, match='one process only'):
        convert([str(date)], 'memory://other', preview=False, workers=2)


def poses(folder: Path, metres: list[float]) -> None:
    """Positions along the way, as oxts."""
    data = folder / 'oxts' / 'data'
    data.mkdir(parents=True)
    for i, x in enumerate(metres):
        longitude = 8.4 + x / (6378137 * np.cos(np.deg2rad(49.0))) * 180 / np.pi
        fields = [49.0, longitude, 112.0, 0, 0, 0, *[0.0] * 24]
        (data / f'{i:010d}.txt').write_text(' '.join(str(f) for f in fields))


def test_keyframes_by_time_and_distance(root, tmp_path):
    folder = drive(tmp_path / '2011_09_26', 'a_sync', count=8)
    poses(folder, [0, 0.1, 0.2, 3, 3.1, 7, 9, 9.5])
    arguments = ('2011_09_26', '--no-preview')
    assert run(root, tmp_path, *arguments, '--min-distance', 2, '--out', 'm').returncode == 0
    keys = PairSet(tmp_path / 'm').column('key').tolist()
    assert [int(k[-2:]) for k in keys] == [0, 3, 5, 6]
    report = json.loads((tmp_path / 'm' / 'report.json').read_text())
    assert report['dropped'] == {'nearer than --min-distance to the frame before': 4}
    done = run(root, tmp_path, *arguments, '--min-time', 0.3, '--out', 's')
    assert done.returncode == 0
    assert 'dropped 5: sooner than --min-time after the frame before' in done.stdout
    keys = PairSet(tmp_path / 's').column('key').tolist()
    assert [int(k[-2:]) for k in keys] == [0, 3, 6]
    both = run(root, tmp_path, *arguments, '--min-time', 0.3, '--min-distance', 5, '--out', 'b')
    assert both.returncode == 0
    assert len(PairSet(tmp_path / 'b')) == 2


def test_splits(root, date, tmp_path):
    named = run(root, tmp_path, date, '--no-preview', '--split', 'sequence:b_sync', '--out', 'n')
    assert named.returncode == 0, named.stderr
    assert '4 for training, 4 for validation' in named.stdout
    pairs = PairSet(tmp_path / 'n')
    assert set(pairs.column('sequence')[pairs.rows('val')].tolist()) == {'b_sync'}
    assert pairs.report['options']['split'] == 'sequence:b_sync'
    assert pairs.report['splits'] == {'train': 4, 'val': 4}
    part = run(root, tmp_path, date, '--no-preview', '--split', 'sequence:0.2', '--out', 'f')
    assert '4 for training, 4 for validation' in part.stdout
    unknown = run(root, tmp_path, date, '--no-preview', '--split', 'sequence:x', '--out', 'u')
    assert "no pairs of sequence 'x'; there are a_sync, b_sync" in unknown.stderr
    # What was read is kept: only the split is to be made anew.
    anew = run(root, tmp_path, date, '--no-preview', '--out', 'u')
    assert anew.returncode == 0
    assert 'whole already' in anew.stdout + anew.stderr


def test_hidden_points_are_removed(root, date, tmp_path):
    done = run(root, tmp_path, date, '--visible-only', '--no-preview')
    assert done.returncode == 0, done.stderr
    report = PairSet(tmp_path / 'pairs').report
    assert report['options']['visible_only'] is True
    hidden = report['dropped'].get('points: hidden from the camera', 0)
    assert report['points'] == 4000 - hidden


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
        (['2011_09_26', '--split', 'tag:weather'], 'is none of time, sequence:FRACTION'),
        (['2011_09_26', '--split', 'sequence:1.5'], 'between 0 and 1'),
        (['2011_09_26', '--min-distance', '-1'], 'must not be negative'),
        (['2011_09_26', '--workers', '-1'], 'must not be negative'),
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


@pytest.mark.parametrize('workers', [1, 2])
def test_disk_full_leaves_nothing(root, date, tmp_path, workers):
    done = subprocess.run(
        command(root, date, '--workers', workers),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    assert done.returncode == 1
    says = f'error: {tmp_path}/pairs cannot be written: File too large; make room'
    assert done.stderr.splitlines()[-1].startswith(says)
    assert [p.name for p in tmp_path.iterdir()] == ['2011_09_26']
