# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""KITTI-360: the chain of calibrations by hand, poses that lack frames, and de-skewing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clcp_ros import image_codec
from clcp_ros.errors import CalibrationError, RecordingError
from training.pairs import PairSet
from training.pairs.build import BuildOptions, build, plan
from training.pairs.geometry import invert_transform, project_points
from training.sources import SourceOptions, kitti360, open_source

DRIVE = '2013_05_28_drive_0000_sync'
# Camera axes (right, down, forward) on a vehicle with x forward, y right, z down, as published.
CAMERA_AXES = '0 0 1 {x} 1 0 0 {y} 0 1 0 {z}'
# Camera 0 in the scanner's frame (x forward, y left, z up): 0.8 m ahead, 0.3 m below.
CAM_TO_VELO = '0 0 1 0.8 -1 0 0 0 0 -1 0 -0.3'
PERSPECTIVE = """calib_time: somewhen
S_rect_00: 120 36
R_rect_00: 1 0 0 0 1 0 0 0 1
P_rect_00: 550 0 60 0 0 550 18 0 0 0 1 0
S_rect_01: 120 36
R_rect_01: 1 0 0 0 1 0 0 0 1
P_rect_01: 550 0 60 -330 0 550 18 0 0 0 1 0
"""
SPEED = 10.0
PERIOD = 0.1


def scan(number: int) -> np.ndarray:
    rng = np.random.default_rng(number)
    return rng.uniform([3, -2, -1, 0], [40, 2, 1, 1], (100, 4)).astype(np.float32)


def calibration(root: Path) -> Path:
    folder = root / 'calibration'
    folder.mkdir(parents=True)
    mounts = (('image_00', 1.5, -0.3), ('image_01', 1.5, 0.3))
    (folder / 'calib_cam_to_pose.txt').write_text(
        ''.join(f'{n}: {CAMERA_AXES.format(x=x, y=y, z=-1.3)}\n' for n, x, y in mounts)
    )
    (folder / 'calib_cam_to_velo.txt').write_text(CAM_TO_VELO + '\n')
    (folder / 'perspective.txt').write_text(PERSPECTIVE)
    return folder


def data_set(root: Path, count: int = 5, posed: tuple[int, ...] | None = None) -> Path:
    """A vehicle that drives along the world's x axis at 10 m/s, frames at 10 Hz."""
    calibration(root)
    velodyne = root / 'data_3d_raw' / DRIVE / 'velodyne_points'
    (velodyne / 'data').mkdir(parents=True)
    lines = [f'2013-05-28 08:46:{2 + 0.1 * i:012.9f}' for i in range(count)]
    (velodyne / 'timestamps.txt').write_text('\n'.join(lines) + '\n')
    for camera in ('image_00', 'image_01'):
        folder = root / 'data_2d_raw' / DRIVE / camera
        (folder / 'data_rect').mkdir(parents=True)
        late = [f'2013-05-28 08:46:{2.004 + 0.1 * i:012.9f}' for i in range(count)]
        (folder / 'timestamps.txt').write_text('\n'.join(late) + '\n')
        for i in range(count):
            image = np.full((36, 120, 3), 10 * int(camera[-1]) + i, np.uint8)
            data = image_codec.encode_png(image)
            (folder / 'data_rect' / f'{i:010d}.png').write_bytes(data)
    for i in range(count):
        scan(i).tofile(velodyne / 'data' / f'{i:010d}.bin')
    poses = root / 'data_poses' / DRIVE / 'poses.txt'
    poses.parent.mkdir(parents=True)
    frames = range(count) if posed is None else posed
    poses.write_text(''.join(f'{i} 1 0 0 {SPEED * PERIOD * i} 0 1 0 0 0 0 1 0\n' for i in frames))
    return root


def convert(path: Path, out: Path, **options: Any) -> PairSet:
    source, recordings = open_source(path, options=SourceOptions(**options))
    assert source.name == 'kitti360'
    jobs = plan([(source.name, str(path), recording) for recording in recordings])
    build(jobs, out, BuildOptions(image_format='png'), preview=False)
    return PairSet(out)


