# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Where the vehicle was, as a bag tells it: odometry, poses, or the moving part of /tf."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from clcp_ros.bag_file import Bag
from clcp_ros.errors import ClcpError, RecordingError
from training.pairs.motion import Trajectory
from training.sources._rosbag_tf import (
    Edge,
    Motion,
    TransformTree,
    frame_name,
    moving_edges,
    pose_matrix,
)

ODOMETRY = 'nav_msgs/msg/Odometry'
POSES = ('geometry_msgs/msg/PoseStamped', 'geometry_msgs/msg/PoseWithCovarianceStamped')

BASES = ('base_link', 'base_footprint', 'ego', 'vehicle', 'body', 'imu_link', 'imu')
"""Frames whose pose a message without child_frame_id may tell, the likeliest first."""

_WORLDS = ('odom', 'map', 'world', 'earth')
_JUMP_BACK_NS = 500_000_000
_FASTEST_M_S = 150.0


@dataclass(frozen=True)
class BagMotion:
    """Poses of the vehicle and the lidar's place on it.

    Attributes:
        trajectory: Of the vehicle.
        T_ego_lidar: (4, 4).
        source: Where it comes from, for the report.
    """

    trajectory: Trajectory
    T_ego_lidar: np.ndarray
    source: str


def bag_motion(
    bag: Bag, kind: str, lidar_frame: str, tree: TransformTree, use_bag_time: bool
) -> tuple[BagMotion | None, str]:
    """The motion, and why there is none.

    Args:
        bag: Open.
        kind: 'odom' (messages), 'tf', or 'auto': the former, else the latter.
        lidar_frame: The scans' frame.
        tree: Of the fixed mounts.
        use_bag_time: Stamps are those of recording.
    """
    reasons = []
    if kind in ('auto', 'odom'):
        motion, reason = _of_messages(bag, lidar_frame, tree, use_bag_time)
        if motion is not None:
            return motion, ''
        reasons.append(reason)
    if kind in ('auto', 'tf'):
        motion, reason = _of_tf(bag, lidar_frame, tree)
        if motion is not None:
            return motion, ''
        reasons.append(reason)
    return None, '; '.join(reasons)


def _of_messages(
    bag: Bag, lidar_frame: str, tree: TransformTree, use_bag_time: bool
) -> tuple[BagMotion | None, str]:
    candidates = [
        (kind != ODOMETRY, topic != '/odom', -count, topic)
        for topic, (kind, count) in bag.topics.items()
        if (kind == ODOMETRY or kind in POSES) and count > 1
    ]
    if not candidates:
        return None, 'no odometry'
    reason = ''
    for _, _, _, topic in sorted(candidates):
        found = _read_poses(bag, topic, use_bag_time)
        if isinstance(found, str):
            reason = reason or found
            continue
        trajectory, child = found
        bases = (child,) if child else BASES
        for base in bases:
            T_ego_lidar = np.eye(4) if base == lidar_frame else tree.lookup(base, lidar_frame)
            if T_ego_lidar is not None:
                return BagMotion(trajectory, T_ego_lidar, f'{topic} ({base})'), ''
        of = repr(child) if child else 'any of ' + ', '.join(BASES)
        reason = reason or f'no transform from {lidar_frame!r} to {of}, whose poses {topic} has'
    return None, reason


def _read_poses(bag: Bag, topic: str, use_bag_time: bool) -> tuple[Trajectory, str] | str:
    stamps: list[int] = []
    poses: list[np.ndarray] = []
    child = ''
    for _, time, raw in bag.few_messages([topic]):
        try:
            message = bag.decode(topic, raw)
            pose: Any = message.pose
            pose = getattr(pose, 'pose', pose)
            T = pose_matrix(pose.position, pose.orientation)
        except ClcpError:
            continue
        stamp = message.header.stamp
        stamp_ns = int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)
        stamps.append(time if use_bag_time or not stamp_ns else stamp_ns)
        poses.append(T)
        child = child or frame_name(getattr(message, 'child_frame_id', ''))
    return _trajectory(np.array(stamps, np.int64), poses, topic, child)


