# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Reads the parts of a reference from its arrays; nonsense is refused."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def part(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays of one part: those whose names begin with its name and a dot, without it."""
    start = f'{prefix}.'
    return {name[len(start) :]: a for name, a in arrays.items() if name.startswith(start)}


def numbers(
    arrays: Mapping[str, np.ndarray], name: str, shape: tuple[int | None, ...]
) -> np.ndarray:
    """An array that must have this shape, None for any length, and finite numbers.

    Raises:
        KeyError: It is missing.
        ValueError: It is another one.
    """
    array = np.asarray(arrays[name])
    fits = array.ndim == len(shape) and all(
        wanted in (None, size) for wanted, size in zip(shape, array.shape, strict=True)
    )
    if not fits or array.dtype.kind not in 'bfiu':
        raise ValueError(f'{name} is {array.dtype} of shape {array.shape}, not {shape}')
    if not np.isfinite(array).all():
        raise ValueError(f'{name} holds numbers that are not finite')
    return array


def positive(
    arrays: Mapping[str, np.ndarray], name: str, shape: tuple[int | None, ...]
) -> np.ndarray:
    """As `numbers`; every number must be above zero."""
    array = numbers(arrays, name, shape)
    if (array <= 0).any():
        raise ValueError(f'{name} is not positive')
    return array
