# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Scans on their way from a topic to a camera's view."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from clcp_ros.errors import CalibrationError
from clcp_ros.scans import CameraScans, ScanBuffer, StaticFrames, pose_matrix

pytest.importorskip('rclpy')
from sensor_msgs.msg import CameraInfo, PointCloud2, PointField

from clcp_ros.node_lidar import Lidar

SECOND = 1_000_000_000
# x forward, y left, z up to right, down, forward
T_CAMERA_LIDAR = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0.3], [1, 0, 0, 0], [0, 0, 0, 1]])


def cloud(stamp_ns: int, count: int = 50, scale: float = 255.0) -> PointCloud2:
    """A wall 10 m ahead."""
    rng = np.random.default_rng(count)
    points = np.zeros(count, [('x', 'f4'), ('y', 'f4'), ('z', 'f4'), ('intensity', 'f4')])
    points['x'] = 10
    points['y'], points['z'] = rng.uniform(-2, 2, (2, count))
    points['intensity'] = np.linspace(0, scale, count)
    message = PointCloud2()
    message.header.frame_id = 'lidar'
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, SECOND)
    message.height, message.width, message.point_step = 1, count, points.itemsize
    message.row_step = points.nbytes
    message.fields = [
        PointField(name=name, offset=4 * n, datatype=PointField.FLOAT32, count=1)
        for n, name in enumerate(points.dtype.names or ())
    ]
    message.data = points.tobytes()
    return message


def camera_info() -> CameraInfo:
    message = CameraInfo(height=200, width=320, distortion_model='plumb_bob')
    message.header.frame_id = 'camera_optical'
    message.k = [300.0, 0.0, 159.5, 0.0, 300.0, 99.5, 0.0, 0.0, 1.0]
    return message


def transform(parent: str, child: str, x: float, q: tuple[float, ...] = (0, 0, 0, 1)) -> Any:
    """As of a TFMessage."""
    return SimpleNamespace(
        header=SimpleNamespace(frame_id=parent),
        child_frame_id=child,
        transform=SimpleNamespace(
            translation=SimpleNamespace(x=x, y=0.0, z=0.0),
            rotation=SimpleNamespace(**dict(zip('xyzw', q, strict=True))),
        ),
    )


# Without a node -------------------------------------------------------------------------------


