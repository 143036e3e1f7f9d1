# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The text files that the KITTI family shares: calibration tables, poses, timestamps."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from clcp_ros.errors import CalibrationError, RecordingError
from training.pairs.geometry import check_intrinsics, make_transform

FRAME_PERIOD_NS = 100_000_000
"""10 Hz; stands in for missing timestamps."""


def read_table(path: Path, hint: str) -> dict[str, np.ndarray]:
    """A file of lines `name: numbers`.

    Args:
        path: The file.
        hint: Where it is to be had, for the error when it is missing.

    Returns:
        Name: (N,) float64; lines that hold other things are left out.

    Raises:
        CalibrationError: No such file.
    """
    try:
        text = path.read_text(errors='replace')
    except OSError:
        raise CalibrationError(f'{path} is missing; {hint}') from None
    table = {}
    for line in text.splitlines():
        name, separator, values = line.partition(':')
        if not separator:  # SemanticKITTI's own copies have been seen without colons
            name, _, values = line.partition(' ')
        try:
            table[name.strip()] = np.array([float(v) for v in values.split()])
        except ValueError:
            continue  # calib_time and the like
    return table


def entry(
    table: dict[str, np.ndarray], name: str, shape: tuple[int, ...], path: Path
) -> np.ndarray:
    """An entry of a table in its shape.

    Raises:
        CalibrationError: Missing, of another size, or not finite.
    """
    values = table.get(name)
    if values is None:
        raise CalibrationError(f'{path} lacks {name!r}')
    if values.size != np.prod(shape):
        raise CalibrationError(
            f'{path}: {name!r} has {values.size} numbers, not {int(np.prod(shape))}'
        )
    if not np.isfinite(values).all():
        raise CalibrationError(f'{path}: {name!r} holds what is no finite number')
    return values.reshape(shape)


def split_projection(P: np.ndarray, where: str) -> tuple[np.ndarray, np.ndarray]:
    """P = K [I | t]: the camera's place on the rig goes into the extrinsics.

    Args:
        P: (3, 4), of a rectified camera.
        where: For messages.

    Returns:
        K (3, 3) and T_camera_rect (4, 4).
    """
    K = check_intrinsics(P[:, :3], where)
    return K, make_transform(np.eye(3), np.linalg.solve(K, P[:, 3]))


def read_stamps(path: Path, numbers: np.ndarray) -> np.ndarray | None:
    """Stamps of a `timestamps.txt` for frames.

    The file has a line per frame of the drive, also for frames whose file is missing; of a sensor
    that lost frames some files have lines only for those there are.

    Args:
        path: The file.
        numbers: (N,) of the frames.

    Returns:
        (N,) int64 nanoseconds, or None where there is no such file or it does not fit.
    """
    try:
        lines = path.read_text(errors='replace').rstrip().split('\n')
    except OSError:
        return None
    if len(numbers) and len(lines) > numbers.max():
        chosen = [lines[number] for number in numbers.tolist()]
    elif len(lines) == len(numbers):
        chosen = lines
    else:
        return None
    try:
        return np.array([parse_stamp(line) for line in chosen], np.int64)
    except (ValueError, OverflowError):
        return None


def parse_stamp(text: str) -> int:
    """Nanoseconds of 'YYYY-MM-DD HH:MM:SS.nnnnnnnnn', taken as UTC.

    Raises:
        ValueError: Not such a text.
    """
    seconds, _, fraction = text.strip().partition('.')
    moment = datetime.strptime(seconds, '%Y-%m-%d %H:%M:%S').replace(tzinfo=timezone.utc)
    return int(moment.timestamp()) * 1_000_000_000 + int(fraction.ljust(9, '0')[:9] or 0)


def frame_numbers(files: list[Path]) -> np.ndarray:
    """(N,) int64 of files named by their numbers.

    Raises:
        RecordingError: They are not.
    """
    try:
        return np.array([int(path.stem) for path in files], np.int64)
    except (ValueError, OverflowError):
        raise RecordingError(f'{files[0].parent}: file names are not frame numbers') from None


def sweep_offsets(xyz: np.ndarray, period_s: float) -> np.ndarray:
    """Times of a Velodyne HDL-64E's points, which the files do not hold, from their directions.

    Cameras and stamps are of the moment at which the scanner looks forward. It turns clockwise
    seen from above, so what is on the left comes first: KITTI-360's devkit (accumuLaser,
    CurlVelodyneData) and KISS-ICP take it so, although KITTI's readme says otherwise.

    Args:
        xyz: (N, 3), x forward, y left.
        period_s: Of a turn.

    Returns:
        (N,) float64 seconds, negative on the left.
    """
    azimuth = np.arctan2(xyz[:, 1].astype(np.float64), xyz[:, 0].astype(np.float64))
    return -azimuth / (2 * np.pi) * period_s


def read_poses(path: Path, columns: int) -> np.ndarray | None:
    """Lines of numbers.

    Args:
        path: The file.
        columns: Numbers of a line.

    Returns:
        (N, columns) float64, rows of NaN for lines that are something else; None without file.
    """
    try:
        lines = path.read_text(errors='replace').splitlines()
    except OSError:
        return None
    rows = np.full((len(lines), columns), np.nan)
    for row, line in zip(rows, lines, strict=True):
        try:
            values = [float(value) for value in line.split()]
        except ValueError:
            continue
        if len(values) == columns:
            row[:] = values
    return rows
