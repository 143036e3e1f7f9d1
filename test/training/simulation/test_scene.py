# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import numpy as np
import pytest

from clcp_ros.classes import CITYSCAPES
from training.simulation.config import SimulationError
from training.simulation.hits import Hits, cast
from training.simulation.mesh import Material, MeshBuilder
from training.simulation.movers import Mover, Movers
from training.simulation.roads import ENVIRONMENTS, environment_of
from training.simulation.scene import Scene
from training.simulation.soup import SKY, Soup
from training.simulation.world import block, load_world

ROAD, CAR, BUILDING = (CITYSCAPES.names.index(n) for n in ('road', 'car', 'building'))
EYE = np.array([1.6, 0.0, 1.5])


def fan(width: int = 80, height: int = 50) -> np.ndarray:
    """(H, W, 3) rays of a camera with a field of view of 65 degrees."""
    across, up = np.meshgrid(np.linspace(0.64, -0.64, width), np.linspace(0.4, -0.4, height))
    rays = np.stack([np.ones_like(across), across, up], -1)
    return (rays / np.linalg.norm(rays, axis=-1, keepdims=True)).astype(np.float32)


def plane_and_box() -> tuple[Soup, Movers]:
    """A floor at z = 0 that stands and a cube of 2 m before it that drives at 3 m/s along y."""
    floor, cube = MeshBuilder(), MeshBuilder()
    floor.use(ROAD, Material.ASPHALT, (0.1, 0.2, 0.3), tag=7)
    floor.plate((-50, 50), (-50, 50), 0.0)
    cube.use(CAR, Material.PAINT, (0.5, 0, 0), tag=9)
    cube.box((10, -1, 0), (12, 1, 2))
    soup, still = Soup(cube.build()), np.zeros(3, np.float32)
    mover = Mover(soup, np.eye(3, dtype=np.float32), still, 9, np.array([0, 3, 0], np.float32))
    return Soup(floor.build()), Movers([mover])


def shoot(origin: np.ndarray, rays: np.ndarray) -> Hits:
    return cast(*plane_and_box(), origin, rays, np.eye(3, dtype=np.float32), np.zeros(3))


def test_rays_hit_a_plane_and_a_box_at_the_analytic_distances() -> None:
    down = np.radians(20.0)
    rays = np.array(
        [[1, 0, 0], [np.cos(down), 0, -np.sin(down)], [0, 0, 1], [-np.cos(down), 0, -np.sin(down)]]
    )
    hits = shoot(np.array([0, 0, 1.0]), rays)
    far = 1 / np.sin(down)
    np.testing.assert_allclose(hits.distance, [10, far, np.inf, far], rtol=1e-6)
    np.testing.assert_array_equal(hits.category, [CAR, ROAD, SKY, ROAD])
    np.testing.assert_array_equal(hits.hit, [True, True, False, True])
    np.testing.assert_allclose(hits.normal[0], [-1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(hits.normal[1], [0, 0, 1], atol=1e-6)
    np.testing.assert_allclose(hits.cosine[:2], [1, np.sin(down)], rtol=1e-6)
    np.testing.assert_allclose(hits.point[1], [np.cos(down) * far, 0, 0], atol=1e-5)
    np.testing.assert_allclose(hits.uv[1], [np.cos(down) * far, 0], atol=1e-4)
    np.testing.assert_allclose(hits.color[1], [0.1, 0.2, 0.3], rtol=1e-6)
    np.testing.assert_array_equal(hits.tag[:2], [9, 7])
    np.testing.assert_allclose(hits.velocity[:2], [[0, 3, 0], [0, 0, 0]])


def test_every_ray_may_have_its_own_origin() -> None:
    origins = np.array([[[0, 0, 1.0], [0, 0, 3.0]]])
    rays = np.broadcast_to(np.array([0, 0, -1.0]), origins.shape)
    assert shoot(origins, rays).distance.tolist() == [[1.0, 3.0]]
    assert shoot(origins, rays).reshaped((2,)).distance.tolist() == [1.0, 3.0]


def test_a_turned_and_shifted_frame_changes_nothing_but_the_frame() -> None:
    angle = 0.7
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]], np.float32)  # soups' frame into base_link
    offset = np.array([2.0, -1.0, 0.5], np.float32)
    ahead = np.array([[1.0, 0, 0]]) @ turn.T
    up = np.array([0, 1.0, 0.5]) @ turn.T
    hits = cast(*plane_and_box(), up, ahead, turn, offset)
    np.testing.assert_allclose(hits.distance, [8.0], rtol=1e-5)
    np.testing.assert_allclose(hits.normal, np.array([[-1.0, 0, 0]]) @ turn.T, atol=1e-6)
    np.testing.assert_allclose(hits.velocity, np.array([[0, 3.0, 0]]) @ turn.T, atol=1e-6)


