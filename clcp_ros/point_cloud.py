# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""sensor_msgs/PointCloud2 to arrays, whatever its layout; no ROS needed."""

from __future__ import annotations

from typing import Any

import numpy as np

from clcp_ros.errors import RecordingError

# sensor_msgs/PointField's datatype constants
_TYPES = {1: 'i1', 2: 'u1', 3: 'i2', 4: 'u2', 5: 'i4', 6: 'u4', 7: 'f4', 8: 'f8'}

_POSITION = ('xyz', 'position', 'point', 'points')
"""A field of three elements where others have x, y and z."""

INTENSITY = (
    'intensity',
    'intensities',
    'reflectivity',
    'reflectance',
    'reflectivities',
    'remission',
    'i',
    'signal',
    'amplitude',
)
"""Names of the field that holds the strength of the return, in the order of preference."""


def cloud_fields(message: Any) -> np.ndarray:
    """A cloud as a structured array, one entry a point; nothing is copied.

    Works for any order of fields, padding within points and after rows, and both byte orders.

    Args:
        message: A sensor_msgs/PointCloud2.

    Returns:
        (N,) with the message's fields; of fields with several elements the first, but x, y and z
        of one that holds a position. Fields that could only be padding are left out.

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
        dtype = np.dtype(order + _TYPES[field.datatype])
        # PCL names its padding "_"; count 0 is written by old drivers for 1
        if not field.name or field.name in names or (field.name == '_' and field.count > 1):
            continue
        if field.name.lower() in _POSITION and field.count >= 3:
            elements = list('xyz')
        else:
            elements = [field.name.lower() if field.name in ('X', 'Y', 'Z') else field.name]
        for number, name in enumerate(elements):
            offset = int(field.offset) + number * dtype.itemsize
            if offset + dtype.itemsize > point_step:
                raise RecordingError(
                    f'contradictory layout: point field {field.name!r} at {field.offset} is '
                    f'outside of points of {point_step} bytes'
                )
            if name not in names:
                names.append(name)
                formats.append(dtype.str)
                offsets.append(offset)
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


def intensity_field(cloud: np.ndarray) -> str | None:
    """Name of the field that holds the strength of the return, or None.

    Args:
        cloud: From `cloud_fields`.
    """
    lower = {name.lower(): name for name in reversed(cloud.dtype.names or ())}
    return next((lower[name] for name in INTENSITY if name in lower), None)


def intensity_scale(values: np.ndarray, dtype: np.dtype) -> float:
    """The full range that the values seen point to: 1, 255 (8 bit), 4095 (12 bit) or 65535.

    Args:
        values: Finite.
        dtype: Of the field.
    """
    if dtype.itemsize == 1:
        return 255.0
    largest = float(values.max()) if len(values) else 0.0
    if dtype.kind == 'f':
        # Luminar's reflectance is 1 for a white wall, and more for reflectors: judged by nearly
        # all points. Whole numbers are counts, however small.
        share = float(np.mean(values <= 1.0)) if len(values) else 1.0
        if largest <= 1.0 or (largest <= 16 and share > 0.9 and (values % 1 != 0).any()):
            return 1.0
    return next((full for full in (255.0, 4095.0) if largest <= full), 65535.0)


def read_points(
    message: Any, least_scale: float = 0.0
) -> tuple[np.ndarray, np.ndarray | None, float]:
    """Places and strengths of a cloud's points.

    Args:
        message: A sensor_msgs/PointCloud2.
        least_scale: Full range of the intensity that earlier clouds of the topic had: one cloud
            without a bright point must not be scaled otherwise.

    Returns:
        xyz (N, 3) float32, which may hold what is not finite; intensity (N,) float32 in [0, 1], or
        None without such a field; and the full range of the intensity.

    Raises:
        RecordingError: The message contradicts itself.
    """
    cloud = cloud_fields(message)
    xyz = np.empty((len(cloud), 3), np.float32)
    # Random bytes may be any number.
    with np.errstate(over='ignore', invalid='ignore'):
        for column, axis in enumerate('xyz'):
            xyz[:, column] = cloud[axis]
        name = intensity_field(cloud)
        if name is None:
            return xyz, None, least_scale
        raw = cloud[name].astype(np.float32)
        finite = raw[np.isfinite(raw)]
        scale = max(least_scale, intensity_scale(finite, cloud.dtype[name]))
        raw /= np.float32(scale)
        intensity = np.clip(np.nan_to_num(raw, nan=0.0), 0, 1)
    return xyz, intensity, scale
