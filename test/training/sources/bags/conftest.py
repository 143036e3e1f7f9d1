# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Bags of every container and layout, written with rosbags."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.rosbag2 import Writer as Writer2
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from training.pairs.pair import Pair
from training.sources import SourceOptions, open_source
from training.sources.base import Drops

START = 1_700_000_000_000_000_000
STEP = 100_000_000
WIDTH, HEIGHT = 64, 48
K = np.array([[40.0, 0, 31.5], [0, 40, 23.5], [0, 0, 1]])
T_CAMERA_LIDAR = np.array([[0, -1, 0, 0.0], [0, 0, -1, -0.5], [1, 0, 0, 0], [0, 0, 0, 1.0]])
"""Of `mounts`: the camera looks along the lidar's x, half a metre below it."""

CONTAINERS = (
    'mcap', 'sqlite3', 'ros1', 'mcap-zstd', 'sqlite3-message-zstd', 'sqlite3-file-zstd',
    'ros1-lz4', 'ros1-bz2',
)  # fmt: skip
LIVOX_POINT = (
    'uint32 offset_time\nfloat32 x\nfloat32 y\nfloat32 z\nuint8 reflectivity\nuint8 tag\n'
    'uint8 line'
)
LIVOX = (
    'std_msgs/Header header\nuint64 timebase\nuint32 point_num\nuint8 lidar_id\nuint8[3] rsvd\n'
    'livox_ros_driver2/CustomPoint[] points'
)


@functools.cache
def store(ros1: bool = False) -> Typestore:
    """The common messages, tf2 for ROS 1, Livox' and one that nobody knows."""
    made = get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_JAZZY)
    if ros1:
        tf = 'geometry_msgs/TransformStamped[] transforms'
        made.register(get_types_from_msg(tf, 'tf2_msgs/msg/TFMessage'))
    point, custom = (f'livox_ros_driver2/msg/Custom{n}' for n in ('Point', 'Msg'))
    made.register(get_types_from_msg(LIVOX_POINT, point))
    made.register(get_types_from_msg(LIVOX, custom))
    made.register(get_types_from_msg('int32[] secrets\nstring owner', 'acme_msgs/msg/Odd'))
    return made


def make(kind: str, /, **fields: Any) -> Any:
    """A ROS 2 message; those of ROS 1 are made of it when a bag is written."""
    return store().types[kind](**fields)


def header(stamp_ns: int, frame: str) -> Any:
    sec, nanosec = divmod(stamp_ns, 1_000_000_000)
    stamp = make('builtin_interfaces/msg/Time', sec=sec, nanosec=nanosec)
    return make('std_msgs/msg/Header', stamp=stamp, frame_id=frame)


def picture(number: int) -> np.ndarray:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([x * 3, y * 4, np.full_like(x, 20 * number % 255)], -1).astype(np.uint8)


def image(stamp_ns: int, pixels: np.ndarray, encoding: str = 'rgb8', **changes: Any) -> Any:
    height, width = pixels.shape[:2]
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(height, -1)
    fields = {
        'header': header(stamp_ns, 'cam_optical'), 'height': height, 'width': width,
        'encoding': encoding, 'is_bigendian': 0, 'step': rows.shape[1], 'data': rows.ravel(),
    }  # fmt: skip
    return make('sensor_msgs/msg/Image', **{**fields, **changes})


def compressed(stamp_ns: int, data: bytes, stated: str = 'jpeg') -> Any:
    return make('sensor_msgs/msg/CompressedImage', header=header(stamp_ns, 'cam_optical'),
                format=stated, data=np.frombuffer(data, np.uint8))  # fmt: skip


def camera_info(
    stamp_ns: int, roi: tuple[int, int, int, int] = (0, 0, 0, 0), **changes: Any
) -> Any:
    """`roi` is x, y, width, height."""
    region = make('sensor_msgs/msg/RegionOfInterest', x_offset=roi[0], y_offset=roi[1],
                  width=roi[2], height=roi[3], do_rectify=False)  # fmt: skip
    fields = {
        'header': header(stamp_ns, 'cam_optical'), 'height': HEIGHT, 'width': WIDTH,
        'distortion_model': 'plumb_bob', 'd': np.zeros(5), 'k': K.ravel(), 'r': np.zeros(9),
        'p': np.zeros(12), 'binning_x': 0, 'binning_y': 0, 'roi': region,
    }  # fmt: skip
    return make('sensor_msgs/msg/CameraInfo', **{**fields, **changes})


