# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Quantiles of small arrays and of counts, without the overhead of numpy's general ones."""

from __future__ import annotations

import numpy as np


def quantile(values: np.ndarray, q: float) -> float:
    """As numpy.quantile of all values.

    Args:
        values: Any shape, at least one value.
        q: In [0, 1].
    """
    ordered = np.sort(values, axis=None)
    position = q * (ordered.size - 1)
    place = int(position)
    low, high = float(ordered[place]), float(ordered[min(place + 1, ordered.size - 1)])
    return low + (high - low) * (position - place)


def median(values: np.ndarray) -> float:
    """As numpy.median of all values."""
    return quantile(values, 0.5)


def counted_quantile(counts: np.ndarray, q: float) -> float:
    """As numpy.quantile of values 0, 1, ... that occur so many times.

    Args:
        counts: (n,) how often; at least one value occurs.
        q: In [0, 1].
    """
    ends = counts.cumsum()
    position = q * (int(ends[-1]) - 1)
    place = int(position)
    low = int(ends.searchsorted(place, side='right'))
    high = low
    if place + 1 < ends[-1]:
        high = int(ends.searchsorted(place + 1, side='right'))
    return low + (high - low) * (position - place)


def counted_moments(counts: np.ndarray) -> tuple[float, float]:
    """Mean and variance of values 0, 1, ... that occur so many times.

    Args:
        counts: (n,) how often; at least one value occurs.
    """
    values = np.arange(counts.size)
    number = int(counts.sum())
    total, squares = int(counts @ values), int(counts @ (values * values))
    # Of whole numbers, so that nothing is lost by the difference.
    return total / number, (squares * number - total * total) / number**2