def test_chain_by_hand(tmp_path):
    folder = calibration(tmp_path)
    K, T, T_ego_lidar, size = kitti360.read_calibration(folder, 'image_00')
    assert size == (120, 36)
    # For camera 0 it is the inverse of the published transform, whatever the vehicle.
    T_velo_cam0 = np.vstack([np.array(CAM_TO_VELO.split(), float).reshape(3, 4), [0, 0, 0, 1]])
    np.testing.assert_allclose(T, np.linalg.inv(T_velo_cam0), atol=1e-12)
    uv, depth = project_points(np.array([[10.8, 0, -0.3]]), K, T)
    np.testing.assert_allclose(uv, [[60, 18]], atol=1e-9)
    np.testing.assert_allclose(depth, 10)
    # The scanner on the vehicle: 0.8 m behind camera 0, and 0.3 m above it (z is down).
    np.testing.assert_allclose(T_ego_lidar[:3, 3], [1.5 - 0.8, -0.3, -1.3 - 0.3], atol=1e-12)
    # Its x is the vehicle's, its y to the left and z up.
    np.testing.assert_allclose(T_ego_lidar[:3, :3], np.diag([1, -1, -1]), atol=1e-12)


def test_second_camera_has_its_baseline_once(tmp_path):
    K, T, _, _ = kitti360.read_calibration(calibration(tmp_path), 'image_01')
    # 0.6 m to the right of camera 0: straight ahead of it is 0.6 m to the scanner's right.
    uv, depth = project_points(np.array([[10.8, -0.6, -0.3]]), K, T)
    np.testing.assert_allclose(uv, [[60, 18]], atol=1e-9)
    np.testing.assert_allclose(depth, 10)
    assert K[0, 2] == 60


def test_rectification_turns_the_points(tmp_path):
    folder = calibration(tmp_path)
    path = folder / 'perspective.txt'
    path.write_text(PERSPECTIVE.replace('R_rect_00: 1 0 0 0 1 0', 'R_rect_00: 0 -1 0 1 0 0'))
    K, T, _, _ = kitti360.read_calibration(folder, 'image_00')
    # 1 m to the right of the axis before, so 1 m below it in the rectified image.
    uv, _ = project_points(np.array([[10.8, -1, -0.3]]), K, T)
    np.testing.assert_allclose(uv, [[60, 18 + 55]], atol=1e-9)


def test_scans_are_de_skewed_by_the_poses(tmp_path):
    root = data_set(tmp_path / 'kitti360')
    points = np.array([
        [10, 0, 0, 0.1],     # ahead: measured at the frame's time
        [0, 10, 0, 0.2],     # left: a quarter of a turn, 25 ms, before
        [0, -10, 0, 0.3],    # right: 25 ms after
        [-10, 1e-6, 0, 0.4], # behind: 50 ms before
    ] * 2, np.float32)  # fmt: skip
    points.tofile(root / 'data_3d_raw' / DRIVE / 'velodyne_points' / 'data' / '0000000002.bin')
    pairs = convert(root, tmp_path / 'pairs')
    # What was measured before is nearer than it was then: the vehicle has moved on since.
    moved = points[:4, :3] + np.array([[0, 0, 0], [-0.25, 0, 0], [0.25, 0, 0], [-0.5, 0, 0]])
    np.testing.assert_allclose(pairs[2].xyz[:4], moved, atol=1e-3)
    np.testing.assert_array_equal(pairs[2].intensity, points[:, 3])
    np.testing.assert_allclose(pairs[2].T_world_ego[:3, 3], [2, 0, 0])
    assert pairs.report['recordings'][0]['gaps']['signed_median_ms'] == -4
    assert any('de-skewed' in n for n in pairs.report['recordings'][0]['notes'])
    raw = convert(root, tmp_path / 'raw', deskew='none')
    np.testing.assert_array_equal(raw[2].points, points)