@pytest.mark.parametrize('environment', ENVIRONMENTS)
def test_every_environment_has_a_road_ahead_and_a_sky(environment: str) -> None:
    scene = Scene(3, 7, 2.0, environment)
    assert scene.environment == environment
    hits = scene.cast(EYE, fan())
    share = np.bincount(hits.category.ravel(), minlength=19) / hits.category.size
    assert 0.15 < share[ROAD] < 0.6
    assert share[SKY] > 0.005
    assert hits.category.max() < 19
    assert hits.material.max() in list(Material)
    np.testing.assert_allclose(np.linalg.norm(hits.normal[hits.hit], axis=-1), 1, atol=1e-4)
    # Nothing falls through the ground, in whatever direction.
    around = fan(60, 10) @ np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1]], np.float32)
    down = np.abs(around) * np.array([1, 1, -1]) + np.array([0, 0, -0.05])
    down /= np.linalg.norm(down, axis=-1, keepdims=True)
    for sign in (1, -1):
        assert scene.cast(EYE, down * np.array([sign, sign, 1])).hit.all()


def test_the_ground_under_the_ego_vehicle_is_level_with_it() -> None:
    for environment in ENVIRONMENTS:
        scene = Scene(0, 2, 3.3, environment)
        below = scene.cast(np.array([0.0, 0, 1]), np.array([[0.0, 0, -1], [0.02, 0, -1]]))
        np.testing.assert_allclose(below.distance[0], 1, atol=0.03)


def test_an_unknown_environment_lists_the_known_ones() -> None:
    with pytest.raises(SimulationError, match=r'moon.*town, country, motorway'):
        Scene(0, 1, 0.0, 'moon')
    assert [environment_of(n) for n in range(1, 6)] == [
        'town', 'town', 'town', 'country', 'motorway',
    ]  # fmt: skip


def snapshot(scene: Scene) -> tuple[bytes, ...]:
    hits = scene.cast(EYE, fan())
    lit = scene.sunlit(hits)
    return tuple(
        np.ascontiguousarray(a).tobytes()
        for a in (scene.T_world_base, hits.distance, hits.category, hits.color, hits.uv, lit)
    )


@pytest.mark.slow
@pytest.mark.parametrize('environment', ENVIRONMENTS)
def test_a_moment_does_not_depend_on_what_was_asked_before(environment: str) -> None:
    times = [14.25, 0.0, 31.1, 7.77, 14.25]
    first = [snapshot(Scene(1, 3, t, environment)) for t in times]
    load_world.cache_clear()
    again = [snapshot(Scene(1, 3, t, environment)) for t in sorted(times, reverse=True)]
    by_time = dict(zip(sorted(times, reverse=True), again, strict=True))
    for time, shot in zip(times, first, strict=True):
        assert shot == by_time[time]


def test_seed_town_and_time_make_another_scene() -> None:
    base = Scene(0, 1, 5.0).cast(EYE, fan()).category
    for other in (Scene(1, 1, 5.0), Scene(0, 2, 5.0), Scene(0, 1, 8.0)):
        assert (other.cast(EYE, fan()).category != base).mean() > 0.05


