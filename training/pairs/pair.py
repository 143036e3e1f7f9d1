# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""One synchronized camera frame and lidar scan, and its three members in a shard."""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clcp_ros import image_codec
from clcp_ros.errors import PairSetError

COLUMNS = ('x', 'y', 'z', 'intensity')
"""The first columns of every scan; `ring` and `time` may follow."""


@dataclass
class Pair:
    """A rectified camera frame and the scan that belongs to it.

    Attributes:
        key: `<sequence>/<frame>`, unique in a set.
        sequence: Name of the recording.
        camera: Name of the camera.
        lidar: Name of the lidar.
        camera_stamp_ns: Time of the frame.
        lidar_stamp_ns: Time of the scan.
        image: (H, W, 3) uint8 RGB, rectified; None where `encoded` holds it.
        points: (N, C) float32, lidar frame; x, y, z in metres, intensity in [0, 1], and what
            `columns` says.
        K: (3, 3) float64 of the rectified image.
        T_camera_lidar: (4, 4) float64.
        columns: Names of the columns of `points`.
        T_world_ego: (4, 4) float64 or None.
        tags: Condition, weather, light, ...
        source: Reader and file names.
        encoded: The image as a whole JPEG or PNG file, kept as recorded when it needs no change.
        checked: The reader has found that `encoded` can be decoded.
    """

    key: str
    sequence: str
    camera: str
    lidar: str
    camera_stamp_ns: int
    lidar_stamp_ns: int
    image: np.ndarray | None
    points: np.ndarray
    K: np.ndarray
    T_camera_lidar: np.ndarray
    columns: tuple[str, ...] = COLUMNS
    T_world_ego: np.ndarray | None = None
    tags: dict[str, str] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)
    encoded: bytes | memoryview | None = None
    checked: bool = False

    @property
    def xyz(self) -> np.ndarray:
        """(N, 3) float32, lidar frame, metres."""
        return self.points[:, :3]

    @property
    def intensity(self) -> np.ndarray:
        """(N,) float32 in [0, 1]."""
        return self.points[:, 3]

    def size(self) -> tuple[int, int]:
        """Width and height of the image, which is not decoded for that."""
        if self.image is None and self.encoded is not None:
            return image_codec.image_size(self.encoded)
        height, width = self.pixels().shape[:2]
        return width, height

    def pixels(self) -> np.ndarray:
        """The image, (H, W, 3) uint8 RGB, decoded if need be."""
        if self.image is None:
            if self.encoded is None:
                raise PairSetError(f'pair {self.key} has no image')
            self.image = image_codec.decode_bytes(self.encoded)
        return self.image


def pair_meta(pair: Pair, width: int, height: int) -> dict[str, Any]:
    """The content of a sample's `.json`, in the order of docs/formats.md."""
    return {
        'key': pair.key,
        'sequence': pair.sequence,
        'camera': pair.camera,
        'lidar': pair.lidar,
        'camera_stamp_ns': int(pair.camera_stamp_ns),
        'lidar_stamp_ns': int(pair.lidar_stamp_ns),
        'width': width,
        'height': height,
        'K': np.asarray(pair.K, np.float64).tolist(),
        'T_camera_lidar': np.asarray(pair.T_camera_lidar, np.float64).tolist(),
        'T_world_ego': None
        if pair.T_world_ego is None
        else np.asarray(pair.T_world_ego, np.float64).tolist(),
        'columns': list(pair.columns),
        'tags': pair.tags,
        'source': pair.source,
    }


def points_to_bytes(points: np.ndarray) -> bytes:
    """An `.npy` file of float32."""
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(points, np.float32), allow_pickle=False)
    return stream.getvalue()


def points_from_bytes(data: bytes | memoryview, where: str) -> np.ndarray:
    """(N, C) float32 of an `.npy` file: a read-only view of its bytes, not a copy.

    Raises:
        PairSetError: It is not such a file.
    """
    try:
        # Version 1 of the format, which is what is written: 8 bytes, the header's length, the
        # header. A header of some other kind is refused before it is parsed.
        if len(data) < 10 or bytes(data[:8]) != b'\x93NUMPY\x01\x00':
            raise ValueError('no npy file')
        end = 10 + int.from_bytes(data[8:10], 'little')
        header = _HEADER.fullmatch(bytes(data[10:end]))
        if header is None:
            raise ValueError('not C-ordered float32 of two dimensions')
        rows, columns = int(header[1]), int(header[2])
        if columns < len(COLUMNS) or len(data) - end != rows * columns * 4:
            raise ValueError(f'{len(data) - end} bytes for {rows} x {columns}')
        return np.frombuffer(data, '<f4', offset=end).reshape(rows, columns)
    except ValueError as error:
        raise PairSetError(f'{where}: damaged points: {error}') from None


_HEADER = re.compile(
    rb"\{'descr': '<f4', 'fortran_order': False, 'shape': \((\d{1,10}), (\d{1,4})\), \} *\n"
)


def pair_from_members(
    image: bytes | memoryview,
    points: bytes | memoryview,
    meta: bytes | memoryview,
    where: str,
) -> Pair:
    """A pair from its three members; the image stays encoded.

    Raises:
        PairSetError: The members do not fit each other or docs/formats.md.
    """
    try:
        fields = json.loads(bytes(meta))
        ego = fields['T_world_ego']
        pair = Pair(
            fields['key'],
            fields['sequence'],
            fields['camera'],
            fields['lidar'],
            fields['camera_stamp_ns'],
            fields['lidar_stamp_ns'],
            None,
            points_from_bytes(points, where),
            np.array(fields['K'], np.float64).reshape(3, 3),
            np.array(fields['T_camera_lidar'], np.float64).reshape(4, 4),
            tuple(fields['columns']),
            None if ego is None else np.array(ego, np.float64).reshape(4, 4),
            fields['tags'],
            fields['source'],
            image,
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise PairSetError(f'{where}: damaged description: {error!r}') from None
    if len(pair.columns) != pair.points.shape[1]:
        raise PairSetError(f'{where}: {pair.points.shape[1]} columns, named {pair.columns}')
    return pair
