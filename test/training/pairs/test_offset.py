# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The offset estimate on a simulated drive between boxes, with offsets put in by hand."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from training.pairs.geometry import invert_transform, make_transform
from training.pairs.motion import Trajectory
from training.pairs.offset import estimate_from_pairs
from training.pairs.pair import Pair

S = 1_000_000_000
WIDTH, HEIGHT = 256, 80
K = np.array([[180.0, 0, 127.5], [0, 180, 30], [0, 0, 1]])
# Lidar x forward, y left, z up to an optical frame 0.3 m below and 0.2 m ahead.
T_CAMERA_LIDAR = np.array([[0.0, -1, 0, 0.0], [0, 0, -1, -0.3], [1, 0, 0, -0.2], [0, 0, 0, 1]])
RINGS, COLUMNS = 16, 720


def pose(t: float, speed: float) -> np.ndarray:
    """A slalom at `speed`, T_world_lidar."""
    phase = 2 * np.pi * t / 3
    yaw = 0.18 * np.sin(phase) * (speed > 0)
    c, s = np.cos(yaw), np.sin(yaw)
    rotation = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    return make_transform(rotation, [speed * t, 0.3 * np.sin(phase) * (speed > 0), 1.8])


def boxes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lowest and highest corner, and brightness, of houses, cars and poles along a road."""
    rng = np.random.default_rng(5)
    low, high = [], []
    for _ in range(50):
        size = rng.uniform([0.3, 0.3, 2], [3, 2, 8])
        x, y = rng.uniform(4, 90), rng.uniform(3, 14) * rng.choice([-1, 1])
        low.append([x, y - size[1] / 2, 0])
        high.append([x + size[0], y + size[1] / 2, size[2]])
    return np.array(low), np.array(high), rng.uniform(20, 235, 50)


def cast(origin: np.ndarray, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance to the first box or the ground (inf: sky) and what was hit (-1 ground, -2 sky)."""
    low, high, _ = boxes()
    safe = np.where(np.abs(direction) < 1e-9, 1e-9, direction)
    with np.errstate(divide='ignore'):
        best = np.where(safe[:, 2] < 0, -origin[:, 2] / safe[:, 2], np.inf)
    hit = np.where(np.isfinite(best), -1, -2)
    for number, (a, b) in enumerate(zip(low, high, strict=True)):
        t1, t2 = (a - origin) / safe, (b - origin) / safe
        enter = np.minimum(t1, t2).max(axis=1)
        leave = np.maximum(t1, t2).min(axis=1)
        nearer = (enter < leave) & (enter > 0.1) & (enter < best)
        best, hit = np.where(nearer, enter, best), np.where(nearer, number, hit)
    return best, hit


def picture(t: float, speed: float) -> np.ndarray:
    v, u = np.mgrid[:HEIGHT, :WIDTH].reshape(2, -1)
    rays = np.column_stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones(len(u))])
    T = pose(t, speed) @ invert_transform(T_CAMERA_LIDAR)
    direction = rays @ T[:3, :3].T
    origin = np.broadcast_to(T[:3, 3], direction.shape)
    distance, hit = cast(origin, direction)
    gray = np.where(hit >= 0, boxes()[2][hit.clip(0)], np.where(hit == -1, 90.0, 200.0))
    ground = np.where(np.isfinite(distance), distance, 0)[:, None] * direction + origin
    gray += np.where(hit == -1, 8 * np.sin(3 * ground[:, 0]) * np.sin(2 * ground[:, 1]), 0)
    gray += np.random.default_rng(round(t * 1000)).normal(0, 4, len(gray))
    image = gray.clip(0, 255).astype(np.uint8).reshape(HEIGHT, WIDTH, 1)
    return image.repeat(3, axis=2)