def _trajectory(
    stamps: np.ndarray, poses: list[np.ndarray] | np.ndarray, where: str, child: str
) -> tuple[Trajectory, str] | str:
    if len(stamps) < 2:
        return f'{where} has no poses'
    if (np.diff(stamps) < -_JUMP_BACK_NS).any():
        return f'the clock of {where} jumps back'
    try:
        found = Trajectory.of_unsorted(stamps, np.asarray(poses))
        return _without_outliers(found), child
    except RecordingError as error:
        return f'{where}: {error}'


def _without_outliers(trajectory: Trajectory) -> Trajectory:
    """Without single poses that no vehicle could reach, damaged messages for example.

    Raises:
        RecordingError: What is left still jumps.
    """
    stamps, poses = trajectory.stamps_ns, trajectory.T_world_ego
    place, time = poses[:, :3, 3], stamps * 1e-9

    def steps(position: np.ndarray) -> np.ndarray:
        way = np.linalg.norm(np.diff(place[position], axis=0), axis=1)
        # Nanoseconds between two poses make any noise a speed.
        return way / np.maximum(np.diff(time[position]), 0.005) > _FASTEST_M_S

    fast = steps(np.arange(len(stamps)))
    wild = np.zeros(len(stamps), bool)
    wild[1:-1] = fast[:-1] & fast[1:]
    wild[[0, -1]] = fast[[0, -1]] & (len(stamps) > 3)
    kept = np.flatnonzero(~wild)
    if len(kept) < 2 or steps(kept).any():
        raise RecordingError(f'the poses jump, faster than {_FASTEST_M_S:g} m/s')
    return Trajectory(stamps[kept], poses[kept])


def _of_tf(bag: Bag, lidar_frame: str, tree: TransformTree) -> tuple[BagMotion | None, str]:
    moving = moving_edges(bag)
    if not moving:
        return None, 'nothing moves on /tf'
    # From the lidar up through its fixed mounts to the frame that moves.
    fixed = {lidar_frame} | {
        f for e in tree.edges for f in e if tree.lookup(f, lidar_frame) is not None
    }
    first = [edge for edge in moving if edge[1] in fixed]
    if not first:
        return None, f'no frame that moves on /tf carries {lidar_frame!r}'
    edge = min(first, key=lambda e: (_rank(e[0]), e))
    T_ego_lidar = tree.lookup(edge[1], lidar_frame)
    if T_ego_lidar is None:
        T_ego_lidar = np.eye(4)
    above = _chain(edge, moving, tree)
    return _motion_of_chain(above, T_ego_lidar)


def _chain(edge: Edge, moving: dict[Edge, Motion], tree: TransformTree) -> list[tuple[Edge, Any]]:
    """Edges from the vehicle up to a frame that stands still: odom, or what is above all.

    Not beyond odom: a map's corrections are jumps, and motion within a scan must be smooth.
    """
    parent_of = {child: (parent, child) for parent, child in tree.edges}
    parent_of.update({child: (parent, child) for parent, child in moving})
    chain: list[tuple[Edge, Any]] = [(edge, moving[edge])]
    seen = set(edge)
    frame = edge[0]
    while frame not in _WORLDS and frame in parent_of:
        up = parent_of[frame]
        if up[0] in seen:
            break
        chain.append((up, moving[up] if up in moving else tree.edges[up]))
        seen.add(up[0])
        frame = up[0]
    return chain


def _motion_of_chain(
    chain: list[tuple[Edge, Any]], T_ego_lidar: np.ndarray
) -> tuple[BagMotion | None, str]:
    edge, motion = chain[0]
    where = f'/tf ({chain[-1][0][0]} to {edge[1]})'
    found = _trajectory(motion.stamps_ns, motion.T_parent_child, where, edge[1])
    if isinstance(found, str):
        return None, found
    trajectory, _ = found
    stamps, poses = trajectory.stamps_ns, trajectory.T_world_ego
    for _, above in chain[1:]:
        if isinstance(above, Motion):
            upper = _trajectory(above.stamps_ns, above.T_parent_child, where, '')
            if isinstance(upper, str):
                return None, upper
            known = upper[0].covers(stamps)
            stamps, poses = stamps[known], poses[known]
            if len(stamps) < 2:
                return None, f'{where}: its parts are of different times'
            poses = upper[0].at(stamps) @ poses
        else:
            poses = above @ poses
    return BagMotion(Trajectory(stamps, poses), T_ego_lidar, where), ''


def _rank(frame: str) -> int:
    return _WORLDS.index(frame) if frame in _WORLDS else len(_WORLDS)
