# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""KITTI object: a calibration for each frame, no times, and damaged files."""

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
from training.sources import SourceOptions, kitti_object, open_source


def calib(fx: float = 700) -> str:
    return (
        f'P0: {fx} 0 60 0 0 {fx} 18 0 0 0 1 0\nP1: {fx} 0 60 0 0 {fx} 18 0 0 0 1 0\n'
        f'P2: {fx} 0 60 {0.06 * fx} 0 {fx} 18 0 0 0 1 0\n'
        f'P3: {fx} 0 60 {-0.48 * fx} 0 {fx} 18 0 0 0 1 0\n'
        'R0_rect: 1 0 0 0 1 0 0 0 1\nTr_velo_to_cam: 0 -1 0 0 0 0 -1 -0.08 1 0 0 -0.27\n'
        'Tr_imu_to_velo: 1 0 0 0 0 1 0 0 0 0 1 0\n\n'
    )


def scan(number: int) -> np.ndarray:
    rng = np.random.default_rng(number)
    return rng.uniform([3, -2, -1, 0], [40, 2, 1, 1], (100, 4)).astype(np.float32)


def split(root: Path, name: str = 'training', numbers: tuple[int, ...] = (0, 3, 7)) -> Path:
    folder = root / name
    for kind in ('image_2', 'velodyne', 'calib'):
        (folder / kind).mkdir(parents=True)
    for number in numbers:
        image = np.full((36, 120 + number, 3), number, np.uint8)
        (folder / 'image_2' / f'{number:06d}.png').write_bytes(image_codec.encode_png(image))
        scan(number).tofile(folder / 'velodyne' / f'{number:06d}.bin')
        (folder / 'calib' / f'{number:06d}.txt').write_text(calib(700 + number))
    return folder


def convert(path: Path, out: Path, **options: Any) -> PairSet:
    source, recordings = open_source(path, options=SourceOptions(**options))
    assert source.name == 'kitti_object'
    jobs = plan([(source.name, str(path), recording) for recording in recordings])
    build(jobs, out, BuildOptions(image_format='png'), preview=False)
    return PairSet(out)


def test_projection_by_hand(tmp_path):
    path = tmp_path / '000000.txt'
    # The rectification turns by 90 degrees about the optical axis: what is right comes down.
    path.write_text(calib().replace('R0_rect: 1 0 0 0 1 0', 'R0_rect: 0 -1 0 1 0 0'))
    K, T = kitti_object.read_calibration(path, 'image_2')
    # Camera 0 before: (-1, -0.08, 9.73); turned: (0.08, -1, 9.73); camera 2: (0.14, -1, 9.73).
    uv, depth = project_points(np.array([[10.0, 1, 0]]), K, T)
    np.testing.assert_allclose(uv, [[60 + 700 * 0.14 / 9.73, 18 - 700 / 9.73]])
    np.testing.assert_allclose(depth, 9.73)


def test_each_frame_has_its_own_calibration_size_and_time(tmp_path):
    split(tmp_path)
    split(tmp_path, 'testing', (1,))
    pairs = convert(tmp_path, tmp_path / 'pairs')
    keys = ['object_testing/000001'] + [f'object_training/{n:06d}' for n in (0, 3, 7)]
    assert [p.key for p in pairs] == keys
    for pair, number in zip(pairs, (1, 0, 3, 7), strict=True):
        assert pair.K[0, 0] == 700 + number
        assert pair.image.shape == (36, 120 + number, 3)
        assert pair.camera_stamp_ns == pair.lidar_stamp_ns == number * 10_000_000_000
        np.testing.assert_array_equal(pair.points, scan(number))
    notes = pairs.report['recordings'][0]['notes']
    assert notes == ['frames have no times: stamps are the frame number times 10 s']


def test_damaged_frames_are_counted(tmp_path):
    folder = split(tmp_path, numbers=(0, 1, 2, 3, 4))
    (folder / 'calib' / '000000.txt').unlink()
    (folder / 'calib' / '000001.txt').write_text(calib().replace('R0_rect', 'R0'))
    (folder / 'velodyne' / '000002.bin').write_bytes(b'123')
    (folder / 'velodyne' / '000003.bin').unlink()
    pairs = convert(folder, tmp_path / 'pairs')
    assert [p.key[-1] for p in pairs] == ['4']
    assert pairs.report['dropped'] == {
        'no scan of the same number': 1,
        'calibration: missing or damaged file of the frame': 2,
        'scan: truncated or empty .bin': 1,
    }


def test_what_ends_in_one_line(tmp_path):
    folder = split(tmp_path, numbers=(0, 1))
    with pytest.raises(RecordingError, match="no images of camera 'image_3'"):
        convert(folder, tmp_path / 'pairs', camera='image_3')
    with pytest.raises(RecordingError, match='its frames have no poses'):
        convert(folder, tmp_path / 'pairs', deskew='poses')
    for path in (folder / 'calib').iterdir():
        path.write_text('P2: 1 2 3\n')
    with pytest.raises(CalibrationError, match=r"000000\.txt: 'P2' has 3 numbers, not 12"):
        convert(folder, tmp_path / 'pairs')
    for path in (folder / 'velodyne').iterdir():
        path.unlink()
    with pytest.raises(RecordingError, match='2 images and no scans'):
        convert(folder, tmp_path / 'pairs')
