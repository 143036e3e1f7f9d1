# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A folder of one data set fits exactly one reader, whatever else there is to read."""

from __future__ import annotations

from pathlib import Path

import pytest

from clcp_ros.errors import RecordingError
from training.sources import open_source, sources

SEQ = '2013_05_28_drive_0000_sync'
LAYOUTS: dict[str, tuple[str, ...]] = {
    'a2d2': (
        'cams_lidars.json', 'class_list.json',
        '20180807_145028/camera/cam_front_center/x_camera_frontcenter_000000001.png',
        '20180807_145028/lidar/cam_front_center/x_lidar_frontcenter_000000001.npz',
        '20180807_145028/label/cam_front_center/x_label_frontcenter_000000001.png',
    ),
    'kitti_raw': (
        '2011_09_26/calib_cam_to_cam.txt', '2011_09_26/calib_velo_to_cam.txt',
        '2011_09_26/2011_09_26_drive_0001_sync/image_02/data/0000000000.png',
        '2011_09_26/2011_09_26_drive_0001_sync/image_02/timestamps.txt',
        '2011_09_26/2011_09_26_drive_0001_sync/velodyne_points/data/0000000000.bin',
        '2011_09_26/2011_09_26_drive_0001_sync/oxts/data/0000000000.txt',
    ),
    'kitti_odometry': (
        'dataset/poses/00.txt', 'dataset/sequences/00/calib.txt', 'dataset/sequences/00/times.txt',
        'dataset/sequences/00/image_2/000000.png', 'dataset/sequences/00/velodyne/000000.bin',
        'dataset/sequences/00/labels/000000.label',
    ),
    'kitti_object': (
        'training/calib/000000.txt', 'training/image_2/000000.png',
        'training/velodyne/000000.bin', 'training/label_2/000000.txt',
        'testing/calib/000000.txt', 'testing/image_2/000000.png', 'testing/velodyne/000000.bin',
    ),
    'kitti360': (
        'calibration/perspective.txt', 'calibration/calib_cam_to_velo.txt',
        f'data_2d_raw/{SEQ}/image_00/data_rect/0000000000.png',
        f'data_3d_raw/{SEQ}/velodyne_points/data/0000000000.bin',
        f'data_poses/{SEQ}/poses.txt',
    ),
    'nuscenes': (
        'v1.0-mini/sample_data.json', 'v1.0-mini/sample.json', 'v1.0-mini/ego_pose.json',
        'samples/CAM_FRONT/a.jpg', 'samples/LIDAR_TOP/a.pcd.bin', 'sweeps/LIDAR_TOP/b.pcd.bin',
        'maps/a.png',
    ),
    'waymo': (
        'training/camera_image/a.parquet', 'training/camera_calibration/a.parquet',
        'training/lidar/a.parquet', 'training/lidar_calibration/a.parquet',
        'training/vehicle_pose/a.parquet', 'validation/camera_image/b.parquet',
    ),
    'rosbag': ('drive/metadata.yaml', 'drive/drive_0.mcap'),
}  # fmt: skip


def write(folder: Path, layout: str) -> Path:
    for name in LAYOUTS[layout]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b'')
    return folder


def fitting(path: Path) -> list[str]:
    return [name for name, source in sources().items() if source.detect(path)]


def test_every_reader_has_a_layout():
    assert set(sources()) == set(LAYOUTS)


@pytest.mark.parametrize('layout', LAYOUTS)
def test_one_reader_fits(tmp_path, layout):
    assert fitting(write(tmp_path / 'data', layout)) == [layout]


@pytest.mark.parametrize('layout', LAYOUTS)
def test_folders_inside_fit_the_same_reader_or_none(tmp_path, layout):
    """Pointing too deep must not find another reader's data."""
    root = write(tmp_path / 'data', layout)
    for folder in [p for p in root.rglob('*') if p.is_dir()]:
        assert fitting(folder) in ([], [layout]), folder


@pytest.mark.parametrize('layout', LAYOUTS)
def test_links_and_relative_paths(tmp_path, monkeypatch, layout):
    root = write(tmp_path / 'data', layout)
    link = tmp_path / 'link'
    link.symlink_to(root)
    assert fitting(link) == [layout]
    monkeypatch.chdir(root)
    assert fitting(Path()) == [layout]


def test_nothing_fits_what_is_no_recording(tmp_path):
    (tmp_path / 'pairs' / 'shards').mkdir(parents=True)
    (tmp_path / 'pairs' / 'index.parquet').write_bytes(b'')
    (tmp_path / 'pairs' / 'shards' / '00-000000.tar').write_bytes(b'')
    (tmp_path / 'leftImg8bit' / 'train' / 'aachen').mkdir(parents=True)
    (tmp_path / 'file.txt').write_text('')
    for path in (tmp_path, tmp_path / 'pairs', tmp_path / 'file.txt', tmp_path / 'leftImg8bit'):
        assert fitting(path) == []
        with pytest.raises(RecordingError, match='does not look like any recording') as error:
            open_source(path)
        assert '\n' not in str(error.value)
        for name in sources():
            assert f'{name}: ' in str(error.value)


@pytest.mark.parametrize('layout', [name for name in LAYOUTS if name != 'rosbag'])
def test_empty_files_end_in_one_line(tmp_path, layout):
    with pytest.raises(RecordingError) as error:
        open_source(write(tmp_path / 'data', layout))
    assert '\n' not in str(error.value)
