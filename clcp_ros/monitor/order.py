# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Quantiles of small arrays and of counts, without the overhead of numpy's general ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np


def quantile(values: np.ndarray, q: float) -> float:
    """As numpy.quantile of all values.

    Args:
        values: Any shape, at least one value.
        q: In [0, 1].
    """
    return quantiles(values, (q,))[0]


def quantiles(values: np.ndarray, qs: Iterable[float]) -> list[float]:
    """Several of them, sorted once; see `quantile`."""
    ordered = np.sort(values, axis=None)
    last = ordered.size - 1
    found = []
    for q in qs:
        place = int(q * last)
        low, high = float(ordered[place]), float(ordered[min(place + 1, last)])
        found.append(low + (high - low) * (q * last - place))
    return found


def median(values: np.ndarray) -> float:
    """As numpy.median of all values."""
    return quantile(values, 0.5)


def middle(values: np.ndarray) -> float:
    """`median` of many values: nothing is sorted.

    Args:
        values: Any shape, at least one value.
    """
    place = values.size // 2
    parted = np.partition(values, place, axis=None)
    high = float(parted[place])
    if values.size % 2:
        return high
    low = float(parted[:place].max())
    return low + (high - low) * 0.5


def byte_counts(plane: np.ndarray) -> np.ndarray:
    """How often each value occurs in (h, w) uint8, at most 2^24 values: (256,) int64."""
    # Older releases of OpenCV give (256, 1); 32-bit floats count to 2^24.
    return cv2.calcHist([plane], [0], None, [256], [0, 256]).ravel().astype(np.int64)


def counted_quantiles(counts: np.ndarray, qs: Sequence[float]) -> list[float]:
    """As numpy.quantile of values 0, 1, ... that occur so many times.

    Args:
        counts: (n,) how often; at least one value occurs.
        qs: In [0, 1].
    """
    ends = counts.cumsum()
    last = int(ends[-1]) - 1
    places = [int(q * last) for q in qs]
    lows = ends.searchsorted(places, side='right').tolist()
    highs = ends.searchsorted([min(p + 1, last) for p in places], side='right').tolist()
    return [
        low + (high - low) * (q * last - place)
        for q, place, low, high in zip(qs, places, lows, highs, strict=True)
    ]


def counted_moments(counts: np.ndarray) -> tuple[float, float]:
    """Mean and variance of values 0, 1, ... that occur so many times.

    Args:
        counts: (n,) how often; at least one value occurs.
    """
    values = np.arange(counts.size)
    return _moments(int(counts.sum()), int(counts @ values), int(counts @ (values * values)))


def moments(values: np.ndarray) -> tuple[float, float]:
    """Mean and variance of whole numbers below 2^20, of any shape and integer type."""
    numbers = values.ravel().astype(np.float64)
    total = int(numbers.sum())
    # Whole numbers up to 2^53 are exact. A product of vectors would wake the threads of BLAS.
    numbers *= numbers
    return _moments(numbers.size, total, int(numbers.sum()))


def _moments(number: int, total: int, square: int) -> tuple[float, float]:
    # Of whole numbers, so that nothing is lost by the difference.
    return total / number, (square * number - total * total) / number**2
