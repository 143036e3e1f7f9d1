# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Livox' own message, CustomMsg, to the arrays that `cloud_fields` gives of a PointCloud2."""

from __future__ import annotations

import struct

import numpy as np

from clcp_ros.errors import RecordingError

_FIELDS = (
    ('offset_time', 'u4'),  # ns from the message's time base, which is its stamp
    ('x', 'f4'),
    ('y', 'f4'),
    ('z', 'f4'),
    ('reflectivity', 'u1'),
    ('tag', 'u1'),
    ('line', 'u1'),
)
_POINT_BYTES = 19


def livox_fields(raw: bytes, is_ros2: bool) -> np.ndarray:
    """A CustomMsg (header, timebase, point_num, lidar_id, rsvd[3], points) as structured array.

    Decoded by hand: as objects, the 20,000 points of a message would take a second.

    Args:
        raw: The serialised message.
        is_ros2: CDR instead of ROS 1's packed bytes.

    Returns:
        (N,) with the fields of CustomPoint.

    Raises:
        RecordingError: The message contradicts itself.
    """
    order = '<'
    try:
        if is_ros2:
            order = '<' if raw[1] & 1 else '>'
            (frame,) = struct.unpack_from(f'{order}I', raw, 12)
            # CDR aligns from behind the encapsulation: the 64-bit time base to 8, counts to 4.
            position = 4 + _aligned(16 + frame - 4, 8) + 8
        else:
            (frame,) = struct.unpack_from('<I', raw, 12)
            position = 16 + frame + 8
        (stated,) = struct.unpack_from(f'{order}I', raw, position)
        (count,) = struct.unpack_from(f'{order}I', raw, position + 8)
    except (struct.error, IndexError):
        raise RecordingError('contradictory layout: a CustomMsg that ends in its header') from None
    step = _aligned(_POINT_BYTES, 4) if is_ros2 else _POINT_BYTES
    start = position + 12
    needed = (count - 1) * step + _POINT_BYTES if count else 0
    if count != stated or start + needed > len(raw):
        raise RecordingError(
            f'contradictory layout: a CustomMsg of {stated} points has {count}, in '
            f'{len(raw)} bytes'
        )
    offsets = np.cumsum([0] + [np.dtype(kind).itemsize for _, kind in _FIELDS])[:-1].tolist()
    layout = np.dtype(
        {
            'names': [name for name, _ in _FIELDS],
            'formats': [order + kind for _, kind in _FIELDS],
            'offsets': offsets,
            'itemsize': _POINT_BYTES,
        }
    )
    if not count:
        return np.zeros(0, layout)
    return np.ndarray((count,), layout, raw, start, (step,))


def _aligned(position: int, size: int) -> int:
    return (position + size - 1) // size * size
