# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which topics of a bag are a camera, its calibration and a lidar."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass

from clcp_ros.bag_topics import (
    CAMERA_INFO_TYPE,
    IMAGE_TYPES,
    base_topic,
    camera_info_topic,
    camera_name,
    camera_topics,
    contains,
    describe,
    plain,
)
from clcp_ros.errors import RecordingError
from training.sources.base import SourceOptions

CLOUD_TYPE = 'sensor_msgs/msg/PointCloud2'
LIVOX_TYPES = (
    'livox_ros_driver/msg/CustomMsg',
    'livox_ros_driver2/msg/CustomMsg',
    'livox_interfaces/msg/CustomMsg',
)
CLOUD_TYPES = (CLOUD_TYPE, *LIVOX_TYPES)

_PACKETS = {
    'velodyne_msgs/msg/VelodyneScan': 'play it through velodyne_pointcloud',
    'ouster_ros/msg/PacketMsg': 'play it through ouster_ros (replay.launch)',
    'ouster_msgs/msg/PacketMsg': 'play it through ouster_ros (replay.launch)',
    'ouster_sensor_msgs/msg/PacketMsg': 'play it through ouster_ros (replay.launch)',
    'hesai_ros_driver/msg/UdpFrame': 'play it through hesai_ros_driver',
    'pandar_msgs/msg/PandarScan': 'play it through the Hesai driver or nebula',
    'nebula_msgs/msg/NebulaPackets': 'play it through nebula',
    'rslidar_msg/msg/RslidarPacket': 'play it through rslidar_sdk',
    'rslidar_msgs/msg/rslidarScan': 'play it through rslidar_sdk',
    'seyond/msg/SeyondScan': 'play it through the Seyond driver',
}
"""Packets as the sensor sends them: only its driver makes points of them."""

# Clouds that are not what a lidar measured.
_NO_LIDAR = ('depth', 'camera', 'stereo', 'radar', 'map', 'ground', 'obstacle', 'cluster')
_COMPENSATED = ('deskew', 'undistort', 'motion', 'corrected', 'compensated', 'rectified')


@dataclass(frozen=True)
class Topics:
    """The topics of one recording.

    Attributes:
        camera: Name of the camera.
        lidar: Name of the lidar.
        image: Image or CompressedImage.
        points: PointCloud2, or Livox' CustomMsg.
        camera_info: CameraInfo, or None.
        rectified: The images are rectified already.
    """

    camera: str
    lidar: str
    image: str
    points: str
    camera_info: str | None
    rectified: bool

    @property
    def compensated(self) -> bool:
        """Whether the name of the topic says that the motion within scans was taken out."""
        return contains(self.points, _COMPENSATED)

    def describe(self) -> str:
        """For the report: what was chosen."""
        text = f'images of {self.image}, points of {self.points}'
        return f'{text}, calibration of {self.camera_info}' if self.camera_info else text


def choose_topics(
    topics: dict[str, tuple[str, int]], where: str, options: SourceOptions
) -> list[Topics]:
    """The cameras of a bag, each with its calibration and a lidar.

    Args:
        topics: Topic: (type, number of messages).
        where: The bag, for messages.
        options: Topics the user named are taken as they are, several with commas; 'all' for the
            scans takes every lidar, each with every camera.

    Raises:
        RecordingError: A topic is missing; the message lists those there are.
    """
    images = _several(topics, where, 'image', options.image_topic, IMAGE_TYPES)
    if images is None:
        images = camera_topics(topics)
    if not images:
        raise RecordingError(_missing(topics, where, 'no image topic'))
    if options.points_topic == 'all':
        lidars = [t for t in _lidars(topics, where) if not contains(t, _NO_LIDAR)]
        lidars = sorted(lidars) or _lidars(topics, where)[:1]
    else:
        named = _several(topics, where, 'points', options.points_topic, CLOUD_TYPES)
        lidars = _lidars(topics, where)[:1] if named is None else named
    infos = _several(topics, where, 'camera-info', options.camera_info_topic, (CAMERA_INFO_TYPE,))
    if infos is not None and len(infos) not in (1, len(images)):
        raise RecordingError(
            f'{where}: {len(infos)} topics in --camera-info-topic for {len(images)} image topics'
        )
    chosen = []
    for number, image in enumerate(images):
        if infos is not None:
            info: str | None = infos[number % len(infos)]
        else:
            info = camera_info_topic(topics, image, alone=len(images) == 1)
        rectified = 'rect' in posixpath.basename(base_topic(image))
        chosen += [
            Topics(camera_name(image), lidar_name(points), image, points, info, rectified)
            for points in lidars
        ]
    return chosen


def lidar_name(topic: str) -> str:
    """A lidar's name from its topic: the namespace, or what stands for it."""
    return plain(posixpath.dirname(topic) if topic.count('/') > 1 else topic)


def _lidars(topics: dict[str, tuple[str, int]], where: str) -> list[str]:
    """Topics of scans, the likeliest first."""
    clouds = [t for t, (kind, count) in topics.items() if kind in CLOUD_TYPES and count]
    if not clouds:
        for topic, (kind, count) in sorted(topics.items()):
            if kind in _PACKETS and count:
                raise RecordingError(
                    f'{where}: {topic} holds packets as the sensor sent them ({kind}), no points: '
                    f'{_PACKETS[kind]} and record the PointCloud2 that it publishes'
                )
        raise RecordingError(_missing(topics, where, 'no PointCloud2 topic'))
    return sorted(clouds, key=lambda t: (contains(t, _NO_LIDAR), -topics[t][1], t))


def _several(
    topics: dict[str, tuple[str, int]],
    where: str,
    role: str,
    given: str | None,
    kinds: tuple[str, ...],
) -> list[str] | None:
    """The topics that an option names, or None without it."""
    if not given:
        return None
    names = [name.strip() for name in given.split(',') if name.strip()]
    return [_named(topics, where, role, name, kinds) for name in dict.fromkeys(names)]


def _named(
    topics: dict[str, tuple[str, int]], where: str, role: str, topic: str, kinds: tuple[str, ...]
) -> str:
    # A leading slash is easily forgotten.
    name = topic if topic in topics else f'/{topic.strip("/")}'
    if name not in topics:
        raise RecordingError(_missing(topics, where, f'no topic {topic!r} (--{role}-topic)'))
    kind, count = topics[name]
    if kind not in kinds:
        raise RecordingError(f'{where}: --{role}-topic {name} is {kind}, not {" or ".join(kinds)}')
    if not count:
        raise RecordingError(_missing(topics, where, f'no messages on {name}'))
    return name


def _missing(topics: dict[str, tuple[str, int]], where: str, what: str) -> str:
    return f'{where}: {what}; {describe(topics)}'
