# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Waymo's cameras and lidars: their names, intrinsics, mounts and beams."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clcp_ros.errors import CalibrationError
from training.pairs.geometry import Rectifier, check_intrinsics, check_transform
from training.sources._waymo_parquet import read_columns

CAMERA_KEY = 'key.camera_name'
LASER_KEY = 'key.laser_name'

CAMERAS = ('FRONT', 'FRONT_LEFT', 'FRONT_RIGHT', 'SIDE_LEFT', 'SIDE_RIGHT')
"""In the order of `key.camera_name`, from 1 on."""

LASERS = ('TOP', 'FRONT', 'SIDE_LEFT', 'SIDE_RIGHT', 'REAR')
"""In the order of `key.laser_name`, from 1 on."""

_CAMERA_CALIBRATION = '[CameraCalibrationComponent]'
_LASER_CALIBRATION = '[LiDARCalibrationComponent]'


@dataclass(frozen=True)
class Laser:
    """Calibration of a lidar.

    Attributes:
        T_vehicle_laser: (4, 4).
        values: Inclinations of the beams, or None.
        low: Smallest inclination, radians.
        high: Largest, radians.
    """

    T_vehicle_laser: np.ndarray
    values: list[float] | None
    low: float
    high: float


def read_camera(path: Path, camera: str) -> tuple[Rectifier, np.ndarray]:
    """Calibration of a camera.

    Args:
        path: A file of camera_calibration.
        camera: One of `CAMERAS`.

    Returns:
        Its rectifier, and T_vehicle_camera (4, 4) with the camera's axes forward, left, up.

    Raises:
        CalibrationError: No row of the camera, or an impossible one.
    """
    intrinsics = ('f_u', 'f_v', 'c_u', 'c_v', 'k1', 'k2', 'p1', 'p2', 'k3')
    names = [f'{_CAMERA_CALIBRATION}.intrinsic.{name}' for name in intrinsics]
    others = [f'{_CAMERA_CALIBRATION}.{n}' for n in ('width', 'height', 'extrinsic.transform')]
    columns = read_columns(path, [CAMERA_KEY, *names, *others])
    try:
        row = columns[CAMERA_KEY].index(CAMERAS.index(camera) + 1)
    except ValueError:
        raise CalibrationError(f'{path} has no calibration of camera {camera}') from None
    try:
        fu, fv, cu, cv, *D = (float(columns[name][row]) for name in names)
        width, height = (int(columns[name][row]) for name in others[:2])
        T = np.array(columns[others[2]][row], np.float64).reshape(4, 4)
    except (TypeError, ValueError) as error:
        raise CalibrationError(f'{path}, camera {camera}: {error}') from None
    K = check_intrinsics(np.array([[fu, 0, cu], [0, fv, cv], [0, 0, 1]]), str(path))
    return Rectifier('plumb_bob', K, np.array(D), K, width, height), check_transform(T, str(path))


def read_lasers(path: Path) -> dict[int, Laser]:
    """Calibration of the lidars by `key.laser_name`.

    Raises:
        RecordingError: The file is missing or damaged.
        CalibrationError: A calibration is impossible.
    """
    names = [
        f'{_LASER_CALIBRATION}.{name}'
        for name in ('extrinsic.transform', 'beam_inclination.values', 'beam_inclination.min',
                     'beam_inclination.max')
    ]  # fmt: skip
    columns = read_columns(path, [LASER_KEY, *names])
    lasers = {}
    for row, number in enumerate(columns[LASER_KEY]):
        extrinsic, values, low, high = (columns[name][row] for name in names)
        try:
            T = check_transform(np.array(extrinsic, np.float64), str(path))
            laser = Laser(T, values or None, float(low or 0), float(high or 0))
        except (TypeError, ValueError) as error:
            raise CalibrationError(f'{path}, lidar {number}: {error}') from None
        if laser.values is None and not laser.low < laser.high:
            raise CalibrationError(f'{path}, lidar {number}: no inclinations of its beams')
        lasers[int(number)] = laser
    return lasers
