# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""KITTI raw: calibration by hand, stamps, gaps in the files, and what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clcp_ros import image_codec
from clcp_ros.errors import CalibrationError, RecordingError
from training.pairs import PairSet
from training.pairs.build import BuildOptions, build, plan
from training.pairs.geometry import project_points
from training.sources import SourceOptions, kitti_raw, open_source

R_RECT = '1 0 0 0 1 0 0 0 1'
# Camera 2 is 0.06 m left of camera 0: P[0, 3] = fx * 0.06
P_RECT = '700 0 600 42 0 700 180 0 0 0 1 0'
# Velodyne x forward, y left, z up, 0.08 m above and 0.27 m behind camera 0
VELO = 'R: 0 -1 0 0 0 -1 1 0 0\nT: 0 -0.08 -0.27\n'


def drive(date: Path, name: str = '2011_09_26_drive_0001_sync', count: int = 3) -> Path:
    folder = date / name
    (folder / 'image_02' / 'data').mkdir(parents=True)
    (folder / 'velodyne_points' / 'data').mkdir(parents=True)
    (date / 'calib_cam_to_cam.txt').write_text(
        f'calib_time: 09-Jan-2012 13:57:47\nR_rect_00: {R_RECT}\nP_rect_02: {P_RECT}\n'
    )
    (date / 'calib_velo_to_cam.txt').write_text(VELO)
    for i in range(count):
        image = np.full((36, 120, 3), 40 * i, np.uint8)
        path = folder / 'image_02' / 'data' / f'{i:010d}.png'
        path.write_bytes(image_codec.encode_png(image))
        scan(i).tofile(folder / 'velodyne_points' / 'data' / f'{i:010d}.bin')
    return folder


def scan(number: int) -> np.ndarray:
    rng = np.random.default_rng(number)
    return rng.uniform([-20, -20, -2, 0], [20, 20, 2, 1], (100, 4)).astype(np.float32)


def convert(path: Path, out: Path, **options: Any) -> PairSet:
    source, recordings = open_source(path, options=SourceOptions(**options))
    jobs = plan([(source.name, str(path), recording) for recording in recordings])
    build(jobs, out, BuildOptions(image_format='png'), preview=False)
    return PairSet(out)


def test_projection_by_hand(tmp_path):
    drive(tmp_path / '2011_09_26')
    K, T = kitti_raw.read_calibration(tmp_path / '2011_09_26', 'image_02')
    # 10 m ahead of the velodyne, 1 m to the left, at its height: (-1, -0.08, 9.73) in camera 0,
    # (-0.94, -0.08, 9.73) in camera 2.
    uv, depth = project_points(np.array([[10.0, 1, 0]]), K, T)
    np.testing.assert_allclose(depth, 9.73)
    np.testing.assert_allclose(uv, [[600 - 700 * 0.94 / 9.73, 180 - 700 * 0.08 / 9.73]])


def test_drive_without_stamps_and_poses(tmp_path):
    folder = drive(tmp_path / '2011_09_26', 'any_name')
    for path in (folder, folder.parent, tmp_path):
        pairs = convert(path, tmp_path / f'out_{path.name}')
        assert [p.key for p in pairs] == [f'any_name/{i:010d}' for i in range(3)]
    assert pairs[2].camera_stamp_ns == pairs[2].lidar_stamp_ns == 200_000_000
    assert pairs[1].T_world_ego is None
    np.testing.assert_array_equal(pairs[1].points, scan(1))
    assert (pairs[1].image == 40).all()
    notes = pairs.report['recordings'][0]['notes']
    assert [n.partition(':')[0] for n in notes] == ['no timestamps.txt', 'no oxts']


