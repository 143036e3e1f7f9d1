# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the node subscribes to for the lidar. A node module: imports rclpy."""

from __future__ import annotations

import functools
import importlib
import struct
from collections.abc import Sequence
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import PointCloud2

from clcp_ros.errors import RecordingError
from clcp_ros.scans import CameraScans, ScanBuffer, StaticFrames, pose_matrix

_WARN_EVERY_S = 30.0


class Lidar:
    """A lidar of the node: its scans, and where it is seen from the cameras.

    Nothing is subscribed to before `open`. Scans are taken in as bytes; one is deserialised when a
    monitor asks for it, once or twice a second.

    Args:
        node: Owns the subscriptions.
        topic: Of the scans, sensor_msgs/PointCloud2.
        transform: T_camera_lidar as 16 numbers of a (4, 4) matrix, row by row, or as 7: x y z in
            metres and the quaternion x y z w; empty takes it from /tf_static.

    Raises:
        CalibrationError: The transform is none.
    """

    def __init__(self, node: Node, topic: str, transform: Sequence[float] = ()) -> None:
        self._node = node
        self.topic = node.resolve_topic_name(topic)
        self.buffer = ScanBuffer()
        self._frames = StaticFrames()
        self._given = pose_matrix(transform) if len(transform) else None
        self._group = MutuallyExclusiveCallbackGroup()
        self._subscriptions: list[Any] = []
        self.received = 0
        """Scans since `open`."""

    def scans(self, rectified: bool = False) -> CameraScans:
        """The scans for one camera; give it that camera's camera_info.

        Args:
            rectified: The camera's images are rectified.
        """
        transform = self._frames if self._given is None else self._given
        return CameraScans(self.buffer, transform, rectified)

    def open(self) -> None:
        """Subscribe."""
        self.close()
        self.received = 0
        self._subscribe(
            PointCloud2, self.topic, self._on_scan,
            QoSProfile(
                history=HistoryPolicy.KEEP_LAST, depth=2, reliability=ReliabilityPolicy.BEST_EFFORT
            ),
            raw=True,
        )  # fmt: skip
        if self._given is not None:
            return
        try:
            kind = importlib.import_module('tf2_msgs.msg').TFMessage
        except ImportError:  # wheels of rclpy come without it
            self._node.get_logger().warning(
                'tf2_msgs is not installed, so nobody tells where the lidar is: set '
                'lidar.T_camera_lidar'
            )
            return
        self._subscribe(
            kind, '/tf_static', self._on_frames,
            QoSProfile(
                history=HistoryPolicy.KEEP_LAST, depth=100,
                reliability=ReliabilityPolicy.RELIABLE,
                durability=DurabilityPolicy.TRANSIENT_LOCAL,
            ),
        )  # fmt: skip

    def _subscribe(
        self, kind: Any, topic: str, callback: Any, profile: QoSProfile, raw: bool = False
    ) -> None:
        self._subscriptions.append(
            self._node.create_subscription(
                kind, topic, callback, profile, callback_group=self._group, raw=raw,
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
                event_callbacks=SubscriptionEventCallbacks(use_default_callbacks=False),
            )
        )  # fmt: skip

    def close(self) -> None:
        """Unsubscribe and forget the scans; what /tf_static told stays true."""
        while self._subscriptions:
            self._node.destroy_subscription(self._subscriptions.pop())
        self.buffer.clear()

    def _on_scan(self, raw: bytes) -> None:
        try:
            # CDR: 4 bytes that tell the byte order, then the header's stamp.
            order = '<' if raw[1] & 1 else '>'
            sec, nanosec = struct.unpack_from(f'{order}iI', raw, 4)
        except (struct.error, IndexError):
            return
        self.received += 1
        self.buffer.put(functools.partial(_cloud, raw), sec * 1_000_000_000 + nanosec)

    def _on_frames(self, message: Any) -> None:
        bad = self._frames.add(message.transforms)
        if bad:
            self._node.get_logger().warning(
                f'{bad} transforms on /tf_static are impossible and were left out',
                throttle_duration_sec=_WARN_EVERY_S,
            )


def _cloud(raw: bytes) -> PointCloud2:
    try:
        return deserialize_message(raw, PointCloud2)
    except Exception as error:  # the middleware raises private types
        raise RecordingError(f'a PointCloud2 cannot be deserialised: {error}') from None
