# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Rows of Waymo's Parquet files, a few at a time, and its range images as points."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clcp_ros.errors import RecordingError
from training.pairs.geometry import Rectifier, invert_transform, transform_points
from training.sources._files import UnusableError

BATCH = 4
"""Rows decoded at a time; a row of the top lidar holds 2.7 MB."""

_MAX_PIXELS = 1 << 24


@contextmanager
def one_line(path: Path) -> Iterator[None]:
    """Turn what pyarrow raises for damaged files into one line."""
    try:
        yield
    except FileNotFoundError:
        raise RecordingError(f'{path} is missing') from None
    except KeyError as error:
        raise RecordingError(f'{path} lacks the column {error}') from None
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        if isinstance(error, RecordingError):
            raise
        raise RecordingError(
            f'{path} is truncated or damaged: {(str(error) or repr(error)).splitlines()[0]}'
        ) from None


def read_columns(path: Path, columns: Sequence[str]) -> dict[str, list[Any]]:
    """Whole columns of a small component, or the keys of a large one.

    Raises:
        RecordingError: The file is missing or damaged, or lacks a column.
    """
    with one_line(path), _open(path) as file:
        _check_columns(file, columns)
        table = file.read(columns=list(columns), use_threads=False)
        return {column: table.column(column).to_pylist() for column in columns}