def test_stamps_poses_and_missing_scans(tmp_path):
    folder = drive(tmp_path / '2011_09_26', count=4)
    (folder / 'velodyne_points' / 'data' / '0000000001.bin').unlink()
    for sensor, offset in (('image_02', 0), ('velodyne_points', 4_000_000)):
        lines = [f'2011-09-26 13:02:25.{i * 100_000_000 + offset:09d}' for i in range(4)]
        (folder / sensor / 'timestamps.txt').write_text('\n'.join(lines) + '\n')
    (folder / 'oxts' / 'data').mkdir(parents=True)
    for i in range(4):
        # A degree of latitude is 111.3 km on this sphere: 1 m north per frame, heading north.
        latitude = 49.0 + i / (np.pi / 180 * 6378137)
        text = f'{latitude!r} 8.4 {110 + i} 0 0 {np.pi / 2} ' + '0 ' * 24
        (folder / 'oxts' / 'data' / f'{i:010d}.txt').write_text(text)
    pairs = convert(tmp_path, tmp_path / 'out')
    assert [int(p.key[-4:]) for p in pairs] == [0, 2, 3]
    assert pairs[0].camera_stamp_ns == 1_317_042_145_000_000_000  # 2011-09-26 13:02:25 UTC
    assert pairs[1].lidar_stamp_ns - pairs[0].camera_stamp_ns == 204_000_000
    assert pairs.report['recordings'][0]['gaps']['max_ms'] == 4
    assert pairs.report['dropped'] == {'no scan within the maximum gap': 1}
    np.testing.assert_allclose(pairs[0].T_world_ego[:3, 3], 0, atol=1e-9)
    np.testing.assert_allclose(pairs[2].T_world_ego[:3, 3], [0, 3, 3], atol=1e-3)
    # Heading north: the vehicle's x axis is the world's y.
    np.testing.assert_allclose(pairs[2].T_world_ego[:3, 0], [0, 1, 0], atol=1e-9)


def test_truncated_scan_and_nan(tmp_path):
    folder = drive(tmp_path / '2011_09_26', count=4) / 'velodyne_points' / 'data'
    (folder / '0000000000.bin').write_bytes(b'')
    (folder / '0000000001.bin').write_bytes(scan(1).tobytes()[:-3])
    points = scan(2)
    points[5, 3] = np.nan
    points.tofile(folder / '0000000002.bin')
    pairs = convert(tmp_path, tmp_path / 'out')
    assert len(pairs) == 2
    assert len(pairs[0].points) == 99
    assert pairs.report['dropped'] == {
        'scan: truncated or empty .bin': 2,
        'points: not finite': 1,
    }


@pytest.mark.parametrize(
    ('damage', 'says'),
    [
        (lambda d: (d / 'calib_velo_to_cam.txt').unlink(), 'calib_velo_to_cam.txt is missing'),
        (lambda d: (d / 'calib_cam_to_cam.txt').write_text('R_rect_00: 1'), "'P_rect_02'"),
        (
            lambda d: (d / 'calib_cam_to_cam.txt').write_text(
                f'R_rect_00: {R_RECT}\nP_rect_02: {"0 " * 12}'
            ),
            'calibrated',
        ),
    ],
)
def test_bad_calibration(tmp_path, damage, says):
    damage(drive(tmp_path / '2011_09_26').parent)
    with pytest.raises(CalibrationError, match=says):
        convert(tmp_path, tmp_path / 'out')


def test_no_scans(tmp_path):
    folder = drive(tmp_path / '2011_09_26')
    for path in (folder / 'velodyne_points' / 'data').iterdir():
        path.unlink()
    with pytest.raises(RecordingError, match=r'3 images of image_02 and 0 scans$'):
        convert(tmp_path, tmp_path / 'out')
    (folder / 'velodyne_points' / 'data' / '0000000000.txt').write_text('')
    with pytest.raises(RecordingError, match='take the one called _sync'):
        convert(tmp_path, tmp_path / 'out')


def with_motion(tmp_path: Path, count: int = 4) -> Path:
    """10 m/s to the north with the IMU at the scanner's place; stamps of all sensors at 10 Hz."""
    folder = drive(tmp_path / '2011_09_26', count=count)
    (tmp_path / '2011_09_26' / 'calib_imu_to_velo.txt').write_text(
        'calib_time: x\nR: 1 0 0 0 1 0 0 0 1\nT: 0 0 0\n'
    )
    lines = [f'2011-09-26 13:02:25.{i * 100_000_000:09d}' for i in range(count)]
    (folder / 'oxts' / 'data').mkdir(parents=True)
    for sensor in ('image_02', 'velodyne_points', 'oxts'):
        (folder / sensor / 'timestamps.txt').write_text('\n'.join(lines) + '\n')
    for i in range(count):
        latitude = 49.0 + i / (np.pi / 180 * 6378137)
        text = f'{latitude!r} 8.4 110 0 0 {np.pi / 2} ' + '0 ' * 24
        (folder / 'oxts' / 'data' / f'{i:010d}.txt').write_text(text)
    return folder


