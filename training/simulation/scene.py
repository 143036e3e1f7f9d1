# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The scene around the ego vehicle at one moment, and what rays hit in it (Embree)."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from embreex import rtcore_scene
from embreex.mesh_construction import TriangleMesh

from clcp_ros.classes import CITYSCAPES
from training.simulation.config import EGO_SPEED
from training.simulation.mesh import Material, Mesh, MeshBuilder, concatenate
from training.simulation.town import AHEAD, BEHIND, BLOCK, Agent, Town, agent_pose, agents

SKY = CITYSCAPES.names.index('sky')
EGO_LATERAL = -1.75
DETAIL = 50.0
"""Metres up to which leaves are there; beyond, they are hardly larger than a pixel."""


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
        first = int((self.ego_s - BEHIND) // BLOCK)
        last = int((self.ego_s + AHEAD) // BLOCK)
        blocks = [town.block(i) for i in range(first, last + 1)]
        parts = [b.mesh.moved(T_base_world) for b in blocks]
        for i, block in enumerate(blocks, first):
            if abs(i * BLOCK + BLOCK / 2 - self.ego_s) < DETAIL + BLOCK / 2:
                detail = block.detail.moved(T_base_world)
                parts.append(detail.part(np.abs(detail.vertices[:, 0, 0] - 15) < DETAIL - 10))
        for agent in movers:
            T = T_base_world @ agent_pose(town, agent, self.ego_s, time)
            parts.append(agent.mesh.moved(T, agent.tag))
        parts.append(_plain())
        self.mesh = concatenate(parts)
        lamps = np.concatenate([b.lamps for b in blocks])
        self.lamps = lamps @ T_base_world[:3, :3].T + T_base_world[:3, 3]
        elevation, azimuth = np.radians(38), town.sun_azimuth
        sun = np.array([np.cos(azimuth), np.sin(azimuth), np.tan(elevation)])
        self.sun = T_base_world[:3, :3] @ (sun / np.linalg.norm(sun))
        self._embree = rtcore_scene.EmbreeScene()
        self._triangles = TriangleMesh(self._embree, self.mesh.vertices)

    def cast(self, origin: np.ndarray, direction: np.ndarray) -> Hits:
        """Cast rays.

        Args:
            origin: (3,) common origin in `base_link`.
            direction: (..., 3) unit vectors in `base_link`.
        """
        shape = direction.shape[:-1]
        rays = np.ascontiguousarray(direction.reshape(-1, 3), np.float32)
        origins = np.broadcast_to(np.asarray(origin, np.float32), rays.shape).copy()
        found = self._embree.run(origins, rays, output=True)
        index = found['primID']
        missed = index < 0
        index = np.where(missed, len(self.mesh) - 1, index)
        distance = np.where(missed, np.inf, found['tfar']).astype(np.float32)
        normal = found['Ng'] / np.maximum(
            np.linalg.norm(found['Ng'], axis=1, keepdims=True), np.float32(1e-12)
        )
        cosine = -np.einsum('ij,ij->i', normal, rays)
        normal *= np.where(cosine < 0, -1, 1).astype(np.float32)[:, None]
        u, v = found['u'][:, None], found['v'][:, None]
        corner = self.mesh.uv[index]
        uv = (1 - u - v) * corner[:, 0] + u * corner[:, 1] + v * corner[:, 2]
        point = origins + np.where(missed, 0, distance).astype(np.float32)[:, None] * rays
        return Hits(
            distance.reshape(shape),
            point.reshape(*shape, 3),
            normal.reshape(*shape, 3),
            uv.reshape(*shape, 2),
            np.where(missed, SKY, self.mesh.category[index]).astype(np.uint8).reshape(shape),
            self.mesh.material[index].reshape(shape),
            self.mesh.color[index].reshape(*shape, 3),
            self.mesh.tag[index].reshape(shape),
            np.abs(cosine).reshape(shape),
        )

    def sunlit(self, hits: Hits) -> np.ndarray:
        """Float32 in {0, 1}: nothing stands between the hit and the sun."""
        facing = hits.hit & (hits.normal @ self.sun.astype(np.float32) > 0)
        lit = np.zeros(facing.shape, np.float32)
        start = (hits.point + 0.03 * hits.normal)[facing]
        if len(start):
            rays = np.broadcast_to(self.sun.astype(np.float32), start.shape).copy()
            lit[facing] = self._embree.run(start, rays, query='OCCLUDED') < 0
        return lit


@functools.lru_cache(maxsize=1)
def _plain() -> Mesh:
    """Grass to the horizon, so that no ray falls through the ground between the blocks."""
    b = MeshBuilder()
    b.use(CITYSCAPES.names.index('terrain'), Material.GRASS, (0.14, 0.17, 0.06))
    b.plate((-400, 400), (-400, 400), -0.05)
    return b.build()
