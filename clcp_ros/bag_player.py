# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Plays the cameras of a bag to the segment node, with `/clock`.

    python -m clcp_ros.bag_player BAG [--rate 1.0] [--loop] [--image-topic T,T] [--cameras A,B]

A node module: needs rclpy, and rosbags. Unlike `ros2 bag play` it reads ROS 1 bags, too, and
publishes on the names the node listens to: `image` or `image/compressed` of one camera,
`<camera>/image` of several, and `camera_info` beside them.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from clcp_ros.environment import environment
from clcp_ros.errors import ClcpError, RecordingError
from clcp_ros.replay_bag import BagFrame, Camera, ReplayBag
from clcp_ros.replay_lidar import STATIC_TOPIC, static_transforms
from clcp_ros.transport import FASTDDS_VARIABLE, ROS_HINT, fastdds_profile

try:
    import rclpy
    from rclpy.executors import ExternalShutdownException
    from rclpy.qos import DurabilityPolicy, QoSProfile
    from rclpy.utilities import remove_ros_args
    from rosgraph_msgs.msg import Clock
    from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
except ImportError as error:
    if __name__ == '__main__':
        sys.exit(f'error: playing a bag needs ROS 2 ({error}): {ROS_HINT}')
    raise ClcpError(f'playing a bag needs ROS 2 ({error}): {ROS_HINT}') from None

TICK_S = 0.01
"""Period of /clock in wall time."""

_LISTENERS_S = 60.0

Wait = Callable[[float], None]
"""Lets time pass: the argument is the most seconds it may take."""


def transport_variables() -> dict[str, str]:
    """What a process must have in its environment to send large images, where nothing is set."""
    profile = fastdds_profile()
    if profile and FASTDDS_VARIABLE not in os.environ:
        # Fast DDS 3 reads the second name.
        return {FASTDDS_VARIABLE: str(profile), 'FASTDDS_DEFAULT_PROFILES_FILE': str(profile)}
    return {}


class BagPlayer:
    """Publishes the images of a bag as a robot's drivers would.

    Args:
        node: Owns the publishers.
        source: The bag.
    """

    def __init__(self, node: Any, source: ReplayBag) -> None:
        self._source = source
        several = len(source.cameras) > 1
        self.published = 0
        self.clock = node.create_publisher(Clock, '/clock', 10)
        self.images: dict[str, Any] = {}
        self._infos: dict[str, tuple[str, Any]] = {}
        self._points: dict[str, tuple[str, Any]] = {}
        self._static: Any = None
        self._cameras = {camera.name: camera for camera in source.cameras}
        for camera in source.cameras:
            base = f'{camera.name}/' if several else ''
            kind, suffix = (CompressedImage, '/compressed') if camera.compressed else (Image, '')
            # Depth 1: a robot's driver does not keep old frames either.
            self.images[camera.name] = node.create_publisher(kind, f'{base}image{suffix}', 1)
            if camera.camera_info is not None and source.is_ros2:
                publisher = node.create_publisher(CameraInfo, f'{base}camera_info', 10)
                self._infos[camera.camera_info] = (camera.name, publisher)

    def add_lidar(self, node: Any, topic: str) -> None:
        """Publish a lidar's scans as well, under their own name, and what /tf_static said.

        Args:
            node: Owns the publishers.
            topic: Of the scans in the bag, sensor_msgs/PointCloud2 of ROS 2.
        """
        self._points[topic] = (topic, node.create_publisher(PointCloud2, topic, 10))
        found = static_transforms(self._source)
        try:
            kind = importlib.import_module('tf2_msgs.msg').TFMessage
        except ImportError:  # a ROS 2 without tf2
            return
        latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._static = node.create_publisher(kind, STATIC_TOPIC, latched)
        for _, _, raw in found:
            self._static.publish(raw)

    def play(
        self,
        rate: float,
        wait: Wait,
        *,
        track: Callable[[Iterator[BagFrame], int], Iterable[BagFrame]] | None = None,
        on_sent: Callable[[BagFrame], None] | None = None,
    ) -> Callable[[], None]:
        """Send everything when its time has come.

        Args:
            rate: Speed relative to the recording.
            wait: Called while there is nothing to send.
            track: Wraps the iterator of frames; gets it and its length.
            on_sent: Called after each image.

        Returns:
            What publishes /clock as it goes on after the last image.
        """
        origin_ns, start = -1, 0.0

        def frames() -> Iterator[BagFrame]:
            beside = self._infos | self._points
            for part in self._source.parts(beside):
                for topic, _, raw in part.others:
                    beside[topic][1].publish(raw)
                if part.frame is not None:
                    yield part.frame

        found = frames()
        for frame in track(found, self._source.frame_count) if track else found:
            if origin_ns < 0:
                origin_ns, start = frame.time_ns, time.perf_counter()
            due = start + (frame.time_ns - origin_ns) * 1e-9 / rate
            while (now := time.perf_counter()) < due:
                self.tick(origin_ns + int((now - start) * rate * 1e9))
                wait(min(due - now, TICK_S))
            self.tick(frame.time_ns)
            self._send(frame)
            if on_sent:
                on_sent(frame)
            wait(0.0)

        def tick_on() -> None:
            self.tick(origin_ns + int((time.perf_counter() - start) * rate * 1e9))

        return tick_on

    def tick(self, time_ns: int) -> None:
        """Publish a time."""
        message = Clock()
        message.clock.sec, message.clock.nanosec = divmod(max(time_ns, 0), 1_000_000_000)
        self.clock.publish(message)

    def _send(self, frame: BagFrame) -> None:
        message: Any = frame.raw
        # CDR goes out as it was recorded; ROS 1 bags hold another serialisation, and what has no
        # stamp cannot be found again.
        if frame.message is not None and not (self._source.is_ros2 and frame.stamped):
            message = self._convert(frame, self._cameras[frame.camera])
        self.images[frame.camera].publish(message)
        self.published += 1

    def _convert(self, frame: BagFrame, camera: Camera) -> Any:
        message = CompressedImage() if camera.compressed else Image()
        source = frame.message
        stamp = message.header.stamp
        stamp.sec, stamp.nanosec = divmod(frame.stamp_ns, 1_000_000_000)
        message.header.frame_id = source.header.frame_id
        names = ('format',) if camera.compressed else (
            'height', 'width', 'encoding', 'is_bigendian', 'step'
        )  # fmt: skip
        for name in names:
            setattr(message, name, getattr(source, name))
        message.data.frombytes(np.ascontiguousarray(source.data))
        return message


