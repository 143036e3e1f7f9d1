# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which lidar points something hides from the camera.

The lidar stands elsewhere than the camera, usually higher: it sees past the edges and over the
tops of what hides things from the camera, and such points would be paired with the pixels of
another object.
"""

from __future__ import annotations

import numpy as np

from training.pairs.geometry import visible_points

CELL_PX = 8
"""Smallest side of a cell of the z-buffer."""

MARGIN_M = 0.5
"""A point may lie this much behind the nearest of its surroundings and still belong to it."""

_LARGEST_CELL_PX = 64
_TOUCHES_PX = 1.0


def hidden_points(
    xyz: np.ndarray,
    K: np.ndarray,
    T_camera_lidar: np.ndarray,
    width: int,
    height: int,
    cell: int = CELL_PX,
    margin: float = MARGIN_M,
) -> np.ndarray:
    """Which points of a scan are on the image and hidden from the camera.

    Args:
        xyz: (N, 3), lidar frame, metres.
        K: (3, 3) of the rectified image.
        T_camera_lidar: (4, 4).
        width: Of the image, pixels.
        height: Of the image, pixels.
        cell: Smallest side of a cell, pixels.
        margin: Metres.

    Returns:
        (N,) bool. Points outside of the image are not hidden by anything seen there: False.
    """
    uv, depth, seen = visible_points(xyz, K, T_camera_lidar, width, height)
    hidden = np.zeros(len(seen), bool)
    hidden[seen] = ~unoccluded(uv[seen], depth[seen], width, height, cell, margin)
    return hidden


def unoccluded(
    uv: np.ndarray,
    depth: np.ndarray,
    width: int,
    height: int,
    cell: int = CELL_PX,
    margin: float = MARGIN_M,
) -> np.ndarray:
    """Z-buffer test among the points of an image.

    The plain test, "not more than `margin` behind the nearest point of the 8-pixel cell", fails in
    two ways: a road seen at a flat angle spans metres of depth within one cell and would vanish,
    and a sparse lidar leaves cells between its rings empty through which all shows. So a point is
    hidden when nearer points surround it: above, below, left and right in the image, within a
    cell's side, where cells are at least as large as the gaps between neighbouring points. Nearer
    points of a road are only below, nearer points beside an object's edge only on one side.

    Args:
        uv: (N, 2) pixels, all on the image.
        depth: (N,) metres, positive.
        width: Of the image, pixels.
        height: Of the image, pixels.
        cell: Smallest side of a cell, pixels.
        margin: Metres.

    Returns:
        (N,) bool, True where the camera sees the point.
    """
    if not len(uv):
        return np.zeros(0, bool)
    side_u, side_v = _cell_sides(uv, cell)
    column = ((uv[:, 0] + 0.5) // side_u).astype(np.int64)
    row = ((uv[:, 1] + 0.5) // side_v).astype(np.int64)
    columns, rows = int(width // side_u) + 1, int(height // side_v) + 1
    index = row * columns + column
    nearest = np.full(rows * columns, np.inf)
    np.minimum.at(nearest, index, depth)
    reach = _surroundings_minimum(nearest.reshape(rows, columns)).ravel()
    # Most points have nothing nearer around them at all.
    suspects = np.flatnonzero(depth > reach[index] + margin)
    visible = np.ones(len(uv), bool)
    if not len(suspects):
        return visible
    order = np.argsort(index, kind='stable')
    starts = np.searchsorted(index[order], np.arange(rows * columns + 1))
    for start in range(0, len(suspects), 4096):
        some = suspects[start : start + 4096]
        around = _Surround(uv[some], depth[some] - margin, side_u, side_v)
        for dr in (-1, 0, 1):
            for dc in (-1, 0, 1):
                r, c = row[some] + dr, column[some] + dc
                inside = (r >= 0) & (r < rows) & (c >= 0) & (c < columns)
                cells = np.where(inside, r * columns + c, 0)
                counts = np.where(inside, starts[cells + 1] - starts[cells], 0)
                # A cell with nothing nearer need not be looked into.
                counts = np.where(nearest[cells] < depth[some] - margin, counts, 0)
                who = np.repeat(np.arange(len(some)), counts)
                offset = np.arange(len(who)) - np.repeat(np.cumsum(counts) - counts, counts)
                others = order[np.repeat(starts[cells], counts) + offset]
                around.add(who, uv[others], depth[others])
        visible[some] = ~around.closed
    return visible


class _Surround:
    """On which sides of each point nearer ones were seen."""

    def __init__(self, uv: np.ndarray, limit: np.ndarray, side_u: float, side_v: float) -> None:
        self.uv, self.limit, self.sides = uv, limit, np.array([side_u, side_v])
        self.left, self.right, self.above, self.below = (np.zeros(len(uv), bool) for _ in range(4))

    def add(self, who: np.ndarray, uv: np.ndarray, depth: np.ndarray) -> None:
        """Compare points, `who` by number, with a neighbour each."""
        away = uv - self.uv[who]
        counts = (depth < self.limit[who]) & (np.abs(away) <= self.sides).all(axis=1)
        who, away = who[counts], away[counts]
        # A point at the same place, to a pixel, covers all sides.
        self.left[who[away[:, 0] <= _TOUCHES_PX]] = True
        self.right[who[away[:, 0] >= -_TOUCHES_PX]] = True
        self.above[who[away[:, 1] <= _TOUCHES_PX]] = True
        self.below[who[away[:, 1] >= -_TOUCHES_PX]] = True

    @property
    def closed(self) -> np.ndarray:
        """(N,) bool: nearer points on all four sides."""
        return self.left & self.right & self.above & self.below


def _cell_sides(uv: np.ndarray, cell: int) -> tuple[float, float]:
    """Width and height of a cell: as large as the usual gap between neighbours, at least `cell`.

    The gap is measured where it is widest: a spinning lidar's points are dense along a ring and
    sparse across.
    """
    sides = []
    for axis in (0, 1):
        across = uv[:, 1 - axis] // cell
        order = np.lexsort((uv[:, axis], across))
        gaps = np.diff(uv[order, axis])[np.diff(across[order]) == 0]
        # Neighbours on the same ring are almost at the same height: not the gap between rings.
        gaps = gaps[gaps > 1.5]
        typical = 1.25 * float(np.percentile(gaps, 75)) if len(gaps) else 0.0
        sides.append(min(max(float(cell), typical), float(_LARGEST_CELL_PX)))
    return sides[0], sides[1]


def _surroundings_minimum(grid: np.ndarray) -> np.ndarray:
    """The smallest value of each cell and its eight neighbours."""
    padded = np.pad(grid, 1, constant_values=np.inf)
    rows, columns = grid.shape
    parts = [padded[r : r + rows, c : c + columns] for r in range(3) for c in range(3)]
    return np.minimum.reduce(parts)
