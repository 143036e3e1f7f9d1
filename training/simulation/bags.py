# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Writes rosbag2 recordings (MCAP or sqlite3) of a drive."""

from __future__ import annotations

import copy
import functools
import shutil
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from clcp_ros.image_codec import encode_jpeg, encode_png
from clcp_ros.replay import CONDITION_TOPIC, LABELS_TOPIC
from training.pairs.motion import quaternions
from training.simulation.config import CONDITIONS, EPOCH_NS, CameraConfig, SimulationConfig
from training.simulation.frame import Frame
from training.simulation.lidar import Scan
from training.simulation.recording import Files, Recording, Shot, Truth, drive, pictures

Message = tuple[str, int, bytes]
"""Topic, stamp in nanoseconds, CDR bytes."""

Storage = Literal['mcap', 'sqlite3']

BASE, ODOM = 'base_link', 'odom'
POINTS_TOPIC = '/lidar/points'
STATIC_TOPIC, TF_TOPIC, ODOMETRY_TOPIC = '/tf_static', '/tf', '/odometry'
SEVERITY_TOPIC = '/simulation/severity'

_DAY_NS = 86_400_000_000_000
_FOREVER = QosTime(9_223_372_036, 854_775_807)


@functools.lru_cache(maxsize=1)
def _store() -> Typestore:
    return get_typestore(Stores.ROS2_JAZZY)


def image_topic(config: SimulationConfig, camera: CameraConfig) -> str:
    """Topic of a camera's pictures.

    Args:
        config: Says whether they are compressed.
        camera: The camera.
    """
    return f'/camera/{camera.name}/image{"" if config.raw_images else "/compressed"}'


def labels_topic(config: SimulationConfig, camera: CameraConfig) -> str:
    """Topic of a camera's true labels; the main camera's is the one that replay reads.

    Args:
        config: Sensors.
        camera: The camera.
    """
    if camera.name == config.camera.name:
        return LABELS_TOPIC
    return f'/simulation/{camera.name}/labels/compressed'


def topics(config: SimulationConfig) -> dict[str, str]:
    """Message type by topic."""
    kinds = {STATIC_TOPIC: 'tf2_msgs/msg/TFMessage', TF_TOPIC: 'tf2_msgs/msg/TFMessage'}
    image = 'sensor_msgs/msg/Image' if config.raw_images else 'sensor_msgs/msg/CompressedImage'
    for camera in config.cameras:
        kinds[image_topic(config, camera)] = image
        kinds[f'/camera/{camera.name}/camera_info'] = 'sensor_msgs/msg/CameraInfo'
        kinds[labels_topic(config, camera)] = 'sensor_msgs/msg/CompressedImage'
    return {
        **kinds,
        POINTS_TOPIC: 'sensor_msgs/msg/PointCloud2',
        ODOMETRY_TOPIC: 'nav_msgs/msg/Odometry',
        CONDITION_TOPIC: 'std_msgs/msg/String',
        SEVERITY_TOPIC: 'std_msgs/msg/Float32',
    }


