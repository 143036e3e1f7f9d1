# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Rigid transforms, pinhole projection, and rectification of images.

Pixel coordinates have the centre of the first pixel at (0, 0), as in OpenCV and ROS: an image of
width W covers u in [-0.5, W - 0.5).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from clcp_ros.errors import CalibrationError

DISTORTION_MODELS = ('none', 'plumb_bob', 'rational_polynomial', 'equidistant')
"""Names of sensor_msgs/distortion_models.hpp, and 'none'."""

_COEFFICIENTS = {'plumb_bob': (4, 5), 'rational_polynomial': (8, 12, 14), 'equidistant': (4,)}


def transform_points(T_target_source: np.ndarray, xyz: np.ndarray) -> np.ndarray:
    """Map points into another frame.

    Args:
        T_target_source: (4, 4).
        xyz: (N, 3), source frame.

    Returns:
        (N, 3) float64, target frame.
    """
    T = np.asarray(T_target_source, np.float64)
    return np.asarray(xyz, np.float64) @ T[:3, :3].T + T[:3, 3]


def invert_transform(T_target_source: np.ndarray) -> np.ndarray:
    """T_source_target of a rigid T_target_source, (4, 4)."""
    T = np.asarray(T_target_source, np.float64)
    inverse = np.eye(4)
    inverse[:3, :3] = T[:3, :3].T
    inverse[:3, 3] = -T[:3, :3].T @ T[:3, 3]
    return inverse


def make_transform(rotation: np.ndarray, translation: Sequence[float] | np.ndarray) -> np.ndarray:
    """(4, 4) from a (3, 3) rotation and a translation in metres."""
    T = np.eye(4)
    T[:3, :3] = rotation
    T[:3, 3] = translation
    return T


def rotation_from_quaternion(x: float, y: float, z: float, w: float) -> np.ndarray:
    """(3, 3) rotation of a quaternion in ROS' order; it need not be of unit length.

    Raises:
        CalibrationError: The quaternion is zero or not finite.
    """
    q = np.array([x, y, z, w], np.float64)
    norm = np.linalg.norm(q)
    if not np.isfinite(norm) or norm < 1e-9:
        raise CalibrationError(f'the quaternion (x {x}, y {y}, z {z}, w {w}) is not a rotation')
    x, y, z, w = q / norm
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def check_intrinsics(K: np.ndarray, where: str) -> np.ndarray:
    """K as (3, 3) float64.

    Raises:
        CalibrationError: Not finite, or no focal length (an uncalibrated camera publishes zeros).
    """
    K = np.asarray(K, np.float64).reshape(3, 3)
    if not np.isfinite(K).all() or K[0, 0] <= 0 or K[1, 1] <= 0 or abs(K[2, 2] - 1) > 1e-6:
        raise CalibrationError(f'{where}: K {K.tolist()} is not the matrix of a calibrated camera')
    return K


def check_transform(T: np.ndarray, where: str) -> np.ndarray:
    """T as (4, 4) float64.

    Raises:
        CalibrationError: Not finite or not rigid.
    """
    T = np.asarray(T, np.float64).reshape(4, 4)
    rigid = (
        np.isfinite(T).all()
        and np.allclose(T[3], [0, 0, 0, 1])
        # Published calibrations are rounded to a few digits.
        and np.allclose(T[:3, :3] @ T[:3, :3].T, np.eye(3), atol=1e-3)
        and np.linalg.det(T[:3, :3]) > 0
    )
    if not rigid:
        raise CalibrationError(f'{where}: {T.tolist()} is not a rigid transform')
    return T


