# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a lidar in the bag can say of masks without labels. It is not much; see `LidarCheck`."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from clcp_ros.bag_file import header_stamp
from clcp_ros.classes import UNLABELLED
from clcp_ros.errors import CalibrationError, ClcpError, RecordingError
from clcp_ros.point_cloud import cloud_fields
from clcp_ros.replay import BagFrame, Camera, ReplayBag, ReplayFrame
from clcp_ros.replay_bag import FrameKey
from training.pairs.geometry import Rectifier, visible_points
from training.sources._rosbag_calibration import read_calibration
from training.sources._rosbag_livox import livox_fields
from training.sources._rosbag_topics import LIVOX_TYPES, Topics, choose_topics
from training.sources.base import SourceOptions

MAX_GAP_NS = 100_000_000
"""A scan and an image further apart than this are of different moments."""

_JUMP, _SMOOTH = 0.2, 0.03
_NEIGHBOURS = 5
_RADIUS = 0.015
_MAX_POINTS = 20_000
_SCANS = 8


@dataclass
class LidarSums:
    """Sums over frames, of one camera under one condition.

    Attributes:
        frames: Frames that had a scan.
        points: Points of their scans.
        inside: Points that fall on the image.
        jumps: Neighbouring points at a jump in depth, and how many of these change class.
        smooth: Neighbouring points on one surface, and how many of these change class.
    """

    frames: int = 0
    points: int = 0
    inside: int = 0
    jumps: np.ndarray = field(default_factory=lambda: np.zeros(2, np.int64))
    smooth: np.ndarray = field(default_factory=lambda: np.zeros(2, np.int64))


@dataclass(frozen=True)
class _Mount:
    """Where a camera is, seen from the lidar."""

    rectifier: Rectifier
    T_camera_lidar: np.ndarray


@dataclass(frozen=True)
class _Scan:
    stamp_ns: int
    xyz: np.ndarray
    classes: dict[str, np.ndarray]
    """Of the points, by camera; 255 where it does not see them."""


@dataclass(frozen=True)
class _Waiting:
    key: FrameKey
    time_ns: int
    condition: str
    masks: tuple[np.ndarray, ...]
    """Of the bundle, and of the other one where there are two."""

    @property
    def camera(self) -> str:
        return self.key[0]

    @property
    def stamp_ns(self) -> int:
        return self.key[1]


