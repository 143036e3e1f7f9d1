# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from clcp_ros.errors import ModelError, PairSetError
from training.convert import convert
from training.methods.config import OptimizerConfig
from training.pairs.contrastive import ViewConfig
from training.pairs.pair import Pair
from training.pairs.pair_set import PairSet
from training.pairs.writer import PairSetWriter
from training.pretrain import pretrain
from training.retrieval.command import retrieval
from training.retrieval.embeddings import Embeddings
from training.retrieval.places import published_positions, read_poses, read_positions
from training.retrieval.protocols import lip_loc_recall

K = np.array([[60.0, 0, 47.5], [0, 60, 31.5], [0, 0, 1]])
T_CAMERA_LIDAR = np.array([[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])
COUNT = 40


def _pair(i: int, sequence: str = 'laps', posed: bool = True) -> Pair:
    """A place of a lap of 20, seen twice: a bright disc where the points are."""
    rng = np.random.default_rng(i % 20)
    centre = np.array([rng.uniform(4, 9), rng.uniform(-2, 2), rng.uniform(-1, 1)])
    points = np.concatenate([centre + rng.normal(0, 0.4, (150, 3)), rng.random((150, 1))], axis=1)
    image = np.full((64, 96, 3), 60, np.uint8)
    pixel = round(-60 * centre[1] / centre[0] + 47.5), round(-60 * centre[2] / centre[0] + 31.5)
    cv2.circle(image, pixel, round(60 / centre[0]), (250, 250, int(25 * centre[0])), -1)
    T_world_ego = np.eye(4)
    T_world_ego[:2, 3] = 50 * np.cos(i * np.pi / 10), 50 * np.sin(i * np.pi / 10)
    return Pair(
        f'{sequence}/{i:06d}', sequence, 'front', 'top', i * 10**9, i * 10**9, image,
        points.astype(np.float32), K, T_CAMERA_LIDAR, T_world_ego=T_world_ego if posed else None,
    )  # fmt: skip


def _write(folder: Path, posed: bool = True, sequences: tuple[str, ...] = ('laps',)) -> Path:
    writer = PairSetWriter(folder)
    for sequence in sequences:
        writer.write_sequence(sequence, (_pair(i, sequence, posed) for i in range(COUNT)))
    writer.finish(list(sequences), {}, 0.2)
    return folder


@pytest.fixture(scope='module')
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _write(tmp_path_factory.mktemp('retrieval') / 'pairs')


@pytest.fixture(scope='module')
def run(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp('run') / 'run'
    pretrain(
        pairs, out, max_steps=40, batch_size=16, batch_gap=0, validate_every=0,
        views=ViewConfig(image_size=48, voxel_size_m=0.4, min_points=5, crop_fraction=[1.0, 1.0]),
        optimizer=OptimizerConfig(lr=3e-3, warmup_steps=3),
    )  # fmt: skip
    return out


def test_a_trained_run_finds_places_again(run: Path, pairs: Path) -> None:
    result = retrieval(run, pairs)
    assert result['exclude_s'] == 10  # laps take 20 s
    for direction in ('image_to_lidar', 'lidar_to_image'):
        near = next(r for r in result[direction] if r['radius_m'] == 1.0)
        assert near['queries'] == COUNT
        assert near['recall']['5'] > 2 * near['chance']['5']
    assert json.loads((run / 'retrieval.json').read_text())['protocol'] == 'strict'
    table = (run / 'retrieval.md').read_text()
    assert 'lidar -> image' in table
    assert 'nan' not in table


def test_published_protocol_of_a_file_of_embeddings(pairs: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image, lidar = rng.normal(size=(2, COUNT, 6)).astype(np.float32)
    keys = np.array([f'laps/{i:06d}' for i in range(COUNT)])
    shuffled = rng.permutation(COUNT)  # the file's order is its own
    Embeddings(keys[shuffled], image[shuffled], lidar[shuffled]).save(tmp_path / 'e.npz')
    result = retrieval(
        pairs=pairs, protocol='lip-loc', embeddings=tmp_path / 'e.npz', radius_m=10.0
    )
    positions = np.array([_pair(i).T_world_ego[:3, 3] for i in range(COUNT)])  # type: ignore[index]
    assert result['recall_at_1'] == lip_loc_recall(image, lidar, positions, 10.0)
    assert 0 < result['recall_at_1'] < 1
    assert not (tmp_path / 'embeddings.npz').exists()


def test_what_cannot_be_measured_is_refused_before_the_work(run: Path, tmp_path: Path) -> None:
    with pytest.raises(PairSetError, match='40 pairs chosen, 0 of them with a pose'):
        retrieval(run, _write(tmp_path / 'unposed', posed=False))
    two = _write(tmp_path / 'two', sequences=('a', 'b'))
    with pytest.raises(PairSetError, match=r'single sequence.*--sequence \(a, b\)'):
        retrieval(run, two, protocol='lip-loc')
    assert retrieval(run, two, protocol='lip-loc', sequence='b')['count'] == COUNT
    with pytest.raises(PairSetError, match='0 pairs'):
        retrieval(run, two, sequence='c')
    with pytest.raises(ModelError, match='embedding'):
        retrieval(tmp_path / 'nothing', two)


def test_scans_without_a_point_are_no_places(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They neither find nor are found, from a run and from its file."""
    blind = {2, 9, 35}
    writer = PairSetWriter(tmp_path / 'pairs')
    writer.write_sequence(
        'laps',
        [
            dataclasses.replace(_pair(i), points=_pair(i).points * [-1, 1, 1, 1])
            if i in blind
            else _pair(i)
            for i in range(COUNT)
        ],
    )
    writer.finish(['laps'], {}, 0.2)
    result = retrieval(run, tmp_path / 'pairs', out=tmp_path / 'out')
    assert result['count'] == COUNT - 3
    assert '3 of 40 pairs have no point in sight' in capsys.readouterr().out
    near = next(r for r in result['image_to_lidar'] if r['radius_m'] == 1.0)
    assert near['queries'] == COUNT - 6  # the other passes of those places have no answer
    found = Embeddings.load(tmp_path / 'out' / 'embeddings.npz')
    assert np.flatnonzero(~found.known).tolist() == sorted(blind)
    again = retrieval(
        pairs=tmp_path / 'pairs', embeddings=tmp_path / 'out' / 'embeddings.npz',
        protocol='lip-loc',
    )  # fmt: skip
    assert again['count'] == COUNT - 3


def test_damaged_embeddings_are_refused(pairs: Path, tmp_path: Path) -> None:
    file = tmp_path / 'e.npz'
    file.write_bytes(b'no zip')
    with pytest.raises(ModelError, match='no embeddings'):
        retrieval(pairs=pairs, embeddings=file)
    np.savez(file, keys=np.array(['laps/000000']), image=np.zeros((1, 2)), lidar=np.zeros((1, 2)))
    with pytest.raises(ModelError, match='39 pairs have no embedding'):
        retrieval(pairs=pairs, embeddings=file)
    np.savez(file, keys=np.array(['laps/000000']), image=np.zeros(1), lidar=np.zeros(1))
    with pytest.raises(ModelError, match='the shape'):
        retrieval(pairs=pairs, embeddings=file)
    np.savez(file, keys=np.array([{}], object), image=np.zeros((1, 2)), lidar=np.zeros((1, 2)))
    with pytest.raises(ModelError, match='no embeddings'):
        retrieval(pairs=pairs, embeddings=file)


def test_kitti_positions_are_those_of_the_published_file(tmp_path: Path) -> None:
    sequence = tmp_path / 'dataset' / 'sequences' / '08'
    for name in ('image_2', 'velodyne'):
        (sequence / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    poses = []
    for i in range(5):
        cv2.imwrite(str(sequence / 'image_2' / f'{i:06d}.png'), rng.integers(0, 255, (64, 96, 3)))
        points = np.column_stack([rng.uniform(4, 9, 400), *rng.uniform(-1, 1, (2, 400))])
        scan = np.column_stack([points, rng.random(400)]).astype(np.float32)
        scan.tofile(sequence / 'velodyne' / f'{i:06d}.bin')
        rotation, _ = cv2.Rodrigues(np.array([0.01, 0.3 * i, 0.0]))
        poses.append(np.column_stack([rotation, [3.0 * i, -0.2 * i, 8.0 * i]]).ravel())
    np.savetxt(sequence / 'poses.txt', np.array(poses))
    camera = np.column_stack([K, K @ [0.06, 0, 0]])
    tr = np.column_stack([T_CAMERA_LIDAR[:3, :3], [0.0, -0.08, -0.27]])
    lines = [f'P{i}: ' + ' '.join(map(str, camera.ravel())) for i in range(4)]
    (sequence / 'calib.txt').write_text(
        '\n'.join([*lines, 'Tr: ' + ' '.join(map(str, tr.ravel()))]) + '\n'
    )
    (sequence / 'times.txt').write_text('\n'.join(f'{0.1 * i:e}' for i in range(5)) + '\n')
    convert([str(tmp_path / 'dataset')], tmp_path / 'pairs')
    pairs = PairSet(tmp_path / 'pairs')
    rows = pairs.rows()
    published = read_positions(sequence / 'poses.txt', pairs, rows)
    np.testing.assert_allclose(published, [np.reshape(p, (3, 4))[:, 3] for p in poses])
    # The colour camera sits 0.06 m beside the published one.
    np.testing.assert_allclose(
        published_positions(pairs, read_poses(pairs, rows)), published, atol=0.12
    )
    numbered = tmp_path / 'numbered.txt'
    np.savetxt(numbered, np.column_stack([np.arange(5), np.array(poses)])[::-1])
    np.testing.assert_allclose(read_positions(numbered, pairs, rows), published)
    np.savetxt(numbered, np.array(poses)[:3])
    with pytest.raises(PairSetError, match=r'no pose of .*000003'):
        read_positions(numbered, pairs, rows)
    numbered.write_text('1 2 three')
    with pytest.raises(PairSetError, match='no table of poses'):
        read_positions(numbered, pairs, rows)
