# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A lidar's scans for the cameras that see them: no ROS, so the node and a replay share it.

Messages are kept as they are; one is decoded when a camera asks for it, which is once or twice a
second.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from clcp_ros.errors import CalibrationError, ClcpError
from clcp_ros.monitor.alignment import MAX_DELAY_NS, MIN_PAIRS
from clcp_ros.monitor.alignment_feed import FORGET_S
from clcp_ros.monitor.scan_view import CameraModel, ScanView, project_scan
from clcp_ros.point_cloud import read_points

POINTS_TYPE = 'sensor_msgs/msg/PointCloud2'

_FARTHEST_M = 1e8  # earth-centred coordinates are below 1e7 m
_KEPT_NS = round(FORGET_S * 1e9) + MAX_DELAY_NS  # scans older than that are asked for no more


@dataclass(frozen=True)
class Scan:
    """A decoded scan.

    Attributes:
        stamp_ns: Its stamp.
        frame_id: Its coordinate frame.
        xyz: (N, 3) float32 metres; may hold what is not finite.
        intensity: (N,) float32 in [0, 1], or None.
    """

    stamp_ns: int
    frame_id: str
    xyz: np.ndarray
    intensity: np.ndarray | None


class ScanBuffer:
    """The newest scans of a lidar. Any thread may put, any may ask.

    Args:
        keep: Most scans; those that are older than about two seconds are forgotten.
    """

    def __init__(self, keep: int = 64) -> None:
        self._messages: deque[tuple[int, Any]] = deque(maxlen=keep)
        self._decoded: OrderedDict[int, Scan | None] = OrderedDict()
        self._scale = 0.0
        self._lock = threading.Lock()
        self.problem = ''
        """Why the last scan that was asked for could not be read; empty when it could."""

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, message: Any, stamp_ns: int | None = None) -> None:
        """Keep a scan.

        Args:
            message: sensor_msgs/PointCloud2, rclpy's or rosbags', or a function that gives it: to
                deserialise what nobody asks for would be in vain.
            stamp_ns: Of the scan; it may be left out where the message is given itself.
        """
        if stamp_ns is None:
            stamp = message.header.stamp
            stamp_ns = int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)
        with self._lock:
            if self._messages and stamp_ns < self._messages[-1][0] - 1_000_000_000:
                # A looped bag, or a clock that was set: nothing of before belongs to now.
                self._messages.clear()
                self._decoded.clear()
            self._messages.append((stamp_ns, message))
            while self._messages[0][0] < stamp_ns - _KEPT_NS:
                self._messages.popleft()

    def clear(self) -> None:
        """Forget all scans."""
        with self._lock:
            self._messages.clear()
            self._decoded.clear()

    def nearest(self, stamp_ns: int, within_ns: int = MAX_DELAY_NS) -> Scan | None:
        """The scan nearest to a moment; of two equally near ones the earlier.

        Args:
            stamp_ns: The moment.
            within_ns: How far away it may be.

        Returns:
            None where there is none that near, or where it cannot be read (`problem`).
        """
        with self._lock:
            best = min(self._messages, key=lambda m: (abs(m[0] - stamp_ns), m[0]), default=None)
            if best is None or abs(best[0] - stamp_ns) > within_ns:
                return None
            if best[0] not in self._decoded:
                self._decoded[best[0]] = self._decode(*best)
                while len(self._decoded) > 4:
                    self._decoded.popitem(last=False)
            return self._decoded[best[0]]

    def _decode(self, stamp_ns: int, message: Any) -> Scan | None:
        try:
            if callable(message):
                message = message()
            xyz, intensity, self._scale = read_points(message, self._scale)
        except ClcpError as error:
            self.problem = str(error)
            return None
        self.problem = ''
        return Scan(stamp_ns, frame_name(message.header.frame_id), xyz, intensity)