class LidarCheck:
    """Compares masks with a lidar's points, as an output of a replay.

    Two questions that need no label:

    - Do classes change where the depth jumps? Of neighbouring points that fall on the image, those
      whose depths differ by more than 20 % are at the border of an object; those within 3 % are on
      one surface. A mask whose borders lie on those of things changes class often at the first and
      seldom at the second. Not every border of a class has a jump (road to sidewalk) nor the other
      way round (car before car), so only the comparison of conditions or bundles means something.
    - Do two cameras give the same class to the same point?

    Motion between image and scan is not compensated, and occlusion is not considered: what the
    lidar sees past an edge counts as the edge's neighbour.

    Args:
        bag: The bag.
        calibration: YAML file with what the bag lacks.
        points_topic: Topic of the scans; default: the likeliest.

    Raises:
        CalibrationError: The calibration is missing or impossible.
        RecordingError: No scans.
    """

    def __init__(
        self, bag: ReplayBag, calibration: Path | None = None, points_topic: str | None = None
    ) -> None:
        self._bag = bag
        self.notes: list[str] = []
        self._mounts: dict[str, _Mount] = {}
        problem: ClcpError | None = None
        for camera in bag.cameras:
            try:
                topics, mount = self._mount(camera, calibration, points_topic)
            except (CalibrationError, RecordingError) as error:
                problem = problem or error
                continue
            self.topic = topics.points
            self._mounts[camera.name] = mount
        if not self._mounts:
            assert problem is not None
            raise problem
        self._scans: deque[_Scan] = deque(maxlen=_SCANS)
        self._waiting: deque[_Waiting] = deque()
        self.sums: dict[tuple[str, str], LidarSums] = {}
        """By camera and condition."""
        self.versus: dict[tuple[str, str], LidarSums] = {}
        """The same of the other bundle."""
        self.pairs: dict[tuple[str, str], np.ndarray] = {}
        """Points that two cameras see, and how many of them they give the same class."""
        self.rows: dict[FrameKey, dict[str, float]] = {}
        """Figures by frame."""

    def _mount(
        self, camera: Camera, calibration: Path | None, points_topic: str | None
    ) -> tuple[Topics, _Mount]:
        options = SourceOptions(
            image_topic=camera.topic,
            points_topic=points_topic,
            camera_info_topic=camera.camera_info,
            calibration=calibration,
        )
        bag = self._bag.bag
        topics = choose_topics(bag.topics, str(self._bag.path), options)[0]
        found = read_calibration(bag, topics, options, self.notes)
        return topics, _Mount(found.rectifier, found.T_camera_lidar)

    def others(self, messages: list[tuple[str, int, bytes]]) -> None:
        """See `Output.others`."""
        for topic, time_ns, raw in messages:
            if topic == self.topic:
                stamp_ns = header_stamp(raw, self._bag.is_ros2)
                xyz = self._points(raw)
                if xyz is not None:
                    self._scans.append(_Scan(stamp_ns if stamp_ns > 0 else time_ns, xyz, {}))
                self._settle(time_ns)

    def frame(self, frame: ReplayFrame) -> None:
        """See `Output.frame`."""
        source = frame.source
        if source.camera in self._mounts:
            self._waiting.append(
                _Waiting(
                    source.key,
                    source.time_ns,
                    source.condition,
                    (frame.mask, *([frame.versus.mask] if frame.versus else [])),
                )
            )
        self._settle(source.time_ns)

    def unused(self, frame: BagFrame) -> None:
        """Nothing to compare."""

    def diagnostics(self, time_ns: int, statuses: object) -> None:
        """Nothing to compare."""

    def close(self) -> None:
        """Compare what still waits for a scan."""
        while self._waiting:
            self._compare(self._waiting.popleft())

    def _settle(self, time_ns: int) -> None:
        """Compare frames for which no better scan can come any more."""
        newest = self._scans[-1].stamp_ns if self._scans else 0
        while self._waiting:
            first = self._waiting[0]
            late = time_ns - first.time_ns > 5 * MAX_GAP_NS or len(self._waiting) > 4 * _SCANS
            # One that is far ahead is of the round before, in a looped recording.
            if not 0 <= newest - first.stamp_ns < 10 * MAX_GAP_NS and not late:
                return
            self._compare(self._waiting.popleft())

    def _points(self, raw: bytes) -> np.ndarray | None:
        try:
            if self._bag.topics[self.topic][0] in LIVOX_TYPES:
                cloud = livox_fields(raw, self._bag.is_ros2)
            else:
                cloud = cloud_fields(self._bag.bag.decode(self.topic, raw))
        except RecordingError:
            return None
        xyz = np.stack([cloud[axis].astype(np.float64) for axis in 'xyz'], axis=1)
        xyz = xyz[np.isfinite(xyz).all(axis=1) & (np.abs(xyz) > 1e-6).any(axis=1)]
        # Evenly, and the same each time.
        return xyz[:: max(1, math.ceil(len(xyz) / _MAX_POINTS))]

    def _compare(self, item: _Waiting) -> None:
        near = min(self._scans, key=lambda scan: abs(scan.stamp_ns - item.stamp_ns), default=None)
        if near is None or abs(near.stamp_ns - item.stamp_ns) > MAX_GAP_NS or not len(near.xyz):
            return
        mount = self._mounts[item.camera]
        rectifier = mount.rectifier
        uv, depth, inside = visible_points(
            near.xyz, rectifier.K, mount.T_camera_lidar, rectifier.width, rectifier.height
        )
        found = []
        for mask, table in zip(item.masks, (self.sums, self.versus), strict=False):
            seen = np.full(len(near.xyz), UNLABELLED, np.uint8)
            seen[inside] = classes_at(mask, uv[inside], rectifier)
            sums = table.setdefault((item.camera, item.condition), LidarSums())
            jumps, smooth = boundary_counts(
                uv[inside], depth[inside], seen[inside], _RADIUS * rectifier.width
            )
            sums.frames += 1
            sums.points += len(inside)
            sums.inside += int(inside.sum())
            sums.jumps += jumps
            sums.smooth += smooth
            found.append((seen, jumps, smooth))
        classes, jumps, smooth = found[0]
        row = {
            'lidar_points': float(len(inside)),
            'lidar_in_image': float(inside.mean()),
            'class_changes_at_depth_jumps': _share(jumps),
            'class_changes_on_surfaces': _share(smooth),
        }
        if len(found) > 1:
            row['versus_class_changes_at_depth_jumps'] = _share(found[1][1])
            row['versus_class_changes_on_surfaces'] = _share(found[1][2])
        self.rows[item.key] = row
        for other, theirs in near.classes.items():
            if other != item.camera:
                both = (theirs != UNLABELLED) & (classes != UNLABELLED)
                same = int(np.count_nonzero(both & (theirs == classes)))
                first, second = sorted((other, item.camera))
                total = self.pairs.setdefault((first, second), np.zeros(2, np.int64))
                total += [int(both.sum()), same]
        near.classes[item.camera] = classes


