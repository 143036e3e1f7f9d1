# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The format, written and read back; damage, pickling and forking."""

from __future__ import annotations

import concurrent.futures
import io
import multiprocessing
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from clcp_ros import image_codec
from clcp_ros.errors import PairSetError
from training.pairs import Pair, PairSet, PairSetWriter
from training.pairs.preview import contact_sheet, depth_colors
from training.pairs.writer import INDEX_SCHEMA, safe_name, validation_count

K = np.array([[60.0, 0, 31.5], [0, 60, 23.5], [0, 0, 1]])
T = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])


def make_pair(sequence: str, number: int, **changes) -> Pair:
    rng = np.random.default_rng(number)
    fields = {
        'key': f'{sequence}/{number:06d}',
        'sequence': sequence,
        'camera': 'front',
        'lidar': 'top',
        'camera_stamp_ns': 1_700_000_000_000_000_001 + number * 100_000_000,
        'lidar_stamp_ns': 1_700_000_000_003_000_000 + number * 100_000_000,
        'image': rng.integers(0, 255, (48, 64, 3)).astype(np.uint8),
        'points': rng.uniform([3, -4, -2, 0, 0], [30, 4, 2, 1, 31], (400, 5)).astype(np.float32),
        'columns': ('x', 'y', 'z', 'intensity', 'ring'),
        'K': K,
        'T_camera_lidar': T,
        'tags': {'condition': 'fog'} if number % 2 else {},
        'source': {'reader': 'test'},
    }
    return Pair(**{**fields, **changes})


def write(folder: Path, sequences: dict[str, int], **options) -> PairSet:
    writer = PairSetWriter(folder, **options)
    for name, count in sequences.items():
        writer.write_sequence(name, (make_pair(name, i) for i in range(count)), {'pairs': count})
    writer.finish(sequences, {'made': 'by a test'}, 0.15)
    return PairSet(folder)


@pytest.fixture
def pairs(tmp_path: Path) -> PairSet:
    return write(tmp_path / 'pairs', {'b': 7, 'a': 20}, image_format='png')


def test_round_trip(pairs):
    assert len(pairs) == 27
    assert pairs.sequences == ['a', 'b']
    assert pairs.report['made'] == 'by a test'
    assert pairs.report['splits'] == {'train': 23, 'val': 4}
    assert pairs.verify() == []
    for position in (0, 3, 26, -1):
        row, pair = pairs.row(position), pairs[position]
        sequence, _, number = row['key'].partition('/')
        expected = make_pair(sequence, int(number))
        assert pair.key == expected.key
        assert pair.camera_stamp_ns == expected.camera_stamp_ns == row['camera_stamp_ns']
        assert pair.lidar_stamp_ns == expected.lidar_stamp_ns
        assert (pair.columns, pair.tags, pair.source) == (
            expected.columns, expected.tags, expected.source,
        )  # fmt: skip
        np.testing.assert_array_equal(pair.image, expected.image)
        np.testing.assert_array_equal(pair.points, expected.points)
        np.testing.assert_array_equal(pair.K, K)
        np.testing.assert_array_equal(pair.T_camera_lidar, T)
        assert row['tags'] == expected.tags
        assert pairs.points(position).dtype == np.float32
        assert pairs.meta(position)['width'] == row['width'] == 64


def test_index_follows_the_contract(pairs):
    table = pq.read_table(pairs.folder / 'index.parquet')
    assert table.schema.equals(INDEX_SCHEMA)
    keys = table.column('key').to_pylist()
    assert keys == sorted(keys)
    # The last 15 % of each sequence: 3 of 20 and 1 of 7.
    validation = [pairs.row(int(i))['key'] for i in pairs.rows('val')]
    assert validation == ['a/000017', 'a/000018', 'a/000019', 'b/000006']
    assert len(pairs.rows('train')) == 23
    assert pairs.rows('val', 'b').tolist() == [26]
    assert sorted(p.name for p in pairs.folder.iterdir()) == [
        'index.parquet', 'report.json', 'shards',
    ]  # fmt: skip


def test_shards_are_plain_tar_with_one_basename_per_sample(pairs):
    with tarfile.open(pairs.folder / 'shards' / 'a-000000.tar') as archive:
        names = archive.getnames()
        assert names[:3] == ['a__000000.png', 'a__000000.points.npy', 'a__000000.json']
        assert len(names) == 60
        row = pairs.row(1)
        member = archive.getmember('a__000001.points.npy')
        assert (member.offset_data, member.size) == (row['points_offset'], row['points_size'])
        data = archive.extractfile(member).read()
        points = np.load(io.BytesIO(data), allow_pickle=False)
        np.testing.assert_array_equal(points, make_pair('a', 1).points)


def test_many_shards(tmp_path):
    pairs = write(tmp_path / 'pairs', {'a': 9}, shard_bytes=40_000)
    assert len(set(pairs.column('shard').tolist())) > 2
    assert pairs.verify() == []
    assert [pairs[i].key for i in range(9)] == [f'a/{i:06d}' for i in range(9)]


def test_same_input_gives_same_bytes(tmp_path):
    one, two = (write(tmp_path / name, {'a': 5}) for name in ('one', 'two'))
    for path in sorted(p for p in one.folder.rglob('*') if p.is_file()):
        assert path.read_bytes() == (two.folder / path.relative_to(one.folder)).read_bytes()


def test_recorded_files_are_kept_byte_for_byte(tmp_path):
    jpeg = image_codec.encode_jpeg(make_pair('a', 0).image, 80)
    writer = PairSetWriter(tmp_path / 'pairs', 'jpg')
    writer.write_sequence('a', [make_pair('a', 0, image=None, encoded=jpeg)])
    writer.finish(['a'], {}, 0.15)
    pairs = PairSet(tmp_path / 'pairs')
    assert pairs.image_bytes(0) == jpeg
    assert pairs.row(0)['split'] == 'train'