def project_points(
    xyz: np.ndarray, K: np.ndarray, T_camera_lidar: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Project lidar points into a rectified image.

    Args:
        xyz: (N, 3), lidar frame, metres.
        K: (3, 3), pixels.
        T_camera_lidar: (4, 4), into the optical frame.

    Returns:
        uv (N, 2) float64 pixels, NaN for points that are not in front of the camera, and depth
        (N,) float64, metres along the optical axis.
    """
    camera = transform_points(T_camera_lidar, xyz)
    depth = camera[:, 2]
    uv = np.full((len(camera), 2), np.nan)
    front = depth > 1e-6
    projected = camera[front] @ np.asarray(K, np.float64).T
    uv[front] = projected[:, :2] / projected[:, 2:]
    return uv, depth


def inside_image(uv: np.ndarray, width: int, height: int) -> np.ndarray:
    """(N,) bool: the projection falls on a pixel of the image (NaN does not)."""
    with np.errstate(invalid='ignore'):
        inside = (uv >= -0.5) & (uv < np.array([width - 0.5, height - 0.5]))
    return inside[:, 0] & inside[:, 1]


def visible_points(
    xyz: np.ndarray, K: np.ndarray, T_camera_lidar: np.ndarray, width: int, height: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`project_points` and the (N,) bool mask of the points that fall on the image.

    Occlusion is not considered: the lidar sees past edges that hide things from the camera.
    """
    uv, depth = project_points(xyz, K, T_camera_lidar)
    return uv, depth, inside_image(uv, width, height)


@dataclass(frozen=True)
class Rectifier:
    """Makes a pinhole image of a distorted one.

    Attributes:
        model: One of `DISTORTION_MODELS`.
        K_raw: (3, 3) of the distorted image.
        D: Coefficients in OpenCV's order.
        K: (3, 3) of the rectified image.
        width: Of both images, pixels.
        height: Of both images, pixels.
        R: (3, 3) rotation from the camera's into the rectified frame, usually the identity.
    """

    model: str
    K_raw: np.ndarray
    D: np.ndarray
    K: np.ndarray
    width: int
    height: int
    R: np.ndarray = field(default_factory=lambda: np.eye(3))

    def __post_init__(self) -> None:
        if self.model not in DISTORTION_MODELS:
            known = ', '.join(DISTORTION_MODELS)
            raise CalibrationError(f'unknown distortion model {self.model!r}; known are {known}')
        D = np.asarray(self.D, np.float64).ravel()
        counts = _COEFFICIENTS.get(self.model, ())
        if counts and len(D) not in counts:
            raise CalibrationError(
                f'{self.model} has {counts} coefficients, the calibration {len(D)}'
            )
        if not np.isfinite(D).all():
            raise CalibrationError(f'distortion coefficients {D.tolist()} are not finite')
        check_transform(make_transform(self.R, [0, 0, 0]), 'rectification')

    @property
    def is_identity(self) -> bool:
        """Whether the image is a pinhole image already."""
        # Zero coefficients are a pinhole camera in the polynomial models only: equidistant with
        # zeros is the ideal fisheye.
        straight = self.model == 'none' or (self.model != 'equidistant' and not np.any(self.D))
        return bool(
            straight and np.allclose(self.K, self.K_raw) and np.allclose(self.R, np.eye(3))
        )

    def rectify(self, image: np.ndarray, labels: bool = False) -> np.ndarray:
        """Rectify an image.

        Args:
            image: (H, W) or (H, W, 3).
            labels: Take the nearest pixel: ids and class colours must not be mixed.

        Returns:
            An image of the same size and type; what the camera did not see is black.

        Raises:
            CalibrationError: The image has another size than the calibration.
        """
        if image.shape[:2] != (self.height, self.width):
            raise CalibrationError(
                f'the calibration is for {self.width} x {self.height}, the image is '
                f'{image.shape[1]} x {image.shape[0]}'
            )
        if self.is_identity:
            return image
        map_1, map_2 = self._maps
        return cv2.remap(image, map_1, map_2, cv2.INTER_NEAREST if labels else cv2.INTER_LINEAR)

    @functools.cached_property
    def _maps(self) -> tuple[np.ndarray, np.ndarray]:
        size, D = (self.width, self.height), np.asarray(self.D, np.float64).ravel()
        if self.model == 'equidistant':
            return cv2.fisheye.initUndistortRectifyMap(
                self.K_raw, D[:4], self.R, self.K, size, cv2.CV_16SC2
            )
        if self.model == 'none':
            D = np.zeros(5)
        return cv2.initUndistortRectifyMap(self.K_raw, D, self.R, self.K, size, cv2.CV_16SC2)
