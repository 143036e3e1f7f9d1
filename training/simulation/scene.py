# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The scene around the ego vehicle at one moment, and what rays hit in it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from training.simulation.agents import Agent
from training.simulation.hits import Hits, cast
from training.simulation.layout import Standing
from training.simulation.mesh import Material, Mesh
from training.simulation.movers import Mover, Movers, soup_of
from training.simulation.roads import environment_of
from training.simulation.soup import SKY, Soup
from training.simulation.world import Surroundings, World, load_world, surroundings

_SIGHT, _LIDAR_SIGHT = 260.0, 160.0
"""Agents farther away are left out, in metres; of a scan even nearer ones."""

_COARSE = 24.0
"""People farther away have fewer triangles, in metres."""


@dataclass(frozen=True)
class SceneObject:
    """A vehicle or person.

    Attributes:
        tag: Its number, also in `Hits.tag`.
        category: trainId.
        T_base_object: (4, 4) pose of its middle on the ground.
        size: Length, width and height in metres.
        velocity: (3,) m/s over ground in `base_link`.
    """

    tag: int
    category: int
    T_base_object: np.ndarray
    size: tuple[float, float, float]
    velocity: np.ndarray


@dataclass(frozen=True)
class VehicleLights:
    """Lamps of the other vehicles that are on.

    Attributes:
        position: (V, 3) float32 in `base_link`.
        direction: (V, 3) float32 unit vectors they shine along.
        kind: (V,) uint8, 0 head, 1 tail, 2 brake.
    """

    position: np.ndarray
    direction: np.ndarray
    kind: np.ndarray