class RowReader:
    """Rows of a file by their number; quick and small in memory while the numbers increase.

    Args:
        path: The file.
        columns: What to read of it.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path = path
        self.columns = list(columns)
        with one_line(path):
            self._file = _open(path)
            _check_columns(self._file, columns)
            groups = [
                self._file.metadata.row_group(g).num_rows
                for g in range(self._file.metadata.num_row_groups)
            ]
        self._starts = np.concatenate([[0], np.cumsum(groups)]).astype(np.int64)
        self.names = self._file.schema_arrow.names
        self._batches: Iterator[pa.RecordBatch] | None = None
        self._batch: pa.RecordBatch | None = None
        self._first = 0

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def row(self, number: int) -> dict[str, Any]:
        """Column: its pyarrow scalar.

        Raises:
            RecordingError: The file is damaged.
        """
        with one_line(self.path):
            if not self._holds(number):
                self._seek(number)
            assert self._batch is not None
            position = number - self._first
            return {name: self._batch.column(name)[position] for name in self.columns}

    def _holds(self, number: int) -> bool:
        return (
            self._batch is not None and self._first <= number < self._first + self._batch.num_rows
        )

    def _seek(self, number: int) -> None:
        group = int(np.searchsorted(self._starts, number, side='right')) - 1
        start = int(self._starts[group])
        behind = self._first + (self._batch.num_rows if self._batch is not None else 0)
        if self._batch is None or not start < behind <= number:
            self._batches = self._file.iter_batches(
                BATCH, row_groups=[group], columns=self.columns, use_threads=False
            )
            self._batch, behind = None, start
        assert self._batches is not None
        while not self._holds(number):
            batch = next(self._batches, None)
            if batch is None:
                raise ValueError(f'row {number} is not there')
            if batch.num_rows:
                self._first, self._batch, behind = behind, batch, behind + batch.num_rows


def range_image(row: dict[str, Any], prefix: str, channels: int) -> np.ndarray:
    """A range image of `<prefix>.values` and `<prefix>.shape`.

    Args:
        row: From `RowReader`.
        prefix: As '[LiDARComponent].range_image_return1'.
        channels: At least so many.

    Returns:
        (H, W, C) float32.

    Raises:
        UnusableError: Nothing there, or values and shape contradict each other.
    """
    shape = row[f'{prefix}.shape'].as_py()
    values = row[f'{prefix}.values']
    if not shape or not values.is_valid:
        raise UnusableError('scan: no range image')
    flat = values.values.to_numpy(zero_copy_only=False)
    if len(shape) != 3 or any(not isinstance(n, int) or n <= 0 for n in shape):
        raise UnusableError('scan: impossible shape of a range image')
    if shape[2] < channels or np.prod(shape, dtype=np.int64) != len(flat) > 0:
        raise UnusableError('scan: range image and shape contradict each other')
    if len(flat) > _MAX_PIXELS * channels:
        raise UnusableError('scan: impossible shape of a range image')
    return np.asarray(flat, np.float32).reshape(shape)


def inclinations(values: Sequence[float] | None, low: float, high: float, rows: int) -> np.ndarray:
    """Of the rows of a range image, the highest first.

    Args:
        values: Of the beams from the lowest on, or None: they are spread evenly (the short-range
            lasers).
        low: Smallest inclination, radians.
        high: Largest, radians.
        rows: Of the image.

    Returns:
        (rows,) float64 radians.

    Raises:
        UnusableError: Not one for each row.
    """
    if values is None or not len(values):
        found = (np.arange(rows) + 0.5) / rows * (high - low) + low
    else:
        found = np.asarray(values, np.float64)
    if found.shape != (rows,) or not np.isfinite(found).all():
        raise UnusableError('scan: not an inclination for each row')
    return found[::-1]


def azimuths(columns: int, T_vehicle_laser: np.ndarray) -> np.ndarray:
    """Directions of the columns of a range image in the laser's frame, (columns,) radians.

    The first column looks backwards in the vehicle's frame, the middle forward: the laser's own
    turn on the vehicle is taken off.
    """
    part = (columns - np.arange(columns) - 0.5) / columns
    turn = np.arctan2(T_vehicle_laser[1, 0], T_vehicle_laser[0, 0])
    return (part * 2 - 1) * np.pi - turn


def to_points(
    image: np.ndarray,
    inclination: np.ndarray,
    T_vehicle_laser: np.ndarray,
    pixel_poses: np.ndarray | None = None,
    T_world_vehicle: np.ndarray | None = None,
) -> np.ndarray:
    """Points of a range image in the vehicle's frame.

    Args:
        image: (H, W, C): range in metres (not positive: no echo), intensity, ...
        inclination: (H,), from `inclinations`.
        T_vehicle_laser: (4, 4).
        pixel_poses: (H, W, 6): roll, pitch, yaw, x, y, z of the vehicle in the world when each
            pixel was measured; only the top lidar has them.
        T_world_vehicle: (4, 4), the vehicle at the frame's time; needed with `pixel_poses`.

    Returns:
        (N, 4) float32: x, y, z, and the intensity squashed into [0, 1): it is unbounded.

    Raises:
        UnusableError: The poses are not one for each pixel.
    """
    distance = image[..., 0]
    with np.errstate(invalid='ignore'):
        # A NaN is kept for now: it is counted where all points that are not finite are.
        seen = ~(distance <= 0)
    row, column = np.nonzero(seen)
    azimuth = azimuths(image.shape[1], T_vehicle_laser)[column]
    tilt = inclination[row]
    r = distance[seen].astype(np.float64)
    xyz = np.column_stack(
        [r * np.cos(azimuth) * np.cos(tilt), r * np.sin(azimuth) * np.cos(tilt), r * np.sin(tilt)]
    )
    xyz = transform_points(T_vehicle_laser, xyz)
    if pixel_poses is not None and T_world_vehicle is not None:
        if pixel_poses.shape[:2] != image.shape[:2]:
            raise UnusableError('scan: not a pose for each pixel')
        poses = pixel_poses[seen].astype(np.float64)
        world = np.einsum('nij,nj->ni', _rotations(poses[:, :3]), xyz) + poses[:, 3:6]
        xyz = transform_points(invert_transform(T_world_vehicle), world)
    with np.errstate(invalid='ignore'):
        intensity = np.tanh(np.maximum(image[..., 1][seen], 0))
    return np.column_stack([xyz, intensity]).astype(np.float32)


def projection_error(
    image: np.ndarray,
    projected: np.ndarray,
    points: np.ndarray,
    camera: int,
    T_camera_vehicle: np.ndarray,
    rectifier: Rectifier,
) -> float | None:
    """How far points fall from where the data set says that they fall.

    Args:
        image: (H, W, C), a range image.
        projected: (H, W, 6) of lidar_camera_projection: camera, x, y, and again for a second one.
        points: (N, 4), from `to_points` of the image.
        camera: `key.camera_name`.
        T_camera_vehicle: (4, 4), into the optical frame when the camera took its image.
        rectifier: Of the camera; the stated pixels are those of the distorted image.

    Returns:
        Median distance in pixels, or None where too few points are stated.
    """
    if projected.shape[:2] != image.shape[:2]:
        return None
    stated = projected[image[..., 0] > 0]
    if len(stated) != len(points):
        return None
    mine = stated[:, 0] == camera
    xyz = transform_points(T_camera_vehicle, points[mine, :3])
    front = xyz[:, 2] > 1
    if front.sum() < 100:
        return None
    D = np.asarray(rectifier.D, np.float64)
    uv = cv2.projectPoints(xyz[front], np.zeros(3), np.zeros(3), rectifier.K_raw, D)[0][:, 0]
    return float(np.median(np.linalg.norm(uv - stated[mine][front, 1:3], axis=1)))


def _rotations(angles: np.ndarray) -> np.ndarray:
    """(N, 3, 3) Rz(yaw) Ry(pitch) Rx(roll) of (N, 3) roll, pitch, yaw."""
    (cr, cp, cy), (sr, sp, sy) = np.cos(angles).T, np.sin(angles).T
    R = np.empty((len(angles), 3, 3))
    R[:, 0] = np.column_stack([cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr])
    R[:, 1] = np.column_stack([sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr])
    R[:, 2] = np.column_stack([-sp, cp * sr, cp * cr])
    return R


def _check_columns(file: pq.ParquetFile, columns: Sequence[str]) -> None:
    for column in columns:
        if column not in file.schema_arrow.names:
            raise KeyError(column)


def _open(path: Path) -> pq.ParquetFile:
    # A buffered stream reads on with the rows; else a whole column of a row group is in memory.
    return pq.ParquetFile(
        path, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True
    )