@pytest.mark.parametrize(
    ('change', 'says'),
    [
        ({'points': np.full((3, 5), np.nan, np.float32)}, 'not finite'),
        ({'columns': ('x', 'y', 'z', 'ring', 'intensity')}, 'columns'),
        ({'columns': ('x', 'y', 'z', 'intensity')}, 'columns'),
        ({'key': 'other/000001'}, 'in shard a'),
    ],
)
def test_bad_pairs_leave_nothing(tmp_path, change, says):
    writer = PairSetWriter(tmp_path / 'pairs')
    with pytest.raises(PairSetError, match=says):
        writer.write_sequence('a', [make_pair('a', 0), make_pair('a', 1, **change)])
    assert list((tmp_path / 'pairs' / 'shards').iterdir()) == []
    assert writer.part('a') is None


def test_same_key_twice(tmp_path):
    writer = PairSetWriter(tmp_path / 'pairs')
    with pytest.raises(PairSetError, match='same key'):
        writer.write_sequence('a', [make_pair('a', 0), make_pair('a', 0)])
    assert list((tmp_path / 'pairs' / 'shards').iterdir()) == []


def test_damage_is_found(pairs):
    path = pairs.folder / 'shards' / 'b-000000.tar'
    data = bytearray(path.read_bytes())
    first = int(pairs.rows(sequence='b')[0])
    data[pairs.row(first)['points_offset'] + 200] ^= 1
    path.write_bytes(data)
    problems = pairs.verify()
    assert problems == [f'{path}, b/000000: differs from its hash']
    pairs.close()
    path.write_bytes(data[:5000])
    with pytest.raises(PairSetError, match='cut off'):
        pairs[len(pairs) - 1]
    pairs.close()
    path.unlink()
    with pytest.raises(PairSetError, match='cannot open'):
        pairs[len(pairs) - 1]
    assert len(pairs.verify()) == 7


def test_not_a_pair_set(tmp_path):
    with pytest.raises(PairSetError, match='not a pair set'):
        PairSet(tmp_path)
    (tmp_path / 'index.parquet').write_bytes(b'PAR1 no')
    with pytest.raises(PairSetError, match='damaged'):
        PairSet(tmp_path)


@pytest.mark.parametrize('method', ['fork', 'spawn'])
def test_processes(pairs, method):
    expected = pairs[2].points  # opens the shard in this process
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        np.testing.assert_array_equal(pool.submit(pairs.points, 2).result(60), expected)
    np.testing.assert_array_equal(pairs[2].points, expected)


def test_pickle_holds_no_files(pairs):
    pairs[0]
    again = pickle.loads(pickle.dumps(pairs))
    assert again._shards._files == {}
    assert again[0].key == pairs[0].key


def test_interrupted_sequence_is_written_anew(tmp_path):
    def breaks():
        yield make_pair('b', 0)
        raise KeyboardInterrupt

    folder = tmp_path / 'pairs'
    writer = PairSetWriter(folder)
    writer.write_sequence('a', [make_pair('a', 0)], {'n': 1})
    with pytest.raises(KeyboardInterrupt):
        writer.write_sequence('b', breaks())
    again = PairSetWriter(folder)
    assert again.part('a')['info'] == {'n': 1}
    assert again.part('b') is None
    again.write_sequence('b', [make_pair('b', i) for i in range(3)])
    again.finish(['a', 'b'], {}, 0.15)
    assert len(PairSet(folder)) == 4


@pytest.mark.parametrize(
    ('pairs', 'fraction', 'count'),
    [(10, 0.15, 1), (100, 0.15, 15), (3, 0.15, 1), (1, 0.5, 0), (9, 0, 0)],
)
def test_validation_count(pairs, fraction, count):
    assert validation_count(pairs, fraction) == count


def test_safe_names():
    assert safe_name('2011_09_26_drive_0001_sync') == '2011_09_26_drive_0001_sync'
    assert safe_name('my bag.v2__x') == 'my_bag_v2_x'
    long = [safe_name('x' * 90 + end) for end in 'ab']
    assert len(set(long)) == 2
    assert all(len(name) <= 60 for name in long)


def test_contact_sheet_shows_points_where_they_project(tmp_path):
    gray = np.full((48, 64, 3), 100, np.uint8)
    # One point, 10 m ahead, in the middle of the image.
    points = np.array([[10, 0, 0, 0.5]], np.float32)
    writer = PairSetWriter(tmp_path / 'pairs', 'png')
    writer.write_sequence(
        'a',
        [make_pair('a', 0, image=gray, points=points, columns=('x', 'y', 'z', 'intensity'))],
    )
    writer.finish(['a'], {}, 0.15)
    sheet = contact_sheet(PairSet(tmp_path / 'pairs'), width=640)
    drawing = sheet[:480].astype(int)
    colored = np.argwhere(np.ptp(drawing, axis=-1) > 40)
    assert 1 <= len(colored) <= 9
    np.testing.assert_allclose(colored.mean(axis=0), [239.5, 319.5], atol=1)
    assert np.ptp(sheet[480:]) > 100  # caption and scale


def test_near_is_red_and_far_is_blue():
    near, far = depth_colors(np.array([2.0, 60.0])).astype(int)
    assert near[0] > near[2] + 50
    assert far[2] > far[0] + 50
    np.testing.assert_array_equal(depth_colors(np.array([0.5]))[0], near)