class Bag(Recording):
    """One drive through one town.

    Args:
        town: Number of the town, also the bag's name.
        parts: (condition, share) in the order of the drive; a share of 1 lasts `config.seconds`.
        storage: `mcap` or `sqlite3`.
    """

    def __init__(
        self, town: int, parts: tuple[tuple[str, float], ...], storage: Storage = 'mcap'
    ) -> None:
        self.path = f'bags/town{town:02d}'
        self.town = town
        self.parts = parts
        self.storage = storage

    def stored_as(self, storage: Storage) -> Bag:
        """The same drive in another storage.

        Args:
            storage: `mcap` or `sqlite3`.
        """
        bag = copy.copy(self)
        bag.storage = storage
        return bag

    def settings(self) -> dict[str, Any]:
        """See `Recording.settings`."""
        return {'storage': self.storage}

    def shots(self, config: SimulationConfig) -> list[Shot]:
        """See `Recording.shots`."""
        parts = [(name, share * config.seconds) for name, share in self.parts]
        return drive(config, self.town, parts, EPOCH_NS + self.town * _DAY_NS)

    def encode(self, config: SimulationConfig, shot: Shot, frame: Frame) -> list[Message]:
        """The messages of a frame, by stamp."""
        stamp = shot.stamp_ns
        T = np.asarray(frame.T_world_base, np.float64)
        messages: list[Message] = [
            (CONDITION_TOPIC, stamp, _message('std_msgs/msg/String', data=frame.condition.name)),
            (
                SEVERITY_TOPIC,
                stamp,
                _message('std_msgs/msg/Float32', data=float(frame.condition.severity)),
            ),
            (TF_TOPIC, stamp, _tf([_transform(ODOM, BASE, T, stamp)])),
            (ODOMETRY_TOPIC, stamp, odometry(frame, stamp)),
        ]
        for picture in pictures(frame):
            camera = picture.camera
            header = _header(stamp, optical(camera))
            labels = _message(
                'sensor_msgs/msg/CompressedImage', header=header,
                format='mono8; png compressed mono8', data=_bytes(encode_png(picture.labels)),
            )  # fmt: skip
            messages += [
                (
                    image_topic(config, camera),
                    stamp,
                    _image_message(config, camera, picture.image, stamp),
                ),
                (f'/camera/{camera.name}/camera_info', stamp, camera_info(camera, stamp)),
                (labels_topic(config, camera), stamp, labels),
            ]
        cloud = point_cloud(frame.scan, shot.lidar_stamp_ns, _lidar_frame(config))
        messages.append((POINTS_TOPIC, shot.lidar_stamp_ns, cloud))
        kinds = topics(config)
        return [
            (topic, when, bytes(_store().serialize_cdr(message, kinds[topic])))
            for topic, when, message in sorted(messages, key=lambda m: m[1])
        ]

    def files(self, config: SimulationConfig, shot: Shot, frame: Frame) -> Files:
        """See `Recording.files`: messages wait in files until the bag is written in one go."""
        return [(f'{shot.index:06d}.messages', pack(self.encode(config, shot, frame)))]

    def finish(self, folder: Path, config: SimulationConfig, truths: list[Truth]) -> None:
        """See `Recording.finish`: the waiting messages become a bag."""
        waiting = folder.with_name(f'{folder.name}.messages')
        if waiting.exists():
            shutil.rmtree(folder, ignore_errors=True)
        else:
            folder.rename(waiting)
        pages = sorted(waiting.glob('*.messages'))
        write_bag(folder, config, (unpack(p.read_bytes()) for p in pages), self.storage)


TRAINING_DRIVE = Bag(2, tuple((name, 1.0) for name in CONDITIONS))
TEST_DRIVE = Bag(
    3,
    (
        ('clear', 4.0), ('dusk', 4 / 3), ('clear', 2 / 3), ('night', 4 / 3), ('clear', 2 / 3),
        ('fog', 4 / 3), ('clear', 2 / 3), ('rain', 4 / 3), ('clear', 2 / 3), ('snow', 4 / 3),
    ),
)  # fmt: skip
"""Forty seconds with the default of three: in the known domain first, then out of it and back."""


