# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Projection and rectification against numbers worked out by hand."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from clcp_ros.errors import CalibrationError
from training.pairs import geometry

K = np.array([[500.0, 0, 320], [0, 400, 240], [0, 0, 1]])
# Lidar (x forward, y left, z up), half a metre above and 0.2 m behind the camera.
T_CAMERA_LIDAR = np.array([[0.0, -1, 0, 0], [0, 0, -1, -0.5], [1, 0, 0, -0.2], [0, 0, 0, 1]])


def test_points_computed_by_hand():
    xyz = np.array([[10.2, 0, -0.5], [10.2, 2, -0.5], [5.2, 0, 0.5], [-4, 0, 0], [0.2, 1, 1]])
    uv, depth = geometry.project_points(xyz, K, T_CAMERA_LIDAR)
    # (0, 0, 10), (-2, 0, 10), (0, -1, 5) in the camera's frame; the others are not in front of it
    np.testing.assert_allclose(uv[:3], [[320, 240], [220, 240], [320, 160]], atol=1e-9)
    assert np.isnan(uv[3:]).all()
    np.testing.assert_allclose(depth, [10, 10, 5, -4.2, 0], atol=1e-12)
    _, _, seen = geometry.visible_points(xyz, K, T_CAMERA_LIDAR, 320, 480)
    assert seen.tolist() == [False, True, False, False, False]


def test_image_reaches_to_the_edges_of_its_outer_pixels():
    uv = np.array([[-0.5, 0], [-0.51, 0], [3.49, 2.49], [3.5, 0], [0, 2.5], [np.nan, np.nan]])
    assert geometry.inside_image(uv, 4, 3).tolist() == [True, False, True, False, False, False]


def test_quaternion_of_an_optical_frame():
    # A camera that looks along its parent's x: REP 103's usual body to optical rotation.
    rotation = geometry.rotation_from_quaternion(-0.5, 0.5, -0.5, 0.5)
    np.testing.assert_allclose(rotation @ [0, 0, 1], [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(rotation @ [1, 0, 0], [0, -1, 0], atol=1e-12)
    doubled = geometry.rotation_from_quaternion(-1.0, 1.0, -1.0, 1.0)
    np.testing.assert_allclose(doubled, rotation)
    with pytest.raises(CalibrationError):
        geometry.rotation_from_quaternion(0, 0, 0, 0)


def test_inverse():
    T = geometry.make_transform(
        geometry.rotation_from_quaternion(0.1, -0.4, 0.3, 0.8), [1.0, -2.0, 3.0]
    )
    np.testing.assert_allclose(geometry.invert_transform(T) @ T, np.eye(4), atol=1e-12)


@pytest.mark.parametrize(
    'T', [np.diag([1.0, 1, -1, 1]), 2 * np.eye(4), np.full((4, 4), np.nan), np.zeros((4, 4))]
)
def test_not_rigid(T):
    with pytest.raises(CalibrationError, match='not a rigid transform'):
        geometry.check_transform(T, 'here')


def test_uncalibrated_camera():
    with pytest.raises(CalibrationError, match='calibrated'):
        geometry.check_intrinsics(np.zeros(9), 'here')


@pytest.mark.parametrize(
    ('model', 'D'),
    [
        ('plumb_bob', [-0.25, 0.06, 0.001, -0.002, 0.0]),
        ('rational_polynomial', [0.3, 0.05, 0.001, -0.001, 0.01, 0.4, 0.1, 0.02]),
        ('equidistant', [0.05, -0.01, 0.002, -0.0005]),
    ],
)
def test_rectified_image_shows_points_where_the_pinhole_projects_them(model, D):
    """Dots drawn with OpenCV's own distorting projection move to their pinhole places."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.linspace(-1.2, 1.2, 5), np.linspace(-0.8, 0.8, 4)), -1)
    points = np.concatenate([grid.reshape(-1, 2), np.full((20, 1), 3.0)], axis=1)
    points += rng.uniform(-0.05, 0.05, points.shape)
    zero, D = np.zeros(3), np.array(D)
    if model == 'equidistant':
        distorted, _ = cv2.fisheye.projectPoints(points[:, None], zero, zero, K, D)
    else:
        distorted, _ = cv2.projectPoints(points, zero, zero, K, D)
    image = np.zeros((480, 640, 3), np.uint8)
    for x, y in distorted.reshape(-1, 2):
        cv2.circle(
            image, (round(x * 16), round(y * 16)), 5 * 16, (255, 255, 255), -1, cv2.LINE_AA, 4
        )
    K_new = np.array([[480.0, 0, 318], [0, 390, 242], [0, 0, 1]])
    rectifier = geometry.Rectifier(model, K, D, K_new, 640, 480)
    assert not rectifier.is_identity
    rectified = rectifier.rectify(image)[..., 0]
    uv, _ = geometry.project_points(points, K_new, np.eye(4))
    moved = np.linalg.norm(distorted.reshape(-1, 2) - uv, axis=1)
    assert moved.max() > 5
    for x, y in uv:
        x0, y0 = round(x), round(y)
        window = rectified[y0 - 9 : y0 + 10, x0 - 9 : x0 + 10].astype(float)
        rows, columns = np.mgrid[y0 - 9 : y0 + 10, x0 - 9 : x0 + 10]
        center = [(columns * window).sum() / window.sum(), (rows * window).sum() / window.sum()]
        np.testing.assert_allclose(center, [x, y], atol=0.5)


def test_rectifying_labels_mixes_nothing():
    rng = np.random.default_rng(0)
    labels = rng.choice(np.array([3, 200], np.uint8), (480, 640))
    rectifier = geometry.Rectifier('plumb_bob', K, np.array([-0.2, 0, 0, 0, 0.0]), K, 640, 480)
    assert set(np.unique(rectifier.rectify(labels, labels=True))) <= {0, 3, 200}


def test_pinhole_image_is_left_alone():
    rectifier = geometry.Rectifier('plumb_bob', K, np.zeros(5), K, 4, 2)
    image = np.zeros((2, 4, 3), np.uint8)
    assert rectifier.rectify(image) is image
    # The ideal fisheye has zero coefficients and is no pinhole.
    assert not geometry.Rectifier('equidistant', K, np.zeros(4), K, 4, 2).is_identity


def test_impossible_calibrations():
    with pytest.raises(CalibrationError, match='unknown distortion model'):
        geometry.Rectifier('omni', K, np.zeros(4), K, 4, 2)
    with pytest.raises(CalibrationError, match='coefficients'):
        geometry.Rectifier('plumb_bob', K, np.zeros(3), K, 4, 2)
    with pytest.raises(CalibrationError, match='4 x 2, the image is 5 x 2'):
        geometry.Rectifier('none', K, np.zeros(0), K, 4, 2).rectify(np.zeros((2, 5, 3), np.uint8))
