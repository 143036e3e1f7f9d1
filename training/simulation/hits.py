# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What rays hit in a scene."""

from __future__ import annotations

import functools

import numpy as np

from training.simulation.movers import Met, Movers, cones_of_fan
from training.simulation.soup import SKY, Soup

Array = np.ndarray


class Hits:
    """What a batch of rays met; arrays have the rays' leading shape and are made when asked for.

    Args:
        origin: (3,) or (N, 3) in `base_link`.
        direction: (N, 3) float32 unit rays in `base_link`.
        turn: (3, 3) float32, from the soup's frame into `base_link`.
        soup: What stands.
        found: Embree's answers about it.
        met: What met something that moves first.
        shape: Leading shape of the attributes.
    """

    def __init__(
        self, origin: Array, direction: Array, turn: Array, soup: Soup,
        found: dict[str, Array], met: Met, shape: tuple[int, ...],
    ) -> None:  # fmt: skip
        self._origin, self._direction, self._turn = origin, direction, turn
        self._soup, self._found, self._met, self._shape = soup, found, met, shape
        index = found['primID']
        missed = index < 0
        missed[met.where] = False
        self._missed = missed
        self._first = np.maximum(index, 0)
        distance = found['tfar']
        distance[met.where] = met.distance
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
        values: Array = getattr(self._soup, name).take(self._first, axis=0)
        if len(self._met.where):
            values[self._met.where] = self._met.gather(name)
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
        point = np.empty_like(self._direction)
        # Here and below axis by axis: loops over three numbers at a time cost thrice as much.
        for k in range(3):
            np.multiply(self._direction[:, k], way, out=point[:, k])
            point[:, k] += self._origin[:, k]
        return self._out(point)

    @functools.cached_property
    def _facing(self) -> tuple[Array, Array]:
        normal = self._gather('normal') @ self._turn.T
        cosine = np.einsum('ij,ij->i', normal, self._direction)
        sign = np.where(cosine > 0, np.float32(-1), np.float32(1))
        for k in range(3):
            normal[:, k] *= sign
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
        u, v = self._found['u'], self._found['v']
        u[self._met.where], v[self._met.where] = self._met.u, self._met.v
        uv = np.empty((len(u), 2), np.float32)
        for k in range(2):
            np.multiply(corner[:, 2 + k], u, out=uv[:, k])
            uv[:, k] += corner[:, k]
            uv[:, k] += corner[:, 4 + k] * v
        return self._out(uv)

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
        if len(self._met.where):
            out[self._met.where] = self._met.gather('velocity') @ self._turn.T
        return self._out(out)


def cast(
    soup: Soup, movers: Movers, origin: Array, direction: Array, turn: Array, offset: Array
) -> Hits:
    """First hits.

    Args:
        soup: What stands.
        movers: What moves, in the same frame.
        origin: (3,) or (..., 3) in `base_link`.
        direction: (..., 3) unit rays in `base_link`.
        turn: (3, 3) float32 from the soup's frame into `base_link`.
        offset: (3,) float32 position of `base_link` in the soup's frame.
    """
    shape = direction.shape[:-1]
    rays = np.ascontiguousarray(direction.reshape(-1, 3), np.float32)
    start = np.asarray(origin, np.float32).reshape(-1, 3)
    turned = rays @ turn
    begin = (start @ turn + offset).astype(np.float32, copy=False)
    starts = np.ascontiguousarray(np.broadcast_to(begin, rays.shape))
    found = soup.trace(starts, turned)
    limit = np.where(found['primID'] < 0, np.float32(1e30), found['tfar'])
    cones = None
    kept = direction.flags.owndata and not direction.flags.writeable
    if kept and len(begin) == 1 and len(movers):
        cones = cones_of_fan(direction).turned(turn)
    met = movers.trace(begin, turned, limit, shape, cones)
    return Hits(start, rays, turn, soup, found, met, shape)
