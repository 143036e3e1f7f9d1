# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Real rclpy on the real middleware, in a domain of this test process."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# Domains up to 101 keep their ports below the ephemeral ones.
os.environ['ROS_DOMAIN_ID'] = str(1 + os.getpid() % 100)
os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'

TIMEOUT_S = 20.0
_numbers = itertools.count()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.ros)


@pytest.fixture(scope='session')
def ros() -> Iterator[Any]:
    rclpy = pytest.importorskip('rclpy', reason='needs rclpy (pip install .[ros])')
    rclpy.init()
    yield rclpy
    rclpy.try_shutdown()


class Rig:
    """A segment node that spins in a thread, and a peer that talks to it from the test."""

    def __init__(self, rclpy: Any, namespace: str, parameters: dict[str, Any], remap: list[str]):
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.parameter import Parameter

        from clcp_ros.segment_node import SegmentNode

        self.namespace = namespace
        self.peer = rclpy.create_node('peer', namespace=namespace)
        self.node = SegmentNode(
            namespace=namespace,
            parameter_overrides=[Parameter(k, value=v) for k, v in parameters.items()],
            cli_args=['--ros-args', *(a for rule in remap for a in ('-r', rule))]
            if remap
            else None,
        )
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._peer_executor = SingleThreadedExecutor()
        self._peer_executor.add_node(self.peer)
        self._publishers: dict[str, Any] = {}
        self.got: dict[str, list[Any]] = {}
        self.diagnostics: list[Any] = []
        self._hears_diagnostics = False
        self._clients: dict[str, Any] = {}

    @property
    def camera(self) -> Any:
        """The first camera of the node."""
        return next(iter(self.node.cameras.values()))

    def spin(self) -> None:
        """Let the node answer calls."""
        self._thread.start()

    def stop_spinning(self) -> None:
        """Let the node be used by this thread alone."""
        self._executor.shutdown(timeout_sec=5)
        self._thread.join(5)

    def start(self) -> Rig:
        """Activate the node and spin it."""
        assert self.node.start(), self.node.failure
        self.spin()
        return self

    def listen(self, *topics: str, types: dict[str, Any] | None = None) -> Rig:
        """Subscribe to topics of the node and wait until they are connected."""
        from diagnostic_msgs.msg import DiagnosticArray
        from sensor_msgs.msg import CameraInfo, CompressedImage, Image

        kinds = {
            'shift': DiagnosticArray,
            'camera_info': CameraInfo,
            'compressed': CompressedImage,
            **(types or {}),
        }
        subscriptions = []
        for topic in topics:
            self.got[topic] = []
            kind = kinds.get(topic.rpartition('/')[2], Image)
            subscriptions.append(
                self.peer.create_subscription(kind, f'segment/{topic}', self.got[topic].append, 50)
            )
        if not self._hears_diagnostics:
            self._hears_diagnostics = True
            self.peer.create_subscription(
                DiagnosticArray, '/diagnostics', self._on_diagnostics, 50
            )
        self.until(lambda: all(s.get_publisher_count() for s in subscriptions))
        return self

    def _on_diagnostics(self, message: Any) -> None:
        if message.status[0].name.startswith(self.node.get_fully_qualified_name()):
            self.diagnostics.append(message)

    def publisher(self, message_type: Any, topic: str, qos: Any = 10) -> Any:
        """A publisher that the node already hears."""
        if topic not in self._publishers:
            publisher = self.peer.create_publisher(message_type, topic, qos)
            self.until(lambda: publisher.get_subscription_count() > 0)
            self._publishers[topic] = publisher
        return self._publishers[topic]

    def send(self, image: np.ndarray, stamp_ns: int, topic: str = 'image', **changes: Any) -> Any:
        """Publish an image (H, W, 3) uint8 as sensor_msgs/Image."""
        from sensor_msgs.msg import Image
        from std_msgs.msg import Header

        from clcp_ros.ros_messages import image_message

        message = image_message(image, Header(frame_id='camera_optical'))
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
        for name, value in changes.items():
            setattr(message, name, value)
        self.publisher(Image, topic).publish(message)
        return message

    def client(self, kind: Any, name: str) -> Any:
        """A client of a service of the node."""
        if name not in self._clients:
            self._clients[name] = self.peer.create_client(kind, f'segment/{name}')
        assert self._clients[name].wait_for_service(TIMEOUT_S), name
        return self._clients[name]

    def call(self, kind: Any, name: str, **request: Any) -> Any:
        """Call a service of the node and wait for its answer."""
        future = self.client(kind, name).call_async(kind.Request(**request))
        self.until(future.done)
        return future.result()

    def until(self, predicate: Callable[[], Any], timeout_s: float = TIMEOUT_S) -> None:
        """Spin the peer until something is so."""
        end = time.monotonic() + timeout_s
        while not predicate():
            assert time.monotonic() < end, 'timed out'
            self._peer_executor.spin_once(timeout_sec=0.02)

    def spin_for(self, seconds: float) -> None:
        """Spin the peer for a while."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._peer_executor.spin_once(timeout_sec=min(left, 0.02))

    def status(self, name: str) -> Any:
        """The newest diagnostic status of a subcomponent, or None."""
        for array in reversed(self.diagnostics):
            for status in array.status:
                if status.name == f'{self.node.get_fully_qualified_name()}: {name}':
                    return status
        return None

    def message(self, name: str) -> str:
        """What the newest status of a subcomponent says; nothing before there is one."""
        status = self.status(name)
        return '' if status is None else str(status.message)

    def values(self, name: str) -> dict[str, str]:
        """The newest figures of a subcomponent."""
        status = self.status(name)
        return {} if status is None else {v.key: v.value for v in status.values}

    def close(self) -> None:
        """Destroy both nodes."""
        self._executor.shutdown(timeout_sec=5)
        if self._thread.ident:
            self._thread.join(5)
        self._peer_executor.shutdown(timeout_sec=5)
        self.node.destroy_node()
        self.peer.destroy_node()


@pytest.fixture
def make_rig(ros: Any, tiny_bundle: Path) -> Iterator[Callable[..., Rig]]:
    rigs: list[Rig] = []

    def make(remap: list[str] | None = None, **parameters: Any) -> Rig:
        values = {
            'bundle.path': str(tiny_bundle),
            'diagnostics.period_s': 0.1,
            'diagnostics.max_age_s': 3600.0,
            'shift.period_s': 0.0,
            **{name.replace('__', '.'): value for name, value in parameters.items()},
        }
        rigs.append(Rig(ros, f'/test{next(_numbers)}', values, remap or []))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()


@pytest.fixture
def now_ns() -> Callable[[], int]:
    return time.time_ns
