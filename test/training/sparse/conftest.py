# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from training.sparse import SparseGrid

SHAPE = (7, 6, 5)

RandomBatch = Callable[..., tuple[SparseGrid, torch.Tensor]]
Dense = Callable[[SparseGrid, torch.Tensor], torch.Tensor]


@pytest.fixture
def random_batch() -> RandomBatch:
    """A batch of random voxels in random order, with float64 features."""

    def make(
        seed: int, samples: int = 2, channels: int = 3, share: float = 0.3, low: int = 0
    ) -> tuple[SparseGrid, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        coords = torch.nonzero(torch.rand((samples, *SHAPE), generator=generator) < share)
        coords = coords[torch.randperm(len(coords), generator=generator)]
        features = torch.randn(len(coords), channels, generator=generator, dtype=torch.float64)
        coords[:, 1:] += low
        return SparseGrid(coords, samples), features

    return make


@pytest.fixture
def to_dense() -> Dense:
    """A dense volume of a grid whose coordinates start at zero."""

    def make(grid: SparseGrid, features: torch.Tensor) -> torch.Tensor:
        dense = features.new_zeros((grid.batch_size, *SHAPE, features.shape[1]))
        dense[tuple(grid.coords.T)] = features
        return dense.permute(0, 4, 1, 2, 3)

    return make
