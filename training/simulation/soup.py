# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Triangle soups that rays can be cast into (Embree), and what the rays hit."""

from __future__ import annotations

import functools

import numpy as np
from embreex import rtcore_scene
from embreex.mesh_construction import TriangleMesh

from clcp_ros.classes import CITYSCAPES
from training.simulation.mesh import Mesh

SKY = CITYSCAPES.names.index('sky')
Array = np.ndarray


class Soup:
    """A mesh that rays can be cast into.

    Args:
        mesh: At least one triangle.
        velocity: (T, 3) float32 m/s of each triangle in the mesh's frame; it stands by default.
    """

    def __init__(self, mesh: Mesh, velocity: Array | None = None) -> None:
        v = np.ascontiguousarray(mesh.vertices, np.float32)
        self.mesh = mesh
        self._embree = rtcore_scene.EmbreeScene()
        # Embree holds on to the triangles as long as this object lives.
        self._triangles = TriangleMesh(self._embree, v)
        # Tables by triangle: one gather per ray is the cost of an attribute, so each is small.
        normal = np.cross(v[:, 1] - v[:, 0], v[:, 2] - v[:, 0])
        length = np.sqrt(np.einsum('ij,ij->i', normal, normal))[:, None]
        self.normal = normal / np.maximum(length, np.float32(1e-12))
        uv = mesh.uv.astype(np.float32, copy=False)
        self.uv = np.concatenate([uv[:, 0], uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]], 1)
        self.category, self.material = mesh.category, mesh.material
        self.color, self.tag = mesh.color, mesh.tag
        self.velocity = velocity

    def __len__(self) -> int:
        return len(self.mesh)

    def trace(self, origins: Array, rays: Array, limit: Array | None = None) -> dict[str, Array]:
        """Embree's answer for (N, 3) rays, nearer than `limit` if given."""
        found: dict[str, Array] = self._embree.run(origins, rays, dists=limit, output=True)
        return found

    def blocked(self, origins: Array, rays: Array) -> Array:
        """Bool per (N, 3) origin: something lies in the direction of its ray, or of the only."""
        hit: Array = self._embree.run(origins, rays, query='OCCLUDED')
        return hit >= 0


