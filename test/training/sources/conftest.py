# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the tests of several readers do to recordings."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from clcp_ros.errors import ImageError
from training.pairs.pair import Pair
from training.sources import open_source
from training.sources.base import Drops, keep_finite


@pytest.fixture(scope='session')
def read_all() -> Callable[[Path], list[Pair]]:
    """Read what a set would be made of."""

    def read(path: Path) -> list[Pair]:
        found = []
        for recording in open_source(path)[1]:
            dropped = Drops()
            for pair in recording.read(recording.match(0.05), recording.sequence, dropped):
                pair.points = keep_finite(pair.points, dropped)
                with contextlib.suppress(ImageError):
                    pair.pixels()
                    found.append(pair)
        return found

    return read


@pytest.fixture(scope='session')
def damage() -> Callable[[Path, float, int, bool], None]:
    """Cut a file off at a place in [0, 1) of its length, or flip a bit there."""

    def change(path: Path, place: float, bit: int, cut: bool) -> None:
        data = bytearray(path.read_bytes())
        position = int(place * len(data))
        if cut:
            del data[position:]
        else:
            data[position] ^= 1 << bit
        path.write_bytes(data)

    return change