def scan(t: float, speed: float) -> np.ndarray:
    """x, y, z, intensity, ring, time of a lidar that turns once in 0.1 s while it is driven."""
    column, ring = np.meshgrid(np.arange(COLUMNS), np.arange(RINGS))
    column, ring = column.ravel(), ring.ravel()
    time = column / COLUMNS * 0.1
    azimuth, elevation = np.pi - 2 * np.pi * column / COLUMNS, np.radians(-10 + ring)
    flat = np.cos(elevation)
    own = np.column_stack(
        [flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)]
    )  # fmt: skip
    direction, origin = np.empty_like(own), np.empty_like(own)
    for step in range(0, COLUMNS, 10):
        part = column // 10 == step // 10
        T = pose(t + (step + 5) / COLUMNS * 0.1, speed)
        direction[part], origin[part] = own[part] @ T[:3, :3].T, T[:3, 3]
    distance, _ = cast(origin, direction)
    kept = distance < 80
    xyz = own[kept] * distance[kept, None]
    points = np.column_stack([xyz, np.zeros(len(xyz)), ring[kept], time[kept]])
    return points.astype(np.float32)


@functools.cache
def drive(speed: float, frames: int = 24) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Time, picture at the time, scan that begins 40 ms before it."""
    found = []
    for i in range(frames):
        t = 1 + 0.2 * i
        if found and not speed:
            found.append((round(t * S), *found[0][1:]))
            continue
        found.append((round(t * S), picture(t, speed), scan(t - 0.04, speed)))
    return found


def trajectory(speed: float) -> Trajectory:
    stamps = np.arange(0, 8 * S, S // 50)
    return Trajectory(stamps, np.stack([pose(t * 1e-9, speed) for t in stamps]))


def pairs(speed: float, wrong_by_s: float, columns: int = 6) -> list[Pair]:
    """The camera's stamps are too late by `wrong_by_s`."""
    names = ('x', 'y', 'z', 'intensity', 'ring', 'time')[:columns]
    return [
        Pair(f's/{i:06d}', 's', 'c', 'l', time + round(wrong_by_s * S), time - S // 25, image,
             points[:, :columns], K, T_CAMERA_LIDAR, names)
        for i, (time, image, points) in enumerate(drive(speed))
    ]  # fmt: skip


@pytest.mark.parametrize('wrong_by_s', [0.0, 0.07, -0.12])
def test_offset_is_found(wrong_by_s):
    found = estimate_from_pairs([(pairs(8.0, wrong_by_s), trajectory(8.0))])
    assert found.seconds == pytest.approx(-wrong_by_s, abs=0.015), found.text
    assert found.sigma < 0.02
    assert ('--camera-offset' in found.text) == (wrong_by_s != 0)
    best = max(found.curve, key=lambda entry: entry[1])
    assert best[0] == pytest.approx(-wrong_by_s, abs=0.02)
    assert found.to_json()['frames'] == found.frames > 15


def test_offset_that_was_given_is_added():
    found = estimate_from_pairs([(pairs(8.0, 0.07), trajectory(8.0))], given=0.5)
    assert found.seconds == pytest.approx(0.43, abs=0.015)


def test_standing_still_tells_nothing():
    found = estimate_from_pairs([(pairs(0.0, 0.07), trajectory(0.0))])
    assert found.seconds is None
    assert 'hardly moves' in found.text
    assert found.to_json()['sigma'] is None


def test_offset_beyond_what_is_tried():
    found = estimate_from_pairs([(pairs(8.0, 0.2), trajectory(8.0))], max_offset=0.1)
    assert found.seconds is None
    assert 'cannot be told' in found.text


def test_pictures_of_something_else_tell_nothing():
    rng = np.random.default_rng(0)
    noise = pairs(8.0, 0.0)
    for pair in noise:
        pair.image = rng.integers(0, 255, pair.pixels().shape, np.uint8)
    assert estimate_from_pairs([(noise, trajectory(8.0))]).seconds is None


def test_no_poses_around_the_frames():
    late = Trajectory(np.array([100 * S, 101 * S]), np.stack([np.eye(4)] * 2))
    found = estimate_from_pairs([(pairs(8.0, 0.0), late)])
    assert found.seconds is None
    assert 'poses' in found.text