def test_untwisting_when_asked(tmp_path):
    folder = with_motion(tmp_path)
    points = np.array([[10, 0, 0, 0], [0, 10, 0, 0], [0, -10, 0, 0], [10, 10, 0, 0]], np.float32)
    points.tofile(folder / 'velodyne_points' / 'data' / '0000000001.bin')
    np.testing.assert_array_equal(convert(tmp_path, tmp_path / 'raw')[1].points, points)
    pairs = convert(tmp_path, tmp_path / 'pairs', deskew='poses')
    # 1 m a frame: a quarter of a turn is 0.25 m. What is on the left was measured earlier.
    expected = [[10, 0, 0], [-0.25, 10, 0], [0.25, -10, 0], [10 - 0.125, 10, 0]]
    np.testing.assert_allclose(pairs[1].xyz, expected, atol=1e-3)
    assert any('de-skewed with oxts' in n for n in pairs.report['recordings'][0]['notes'])


def test_untwisting_needs_poses(tmp_path):
    folder = with_motion(tmp_path)
    (tmp_path / '2011_09_26' / 'calib_imu_to_velo.txt').unlink()
    with pytest.raises(CalibrationError, match=r'calib_imu_to_velo.txt is missing.*de-skewed'):
        convert(tmp_path, tmp_path / 'pairs', deskew='poses')
    with_motion_again = folder / 'oxts' / 'timestamps.txt'
    (tmp_path / '2011_09_26' / 'calib_imu_to_velo.txt').write_text(
        'R: 1 0 0 0 1 0 0 0 1\nT: 0 0 0\n'
    )
    with_motion_again.unlink()
    with pytest.raises(RecordingError, match='leave out --deskew poses'):
        convert(tmp_path, tmp_path / 'pairs', deskew='poses')


def test_damaged_packets_of_oxts(tmp_path):
    folder = with_motion(tmp_path)
    (folder / 'oxts' / 'data' / '0000000001.txt').write_text('49 nan 1 0 0 0')
    (folder / 'oxts' / 'data' / '0000000002.txt').write_text('49')
    pairs = convert(tmp_path, tmp_path / 'pairs')
    assert [p.T_world_ego is None for p in pairs] == [False, True, True, False]
    assert '2 packets of oxts cannot be read' in pairs.report['recordings'][0]['notes'][-1]


def test_offsets_shift_the_stamps(tmp_path):
    with_motion(tmp_path)
    pairs = convert(tmp_path, tmp_path / 'pairs', camera_offset=0.01, lidar_offset=-0.005)
    assert {p.lidar_stamp_ns - p.camera_stamp_ns for p in pairs} == {-15_000_000}


def test_several_cameras(tmp_path):
    folder = drive(tmp_path / '2011_09_26')
    calibration = folder.parent / 'calib_cam_to_cam.txt'
    P_3 = '700 0 600 -336 0 700 180 0 0 0 1 0'
    calibration.write_text(calibration.read_text() + f'P_rect_03: {P_3}\nS_rect_03: 120 36\n')
    (folder / 'image_03' / 'data').mkdir(parents=True)
    for i in range(3):
        image = np.full((36, 120 + (i == 1), 3), 7, np.uint8)
        path = folder / 'image_03' / 'data' / f'{i:010d}.png'
        path.write_bytes(image_codec.encode_png(image))
    pairs = convert(tmp_path, tmp_path / 'pairs', camera='all')
    assert {p.sequence for p in pairs} == {
        f'{folder.name}_image_02', f'{folder.name}_image_03'
    }  # fmt: skip
    assert pairs.report['dropped'] == {'image: not of the size 120 x 36 of its camera': 1}
    with pytest.raises(RecordingError, match="no images of camera 'image_01'"):
        convert(tmp_path, tmp_path / 'other', camera='image_01')
    with pytest.raises(RecordingError, match='--deskew odom is not for the kitti_raw reader'):
        convert(tmp_path, tmp_path / 'other', deskew='odom')


def test_lost_scans_without_lines(tmp_path):
    """Of drive 0009 four scans are lost: the file of stamps may have lines for the others only."""
    folder = with_motion(tmp_path)
    (folder / 'velodyne_points' / 'data' / '0000000001.bin').unlink()
    path = folder / 'velodyne_points' / 'timestamps.txt'
    lines = path.read_text().splitlines()
    path.write_text('\n'.join(lines[:1] + lines[2:]))
    pairs = convert(tmp_path, tmp_path / 'pairs')
    assert [int(p.key[-1]) for p in pairs] == [0, 2, 3]
    assert all(p.camera_stamp_ns == p.lidar_stamp_ns for p in pairs)
