# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The lidar of a bag, for the monitors of a replay: found by type, placed by /tf_static."""

from __future__ import annotations

import functools
import posixpath
from collections.abc import Iterable

import numpy as np

from clcp_ros.bag_file import header_frame, header_stamp
from clcp_ros.bag_topics import base_topic
from clcp_ros.bundle import Bundle
from clcp_ros.errors import RecordingError
from clcp_ros.monitor import Knowledge
from clcp_ros.replay_bag import BagFrame, Camera, ReplayBag
from clcp_ros.scans import POINTS_TYPE, CameraScans, ScanBuffer, StaticFrames, frame_name

STATIC_TOPIC = '/tf_static'


def points_topic(bag: ReplayBag, wanted: str | None = None) -> str | None:
    """The topic of the scans that images are compared with.

    Args:
        bag: The bag.
        wanted: Its name; default: the PointCloud2 topic with most messages.

    Returns:
        None where there is none.
    """
    found = [t for t, (kind, count) in bag.topics.items() if kind == POINTS_TYPE and count]
    if wanted is not None:
        return wanted if wanted in found else None
    return min(found, key=lambda topic: (-bag.topics[topic][1], topic), default=None)


def lidar_topic(bag: ReplayBag, bundle: Bundle, wanted: str | None = None) -> str | None:
    """`points_topic`, if the bundle was fitted with a lidar; else None.

    Raises:
        BundleError: The bundle cannot be used.
    """
    knowledge = Knowledge.of_bundle(bundle)
    return None if knowledge.alignment is None else points_topic(bag, wanted)


def rectified(camera: Camera) -> bool:
    """Whether a camera's images are rectified, by ROS' names: image_rect, image_rect_color."""
    return 'rect' in posixpath.basename(base_topic(camera.topic))


def static_transforms(bag: ReplayBag) -> list[tuple[str, int, bytes]]:
    """Topic, time and bytes of what the bag says on /tf_static."""
    if STATIC_TOPIC not in bag.topics:
        return []
    return list(bag.bag.few_messages([STATIC_TOPIC]))


def mounting(bag: ReplayBag, topic: str) -> np.ndarray | None:
    """T_camera_lidar of the bag's only camera; None where there are several, or nobody tells it.

    Args:
        bag: The bag.
        topic: Of the scans.
    """
    if len(bag.cameras) > 1:
        return None
    frames = StaticFrames()
    for name, _, raw in static_transforms(bag):
        frames.add(bag.bag.decode(name, raw).transforms)
    camera = bag.cameras[0]
    names = [_first_frame(bag, t) for t in (camera.camera_info, camera.topic, topic) if t]
    return frames(next(filter(None, names[:-1]), ''), names[-1])


def _first_frame(bag: ReplayBag, topic: str) -> str:
    for _, _, raw in bag.bag.raw_messages([topic]):
        return frame_name(header_frame(raw, bag.is_ros2) or '')
    return ''


class BagLidar:
    """Hands scans to the cameras' monitors, in the order of the bag.

    Args:
        bag: The bag.
        topic: Of the scans, sensor_msgs/PointCloud2.
    """

    def __init__(self, bag: ReplayBag, topic: str) -> None:
        self._bag = bag
        self._topic = topic
        self._buffer = ScanBuffer()
        frames = StaticFrames()
        for name, _, raw in static_transforms(bag):
            frames.add(bag.bag.decode(name, raw).transforms)
        self.scans = {
            camera.name: CameraScans(self._buffer, frames, rectified(camera))
            for camera in bag.cameras
        }
        """What each camera's monitor asks."""
        self._infos = {
            camera.camera_info: camera.name for camera in bag.cameras if camera.camera_info
        }

    @property
    def topics(self) -> set[str]:
        """What `take` wants."""
        return {self._topic, *self._infos}

    def take(self, others: Iterable[tuple[str, int, bytes]], frame: BagFrame | None) -> None:
        """Take in what was recorded before a frame, and the frame.

        Args:
            others: Topic, time and bytes; those of other topics are passed over.
            frame: An image.
        """
        decode = self._bag.bag.decode
        for topic, _, raw in others:
            if topic == self._topic:
                stamp_ns = header_stamp(raw, self._bag.is_ros2)
                self._buffer.put(functools.partial(decode, topic, raw), stamp_ns)
            elif topic in self._infos:
                try:
                    self.scans[self._infos[topic]].camera_info(decode(topic, raw))
                except RecordingError:  # damaged: the one before holds
                    continue
        if frame is not None and frame.message is not None:
            self.scans[frame.camera].image_frame(str(frame.message.header.frame_id))

    def problem(self, camera: str) -> str:
        """Why a camera's last frame could not be compared; empty when it could."""
        return self.scans[camera].problem