class Hits:
    """What a batch of rays met; arrays have the rays' leading shape and are made when asked for.

    Args:
        origin: (3,) or (N, 3) in `base_link`.
        direction: (N, 3) float32 unit rays in `base_link`.
        turn: (3, 3) float32, from the soups' frame into `base_link`.
        soups: What stands and what moves.
        found: Embree's answers of both; the second about the rays in `second` only.
        second: (M,) numbers of the rays that met something that moves first.
        shape: Leading shape of the attributes.
    """

    def __init__(
        self, origin: Array, direction: Array, turn: Array, soups: tuple[Soup, Soup],
        found: tuple[dict[str, Array], dict[str, Array]], second: Array, shape: tuple[int, ...],
    ) -> None:  # fmt: skip
        self._origin, self._direction, self._turn = origin, direction, turn
        self._soups, self._found, self._second, self._shape = soups, found, second, shape
        index = found[0]['primID']
        missed = index < 0
        missed[second] = False
        self._missed = missed
        self._first = np.maximum(index, 0)
        distance = found[0]['tfar']
        distance[second] = found[1]['tfar']
        distance[missed] = np.inf
        self._distance = distance

    def reshaped(self, shape: tuple[int, ...]) -> Hits:
        """The same hits in another leading shape."""
        other = object.__new__(Hits)
        flat = {k: v for k, v in self.__dict__.items() if k.startswith('_')}
        other.__dict__.update(flat, _shape=shape)
        return other

    def _out(self, array: Array) -> Array:
        return array.reshape(*self._shape, *array.shape[1:])

    def _gather(self, name: str) -> Array:
        standing, moving = (getattr(soup, name) for soup in self._soups)
        values: Array = standing.take(self._first, axis=0)
        if len(self._second):
            values[self._second] = moving.take(self._found[1]['primID'], axis=0)
        return values

    @property
    def shape(self) -> tuple[int, ...]:
        """The leading shape."""
        return self._shape

    @property
    def distance(self) -> Array:
        """Float32 metres along the ray, inf where nothing was hit."""
        return self._out(self._distance)

    @property
    def hit(self) -> Array:
        """Bool: the ray met something."""
        return self._out(~self._missed)

    @functools.cached_property
    def point(self) -> Array:
        """(..., 3) float32 in `base_link`; the ray's origin where nothing was hit."""
        way = np.where(self._missed, np.float32(0), self._distance)
        return self._out(self._direction * way[:, None] + self._origin)

    @functools.cached_property
    def _facing(self) -> tuple[Array, Array]:
        normal = self._gather('normal') @ self._turn.T
        cosine = np.einsum('ij,ij->i', normal, self._direction)
        normal *= np.where(cosine > 0, np.float32(-1), np.float32(1))[:, None]
        return normal, np.abs(cosine)

    @property
    def normal(self) -> Array:
        """(..., 3) float32 unit vectors in `base_link` towards the sensor."""
        return self._out(self._facing[0])

    @property
    def cosine(self) -> Array:
        """Float32 cosine of the angle of incidence."""
        return self._out(self._facing[1])

    @functools.cached_property
    def uv(self) -> Array:
        """(..., 2) float32 surface coordinates in metres."""
        corner = self._gather('uv')
        u, v = self._found[0]['u'], self._found[0]['v']
        u[self._second], v[self._second] = self._found[1]['u'], self._found[1]['v']
        return self._out(corner[:, :2] + u[:, None] * corner[:, 2:4] + v[:, None] * corner[:, 4:])

    @functools.cached_property
    def category(self) -> Array:
        """Uint8 trainIds; sky where nothing was hit."""
        category = self._gather('category')
        category[self._missed] = SKY
        return self._out(category)

    @functools.cached_property
    def material(self) -> Array:
        """Uint8 `Material`."""
        return self._out(self._gather('material'))

    @functools.cached_property
    def color(self) -> Array:
        """(..., 3) float32 linear RGB."""
        return self._out(self._gather('color'))

    @functools.cached_property
    def tag(self) -> Array:
        """Uint16 number of the object."""
        return self._out(self._gather('tag'))

    @functools.cached_property
    def velocity(self) -> Array:
        """(..., 3) float32 m/s over ground of the surface, in `base_link`."""
        out = np.zeros((len(self._distance), 3), np.float32)
        table = self._soups[1].velocity
        if len(self._second) and table is not None:
            out[self._second] = table.take(self._found[1]['primID'], axis=0) @ self._turn.T
        return self._out(out)


def cast(
    soups: tuple[Soup, Soup], origin: Array, direction: Array, turn: Array, offset: Array
) -> Hits:
    """First hits in two soups of one frame.

    Args:
        soups: What stands and what moves.
        origin: (3,) or (..., 3) in `base_link`.
        direction: (..., 3) unit rays in `base_link`.
        turn: (3, 3) float32 from the soups' frame into `base_link`.
        offset: (3,) float32 position of `base_link` in the soups' frame.
    """
    shape = direction.shape[:-1]
    rays = np.ascontiguousarray(direction.reshape(-1, 3), np.float32)
    start = np.asarray(origin, np.float32).reshape(-1, 3)
    turned = rays @ turn
    begin = start @ turn + offset
    if len(begin) != len(rays):
        begin = np.broadcast_to(begin, rays.shape)
    begin = np.ascontiguousarray(begin, np.float32)
    standing = soups[0].trace(begin, turned)
    moving = soups[1].trace(begin, turned, np.where(
        standing['primID'] < 0, np.float32(1e30), standing['tfar']))  # fmt: skip
    second = np.flatnonzero(moving['primID'] >= 0)
    moving = {name: moving[name].take(second) for name in ('primID', 'tfar', 'u', 'v')}
    return Hits(start, rays, turn, soups, (standing, moving), second, shape)
