# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch

from clcp_ros.errors import ModelError
from training.models.lidar.base import sample_maps
from training.models.lidar.point_pillars import PillarPreparation, PillarSettings, PointPillars

SMALL = PillarSettings((0.0, -4.0, -2.0, 8.0, 4.0, 2.0), 1.0, None, None, 8, (1, 1, 1), (1, 2, 2))


def test_published_sizes() -> None:
    s = PillarSettings()
    assert s.shape == (496, 432)
    assert (s.pillar_size_m, s.max_pillars, s.max_points) == (0.16, 12000, 100)
    with torch.device('meta'):
        network = PointPillars()
    assert network.embed_dim == 384
    shapes = {k: tuple(v.shape) for k, v in network.state_dict().items()}
    assert shapes['voxel_encoder.pfn_layers.0.linear.weight'] == (64, 9)
    # Block(S, 4, C), Block(2S, 6, 2C), Block(4S, 6, 4C), each brought to stride S with 2C.
    convolutions = [
        [v for k, v in shapes.items() if k.startswith(f'backbone.blocks.{i}.') and len(v) == 4]
        for i in range(3)
    ]
    assert [len(c) for c in convolutions] == [4, 6, 6]
    assert [c[0] for c in convolutions] == [(64, 64, 3, 3), (128, 64, 3, 3), (256, 128, 3, 3)]
    ups = [shapes[f'neck.deblocks.{i}.0.weight'] for i in range(3)]
    assert ups == [(64, 128, 1, 1), (128, 128, 2, 2), (256, 128, 4, 4)]
    # MMDetection3D's PointPillars for KITTI has 4.8 M without its head.
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(4.8e6, rel=0.02)


def test_pillars_hold_their_points() -> None:
    points = np.array(
        [
            # Two opposite corners, and the first again.
            [0.1, -3.9, 0, 0.1], [7.9, 3.9, 0, 0.2], [0.9, -3.1, 1, 0.3],
            # Outside, by x and by z.
            [8.0, 0, 0, 0.4], [-0.1, 0, 0, 0.5], [3, 0, 2.0, 0.6], [3, 0, -2.1, 0.7],
            [2.5, 1.5, -2.0, 0.8],
        ],
        np.float32,
    )  # fmt: skip
    sample = PillarPreparation(SMALL)(points)
    assert sample['seen'].tolist() == [True, True, True, False, False, False, False, True]
    assert sample['pillars'].tolist() == [[0, 0], [5, 2], [7, 7]]  # row along y, column along x
    held = zip(sample['points'][:, 3].tolist(), sample['point_to_pillar'].tolist(), strict=True)
    assert {round(i, 3): p for i, p in held} == {0.1: 0, 0.3: 0, 0.8: 1, 0.2: 2}


def test_too_many_points_and_pillars_are_thinned_alike_each_time() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform([0, -4, -1, 0], [8, 4, 1, 1], (3000, 4)).astype(np.float32)
    whole = PillarPreparation(SMALL)(points)
    assert len(whole['pillars']) == 64
    assert len(whole['points']) == 3000
    few = PillarPreparation(PillarSettings(SMALL.range_m, 1.0, 20, 5, 8, (1, 1, 1), (1, 2, 2)))
    a, b = few(points), few(points)
    assert all(np.array_equal(a[k], b[k]) for k in a)
    assert len(a['pillars']) == 20
    assert np.bincount(a['point_to_pillar']).tolist() == [5] * 20
    # Those kept are where they were, and from all over the pillar and the scene.
    cells = np.floor(a['points'][:, :2] - [0, -4]).astype(int)
    assert np.array_equal(cells[:, ::-1], a['pillars'][a['point_to_pillar']])
    assert len(np.unique(a['pillars'][:, 0])) > 5
    assert a['seen'].all()


def test_decorated_points_and_maximum() -> None:
    """Nine values per point, one layer, the maximum per pillar: by hand."""
    net = PointPillars(settings=SMALL).eval()
    points = np.array(
        [[1.2, 0.3, 0.5, 0.7], [1.6, 0.9, -0.5, 0.1], [6.5, -3.5, 0, 0.4]], np.float32
    )
    seen: list[torch.Tensor] = []
    layer = net.voxel_encoder.pfn_layers[0]
    layer.linear.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    batch = net.preparation.collate([net.preparation(points)])
    with torch.no_grad():
        net(batch)
    rows = {round(float(r[3]), 3): r.tolist() for r in seen[0]}
    assert rows[0.7] == pytest.approx([1.2, 0.3, 0.5, 0.7, -0.2, -0.3, 0.5, -0.3, -0.2], abs=1e-6)
    assert rows[0.1] == pytest.approx([1.6, 0.9, -0.5, 0.1, 0.2, 0.3, -0.5, 0.1, 0.4], abs=1e-6)
    assert rows[0.4] == pytest.approx([6.5, -3.5, 0, 0.4, 0, 0, 0, 0, 0], abs=1e-6)
    with torch.no_grad():
        out = layer(
            batch['points'], batch['point_to_pillar'], torch.tensor([[6.5, -3.5], [1.5, 0.5]])
        )
        each = torch.relu(layer.norm(layer.linear(seen[0])))
    expected = torch.stack([each[batch['point_to_pillar'] == i].amax(0) for i in range(2)])
    torch.testing.assert_close(out, expected)


def test_the_map_lies_where_the_points_are() -> None:
    torch.manual_seed(0)
    net = PointPillars(settings=SMALL).eval()
    empty = np.zeros((0, 4), np.float32)
    one = np.array([[6.5, -2.5, 0, 0.5]], np.float32)
    view = net.bird_eye_view(net.preparation.collate([net.preparation(p) for p in (one, empty)]))
    assert view.shape == (2, 48, 8, 8)
    # The block at stride 1 sees a pillar's neighbours; x = 6.5 is column 6, y = -2.5 is row 1.
    rows, columns = torch.nonzero((view[0, :16] - view[1, :16]).abs().sum(0)).unbind(1)
    assert sorted(set(rows.tolist())) == [0, 1, 2]
    assert sorted(set(columns.tolist())) == [5, 6, 7]


def test_points_are_interpolated_between_cells() -> None:
    first = torch.arange(12.0).view(1, 3, 4)
    maps = torch.stack([first, first + 100])
    xy = torch.tensor([[0.125, 1 / 6], [0.25, 1 / 6], [0.5, 0.5], [0.0, 0.0], [1.0, 1.0]])
    values = sample_maps(maps, xy, torch.tensor([4, 1])).flatten()
    assert values.tolist() == pytest.approx([0, 0.5, 5.5, 0, 111], abs=1e-5)
    assert sample_maps(maps, xy[:0], torch.tensor([0, 0])).shape == (0, 1)


def test_single_points_train_and_nothing_is_nothing() -> None:
    for n in (0, 1):
        net = PointPillars(settings=SMALL).train()
        points = np.ones((n, 4), np.float32)
        features = net(net.preparation.collate([net.preparation(points)]), per_point=True)
        features.tokens.sum().backward()
        assert torch.isfinite(features.tokens).all()
        assert features.tokens.shape == (n, 48)
        assert features.pooled.shape == (1, 48)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ModelError, match='multiples of 8'):
        PillarSettings((0, -40, -3, 70.4, 40, 1), 0.16)  # the paper's own range has 440 x 500
    with pytest.raises(ModelError, match='multiples of 8'):
        PillarSettings(pillar_size_m=0.17)
    with pytest.raises(ModelError, match='impossible'):
        PillarSettings((0, 0, 0, 1, 1, 0))
