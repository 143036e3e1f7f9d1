# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from clcp_ros.errors import ModelError
from training.sparse import batch_voxels, voxelize


def test_voxels_keep_the_first_point_and_round() -> None:
    points = np.array(
        [[0.30, 0, 0, 0.1], [0.04, 0, 0, 0.2], [0.06, 0, 0, 0.3], [0.32, 0, 0, 0.4]], np.float32
    )
    voxels = voxelize(points, 0.1)
    assert voxels.coords.tolist() == [[0, 0, 0], [1, 0, 0], [3, 0, 0]]
    assert voxels.features[:, 3].tolist() == pytest.approx([0.2, 0.3, 0.1])
    assert voxels.point_to_voxel.tolist() == [2, 0, 1, 2]
    mean = voxelize(points, 0.1, 'mean')
    assert mean.features[:, 3].tolist() == pytest.approx([0.2, 0.3, 0.25])
    assert mean.features[:, 0].tolist() == pytest.approx([0.04, 0.06, 0.31])
    assert mean.coords.tolist() == voxels.coords.tolist()


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        np.float32, st.tuples(st.integers(0, 40), st.just(4)),
        elements=st.floats(-500, 500, width=32),
    ),
    st.sampled_from([0.05, 0.3, 25.0]),
)  # fmt: skip
def test_the_rule_of_mmdetection3d(points: np.ndarray, size: float) -> None:
    found = voxelize(points, size)
    coords = np.round(points[:, :3].astype(np.float64) / size).astype(np.int64)
    coords -= coords.min(axis=0) if len(coords) else 0
    unique, first, inverse = np.unique(coords, axis=0, return_index=True, return_inverse=True)
    assert found.coords.tolist() == unique.tolist()
    assert np.array_equal(found.features, points[first])
    assert found.point_to_voxel.tolist() == inverse.reshape(-1).tolist()
    mean = voxelize(points, size, 'mean')
    for i in range(len(unique)):
        wanted = points[found.point_to_voxel == i].astype(np.float64).mean(axis=0)
        np.testing.assert_allclose(mean.features[i], wanted, rtol=1e-5, atol=1e-5)


def test_wide_extents_sort_by_another_way() -> None:
    """Key and index together need more than 63 bits here."""
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 1000, (2000, 4)).astype(np.float32)
    points = np.concatenate([points, points[::-1], [[0] * 4, [1048.0] * 4]]).astype(np.float32)
    voxels = voxelize(points, 0.001)
    assert np.array_equal(voxels.features[voxels.point_to_voxel], points)
    assert (np.diff(voxels.coords[:, 0]) >= 0).all()


def test_shapes_and_types() -> None:
    points = np.random.default_rng(0).normal(size=(50, 6))[::2]
    voxels = voxelize(points, 0.5)
    assert voxels.features.dtype == np.float32
    assert voxels.coords.dtype == voxels.point_to_voxel.dtype == np.int64
    assert voxels.features.shape == (len(voxels.coords), 6)
    assert voxels.coords.flags.c_contiguous
    assert voxels.features.flags.c_contiguous


def test_empty_sample_in_a_batch() -> None:
    points = np.array([[0, 0, 0, 1], [5, 0, 0, 3]], np.float32)
    grid, features = batch_voxels([voxelize(points[:0], 0.1), voxelize(points, 0.1)])
    assert grid.batch_size == 2
    assert grid.mean_per_sample(features).tolist() == [[0, 0, 0, 0], [2.5, 0, 0, 2]]
    grid, _ = batch_voxels([voxelize(points[:0], 0.1)] * 2)
    assert len(grid) == 0


def test_impossible_input_is_refused() -> None:
    with pytest.raises(ModelError, match='NaN'):
        voxelize(np.full((2, 4), np.nan, np.float32), 0.1)
    with pytest.raises(ModelError, match='outliers'):
        voxelize(np.array([[0, 0, 0, 0], [1e7, 0, 0, 0]], np.float32), 0.05)
    with pytest.raises(ModelError, match='outliers'):
        voxelize(np.array([[0, 0, 0, 0], [3e38, 0, 0, 0]], np.float32), 0.05)
    with pytest.raises(ModelError, match='first or mean'):
        voxelize(np.zeros((1, 4), np.float32), 0.1, 'median')  # type: ignore[arg-type]
