# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from clcp_ros.monitor import Level
from clcp_ros.replay import FrameRecord
from training.pairs.geometry import Rectifier
from training.replaying.cameras import compare_cameras
from training.replaying.lidar import boundary_counts, classes_at

STEP_NS = 100_000_000


def record(camera: str, i: int, novelty: float, shares: tuple[float, ...]) -> FrameRecord:
    return FrameRecord(
        i * STEP_NS, i * 0.1, Level.WARN if novelty > 3 else Level.OK, '', novelty, novelty,
        0.0, 0.0, 0.0, camera=camera, shares=shares,
    )  # fmt: skip


def test_cameras_that_see_the_same_correlate() -> None:
    front = [record('front', i, i / 2, (0.5, 0.5, 0)) for i in range(10)]
    # 20 ms later, and one frame less.
    rear = [
        dataclasses.replace(record('rear', i, i / 4, (0.25, 0.75, 0)), stamp_ns=i * STEP_NS + 20)
        for i in range(9)
    ]
    (pair,) = compare_cameras([r for both in zip(front, rear, strict=False) for r in both])
    assert (pair.first, pair.second, pair.moments) == ('front', 'rear', 9)
    assert pair.correlation == pytest.approx(1.0)
    assert pair.shares_distance == pytest.approx(0.25)
    # WARN begins at novelty 3: frame 7 of the one, never of the other.
    assert pair.same_level == pytest.approx(7 / 9)


def test_cameras_of_other_times_are_not_paired() -> None:
    front = [record('front', i, 0.0, (1, 0)) for i in range(5)]
    rear = [record('rear', i + 1000, 0.0, (1, 0)) for i in range(5)]
    (pair,) = compare_cameras([*front, *rear])
    assert pair.moments == 0
    assert math.isnan(pair.same_level)
    assert math.isnan(pair.correlation)


def test_borders_of_the_mask_on_borders_of_things_are_told_from_others() -> None:
    u, v = np.meshgrid(np.arange(40.0), np.arange(20.0))
    uv = np.column_stack([u.ravel(), v.ravel()])
    # A near wall on the left of column 20, a far one on the right.
    depth = np.where(uv[:, 0] < 20, 5.0, 12.0)
    right = (uv[:, 0] < 20).astype(np.uint8)
    shifted = (uv[:, 0] < 10).astype(np.uint8)
    for classes, at_jump, on_surface in ((right, 1.0, 0.0), (shifted, 0.0, 0.02)):
        jumps, smooth = boundary_counts(uv, depth, classes, 1.2)
        assert jumps[0] >= 20
        assert smooth[0] > 500
        assert jumps[1] / jumps[0] == at_jump
        assert smooth[1] / smooth[0] == pytest.approx(on_surface, abs=0.02)
        assert (smooth[1] > 0) == (on_surface > 0)


def test_points_without_a_class_are_left_out() -> None:
    uv = np.array([[0.0, 0], [1, 0]])
    depth = np.array([1.0, 5.0])
    jumps, smooth = boundary_counts(uv, depth, np.array([0, 255], np.uint8), 5.0)
    assert jumps.tolist() == smooth.tolist() == [0, 0]


def test_class_is_that_of_the_pixel_at_any_scale() -> None:
    K = np.array([[100.0, 0, 31.5], [0, 100, 15.5], [0, 0, 1]])
    rectifier = Rectifier('none', K, np.zeros(0), K, 64, 32)
    mask = np.arange(8, dtype=np.uint8)[None].repeat(4, axis=0)  # 8 pixels of the image a column
    uv = np.array([[-0.5, 0], [7.4, 0], [7.6, 31.4], [63.4, 15]])
    assert classes_at(mask, uv, rectifier).tolist() == [0, 0, 1, 7]


def test_what_a_distorted_camera_did_not_see_has_no_class() -> None:
    K = np.array([[40.0, 0, 31.5], [0, 40, 15.5], [0, 0, 1]])
    # Rectified at half the focal length, the picture fills the middle only.
    small = K.copy()
    small[0, 0] = small[1, 1] = 20.0
    rectifier = Rectifier('plumb_bob', K, np.array([0.0, 0, 0, 0, 1e-9]), small, 64, 32)
    found = classes_at(
        np.full((32, 64), 3, np.uint8), np.array([[31.5, 15.5], [1.0, 1.0]]), rectifier
    )
    assert found.tolist() == [3, 255]