def test_nearest_scan_within_50_ms() -> None:
    buffer = ScanBuffer()
    for n in range(5):
        buffer.put(cloud(SECOND + n * SECOND // 10))
    assert len(buffer) == 5
    found = buffer.nearest(SECOND + 140_000_000)
    assert found is not None
    assert found.stamp_ns == 1_100_000_000
    assert found.frame_id == 'lidar'
    assert found.xyz.shape == (50, 3)
    assert found.intensity is not None
    assert found.intensity.max() == pytest.approx(1.0)
    # Exactly between two: the earlier, whatever the order of arrival.
    middle = buffer.nearest(1_150_000_000)
    assert middle is not None
    assert middle.stamp_ns == 1_100_000_000
    assert buffer.nearest(1_450_000_001) is None
    assert buffer.nearest(SECOND - 50_000_001) is None


def test_buffer_forgets_the_old_and_a_looped_bag() -> None:
    buffer = ScanBuffer()
    for n in range(100):
        buffer.put(cloud(10 * SECOND + n * SECOND // 10, 1))
    assert len(buffer) <= 21
    buffer.put(cloud(10 * SECOND, 1))
    assert len(buffer) == 1


def test_intensity_keeps_the_scale_it_had() -> None:
    buffer = ScanBuffer()
    buffer.put(cloud(SECOND, scale=255.0))
    buffer.nearest(SECOND)
    buffer.put(cloud(2 * SECOND, scale=0.5))
    dark = buffer.nearest(2 * SECOND)
    assert dark is not None
    assert dark.intensity is not None
    assert dark.intensity.max() < 0.01


def test_damaged_scan_is_a_problem_and_no_view() -> None:
    message = cloud(SECOND)
    message.width = 5000
    buffer = ScanBuffer()
    buffer.put(message)
    scans = CameraScans(buffer, T_CAMERA_LIDAR)
    scans.camera_info(camera_info())
    assert scans(SECOND) is None
    assert 'contradictory layout' in scans.problem
    buffer.put(cloud(2 * SECOND))
    assert scans(2 * SECOND) is not None
    assert 'contradictory' not in scans.problem


def test_view_wants_scan_calibration_and_mounting() -> None:
    buffer, frames = ScanBuffer(), StaticFrames()
    scans = CameraScans(buffer, frames)
    assert scans(SECOND) is None
    assert 'no scan' in scans.problem
    buffer.put(cloud(SECOND))
    assert scans(SECOND) is None
    assert 'camera_info' in scans.problem
    blank = camera_info()
    blank.k = [0.0] * 9
    scans.camera_info(blank)
    assert scans(SECOND) is None
    assert 'not calibrated' in scans.problem
    scans.camera_info(camera_info())
    assert scans(SECOND) is None
    assert "'lidar'" in scans.problem
    assert "'camera_optical'" in scans.problem
    frames.add([transform('base', 'lidar', 1.0)])
    # The optical frame looks along the base's x: right is -y, down is -z.
    frames.add([transform('base', 'camera_optical', 0.0, (-0.5, 0.5, -0.5, 0.5))])
    view = scans(SECOND)
    assert view is not None
    assert len(view) == 50
    # 11 m ahead of the camera.
    assert np.exp(view.descriptors[:, 0]).min() == pytest.approx(11, abs=0.2)
    # It is seen, but of so few points nothing can be said.
    assert scans.problem.startswith('50 of 50 points in the image, fewer than 500')


def test_static_frames_both_ways_with_slashes_and_nonsense() -> None:
    frames = StaticFrames()
    bad = frames.add(
        [
            transform('/base', '/lidar', 2.0),
            transform('base', 'broken', 1.0, (0, 0, 0, 0)),
            transform('base', 'nan', float('nan')),
        ]
    )
    assert bad == 2
    forth, back = frames('base', 'lidar'), frames('lidar', 'base')
    assert forth is not None
    assert back is not None
    assert forth @ back == pytest.approx(np.eye(4))
    assert forth[0, 3] == 2
    assert frames('base', 'elsewhere') is None
    frames.add([transform('lidar', 'elsewhere', 1.0)])
    late = frames('base', 'elsewhere')
    assert late is not None
    assert late[0, 3] == 3


def test_transform_of_a_parameter() -> None:
    assert pose_matrix(T_CAMERA_LIDAR.ravel()) == pytest.approx(T_CAMERA_LIDAR)
    seven = pose_matrix([1, 2, 3, 0, 0, 0, 2])
    assert seven[:3, 3].tolist() == [1, 2, 3]
    assert seven[:3, :3] == pytest.approx(np.eye(3))
    scaled = np.diag([2.0, 2, 2, 1]).ravel()
    for numbers in ([1.0] * 3, [0.0] * 7, [float('nan')] * 16, scaled, np.ones(16)):
        with pytest.raises(CalibrationError):
            pose_matrix(numbers)


# With a node ----------------------------------------------------------------------------------


@pytest.fixture
def nodes(ros: Any) -> Iterator[tuple[Any, Any, Any]]:
    from rclpy.executors import SingleThreadedExecutor

    node, peer = (ros.create_node(name, namespace='lidar_test') for name in ('owner', 'peer'))
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    executor.add_node(peer)
    yield node, peer, executor
    executor.shutdown(timeout_sec=5)
    node.destroy_node()
    peer.destroy_node()


def until(executor: Any, predicate: Any) -> None:
    end = time.monotonic() + 20
    while not predicate():
        assert time.monotonic() < end, 'timed out'
        executor.spin_once(timeout_sec=0.02)


def test_scans_come_from_the_topic_to_the_view(nodes: tuple[Any, Any, Any]) -> None:
    node, peer, executor = nodes
    lidar = Lidar(node, 'points', T_CAMERA_LIDAR.ravel().tolist())
    publisher = peer.create_publisher(PointCloud2, 'points', 10)
    assert lidar.topic == '/lidar_test/points'
    assert node.count_subscribers(lidar.topic) == 0  # nothing before open
    lidar.open()
    until(executor, publisher.get_subscription_count)
    scans = lidar.scans()
    scans.camera_info(camera_info())
    sent = cloud(5 * SECOND)
    publisher.publish(sent)
    until(executor, lambda: lidar.received)
    view = scans(5 * SECOND + 20_000_000)
    assert view is not None
    offline = ScanBuffer()
    offline.put(sent)
    replayed = CameraScans(offline, T_CAMERA_LIDAR)
    replayed.camera_info(camera_info())
    same = replayed(5 * SECOND + 20_000_000)
    assert same is not None
    assert view.stamp_ns == same.stamp_ns == 5 * SECOND
    assert view.uv.tobytes() == same.uv.tobytes()
    assert view.descriptors.tobytes() == same.descriptors.tobytes()
    lidar.close()
    assert scans(5 * SECOND) is None
    until(executor, lambda: not publisher.get_subscription_count())
    lidar.open()
    until(executor, publisher.get_subscription_count)
    lidar.close()


def test_impossible_transform_is_refused_at_once(nodes: tuple[Any, Any, Any]) -> None:
    with pytest.raises(CalibrationError, match='7 numbers'):
        Lidar(nodes[0], 'points', [1.0, 2.0])
