# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""KITTI odometry and SemanticKITTI: projection and poses by hand, labels, and damaged files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clcp_ros import image_codec
from clcp_ros.errors import CalibrationError, ClcpError, RecordingError
from training.pairs import PairSet
from training.pairs.build import BuildOptions, build, plan
from training.pairs.geometry import project_points
from training.sources import SourceOptions, kitti_odometry, open_source

# Camera 2 is 0.06 m left of camera 0 (P[0, 3] = fx * 0.06), camera 3 0.48 m right of it.
CALIB = """P0: 700 0 60 0 0 700 18 0 0 0 1 0
P1: 700 0 60 -378 0 700 18 0 0 0 1 0
P2: 700 0 60 42 0 700 18 0 0 0 1 0
P3: 700 0 60 -336 0 700 18 0 0 0 1 0
Tr: 0 -1 0 0 0 0 -1 -0.08 1 0 0 -0.27
"""


def scan(number: int, count: int = 100) -> np.ndarray:
    rng = np.random.default_rng(number)
    return rng.uniform([3, -2, -1, 0], [40, 2, 1, 1], (count, 4)).astype(np.float32)


def sequence(root: Path, name: str = '00', count: int = 3, **cameras: int) -> Path:
    folder = root / 'sequences' / name
    for camera, value in (cameras or {'image_2': 100}).items():
        (folder / camera).mkdir(parents=True)
        for i in range(count):
            image = np.full((36, 120, 3), value + i, np.uint8)
            (folder / camera / f'{i:06d}.png').write_bytes(image_codec.encode_png(image))
    (folder / 'velodyne').mkdir()
    for i in range(count):
        scan(i).tofile(folder / 'velodyne' / f'{i:06d}.bin')
    (folder / 'calib.txt').write_text(CALIB)
    (folder / 'times.txt').write_text(''.join(f'{0.1037 * i:.6e}\n' for i in range(count)))
    return folder


def convert(path: Path, out: Path, **options: Any) -> PairSet:
    source, recordings = open_source(path, options=SourceOptions(**options))
    assert source.name == 'kitti_odometry'
    jobs = plan([(source.name, str(path), recording) for recording in recordings])
    build(jobs, out, BuildOptions(image_format='png'), preview=False)
    return PairSet(out)


def test_projection_by_hand(tmp_path):
    path = tmp_path / 'calib.txt'
    path.write_text(CALIB)
    K, T = kitti_odometry.read_calibration(path, 'image_2')
    # On the axis of camera 2: 0.06 m left and 0.08 m below the scanner, 10 m ahead of the camera.
    uv, depth = project_points(np.array([[10.27, 0.06, -0.08]]), K, T)
    np.testing.assert_allclose(uv, [[60, 18]], atol=1e-9)
    np.testing.assert_allclose(depth, 10)
    # P3 T X, written out: x = -1 - 0.48, y = -0.08, z = 9.73.
    K, T = kitti_odometry.read_calibration(path, 'image_3')
    uv, _ = project_points(np.array([[10.0, 1, 0]]), K, T)
    np.testing.assert_allclose(uv, [[60 - 700 * 1.48 / 9.73, 18 - 700 * 0.08 / 9.73]])


@pytest.mark.parametrize('inside', ['.', 'sequences', 'sequences/00'])
def test_sequence(tmp_path, inside):
    sequence(tmp_path / 'dataset')
    pairs = convert(tmp_path / 'dataset' / inside, tmp_path / 'pairs')
    assert [p.key for p in pairs] == [f'00/{i:06d}' for i in range(3)]
    assert [p.camera_stamp_ns for p in pairs] == [0, 103_700_000, 207_400_000]
    for i, pair in enumerate(pairs):
        np.testing.assert_array_equal(pair.points, scan(i))
        assert (pair.image == 100 + i).all()
        assert pair.T_world_ego is None
    assert pairs.report['recordings'][0]['notes'] == ['no poses: T_world_ego is null']


@pytest.mark.parametrize('place', ['poses/00.txt', 'sequences/00/poses.txt'])
def test_poses_are_of_the_scanner(tmp_path, place):
    root = tmp_path / 'dataset'
    sequence(root)
    path = root / place
    path.parent.mkdir(exist_ok=True)
    # Camera 0 moves 2 m along its z axis, then turns by 90 degrees to the right (about +y, down).
    path.write_text('1 0 0 0 0 1 0 0 0 0 1 0\n1 0 0 0 0 1 0 0 0 0 1 2\n0 0 1 0 0 1 0 0 -1 0 0 2\n')
    pairs = convert(root, tmp_path / 'pairs')
    np.testing.assert_allclose(pairs[0].T_world_ego, np.eye(4), atol=1e-9)
    # Forward is the scanner's x.
    np.testing.assert_allclose(pairs[1].T_world_ego[:3, 3], [2, 0, 0], atol=1e-9)
    np.testing.assert_allclose(pairs[1].T_world_ego[:3, :3], np.eye(3), atol=1e-9)
    # Turned to the right its x axis points along the old -y; the camera, 0.27 m ahead of it, stays
    # at x = 2 + 0.27: the scanner is then 0.27 m to the left of the camera's old line.
    np.testing.assert_allclose(pairs[2].T_world_ego[:3, 0], [0, -1, 0], atol=1e-9)
    np.testing.assert_allclose(pairs[2].T_world_ego[:3, 3], [2.27, 0.27, 0], atol=1e-9)
    whose = 'SemanticKITTI' if 'sequences' in place else 'KITTI'
    assert f'poses are those of {whose} ' in pairs.report['recordings'][0]['notes'][0]


