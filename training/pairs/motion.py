# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Where the vehicle was at a time, and scans as one instant would have seen them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from clcp_ros.errors import RecordingError
from training.pairs.geometry import invert_transform

KNOT_S = 0.001
"""Poses of a scan are computed at least this often, and blended linearly in between.

At 1 rad/s the blend is off by (0.001 rad)^2 / 8 of the distance: 0.01 mm at 100 m.
"""


@dataclass(frozen=True)
class Trajectory:
    """Poses of the vehicle over time; between them rotations are slerped, positions blended.

    Attributes:
        stamps_ns: (N,) int64, strictly increasing.
        T_world_ego: (N, 4, 4) float64.
        max_extrapolation: Seconds beyond the first and last pose (and into a hole) for which the
            motion of the nearest two poses may be continued.
        max_gap: Poses further apart than this many seconds are a hole: nothing is known between.

    Raises:
        RecordingError: No poses, stamps that do not increase, or what is not a rigid transform.
    """

    stamps_ns: np.ndarray
    T_world_ego: np.ndarray
    max_extrapolation: float = 0.1
    max_gap: float = 2.0

    def __post_init__(self) -> None:
        stamps = np.asarray(self.stamps_ns, np.int64).reshape(-1)
        poses = np.asarray(self.T_world_ego, np.float64)
        if not len(stamps) or poses.shape != (len(stamps), 4, 4):
            raise RecordingError(f'a trajectory of {len(stamps)} stamps and poses {poses.shape}')
        if (np.diff(stamps) <= 0).any():
            raise RecordingError('the stamps of a trajectory must increase')
        R = poses[:, :3, :3]
        rigid = (
            np.isfinite(poses).all()
            and np.allclose(R @ R.transpose(0, 2, 1), np.eye(3), atol=1e-3)
            and (np.linalg.det(R) > 0).all()
        )
        if not rigid:
            raise RecordingError('a trajectory has poses that are not rigid transforms')
        object.__setattr__(self, 'stamps_ns', stamps)
        object.__setattr__(self, 'T_world_ego', poses)

    @classmethod
    def of_unsorted(
        cls, stamps_ns: np.ndarray, T_world_ego: np.ndarray, **limits: float
    ) -> Trajectory:
        """A trajectory of poses in any order; of several at one time the last counts."""
        stamps = np.asarray(stamps_ns, np.int64).reshape(-1)
        poses = np.asarray(T_world_ego, np.float64).reshape(-1, 4, 4)
        # np.unique takes the first of equals: look from behind.
        kept, first = np.unique(stamps[::-1], return_index=True)
        return cls(kept, poses[::-1][first], **limits)

    def __len__(self) -> int:
        return len(self.stamps_ns)

    def covers(self, stamps_ns: np.ndarray | int) -> np.ndarray:
        """Whether the pose is known at each time, bool of the argument's shape."""
        stamps = np.asarray(stamps_ns, np.int64)
        left, right = self._neighbours(stamps)
        before = self.stamps_ns[left] - stamps
        after = stamps - self.stamps_ns[right]
        hole = self.stamps_ns[right] - self.stamps_ns[left] > round(self.max_gap * 1e9)
        # How far from what is known: outside of both, or in a hole from the nearer end.
        inside = np.minimum(np.maximum(-before, 0), np.maximum(-after, 0))
        distance = np.maximum(np.maximum(before, after), np.where(hole, inside, 0))
        limit = round(self.max_extrapolation * 1e9) if len(self) > 1 else 0
        return distance <= limit

    def at(self, stamps_ns: np.ndarray | int) -> np.ndarray:
        """T_world_ego at some times.

        Args:
            stamps_ns: Any shape S.

        Returns:
            (*S, 4, 4) float64.

        Raises:
            RecordingError: A time is further from the poses than `max_extrapolation`.
        """
        stamps = np.asarray(stamps_ns, np.int64)
        known = self.covers(stamps)
        if not known.all():
            stamp = int(stamps[~known].reshape(-1)[0])
            first, last = self.stamps_ns[[0, -1]] * 1e-9
            raise RecordingError(
                f'no pose at {stamp * 1e-9:.3f} s: the poses go from {first:.3f} to {last:.3f} s'
                f' (limits: {self.max_extrapolation:g} s beyond them, gaps of {self.max_gap:g} s)'
            )
        if len(self) == 1:
            return np.broadcast_to(self.T_world_ego[0], (*stamps.shape, 4, 4)).copy()
        left, right = self._neighbours(stamps)
        hole = self.stamps_ns[right] - self.stamps_ns[left] > round(self.max_gap * 1e9)
        late = self.stamps_ns[right] - stamps < stamps - self.stamps_ns[left]
        # Into a hole from the nearer end, with the motion of the poses on that side.
        left = np.where(hole, np.where(late, right, left - 1), left).clip(0, len(self) - 2)
        right = left + 1
        start, span = self.stamps_ns[left], self.stamps_ns[right] - self.stamps_ns[left]
        part = ((stamps - start) / span)[..., None]
        poses = np.zeros((*stamps.shape, 4, 4))
        poses[..., 3, 3] = 1
        a, b = self.T_world_ego[left, :3, 3], self.T_world_ego[right, :3, 3]
        poses[..., :3, 3] = a + part * (b - a)
        q = self._quaternions
        poses[..., :3, :3] = _rotations(_slerp(q[left], q[right], part))
        return poses

    def between(self, target_ns: int, source_ns: int) -> np.ndarray:
        """T_target_source (4, 4): from the vehicle at one time to the vehicle at another."""
        target, source = self.at(np.array([target_ns, source_ns]))
        return invert_transform(target) @ source

    def of_mount(self, T_ego_sensor: np.ndarray) -> Trajectory:
        """The trajectory of something mounted at T_ego_sensor (4, 4) on the vehicle."""
        poses = self.T_world_ego @ np.asarray(T_ego_sensor, np.float64)
        return Trajectory(self.stamps_ns, poses, self.max_extrapolation, self.max_gap)

    def _neighbours(self, stamps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions of the poses before and after; the outermost two outside."""
        if len(self) == 1:
            zeros = np.zeros(stamps.shape, np.int64)
            return zeros, zeros
        right = np.searchsorted(self.stamps_ns, stamps, side='right').clip(1, len(self) - 1)
        return right - 1, right

    @cached_property
    def _quaternions(self) -> np.ndarray:
        return quaternions(self.T_world_ego[:, :3, :3])


def deskew(
    xyz: np.ndarray,
    offsets_s: np.ndarray,
    scan_stamp_ns: int,
    T_ego_lidar: np.ndarray,
    trajectory: Trajectory,
    target_stamp_ns: int,
) -> np.ndarray:
    """Move each point of a scan to where a lidar at one instant would have seen it.

    The lidar turns while the vehicle drives: at 20 m/s the first and last points of a scan of
    0.1 s are taken 2 m apart. What moves by itself stays smeared.

    Args:
        xyz: (N, 3), metres, each in the lidar's frame at its own time.
        offsets_s: (N,) seconds from `scan_stamp_ns` to each point's time.
        scan_stamp_ns: Of the scan.
        T_ego_lidar: (4, 4), the lidar's mount.
        trajectory: Of the vehicle.
        target_stamp_ns: The instant, usually the camera frame's.

    Returns:
        (N, 3) of the argument's dtype, in the lidar's frame at the target time.

    Raises:
        RecordingError: The trajectory does not reach over the scan and the target, or times are
            not finite.
    """
    xyz = np.asarray(xyz)
    offsets = np.asarray(offsets_s, np.float64)
    if not len(xyz):
        return xyz.copy()
    first, last = float(offsets.min()), float(offsets.max())
    # An hour cannot be a scan; it can be a wrong unit, and would need gigabytes of knots.
    if not (np.isfinite(first) and np.isfinite(last)) or max(abs(first), abs(last)) > 3600:
        raise RecordingError(
            f'times of points from {first:g} to {last:g} s are not those of a scan'
        )
    knots = _knots(trajectory, scan_stamp_ns, first, last)
    T_lidar_ego = invert_transform(T_ego_lidar)
    T_target_world = T_lidar_ego @ invert_transform(trajectory.at(target_stamp_ns))
    T = T_target_world @ trajectory.at(knots) @ np.asarray(T_ego_lidar, np.float64)
    knots_s = (knots - scan_stamp_ns) * 1e-9
    index = np.searchsorted(knots_s, offsets, side='right').clip(1, max(len(knots) - 1, 1)) - 1
    if len(knots) == 1:
        return (xyz @ T[0, :3, :3].T + T[0, :3, 3]).astype(xyz.dtype, copy=False)
    part = (offsets - knots_s[index]) / np.diff(knots_s)[index]
    moved = np.empty(xyz.shape, xyz.dtype)
    # Motion within a scan is small numbers: float32 holds them to micrometres.
    kind = np.result_type(xyz.dtype, np.float32)
    part, columns = part.astype(kind), xyz.T.astype(kind)
    base, steps = T[:-1].astype(kind), np.diff(T, axis=0).astype(kind)

    def blended(row: int, column: int) -> np.ndarray:
        # Gathering single coefficients is several times faster than (N, 4, 4) matrices.
        value = steps[:, row, column].take(index)
        value *= part
        value += base[:, row, column].take(index)
        return value

    for row in range(3):
        total = blended(row, 3)
        for axis in range(3):
            term = blended(row, axis)
            term *= columns[axis]
            total += term
        moved[:, row] = total
    return moved


def _knots(trajectory: Trajectory, stamp_ns: int, first: float, last: float) -> np.ndarray:
    """Times at which the poses of a scan are computed, int64 nanoseconds, increasing."""
    start, end = stamp_ns + int(np.floor(first * 1e9)), stamp_ns + int(np.ceil(last * 1e9))
    even = np.linspace(0, end - start, max(int((last - first) / KNOT_S) + 1, 1) + 1)
    # The motion changes at the poses themselves: a blend must not cut that corner.
    own = trajectory.stamps_ns[(trajectory.stamps_ns > start) & (trajectory.stamps_ns < end)]
    return np.unique(np.concatenate([start + np.round(even).astype(np.int64), own]))


def quaternions(rotations: np.ndarray) -> np.ndarray:
    """(N, 4) unit quaternions x, y, z, w of (N, 3, 3) rotations.

    By the largest of the four components (Shepperd, 1978), so that nothing is divided by zero.
    """
    R = np.asarray(rotations, np.float64)
    trace = np.trace(R, axis1=1, axis2=2)
    diagonal = np.diagonal(R, axis1=1, axis2=2)
    squares = np.column_stack([1 + 2 * diagonal - trace[:, None], 1 + trace])
    # Row k of this symmetric matrix is 4 q_k q: any row will do, the largest is exact.
    outer = np.empty((len(R), 4, 4))
    for i in range(4):
        outer[:, i, i] = squares[:, i]
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        outer[:, i, j] = outer[:, j, i] = R[:, i, j] + R[:, j, i]
        outer[:, k, 3] = outer[:, 3, k] = R[:, j, i] - R[:, i, j]
    rows = outer[np.arange(len(R)), squares.argmax(axis=1)]
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _slerp(a: np.ndarray, b: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Quaternions (..., 4) on the shorter arc from `a` to `b`; also beyond them."""
    cosine = (a * b).sum(axis=-1, keepdims=True)
    b, cosine = np.where(cosine < 0, -b, b), np.abs(cosine).clip(0, 1)
    angle = np.arccos(cosine)
    sine = np.sin(angle)
    near = sine < 1e-6
    safe = np.where(near, 1, sine)
    weight_a = np.where(near, 1 - part, np.sin((1 - part) * angle) / safe)
    weight_b = np.where(near, part, np.sin(part * angle) / safe)
    q = weight_a * a + weight_b * b
    return q / np.linalg.norm(q, axis=-1, keepdims=True)


def _rotations(q: np.ndarray) -> np.ndarray:
    """(..., 3, 3) of unit quaternions (..., 4)."""
    x, y, z, w = np.moveaxis(q, -1, 0)
    return np.stack(
        [
            np.stack([1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)], -1),
            np.stack([2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)], -1),
            np.stack([2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)], -1),
        ],
        -2,
    )
