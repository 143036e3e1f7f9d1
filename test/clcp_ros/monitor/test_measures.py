# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Distances from the training frames are what their definitions say."""

from __future__ import annotations

import numpy as np
import pytest

from clcp_ros.monitor.measures import Direction, Gaussian, Neighbours, normalized


def low_rank(channels: int) -> Gaussian:
    rng = np.random.default_rng(0)
    return Gaussian(
        mean=rng.normal(size=channels),
        scale=rng.uniform(0.5, 2, channels),
        components=np.linalg.qr(rng.normal(size=(channels, 3)))[0].T,
        variances=np.array([4.0, 2.0, 1.5]),
        residual_variance=np.asarray(0.5),
    )


def test_the_low_rank_distance_is_that_of_the_whole_covariance() -> None:
    g = low_rank(9)
    projector = g.components.T @ g.components
    covariance = g.components.T @ np.diag(g.variances) @ g.components
    covariance += float(g.residual_variance) * (np.eye(9) - projector)
    x = np.random.default_rng(5).normal(size=9)
    z = (x - g.mean) / g.scale
    expected = 0.5 * np.log(z @ np.linalg.inv(covariance) @ z / 9)
    assert g.log_distance(x) == pytest.approx(expected)


def test_the_distance_of_neighbours_is_that_of_the_kth() -> None:
    rows = np.random.default_rng(0).normal(size=(30, 6))
    x = np.random.default_rng(1).normal(size=6)
    coreset = np.stack([normalized(r) for r in rows]).astype(np.float16)
    cosines = np.sort([normalized(r) @ normalized(x) for r in rows])[::-1]
    for rank in (1, 5, 30):
        found = np.exp(Neighbours(coreset, rank).log_distance(x))
        assert found == pytest.approx(1 - cosines[rank - 1], abs=2e-3)
    assert np.exp(Neighbours(coreset, 1).log_distance(3.7 * rows[4])) < 1e-3


def test_a_direction_gives_log_odds() -> None:
    direction = Direction(np.array([1.0, 2.0]), np.array([0.5, 1.0]), np.array([3.0, -1.0]))
    assert direction.log_distance(np.array([2.0, 3.0])) == 3 * 2 - 1
    assert direction.log_distance(np.array([1e9, 2.0])) == 30
