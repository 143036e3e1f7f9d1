# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Shape of what a scan hit: height above the road and normals of surfaces.

Both follow from the lidar alone, so they are the same by day and by night. That makes them targets
to learn from images of any condition.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_NEAR_M = 30.0
_CELL_M = 2.0
_STEEPEST = 0.2
_FEWEST = 30

_CELL = np.radians(3.0)
_RANGE_STEP = 0.15
_PLANAR = 0.35


def ground_plane(xyz: np.ndarray) -> np.ndarray:
    """Fit the road's plane: the lowest point of each cell near by, without those that stand out.

    Args:
        xyz: (N, 3) metres, x forward, y left, z up, at most slightly tilted; N may be 0.

    Returns:
        (3,) float64 `a, b, c` of `z = a x + b y + c`. With too few points, the flat plane through
        the lowest twentieth of them; NaN without any.
    """
    xyz = np.asarray(xyz, np.float64)
    if not len(xyz):
        return np.full(3, np.nan)
    near = xyz[np.abs(xyz[:, :2]).max(axis=1) < _NEAR_M]
    near = near if len(near) >= _FEWEST else xyz
    cell = np.floor(near[:, :2] / _CELL_M).astype(np.int64)
    key = cell[:, 0] * 100_003 + cell[:, 1]
    order = np.lexsort((near[:, 2], key))
    _, first = np.unique(key[order], return_index=True)
    lowest = near[order[first]]
    # Points below the road are noise or reflections.
    floor = float(np.percentile(near[:, 2], 5))
    flat = np.array([0.0, 0.0, floor])
    plane = flat
    for tolerance in (1.5, 0.6, 0.3, 0.2):
        above = lowest[:, 2] - lowest[:, :2] @ plane[:2] - plane[2]
        chosen = lowest[np.abs(above) < tolerance]
        if len(chosen) < 6 or np.linalg.matrix_rank(chosen[:, :2] - chosen[0, :2]) < 2:
            return plane
        terms = np.column_stack([chosen[:, :2], np.ones(len(chosen))])
        plane = np.linalg.lstsq(terms, chosen[:, 2], rcond=None)[0]
        if np.abs(plane[:2]).max() > _STEEPEST:
            return flat
    return plane


def height_above(xyz: np.ndarray, plane: np.ndarray) -> np.ndarray:
    """Heights above a plane.

    Args:
        xyz: (N, 3) metres.
        plane: (3,) from `ground_plane`.

    Returns:
        (N,) float32 metres; NaN when the plane is.
    """
    return np.asarray(xyz[:, 2] - xyz[:, :2] @ plane[:2] - plane[2], np.float32)


def normals(xyz: np.ndarray) -> np.ndarray:
    """Estimate normals from the points of cells of 6 by 6 degrees and a third of the range.

    Cells grow with the distance as the gaps between points do. A cell's normal is the direction
    in which its points spread least.

    Args:
        xyz: (N, 3) metres, seen from the origin; N may be 0.

    Returns:
        (N, 3) float32 unit vectors that point to the origin's side; zeros where a cell holds too
        few points, or points that lie on no plane.
    """
    xyz = np.asarray(xyz, np.float64)
    out = np.zeros((len(xyz), 3), np.float32)
    distance = np.linalg.norm(xyz, axis=1)
    seen = distance > 0.5
    if not seen.any():
        return out
    points = xyz[seen]
    best = np.full(len(points), np.inf)
    found = np.zeros((len(points), 3))
    # Of two ways to cut, the flatter cell counts.
    for cell in _cells(points):
        axis, flatness = _least_axes(points, cell)
        better = flatness[cell] < best
        best[better] = flatness[cell][better]
        found[better] = axis[cell][better]
    found[best > _PLANAR] = 0
    away = (found * points).sum(axis=1) > 0
    found[away] *= -1
    out[seen] = found
    return out


def alone(xyz: np.ndarray) -> np.ndarray:
    """Find points without another one near by: flakes, drops and what fog throws back.

    The cells are those of `normals`, so that near by means more metres farther away, as in dynamic
    outlier removal (Charron et al. 2018).

    Args:
        xyz: (N, 3) metres, seen from the origin; N may be 0.

    Returns:
        (N,) bool.
    """
    xyz = np.asarray(xyz, np.float64)
    out = np.ones(len(xyz), bool)
    seen = np.flatnonzero(np.linalg.norm(xyz, axis=1) > 0)
    if len(seen):
        for cell in _cells(xyz[seen]):
            out[seen] &= np.bincount(cell)[cell] < 2
    return out


def _cells(points: np.ndarray) -> Iterator[np.ndarray]:
    """Numbers of the cells that points lie in, cut in two ways, since cells cut surfaces."""
    distance = np.linalg.norm(points, axis=1)
    polar = np.column_stack(
        [
            np.arctan2(points[:, 1], points[:, 0]) / _CELL,
            np.arcsin(np.clip(points[:, 2] / distance, -1, 1)) / _CELL,
            np.log(distance) / _RANGE_STEP,
        ]
    )
    place = np.floor(polar).astype(np.int64)
    for shift in (0, 1):
        whole = (place + shift) // 2 + 128
        key = (whole[:, 0] * 1024 + whole[:, 1]) * 1024 + whole[:, 2]
        yield np.unique(key, return_inverse=True)[1].ravel()


def _least_axes(points: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per cell, the axis of least spread, and that spread relative to the middle one."""
    count = np.bincount(cell)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(cell, values) / count

    centre = np.stack([mean(points[:, i]) for i in range(3)], axis=1)
    away = points - centre[cell]
    covariance = np.empty((len(count), 3, 3))
    for i in range(3):
        for j in range(i, 3):
            covariance[:, i, j] = covariance[:, j, i] = mean(away[:, i] * away[:, j])
    values, axes = np.linalg.eigh(covariance)
    spread = np.sqrt(np.maximum(values, 0))
    flatness = spread[:, 0] / np.maximum(spread[:, 1], 1e-6)
    # Points of one ring lie on a line, which has no normal.
    line = spread[:, 1] < 0.05 * spread[:, 2]
    flatness[(count < 5) | line] = np.inf
    return axes[:, :, 0], flatness