def main(args: list[str] | None = None) -> None:
    """Play a bag until it ends or is interrupted."""
    parser = argparse.ArgumentParser(
        prog='bag_player', description='Play the cameras of a bag to the segment node.'
    )
    parser.add_argument('bag', type=Path, help='rosbag2 folder, MCAP, sqlite3 or ROS 1 bag')
    parser.add_argument('--rate', type=float, default=1.0, help='speed of the playing')
    parser.add_argument('--loop', action='store_true', help='begin again at the end')
    parser.add_argument('--image-topic', help='topics of the images, with commas')
    parser.add_argument(
        '--cameras', help='names of the cameras, with commas; empty for the only one'
    )
    given = sys.argv if args is None else ['bag_player', *args]
    options = parser.parse_args(remove_ros_args(given)[1:])
    # Launch sends its own SIGTERM; a second Ctrl-C must not interrupt the end.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if not options.rate > 0:
            raise ClcpError(f'the rate must be positive, not {options.rate:g}')
        with (
            ReplayBag(options.bag, options.image_topic or None, options.cameras or None) as source,
            environment(transport_variables()),
        ):
            if options.cameras == '' and len(source.cameras) > 1:
                names = ','.join(camera.name for camera in source.cameras)
                raise RecordingError(
                    f'{source.path} has several cameras, name those to play: {names}'
                )
            _play(source, options.rate, options.loop, given)
    except ClcpError as error:
        sys.exit(f'error: {error}')
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        rclpy.try_shutdown()


def _play(source: ReplayBag, rate: float, loop: bool, args: list[str]) -> None:
    rclpy.init(args=args)
    node = rclpy.create_node('bag_player')
    player = BagPlayer(node, source)
    log = node.get_logger()
    names = ', '.join(publisher.topic_name for publisher in player.images.values())
    log.info(f'{source.path}: {source.frame_count} images to {names}')
    end = time.monotonic() + _LISTENERS_S
    while not all(p.get_subscription_count() for p in player.images.values()):
        if time.monotonic() > end:
            log.warning('nobody listens to all cameras yet: playing all the same')
            break
        time.sleep(0.05)
    try:
        while True:
            # Nothing is subscribed to: there is nothing to spin.
            player.play(rate, time.sleep)
            if not loop:
                break
        if not player.published:
            raise RecordingError(f'{source.path}: no images')
        log.info(f'{player.published} images sent')
        # Reliable publishers need a moment to hand over the last one.
        time.sleep(0.5)
    finally:
        node.destroy_node()


if __name__ == '__main__':
    main()
