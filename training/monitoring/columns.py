# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Frames as columns: what every dataclass whose fields are arrays with a row per frame can do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from training.cli import atomic_path

_T = TypeVar('_T', bound='Columns')


class Columns:
    """Base of a dataclass whose fields are arrays of N rows, or None but for the first."""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """The arrays that there are, by name."""
        return {name: array for name, array in vars(self).items() if array is not None}

    def take(self: _T, rows: np.ndarray | slice | Sequence[int]) -> _T:
        """Some of the frames.

        Args:
            rows: Indices, or an (N,) bool mask.
        """
        return type(self)(**{name: array[rows] for name, array in self.columns.items()})

    @classmethod
    def concat(cls: type[_T], parts: Sequence[_T]) -> _T:
        """Several sets as one; of the columns that all parts have.

        Raises:
            ValueError: There are no parts, or they do not fit each other.
        """
        if not parts:
            raise ValueError('no samples to concatenate')
        named = [part.columns for part in parts]
        names = [name for name in named[0] if all(name in part for part in named)]
        return cls(**{name: np.concatenate([part[name] for part in named]) for name in names})

    def save(self, path: Path) -> None:
        """Write a .npz file, whole or not at all."""
        with atomic_path(path) as partial, partial.open('wb') as file:
            np.savez_compressed(file, allow_pickle=False, **self.columns)
