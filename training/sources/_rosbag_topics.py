# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which topics of a bag are a camera, its calibration and a lidar."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from dataclasses import dataclass

from clcp_ros.errors import RecordingError
from training.sources.base import SourceOptions

IMAGE_TYPES = ('sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage')
CLOUD_TYPE = 'sensor_msgs/msg/PointCloud2'
CAMERA_INFO_TYPE = 'sensor_msgs/msg/CameraInfo'

# Pictures that are not what a camera saw, and clouds that are not what a lidar measured.
_NO_CAMERA = ('depth', 'mask', 'label', 'overlay', 'disparity', 'confidence', 'segment', 'debug')
_NO_LIDAR = ('depth', 'camera', 'stereo', 'radar', 'map', 'ground', 'obstacle', 'cluster')


@dataclass(frozen=True)
class Topics:
    """The topics of one recording.

    Attributes:
        camera: Name of the camera.
        lidar: Name of the lidar.
        image: Image or CompressedImage.
        points: PointCloud2.
        camera_info: CameraInfo, or None.
        rectified: The images are rectified already.
    """

    camera: str
    lidar: str
    image: str
    points: str
    camera_info: str | None
    rectified: bool

    def describe(self) -> str:
        """For the report: what was chosen."""
        text = f'images of {self.image}, points of {self.points}'
        return f'{text}, calibration of {self.camera_info}' if self.camera_info else text


def choose_topics(
    topics: dict[str, tuple[str, int]], where: str, options: SourceOptions
) -> list[Topics]:
    """The cameras of a bag, each with its calibration and the lidar.

    Args:
        topics: Topic: (type, number of messages).
        where: The bag, for messages.
        options: Topics the user named are taken as they are.

    Raises:
        RecordingError: A topic is missing; the message lists those there are.
    """
    images = [_named(topics, where, 'image', options.image_topic, IMAGE_TYPES)] if (
        options.image_topic
    ) else _cameras(topics)  # fmt: skip
    if not images:
        raise RecordingError(_missing(topics, where, 'no image topic'))
    if options.points_topic:
        points = _named(topics, where, 'points', options.points_topic, (CLOUD_TYPE,))
    else:
        clouds = [t for t, (kind, count) in topics.items() if kind == CLOUD_TYPE and count]
        if not clouds:
            raise RecordingError(_missing(topics, where, 'no PointCloud2 topic'))
        points = min(clouds, key=lambda t: (_contains(t, _NO_LIDAR), -topics[t][1], t))
    chosen = []
    for image in images:
        info: str | None
        if options.camera_info_topic:
            info = _named(
                topics, where, 'camera_info', options.camera_info_topic, (CAMERA_INFO_TYPE,)
            )
        else:
            info = _camera_info(topics, image, alone=len(images) == 1)
        chosen.append(
            Topics(
                camera_name(image),
                _plain(posixpath.dirname(points) if points.count('/') > 1 else points),
                image,
                points,
                info,
                'rect' in posixpath.basename(_base(image)),
            )
        )
    return chosen


def camera_name(topic: str) -> str:
    """A camera's name from its image topic: the namespace, or what stands for it."""
    return _plain(_camera_key(topic))


def _cameras(topics: dict[str, tuple[str, int]]) -> list[str]:
    """One image topic per camera."""
    groups: dict[str, list[str]] = defaultdict(list)
    for topic, (kind, count) in topics.items():
        if kind in IMAGE_TYPES and count and not _contains(topic, _NO_CAMERA):
            groups[_camera_key(topic)].append(topic)

    def rank(topic: str) -> tuple[bool, bool, bool, str]:
        name = posixpath.basename(_base(topic))
        compressed = topics[topic][0] == IMAGE_TYPES[1]
        return 'mono' in name, 'rect' not in name, compressed, topic

    return sorted(min(group, key=rank) for group in groups.values())


def _camera_key(topic: str) -> str:
    # image_raw, image_color and image_rect of one namespace are the same camera.
    base = _base(topic)
    namespace, name = posixpath.split(base)
    return namespace if name.startswith('image') and namespace != '/' else base


def _base(topic: str) -> str:
    """A topic without image_transport's suffix."""
    return topic.removesuffix('/compressed').rstrip('/')


def _camera_info(topics: dict[str, tuple[str, int]], image: str, alone: bool) -> str | None:
    infos = [t for t, (kind, count) in topics.items() if kind == CAMERA_INFO_TYPE and count]
    base = _base(image)
    for candidate in (
        posixpath.join(posixpath.dirname(base), 'camera_info'),
        f'{base}/camera_info',
    ):
        if candidate in infos:
            return candidate
    return infos[0] if alone and len(infos) == 1 else None


def _named(
    topics: dict[str, tuple[str, int]], where: str, role: str, topic: str, kinds: tuple[str, ...]
) -> str:
    if topic not in topics:
        raise RecordingError(_missing(topics, where, f'no topic {topic!r} (--{role}_topic)'))
    kind, count = topics[topic]
    if kind not in kinds:
        raise RecordingError(
            f'{where}: --{role}_topic {topic} is {kind}, not {" or ".join(kinds)}'
        )
    if not count:
        raise RecordingError(_missing(topics, where, f'no messages on {topic}'))
    return topic


def _missing(topics: dict[str, tuple[str, int]], where: str, what: str) -> str:
    there = ', '.join(f'{t} ({kind}, {count})' for t, (kind, count) in sorted(topics.items()))
    return f'{where}: {what}; the bag has {there or "no topics"}'


def _contains(topic: str, words: tuple[str, ...]) -> bool:
    return any(word in topic.lower() for word in words)


def _plain(topic: str) -> str:
    return topic.strip('/').replace('/', '_') or 'sensor'