def write_bag(
    folder: Path,
    config: SimulationConfig,
    frames: Iterable[list[Message]],
    storage: Storage = 'mcap',
) -> None:
    """Write a rosbag2 folder.

    Args:
        folder: Does not exist yet; its name is also that of the file in it.
        config: Sensors.
        frames: Messages of each frame.
        storage: `mcap` or `sqlite3`.
    """
    kinds = topics(config)
    latched = Qos(
        QosHistory.KEEP_LAST, 1, QosReliability.RELIABLE, QosDurability.TRANSIENT_LOCAL,
        _FOREVER, _FOREVER, QosLiveliness.AUTOMATIC, _FOREVER, False,
    )  # fmt: skip
    plugin = StoragePlugin.MCAP if storage == 'mcap' else StoragePlugin.SQLITE3
    with Writer(folder, version=9, storage_plugin=plugin) as writer:
        connections = {
            topic: writer.add_connection(
                topic,
                kind,
                typestore=_store(),
                offered_qos_profiles=[latched] if topic == STATIC_TOPIC else [],
            )
            for topic, kind in kinds.items()
        }
        first = True
        for messages in frames:
            if first:
                when = messages[0][1]
                static = static_transforms(config, when)
                tf = bytes(_store().serialize_cdr(static, kinds[STATIC_TOPIC]))
                writer.write(connections[STATIC_TOPIC], when, tf)
                first = False
            for topic, when, data in messages:
                writer.write(connections[topic], when, data)


_HEAD = struct.Struct('<HqI')


def pack(messages: list[Message]) -> bytes:
    """Messages as bytes: for each the length of its topic, stamp, length, topic, CDR bytes."""
    parts = []
    for topic, when, data in messages:
        name = topic.encode()
        parts += [_HEAD.pack(len(name), when, len(data)), name, data]
    return b''.join(parts)


def unpack(data: bytes) -> list[Message]:
    """The messages that `pack` was given."""
    messages, at = [], 0
    while at < len(data):
        length, when, size = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        topic = data[at : at + length].decode()
        messages.append((topic, when, data[at + length : at + length + size]))
        at += length + size
    return messages


def point_cloud(scan: Scan, stamp_ns: int, frame_id: str = 'lidar_top') -> Any:
    """sensor_msgs/PointCloud2 of x, y, z, intensity, ring, time (22 bytes per point)."""
    kind: Any = _store().types['sensor_msgs/msg/PointField']
    columns = [('x', '<f4'), ('y', '<f4'), ('z', '<f4'), ('intensity', '<f4'), ('ring', '<u2'),
               ('time', '<f4')]  # fmt: skip
    layout = np.dtype(columns)
    table = np.empty(len(scan), layout)
    table['x'], table['y'], table['z'] = scan.points.T
    table['intensity'], table['ring'], table['time'] = scan.intensity, scan.ring, scan.time
    types = {'<f4': kind.FLOAT32, '<u2': kind.UINT16}
    fields = [
        _message(
            'sensor_msgs/msg/PointField', name=name, offset=layout.fields[name][1],  # type: ignore[index]
            datatype=types[code], count=1,
        )
        for name, code in columns
    ]  # fmt: skip
    return _message(
        'sensor_msgs/msg/PointCloud2', header=_header(stamp_ns, frame_id), height=1,
        width=len(scan), fields=fields, is_bigendian=False, point_step=layout.itemsize,
        row_step=layout.itemsize * len(scan), data=_bytes(table.tobytes()), is_dense=True,
    )  # fmt: skip


def camera_info(camera: CameraConfig, stamp_ns: int) -> Any:
    """sensor_msgs/CameraInfo of a camera.

    Args:
        camera: The camera.
        stamp_ns: Of its picture.
    """
    K = camera.K
    count = 4 if camera.distortion_model == 'equidistant' else 5
    D = np.zeros(max(count, len(camera.D)))
    D[: len(camera.D)] = camera.D
    roi = _message(
        'sensor_msgs/msg/RegionOfInterest', x_offset=0, y_offset=0, height=0, width=0,
        do_rectify=False,
    )  # fmt: skip
    return _message(
        'sensor_msgs/msg/CameraInfo', header=_header(stamp_ns, optical(camera)),
        height=camera.height, width=camera.width, distortion_model=camera.distortion_model, d=D,
        k=K.ravel(), r=np.eye(3).ravel(), p=np.column_stack([K, np.zeros(3)]).ravel(),
        binning_x=0, binning_y=0, roi=roi,
    )  # fmt: skip