def test_labels_stay_with_their_points(tmp_path):
    folder = sequence(tmp_path / 'dataset')
    (folder / 'labels').mkdir()
    raw = (np.arange(100) % 3 * 30 + 10).astype(np.uint32)  # 10 car, 40 road, 70 vegetation
    for i in range(2):
        (raw | 7 << 16).astype('<u4').tofile(folder / 'labels' / f'{i:06d}.label')
    points = scan(0)
    points[3, 1] = np.nan
    points.tofile(folder / 'velodyne' / '000000.bin')
    pairs = convert(folder, tmp_path / 'pairs')
    assert pairs[0].columns == ('x', 'y', 'z', 'intensity', 'label')
    np.testing.assert_array_equal(pairs[0].points[:, 4], np.delete(raw, 3))
    ids, unknown = kitti_odometry.learning_ids(pairs[1].points[:, 4])
    assert unknown == 0
    names = [kitti_odometry.SEMANTIC_CLASSES[i] for i in ids[:3]]
    assert names == ['car', 'road', 'vegetation']
    assert (pairs[2].points[:, 4] == 0).all()
    assert '1 scans have no labels' in pairs.report['recordings'][0]['notes'][-1]
    semantic, instance = kitti_odometry.read_labels(folder / 'labels' / '000000.label', 100)
    assert (instance == 7).all()
    np.testing.assert_array_equal(semantic, raw)


def test_learning_ids():
    moving = {252: 1, 253: 7, 254: 6, 255: 8, 256: 5, 257: 5, 258: 4, 259: 5}
    rest = {0: 0, 1: 0, 52: 0, 99: 0, 10: 1, 11: 2, 13: 5, 15: 3, 16: 5, 18: 4, 20: 5, 30: 6,
            31: 7, 32: 8, 40: 9, 44: 10, 48: 11, 49: 12, 50: 13, 51: 14, 60: 9, 70: 15, 71: 16,
            72: 17, 80: 18, 81: 19}  # fmt: skip
    table = {**rest, **moving}
    ids, unknown = kitti_odometry.learning_ids(np.array([*table, 7, 1000]))
    assert ids.tolist() == [*table.values(), 0, 0]
    assert unknown == 2


def test_beams_are_lifted():
    lifted = kitti_odometry.lift_beams(np.array([[10.0, 0, 0], [0, -20, -2], [0, 0, -1]]))
    angle = np.radians(0.205)
    np.testing.assert_allclose(lifted[0], [10 * np.cos(angle), 0, 10 * np.sin(angle)])
    np.testing.assert_allclose(np.linalg.norm(lifted[1]), np.hypot(20, 2))
    np.testing.assert_allclose(np.arctan2(lifted[1, 2], 20), np.arctan2(-2, 20) + angle, atol=1e-4)
    np.testing.assert_allclose(lifted[2], [0, 0, -1])


def test_several_cameras_and_tags(tmp_path):
    folder = sequence(tmp_path / 'dataset', image_2=10, image_3=20, image_0=30)
    (folder / 'tags.json').write_text(
        json.dumps({'condition': 'rain', '000001': {'condition': 'fog', 'severity': 0.5}})
    )
    pairs = convert(folder, tmp_path / 'pairs', camera='image_3,IMAGE_0')
    assert {p.sequence for p in pairs} == {'00_image_3', '00_image_0'}
    values = {p.key: int(p.image[0, 0, 0]) for p in pairs}
    assert values['00_image_0/000002'] == 32
    assert values['00_image_3/000000'] == 20
    tags = [p.tags for p in pairs if p.camera == 'image_3']
    fog = {'condition': 'fog', 'severity': '0.5'}
    assert tags == [{'condition': 'rain'}, fog, {'condition': 'rain'}]
    assert len(convert(folder, tmp_path / 'all', camera='all')) == 9


def test_intensities_of_other_scanners(tmp_path):
    folder = sequence(tmp_path / 'dataset')
    for i in range(3):
        points = scan(i)
        points[:, 3] *= 255
        points.tofile(folder / 'velodyne' / f'{i:06d}.bin')
    pairs = convert(folder, tmp_path / 'pairs')
    np.testing.assert_allclose(pairs[1].intensity, scan(1)[:, 3], rtol=1e-5)
    assert 'intensities reach 255' in pairs.report['recordings'][0]['notes'][0]