class Scene:
    """Everything around the ego vehicle, frozen at one moment, in `base_link`.

    Args:
        seed: Seed of the simulation.
        number: Which town.
        time: Seconds since the drive began.
        environment: 'town', 'country', 'motorway' or 'mixed', where the number decides.

    Attributes:
        environment: What it is.
        T_world_base: (4, 4) pose of the ego vehicle.
        velocity: (3,) m/s of the ego vehicle over ground.
        yaw_rate: rad/s of the ego vehicle.
        ego_s: Metres along the road.

    Raises:
        SimulationError: There is no such environment.
    """

    def __init__(self, seed: int, number: int, time: float, environment: str = 'mixed') -> None:
        self.environment = environment_of(number, environment)
        self.time = time
        self._key = (seed, number, self.environment)
        world = self._world
        self.T_world_base, self.velocity, self.yaw_rate, self.ego_s = world.population.ego(time)
        self._place: Surroundings = surroundings(*self._key, self.ego_s)
        turn, here = self._place.turn, self.T_world_base[:3, 3]
        self._turn = (self.T_world_base[:3, :3].T @ turn).astype(np.float32)
        self._offset = ((here - self._place.origin) @ turn).astype(np.float32)
        self.agents = self._near(world.population.at(time))
        self._movers = self._moving()

    @property
    def _world(self) -> World:
        return load_world(*self._key)

    def _near(self, agents: list[Agent]) -> list[Agent]:
        here = self.T_world_base[:3, 3]
        return [a for a in agents if np.abs(a.T_world[:3, 3] - here).max() < _SIGHT]

    @functools.cached_property
    def sun(self) -> np.ndarray:
        """(3,) unit vector towards the sun of a clear day in `base_link`."""
        style = self._world.place.style
        azimuth = style.sun_azimuth
        c, s = np.cos(style.sun_elevation), np.sin(style.sun_elevation)
        sun = np.array([c * np.cos(azimuth), c * np.sin(azimuth), s])
        turned: np.ndarray = self.T_world_base[:3, :3].T @ sun
        return turned

    @functools.cached_property
    def cloud_cover(self) -> float:
        """How much of a clear day's sunlight clouds take just now, 0 to 1."""
        return self._world.place.style.cloud_cover(self.time)

    @functools.cached_property
    def lamps(self) -> np.ndarray:
        """(L, 3) street lights in `base_link`."""
        here = self._place.lamps - self.T_world_base[:3, 3]
        turned: np.ndarray = here @ self.T_world_base[:3, :3]
        return turned

    @functools.cached_property
    def objects(self) -> list[SceneObject]:
        """Vehicles, riders and people, moving and standing."""
        T_base_world = np.linalg.inv(self.T_world_base)
        moving = [a for a in self.agents if a.solid]
        everything: list[Agent | Standing] = [*moving, *self._place.objects]
        if not everything:
            return []
        poses = T_base_world @ np.stack([o.T_world for o in everything])
        velocities = np.zeros((len(everything), 3))
        if moving:
            own = np.stack([a.velocity for a in moving])[..., None]
            velocities[: len(moving)] = (T_base_world[:3, :3] @ own)[..., 0]
        return [
            SceneObject(o.tag, o.category, pose, o.size, velocity)
            for o, pose, velocity in zip(everything, poses, velocities, strict=True)
        ]

    @functools.cached_property
    def vehicle_lights(self) -> VehicleLights:
        """Where the lamps of the vehicles on the move are."""
        position, direction, kind = [], [], []
        T_base_world = np.linalg.inv(self.T_world_base)
        for agent in self.agents:
            for number, points in enumerate(_lamp_points(id(agent.mesh), agent.mesh)):
                T = T_base_world @ agent.T_world
                for point in points:
                    position.append(T[:3, :3] @ point + T[:3, 3])
                    direction.append(T[:3, 0] * (1 if number == 0 else -1))
                    kind.append(number)
        return VehicleLights(
            np.array(position, np.float32).reshape(-1, 3),
            np.array(direction, np.float32).reshape(-1, 3),
            np.array(kind, np.uint8),
        )

    @property
    def soup(self) -> Soup:
        """What stands."""
        return self._place.soup

    def cast(self, origin: np.ndarray, direction: np.ndarray) -> Hits:
        """Cast rays.

        Args:
            origin: (3,) common origin or (..., 3) one per ray, in `base_link`.
            direction: (..., 3) unit vectors in `base_link`.
        """
        return cast(self._place.soup, self._movers, origin, direction, self._turn, self._offset)

    def sunlit(self, hits: Hits, sun: np.ndarray | None = None, every: int = 1) -> np.ndarray:
        """Whether the sun shines on what was hit.

        Args:
            hits: Of this scene.
            sun: (3,) unit vector towards the sun in `base_link`; `sun` when left out.
            every: Of an (H, W) grid of hits, look at each `every`-th row and column only; the
                others take the value of the nearest of these.

        Returns:
            Float32 in {0, 1} of the hits' shape.
        """
        towards = np.asarray(self.sun if sun is None else sun, np.float32)
        point, normal, hit = hits.point, hits.normal, hits.hit
        if every > 1:
            point, normal, hit = (a[::every, ::every] for a in (point, normal, hit))
        facing = hit & (normal @ towards > 0)
        lit = np.zeros(facing.shape, np.float32)
        start = point[facing] + np.float32(0.03) * normal[facing]
        if len(start):
            start = np.ascontiguousarray(start @ self._turn + self._offset)
            ray = np.ascontiguousarray((towards @ self._turn)[None])
            blocked = self._place.soup.blocked(start, ray)
            free = np.flatnonzero(~blocked)
            blocked[free] = self._movers.blocked(start[free], ray)
            lit[facing] = ~blocked
        if every > 1:
            rows, columns = hits.shape
            lit = lit.repeat(every, 0)[:rows].repeat(every, 1)[:, :columns]
        return lit

    def ego_pose(self, dt: np.ndarray) -> np.ndarray:
        """Where the ego vehicle is `dt` seconds before or after the scene's moment.

        Args:
            dt: (K,) seconds.

        Returns:
            (K, 4, 4) float64 T_base_then.
        """
        T_base_world = np.linalg.inv(self.T_world_base)
        out = np.empty((len(dt), 4, 4))
        # The path is smooth: a few exact poses and straight lines between them are exact to
        # millimetres and much cheaper than asking for every firing.
        knots = np.unique(np.linspace(np.min(dt), np.max(dt), min(len(dt), 9)))
        poses = np.stack([T_base_world @ self._ego_then(float(t)) for t in knots])
        yaw = np.unwrap(np.arctan2(poses[:, 1, 0], poses[:, 0, 0]))
        pitch = np.arcsin(np.clip(poses[:, 2, 0], -1, 1))
        c, s = (f(np.interp(dt, knots, yaw)) for f in (np.cos, np.sin))
        cp, sp = (f(np.interp(dt, knots, pitch)) for f in (np.cos, np.sin))
        zero, one = np.zeros(len(dt)), np.ones(len(dt))
        turn = np.array([[c * cp, -s, -c * sp], [s * cp, c, -s * sp], [sp, zero, cp]])
        out[:, :3, :3] = np.moveaxis(turn, -1, 0)
        for axis in range(3):
            out[:, axis, 3] = np.interp(dt, knots, poses[:, axis, 3])
        out[:, 3] = np.array([0, 0, 0, 1.0])
        out[:, 3, 3] = one
        return out

    def _ego_then(self, dt: float) -> np.ndarray:
        then = self.time + dt
        T = self._world.population.ego(then)[0]
        if then < 0:
            # Before the drive began the ego vehicle came along at the same speed.
            T = T.copy()
            T[:3, 3] += T[:3, :3] @ self.velocity * then
        return T

    def rolling(self, dt_of: Callable[[np.ndarray], np.ndarray]) -> Scene:
        """The scene as a spinning sensor meets it: every agent where it is when it is looked at.

        Args:
            dt_of: (A,) azimuths in `base_link` to seconds from the scene's moment.
        """
        other = object.__new__(Scene)
        other.__dict__.update(self.__dict__)
        if self.agents:
            at = np.stack([a.T_world[:3, 3] for a in self.agents]) - self.T_world_base[:3, 3]
            at = at @ self.T_world_base[:3, :3]
            dt = dt_of(np.arctan2(at[:, 1], at[:, 0]))
            other.agents = [_later(a, float(t)) for a, t in zip(self.agents, dt, strict=True)]
            other._movers = other._moving(0.5)
        return other

    def _moving(self, sharpness: float = 1.0) -> Movers:
        """What moves, relative to the soup; from afar with fewer triangles."""
        turn, here = self._place.turn, self.T_world_base[:3, 3]
        if not self.agents:
            return Movers([])
        poses = np.stack([a.T_world for a in self.agents])
        away = np.abs(poses[:, :2, 3] - here[:2]).max(1)
        turns = np.matmul(turn.T, poses[:, :3, :3]).astype(np.float32)
        places = ((poses[:, :3, 3] - self._place.origin) @ turn).astype(np.float32)
        velocities = (np.stack([a.velocity for a in self.agents]) @ turn).astype(np.float32)
        found = []
        for k, agent in enumerate(self.agents):
            if sharpness < 1 and away[k] > _LIDAR_SIGHT:
                continue
            far = away[k] > _COARSE * sharpness
            mesh = agent.coarse if far and agent.coarse is not None else agent.mesh
            tag = agent.tag % 65536
            found.append(Mover(soup_of(mesh), turns[k], places[k], tag, velocities[k]))
        return Movers(found)