def test_devkits_curl_is_the_same(tmp_path):
    """The devkit turns a point by its share of the pose from the frame before, seen from now."""
    root = data_set(tmp_path / 'kitti360', 3)
    yaw = 0.05
    text = ''
    for i in range(3):
        c, s = math.cos(yaw * i), math.sin(yaw * i)
        text += f'{i} {c} {-s} 0 {i} {s} {c} 0 0 0 0 1 0\n'
    (root / 'data_poses' / DRIVE / 'poses.txt').write_text(text)
    pair = convert(root, tmp_path / 'pairs')[1]
    _, _, T_ego_lidar, _ = kitti360.read_calibration(root / 'calibration', 'image_00')
    poses = kitti360._by_frame(np.array([line.split() for line in text.splitlines()], float))
    delta = invert_transform(poses[1] @ T_ego_lidar) @ poses[0] @ T_ego_lidar
    raw = scan(1)[:, :3].astype(float)
    left = raw[:, 1] > 0  # measured between the two
    share = np.arctan2(raw[:, 1], raw[:, 0]) / (2 * np.pi)
    angle = math.atan2(delta[1, 0], delta[0, 0])
    c, s = np.cos(share * angle), np.sin(share * angle)
    curled = (
        np.column_stack([c * raw[:, 0] - s * raw[:, 1], s * raw[:, 0] + c * raw[:, 1], raw[:, 2]])
        + share[:, None] * delta[:3, 3]
    )
    np.testing.assert_allclose(pair.xyz[left], curled[left], atol=2e-3)


def test_frames_without_pose(tmp_path):
    root = data_set(tmp_path / 'kitti360', 8, posed=(0, 1, 2, 7))
    pairs = convert(root, tmp_path / 'pairs')
    assert len(pairs) == 8
    assert [p.T_world_ego is None for p in pairs] == [False] * 3 + [True] * 4 + [False]
    np.testing.assert_array_equal(pairs[5].points, scan(5))
    assert not np.array_equal(pairs[1].points, scan(1))
    notes = '; '.join(pairs.report['recordings'][0]['notes'])
    assert '4 of 8 frames have no pose' in notes
    assert '4 scans without poses are kept as measured' in notes
    asked = convert(root, tmp_path / 'asked', deskew='poses')
    assert len(asked) == 4
    assert asked.report['dropped'] == {'scan: no poses to de-skew it': 4}


def test_damaged_poses(tmp_path):
    root = data_set(tmp_path / 'kitti360')
    path = root / 'data_poses' / DRIVE / 'poses.txt'
    lines = path.read_text().splitlines()
    lines[1], lines[3] = '1 nan 0', lines[3].replace('3 1 0 0', '3 9 0 0')
    path.write_text('\n'.join(lines))
    pairs = convert(root, tmp_path / 'pairs')
    assert [p.T_world_ego is None for p in pairs] == [False, True, False, True, False]
    assert any('2 lines of poses.txt are no poses' in n
               for n in pairs.report['recordings'][0]['notes'])  # fmt: skip
    path.unlink()
    pairs = convert(root, tmp_path / 'without')
    np.testing.assert_array_equal(pairs[1].points, scan(1))
    assert any('no poses.txt' in n for n in pairs.report['recordings'][0]['notes'])


