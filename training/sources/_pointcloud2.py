# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""sensor_msgs/PointCloud2 to arrays, whatever its layout, and its vendors' conventions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from clcp_ros.errors import RecordingError
from training.pairs.pair import COLUMNS
from training.sources.base import Drops, keep_finite

# sensor_msgs/PointField's datatype constants
_TYPES = {1: 'i1', 2: 'u1', 3: 'i2', 4: 'u2', 5: 'i4', 6: 'u4', 7: 'f4', 8: 'f8'}

_INTENSITY = (
    'intensity',
    'intensities',
    'reflectivity',
    'reflectance',
    'remission',
    'i',
    'signal',
)
_RING = ('ring', 'channel', 'line', 'laser_id', 'row')
_TIME = ('t', 'time', 'timestamp', 'offset_time', 'time_offset', 'time_stamp', 'timeoffset')


@dataclass(frozen=True)
class Convention:
    """How one lidar's driver writes its columns; learned once, so that all scans are alike.

    Attributes:
        intensity: Field, or None: then intensity is 0.
        intensity_scale: The value that becomes 1.
        ring: Field, or None.
        time: Field, or None.
        time_unit: Seconds per unit.
        time_absolute: Times count from an epoch, not from the scan's stamp.
    """

    intensity: str | None = None
    intensity_scale: float = 1.0
    ring: str | None = None
    time: str | None = None
    time_unit: float = 1.0
    time_absolute: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of `decode_cloud`."""
        return COLUMNS + ('ring',) * (self.ring is not None) + ('time',) * (self.time is not None)

    def describe(self) -> str:
        """For the report."""
        if self.intensity is None:
            text = 'scans have no intensity: it is 0'
        else:
            text = f'intensity is {self.intensity} / {self.intensity_scale:g}'
        if self.time is not None:
            kind = 'absolute' if self.time_absolute else 'relative'
            text += f', time is {self.time} ({kind}, units of {self.time_unit:g} s)'
        return text


def cloud_fields(message: Any) -> np.ndarray:
    """A cloud as a structured array, one entry a point; nothing is copied.

    Works for any order of fields, padding within points and after rows, and both byte orders.

    Args:
        message: A sensor_msgs/PointCloud2.

    Returns:
        (N,) with the message's fields; fields of several elements are left out.

    Raises:
        RecordingError: The message contradicts itself.
    """
    order = '>' if message.is_bigendian else '<'
    width, height, point_step = int(message.width), int(message.height), int(message.point_step)
    names: list[str] = []
    formats: list[str] = []
    offsets: list[int] = []
    for field in message.fields:
        if field.datatype not in _TYPES:
            raise RecordingError(f'point field {field.name!r} has unknown type {field.datatype}')
        # count 0 is written by old drivers for 1
        if field.count > 1 or not field.name or field.name in names:
            continue
        dtype = np.dtype(order + _TYPES[field.datatype])
        if field.offset + dtype.itemsize > point_step:
            raise RecordingError(
                f'contradictory layout: point field {field.name!r} at {field.offset} is outside '
                f'of points of {point_step} bytes'
            )
        names.append(field.name)
        formats.append(dtype.str)
        offsets.append(int(field.offset))
    missing = [axis for axis in 'xyz' if axis not in names]
    if missing:
        raise RecordingError(f'points without {", ".join(missing)}; they have {", ".join(names)}')
    data = np.frombuffer(message.data, np.uint8) if len(message.data) else np.zeros(0, np.uint8)
    row_step = int(message.row_step) if height > 1 else width * point_step
    needed = (height - 1) * row_step + width * point_step if width and height else 0
    if (height > 1 and row_step < width * point_step) or data.size < needed:
        raise RecordingError(
            f'contradictory layout: a cloud of {width} x {height} points of {point_step} bytes, '
            f'row_step {message.row_step}, has {data.size} bytes'
        )
    layout = np.dtype(
        {'names': names, 'formats': formats, 'offsets': offsets, 'itemsize': point_step}
    )
    if not needed:
        return np.zeros(0, layout)
    return np.ndarray(
        (height, width), layout, data, strides=(row_step, point_step)
    ).reshape(-1)  # fmt: skip


def learn_convention(clouds: list[np.ndarray]) -> Convention:
    """Find out from a few clouds what the columns mean.

    Args:
        clouds: From `cloud_fields`, of one topic.
    """
    clouds = [cloud for cloud in clouds if len(cloud)]
    if not clouds:
        return Convention()
    fields = clouds[0].dtype.fields
    assert fields is not None
    lower = {name.lower(): name for name in reversed(list(fields))}

    def find(candidates: tuple[str, ...]) -> str | None:
        return next((lower[name] for name in candidates if name in lower), None)

    def values(name: str) -> np.ndarray:
        joined = np.concatenate([np.asarray(cloud[name], np.float64) for cloud in clouds])
        return joined[np.isfinite(joined)]

    intensity, ring, time = find(_INTENSITY), find(_RING), find(_TIME)
    scale = 1.0 if intensity is None else _intensity_scale(values(intensity), fields[intensity][0])
    unit, absolute = (1.0, False) if time is None else _time_unit(values(time))
    return Convention(intensity, scale, ring, time, unit, absolute)


def decode_cloud(
    message: Any, convention: Convention, stamp_ns: int, dropped: Drops
) -> np.ndarray:
    """Points of a message.

    Args:
        message: A sensor_msgs/PointCloud2.
        convention: Of its topic.
        stamp_ns: Of the scan; times are relative to it.
        dropped: Gets the numbers of NaN and (0, 0, 0) points.

    Returns:
        (N, C) float32 with `convention.columns`, finite rows only.

    Raises:
        RecordingError: The message contradicts itself, or lacks a field that others had.
    """
    cloud = cloud_fields(message)
    wanted = [n for n in (convention.intensity, convention.ring, convention.time) if n is not None]
    missing = [name for name in wanted if name not in (cloud.dtype.names or ())]
    if missing:
        raise RecordingError(f'points without {", ".join(missing)}, which earlier scans had')
    points = np.zeros((len(cloud), len(convention.columns)), np.float32)
    # Values beyond float32, as random bytes may be, become infinite and go with the NaN.
    with np.errstate(over='ignore', invalid='ignore'):
        for column, axis in enumerate('xyz'):
            points[:, column] = cloud[axis]
        if convention.intensity is not None:
            raw = np.asarray(cloud[convention.intensity], np.float64)
            points[:, 3] = (raw / convention.intensity_scale).clip(0, 1)
        if convention.ring is not None:
            points[:, 4] = cloud[convention.ring]
        if convention.time is not None:
            points[:, -1] = _relative_time(cloud[convention.time], convention, stamp_ns)
    return keep_finite(points, dropped, drop_origin=True)


def _intensity_scale(values: np.ndarray, dtype: np.dtype) -> float:
    """The full range that the values seen point to: 1, 255 (8 bit), 4095 (12 bit) or 65535."""
    largest = float(values.max()) if len(values) else 0.0
    if dtype.kind == 'f' and largest <= 1.0:
        return 1.0
    return next((full for full in (255.0, 4095.0) if largest <= full), 65535.0)


def _time_unit(values: np.ndarray) -> tuple[float, bool]:
    """Seconds per unit, and whether times count from an epoch; told by size.

    A scan lasts 0.02 to 1 s, an epoch's time is about 1e9 s.
    """
    if not len(values):
        return 1.0, False
    largest = float(np.abs(values).max())
    span = float(values.max() - values.min())
    for unit in (1.0, 1e-3, 1e-6, 1e-9):
        if 1e8 <= largest * unit <= 1e10 and span * unit <= 2.0:
            return unit, True
    for unit in (1.0, 1e-3, 1e-6, 1e-9):
        if largest * unit <= 2.0:
            return unit, False
    return 1e-9, False


def _relative_time(raw: np.ndarray, convention: Convention, stamp_ns: int) -> np.ndarray:
    if not convention.time_absolute:
        return np.asarray(raw, np.float64) * convention.time_unit
    per_second = round(1 / convention.time_unit)
    if raw.dtype.kind in 'iu':
        # Subtract while these are integers: float64 keeps only 0.2 µs of a time in 2026.
        start = stamp_ns * per_second // 1_000_000_000
        return (raw.astype(np.int64) - start) * convention.time_unit
    return np.asarray(raw, np.float64) * convention.time_unit - stamp_ns * 1e-9
