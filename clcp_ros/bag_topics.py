# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which topics of a bag are cameras, and what belongs to them: by types and names."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Mapping

IMAGE_TYPES = ('sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage')
CAMERA_INFO_TYPE = 'sensor_msgs/msg/CameraInfo'

Topics = Mapping[str, tuple[str, int]]
"""Topic: (message type, number of messages)."""

# Pictures that are not what a camera saw.
_NO_CAMERA = ('depth', 'mask', 'label', 'overlay', 'disparity', 'confidence', 'segment', 'debug')


def camera_topics(topics: Topics) -> list[str]:
    """One image topic per camera, sorted: colour before gray, rectified before raw.

    Args:
        topics: Those of the bag.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for topic, (kind, count) in topics.items():
        if kind in IMAGE_TYPES and count and not contains(topic, _NO_CAMERA):
            groups[_camera_key(topic)].append(topic)

    def rank(topic: str) -> tuple[bool, bool, bool, str]:
        name = posixpath.basename(base_topic(topic))
        compressed = topics[topic][0] == IMAGE_TYPES[1]
        return 'mono' in name, 'rect' not in name, compressed, topic

    return sorted(min(group, key=rank) for group in groups.values())


def camera_name(topic: str) -> str:
    """A camera's name from its image topic: the namespace, or what stands for it."""
    return plain(_camera_key(topic))


def camera_info_topic(topics: Topics, image: str, alone: bool) -> str | None:
    """The CameraInfo beside an image.

    Args:
        topics: Those of the bag.
        image: The image topic.
        alone: Whether it is the only camera, to which a single CameraInfo anywhere belongs.
    """
    infos = [t for t, (kind, count) in topics.items() if kind == CAMERA_INFO_TYPE and count]
    base = base_topic(image)
    for candidate in (
        posixpath.join(posixpath.dirname(base), 'camera_info'),
        f'{base}/camera_info',
    ):
        if candidate in infos:
            return candidate
    return infos[0] if alone and len(infos) == 1 else None


def base_topic(topic: str) -> str:
    """A topic without image_transport's suffix."""
    return topic.removesuffix('/compressed').rstrip('/')


def contains(topic: str, words: tuple[str, ...]) -> bool:
    """Whether a topic's name holds one of some words, in any case."""
    return any(word in topic.lower() for word in words)


def plain(topic: str) -> str:
    """A topic as a name without slashes."""
    return topic.strip('/').replace('/', '_') or 'sensor'


def describe(topics: Topics) -> str:
    """The topics for an error message."""
    there = ', '.join(f'{t} ({kind}, {count})' for t, (kind, count) in sorted(topics.items()))
    return f'the bag has {there or "no topics"}'


def _camera_key(topic: str) -> str:
    # image_raw, image_color and image_rect of one namespace are the same camera.
    base = base_topic(topic)
    namespace, name = posixpath.split(base)
    return namespace if name.startswith('image') and namespace != '/' else base
