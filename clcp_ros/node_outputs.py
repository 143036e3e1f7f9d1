# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the node publishes for one camera, and the labels. A node module: imports rclpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSProfile,
    ReliabilityPolicy,
    qos_policy_name_from_kind,
)
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header, String

from clcp_ros import ros_messages
from clcp_ros.classes import ClassSet
from clcp_ros.image_codec import encode_png
from clcp_ros.node_diagnostics import Status
from clcp_ros.overlay import overlay
from clcp_ros.pipeline import FrameMask, FrameResult

_LATCHED = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
_TYPES = {
    'mask': Image,
    'mask/compressed': CompressedImage,
    'confidence': Image,
    'overlay': Image,
    'camera_info': CameraInfo,
    'shift': DiagnosticArray,
    'shift/heatmap': Image,
}


def _output() -> QoSProfile:
    # A new one each time: rclpy writes overrides into the profile that it is given.
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.RELIABLE
    )


class Outputs:
    """Publishers of one camera's results; nothing is made that nobody listens to.

    Args:
        node: Owns the publishers; they are silent while it is not active.
        prefix: Of the topics, for example `~/` or `~/front/`.
        on_refused: Told of a subscriber that cannot hear a topic, and why.
    """

    def __init__(
        self, node: LifecycleNode, prefix: str, on_refused: Callable[[str], None]
    ) -> None:
        self._node = node
        self._on_refused = on_refused
        # As with the inputs, a group that goes away with its topics.
        self._group = MutuallyExclusiveCallbackGroup()
        self._publishers: dict[str, Any] = {
            name: self._create(message_type, prefix, name) for name, message_type in _TYPES.items()
        }
        self._buffers = {
            name: ros_messages.ImageBuffer() for name in ('mask', 'confidence', 'overlay')
        }

    def _create(self, message_type: Any, prefix: str, name: str) -> Any:
        def refused(event: Any) -> None:
            policy = qos_policy_name_from_kind(event.last_policy_kind)
            topic = self._node.resolve_topic_name(prefix + name)
            self._on_refused(
                f'a subscriber of {topic} asks for another QoS ({policy}) than this node offers'
            )

        return self._node.create_lifecycle_publisher(
            message_type,
            prefix + name,
            _output(),
            callback_group=self._group,
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            event_callbacks=PublisherEventCallbacks(
                incompatible_qos=refused, use_default_callbacks=False
            ),
        )

    def destroy(self) -> None:
        """Remove the topics."""
        while self._publishers:
            _, publisher = self._publishers.popitem()
            self._node.destroy_lifecycle_publisher(publisher)

    def wanted(self, name: str) -> bool:
        """Whether somebody listens to a topic."""
        publisher = self._publishers.get(name)
        return publisher is not None and publisher.get_subscription_count() > 0

    def publish_mask(
        self, result: FrameMask, header: Header, camera_info: CameraInfo | None
    ) -> None:
        """Publish what the model says of a frame, the mask first.

        Args:
            result: Mask and confidence.
            header: Of the image; used for every message.
            camera_info: Of the image, where it is known.
        """
        mask = result.mask
        if self.wanted('mask'):
            self._send('mask', self._buffers['mask'].fill(mask, header))
        if self.wanted('confidence'):
            self._send('confidence', self._buffers['confidence'].fill(result.confidence, header))
        if camera_info is not None and self.wanted('camera_info'):
            height, width = mask.shape
            self._send(
                'camera_info',
                ros_messages.scaled_camera_info(camera_info, height, width, header),
            )
        if self.wanted('mask/compressed'):
            self._send('mask/compressed', ros_messages.png_message(mask, encode_png(mask), header))
        if self.wanted('overlay'):
            # At the mask's size it stays small enough for any transport.
            colored = overlay(result.image, mask, result.bundle.classes.palette)
            self._send('overlay', self._buffers['overlay'].fill(colored, header))

    def publish_verdict(self, result: FrameResult, header: Header, shift: Status | None) -> None:
        """Publish what the monitor says of a frame.

        Args:
            result: Of the frame.
            header: Of the image; used for every message.
            shift: The monitor's verdict, where there is a new one.
        """
        if shift is not None and self.wanted('shift'):
            name = self._node.get_fully_qualified_name()
            self._send('shift', ros_messages.diagnostic_array(header, [shift], name))
        if result.monitored and self.wanted('shift/heatmap'):
            heat = ros_messages.float_image_message(result.heat(), header)
            self._send('shift/heatmap', heat)

    def _send(self, name: str, message: Any) -> None:
        publisher = self._publishers.get(name)
        if publisher is not None:
            publisher.publish(message)


class Labels:
    """Latched names of the mask's ids: `~/label_info` where vision_msgs is, `~/labels` always.

    Args:
        node: Owns the publishers.
    """

    def __init__(self, node: LifecycleNode) -> None:
        self._node = node
        group = MutuallyExclusiveCallbackGroup()
        self._labels = node.create_publisher(String, '~/labels', _LATCHED, callback_group=group)
        self._label_info: Any = None
        try:
            from vision_msgs.msg import LabelInfo
        except ImportError:
            node.get_logger().warning(
                'vision_msgs is not installed: ~/label_info is not published, only ~/labels '
                '(apt install ros-$ROS_DISTRO-vision-msgs)',
                once=True,
            )
        else:
            self._label_info = node.create_publisher(
                LabelInfo, '~/label_info', _LATCHED, callback_group=group
            )

    def publish(self, classes: ClassSet) -> None:
        """Tell the names, also to who comes later."""
        self._labels.publish(ros_messages.labels_message(classes))
        if self._label_info is not None:
            header = Header(stamp=self._node.get_clock().now().to_msg())
            self._label_info.publish(ros_messages.label_info_message(classes, header))

    def destroy(self) -> None:
        """Remove the topics."""
        self._node.destroy_publisher(self._labels)
        if self._label_info is not None:
            self._node.destroy_publisher(self._label_info)