def cloud(
    stamp_ns: int, columns: dict[str, np.ndarray], frame: str = 'lidar', counts: Any = None
) -> Any:
    """Columns of any of the eight types, in this order; (N, k) is a field of k elements."""
    codes = {'i1': 1, 'u1': 2, 'i2': 3, 'u2': 4, 'i4': 5, 'u4': 6, 'f4': 7, 'f8': 8}
    fields, parts, offset = [], [], 0
    for name, values in columns.items():
        count = 1 if values.ndim == 1 else values.shape[1]
        fields.append(make('sensor_msgs/msg/PointField', name=name, offset=offset,
                           datatype=codes[values.dtype.str[1:]], count=count))  # fmt: skip
        parts.append(np.ascontiguousarray(values).view(np.uint8).reshape(len(values), -1))
        offset += parts[-1].shape[1]
    data = np.concatenate(parts, axis=1)
    return make(
        'sensor_msgs/msg/PointCloud2', header=header(stamp_ns, frame), height=1, width=len(data),
        fields=fields, is_bigendian=False, point_step=offset, row_step=offset * len(data),
        data=data.ravel(), is_dense=False,
    )  # fmt: skip


def points(number: int, count: int = 100) -> dict[str, np.ndarray]:
    """x, y, z, intensity 0..255 in front of the camera, ring, and time over 0.1 s."""
    rng = np.random.default_rng(number)
    place = rng.uniform([5, -2, -1.5], [30, 2, 0.5], (count, 3)).astype(np.float32)
    return {
        'x': place[:, 0], 'y': place[:, 1], 'z': place[:, 2],
        'intensity': rng.uniform(2, 255, count).astype(np.float32),
        'ring': rng.integers(0, 16, count).astype(np.uint16),
        'time': np.linspace(0, 0.0999, count).astype(np.float32),
    }  # fmt: skip


def named(names: str, values: tuple) -> dict[str, float]:
    return dict(zip(names, map(float, values), strict=True))


def transform(
    parent: str, child: str, xyz: tuple = (0, 0, 0), q: tuple = (0, 0, 0, 1), stamp_ns: int = START
) -> Any:
    body = make(
        'geometry_msgs/msg/Transform',
        translation=make('geometry_msgs/msg/Vector3', **named('xyz', xyz)),
        rotation=make('geometry_msgs/msg/Quaternion', **named('xyzw', q)),
    )  # fmt: skip
    return make('geometry_msgs/msg/TransformStamped', header=header(stamp_ns, parent),
                child_frame_id=child, transform=body)  # fmt: skip


def tf(*transforms: Any) -> Any:
    return make('tf2_msgs/msg/TFMessage', transforms=list(transforms))


def odometry(stamp_ns: int, xyz: tuple, q: tuple = (0, 0, 0, 1), child: str = 'base_link') -> Any:
    covariance = np.zeros(36)
    pose = make(
        'geometry_msgs/msg/Pose',
        position=make('geometry_msgs/msg/Point', **named('xyz', xyz)),
        orientation=make('geometry_msgs/msg/Quaternion', **named('xyzw', q)),
    )  # fmt: skip
    zero = make('geometry_msgs/msg/Vector3', x=0.0, y=0.0, z=0.0)
    twist = make('geometry_msgs/msg/Twist', linear=zero, angular=zero)
    return make(
        'nav_msgs/msg/Odometry', header=header(stamp_ns, 'odom'), child_frame_id=child,
        pose=make('geometry_msgs/msg/PoseWithCovariance', pose=pose, covariance=covariance),
        twist=make('geometry_msgs/msg/TwistWithCovariance', twist=twist, covariance=covariance),
    )  # fmt: skip


def mounts() -> Any:
    return tf(
        transform('base_link', 'lidar', (0, 0, 2)),
        transform('base_link', 'cam_optical', (0, 0, 1.5), (-0.5, 0.5, -0.5, 0.5)),
    )


