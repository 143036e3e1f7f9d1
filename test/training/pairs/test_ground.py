# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from training.pairs.ground import alone, ground_plane, height_above, normals


def street(tilt: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A tilted road 1.7 m below with cars and a wall; and which points are the road."""
    rng = np.random.default_rng(seed)
    road = np.column_stack([rng.uniform(3, 40, 3000), rng.uniform(-12, 12, 3000), np.zeros(3000)])
    cars = rng.uniform([8, -6, 0.3], [20, 6, 1.8], (800, 3))
    wall = np.column_stack(
        [rng.uniform(3, 40, 1500), np.full(1500, 12.0), rng.uniform(0, 8, 1500)]
    )
    xyz = np.concatenate([road, cars, wall])
    xyz[:, 2] += tilt * xyz[:, 0] - 1.7 + rng.normal(0, 0.02, len(xyz))
    xyz[:5, 2] -= 4  # reflections below the road
    return xyz, np.arange(len(xyz)) < 3000


@pytest.mark.parametrize('tilt', [0.0, 0.05, -0.08])
def test_the_road_is_found_below_cars(tilt: float) -> None:
    xyz, road = street(tilt)
    plane = ground_plane(xyz)
    np.testing.assert_allclose(plane, [tilt, 0, -1.7], atol=0.04)
    heights = height_above(xyz, plane)
    assert heights.dtype == np.float32
    assert np.abs(heights[road][5:]).max() < 0.2
    assert heights[~road].min() > -0.2


def test_few_points_give_a_flat_plane_and_none_none() -> None:
    assert np.isnan(ground_plane(np.zeros((0, 3)))).all()
    assert np.isnan(height_above(np.ones((2, 3)), ground_plane(np.zeros((0, 3))))).all()
    few = np.array([[5.0, 0, -1], [6, 1, -1.2]])
    assert np.isfinite(ground_plane(few)).all()
    line = np.column_stack([np.linspace(3, 20, 50), np.zeros(50), np.full(50, -1.5)])
    np.testing.assert_allclose(ground_plane(line), [0, 0, -1.5], atol=1e-6)


def test_normals_of_a_road_a_wall_and_a_bush() -> None:
    rng = np.random.default_rng(0)
    # As a lidar sees them: evenly over angles.
    azimuth, elevation = np.meshgrid(
        np.radians(np.arange(-60, 60, 0.5)), np.radians(np.arange(-20, 10, 0.7))
    )
    forward, left = np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth)
    ray = np.stack([forward, left, np.sin(elevation)], axis=-1).reshape(-1, 3)
    with np.errstate(divide='ignore'):
        to_road = np.where(ray[:, 2] < -0.02, -1.7 / ray[:, 2], np.inf)
        to_wall = np.where(ray[:, 0] > 0, 20 / ray[:, 0], np.inf)
    distance = np.minimum(to_road, to_wall) + rng.normal(0, 0.01, len(ray))
    seen = distance < 35
    xyz, is_road = (ray * distance[:, None])[seen], (to_road < to_wall)[seen]
    n = normals(xyz)
    known = np.abs(n).sum(axis=1) > 0
    assert known.mean() > 0.9
    np.testing.assert_allclose(np.linalg.norm(n[known], axis=1), 1, atol=1e-5)
    # Towards the sensor: up from the road, back from the wall.
    assert np.median(n[known & is_road][:, 2]) > 0.99
    assert np.median(n[known & ~is_road][:, 0]) < -0.99
    assert (n[known & is_road][:, 2] > 0.8).mean() > 0.9
    bush = ray[:4000] * rng.uniform(5, 7, (4000, 1))
    assert (np.abs(normals(bush)).sum(axis=1) > 0).mean() < 0.6
    assert normals(np.zeros((0, 3))).shape == (0, 3)
    assert not normals(np.array([[5.0, 0, 0]])).any()


def test_flakes_are_alone_and_surfaces_are_not() -> None:
    rng = np.random.default_rng(0)
    xyz, _ = street(0.0)
    xyz = xyz[(np.linalg.norm(xyz, axis=1) < 35) & (xyz[:, 2] > -3)]
    ray = rng.normal(size=(25, 3)) * [0.3, 0.4, 0.1] + [1, 0, 0.3]
    flakes = ray / np.linalg.norm(ray, axis=1, keepdims=True) * rng.uniform(2, 6, (25, 1))
    found = alone(np.concatenate([xyz, flakes]))
    assert found[: len(xyz)].mean() < 0.01
    assert found[len(xyz) :].mean() > 0.7
    assert alone(np.zeros((0, 3))).shape == (0,)
    assert alone(np.array([[0.0, 0, 0], [5, 0, 0]])).tolist() == [True, True]
    assert not alone(np.array([[5.0, 0, 0], [5.01, 0, 0]])).any()
