# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The tree of coordinate frames that a bag's /tf_static and /tf describe."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clcp_ros.bag_file import Bag
from clcp_ros.errors import CalibrationError, ClcpError
from training.pairs.geometry import (
    check_transform,
    invert_transform,
    make_transform,
    rotation_from_quaternion,
)

STATIC, MOVING = '/tf_static', '/tf'

Edge = tuple[str, str]
"""Parent and child frame."""

_AT_REST = 2000
"""How many messages of /tf are looked at for mounts that were published there."""


_FARTHEST_M = 1e8
"""Earth-centred coordinates are below 1e7 m."""


@dataclass
class TransformTree:
    """Fixed transforms between frames.

    Attributes:
        edges: (parent, child): T_parent_child (4, 4).
        notes: What was contradictory.
    """

    edges: dict[Edge, np.ndarray] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def lookup(self, target: str, source: str) -> np.ndarray | None:
        """T_target_source (4, 4) by breadth-first search, whichever way edges point; or None.

        Where ways between the frames contradict each other, a note says so.
        """
        neighbours: dict[str, list[tuple[str, np.ndarray]]] = {}
        for (parent, child), T in self.edges.items():
            neighbours.setdefault(parent, []).append((child, T))
            neighbours.setdefault(child, []).append((parent, invert_transform(T)))
        reached = {target: np.eye(4)}
        queue = deque([target])
        while queue:
            frame = queue.popleft()
            for other, T_frame_other in neighbours.get(frame, []):
                T = reached[frame] @ T_frame_other
                if other not in reached:
                    reached[other] = T
                    queue.append(other)
                elif source in reached and not np.allclose(reached[other], T, atol=1e-3):
                    self._note(
                        f'transforms contradict each other around {other}: the shortest way from '
                        f'{source} to {target} is used'
                    )
        return reached.get(source)

    def describe(self) -> str:
        """The edges, for messages."""
        return ', '.join(f'{parent} -> {child}' for parent, child in sorted(self.edges))

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


@dataclass(frozen=True)
class Motion:
    """A moving edge.

    Attributes:
        stamps_ns: (N,) int64, in the order of recording.
        T_parent_child: (N, 4, 4).
    """

    stamps_ns: np.ndarray
    T_parent_child: np.ndarray


def static_tree(bag: Bag, with_tf: bool = False) -> TransformTree:
    """The mounts in a bag.

    Args:
        bag: Open.
        with_tf: Also what was published on /tf and does not change: ROS 1's robot_state_publisher
            sends fixed joints there, again and again.
    """
    tree = TransformTree()
    if with_tf:
        for edge, motion in _read(bag, MOVING, tree, _AT_REST).items():
            if not moves(motion):
                tree.edges[edge] = motion.T_parent_child[-1]
    for edge, motion in _read(bag, STATIC, tree, None).items():
        if moves(motion, 1e-6):
            tree._note(
                f'{edge[0]} -> {edge[1]} is published with different values on {STATIC}: the last '
                'is used'
            )
        tree.edges[edge] = motion.T_parent_child[-1]
    return tree


def moving_edges(bag: Bag) -> dict[Edge, Motion]:
    """The edges of /tf that change."""
    return {e: m for e, m in _read(bag, MOVING, TransformTree(), None).items() if moves(m)}


def moves(motion: Motion, tolerance: float = 1e-9) -> bool:
    """Whether an edge changes."""
    first = motion.T_parent_child[0]
    return not np.allclose(motion.T_parent_child, first, rtol=0, atol=tolerance)


def frame_name(name: Any) -> str:
    """A frame's name; tf of early ROS wrote a slash before it."""
    return str(name).strip('/')


def pose_matrix(position: Any, orientation: Any) -> np.ndarray:
    """(4, 4) of a message's translation and quaternion.

    Raises:
        CalibrationError: The quaternion is zero, or a place is not on Earth.
    """
    q = orientation
    with np.errstate(over='ignore', invalid='ignore'):
        rotation = rotation_from_quaternion(q.x, q.y, q.z, q.w)
    T = make_transform(rotation, [position.x, position.y, position.z])
    if not (np.abs(T[:3, 3]) < _FARTHEST_M).all():
        raise CalibrationError(f'a position of {T[:3, 3].tolist()} m is impossible')
    return check_transform(T, 'transform')


def _read(bag: Bag, topic: str, tree: TransformTree, limit: int | None) -> dict[Edge, Motion]:
    stamps: dict[Edge, list[int]] = {}
    poses: dict[Edge, list[np.ndarray]] = {}
    broken = 0
    for number, (_, time, raw) in enumerate(bag.few_messages([topic])):
        if number == limit:
            break
        try:
            transforms = bag.decode(topic, raw).transforms
        except ClcpError:
            broken += 1
            continue
        for entry in transforms:
            edge = (frame_name(entry.header.frame_id), frame_name(entry.child_frame_id))
            try:
                T = pose_matrix(entry.transform.translation, entry.transform.rotation)
            except ClcpError:
                broken += 1
                continue
            stamp = entry.header.stamp
            stamp_ns = int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)
            stamps.setdefault(edge, []).append(stamp_ns or time)
            poses.setdefault(edge, []).append(T)
    if broken:
        tree._note(f'{broken} transforms on {topic} are damaged or impossible and were left out')
    return {
        edge: Motion(np.array(stamps[edge], np.int64), np.stack(poses[edge])) for edge in stamps
    }
