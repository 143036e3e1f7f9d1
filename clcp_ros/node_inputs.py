# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the node subscribes to for one camera. A node module: imports rclpy."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import (
    HistoryPolicy,
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
    qos_policy_name_from_kind,
)
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

_TYPES = {'raw': Image, 'compressed': CompressedImage, 'camera_info': CameraInfo}
TRANSPORTS = ('raw', 'compressed')
_GRAPH_S = 2.0  # until the graph knows who has been matched


def _newest() -> QoSProfile:
    # A new one each time: rclpy writes overrides into the profile that it is given.
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.BEST_EFFORT
    )


def resolve_topics(node: Node, camera: str) -> dict[str, str]:
    """Names of a camera's topics after remapping; what is not remapped itself follows the image.

    A ROS remapping matches whole names: `image:=/front/image` leaves `image/compressed` alone,
    which nobody who writes it means.

    Args:
        node: Whose namespace and remappings count.
        camera: Namespace of the camera; empty for the node's own.

    Returns:
        Topics by 'raw', 'compressed' and 'camera_info'.
    """
    base = f'{camera}/' if camera else ''
    image = node.resolve_topic_name(f'{base}image')
    followers = {
        'compressed': (f'{base}image/compressed', f'{image}/compressed'),
        'camera_info': (f'{base}camera_info', f'{image.rsplit("/", 1)[0]}/camera_info'),
    }
    topics = {'raw': image}
    for key, (name, following) in followers.items():
        resolved = node.resolve_topic_name(name)
        plain = node.resolve_topic_name(name, only_expand=True)
        topics[key] = following if resolved == plain else resolved
    return topics


class Inputs:
    """Subscriptions of one camera, from activation to deactivation.

    rclpy has no lifecycle subscriptions: one that existed while inactive would be called.

    Args:
        node: Owns the subscriptions.
        topics: See `resolve_topics`.
        transports: Which of the images to subscribe to: 'raw', 'compressed' or both.
        on_image: Called with the transport and the message.
        on_camera_info: Called with the message.
        on_lost: Called with the number of images lost on the way.
    """

    def __init__(
        self,
        node: Node,
        topics: dict[str, str],
        transports: tuple[str, ...],
        on_image: Callable[[str, Any], None],
        on_camera_info: Callable[[Any], None],
        on_lost: Callable[[int], None],
    ) -> None:
        self._node = node
        self._topics = topics
        self._on_lost = on_lost
        self._refused: dict[str, tuple[str, float]] = {}
        # A group of its own goes away with the subscriptions, while the node's default one
        # remembers every entity that ever was in it.
        self._group = MutuallyExclusiveCallbackGroup()
        self._subscriptions: dict[str, Any] = {}
        for kind in transports:
            self._create(kind, functools.partial(on_image, kind))
        self._create('camera_info', on_camera_info)

    def _create(self, kind: str, callback: Callable[[Any], None]) -> None:
        self._subscriptions[kind] = self._node.create_subscription(
            _TYPES[kind],
            self._topics[kind],
            callback,
            _newest(),
            callback_group=self._group,
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            event_callbacks=SubscriptionEventCallbacks(
                incompatible_qos=functools.partial(self._on_incompatible_qos, kind),
                message_lost=None if kind == 'camera_info' else self._on_message_lost,
                # Every handler costs the executor time for every message that arrives.
                use_default_callbacks=False,
            ),
        )

    def destroy(self) -> None:
        """Unsubscribe."""
        while self._subscriptions:
            _, subscription = self._subscriptions.popitem()
            self._node.destroy_subscription(subscription)

    def publisher_counts(self) -> list[int]:
        """Publishers that are connected, of each topic of images."""
        return [
            self._subscriptions[kind].get_publisher_count()
            for kind in TRANSPORTS
            if kind in self._subscriptions
        ]

    def other_types(self) -> str:
        """Who publishes on the topics of images what is not subscribed to, for people."""
        found = []
        for kind in TRANSPORTS:
            if kind not in self._subscriptions:
                continue
            mine = f'sensor_msgs/msg/{_TYPES[kind].__name__}'
            for info in self._node.get_publishers_info_by_topic(self._topics[kind]):
                if info.topic_type != mine:
                    found.append(f'{info.node_name} sends {info.topic_type} on it, not {mine}')
        return '; '.join(found)

    def _on_message_lost(self, event: Any) -> None:
        self._on_lost(event.total_count_change)

    def _on_incompatible_qos(self, kind: str, event: Any) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        if kind not in self._refused:
            self._node.get_logger().warning(
                f'a publisher of {self._topics[kind]} offers a QoS that this node cannot use: '
                f'{policy}'
            )
        self._refused[kind] = policy, time.monotonic()

    def incompatible(self) -> dict[str, str]:
        """Publishers that cannot be heard now, and what to do about them, by topic.

        The event says that there is one and never that it is gone, so the graph is asked while
        one is known.
        """
        found = {}
        for kind, (policy, since_s) in list(self._refused.items()):
            subscription = self._subscriptions.get(kind)
            if subscription is None:
                continue
            topic = self._topics[kind]
            culprits = sorted(
                f'{info.node_namespace.rstrip("/")}/{info.node_name}'
                for info in self._node.get_publishers_info_by_topic(topic)
                if qos_check_compatible(info.qos_profile, subscription.qos_profile)[0]
                == QoSCompatibility.ERROR
            )
            if not culprits and time.monotonic() - since_s > _GRAPH_S:
                del self._refused[kind]
                continue
            found[topic] = (
                f'publisher {", ".join(culprits)} of {topic} has an incompatible QoS ({policy}); '
                f'set qos_overrides.{topic}.subscription.{policy.lower()}'
            )
        return found
