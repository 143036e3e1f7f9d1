# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a sample holds, on a scene whose answers are known: a board before a wall, on a road."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from clcp_ros.errors import PairSetError
from training.models.lidar import create_lidar_encoder
from training.pairs.contrastive import (
    ContrastivePairs,
    Extras,
    ViewConfig,
    collate_with,
    limit_voxels,
)
from training.pairs.pair import Pair
from training.pairs.pair_set import PairSet
from training.pairs.writer import PairSetWriter

K = np.array([[400.0, 0, 319.5], [0, 400, 191.5], [0, 0, 1]])
WIDTH, HEIGHT = 640, 384
# The lidar stands half a metre above the camera and looks over the board.
T_CAMERA_LIDAR = np.array([[0.0, -1, 0, 0], [0, 0, -1, -0.5], [1, 0, 0, 0], [0, 0, 0, 1]])
WALL_M, BOARD_M, ROAD_Z = 20.0, 8.0, -2.0
ALL = Extras(clean=True, points=True, geometry=True)
VIEWS = ViewConfig(image_size=96, crop_fraction=[1.0, 1.0], augment='none', voxel_size_m=0.2)


def scan() -> tuple[np.ndarray, np.ndarray]:
    """(N, 4) points of a scan in rings, and 0, 1, 2 for road, wall, board."""
    azimuth, elevation = np.meshgrid(
        np.radians(np.arange(-35, 35, 0.4)), np.radians(np.arange(-18, 18, 0.8))
    )
    ray = np.stack(
        [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth),
         np.sin(elevation)], axis=-1,
    ).reshape(-1, 3)  # fmt: skip
    with np.errstate(divide='ignore'):
        road = np.where(ray[:, 2] < 0, ROAD_Z / ray[:, 2], np.inf)
    board = BOARD_M / ray[:, 0]
    at = ray * board[:, None]
    board[(np.abs(at[:, 1]) > 1) | (at[:, 2] > -0.5) | (at[:, 2] < ROAD_Z)] = np.inf
    distances = np.stack([road, WALL_M / ray[:, 0], board])
    kind = distances.argmin(axis=0)
    points = np.column_stack([ray * distances.min(axis=0)[:, None], 0.2 + 0.3 * kind])
    return points.astype(np.float32), kind


