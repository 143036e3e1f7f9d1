# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What is counted while pairs are written, for the report."""

from __future__ import annotations

from typing import Any

import numpy as np

from training.pairs.geometry import visible_points
from training.pairs.pair import Pair

COVERAGE_SHAPE = (30, 48)
"""Rows and columns of the map of where points fall on the image."""

_PROJECTED = 10_000
"""Points of a scan that are projected, about: of all of them it costs as much as reading them."""


class Statistics:
    """Sums over pairs; whole numbers, so that the order of adding does not matter."""

    def __init__(self) -> None:
        self.pairs = 0
        self.points = 0
        self.on_image = 0
        self.coverage = np.zeros(COVERAGE_SHAPE, np.int64)

    def add(self, pair: Pair) -> None:
        """Count a pair.

        Args:
            pair: Its image need not be decoded. Of a large scan a share of the points is projected
                and stands for the others.
        """
        width, height = pair.size()
        # An odd step, so that scans stored column by column lose no ring.
        step = len(pair.points) // _PROJECTED | 1
        some = pair.xyz[::step]
        uv, _, seen = visible_points(some, pair.K, pair.T_camera_lidar, width, height)
        rows, columns = COVERAGE_SHAPE
        cells = ((uv[seen] + 0.5) * (columns / width, rows / height)).astype(np.int64)
        # A point within a rounding error of the edge may come out one cell further.
        cells = np.minimum(cells, (columns - 1, rows - 1))
        index = cells[:, 1] * columns + cells[:, 0]
        counts = np.bincount(index, minlength=rows * columns).reshape(COVERAGE_SHAPE)
        self.coverage += step * counts
        self.pairs += 1
        self.points += len(pair.points)
        self.on_image += min(step * int(seen.sum()), len(pair.points))

    def describe(self) -> dict[str, Any]:
        """As JSON."""
        return {
            'pairs': self.pairs,
            'points': self.points,
            'points_on_image': self.on_image,
            'coverage': self.coverage.tolist(),
        }