def classes_at(mask: np.ndarray, uv: np.ndarray, rectifier: Rectifier) -> np.ndarray:
    """The class of a mask at points of the rectified image.

    Args:
        mask: (h, w) uint8 class ids, of the image as the camera took it, at any scale.
        uv: (N, 2) pixels of the rectified image, all on it.
        rectifier: Of the camera.

    Returns:
        (N,) uint8 class ids; 255 where the camera did not see.
    """
    size = np.array([rectifier.width, rectifier.height])
    if not rectifier.is_identity:
        whole = cv2.resize(mask, size.tolist(), interpolation=cv2.INTER_NEAREST)
        # Rectifying leaves 0 where the camera saw nothing; shifted, that is unlabelled.
        mask = rectifier.rectify(whole + np.uint8(1), labels=True) - np.uint8(1)
    scale = np.array(mask.shape[1::-1]) / size
    places = np.floor((uv + 0.5) * scale).astype(np.intp)
    places = np.clip(places, 0, np.array(mask.shape[1::-1]) - 1)
    return mask[places[:, 1], places[:, 0]]


def boundary_counts(
    uv: np.ndarray, depth: np.ndarray, classes: np.ndarray, radius: float
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of neighbouring points, and those with two classes, at jumps and on surfaces.

    Args:
        uv: (N, 2) pixels.
        depth: (N,) metres.
        classes: (N,) uint8; points without a class are left out.
        radius: Neighbours are within this many pixels.

    Returns:
        Two arrays (2,) int64: number of pairs, and of those that change class.
    """
    from scipy.spatial import cKDTree  # type: ignore[import-untyped]

    known = classes != UNLABELLED
    uv, depth, classes = uv[known], depth[known], classes[known]
    nothing = np.zeros(2, np.int64)
    if len(uv) < 2:
        return nothing, nothing.copy()
    count = min(_NEIGHBOURS, len(uv))
    distance, other = cKDTree(uv).query(uv, count)
    first = np.repeat(np.arange(len(uv)), count)
    second = other.ravel()
    # Each pair once.
    keep = (distance.ravel() <= radius) & (first < second)
    first, second = first[keep], second[keep]
    ratio = np.abs(depth[first] - depth[second]) / np.minimum(depth[first], depth[second])
    differs = classes[first] != classes[second]
    jump, smooth = ratio > _JUMP, ratio < _SMOOTH
    return (
        np.array([jump.sum(), (jump & differs).sum()], np.int64),
        np.array([smooth.sum(), (smooth & differs).sum()], np.int64),
    )


def _share(counts: np.ndarray) -> float:
    return float(counts[1] / counts[0]) if counts[0] else math.nan
