# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A lidar scan as a camera sees it: where its points fall, and what they say of the surface hit.

All that is said here of a point comes from the lidar alone, so that it is the same by day and by
night, with a clean lens and a covered one.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from clcp_ros.errors import CalibrationError

DESCRIPTORS = (
    'log_range', 'height', 'intensity', 'steepness', 'density',
    'range_left', 'range_right', 'range_above', 'range_below',
    'open_left', 'open_right', 'open_above',
)  # fmt: skip
"""Columns of `ScanView.descriptors`."""

SCAN_STATISTICS = (
    'points', 'in_view', 'near_share', 'range_p10', 'range_p50', 'range_p90', 'intensity_mean',
    'intensity_std', 'lonely_share', 'covered_cells',
)  # fmt: skip
"""Entries of `ScanView.statistics`: what a lidar that fails, or a wet one, changes first."""

MAX_POINTS = 2000
"""Of a view; a denser scan is thinned evenly: more points cost time and tell nothing new."""

_MAX_SCAN = 40_000  # points of a whole scan that are looked at
_LEAST_RANGE_M = 0.5
_NEAR_M = 3.0
_COLUMNS = 72  # cells across the image in which neighbours are looked for
_FARTHEST_PX = 0.5
_MODELS = {
    '': 'none', 'none': 'none', 'plumb_bob': 'plumb_bob',
    'rational_polynomial': 'rational_polynomial', 'equidistant': 'equidistant',
    'fisheye': 'equidistant',
}  # fmt: skip
_COEFFICIENTS = {'plumb_bob': (4, 5), 'rational_polynomial': (8, 12, 14), 'equidistant': (4,)}


@dataclass(frozen=True)
class CameraModel:
    """Intrinsics of the images that are segmented, at any scale.

    Attributes:
        K: (3, 3) float64, pixels, of an image of `size`.
        size: Height and width of the image that `K` belongs to.
        distortion: 'none', 'plumb_bob', 'rational_polynomial' or 'equidistant'.
        D: Coefficients in OpenCV's order.
    """

    K: np.ndarray
    size: tuple[int, int]
    distortion: str = 'none'
    D: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        K, D = np.asarray(self.K, np.float64), np.asarray(self.D, np.float64).ravel()
        if K.shape != (3, 3) or not np.isfinite(K).all() or K[0, 0] <= 0 or K[1, 1] <= 0:
            raise CalibrationError('the camera is not calibrated: publish a camera_info with K')
        if min(self.size) <= 0:
            raise CalibrationError('camera_info has no image size: publish width and height')
        if self.distortion not in _MODELS:
            known = ', '.join(name for name in _MODELS if name)
            raise CalibrationError(
                f'unknown distortion model {self.distortion!r}; known are {known}'
            )
        model = _MODELS[self.distortion]
        # Zeros are a pinhole camera in the polynomial models; equidistant with zeros is a fisheye.
        if model != 'equidistant' and not D.any():
            model, D = 'none', np.zeros(0)
        if not np.isfinite(D).all() or len(D) not in _COEFFICIENTS.get(model, (len(D),)):
            raise CalibrationError(
                f'{model} has {_COEFFICIENTS.get(model)} finite coefficients, the camera_info '
                f'{D.tolist()}'
            )
        object.__setattr__(self, 'K', K)
        object.__setattr__(self, 'D', D)
        object.__setattr__(self, 'distortion', model)

    @classmethod
    def of_info(cls, info: Any, rectified: bool = False) -> CameraModel:
        """The model that a camera_info states.

        Args:
            info: sensor_msgs/CameraInfo: rclpy's or rosbags', ROS 2 or ROS 1.
            rectified: The images are rectified: P holds, and there is no distortion.

        Raises:
            CalibrationError: The camera is not calibrated, or its model is unknown.
        """

        def numbers(name: str) -> np.ndarray:
            value = getattr(info, name, None)
            return np.asarray(getattr(info, name.upper()) if value is None else value, np.float64)

        K, roi = numbers('k').reshape(3, 3).copy(), info.roi
        P = numbers('p').reshape(3, 4)[:, :3]
        if rectified and P[0, 0] > 0:
            K = P.copy()
        left, top = int(roi.x_offset), int(roi.y_offset)
        K[:2, 2] -= left, top
        size = int(roi.height or info.height), int(roi.width or info.width)
        D = np.zeros(0) if rectified else numbers('d')
        return cls(K, size, 'none' if rectified else str(info.distortion_model), D)

    @functools.cached_property
    def bounds(self) -> np.ndarray:
        """(4,) left, right, top and bottom of the image in x / z and y / z.

        Outside of them a polynomial of distortion folds back and shows points that the camera
        does not see.
        """
        height, width = self.size
        u, v = np.linspace(-0.5, width - 0.5, 17), np.linspace(-0.5, height - 0.5, 17)
        border = np.concatenate(
            [
                np.stack([u, np.full(17, -0.5)], 1), np.stack([u, np.full(17, height - 0.5)], 1),
                np.stack([np.full(17, -0.5), v], 1), np.stack([np.full(17, width - 0.5), v], 1),
            ]
        )[:, None]  # fmt: skip
        if self.distortion == 'none':
            rays = (border[:, 0] - self.K[:2, 2]) / self.K[[0, 1], [0, 1]]
        elif self.distortion == 'equidistant':
            rays = cv2.fisheye.undistortPoints(border, self.K, self.D)[:, 0]
        else:
            rays = cv2.undistortPoints(border, self.K, self.D)[:, 0]
        rays = np.clip(np.nan_to_num(rays, nan=4.0, posinf=4.0, neginf=-4.0), -4.0, 4.0)
        low, high = rays.min(axis=0), rays.max(axis=0)
        return np.array([low[0], high[0], low[1], high[1]])

    def project(self, rays: np.ndarray) -> np.ndarray:
        """Places in the image of directions.

        Args:
            rays: (N, 2) x / z and y / z in the optical frame.

        Returns:
            (N, 2) float32 from 0 to 1, from edge to edge of the image; outside of that where the
            camera does not see.
        """
        rays = np.asarray(rays, np.float64)
        if self.distortion == 'none' or not len(rays):
            pixels = rays * self.K[[0, 1], [0, 1]] + self.K[:2, 2]
            pixels[:, 0] += rays[:, 1] * self.K[0, 1]
        elif self.distortion == 'equidistant':
            pixels = cv2.fisheye.distortPoints(rays[:, None], self.K, self.D)[:, 0]
        else:
            points = np.column_stack([rays, np.ones(len(rays))])
            zero = np.zeros(3)
            pixels = cv2.projectPoints(points, zero, zero, self.K, self.D)[0][:, 0]
        return ((pixels + 0.5) / [self.size[1], self.size[0]]).astype(np.float32)


