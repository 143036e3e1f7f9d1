# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A crop keeps image, points and K in agreement."""

from __future__ import annotations

import numpy as np
import pytest

from training.pairs.crop import Crop, crop_pair, sample_square
from training.pairs.geometry import inside_image, project_points

K = np.array([[300.0, 0, 99.5], [0, 300, 59.5], [0, 0, 1]])


@pytest.fixture
def scene() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image (120 x 200) with points in the camera's frame and their pixels."""
    rng = np.random.default_rng(3)
    points = np.concatenate(
        [rng.uniform([-8, -5, -5], [8, 5, 20], (4000, 3)), rng.uniform(0, 1, (4000, 1))], axis=1
    ).astype(np.float32)
    uv, _ = project_points(points[:, :3], K, np.eye(4))
    image = rng.integers(0, 255, (120, 200, 3)).astype(np.uint8)
    return image, points, uv


def test_points_of_a_crop_project_into_it_at_the_same_pixels(scene):
    image, points, uv = scene
    crop = Crop(40, 20, 96, 96)
    small, kept, K_small = crop_pair(image, points, uv, K, crop, 32)
    assert small.shape == (32, 32, 3)
    uv_small, _ = project_points(kept[:, :3], K_small, np.eye(4))
    assert inside_image(uv_small, 32, 32).all()
    # None was lost: all others fall outside of the small image.
    everything, _ = project_points(points[:, :3], K_small, np.eye(4))
    assert int(inside_image(everything, 32, 32).sum()) == len(kept) > 100
    # Pixel (40, 20), whole pixels 3 wide, becomes the first: its centre is at (1, 1) of them.
    hand = (uv[crop.contains(uv)] - [40, 20] - 1) / 3
    np.testing.assert_allclose(uv_small, hand, atol=1e-4)


def test_crop_without_resize_is_a_slice(scene):
    image, points, uv = scene
    small, _, K_small = crop_pair(image, points, uv, K, Crop(7, 9, 50, 40), (50, 40))
    np.testing.assert_array_equal(small, image[9:49, 7:57])
    np.testing.assert_allclose(K_small, K - [[0, 0, 7], [0, 0, 9], [0, 0, 0]])


def test_shrinking_averages(scene):
    image, points, uv = scene
    small, _, _ = crop_pair(image, points, uv, K, Crop(0, 0, 120, 120), 30)
    blocks = image[:, :120].reshape(30, 4, 30, 4, 3).mean(axis=(1, 3))
    assert np.abs(small - blocks).max() <= 1


def test_random_square(scene):
    _, _, uv = scene
    crops = [sample_square(np.random.default_rng(i), uv, (200, 120), 80) for i in range(30)]
    assert all(c.width == c.height == 80 for c in crops)
    assert all(0 <= c.x <= 120 and 0 <= c.y <= 40 for c in crops)
    assert len({(c.x, c.y) for c in crops}) > 20
    assert crops[5] == sample_square(np.random.default_rng(5), uv, (200, 120), 80)
    assert sample_square(np.random.default_rng(0), uv, (200, 120), 500).width == 120


def test_square_with_enough_points_is_looked_for():
    uv = np.full((100, 2), 60.0)  # all at one place, in the upper rows
    uv[:, 1] = 10
    found = [
        int(sample_square(np.random.default_rng(i), uv, (200, 120), 60, 50, 60).contains(uv).sum())
        for i in range(20)
    ]
    assert sum(count == 100 for count in found) > 15
    # Nothing there: still a crop.
    empty = np.full((5, 2), np.nan)
    assert sample_square(np.random.default_rng(0), empty, (200, 120), 60, 50).width == 60