def _later(agent: Agent, dt: float) -> Agent:
    """The agent a little later, on a straight line."""
    T = agent.T_world.copy()
    T[:3, 3] += agent.velocity * dt
    return Agent(
        agent.mesh, T, agent.velocity, agent.turning, agent.tag, agent.category, agent.size,
        agent.solid, agent.coarse,
    )  # fmt: skip


_POINTS: dict[int, tuple[Mesh, list[np.ndarray]]] = {}


def _lamp_points(key: int, mesh: Mesh) -> list[np.ndarray]:
    """Per kind of lamp, the middles of the lamps of a mesh, left and right apart."""
    known = _POINTS.get(key)
    if known is not None and known[0] is mesh:
        return known[1]
    found = []
    for material in (Material.HEADLIGHT, Material.TAILLIGHT, Material.BRAKELIGHT):
        middles = mesh.vertices[mesh.material == material].mean(1)
        left = middles[:, 1] > 0.2 if len(middles) else np.zeros(0, bool)
        right = middles[:, 1] < -0.2 if len(middles) else np.zeros(0, bool)
        groups = [left, right] if (left.any() or right.any()) else [np.ones(len(middles), bool)]
        found.append(np.array([middles[g].mean(0) for g in groups if g.any()]).reshape(-1, 3))
    if len(_POINTS) > 2000:
        _POINTS.clear()
    _POINTS[key] = (mesh, found)
    return found


__all__ = ['SKY', 'Hits', 'Scene', 'SceneObject', 'VehicleLights']
