# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the node publishes for one camera. A node module: imports rclpy."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from clcp_ros import ros_messages
from clcp_ros.bundle import Bundle
from clcp_ros.classes import ClassSet
from clcp_ros.node_diagnostics import shift_status
from clcp_ros.overlay import overlay
from clcp_ros.pipeline import FrameResult

_OUTPUT = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.RELIABLE
)
_LATCHED = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)


class Outputs:
    """Publishers of one camera's results.

    Args:
        node: Owns the publishers; they are silent while it is not active.
    """

    def __init__(self, node: LifecycleNode) -> None:
        self._node = node

        def create(message_type: Any, topic: str) -> Any:
            return node.create_lifecycle_publisher(
                message_type,
                topic,
                _OUTPUT,
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            )

        self._mask = create(Image, '~/mask')
        self._confidence = create(Image, '~/confidence')
        self._overlay = create(Image, '~/overlay')
        self._camera_info = create(CameraInfo, '~/camera_info')
        self._shift = create(DiagnosticArray, '~/shift')
        self._label_info: Any = None
        try:
            from vision_msgs.msg import LabelInfo
        except ImportError:
            node.get_logger().warning(
                'vision_msgs is not installed: ~/label_info is not published '
                '(apt install ros-$ROS_DISTRO-vision-msgs)'
            )
        else:
            self._label_info = node.create_publisher(LabelInfo, '~/label_info', _LATCHED)

    def publish_labels(self, classes: ClassSet) -> None:
        """Tell the names of the mask's ids, also to who comes later."""
        if self._label_info is not None:
            header = Header(stamp=self._node.get_clock().now().to_msg())
            self._label_info.publish(ros_messages.label_info_message(classes, header))

    def publish(
        self,
        result: FrameResult,
        image: np.ndarray,
        header: Header,
        bundle: Bundle,
        camera_info: CameraInfo | None,
    ) -> None:
        """Publish a frame's results.

        Args:
            result: Mask, confidence and the monitor's verdict.
            image: (H, W, 3) uint8 RGB, for the overlay.
            header: Of the image; used for every message.
            bundle: What the result was made with.
            camera_info: Of the image, where it is known.
        """
        mask = result.mask
        self._mask.publish(ros_messages.image_message(mask, header))
        self._confidence.publish(ros_messages.image_message(result.confidence, header))
        if camera_info is not None:
            height, width = mask.shape
            self._camera_info.publish(
                ros_messages.scaled_camera_info(camera_info, height, width, header)
            )
        status = shift_status(result.shift, bundle.id, header.frame_id)
        name = self._node.get_fully_qualified_name()
        self._shift.publish(ros_messages.diagnostic_array(header, [status], name))
        if self._overlay.get_subscription_count():
            if image.shape[:2] != mask.shape:
                # At the mask's size it stays small enough for any transport.
                image = cv2.resize(image, mask.shape[::-1], interpolation=cv2.INTER_AREA)
            colored = overlay(image, mask, bundle.classes.palette)
            self._overlay.publish(ros_messages.image_message(colored, header))
