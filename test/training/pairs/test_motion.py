# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Trajectories and de-skewing against motions that can be computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clcp_ros.errors import RecordingError
from training.pairs.geometry import make_transform, rotation_from_quaternion, transform_points
from training.pairs.motion import Trajectory, deskew, quaternions

S = 1_000_000_000


def yaw(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


def straight(speed: float = 20.0, **limits: float) -> Trajectory:
    """Poses every 0.5 s along x."""
    stamps = np.arange(5) * S // 2
    poses = np.stack([make_transform(np.eye(3), [speed * t * 1e-9, 0, 0]) for t in stamps])
    return Trajectory(stamps, poses, **limits)


def test_poses_between_poses():
    np.testing.assert_allclose(straight().at(S // 4)[:3, 3], [5, 0, 0])
    turn = Trajectory(np.array([0, S]), np.stack([np.eye(4), make_transform(yaw(1.0), [2, 0, 0])]))
    expected = make_transform(yaw(0.3), [0.6, 0, 0])
    np.testing.assert_allclose(turn.at(3 * S // 10), expected, atol=1e-12)
    assert turn.at(np.zeros((2, 3), np.int64)).shape == (2, 3, 4, 4)


def test_shorter_way_round():
    ends = np.stack([make_transform(yaw(a), [0, 0, 0]) for a in (3.0, -3.0)])
    middle = Trajectory(np.array([0, S]), ends).at(S // 2)
    np.testing.assert_allclose(middle[:3, :3], yaw(np.pi), atol=1e-12)


def test_motion_between_two_times():
    # The world's origin, 10 m behind a vehicle that has driven on by 4 m.
    T = straight().between(S * 7 // 10, S // 2)
    np.testing.assert_allclose(transform_points(T, np.array([[-10.0, 0, 0]])), [[-14, 0, 0]])


def test_mounted_sensor():
    T_ego_sensor = make_transform(yaw(np.pi / 2), [1, 0, 2])
    pose = straight().of_mount(T_ego_sensor).at(S)
    np.testing.assert_allclose(pose[:3, 3], [21, 0, 2])
    np.testing.assert_allclose(pose[:3, :3], yaw(np.pi / 2), atol=1e-12)


def test_extrapolation_has_a_limit():
    line = straight(max_extrapolation=0.05)
    np.testing.assert_allclose(line.at(2 * S + S // 20)[0, 3], 41)
    np.testing.assert_allclose(line.at(-S // 20)[0, 3], -1)
    for stamp in (2 * S + S // 20 + 1, -S // 20 - 1, 10**18):
        assert not line.covers(stamp)
        with pytest.raises(RecordingError, match=r'no pose at .* go from 0\.000 to 2\.000 s'):
            line.at(stamp)


def test_nothing_is_known_inside_a_hole():
    """Half a second of standing on either side of ten seconds that were not recorded."""
    stamps = np.array([0, S // 2, 10 * S, 10 * S + S // 2])
    poses = np.stack([make_transform(np.eye(3), [x, 0, 0]) for x in (0.0, 1, 90, 92)])
    line = Trajectory(stamps, poses, max_extrapolation=0.1)
    asked = np.array([S // 4, S // 2 + S // 10, S, 5 * S, 10 * S - S // 10, 10 * S + 1])
    np.testing.assert_array_equal(line.covers(asked), [1, 1, 0, 0, 1, 1])
    # From each end with the motion on that side, not along the line across the hole.
    np.testing.assert_allclose(line.at(asked[[1, 4]])[:, 0, 3], [1.2, 89.6])


def test_a_single_pose_holds_at_its_time_only():
    one = Trajectory(np.array([S]), np.eye(4)[None])
    np.testing.assert_array_equal(one.at(np.array([S, S])), np.eye(4)[None].repeat(2, 0))
    with pytest.raises(RecordingError, match='no pose'):
        one.at(S + 1)


@pytest.mark.parametrize(
    ('stamps', 'poses', 'says'),
    [
        ([], np.zeros((0, 4, 4)), '0 stamps'),
        ([0, 1], np.eye(4)[None], '2 stamps'),
        ([1, 0], np.stack([np.eye(4)] * 2), 'must increase'),
        ([0, 1], np.stack([np.eye(4), np.full((4, 4), np.nan)]), 'not rigid'),
        ([0, 1], np.stack([np.eye(4), np.diag([-1.0, 1, 1, 1])]), 'not rigid'),
    ],
)
def test_impossible_trajectories(stamps, poses, says):
    with pytest.raises(RecordingError, match=says):
        Trajectory(np.array(stamps, np.int64), poses)


def test_unsorted_poses_with_repeats():
    poses = np.stack([make_transform(np.eye(3), [x, 0, 0]) for x in (3.0, 1, 2)])
    line = Trajectory.of_unsorted(np.array([S, 0, S]), poses)
    np.testing.assert_array_equal(line.stamps_ns, [0, S])
    np.testing.assert_array_equal(line.T_world_ego[:, 0, 3], [1, 2])


def test_deskew_on_a_straight_road():
    """A wall 30 m ahead at the scan's start comes nearer at 20 m/s while the lidar turns."""
    offsets = np.array([0, 0.05, 0.1])
    seen = np.stack([30 - 20 * offsets, [0.0, 1, 2], [0, 0, 0]], axis=1)
    T_ego_lidar = make_transform(np.eye(3), [1.5, 0, 2])
    moved = deskew(seen, offsets, S, T_ego_lidar, straight(), S + S // 20)
    np.testing.assert_allclose(moved, [[29, 0, 0], [29, 1, 0], [29, 2, 0]], atol=1e-9)
    # Before the scan's stamp, and times that are negative.
    moved = deskew(seen[::-1], offsets[::-1] - 0.1, S + S // 10, T_ego_lidar, straight(), S)
    np.testing.assert_allclose(moved[:, 0], 30, atol=1e-9)


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_deskew_in_a_turn_with_a_turned_lidar_beside_the_axis(dtype):
    """1 rad/s about the vehicle; points of known places are seen by a lidar that looks left."""
    stamps = np.arange(0, S + 1, S // 100)
    poses = np.stack([make_transform(yaw(t * 1e-9), [3 * t * 1e-9, 0, 0]) for t in stamps])
    turn = Trajectory(stamps, poses)
    T_ego_lidar = make_transform(yaw(np.pi / 2), [1, 0.5, 2])
    rng = np.random.default_rng(0)
    world = rng.uniform(-80, 80, (500, 3))
    offsets = rng.uniform(-0.05, 0.05, 500)
    seen = np.empty_like(world)
    for i, (place, dt) in enumerate(zip(world, offsets, strict=True)):
        now = 0.5 + dt
        ego = yaw(now).T @ (place - [3 * now, 0, 0])
        seen[i] = yaw(np.pi / 2).T @ (ego - [1, 0.5, 2])
    target = 0.53
    expected = (yaw(target).T @ (world - [3 * target, 0, 0]).T).T - [1, 0.5, 2]
    expected = (yaw(np.pi / 2).T @ expected.T).T
    moved = deskew(seen.astype(dtype), offsets, S // 2, T_ego_lidar, turn, S * 53 // 100)
    assert moved.dtype == dtype
    np.testing.assert_allclose(moved, expected, atol=1e-4)
    assert np.abs(seen - expected).max() > 5  # it does need moving


def test_deskew_without_motion_or_points():
    still = Trajectory(np.array([0, S]), np.stack([np.eye(4)] * 2))
    points = np.random.default_rng(0).normal(0, 20, (50, 3)).astype(np.float32)
    moved = deskew(points, np.linspace(0, 0.1, 50), S // 2, np.eye(4), still, 0)
    np.testing.assert_allclose(moved, points, atol=1e-5)
    assert deskew(points[:0], np.zeros(0), S // 2, np.eye(4), still, 0).shape == (0, 3)
    # All at one time: the scan is moved as a whole.
    whole = deskew(points, np.zeros(50), S, np.eye(4), straight(), S + S // 10)
    np.testing.assert_allclose(whole, points - np.float32([2, 0, 0]), atol=1e-5)


@pytest.mark.parametrize(
    ('offsets', 'says'),
    [([0, np.nan], 'not those of a scan'), ([0, 1e6], 'not those of a scan'), ([0, 5], 'no pose')],
)
def test_deskew_refuses_what_it_cannot_know(offsets, says):
    with pytest.raises(RecordingError, match=says):
        deskew(np.ones((2, 3)), np.array(offsets), 0, np.eye(4), straight(), 0)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=4, max_size=4))
def test_quaternions_of_rotations(q):
    if np.linalg.norm(q) < 1e-3:
        return
    unit = np.array(q) / np.linalg.norm(q)
    found = quaternions(rotation_from_quaternion(*q)[None])[0]
    assert abs(found @ unit) == pytest.approx(1, abs=1e-12)
