# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Writes rosbag2 recordings (MCAP) of a drive."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
from training.simulation.config import CONDITIONS, EPOCH_NS, SimulationConfig
from training.simulation.frame import Frame
from training.simulation.lidar import Scan
from training.simulation.recording import Recording, Shot, drive

Message = tuple[str, int, bytes]
"""Topic, stamp in nanoseconds, CDR bytes."""

BASE, CAMERA, LIDAR = 'base_link', 'camera_front_optical', 'lidar_top'
IMAGE_TOPIC = '/camera/front/image'
INFO_TOPIC = '/camera/front/camera_info'
POINTS_TOPIC = '/lidar/points'
TF_TOPIC = '/tf_static'

_DAY_NS = 86_400_000_000_000
_FOREVER = QosTime(9_223_372_036, 854_775_807)


@functools.lru_cache(maxsize=1)
def _store() -> Typestore:
    return get_typestore(Stores.ROS2_JAZZY)


def topics(config: SimulationConfig) -> dict[str, str]:
    """Message type by topic."""
    image = (
        {IMAGE_TOPIC: 'sensor_msgs/msg/Image'}
        if config.raw_images
        else {f'{IMAGE_TOPIC}/compressed': 'sensor_msgs/msg/CompressedImage'}
    )
    return {
        TF_TOPIC: 'tf2_msgs/msg/TFMessage',
        **image,
        INFO_TOPIC: 'sensor_msgs/msg/CameraInfo',
        POINTS_TOPIC: 'sensor_msgs/msg/PointCloud2',
        CONDITION_TOPIC: 'std_msgs/msg/String',
        LABELS_TOPIC: 'sensor_msgs/msg/CompressedImage',
    }


class Bag(Recording[list[Message]]):
    """One drive through one town.

    Args:
        town: Number of the town, also the bag's name.
        parts: (condition, share) in the order of the drive; a share of 1 lasts `config.seconds`.
    """

    def __init__(self, town: int, parts: tuple[tuple[str, float], ...]) -> None:
        self.path = f'bags/town{town:02d}'
        self.town = town
        self.parts = parts

    def shots(self, config: SimulationConfig) -> list[Shot]:
        """See `Recording.shots`."""
        parts = [(name, share * config.seconds) for name, share in self.parts]
        return drive(config, self.town, parts, EPOCH_NS + self.town * _DAY_NS)

    def encode(self, config: SimulationConfig, shot: Shot, frame: Frame) -> list[Message]:
        """See `Recording.encode`."""
        stamp = shot.stamp_ns
        labels = _message(
            'sensor_msgs/msg/CompressedImage', header=_header(stamp, CAMERA),
            format='mono8; png compressed mono8', data=_bytes(encode_png(frame.labels)),
        )  # fmt: skip
        condition = _message('std_msgs/msg/String', data=frame.condition.name)
        kinds = topics(config)
        messages = [
            (CONDITION_TOPIC, stamp, condition),
            _image_message(config, frame.image, stamp),
            (INFO_TOPIC, stamp, camera_info(config, stamp)),
            (LABELS_TOPIC, stamp, labels),
            (POINTS_TOPIC, shot.lidar_stamp_ns, point_cloud(frame.scan, shot.lidar_stamp_ns)),
        ]
        return [
            (topic, when, bytes(_store().serialize_cdr(message, kinds[topic])))
            for topic, when, message in sorted(messages, key=lambda m: m[1])
        ]

    def write(
        self, folder: Path, config: SimulationConfig, frames: Iterator[list[Message]]
    ) -> None:
        """See `Recording.write`."""
        write_bag(folder, config, frames)


TRAINING_DRIVE = Bag(2, tuple((name, 1.0) for name in CONDITIONS))
TEST_DRIVE = Bag(
    3,
    (
        ('clear', 4.0), ('dusk', 4 / 3), ('clear', 2 / 3), ('night', 4 / 3), ('clear', 2 / 3),
        ('fog', 4 / 3), ('clear', 2 / 3), ('rain', 4 / 3), ('clear', 2 / 3), ('snow', 4 / 3),
    ),
)  # fmt: skip
"""Forty seconds with the default of three: in the known domain first, then out of it and back."""