def test_poses_of_camera_0_will_do(tmp_path):
    root = data_set(tmp_path / 'kitti360')
    path = root / 'calibration' / 'perspective.txt'
    path.write_text(PERSPECTIVE.replace('R_rect_00: 1 0 0 0 1 0', 'R_rect_00: 0 -1 0 1 0 0'))
    expected = convert(root, tmp_path / 'pairs')
    poses = root / 'data_poses' / DRIVE / 'poses.txt'
    mount = CAMERA_AXES.format(x=1.5, y=-0.3, z=-1.3).split()
    T_ego_cam0 = np.vstack([np.array(mount, float).reshape(3, 4), [0, 0, 0, 1]])
    T_rect_cam0 = np.array([[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], float)
    lines = []
    for line in poses.read_text().splitlines():
        frame, *values = line.split()
        T_world_ego = np.vstack([np.array(values, float).reshape(3, 4), [0, 0, 0, 1]])
        T = T_world_ego @ T_ego_cam0 @ np.linalg.inv(T_rect_cam0)
        lines.append(' '.join([frame, *map(str, T.ravel())]))
    poses.with_name('cam0_to_world.txt').write_text('\n'.join(lines))
    poses.unlink()
    found = convert(root, tmp_path / 'found')
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(one.T_world_ego, other.T_world_ego, atol=1e-9)
        np.testing.assert_allclose(one.points, other.points, atol=1e-5)
    notes = found.report['recordings'][0]['notes']
    assert 'no poses.txt: poses are made of cam0_to_world.txt' in notes


@pytest.mark.parametrize(
    'inside', ['.', 'data_2d_raw', 'data_3d_raw', f'data_2d_raw/{DRIVE}', f'data_3d_raw/{DRIVE}']
)
def test_any_folder_of_the_layout_will_do(tmp_path, inside):
    root = data_set(tmp_path / 'kitti360', 1)
    assert len(convert(root / inside, tmp_path / 'pairs')) == 1


def test_both_cameras(tmp_path):
    root = data_set(tmp_path / 'kitti360', 2)
    pairs = convert(root, tmp_path / 'pairs', camera='all')
    assert {p.sequence for p in pairs} == {f'{DRIVE}_image_00', f'{DRIVE}_image_01'}
    assert {int(p.image[0, 0, 0]) for p in pairs} == {0, 1, 10, 11}


@pytest.mark.parametrize(
    ('name', 'old', 'new', 'says'),
    [
        ('perspective.txt', 'P_rect_00', 'P_rect_09', "lacks 'P_rect_00'"),
        ('perspective.txt', 'S_rect_00', 'S_rect_09', "lacks 'S_rect_00'"),
        ('calib_cam_to_pose.txt', 'image_00:', 'image_xx:', "lacks 'image_00'"),
        ('calib_cam_to_velo.txt', '0.8', 'nan', 'does not hold the twelve numbers'),
        ('calib_cam_to_velo.txt', '0 0 1 0.8', '0 0 3 0.8', 'not a rigid transform'),
        ('calib_cam_to_velo.txt', '0 0 1 0.8', '0.8', 'does not hold the twelve numbers'),
    ],
)
def test_bad_calibration(tmp_path, name, old, new, says):
    root = data_set(tmp_path / 'kitti360', 1)
    path = root / 'calibration' / name
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(CalibrationError, match=says):
        convert(root, tmp_path / 'pairs')
    path.unlink()
    with pytest.raises(CalibrationError, match=f'{name} is missing; KITTI-360 publishes it'):
        convert(root, tmp_path / 'pairs')


def test_what_is_not_understood_is_refused(tmp_path):
    root = data_set(tmp_path / 'kitti360', 2)
    with pytest.raises(RecordingError, match='fisheye cameras image_02 and image_03 are not read'):
        convert(root, tmp_path / 'pairs', camera='image_02')
    with pytest.raises(RecordingError, match='--deskew kiss-icp is not for the kitti360 reader'):
        convert(root, tmp_path / 'pairs', deskew='kiss-icp')
    data = root / 'data_3d_raw' / DRIVE / 'velodyne_points' / 'data'
    (data / '0000000000.bin').write_bytes(scan(0).tobytes()[:-1])
    pairs = convert(root, tmp_path / 'pairs')
    assert pairs.report['dropped'] == {'scan: truncated or empty .bin': 1}
    for path in data.iterdir():
        path.unlink()
    with pytest.raises(RecordingError, match='has no scans for the 2 images'):
        convert(root, tmp_path / 'other')
