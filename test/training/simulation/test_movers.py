# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Rays into things that move, against one soup in which the same things were put."""

from __future__ import annotations

import numpy as np
import pytest

from training.simulation.mesh import Material, Mesh, MeshBuilder, concatenate, placement
from training.simulation.movers import Mover, Movers, cones_of_fan, soup_of
from training.simulation.soup import Soup


def box(size: tuple[float, float, float]) -> Mesh:
    half = np.array(size) / 2
    b = MeshBuilder()
    b.use(13, Material.PAINT, (0.5, 0.1, 0.1))
    b.box(tuple(0.3 - half), tuple(0.3 + half))
    return b.build()


@pytest.fixture(scope='module')
def crowd() -> tuple[Movers, Soup]:
    rng = np.random.default_rng(3)
    models = [box((4.5, 1.8, 1.5)), box((0.5, 0.5, 1.8)), box((12, 2.5, 3.2))]
    movers, meshes = [], []
    for k in range(40):
        x, y = rng.uniform(-40, 40, 2)
        T = placement(x, y, rng.uniform(-1, 2), rng.uniform(-4, 4))
        T32, mesh = T.astype(np.float32), models[k % 3]
        movers.append(Mover(soup_of(mesh), T32[:3, :3], T32[:3, 3], k, T32[:3, 0] * k))
        meshes.append(mesh.moved(T, k))
    return Movers(movers), Soup(concatenate(meshes))


def directions(shape: tuple[int, ...]) -> np.ndarray:
    if len(shape) == 1:
        rays = np.random.default_rng(5).standard_normal((*shape, 3))
    else:
        a, e = np.meshgrid(np.linspace(3, -3, shape[0]), np.linspace(-0.3, 0.2, shape[1]),
                           indexing='ij')  # fmt: skip
        rays = np.stack([np.cos(a) * np.cos(e), np.sin(a) * np.cos(e), np.sin(e)], -1)
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    return rays.reshape(-1, 3).astype(np.float32)


@pytest.mark.parametrize('shape', [(203, 61), (64, 64), (5000,), (40, 3), (3, 1)])
@pytest.mark.parametrize('common', [True, False])
def test_rays_meet_what_they_meet_in_one_soup(
    crowd: tuple[Movers, Soup], shape: tuple[int, ...], common: bool
) -> None:
    movers, together = crowd
    rays = directions(shape)
    rng = np.random.default_rng(1)
    origins = np.zeros((1 if common else len(rays), 3), np.float32)
    if not common:
        origins += rng.uniform(-3, 3, origins.shape).astype(np.float32)
    limit = rng.uniform(1, 60, len(rays)).astype(np.float32)
    met = movers.trace(origins, rays, limit, shape)
    starts = np.broadcast_to(origins, rays.shape).copy()
    truth = together.trace(starts, rays, limit)
    hit = truth['primID'] >= 0
    if len(rays) > 100:
        assert 0.02 < hit.mean() < 0.9
    found = np.full(len(rays), np.inf, np.float32)
    found[met.where] = met.distance
    expected = np.where(hit, truth['tfar'], np.float32(np.inf))
    same = np.isclose(found, expected, rtol=1e-4, atol=1e-3)
    # A ray along an edge may go either way.
    assert same.mean() > 0.998
    if not len(met.where):
        return
    order = same[met.where] & hit[met.where]
    which = truth['primID'][met.where]
    np.testing.assert_array_equal(met.gather('tag')[order], together.tag[which][order])
    turned = np.abs(met.gather('normal') - together.normal[which])[order].max(1)
    assert (turned < 1e-4).mean() > 0.998
    speed = np.linalg.norm(met.gather('velocity'), axis=1)
    np.testing.assert_allclose(speed, met.gather('tag'), rtol=1e-5)


@pytest.mark.parametrize('sun', [(0.3, 0.5, 0.8), (1.0, 0.0, 0.05), (0.0, 0.0, 1.0)])
def test_shadows_fall_where_they_fall_in_one_soup(
    crowd: tuple[Movers, Soup], sun: tuple[float, float, float]
) -> None:
    movers, together = crowd
    ray = (np.array([sun]) / np.linalg.norm(sun)).astype(np.float32)
    points = np.random.default_rng(2).uniform(-45, 45, (20_000, 3)).astype(np.float32)
    points[:, 2] *= 0.05
    blocked = movers.blocked(points, ray)
    truth = together.blocked(points, ray)
    assert 0.02 < truth.mean() < 0.9
    assert (blocked == truth).mean() > 0.999


def test_nobody_is_met_and_hides_nothing() -> None:
    rays = directions((16, 16))
    limit = np.full(len(rays), 1e30, np.float32)
    assert not len(Movers([]).trace(np.zeros((1, 3), np.float32), rays, limit, (16, 16)).where)
    assert not Movers([]).blocked(rays, rays[:1]).any()


def test_the_soup_of_a_model_is_kept_and_another_models_is_its_own() -> None:
    first, second = box((1, 1, 1)), box((1, 1, 1))
    assert soup_of(first) is soup_of(first)
    assert soup_of(first) is not soup_of(second)


def test_a_bundle_as_wide_as_the_world_leaves_nothing_out(crowd: tuple[Movers, Soup]) -> None:
    movers, together = crowd
    rays = np.random.default_rng(9).permutation(directions((64, 8)))
    limit = np.full(len(rays), 1e30, np.float32)
    met = movers.trace(np.zeros((1, 3), np.float32), rays, limit, (64, 8))
    truth = together.trace(np.zeros_like(rays), rays)['primID']
    assert abs(len(met.where) - (truth >= 0).sum()) <= 2


@pytest.mark.parametrize('angle', [0.0, 0.4, 2.5])
def test_kept_cones_of_a_fan_that_is_turned_change_nothing(
    crowd: tuple[Movers, Soup], angle: float
) -> None:
    movers, _ = crowd
    fan = directions((203, 61)).reshape(203, 61, 3)
    fan = fan[:, ::-1][60:140].copy()
    turn = placement(0, 0, 0, angle)[:3, :3].astype(np.float32)
    rays = fan.reshape(-1, 3) @ turn
    limit = np.full(len(rays), 1e30, np.float32)
    origin = np.array([[1.0, -2.0, 0.5]], np.float32)
    cones = cones_of_fan(fan)
    assert cones_of_fan(fan) is cones
    assert cones_of_fan(fan.copy()) is not cones
    kept = movers.trace(origin, rays, limit, (80, 61), cones.turned(turn))
    fresh = movers.trace(origin, rays, limit, (80, 61))
    assert len(fresh.where) > 50
    for name in ('where', 'distance', 'u', 'v'):
        assert np.array_equal(getattr(kept, name), getattr(fresh, name)), name