def write_bag(folder: Path, config: SimulationConfig, frames: Iterator[list[Message]]) -> None:
    """Write a rosbag2 folder.

    Args:
        folder: Does not exist yet; its name is also that of the file in it.
        config: Sensors.
        frames: Messages of each frame.
    """
    kinds = topics(config)
    latched = Qos(
        QosHistory.KEEP_LAST, 1, QosReliability.RELIABLE, QosDurability.TRANSIENT_LOCAL,
        _FOREVER, _FOREVER, QosLiveliness.AUTOMATIC, _FOREVER, False,
    )  # fmt: skip
    with Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections = {
            topic: writer.add_connection(
                topic,
                kind,
                typestore=_store(),
                offered_qos_profiles=[latched] if topic == TF_TOPIC else [],
            )
            for topic, kind in kinds.items()
        }
        first = True
        for messages in frames:
            if first:
                when = messages[0][1]
                tf = bytes(
                    _store().serialize_cdr(static_transforms(config, when), kinds[TF_TOPIC])
                )
                writer.write(connections[TF_TOPIC], when, tf)
                first = False
            for topic, when, data in messages:
                writer.write(connections[topic], when, data)


def point_cloud(scan: Scan, stamp_ns: int) -> Any:
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
        'sensor_msgs/msg/PointCloud2', header=_header(stamp_ns, LIDAR), height=1, width=len(scan),
        fields=fields, is_bigendian=False, point_step=layout.itemsize,
        row_step=layout.itemsize * len(scan), data=_bytes(table.tobytes()), is_dense=True,
    )  # fmt: skip


def camera_info(config: SimulationConfig, stamp_ns: int) -> Any:
    """sensor_msgs/CameraInfo of the pinhole camera."""
    K = config.camera.K
    P = np.column_stack([K, np.zeros(3)])
    roi = _message(
        'sensor_msgs/msg/RegionOfInterest', x_offset=0, y_offset=0, height=0, width=0,
        do_rectify=False,
    )  # fmt: skip
    return _message(
        'sensor_msgs/msg/CameraInfo', header=_header(stamp_ns, CAMERA), height=config.height,
        width=config.width, distortion_model='plumb_bob', d=np.zeros(5), k=K.ravel(),
        r=np.eye(3).ravel(), p=P.ravel(), binning_x=0, binning_y=0, roi=roi,
    )  # fmt: skip


def static_transforms(config: SimulationConfig, stamp_ns: int) -> Any:
    """tf2_msgs/TFMessage: both sensors in `base_link`."""
    camera = _transform(CAMERA, config.camera.position, (-0.5, 0.5, -0.5, 0.5), stamp_ns)
    lidar = _transform(LIDAR, config.lidar.position, (0.0, 0.0, 0.0, 1.0), stamp_ns)
    return _message('tf2_msgs/msg/TFMessage', transforms=[lidar, camera])


def _transform(
    child: str,
    position: tuple[float, float, float],
    quaternion: tuple[float, float, float, float],
    stamp_ns: int,
) -> Any:
    x, y, z, w = quaternion
    return _message(
        'geometry_msgs/msg/TransformStamped',
        header=_header(stamp_ns, BASE),
        child_frame_id=child,
        transform=_message(
            'geometry_msgs/msg/Transform',
            translation=_message(
                'geometry_msgs/msg/Vector3', x=position[0], y=position[1], z=position[2]
            ),
            rotation=_message('geometry_msgs/msg/Quaternion', x=x, y=y, z=z, w=w),
        ),
    )


def _image_message(
    config: SimulationConfig, image: np.ndarray, stamp_ns: int
) -> tuple[str, int, Any]:
    header = _header(stamp_ns, CAMERA)
    if config.raw_images:
        message = _message(
            'sensor_msgs/msg/Image', header=header, height=config.height, width=config.width,
            encoding='rgb8', is_bigendian=0, step=3 * config.width, data=_bytes(image.tobytes()),
        )  # fmt: skip
        return IMAGE_TOPIC, stamp_ns, message
    message = _message(
        'sensor_msgs/msg/CompressedImage', header=header, format='rgb8; jpeg compressed bgr8',
        data=_bytes(encode_jpeg(image, 90)),
    )  # fmt: skip
    return f'{IMAGE_TOPIC}/compressed', stamp_ns, message


def _message(kind: str, **fields: Any) -> Any:
    return _store().types[kind](**fields)


def _header(stamp_ns: int, frame_id: str) -> Any:
    seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
    time = _message('builtin_interfaces/msg/Time', sec=seconds, nanosec=nanoseconds)
    return _message('std_msgs/msg/Header', stamp=time, frame_id=frame_id)


def _bytes(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)
