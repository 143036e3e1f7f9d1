# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Hidden points are found behind dense and sparse surfaces; roads and edges are left alone."""

from __future__ import annotations

import numpy as np
import pytest

from training.pairs.occlusion import hidden_points

K = np.array([[800.0, 0, 479.5], [0, 800, 299.5], [0, 0, 1]])
SIZE = 960, 600


def plane(
    depth: float, u: tuple[float, float, float], v: tuple[float, float, float]
) -> np.ndarray:
    """Points at a depth, on a grid of pixels: (first, last, step) each way; camera frame."""
    columns, rows = np.meshgrid(np.arange(*u), np.arange(*v))
    rays = np.stack([columns - K[0, 2], rows - K[1, 2], np.full(columns.shape, K[0, 0])], -1)
    return rays.reshape(-1, 3) / K[0, 0] * depth


def hidden(*parts: np.ndarray) -> list[np.ndarray]:
    found = hidden_points(np.concatenate(parts), K, np.eye(4), *SIZE)
    return np.split(found, np.cumsum([len(p) for p in parts])[:-1])


def test_on_the_same_ray():
    near, far = np.array([[0.5, 0.2, 5.0]]), np.array([[2.0, 0.8, 20.0]])
    assert [h.tolist() for h in hidden(near, far)] == [[False], [True]]
    # Half a metre, and a share of the distance, is not behind.
    assert not hidden(near, near * 1.1)[1].any()


@pytest.mark.parametrize('gap', [3, 8, 20, 40])
def test_a_wall_hides_what_is_behind_it_however_many_rings_it_has(gap):
    wall = plane(6, (300, 600, 3), (150, 450, gap))
    behind = plane(20, (340, 560, 7), (150 + 2 * gap, 450 - 2 * gap, gap / 2 + 0.3))
    beside = plane(20, (640, 900, 7), (150, 450, gap))
    own, far, free = hidden(wall, behind, beside)
    assert not own.any()
    assert far.mean() > 0.95
    assert not free.any()


@pytest.mark.parametrize('gap', [1.5, 4, 12])
def test_a_road_is_seen_to_its_end(gap):
    """1.5 m below the camera, to 80 m: within eight pixels it spans up to 40 m there."""
    rows = np.arange(299.5 + 15, 590, gap)
    columns = np.arange(10, 950, 4)
    v, u = np.meshgrid(rows, columns, indexing='ij')
    depth = 1.5 * K[1, 1] / (v - K[1, 2])
    road = np.stack([(u - K[0, 2]) / K[0, 0] * depth, np.full(u.shape, 1.5), depth], -1)
    assert depth.max() > 75
    assert not hidden(road.reshape(-1, 3))[0].any()


def test_what_is_seen_past_an_edge_stays():
    box = plane(6, (400, 500, 3), (200, 400, 6))
    above = plane(30, (380, 520, 5), (150, 193, 6))
    left = plane(30, (300, 393, 5), (200, 400, 6))
    assert not any(h.any() for h in hidden(box, above, left))


def test_only_the_image_counts():
    wall = plane(6, (-300, -20, 3), (100, 500, 3))  # beside the image
    behind = plane(30, (-250, -60, 3), (150, 450, 3))
    back = np.array([[0.1, 0.1, -5.0], [np.nan, 0, 3]])
    assert not any(h.any() for h in hidden(wall, behind, back))
    assert hidden_points(np.zeros((0, 3)), K, np.eye(4), *SIZE).shape == (0,)


def test_simulated_truth():
    """The figures that the docstring states, on one frame: far better than chance both ways."""
    from training.simulation.config import SimulationConfig
    from training.simulation.frame import simulate_frame

    frame = simulate_frame(SimulationConfig(width=960, height=600, beams=64, columns=1800), 2)
    K_frame, depth_map = np.asarray(frame.camera.K), frame.depth
    points = np.asarray(frame.scan.points, np.float64)
    camera = points @ frame.T_camera_lidar[:3, :3].T + frame.T_camera_lidar[:3, 3]
    with np.errstate(divide='ignore', invalid='ignore'):
        uv = camera @ K_frame.T
        pixel = np.nan_to_num(uv[:, :2] / uv[:, 2:], nan=-9, posinf=-9, neginf=-9).round()
    on_image = (camera[:, 2] > 0) & (pixel >= 1).all(axis=1) & (pixel < (958, 598)).all(axis=1)
    points, camera, pixel = points[on_image], camera[on_image], pixel[on_image].astype(int)
    around = [
        depth_map[pixel[:, 1] + dy, pixel[:, 0] + dx] for dy in (-1, 0, 1) for dx in (-1, 0, 1)
    ]
    depth = camera[:, 2]
    seen = (np.abs(np.stack(around) - depth) < 0.3 + 0.02 * depth).any(axis=0)
    behind = ~seen & (depth > around[4] + 0.5)
    found = hidden_points(points, K_frame, frame.T_camera_lidar, 960, 600)
    assert behind.sum() > 50
    assert found[seen].mean() < 0.05
    assert found[behind].mean() > 0.5