def test_damaged_frames_are_counted(tmp_path):
    folder = sequence(tmp_path / 'dataset', count=8)
    (folder / 'velodyne' / '000000.bin').write_bytes(scan(0).tobytes()[:-5])
    scan(1, 30).tofile(folder / 'velodyne' / '000001.bin')
    (folder / 'velodyne' / '000002.bin').unlink()
    image = folder / 'image_2' / '000003.png'
    image.write_bytes(image.read_bytes()[:-9])
    other = np.zeros((36, 121, 3), np.uint8)
    (folder / 'image_2' / '000004.png').write_bytes(image_codec.encode_png(other))
    points = scan(5)
    points[0, 0], points[1, 2], points[2, 3], points[3, :3] = 1e7, np.inf, -3, 0
    points.tofile(folder / 'velodyne' / '000005.bin')
    np.full((100, 4), 1e9, np.float32).tofile(folder / 'velodyne' / '000006.bin')
    pairs = convert(folder, tmp_path / 'pairs')
    assert [p.key[-1] for p in pairs] == ['1', '5', '7']
    assert len(pairs[1].points) == 96
    assert pairs.report['dropped'] == {
        'no scan of the same number': 1,
        'scan: truncated or empty .bin': 1,
        'image: truncated PNG': 1,
        'image: not of the size 120 x 36 of its camera': 1,
        'scan: most points are impossible': 1,
        'points: not finite': 1,
        'points: no echo (0, 0, 0)': 1,
        'points: beyond 1000 m': 1,
        'points: intensity not in 0 to 1': 1,
    }
    notes = pairs.report['recordings'][0]['notes']
    assert '1 of 7 scans hold less than half as many points as usual, first 000001.bin' in notes[1]


@pytest.mark.parametrize(
    ('old', 'new', 'says'),
    [
        ('Tr:', 'Xx:', "calib.txt lacks 'Tr'"),
        ('P2:', 'P9:', "calib.txt lacks 'P2'"),
        ('P2: 700', 'P2: nan', "'P2' holds what is no finite number"),
        ('P2: 700 0 60 42 0', 'P2: 700 0 60 42', "'P2' has 11 numbers, not 12"),
        ('Tr: 0 -1', 'Tr: 0 -3', 'not a rigid transform'),
        ('P2: 700 0 60', 'P2: 700 0 600', 'the calibration is that of other images'),
    ],
)
def test_bad_calibration(tmp_path, old, new, says):
    folder = sequence(tmp_path / 'dataset')
    (folder / 'calib.txt').write_text(CALIB.replace(old, new))
    with pytest.raises(CalibrationError, match=says):
        convert(folder, tmp_path / 'pairs')


def test_what_is_not_understood_is_refused(tmp_path):
    folder = sequence(tmp_path / 'dataset')
    with pytest.raises(RecordingError, match="no images of camera 'image_9'; it has image_2"):
        convert(folder, tmp_path / 'pairs', camera='image_9')
    with pytest.raises(RecordingError, match='--deskew poses is not for the kitti_odometry'):
        convert(folder, tmp_path / 'pairs', deskew='poses')
    with pytest.raises(RecordingError, match=r'camera.offset means nothing'):
        convert(folder, tmp_path / 'pairs', camera_offset=0.1)
    for path in (folder / 'velodyne').iterdir():
        rng = np.random.default_rng(0)
        path.write_bytes(rng.uniform(-1e6, 1e6, (400, 4)).astype(np.float32).tobytes())
    with pytest.raises(RecordingError, match='not rows of x, y, z, remission'):
        convert(folder, tmp_path / 'pairs')


def test_times_that_do_not_fit(tmp_path):
    folder = sequence(tmp_path / 'dataset')
    (folder / 'times.txt').write_text('0\nabc\n0.2\n')
    pairs = convert(folder, tmp_path / 'pairs')
    assert pairs[2].camera_stamp_ns == 200_000_000
    assert 'no times.txt that fits' in pairs.report['recordings'][0]['notes'][0]


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    name=st.sampled_from(['velodyne/000000.bin', 'image_2/000000.png', 'calib.txt', 'times.txt']),
    place=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
    cut=st.booleans(),
)
def test_damaged_files_give_one_line_or_drops(
    tmp_path_factory, read_all, damage, name, place, bit, cut
):
    root = tmp_path_factory.mktemp('odometry')
    path = sequence(root, count=2) / name
    damage(path, place, bit, cut)
    try:
        pairs = read_all(root)
    except ClcpError as error:
        lines, pairs = str(error).splitlines(), []
    else:
        lines = ['']
    assert len(lines) == 1
    for pair in pairs:
        assert np.isfinite(pair.points).all()
        assert (np.abs(pair.xyz) <= 1000).all()
        assert ((pair.intensity >= 0) & (pair.intensity <= 1)).all()
        number = int(pair.key[-6:])
        # A PNG has checksums: what is kept is what was written.
        assert (pair.image == 100 + number).all()
