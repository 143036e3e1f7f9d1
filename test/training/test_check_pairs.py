# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Damage of every kind is named in one line; samples are shown."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from clcp_ros.errors import ClcpError, PairSetError
from training.check_pairs import check_pairs
from training.pairs import Pair, PairSet, PairSetWriter

K = np.array([[60.0, 0, 31.5], [0, 60, 23.5], [0, 0, 1]])
T = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])


def make_set(folder: Path) -> Path:
    writer = PairSetWriter(folder)
    for sequence in ('a', 'b'):
        writer.write_sequence(sequence, [make_pair(sequence, i) for i in range(6)])
    report = {'pairs': 12, 'points': 12 * 50}
    writer.finish(['a', 'b'], report, 0.3)
    return folder


def make_pair(sequence: str, number: int) -> Pair:
    rng = np.random.default_rng(number)
    return Pair(
        f'{sequence}/{number:03d}', sequence, 'front', 'top', number * 10**8, number * 10**8,
        rng.integers(0, 255, (48, 64, 3)).astype(np.uint8),
        rng.uniform([3, -1, -1, 0], [30, 1, 1, 1], (50, 4)).astype(np.float32), K, T,
        tags={'light': 'day'},
    )  # fmt: skip


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return make_set(tmp_path / 'pairs')


def problems(folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines before the summary."""
    try:
        check_pairs(str(folder), show='none')
        code = 0
    except SystemExit as exit_:
        code = exit_.code
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) - 1 == (0 if code == 0 else len(lines) - 1)
    assert f'{len(lines) - 1 or "no"} problem' in lines[-1]
    return lines[:-1]


def test_a_whole_set_as_a_command(root, pairs, tmp_path):
    done = subprocess.run(
        [sys.executable, str(root / 'training' / 'check_pairs.py'), str(pairs)],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert '12 pairs, sequences: 2, 10 for training, 2 for validation; no problems' in done.stdout
    names = sorted(p.name for p in (tmp_path / 'samples').iterdir())
    assert names == ['a__000.png', 'b__000.png', 'b__005.png']
    (pairs / 'shards' / 'b-000000.tar').unlink()
    done = subprocess.run(
        [sys.executable, str(root / 'training' / 'check_pairs.py'), str(pairs)],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert 'shards/b-000000.tar: missing' in done.stdout
    assert 'Traceback' not in done.stderr


def test_samples_by_key_and_position(pairs, tmp_path, capsys):
    check_pairs(str(pairs), 'a/003,-2', tmp_path / 'shown', width=320, hashes=False)
    assert sorted(p.name for p in (tmp_path / 'shown').iterdir()) == ['a__003.png', 'b__004.png']
    picture = np.asarray(Image.open(tmp_path / 'shown' / 'a__003.png'))
    assert picture.shape == (240 + 22, 320, 3)
    assert (np.ptp(picture[:240].astype(int), axis=2) > 100).any()  # coloured points
    out = capsys.readouterr().out
    assert 'light day' in out
    assert '50 points' in out
    with pytest.raises(PairSetError, match=r"no pair 'a/9'; keys are like a/000"):
        check_pairs(str(pairs), 'a/9', tmp_path / 'shown', hashes=False)
    with pytest.raises(PairSetError, match='there are 12'):
        check_pairs(str(pairs), '12', tmp_path / 'shown', hashes=False)


def rewrite_index(folder: Path, change: Callable[[list[dict]], None]) -> None:
    table = pq.ParquetFile(folder / 'index.parquet').read()
    rows = table.to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), folder / 'index.parquet')
    report = json.loads((folder / 'report.json').read_text())
    del report['index_sha256']
    (folder / 'report.json').write_text(json.dumps(report))


@pytest.mark.parametrize(
    ('change', 'says'),
    [
        (lambda rows: rows.reverse(), 'not in the order of time'),
        (lambda rows: rows.append(rows[-1]), 'is there 2 times'),
        (lambda rows: rows.pop(), "splits {'train': 10, 'val': 2}, the index has"),
        (lambda rows: rows.pop(), 'b__005.json is not where the index has it'),
        (lambda rows: rows[0].update(split='val'), 'report.json: splits'),
        (lambda rows: rows[0].update(points=49), 'points 50, the index has 49'),
        (lambda rows: rows[0].update(camera='rear'), "camera 'front', the index has 'rear'"),
        (lambda rows: rows[2].update(lidar_stamp_ns=7), 'lidar_stamp_ns 200000000'),
        (lambda rows: rows[2].update(width=60), 'the image is 64 x 48'),
        (lambda rows: rows[1].update(sha256='0' * 64), 'differs from its hash'),
        (lambda rows: rows[1].update(tags='{}'), "tags {'light': 'day'}"),
        (lambda rows: rows[1].update(sequence='b'), 'is not of b'),
        (lambda rows: rows[1].update(points_offset=5), 'a__001.points.npy is not where'),
    ],
)
def test_an_index_that_tells_something_else(pairs, capsys, change, says):
    rewrite_index(pairs, change)
    found = problems(pairs, capsys)
    assert any(says in line for line in found), found


@pytest.mark.parametrize(
    ('values', 'says'),
    [
        ({'image_size': -3}, 'impossible values in the column image_size'),
        ({'points_offset': -3}, 'impossible values in the column points_offset'),
        ({'split': 'test'}, "'test' in the column split"),
        ({'shard': '../x.tar'}, 'not the name of a shard'),
        ({'key': None}, 'empty entries in the column key'),
    ],
)
def test_an_impossible_index_is_refused(pairs, values, says):
    rewrite_index(pairs, lambda rows: rows[3].update(values))
    with pytest.raises(PairSetError, match=says):
        PairSet(pairs)


def test_other_files(pairs, capsys):
    (pairs / 'shards' / 'x.tar').write_bytes(b'x')
    shard = pairs / 'shards' / 'a-000000.tar'
    shard.write_bytes(shard.read_bytes()[:-700])
    (pairs / 'report.json').write_text('{')
    found = problems(pairs, capsys)
    assert 'shards/x.tar: not in the index' in found
    assert any('a-000000.tar: no whole archive' in line for line in found)
    assert any('report.json is damaged' in line for line in found)


@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_any_damage_is_found(tmp_path_factory, damaged_base, data):
    """Truncated or with flipped bits, wherever: a problem is told, and no wrong pair is given."""
    folder, files, expected = damaged_base
    name = data.draw(st.sampled_from(sorted(files)))
    content = bytearray(files[name])
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        for _ in range(data.draw(st.integers(1, 3))):
            bit = data.draw(st.integers(0, 8 * len(content) - 1))
            content[bit // 8] ^= 1 << bit % 8
    if content == files[name]:
        return
    (folder / name).write_bytes(content)
    try:
        with pytest.raises((SystemExit, ClcpError)):
            check_pairs(str(folder), show='none')
        try:
            pairs = PairSet(folder)
            for position in range(len(pairs)):
                try:
                    pair = pairs[position]
                except ClcpError:
                    continue
                image, points = expected[pair.key]
                np.testing.assert_array_equal(pair.image, image)
                np.testing.assert_array_equal(pair.points, points)
        except ClcpError:
            pass
    finally:
        (folder / name).write_bytes(files[name])


@pytest.fixture(scope='module')
def damaged_base(tmp_path_factory):
    folder = make_set(tmp_path_factory.mktemp('damage') / 'pairs')
    names = ['index.parquet', 'shards/a-000000.tar', 'shards/b-000000.tar']
    files = {name: (folder / name).read_bytes() for name in names}
    expected = {p.key: (p.image, p.points) for p in PairSet(folder)}
    return folder, files, expected
