# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Quantiles and moments are numpy's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from clcp_ros.monitor.order import (
    byte_counts,
    counted_moments,
    counted_quantiles,
    median,
    middle,
    moments,
    quantile,
    quantiles,
)

SHARES = st.floats(0, 1) | st.sampled_from([0.0, 0.5, 1.0])
FLOATS = arrays.arrays(np.float32, st.integers(1, 60), elements=st.floats(-1e3, 1e3, width=32))
LEVELS = arrays.arrays(np.uint8, st.integers(1, 60), elements=st.integers(0, 40))


@given(FLOATS, SHARES)
def test_a_quantile_is_that_of_numpy(values: np.ndarray, q: float) -> None:
    wanted = np.quantile(values.astype(np.float64), q)
    assert quantile(values, q) == pytest.approx(wanted, rel=1e-9, abs=1e-9)
    assert median(values) == pytest.approx(np.median(values.astype(np.float64)), abs=1e-9)
    assert middle(values) == median(values)
    assert quantiles(values, (q, 0.5)) == [quantile(values, q), median(values)]


@given(LEVELS, SHARES)
def test_counts_have_the_quantiles_and_moments_of_their_values(
    values: np.ndarray, q: float
) -> None:
    counts = np.bincount(values, minlength=256)
    assert np.array_equal(byte_counts(values[:, None]), counts)
    assert counted_quantiles(counts, (q, 0.5)) == [quantile(values, q), median(values)]
    assert moments(values) == counted_moments(counts)
    mean, variance = counted_moments(counts)
    assert mean == pytest.approx(values.mean())
    assert variance == pytest.approx(values.var(), abs=1e-9)


def test_an_image_of_one_level_has_no_variance_at_all() -> None:
    assert counted_moments(np.bincount(np.full(10**5, 251))) == (251.0, 0.0)
    assert moments(np.full((300, 400), -1020, np.int16)) == (-1020.0, 0.0)