def test_shadows_lie_behind_what_casts_them() -> None:
    scene = Scene(0, 1, 5.0)
    hits = scene.cast(EYE, fan())
    lit = scene.sunlit(hits)
    assert set(np.unique(lit)) == {0.0, 1.0}
    assert (lit[~hits.hit] == 0).all()
    back = hits.normal @ scene.sun < -1e-6
    assert back.any()
    assert (lit[back] == 0).all()
    # With the sun overhead, a level open road is lit nearly everywhere.
    noon = scene.sunlit(hits, np.array([0, 0, 1.0]))
    assert noon[hits.category == ROAD].mean() > lit[hits.category == ROAD].mean() - 0.3
    half = scene.sunlit(hits, every=2)
    assert half.shape == lit.shape
    assert (half == lit).mean() > 0.85


def test_far_along_the_road_is_as_exact_as_at_its_beginning() -> None:
    population = load_world(0, 8, 'motorway').population
    route = population.route
    s = 300_000.0
    here, there = (route.bend(np.array([at, -6.0, 0.0])) for at in (s, s + 1.0))
    assert abs(np.linalg.norm(there - here) - 1) < 0.02
    far = block(0, 8, 'motorway', int(s // 60))
    assert np.abs(far.mesh.vertices).max() < 400  # relative to the block, so float32 is fine
    assert np.abs(far.origin).max() > 50_000


def test_ego_pose_follows_the_drive() -> None:
    scene = Scene(0, 5, 12.0)
    dt = np.linspace(-0.05, 0.05, 41)
    poses = scene.ego_pose(dt)
    np.testing.assert_allclose(poses[20], np.eye(4), atol=1e-6)
    for k in (0, 7, 40):
        then = Scene(0, 5, 12.0 + dt[k]).T_world_base
        np.testing.assert_allclose(scene.T_world_base @ poses[k], then, atol=2e-3)
    moved = poses[40, :3, 3] - poses[0, :3, 3]
    np.testing.assert_allclose(moved, scene.velocity * 0.1, atol=0.02)
    np.testing.assert_allclose(poses[:, :3, :3] @ np.swapaxes(poses[:, :3, :3], 1, 2),
                               np.tile(np.eye(3), (41, 1, 1)), atol=1e-9)  # fmt: skip


def test_rolling_puts_agents_where_they_are_when_looked_at() -> None:
    scene = Scene(0, 5, 12.0)
    later = scene.rolling(lambda azimuth: np.full_like(azimuth, 0.05))
    moved = [
        np.linalg.norm(b.T_world[:3, 3] - a.T_world[:3, 3])
        for a, b in zip(scene.agents, later.agents, strict=True)
    ]
    assert max(moved) == pytest.approx(
        0.05 * max(np.linalg.norm(a.velocity) for a in scene.agents)
    )
    still = scene.rolling(np.zeros_like)
    rays = fan()
    same = still.cast(EYE, rays).category == scene.cast(EYE, rays).category
    assert same.mean() > 0.98


def test_moving_things_have_the_velocity_of_their_next_place() -> None:
    scene, later = Scene(0, 1, 5.0), Scene(0, 1, 5.1)
    after = {o.tag: o for o in later.objects}
    checked = 0
    for before in scene.objects:
        other = after.get(before.tag)
        speed = np.linalg.norm(before.velocity)
        if other is None or speed < 2:
            continue
        a = scene.T_world_base @ before.T_base_object
        b = later.T_world_base @ other.T_base_object
        moved = np.linalg.norm(b[:3, 3] - a[:3, 3]) / 0.1
        if moved < 30:
            assert moved == pytest.approx(speed, rel=0.12, abs=0.4)
            checked += 1
    assert checked > 5


def test_lamps_and_lights_are_where_they_should_be() -> None:
    scene = Scene(0, 1, 5.0)
    assert len(scene.lamps) > 5
    near = np.abs(scene.lamps[:, 0]) < 40
    assert (np.abs(scene.lamps[near, 2] - 6.4) < 1.5).all()
    lights = scene.vehicle_lights
    assert len(lights.position) == len(lights.direction) == len(lights.kind) > 4
    assert set(lights.kind) <= {0, 1, 2}
    close = np.abs(lights.position[:, 0]) < 40
    assert (np.abs(lights.position[close, 2] - 0.8) < 2).all()
    np.testing.assert_allclose(np.linalg.norm(lights.direction, axis=1), 1, atol=1e-5)