class Drive:
    """Messages: (topic, time of recording, message); by default four good pairs."""

    def __init__(self, pairs: int = 4) -> None:
        self.messages: list[tuple[str, int, Any]] = [
            ('/tf_static', START, mounts()),
            ('/cam/camera_info', START, camera_info(START)),
        ]
        for i in range(pairs):
            stamp = START + i * STEP
            self.add('/cam/image_raw', stamp, image(stamp, picture(i)))
            self.add('/lidar/points', stamp + 7_000_000, cloud(stamp + 7_000_000, points(i)))

    def add(self, topic: str, time: int, message: Any) -> Drive:
        self.messages.append((topic, time, message))
        return self

    def without(self, *topics: str) -> Drive:
        self.messages = [m for m in self.messages if m[0] not in topics]
        return self

    def replace(self, topic: str, change: Callable[[int, Any], Any]) -> Drive:
        self.messages = [(t, s, change(s, m) if t == topic else m) for t, s, m in self.messages]
        return self

    def write(self, path: Path, container: str = 'mcap') -> Path:
        if container.startswith('ros1'):
            return self._write_1(path, container)
        plugin = StoragePlugin.MCAP if container.startswith('mcap') else StoragePlugin.SQLITE3
        writer = Writer2(path, version=9, storage_plugin=plugin)
        for part, mode in (
            ('mcap-zstd', CompressionMode.STORAGE), ('message', CompressionMode.MESSAGE),
            ('file', CompressionMode.FILE),
        ):  # fmt: skip
            if part in container:
                writer.set_compression(mode, CompressionFormat.ZSTD)
        with writer:
            connections = {}
            for topic, time, message in sorted(self.messages, key=lambda m: m[1]):
                kind = message.__msgtype__
                if topic not in connections:
                    connections[topic] = writer.add_connection(topic, kind, typestore=store())
                writer.write(connections[topic], time, bytes(store().serialize_cdr(message, kind)))
        return path

    def _write_1(self, path: Path, container: str) -> Path:
        path = path.with_name(f'{path.name}.bag')
        writer = Writer1(path)
        if '-' in container:
            kind = container.partition('-')[2].upper()
            writer.set_compression(Writer1.CompressionFormat[kind])
        with writer:
            connections = {}
            for topic, time, message in sorted(self.messages, key=lambda m: m[1]):
                kind = message.__msgtype__
                if topic not in connections:
                    connections[topic] = writer.add_connection(topic, kind, typestore=store(True))
                data = store(True).serialize_ros1(_ros1(message), kind)
                writer.write(connections[topic], time, bytes(data))
        return path


def _ros1(value: Any) -> Any:
    if isinstance(value, list):
        return [_ros1(entry) for entry in value]
    if not hasattr(value, '__msgtype__'):
        return value
    kind = value.__msgtype__
    fields = {n: _ros1(v) for n, v in vars(value).items() if n != '__msgtype__'}
    if kind == 'std_msgs/msg/Header':
        fields['seq'] = 0
    if kind == 'sensor_msgs/msg/CameraInfo':
        fields = {n.upper() if n in 'dkrp' else n: v for n, v in fields.items()}
    return store(True).types[kind](**fields)


class Read(SimpleNamespace):
    """What came out of a recording."""

    pairs: list[Pair]
    notes: list[str]
    dropped: Drops

    def noted(self, *words: str) -> bool:
        return any(all(word in note for word in words) for note in self.notes)


def read(path: Path, number: int = 0, max_gap: float = 0.05, **options: Any) -> Read:
    _, recordings = open_source(path, 'rosbag', SourceOptions(**options))
    recording = recordings[number]
    matches = recording.match(max_gap)
    dropped = Drops()
    pairs = list(recording.read(matches, recording.sequence, dropped))
    return Read(pairs=pairs, notes=recording.notes, dropped=dropped, recording=recording,
                sequences=[r.sequence for r in recordings], matches=matches)  # fmt: skip


@pytest.fixture(scope='session')
def bags() -> SimpleNamespace:
    """The makers of messages and bags above."""
    names = (
        Drive, read, make, store, header, image, compressed, camera_info, cloud, points, picture,
        transform, tf, odometry, mounts,
    )  # fmt: skip
    return SimpleNamespace(
        **{entry.__name__: entry for entry in names}, START=START, STEP=STEP, WIDTH=WIDTH,
        HEIGHT=HEIGHT, K=K, T_CAMERA_LIDAR=T_CAMERA_LIDAR, CONTAINERS=CONTAINERS,
    )  # fmt: skip


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests that ask for a `container` run on every one."""
    marks = [mark.args[0] for mark in metafunc.definition.iter_markers('parametrize')]
    if 'container' in metafunc.fixturenames and 'container' not in marks:
        metafunc.parametrize('container', CONTAINERS)