def odometry(frame: Frame, stamp_ns: int) -> Any:
    """nav_msgs/Odometry: the true pose and speed of the vehicle.

    Args:
        frame: A simulated frame.
        stamp_ns: Of the pose.
    """
    T = np.asarray(frame.T_world_base, np.float64)
    vx, vy, vz = (float(v) for v in getattr(frame, 'velocity', (0.0, 0.0, 0.0)))
    x, y, z = T[:3, 3].tolist()
    point = _message('geometry_msgs/msg/Point', x=x, y=y, z=z)
    pose = _message('geometry_msgs/msg/Pose', position=point, orientation=_quaternion(T))
    twist = _message(
        'geometry_msgs/msg/Twist', linear=_vector(vx, vy, vz),
        angular=_vector(0.0, 0.0, float(getattr(frame, 'yaw_rate', 0.0))),
    )  # fmt: skip
    zeros = np.zeros(36)
    return _message(
        'nav_msgs/msg/Odometry', header=_header(stamp_ns, ODOM), child_frame_id=BASE,
        pose=_message('geometry_msgs/msg/PoseWithCovariance', pose=pose, covariance=zeros),
        twist=_message('geometry_msgs/msg/TwistWithCovariance', twist=twist, covariance=zeros),
    )  # fmt: skip


def optical(camera: CameraConfig) -> str:
    """Name of a camera's optical frame."""
    return f'camera_{camera.name}_optical'


def _lidar_frame(config: SimulationConfig) -> str:
    return f'lidar_{config.lidar.name}'


def static_transforms(config: SimulationConfig, stamp_ns: int) -> Any:
    """tf2_msgs/TFMessage: all sensors in `base_link`."""
    cameras = [
        _transform(BASE, optical(camera), camera.T_base_camera, stamp_ns)
        for camera in config.cameras
    ]
    lidar = _transform(BASE, _lidar_frame(config), config.lidar.T_base_lidar, stamp_ns)
    return _tf([lidar, *cameras])


def _tf(transforms: list[Any]) -> Any:
    return _message('tf2_msgs/msg/TFMessage', transforms=transforms)


def _transform(parent: str, child: str, T: np.ndarray, stamp_ns: int) -> Any:
    return _message(
        'geometry_msgs/msg/TransformStamped',
        header=_header(stamp_ns, parent),
        child_frame_id=child,
        transform=_message(
            'geometry_msgs/msg/Transform', translation=_vector(*T[:3, 3].tolist()),
            rotation=_quaternion(T),
        ),
    )  # fmt: skip


def _vector(x: float, y: float, z: float) -> Any:
    return _message('geometry_msgs/msg/Vector3', x=x, y=y, z=z)


def _quaternion(T: np.ndarray) -> Any:
    x, y, z, w = quaternions(T[None, :3, :3])[0].tolist()
    return _message('geometry_msgs/msg/Quaternion', x=x, y=y, z=z, w=w)


def _image_message(
    config: SimulationConfig, camera: CameraConfig, image: np.ndarray, stamp_ns: int
) -> Any:
    header = _header(stamp_ns, optical(camera))
    if config.raw_images:
        height, width = image.shape[:2]
        return _message(
            'sensor_msgs/msg/Image', header=header, height=height, width=width,
            encoding='rgb8', is_bigendian=0, step=3 * width, data=_bytes(image.tobytes()),
        )  # fmt: skip
    return _message(
        'sensor_msgs/msg/CompressedImage', header=header, format='rgb8; jpeg compressed bgr8',
        data=_bytes(encode_jpeg(image, camera.jpeg_quality)),
    )  # fmt: skip


def _message(kind: str, **fields: Any) -> Any:
    return _store().types[kind](**fields)


def _header(stamp_ns: int, frame_id: str) -> Any:
    seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
    time = _message('builtin_interfaces/msg/Time', sec=seconds, nanosec=nanoseconds)
    return _message('std_msgs/msg/Header', stamp=time, frame_id=frame_id)


def _bytes(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)
