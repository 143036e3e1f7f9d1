# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from clcp_ros.errors import ModelError
from training.models.range_image import (
    LIPLOC_EMPTY,
    RangeSettings,
    full_range_image,
    project_range,
    range_image,
)


def at(yaw_deg: float, pitch_deg: float, depth: float) -> list[float]:
    """A point to the left for positive yaw, above for positive pitch."""
    yaw, pitch = math.radians(yaw_deg), math.radians(pitch_deg)
    flat = depth * math.cos(pitch)
    return [flat * math.cos(yaw), flat * math.sin(yaw), depth * math.sin(pitch)]


# Point, row, column, value: by LIP-Loc's formulas with 64 x 900 pixels, +3 to -25 degrees, 50 m.
GOLDEN = [
    ([10.0, 0, 0], 6, 450, 51),  # ahead: (1 - 25/28) 64 = 6.86
    ([0, 10.0, 0], 6, 225, 51),  # left
    ([0, -20.0, 0], 6, 675, 102),  # right
    ([-10.0, 0, 0], 6, 0, 51),  # behind, yaw = -pi
    ([-10.0, -1e-6, 0], 6, 899, 51),  # behind, the other side of the seam
    (at(0.2, 2.9, 49.9), 0, 449, 254),  # nearly as far as it goes; (1 - 27.9/28) 64 = 0.23
    (at(-59.9, -10.5, 30), 30, 599, 153),  # (1 - 14.5/28) 64 = 30.86
    (at(30.1, -24.9, 5), 63, 374, 25),
    (at(90.1, 20, 5), 0, 224, 25),  # above the field of view: first row
    (at(90.1, -60, 5), 63, 224, 25),  # below: last row
]


def test_pixels_and_values_of_single_points() -> None:
    for point, row, column, value in GOLDEN:
        image = full_range_image(np.array([[*point, 0.5]], np.float32), RangeSettings())
        assert image.shape == (64, 900)
        assert np.argwhere(image).tolist() == [[row, column]], point
        assert image[row, column] == value


def test_all_points_at_once() -> None:
    points = np.array([[*p, 0.5] for p, *_ in GOLDEN], np.float32)
    image = full_range_image(points, RangeSettings(empty=LIPLOC_EMPTY))
    expected = np.full((64, 900), 251, np.uint8)
    for _, row, column, value in GOLDEN:
        expected[row, column] = value
    assert np.array_equal(image, expected)


def test_empty_pixels_are_251_or_0() -> None:
    # -1 times 5.1 is -5.1; cast to bytes on x86 it is cut to -5 and wraps around to 251.
    assert np.array([-5.1]).astype(np.int64).astype(np.uint8)[0] == LIPLOC_EMPTY
    none = np.zeros((0, 4), np.float32)
    assert (range_image(none, RangeSettings(empty=LIPLOC_EMPTY)).image == 251).all()
    assert (range_image(none).image == 0).all()
    assert range_image(none).xy.shape == (0, 2)


def test_the_nearest_point_of_a_pixel_stays() -> None:
    points = np.array([at(0.1, 0, d) for d in (20, 10, 30)], np.float32)
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2]):
        image = full_range_image(points[order], RangeSettings())
        assert image.max() == 51


def test_what_is_out_of_range_is_left_out() -> None:
    points = np.array([[0, 0, 0], [50, 0, 0], [60, 0, 0], [49.99, 0, 0]], np.float32)
    _, depth, kept = project_range(points, RangeSettings())
    assert kept.tolist() == [False, False, False, True]
    assert depth.tolist() == pytest.approx([0, 50, 60, 49.99])
    assert full_range_image(points, RangeSettings())[6, 450] == 254
    assert np.count_nonzero(full_range_image(points[:3], RangeSettings())) == 0


def test_the_part_that_the_camera_sees() -> None:
    """Rows 0 to 31 and columns 300 to 599, stretched to a square."""
    points = np.array(
        [at(0.1, 0, 10), at(61, 0, 10), at(-61, 0, 10), at(0.1, -12, 10)], np.float32
    )
    seen = range_image(points)
    assert seen.image.shape == (224, 224)
    assert seen.image.dtype == np.uint8
    assert seen.seen.tolist() == [True, False, False, False]
    assert seen.xy[0] == pytest.approx(
        [(0.5 * (-0.1 / 180 + 1) * 900 - 300) / 300, (1 - 25 / 28) * 64 / 32]
    )
    rows, columns = np.nonzero(seen.image > 25)
    # The pixel's middle, (6.5, 449.5) of the whole image, is where the point is brightest.
    assert abs(rows.mean() - (6.5 / 32 * 224 - 0.5)) < 1
    assert abs(columns.mean() - (149.5 / 300 * 224 - 0.5)) < 1


def test_places_agree_with_the_picture() -> None:
    """Reading the picture at a point's place gives its depth, where nothing is before it."""
    rng = np.random.default_rng(0)
    settings = RangeSettings(
        rows=(0, 64), columns=(0, 900), image_size=(64, 900), fov_down_deg=-30, empty=0
    )
    angles = rng.uniform([-180, -29, 5], [180, 2.9, 49], (500, 3))
    points = np.array([at(*a) for a in angles], np.float32)
    result = range_image(points, settings)
    assert result.seen.all()
    column, row = (result.xy * [900, 64]).astype(int).T
    depth = np.linalg.norm(points, axis=1)
    read = result.image[row, column] / 5.1
    assert (read <= depth + 1e-3).all()
    assert (depth - read < 0.2).mean() > 0.95


def test_a_real_scan(sample_data: Path) -> None:
    file = min((sample_data / 'kitti_raw').rglob('velodyne_points/data/*.bin'))
    points = np.fromfile(file, np.float32).reshape(-1, 4)
    whole = full_range_image(points, RangeSettings())
    assert 0.5 < (whole > 0).mean() < 0.95
    picture = range_image(points)
    # A Velodyne sees 26.8 degrees of elevation and 360 around; the part is a sixth of the whole.
    assert 0.1 < picture.seen.mean() < 0.25
    # 1.7 m above the road, what looks down by 19 degrees sees nothing beyond 6 m; ahead it does.
    assert np.percentile(whole[52:60], 99) < 6 * 5.1
    assert whole[:8].max() > 30 * 5.1
    assert np.array_equal(range_image(points).image, picture.image)


def test_impossible_settings_are_refused() -> None:
    for settings in (
        {'rows': (10, 70)}, {'columns': (5, 5)}, {'fov_up_deg': -30.0}, {'max_range_m': 0.0},
        {'image_size': (0, 5)}, {'empty': 300},
    ):  # fmt: skip
        with pytest.raises(ModelError):
            RangeSettings(**settings)  # type: ignore[arg-type]