class CameraScans:
    """A lidar's scans as one camera sees them: called with a stamp, gives the view or None.

    Args:
        buffer: The lidar's scans.
        transform: T_camera_lidar (4, 4), or what looks it up: called with the frames of camera and
            lidar, gives it or None.
        rectified: The images are rectified.
    """

    def __init__(
        self,
        buffer: ScanBuffer,
        transform: np.ndarray | Callable[[str, str], np.ndarray | None],
        rectified: bool = False,
    ) -> None:
        self._buffer = buffer
        self._transform = transform
        self._rectified = rectified
        self._model: CameraModel | None = None
        self._info_key: tuple[Any, ...] = ()
        self._info_problem = 'no camera_info has come'
        self._frame_id = ''
        self.problem = ''
        """Why images are not compared with the last scan; empty when they are."""

    def camera_info(self, message: Any) -> None:
        """Take a camera_info in; one that is like the last costs nothing.

        Args:
            message: sensor_msgs/CameraInfo, rclpy's or rosbags'.
        """
        self._frame_id = frame_name(message.header.frame_id) or self._frame_id
        names = ('k', 'd', 'p') if hasattr(message, 'k') else ('K', 'D', 'P')
        roi = message.roi
        key = (
            *(np.asarray(getattr(message, name), np.float64).tobytes() for name in names),
            str(message.distortion_model), int(message.height), int(message.width),
            int(roi.x_offset), int(roi.y_offset), int(roi.height), int(roi.width),
        )  # fmt: skip
        if key == self._info_key:
            return
        self._info_key = key
        try:
            self._model = CameraModel.of_info(message, self._rectified)
            self._info_problem = ''
        except CalibrationError as error:
            self._model, self._info_problem = None, str(error)

    def image_frame(self, frame_id: str) -> None:
        """The coordinate frame that images state, where camera_info states none."""
        self._frame_id = self._frame_id or frame_name(frame_id)

    def __call__(self, stamp_ns: int) -> ScanView | None:
        """The view of the scan of a moment, or None.

        `problem` then says why, and also where the view has too few points.
        """
        scan = self._buffer.nearest(stamp_ns)
        if scan is None:
            self.problem = self._buffer.problem or 'no scan within 50 ms of the image'
            return None
        if self._model is None:
            self.problem = self._info_problem
            return None
        T = self._transform
        if callable(T):
            found = T(self._frame_id, scan.frame_id)
            if found is None:
                self.problem = (
                    f'no transform from {scan.frame_id!r} (lidar) to {self._frame_id!r} (camera): '
                    'publish it on /tf_static or set lidar.T_camera_lidar'
                )
                return None
            T = found
        view = project_scan(scan.xyz, scan.intensity, self._model, T, scan.stamp_ns)
        self.problem = ''
        if len(view) < MIN_PAIRS:
            self.problem = (
                f'{len(view)} of {view.points} points in the image, fewer than {MIN_PAIRS}: the '
                'lidar is covered or turned off in parts, or it is not where the transform says'
            )
        return view


class StaticFrames:
    """Fixed transforms between coordinate frames, as /tf_static tells them."""

    def __init__(self) -> None:
        self._edges: dict[tuple[str, str], np.ndarray] = {}
        self._found: dict[tuple[str, str], np.ndarray | None] = {}

    def add(self, transforms: Iterable[Any]) -> int:
        """Take the transforms of a tf2_msgs/TFMessage in.

        Returns:
            The number of impossible ones, which are left out.
        """
        bad = 0
        for entry in transforms:
            t, q = entry.transform.translation, entry.transform.rotation
            edge = frame_name(entry.header.frame_id), frame_name(entry.child_frame_id)
            try:
                self._edges[edge] = pose_matrix([t.x, t.y, t.z, q.x, q.y, q.z, q.w])
            except CalibrationError:
                bad += 1
        self._found.clear()
        return bad

    def __call__(self, target: str, source: str) -> np.ndarray | None:
        """T_target_source (4, 4) by the shortest way, whichever way edges point; or None."""
        key = target, source
        if key not in self._found:
            self._found[key] = self._search(target, source)
        return self._found[key]

    def _search(self, target: str, source: str) -> np.ndarray | None:
        neighbours: dict[str, list[tuple[str, np.ndarray]]] = {}
        for (parent, child), T in self._edges.items():
            neighbours.setdefault(parent, []).append((child, T))
            neighbours.setdefault(child, []).append((parent, np.linalg.inv(T)))
        reached = {target: np.eye(4)}
        queue = deque([target])
        while queue and source not in reached:
            frame = queue.popleft()
            for other, T_frame_other in neighbours.get(frame, []):
                if other not in reached:
                    reached[other] = reached[frame] @ T_frame_other
                    queue.append(other)
        return reached.get(source)


def frame_name(name: Any) -> str:
    """A frame's name; tf of early ROS wrote a slash before it."""
    return str(name).strip('/')


def pose_matrix(values: Iterable[float]) -> np.ndarray:
    """A rigid transform of numbers.

    Args:
        values: 16 of a (4, 4) matrix, row by row, or 7: x, y, z in metres and the quaternion
            x, y, z, w.

    Returns:
        (4, 4) float64.

    Raises:
        CalibrationError: Not that many numbers, not finite, or not rigid.
    """
    numbers = np.array(list(values), np.float64)
    if numbers.shape not in ((7,), (16,)):
        raise CalibrationError(
            f'a transform has 7 numbers (x y z, quaternion x y z w) or 16 (4 x 4), '
            f'not {numbers.size}'
        )
    if not np.isfinite(numbers).all():
        raise CalibrationError(f'the transform {numbers.tolist()} is not finite')
    T = np.eye(4)
    if numbers.size == 16:
        T = numbers.reshape(4, 4)
    else:
        norm = float(np.linalg.norm(numbers[3:]))
        if norm < 1e-9:
            raise CalibrationError('the quaternion (0, 0, 0, 0) is not a rotation')
        x, y, z, w = numbers[3:] / norm
        T[:3, :3] = [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
        T[:3, 3] = numbers[:3]
    rigid = (
        np.allclose(T[3], [0, 0, 0, 1])
        # Published calibrations are rounded to a few digits.
        and np.allclose(T[:3, :3] @ T[:3, :3].T, np.eye(3), atol=1e-3)
        and np.linalg.det(T[:3, :3]) > 0
        and np.abs(T[:3, 3]).max() < _FARTHEST_M
    )
    if not rigid:
        raise CalibrationError(f'{T.tolist()} is not a rigid transform')
    return T