def make_pair(number: int) -> Pair:
    points, _ = scan()
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[:, : WIDTH // 2, 0] = 200
    image[:, WIDTH // 2 :, 2] = 200
    stamp = 10**10 + number * 10**9
    return Pair(
        f'{"ab"[number % 2]}/{number}', 'ab'[number % 2], 'c', 'l', stamp, stamp, image, points, K,
        T_CAMERA_LIDAR,
    )  # fmt: skip


@pytest.fixture(scope='module')
def pairs(tmp_path_factory: pytest.TempPathFactory) -> PairSet:
    folder = tmp_path_factory.mktemp('set') / 'pairs'
    writer = PairSetWriter(folder)
    for sequence in 'ab':
        own = [make_pair(i) for i in range(6) if 'ab'[i % 2] == sequence]
        writer.write_sequence(sequence, own)
    writer.finish(['a', 'b'], {}, 0)
    return PairSet(folder)


def make(pairs: PairSet, extras: Extras = ALL, **changes: Any) -> ContrastivePairs:
    views = dataclasses.replace(VIEWS, **changes)
    return ContrastivePairs(pairs, views, (0.0,) * 3, (1 / 255,) * 3, True, extras=extras)


def shown(pairs: PairSet, sample: dict[str, Any]) -> np.ndarray:
    """What the points of a sample belong to, found by their intensity."""
    return np.round((sample['geometry'][:, 5] - 0.2) / 0.3).astype(int)


def test_the_camera_does_not_see_the_wall_behind_the_board(pairs: PairSet) -> None:
    sample = make(pairs, crop='whole')[0, 0]
    points, kind = scan()
    camera = points[:, :3] @ T_CAMERA_LIDAR[:3, :3].T + T_CAMERA_LIDAR[:3, 3]
    u, v = (K[i, 0 if i == 0 else 1] * camera[:, i] / camera[:, 2] + K[i, 2] for i in (0, 1))
    inside = (u >= -0.5) & (u < WIDTH - 0.5) & (v >= -0.5) & (v < HEIGHT - 0.5)
    assert sample['uv'].shape == (inside.sum(), 2)
    np.testing.assert_allclose(sample['uv'][:, 0], (u[inside] + 0.5) / WIDTH, atol=2e-3)
    np.testing.assert_allclose(sample['uv'][:, 1], (v[inside] + 0.5) / HEIGHT, atol=2e-3)
    # On the way from camera to wall or road: the board spans 1 m to each side, 0 to 1.5 m below.
    at_board = camera * (BOARD_M / camera[:, 2:])
    behind = (camera[:, 2] > BOARD_M + 0.1) & (np.abs(at_board[:, 0]) < 0.9)
    behind &= (at_board[:, 1] > 0.1) & (at_board[:, 1] < 1.4)
    assert behind[inside].sum() > 20
    assert not sample['visible'][behind[inside]].any()
    near = (kind == 2) & inside
    assert sample['visible'][near[inside]].all()
    clear_of_it = (np.abs(at_board[:, 0]) > 1.2) | (at_board[:, 1] < -0.2)
    assert sample['visible'][clear_of_it[inside]].mean() > 0.99


def test_geometry_is_that_of_the_scene(pairs: PairSet) -> None:
    sample = make(pairs, crop='whole')[0, 0]
    kind = shown(pairs, sample)
    log_range, height, normal = np.split(sample['geometry'][:, :5], [1, 2], axis=1)
    assert np.abs(height[kind == 0]).max() < 0.1
    assert height[kind == 1].max() > 4
    wall = kind == 1
    known = np.abs(normal).sum(axis=1) > 0
    assert known.mean() > 0.8
    np.testing.assert_allclose(np.median(normal[known & wall], axis=0), [-1, 0, 0], atol=0.05)
    np.testing.assert_allclose(
        np.median(normal[known & (kind == 0)], axis=0), [0, 0, 1], atol=0.05
    )
    # As for a focal length of the image's side: 400 of 640 pixels across.
    u = (sample['uv'][wall, 0] * WIDTH - 320) / 400
    v = (sample['uv'][wall, 1] * HEIGHT - 192) / 400
    distance = WALL_M * np.sqrt(1 + u**2 + v**2)
    np.testing.assert_allclose(np.exp(log_range[wall, 0]), distance / (400 / 640), rtol=0.01)


def test_how_high_the_rays_reach(pairs: PairSet) -> None:
    """The highest ring of the scan is 17.2 degrees up; the crop is the camera's middle square."""
    sample = make(pairs, Extras(reach=True), crop='whole')[0, 0]
    row = 191.5 - 400 * np.tan(np.radians(17.2))
    assert sample['reach'] * HEIGHT == pytest.approx(row + 0.5, abs=4)
    batch = make(pairs, Extras(reach=True)).collate([sample, sample])
    assert batch['reach'].shape == (2,)


def test_a_mirrored_pair_is_a_mirrored_scene(pairs: PairSet) -> None:
    plain = make(pairs)[0, 3]
    data = make(pairs, flip=True)
    flipped = next(s for s in (data[0, seed] for seed in range(20)) if s['image'][2, 0, 0] > 100)
    assert plain['image'][0, 0, 0] > 100
    # The scene is symmetric, so whatever side a crop shows, its points agree with the image.
    for sample in (plain, flipped):
        u = sample['uv'][:, 0]
        y = sample['lidar']['coords'][sample['lidar']['point_to_voxel'], 1]
        assert np.corrcoef(u, y)[0, 1] < -0.5
        left, right = sample['image'][:, 48, 2], sample['image'][:, 48, -3]
        assert left.max() > 100
        assert right.max() > 100
    side = flipped['geometry'][:, 3]
    plain_side = plain['geometry'][:, 3]
    assert side.min() == pytest.approx(-plain_side.max(), abs=0.2)


def test_only_what_is_asked_for_is_made(pairs: PairSet) -> None:
    assert make(pairs, Extras())[0, 0].keys() == {'image', 'lidar', 'sequence', 'time_s'}
    only_points = make(pairs, Extras(points=True))[0, 0]
    assert {'uv', 'visible'} <= only_points.keys()
    assert not {'clean', 'geometry', 'reach'} & only_points.keys()


def test_extras_change_nothing_else(pairs: PairSet) -> None:
    for augment in ('light', 'thesis', 'weather'):
        plain = make(pairs, Extras(), augment=augment, flip=True)
        full = make(pairs, ALL, augment=augment, flip=True)
        for seed in range(4):
            a, b = plain[1, seed], full[1, seed]
            np.testing.assert_array_equal(a['image'], b['image'])
            np.testing.assert_array_equal(a['lidar']['coords'], b['lidar']['coords'])


def test_the_clean_image_is_the_same_crop_before_augmentation(pairs: PairSet) -> None:
    plain = make(pairs, augment='none', crop_fraction=[0.6, 0.9])
    for augment in ('thesis', 'weather', 'lip_loc'):
        data = make(pairs, augment=augment, crop_fraction=[0.6, 0.9])
        changed = 0
        for seed in range(5):
            sample = data[2, seed]
            np.testing.assert_array_equal(sample['clean'], plain[2, seed]['image'])
            changed += not np.array_equal(sample['clean'], sample['image'])
        assert changed >= 3, augment


@pytest.mark.parametrize('augment', ['light', 'thesis', 'lip_loc', 'weather'])
def test_validation_is_never_augmented(pairs: PairSet, augment: Any) -> None:
    views = dataclasses.replace(VIEWS, augment=augment, flip=True)
    data = ContrastivePairs(pairs, views, (0.0,) * 3, (1 / 255,) * 3, train=False)
    none = dataclasses.replace(VIEWS, augment='none')
    plain = ContrastivePairs(pairs, none, (0.0,) * 3, (1 / 255,) * 3, train=False)
    for seed in range(3):
        np.testing.assert_array_equal(data[0, seed]['image'], plain[0, seed]['image'])


def test_lip_loc_sees_the_whole_scan_in_its_own_frame(pairs: PairSet) -> None:
    views = dataclasses.replace(
        VIEWS, crop='whole', points='all', frame='lidar', augment='lip_loc', image_size=64
    )
    encoder = create_lidar_encoder('range_test_vit', image_size=(64, 64), empty=251)
    data = ContrastivePairs(
        pairs, views, (0.5,) * 3, (0.2,) * 3, True, encoder.preparation, Extras()
    )
    samples = [data[0, seed] for seed in range(12)]
    lidar = encoder.preparation(scan()[0])
    for sample in samples:
        np.testing.assert_array_equal(sample['lidar']['image'], lidar['image'])
        assert sample['lidar']['holes'].shape == (64, 64)
        # A hole holds zeros after normalisation: the mean colour.
    holes = [s['lidar']['holes'] for s in samples]
    assert sum(h.any() for h in holes) >= 8
    assert any((s['image'] == 0).all(axis=0).any() for s in samples)
    batch = data.collate(samples)
    assert batch['lidar']['holes'].shape == (12, 64, 64)
    with torch.no_grad():
        encoder.eval()
        dropped = encoder(batch['lidar']).pooled
        del batch['lidar']['holes']
        whole = encoder(batch['lidar']).pooled
    differs = (dropped - whole).abs().amax(dim=1) > 1e-6
    assert differs.tolist() == [bool(h.any()) for h in holes]


def test_frames_of_the_points(pairs: PairSet) -> None:
    points = scan()[0][:, :3]
    camera = make(pairs, frame='camera')._points(pairs.read(0))
    sensor = make(pairs, frame='sensor')._points(pairs.read(0))
    lidar = make(pairs, frame='lidar')._points(pairs.read(0))
    np.testing.assert_allclose(lidar[:, :3], points, atol=1e-6)
    np.testing.assert_allclose(sensor[:, :3], points, atol=1e-5)  # its axes are the vehicle's
    np.testing.assert_allclose(camera[:, :3], points + np.array([0, 0, 0.5]), atol=1e-5)
    rebased = make(pairs, frame='camera', road_z_m=-1.73)._points(pairs.read(0))
    road = scan()[1] == 0
    np.testing.assert_allclose(rebased[road, 2], -1.73, atol=0.06)
    with pytest.raises(PairSetError, match='cannot be mirrored'):
        ViewConfig(frame='lidar', flip=True).check()


@pytest.mark.parametrize(
    'wrong',
    [
        {'crop_fraction': [0.9, 0.6]}, {'crop_fraction': [0.0, 0.0]}, {'crop_fraction': [0.5]},
        {'crop_fraction': [math.nan, 1.0]}, {'crop_fraction': [0.5, 1.1]}, {'max_voxels': 0},
        {'image_size': 0}, {'min_points': -1}, {'voxel_size_m': 0.0}, {'voxel_size_m': math.nan},
        {'road_z_m': math.inf},
    ],
)  # fmt: skip
def test_views_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    ViewConfig().check()
    ViewConfig(crop_fraction=[1.0, 1.0], road_z_m=-1.73).check()
    with pytest.raises(PairSetError, match=f'views.{next(iter(wrong))}'):
        ViewConfig(**wrong).check()


def test_the_smallest_crop_is_a_pixel(pairs: PairSet) -> None:
    sample = make(pairs, crop_fraction=[1e-4, 1e-4])[0, 0]
    assert np.isfinite(sample['image']).all()


def test_a_batch_of_any_lidar_encoder(pairs: PairSet) -> None:
    settings: dict[str, Any]
    for name, settings in (
        ('minkunet_tiny', {'voxel_size_m': 0.4}),
        (
            'pointpillars',
            {'pillar_size_m': 0.64, 'range_m': (0, -20.48, -3, 40.96, 20.48, 3)},
        ),
        ('range_test_vit', {'image_size': (64, 64)}),
    ):
        encoder = create_lidar_encoder(name, **settings).eval()
        views = dataclasses.replace(VIEWS, image_size=64)
        data = ContrastivePairs(
            pairs, views, (0.5,) * 3, (0.5,) * 3, True, encoder.preparation, ALL
        )
        samples = [data[0, 1], data[3, 2]]
        batch = collate_with(encoder.preparation, samples)
        total = int(batch['lidar']['point_count'].sum())
        assert batch['uv'].shape == (total, 2)
        assert batch['visible'].shape == (total,)
        assert batch['geometry'].shape == (total, 6)
        assert batch['clean'].shape == batch['image'].shape == (2, 3, 64, 64)
        assert batch['time_s'].tolist() == [10.0, 11.0]
        assert batch['sequence'][0] != batch['sequence'][1]
        with torch.no_grad():
            features = encoder(batch['lidar'], per_point=True)
        assert features.points is not None
        assert features.points.shape == (total, encoder.embed_dim)


def test_fewer_voxels_leave_points_without_one() -> None:
    sample = {
        'coords': np.arange(30).reshape(10, 3), 'features': np.arange(40.0).reshape(10, 4),
        'point_to_voxel': np.array([0, 1, 1, 5, 9, -1]),
    }  # fmt: skip
    assert limit_voxels(sample, 10, np.random.default_rng(0)) is sample
    few = limit_voxels(sample, 4, np.random.default_rng(0))
    assert len(few['coords']) == len(few['features']) == 4
    kept = few['coords'][:, 0] // 3
    for old, new in zip(sample['point_to_voxel'], few['point_to_voxel'], strict=True):
        assert (new == -1) == (old not in kept)
        assert new == -1 or kept[new] == old
    plain = {'image': np.zeros(3)}
    assert limit_voxels(plain, 0, np.random.default_rng(0)) is plain
