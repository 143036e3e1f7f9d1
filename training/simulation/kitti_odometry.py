# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Writes the layout of KITTI odometry (Geiger et al. 2012) with SemanticKITTI's labels.

`sequences/NN/{image_2,velodyne,labels}`, `calib.txt`, `times.txt`, `poses.txt`, and the devkit's
`poses/NN.txt`. A stereo rig also gives `image_3`. SemanticKITTI: Behley et al. 2019.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from clcp_ros.image_codec import encode_png
from training.simulation.config import CONDITIONS, EPOCH_NS, CameraConfig, SimulationConfig
from training.simulation.frame import Frame
from training.simulation.lidar import BACKSCATTER
from training.simulation.recording import (
    Files,
    Recording,
    Shot,
    Truth,
    drive,
    json_bytes,
    pictures,
    rectified,
)

RAW_IDS = np.zeros(256, np.uint32)
"""trainId to SemanticKITTI's raw id. It has no traffic light (99, other object) and no wall (52,
other structure); returns from the air are outliers (1)."""
RAW_IDS[:19] = (40, 48, 50, 52, 51, 80, 99, 81, 70, 72, 0, 30, 31, 10, 18, 13, 16, 15, 11)
RAW_IDS[BACKSCATTER] = 1

_TRAIN = ('00', '01', '02', '03', '04', '05', '06', '07', '09', '10')
VALIDATION = '08'
"""SemanticKITTI's: town 3 in clear weather."""


def sequences() -> dict[str, tuple[int, str]]:
    """Town and condition by sequence: town 1 in one condition after the other, then town 3."""
    names = dict(zip(_TRAIN, ((1, c) for c in CONDITIONS), strict=False))
    return {**names, VALIDATION: (3, 'clear')}


class KittiOdometry(Recording):
    """A sequence per condition in town 1, and sequence 08 in town 3, clear."""

    path = 'kitti_odometry'

    def sensors(self, config: SimulationConfig) -> SimulationConfig:
        """See `Recording.sensors`: KITTI is published rectified, scans without skew."""
        return rectified(config)

    def shots(self, config: SimulationConfig) -> list[Shot]:
        """See `Recording.shots`; `index` counts within the sequence."""
        found = []
        start = 0.0
        for sequence, (town, condition) in sequences().items():
            shots = drive(config, town, [(condition, config.seconds)])
            begin = start if sequence != VALIDATION else 0.0
            for shot in shots:
                stamp = EPOCH_NS + round((begin + shot.time) * 1e9)
                found.append(replace(shot, time=begin + shot.time, stamp_ns=stamp))
            start += len(shots) / config.rate_hz
        return found

    def name(self, shot: Shot, condition: str) -> str:
        """See `Recording.name`."""
        names = {place: sequence for sequence, place in sequences().items()}
        return f'{names[shot.town, condition]}/{shot.index:06d}'

    def encode(self, config: SimulationConfig, shot: Shot, frame: Frame) -> Files:
        """See `Recording.encode`."""
        sequence, number = self.name(shot, frame.condition.name).split('/')
        scan = frame.scan
        cloud = np.column_stack([scan.points, scan.intensity]).astype('<f4')
        labels = RAW_IDS[scan.category].astype('<u4')
        folder = f'sequences/{sequence}'
        files = [
            (f'{folder}/velodyne/{number}.bin', cloud.tobytes()),
            (f'{folder}/labels/{number}.label', labels.tobytes()),
        ]
        for place, picture in zip(_image_folders(config.cameras), pictures(frame), strict=False):
            files.append((f'{folder}/{place}/{number}.png', encode_png(picture.image)))
        return files

    def finish(self, folder: Path, config: SimulationConfig, truths: list[Truth]) -> None:
        """See `Recording.finish`."""
        (folder / 'poses').mkdir(exist_ok=True)
        calibration = calib_txt(config)
        for sequence, (_, condition) in sequences().items():
            frames = [t for t in truths if t.frame.startswith(f'{sequence}/')]
            place = folder / 'sequences' / sequence
            (place / 'calib.txt').write_text(calibration)
            times = [(t.stamp_ns - frames[0].stamp_ns) / 1e9 for t in frames]
            (place / 'times.txt').write_text(''.join(f'{t:.6e}\n' for t in times))
            poses = poses_txt(np.stack([t.pose for t in frames]), config.camera)
            (place / 'poses.txt').write_text(poses)
            (folder / 'poses' / f'{sequence}.txt').write_text(poses)
            tags = {'condition': condition, 'severity': f'{frames[0].severity:g}'}
            (place / 'tags.json').write_bytes(json_bytes(tags))


def poses_txt(T_world_base: np.ndarray, camera: CameraConfig) -> str:
    """KITTI's poses: the left camera at each frame in the left camera at the first.

    Args:
        T_world_base: (N, 4, 4) poses of the vehicle.
        camera: The left, or only, camera.
    """
    T_world_camera = T_world_base @ camera.T_base_camera
    T = np.linalg.inv(T_world_camera[0]) @ T_world_camera
    return ''.join(' '.join(f'{v:.9e}' for v in pose[:3].ravel()) + '\n' for pose in T)


def calib_txt(config: SimulationConfig) -> str:
    """`calib.txt`: P0 to P3 and Tr, the lidar in the left camera.

    Args:
        config: Rectified sensors.
    """
    left = config.camera
    right = config.cameras[1] if 'image_3' in _image_folders(config.cameras) else left
    T_right_left = np.linalg.inv(right.T_base_camera) @ left.T_base_camera
    P_left = np.column_stack([left.K, np.zeros(3)])
    P_right = right.K @ T_right_left[:3]
    Tr = (np.linalg.inv(left.T_base_camera) @ config.lidar.T_base_lidar)[:3]
    rows = {'P0': P_left, 'P1': P_right, 'P2': P_left, 'P3': P_right, 'Tr': Tr}
    return ''.join(
        f'{name}: {" ".join(f"{v:.12e}" for v in matrix.ravel())}\n'
        for name, matrix in rows.items()
    )


def _image_folders(cameras: tuple[CameraConfig, ...]) -> list[str]:
    """image_2, and image_3 where the second camera only stands beside the first."""
    if len(cameras) > 1:
        T = np.linalg.inv(cameras[1].T_base_camera) @ cameras[0].T_base_camera
        if np.allclose(T[:3, :3], np.eye(3)) and np.allclose(T[1:3, 3], 0):
            return ['image_2', 'image_3']
    return ['image_2']
