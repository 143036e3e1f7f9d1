# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The scene around the ego vehicle at one moment, and what rays hit in it (Embree)."""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields

import numpy as np
from embreex import rtcore_scene
from embreex.mesh_construction import TriangleMesh

from clcp_ros.classes import CITYSCAPES
from training.simulation.config import EGO_SPEED
from training.simulation.mesh import Material, Mesh, MeshBuilder, concatenate
from training.simulation.town import BLOCK, Agent, Town, agent_pose, agents

SKY = CITYSCAPES.names.index('sky')
EGO_LATERAL = -1.75
BEHIND_BLOCKS, AHEAD_BLOCKS = 1, 3
"""Blocks that exist besides the ego vehicle's own."""


@functools.lru_cache(maxsize=4)
def load_town(seed: int, number: int) -> tuple[Town, list[Agent]]:
    """A town with everybody in it; kept, since consecutive frames share it."""
    town = Town(seed, number)
    return town, agents(town)


@dataclass
class Hits:
    """What a batch of rays met; arrays have the rays' leading shape.

    Attributes:
        distance: Along the ray in metres, inf where nothing was hit.
        point: (..., 3) float32 in `base_link`.
        normal: (..., 3) float32 unit vectors towards the sensor.
        uv: (..., 2) float32 surface coordinates in metres.
        category: uint8 trainIds; sky where nothing was hit.
        material: uint8 `Material`.
        color: (..., 3) float32 linear RGB.
        tag: uint16 number of the object.
        cosine: float32 cosine of the angle of incidence.
    """

    distance: np.ndarray
    point: np.ndarray
    normal: np.ndarray
    uv: np.ndarray
    category: np.ndarray
    material: np.ndarray
    color: np.ndarray
    tag: np.ndarray
    cosine: np.ndarray

    @property
    def hit(self) -> np.ndarray:
        """Bool: the ray met something."""
        return np.isfinite(self.distance)

    def reshaped(self, shape: tuple[int, ...]) -> Hits:
        """The same hits in another leading shape."""
        return Hits(**{f.name: _reshape(getattr(self, f.name), shape) for f in fields(self)})