@dataclass(frozen=True)
class ScanView:
    """The points of a scan that fall on an image; N of them.

    Attributes:
        uv: (N, 2) float32 places, 0 to 1 from edge to edge.
        uv_yaw: (N, 2) float32, by how much the places move per radian when the lidar is turned to
            the right against the camera.
        uv_pitch: (N, 2) float32, the same when it is turned down.
        descriptors: (N, D) float32, see `DESCRIPTORS`; all finite.
        statistics: (M,) float64, see `SCAN_STATISTICS`; all finite.
        points: Points of the whole scan that came back.
        stamp_ns: Of the scan; 0 where nobody told.
    """

    uv: np.ndarray
    uv_yaw: np.ndarray
    uv_pitch: np.ndarray
    descriptors: np.ndarray
    statistics: np.ndarray
    points: int
    stamp_ns: int = 0

    def __len__(self) -> int:
        return len(self.uv)


def project_scan(
    xyz: np.ndarray,
    intensity: np.ndarray | None,
    camera: CameraModel,
    T_camera_lidar: np.ndarray,
    stamp_ns: int = 0,
) -> ScanView:
    """See a scan from a camera.

    Args:
        xyz: (N, 3) metres, lidar frame; NaN, infinity and (0, 0, 0) mean no return.
        intensity: (N,) in [0, 1], or None where the lidar has none.
        camera: Intrinsics.
        T_camera_lidar: (4, 4), into the optical frame: right, down, forward.
        stamp_ns: Of the scan.

    Returns:
        The view; it may be of no point at all.
    """
    xyz = np.asarray(xyz, np.float32)
    strength = np.zeros(len(xyz), np.float32)
    if intensity is not None:
        strength = np.asarray(intensity, np.float32)
    step = max(1, -(-len(xyz) // _MAX_SCAN))
    xyz, strength = xyz[::step], strength[::step]
    with np.errstate(invalid='ignore', over='ignore'):
        squared = np.einsum('ij,ij->i', xyz, xyz)
        # NaN fails both comparisons, infinity the second.
        returned = (squared > _LEAST_RANGE_M**2) & (squared < 1e6)
    xyz, strength, squared = xyz[returned], strength[returned], squared[returned]
    strength = np.clip(np.nan_to_num(strength, nan=0.0, posinf=1.0, neginf=0.0), 0, 1)
    T = np.asarray(T_camera_lidar, np.float64)
    seen = xyz @ T[:3, :3].T.astype(np.float32) + T[:3, 3].astype(np.float32)
    z = seen[:, 2]
    left, right, top, bottom = camera.bounds.astype(np.float32)
    inside = (z > 0.1) & (seen[:, 0] > left * z) & (seen[:, 0] < right * z)
    inside &= (seen[:, 1] > top * z) & (seen[:, 1] < bottom * z)
    chosen = np.flatnonzero(inside)
    in_view = len(chosen) * step
    chosen = _thinned(chosen, 2 * MAX_POINTS)
    seen, strength = seen[chosen], strength[chosen]
    uv = camera.project(seen[:, :2] / seen[:, 2:])
    on_image = ((uv >= 0) & (uv < 1)).all(axis=1)
    seen, strength, uv = seen[on_image], strength[on_image], uv[on_image]
    descriptors, lonely, covered = _describe(seen, strength, uv, camera)
    statistics = _statistics(
        squared, descriptors, float(len(xyz) * step), float(in_view), lonely, covered
    )
    thin = _thinned(np.arange(len(uv)), MAX_POINTS)
    rays, uv = seen[thin, :2] / seen[thin, 2:], uv[thin]
    uv_yaw, uv_pitch = _turned(rays, uv, camera)
    return ScanView(uv, uv_yaw, uv_pitch, descriptors[thin], statistics, len(xyz) * step, stamp_ns)


def _thinned(places: np.ndarray, most: int) -> np.ndarray:
    """Evenly so many of them, and the same each time."""
    if len(places) <= most:
        return places
    return places[np.arange(most) * len(places) // most]


def _turned(
    rays: np.ndarray, uv: np.ndarray, camera: CameraModel
) -> tuple[np.ndarray, np.ndarray]:
    """Derivatives of the places by yaw and pitch, per radian."""
    step = 1e-3
    x, y = rays[:, 0].astype(np.float64), rays[:, 1].astype(np.float64)
    yaw = np.column_stack([x + step * (1 + x * x), y + step * x * y])
    pitch = np.column_stack([x + step * x * y, y + step * (1 + y * y)])
    plain = camera.project(np.column_stack([x, y]))
    found = [(camera.project(turned) - plain) / np.float32(step) for turned in (yaw, pitch)]
    return found[0], found[1]


def _describe(
    seen: np.ndarray, strength: np.ndarray, uv: np.ndarray, camera: CameraModel
) -> tuple[np.ndarray, float, float]:
    """Descriptors, the share of points without a neighbour, and that of cells with points."""
    if not len(seen):
        return np.zeros((0, len(DESCRIPTORS)), np.float32), 1.0, 0.0
    distance = np.sqrt(np.einsum('ij,ij->i', seen, seen))
    log_range = np.log(distance)
    height = _height(seen)
    columns = _COLUMNS
    # Cells as high as wide in angle, whatever the image's shape.
    shape = camera.size[0] / camera.K[1, 1] / (camera.size[1] / camera.K[0, 0])
    rows = int(np.clip(round(columns * shape / 2), 8, 144))
    column = np.minimum((uv[:, 0] * columns).astype(np.intp), columns - 1)
    row = np.minimum((uv[:, 1] * rows).astype(np.intp), rows - 1)
    cell = row * columns + column
    count, range_sum = (
        np.bincount(cell, weights, rows * columns).reshape(rows, columns)
        for weights in (None, log_range)
    )
    filled = count > 0
    safe = np.maximum(count, 1)
    ranges = range_sum / safe
    # Neighbours up to two cells away: a lidar's rings leave rows of cells empty.
    sides = [_neighbour(ranges, filled, dr, dc)[row, column] for dr, dc in _SIDES]
    steps = [np.where(np.isnan(s), 0.0, np.clip(s - log_range, -1, 1)) for s in sides]
    opens = [np.isnan(s) for s in sides[:3]]
    around = cv2.boxFilter(count.astype(np.float32), -1, (3, 3), normalize=False)
    # How height grows with distance in the neighbourhood: 0 on the road, large on a wall.
    horizontal = np.hypot(seen[:, 0], seen[:, 2])
    moments = [
        cv2.boxFilter(
            np.bincount(cell, w, rows * columns).reshape(rows, columns), -1, (3, 3),
            normalize=False, borderType=cv2.BORDER_CONSTANT,
        )[row, column]
        for w in (None, height, height**2, horizontal, horizontal**2)
    ]  # fmt: skip
    n = np.maximum(moments[0], 1)
    rise = np.sqrt(np.maximum(moments[2] / n - (moments[1] / n) ** 2, 0))
    run = np.sqrt(np.maximum(moments[4] / n - (moments[3] / n) ** 2, 0))
    steepness = np.arctan2(rise, run + 0.05)
    descriptors = np.column_stack(
        [
            log_range, np.clip(height, -3, 15), strength, steepness,
            np.log1p(around[row, column]), *steps, *opens,
        ]
    ).astype(np.float32)  # fmt: skip
    lonely = float(np.mean(moments[0] < 1.5))
    return descriptors, lonely, float(filled.mean())


_SIDES = ((0, -1), (0, 1), (-1, 0), (1, 0))  # left, right, above, below


def _neighbour(ranges: np.ndarray, filled: np.ndarray, dr: int, dc: int) -> np.ndarray:
    """The mean log range of the next filled cell on a side, within two cells; NaN without one."""
    found = np.full(ranges.shape, np.nan)
    for reach in (2, 1):
        moved = np.full(ranges.shape, np.nan)
        r, c = dr * reach, dc * reach
        rows, columns = ranges.shape
        source = np.where(filled, ranges, np.nan)[
            max(r, 0) : rows + min(r, 0), max(c, 0) : columns + min(c, 0)
        ]
        moved[max(-r, 0) : rows + min(-r, 0), max(-c, 0) : columns + min(-c, 0)] = source
        found = np.where(np.isnan(moved), found, moved)
    return found


def _height(seen: np.ndarray) -> np.ndarray:
    """Heights above the road, metres: a plane through the lowest points of cells near by."""
    right, up, forward = seen[:, 0], -seen[:, 1], seen[:, 2]
    near = (np.abs(right) < 30) & (forward < 40)
    if near.sum() < 30:
        near = np.ones(len(seen), bool)
    x, y, z = (a[near].astype(np.float64) for a in (right, forward, up))
    key = np.floor(x / 2).astype(np.int64) * 1009 + np.floor(y / 2).astype(np.int64)
    order = np.lexsort((z, key))
    key = key[order]
    first = order[np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))]
    floor = float(np.percentile(z, 5))
    plane = np.array([0.0, 0.0, floor])
    terms = np.column_stack([x[first], y[first], np.ones(len(first))])
    for tolerance in (1.5, 0.6, 0.3, 0.2):
        close = np.abs(z[first] - terms @ plane) < tolerance
        if close.sum() < 8:
            break
        moved = np.linalg.lstsq(terms[close], z[first][close], rcond=None)[0]
        if np.abs(moved[:2]).max() > 0.2:
            break
        plane = moved
    return up - (right * plane[0] + forward * plane[1] + plane[2])


def _statistics(
    squared: np.ndarray,
    descriptors: np.ndarray,
    points: float,
    in_view: float,
    lonely: float,
    covered: float,
) -> np.ndarray:
    """See `SCAN_STATISTICS`."""
    near = float(np.mean(squared < _NEAR_M**2)) if len(squared) else 1.0
    if len(descriptors):
        ranges = np.percentile(descriptors[:, 0], [10, 50, 90])
        strength = descriptors[:, 2]
        bright, spread = float(strength.mean()), float(strength.std())
    else:
        ranges, bright, spread = np.zeros(3), 0.0, 0.0
    return np.array(
        [np.log1p(points), np.log1p(in_view), near, *ranges, bright, spread, lonely, covered]
    )
