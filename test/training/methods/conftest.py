# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from training.pairs.pair import Pair
from training.pairs.writer import PairSetWriter


@pytest.fixture(scope='module')
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of noise with points in front of the camera."""
    folder = tmp_path_factory.mktemp('set') / 'pairs'
    K = np.array([[60.0, 0, 47.5], [0, 60, 31.5], [0, 0, 1]])
    T = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])

    def pair(i: int) -> Pair:
        rng = np.random.default_rng(i)
        return Pair(
            f's/{i:03d}', 's', 'c', 'l', i * 10**9, i * 10**9,
            rng.integers(0, 255, (64, 96, 3)).astype(np.uint8),
            rng.uniform([3, -5, -2, 0], [30, 5, 1, 1], (300, 4)).astype(np.float32), K, T,
        )  # fmt: skip

    writer = PairSetWriter(folder)
    writer.write_sequence('s', [pair(i) for i in range(12)])
    writer.finish(['s'], {}, 0.25)
    return folder