def _reshape(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return array.reshape(*shape, *array.shape[1:])


class Scene:
    """Everything around the ego vehicle, frozen at one moment, in `base_link`.

    Args:
        seed: Seed of the simulation.
        number: Which town.
        time: Seconds since the drive began; the ego vehicle has come `EGO_SPEED * time` metres.

    Attributes:
        T_world_base: (4, 4) pose of the ego vehicle.
        lamps: (L, 3) street lights in `base_link`.
        sun: (3,) unit vector towards the sun in `base_link`.
        ego_s: Metres along the street.
    """

    def __init__(self, seed: int, number: int, time: float) -> None:
        town, movers = load_town(seed, number)
        self.ego_s = EGO_SPEED * time
        self.T_world_base = town.pose(self.ego_s, EGO_LATERAL)
        T_base_world = np.linalg.inv(self.T_world_base)
        self._standing, T_world_anchor, lamps = _standing(seed, number, int(self.ego_s // BLOCK))
        self._T_anchor_base = np.linalg.inv(T_world_anchor) @ self.T_world_base
        self._moving = Soup(
            concatenate(
                a.mesh.moved(T_base_world @ agent_pose(town, a, self.ego_s, time), a.tag)
                for a in movers
            )
        )
        self.lamps = lamps @ T_base_world[:3, :3].T + T_base_world[:3, 3]
        elevation, azimuth = np.radians(38), town.sun_azimuth
        sun = np.array([np.cos(azimuth), np.sin(azimuth), np.tan(elevation)])
        self.sun = T_base_world[:3, :3] @ (sun / np.linalg.norm(sun))

    def cast(self, origin: np.ndarray, direction: np.ndarray) -> Hits:
        """Cast rays.

        Args:
            origin: (3,) common origin in `base_link`.
            direction: (..., 3) unit vectors in `base_link`.
        """
        shape = direction.shape[:-1]
        rays = np.ascontiguousarray(direction.reshape(-1, 3), np.float32)
        start = np.asarray(origin, np.float32)
        R, t = self._anchored()
        hits = self._standing.cast(R @ start + t, rays @ R.T)
        hits.normal = hits.normal @ R
        nearer = self._moving.cast(start, rays)
        front = nearer.distance < hits.distance
        for name in ('distance', 'normal', 'uv', 'category', 'material', 'color', 'tag', 'cosine'):
            getattr(hits, name)[front] = getattr(nearer, name)[front]
        travelled = np.where(np.isfinite(hits.distance), hits.distance, 0)
        hits.point = start + travelled[:, None] * rays
        return hits.reshaped(shape)

    def sunlit(self, hits: Hits) -> np.ndarray:
        """Float32 in {0, 1}: nothing stands between the hit and the sun."""
        sun = self.sun.astype(np.float32)
        facing = hits.hit & (hits.normal @ sun > 0)
        lit = np.zeros(facing.shape, np.float32)
        start = (hits.point + 0.03 * hits.normal)[facing]
        if len(start):
            R, t = self._anchored()
            free = ~self._standing.blocked(start @ R.T + t, R @ sun)
            free[free] = ~self._moving.blocked(start[free], sun)
            lit[facing] = free
        return lit

    def _anchored(self) -> tuple[np.ndarray, np.ndarray]:
        T = self._T_anchor_base.astype(np.float32)
        return T[:3, :3], T[:3, 3]


class Soup:
    """A mesh that rays can be cast into."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self._embree = rtcore_scene.EmbreeScene()
        # Embree holds on to the triangles as long as this object lives.
        self._triangles = TriangleMesh(self._embree, mesh.vertices)

    def cast(self, origin: np.ndarray, rays: np.ndarray) -> Hits:
        """First hits of (N, 3) unit rays from one origin; `point` is left empty."""
        rays = np.ascontiguousarray(rays, np.float32)
        origins = np.broadcast_to(np.asarray(origin, np.float32), rays.shape).copy()
        found = self._embree.run(origins, rays, output=True)
        index = found['primID']
        missed = index < 0
        index = np.where(missed, 0, index)
        normal = found['Ng']
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), np.float32(1e-12))
        cosine = -np.einsum('ij,ij->i', normal, rays)
        normal *= np.where(cosine < 0, -1, 1).astype(np.float32)[:, None]
        u, v = found['u'][:, None], found['v'][:, None]
        corner = self.mesh.uv[index]
        return Hits(
            distance=np.where(missed, np.inf, found['tfar']).astype(np.float32),
            point=np.zeros((0, 3), np.float32),
            normal=normal,
            uv=(1 - u - v) * corner[:, 0] + u * corner[:, 1] + v * corner[:, 2],
            category=np.where(missed, SKY, self.mesh.category[index]).astype(np.uint8),
            material=self.mesh.material[index],
            color=self.mesh.color[index],
            tag=self.mesh.tag[index],
            cosine=np.abs(cosine),
        )

    def blocked(self, origins: np.ndarray, ray: np.ndarray) -> np.ndarray:
        """Bool per (N, 3) origin: something lies in the direction of `ray`."""
        origins = np.ascontiguousarray(origins, np.float32)
        rays = np.broadcast_to(ray.astype(np.float32), origins.shape).copy()
        return self._embree.run(origins, rays, query='OCCLUDED') >= 0


@functools.lru_cache(maxsize=2)
def _standing(seed: int, number: int, block: int) -> tuple[Soup, np.ndarray, np.ndarray]:
    """What does not move around an ego vehicle in `block`, its T_world_anchor, and the lamps.

    The frame is anchored at the block, not in the world: float32 is coarse kilometres away from
    its origin. Frames in one block share it, since building it takes as long as casting the rays.
    """
    town, _ = load_town(seed, number)
    T_world_anchor = town.pose(block * BLOCK, EGO_LATERAL)
    T_anchor_world = np.linalg.inv(T_world_anchor)
    blocks = {i: town.block(i) for i in range(block - BEHIND_BLOCKS, block + AHEAD_BLOCKS + 1)}
    parts = [b.mesh.moved(T_anchor_world) for b in blocks.values()]
    parts += [blocks[i].detail.moved(T_anchor_world) for i in (block, block + 1)]
    parts.append(_plain())
    lamps = np.concatenate([b.lamps for b in blocks.values()])
    return Soup(concatenate(parts)), T_world_anchor, lamps


@functools.lru_cache(maxsize=1)
def _plain() -> Mesh:
    """Grass to the horizon, so that no ray falls through the ground between the blocks."""
    b = MeshBuilder()
    b.use(CITYSCAPES.names.index('terrain'), Material.GRASS, (0.14, 0.17, 0.06))
    b.plate((-400, 400), (-400, 400), -0.05)
    return b.build()
