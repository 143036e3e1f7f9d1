# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Lens distortion as ROS and OpenCV state it: rays of pixels, pixels of points."""

from __future__ import annotations

import cv2
import numpy as np

from training.simulation.conditions import SimulationError

PLUMB_BOB, EQUIDISTANT = 'plumb_bob', 'equidistant'
DISTORTION_MODELS = (PLUMB_BOB, EQUIDISTANT)


def check_distortion(model: str, D: tuple[float, ...]) -> None:
    """Raise SimulationError unless `D` has the length that `model` asks for."""
    if model not in DISTORTION_MODELS:
        raise SimulationError(
            f'no distortion model {model!r}; there are {", ".join(DISTORTION_MODELS)}'
        )
    lengths = (0, 4, 5) if model == PLUMB_BOB else (0, 4)
    if len(D) not in lengths:
        raise SimulationError(
            f'{model} takes {" or ".join(map(str, lengths))} coefficients, not {len(D)}'
        )


def unproject(
    pixels: np.ndarray,
    K: np.ndarray,
    model: str = PLUMB_BOB,
    D: tuple[float, ...] = (),
) -> np.ndarray:
    """Unit rays through pixels.

    Args:
        pixels: (..., 2) u, v; pixel (0, 0) has its centre at (0, 0).
        K: (3, 3).
        model: `plumb_bob` (k1, k2, p1, p2[, k3]; Brown 1966) or `equidistant` (k1 to k4 of
            theta_d = theta (1 + k1 theta^2 + ...); Kannala and Brandt 2006, OpenCV's fisheye).
        D: Coefficients as in sensor_msgs/CameraInfo; none for a perfect lens.

    Returns:
        (..., 3) float64 in the optical frame (x right, y down, z forward).

    Raises:
        SimulationError: The distortion cannot be undone at some pixel: it folds over.
    """
    shape = pixels.shape[:-1]
    xy = (np.asarray(pixels, np.float64).reshape(-1, 2) - K[:2, 2]) / K[[0, 1], [0, 1]]
    if model == EQUIDISTANT:
        rays = _equidistant_rays(xy, D)
    else:
        rays = np.column_stack([_undo_plumb_bob(xy, D) if any(D) else xy, np.ones(len(xy))])
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    if any(D):
        back = project(rays, K, model, D)
        error = np.abs(back - np.asarray(pixels, np.float64).reshape(-1, 2)).max()
        if not error < 0.05:
            raise SimulationError(
                f'D {list(D)} cannot be undone over the whole image (off by {error:.2g} pixels); '
                f'use weaker distortion or a narrower field of view'
            )
    return rays.reshape(*shape, 3)


def project(
    points: np.ndarray,
    K: np.ndarray,
    model: str = PLUMB_BOB,
    D: tuple[float, ...] = (),
) -> np.ndarray:
    """(N, 2) pixels of (N, 3) points in the optical frame; NaN for points behind the camera.

    An equidistant lens sees behind itself too, up to where the polynomial ends.
    """
    points = np.asarray(points, np.float64)
    if model == EQUIDISTANT:
        rho = np.hypot(points[:, 0], points[:, 1])
        theta = np.arctan2(rho, points[:, 2])
        scale = _theta_d(theta, D) / np.maximum(rho, 1e-12)
        xy = points[:, :2] * scale[:, None]
    else:
        ahead = points[:, 2] > 1e-9
        xy = np.full((len(points), 2), np.nan)
        if ahead.any():
            zero = np.zeros(3)
            xy[ahead] = cv2.projectPoints(
                points[ahead][:, None], zero, zero, np.eye(3), np.array(D or (0.0,) * 4)
            )[0][:, 0]
    return xy * K[[0, 1], [0, 1]] + K[:2, 2]


def _theta_d(theta: np.ndarray, D: tuple[float, ...]) -> np.ndarray:
    k = (*D, 0.0, 0.0, 0.0, 0.0)
    t2 = theta * theta
    return theta * (1 + t2 * (k[0] + t2 * (k[1] + t2 * (k[2] + t2 * k[3]))))


def _equidistant_rays(xy: np.ndarray, D: tuple[float, ...]) -> np.ndarray:
    radius = np.hypot(xy[:, 0], xy[:, 1])
    theta = np.minimum(radius, np.pi)
    k = (*D, 0.0, 0.0, 0.0, 0.0)
    for _ in range(20):
        t2 = theta * theta
        slope = 1 + t2 * (3 * k[0] + t2 * (5 * k[1] + t2 * (7 * k[2] + t2 * 9 * k[3])))
        step = (_theta_d(theta, D) - radius) / np.where(np.abs(slope) < 1e-6, 1e-6, slope)
        theta = np.clip(theta - step, 0, np.pi)
    side = xy / np.maximum(radius, 1e-12)[:, None] * np.sin(theta)[:, None]
    return np.column_stack([side, np.cos(theta)])


def _undo_plumb_bob(xy: np.ndarray, D: tuple[float, ...]) -> np.ndarray:
    """Newton's method on the forward model; converges where the model does not fold over."""
    k1, k2, p1, p2, k3 = (*D, 0.0)[:5]
    x, y = xy[:, 0].copy(), xy[:, 1].copy()
    for _ in range(30):
        r2 = x * x + y * y
        radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
        growth = k1 + r2 * (2 * k2 + r2 * 3 * k3)
        fx = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x) - xy[:, 0]
        fy = y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y - xy[:, 1]
        xx = radial + 2 * x * x * growth + 2 * p1 * y + 6 * p2 * x
        yy = radial + 2 * y * y * growth + 6 * p1 * y + 2 * p2 * x
        xy_ = 2 * x * y * growth + 2 * p1 * x + 2 * p2 * y
        det = xx * yy - xy_ * xy_
        det = np.where(np.abs(det) < 1e-9, 1e-9, det)
        x -= np.clip((fx * yy - fy * xy_) / det, -0.5, 0.5)
        y -= np.clip((fy * xx - fx * xy_) / det, -0.5, 0.5)
    return np.column_stack([x, y])
