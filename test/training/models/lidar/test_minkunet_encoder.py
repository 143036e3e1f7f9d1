# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from training.models.lidar import LidarFeatures, LidarOptions, create_lidar_encoder

SIZE = 0.25


def features(points: list[np.ndarray], **settings: Any) -> tuple[Any, LidarFeatures]:
    torch.manual_seed(0)
    encoder = create_lidar_encoder(
        'minkunet_tiny', LidarOptions(frozen=True), voxel_size_m=SIZE, **settings
    )
    batch = encoder.preparation.collate([encoder.preparation(p) for p in points])
    return batch, encoder(batch, per_point=True)


def scans() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.uniform(-9, [9, 7, 2, 1], (n, 4)).astype(np.float32) for n in (200, 90)]


@pytest.mark.parametrize(('output', 'stride'), [('decoder', 1), ('encoder', 16)])
def test_a_point_gets_what_its_voxel_has(output: str, stride: int) -> None:
    points = scans()
    batch, out = features(points, output=output)
    assert out.points is not None
    fine = {tuple(c): i for i, c in enumerate(batch['coords'].tolist())}
    assert len(out.tokens) == len({(b, *(v // stride for v in xyz)) for b, *xyz in fine})
    # Two points have the same features exactly when their coarse voxels are the same.
    cells = []
    for b, scan in enumerate(points):
        rounded = np.round(scan[:, :3].astype(np.float64) / SIZE).astype(int)
        cells += [(b, *c) for c in ((rounded - rounded.min(0)) // stride).tolist()]
    rows: dict[tuple[int, ...], torch.Tensor] = {}
    for cell, row in zip(cells, out.points, strict=True):
        assert torch.equal(rows.setdefault(cell, row), row)
    assert len(torch.unique(out.points, dim=0)) > 0.9 * len(rows)
    assert len(rows) == len(out.tokens)


@pytest.mark.parametrize('output', ['decoder', 'encoder'])
def test_trilinear_features_vary_within_a_voxel(output: str) -> None:
    line = np.zeros((41, 4), np.float32)
    line[:, 0] = np.linspace(0, 40 * SIZE, 41)  # the middle of every voxel, and between them
    between = line.copy()
    between[:, 0] += SIZE / 4
    points = [np.concatenate([line, between])]
    _, own = features(points, output=output)
    _, mixed = features(points, output=output, point='trilinear')
    assert torch.equal(own.tokens, mixed.tokens)
    assert own.points is not None
    assert mixed.points is not None
    if output == 'decoder':
        torch.testing.assert_close(mixed.points[:41], own.points[:41])
        a, b = own.points[:41][:-1], own.points[:41][1:]
        torch.testing.assert_close(mixed.points[41:-1], 0.75 * a + 0.25 * b)
    else:
        assert len(torch.unique(mixed.points, dim=0)) > 2 * len(torch.unique(own.points, dim=0))


def test_a_point_whose_voxel_was_left_out_has_no_features() -> None:
    torch.manual_seed(0)
    encoder = create_lidar_encoder('minkunet_tiny', voxel_size_m=SIZE).eval()
    sample = encoder.preparation(scans()[0])
    sample['point_to_voxel'][:10] = -1
    out = encoder(encoder.preparation.collate([sample, sample]), per_point=True)
    assert out.points is not None
    assert out.point_seen is not None
    assert torch.nonzero(~out.point_seen).flatten().tolist() == [*range(10), *range(200, 210)]
    assert not out.points[~out.point_seen].any()
    torch.testing.assert_close(out.points[:200], out.points[200:])
