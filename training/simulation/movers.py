# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What moves, for rays: each thing keeps the soup of its model, only its pose changes.

Building one soup of all movers anew for every moment costs more than all rays into it. Here rays
are turned into a mover's own frame instead, and only bundles of rays that can meet it are.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.simulation.mesh import Mesh
from training.simulation.soup import Soup

Array = np.ndarray

_SIDE, _RUN = 8, 16
"""Rays of a grid are bundled in squares, those of a list in runs."""

_MARGIN_M = 0.02
"""Added to the reach of everything, against rounding."""

_KEPT = 1500
"""Soups of models: of about five towns."""


@dataclass(frozen=True)
class Mover:
    """A thing at one moment.

    Attributes:
        soup: Its triangles about its own origin.
        turn: (3, 3) float32 rotation from its own frame into that of what stands.
        position: (3,) float32 of its origin in that frame.
        tag: Number of the object.
        velocity: (3,) float32 m/s in that frame.
    """

    soup: Soup
    turn: Array
    position: Array
    tag: int
    velocity: Array


@dataclass(frozen=True)
class Met:
    """Rays that meet a mover before anything else.

    Attributes:
        where: (M,) numbers of the rays, by mover.
        distance: (M,) float32 metres.
        u: (M,) float32, Embree's coordinates within the triangle.
        v: (M,) float32.
        triangles: Per mover that is met, its rays' triangles in the order of `where`.
        movers: These movers.
    """

    where: Array
    distance: Array
    u: Array
    v: Array
    triangles: tuple[Array, ...] = ()
    movers: tuple[Mover, ...] = ()

    def gather(self, name: str) -> Array:
        """(M, ...) values of an attribute of the triangles, in the soup's frame; M > 0."""
        parts = []
        for mover, index in zip(self.movers, self.triangles, strict=True):
            if name == 'tag':
                parts.append(np.full(len(index), mover.tag, np.uint16))
            elif name == 'velocity':
                parts.append(np.broadcast_to(mover.velocity, (len(index), 3)))
            else:
                values = getattr(mover.soup, name).take(index, axis=0)
                parts.append(values @ mover.turn.T if name == 'normal' else values)
        return np.concatenate(parts)


@dataclass(frozen=True)
class Cones:
    """Cones about bundles of rays, and one about all of them.

    Attributes:
        axis: (B, 3) float32 unit vectors.
        narrow: (B,) float32 cosines of the half angles.
        middle: (3,) float32 unit vector, the axis of the one about all.
        all_narrow: Cosine of its half angle.
    """

    axis: Array
    narrow: Array
    middle: Array
    all_narrow: float

    def turned(self, turn: Array) -> Cones:
        """Of the same rays times a (3, 3) rotation; rounding is far below the cones' margin."""
        return Cones(self.axis @ turn, self.narrow, self.middle @ turn, self.all_narrow)


class Movers:
    """Everything that moves at one moment.

    Args:
        movers: In the frame of what stands; none is fine.
    """

    def __init__(self, movers: Sequence[Mover]) -> None:
        self._movers = list(movers)
        count = len(self._movers)
        self._turn = np.array([m.turn for m in self._movers], np.float32).reshape(count, 3, 3)
        half = np.array([m.soup.half for m in self._movers], np.float32).reshape(count, 3)
        middle = np.array([m.soup.middle for m in self._movers], np.float32).reshape(count, 3)
        place = np.array([m.position for m in self._movers], np.float32).reshape(count, 3)
        self._half = half + np.float32(_MARGIN_M)
        self._middle = np.einsum('aij,aj->ai', self._turn, middle) + place
        self._radius = np.sqrt((half * half).sum(1)) + np.float32(_MARGIN_M)

    def __len__(self) -> int:
        return len(self._movers)

    def trace(
        self,
        origins: Array,
        rays: Array,
        limit: Array,
        shape: tuple[int, ...],
        cones: Cones | None = None,
    ) -> Met:
        """First hits of (N, 3) rays nearer than `limit`.

        Args:
            origins: (1, 3) or (N, 3) float32.
            rays: (N, 3) float32 unit vectors.
            limit: (N,) float32 metres.
            shape: Of the rays' grid; neighbours are to be close together.
            cones: About the bundles of these rays, where they are known.
        """  # fmt: skip
        near = limit.copy()
        who = np.full(len(rays), -1, np.int32)
        table = _bundles(shape)
        answers = np.empty((2, len(rays)), np.float32)
        triangle = np.empty(len(rays), np.int32)
        for k, part in self._candidates(origins, rays, limit, table, cones):
            mover = self._movers[k]
            index = table[part].ravel()
            start = origins if len(origins) == 1 else origins.take(index, axis=0)
            start = (start - mover.position) @ mover.turn
            if len(start) == 1:
                start = start.repeat(len(index), axis=0)
            found = mover.soup.trace(start, rays.take(index, axis=0) @ mover.turn, near[index])
            hit = np.flatnonzero(found['primID'] >= 0)
            if len(hit):
                at = index[hit]
                near[at], who[at] = found['tfar'][hit], k
                answers[0, at], answers[1, at] = found['u'][hit], found['v'][hit]
                triangle[at] = found['primID'][hit]
        where = np.flatnonzero(who >= 0)
        where = where[np.argsort(who[where], kind='stable')]
        met, begin = np.unique(who[where], return_index=True)
        return Met(
            where, near[where], answers[0, where], answers[1, where],
            tuple(np.split(triangle[where], begin[1:])) if len(met) else (),
            tuple(self._movers[k] for k in met),
        )  # fmt: skip

    def _candidates(
        self, origins: Array, rays: Array, limit: Array, table: Array, cones: Cones | None
    ) -> list[tuple[int, Array]]:
        """Movers from near to far, and which bundles of rays can meet the box about each.

        A bundle is a cone about its middle that begins somewhere in a ball about its mean
        origin, and ends where all its rays have met something.
        """
        if not len(self) or not len(rays):
            return []
        cones = cones or cones_of(rays, table)
        axis, narrow = cones.axis, cones.narrow
        wide = np.sqrt(1 - narrow * narrow)
        center = origins[0]
        known = self._in_view(center, cones) if len(origins) == 1 else np.arange(len(self))
        if not len(known):
            return []
        middle = self._middle[known] - center
        if len(origins) == 1:
            begin, spread = np.zeros((1, 3), np.float32), np.zeros(1, np.float32)
        else:
            starts = origins.take(table, axis=0) - center
            begin = _sums(starts) / np.float32(table.shape[1])
            starts -= begin[:, None]
            starts *= starts
            spread = np.sqrt((starts[..., 0] + starts[..., 1] + starts[..., 2]).max(1))
        # (movers, bundles): the ball about a mover against the cone of a bundle.
        along = middle @ axis.T - (begin * axis).sum(1)
        away = (middle * middle).sum(1)[:, None] + (begin * begin).sum(1) - 2 * middle @ begin.T
        away = np.sqrt(np.maximum(away, np.float32(1e-6)))
        reach = self._radius[known, None] + spread
        sine = np.minimum(reach / away, 1)
        cosine = np.sqrt(1 - sine * sine)
        meets = along >= away * (cosine * narrow - sine * wide) - np.float32(_MARGIN_M)
        meets |= away <= reach
        meets &= away - reach < limit[table].max(1)
        if table.shape[1] == _SIDE**2:
            self._leave_out(meets, rays, table, cones, known, middle, begin, spread)
        met, part = np.nonzero(meets)
        ends = np.searchsorted(met, np.arange(len(known) + 1))
        order = np.argsort(away.min(1), kind='stable')
        return [
            (int(known[k]), part[ends[k] : ends[k + 1]])
            for k in order if ends[k] < ends[k + 1]
        ]  # fmt: skip

    def _in_view(self, center: Array, cones: Cones) -> Array:
        """Numbers of the movers that the one cone about all rays from `center` can meet."""
        middle, narrow = cones.middle, cones.all_narrow
        if narrow < 0.1:
            return np.arange(len(self))
        to = self._middle - center
        away = np.sqrt(np.maximum((to * to).sum(1), np.float32(1e-6)))
        sine = np.minimum(self._radius / away, 1)
        edge = np.sqrt(1 - sine * sine) * narrow - sine * np.sqrt(1 - narrow * narrow)
        meets = to @ middle >= away * edge - np.float32(_MARGIN_M)
        return np.flatnonzero(meets | (away <= self._radius))

    def _leave_out(
        self, meets: Array, rays: Array, table: Array, cones: Cones, known: Array,
        middle: Array, begin: Array, spread: Array,
    ) -> None:  # fmt: skip
        """Clear `meets` where a box lies behind a side of the pyramid of a square bundle."""
        used = np.flatnonzero(meets.any(0))
        inside = rays.take(table[used], axis=0)
        axis, narrow = cones.axis[used], cones.narrow[used]
        mover, place = np.nonzero(meets[:, used])
        bundle = used[place]
        to = middle[mover] - (begin[bundle] if len(begin) > 1 else begin)
        margin = spread[bundle] if len(spread) > 1 else spread
        turn, half = self._turn[known[mover]], self._half[known[mover]]
        corners = inside[:, [0, _SIDE - 1, _SIDE**2 - 1, _SIDE**2 - _SIDE]]
        outside = np.zeros(len(mover), bool)
        wide = narrow < np.float32(0.1)
        for k in range(4):
            side = np.cross(corners[:, k], corners[:, (k + 1) % 4])
            side *= np.sign((side * axis).sum(1))[:, None]
            # The rays between two corners may lie a little outside of the plane through these.
            beyond = np.maximum(-_dots(inside, side).min(1), 0) + np.float32(1e-6)
            side += (beyond / np.maximum(narrow, np.float32(0.1)))[:, None] * axis
            side /= np.maximum(np.sqrt((side * side).sum(1)), np.float32(1e-9))[:, None]
            normal = side[place]
            extent = sum(np.abs(_dot(normal, turn[..., j])) * half[:, j] for j in range(3))
            outside |= _dot(normal, to) + extent + margin < 0
        outside &= ~wide[place]
        meets[mover[outside], bundle[outside]] = False

    def blocked(self, origins: Array, ray: Array) -> Array:
        """Bool per (N, 3) origin: a mover lies in the direction of the only (1, 3) ray."""
        hidden = np.zeros(len(origins), bool)
        if not len(self):
            return hidden
        # In the plane across the ray a shadow is a flat thing: sorted one way, most of the
        # points are left out at once.
        across = _frame(ray[0])
        at = origins @ across.T
        middle = self._middle @ across.T
        reach = np.einsum('akj,aj->ak', np.abs(across @ self._turn), self._half)
        order = np.argsort(at[:, 0])
        at = np.ascontiguousarray(at[order].T)
        first = np.searchsorted(at[0], middle[:, 0] - reach[:, 0])
        last = np.searchsorted(at[0], middle[:, 0] + reach[:, 0])
        for k in np.flatnonzero(first < last):
            mover, part = self._movers[k], slice(first[k], last[k])
            near = np.abs(at[1, part] - middle[k, 1]) < reach[k, 1]
            near &= at[2, part] < middle[k, 2] + reach[k, 2]
            index = order[part][near]
            if len(index):
                start = (origins.take(index, axis=0) - mover.position) @ mover.turn
                hidden[index] |= mover.soup.blocked(start, ray @ mover.turn)
        return hidden


def cones_of(rays: Array, table: Array) -> Cones:
    """Cones about (N, 3) rays, bundled as a (B, K) table of their numbers says."""
    inside = rays.take(table, axis=0)
    axis, narrow = _cones(inside)
    middle = _cones(axis[None])[0][0]
    all_narrow = _dots(inside, np.broadcast_to(middle, axis.shape)).min() - np.float32(1e-6)
    return Cones(axis, narrow, middle, float(all_narrow))


_FANS: dict[int, tuple[Array, Cones]] = {}


def cones_of_fan(fan: Array) -> Cones:
    """Cones about an (H, W, 3) grid of rays that nobody writes into, such as a camera's; kept."""
    known = _FANS.get(id(fan))
    if known is not None and known[0] is fan:
        return known[1]
    if len(_FANS) >= 16:
        _FANS.clear()
    cones = cones_of(fan.reshape(-1, 3), _bundles(fan.shape[:-1]))
    _FANS[id(fan)] = (fan, cones)
    return cones


def _cones(vectors: Array) -> tuple[Array, Array]:
    """(B, 3) axes of the cones about (B, K, 3) unit vectors, and cosines of their half angles."""
    axis = _sums(vectors)
    axis /= np.maximum(np.sqrt((axis * axis).sum(1)), np.float32(1e-6))[:, None]
    return axis, np.clip(_dots(vectors, axis).min(1) - np.float32(1e-6), -1, 1)


def _sums(vectors: Array) -> Array:
    """(B, 3) sums over the middle axis of (B, K, 3); numpy's own is slow there."""
    bundles, count, _ = vectors.shape
    each = np.tile(np.eye(3, dtype=np.float32), (count, 1))
    total: Array = vectors.reshape(bundles, 3 * count) @ each
    return total


def _dot(a: Array, b: Array) -> Array:
    """(N,) dot products of (N, 3) with (N, 3)."""
    product: Array = a[:, 0] * b[:, 0] + a[:, 1] * b[:, 1] + a[:, 2] * b[:, 2]
    return product


def _dots(vectors: Array, axis: Array) -> Array:
    """(B, K) dot products of (B, K, 3) with (B, 3)."""
    result = vectors[..., 0] * axis[:, 0, None]
    result += vectors[..., 1] * axis[:, 1, None]
    result += vectors[..., 2] * axis[:, 2, None]
    return result


@functools.lru_cache(maxsize=16)
def _bundles(shape: tuple[int, ...]) -> Array:
    """(B, K) numbers of neighbouring rays; some occur twice where the grid does not divide."""
    if len(shape) != 2:
        count = int(np.prod(shape))
        runs = -(-count // _RUN)
        return np.minimum(np.arange(runs * _RUN), count - 1).reshape(runs, _RUN)
    rows, columns = (
        np.minimum(np.arange(-(-n // _SIDE) * _SIDE), n - 1).reshape(-1, _SIDE) for n in shape
    )
    grid = rows[:, None, :, None] * shape[1] + columns[None, :, None, :]
    return np.ascontiguousarray(grid.reshape(-1, _SIDE * _SIDE))


def _frame(ray: Array) -> Array:
    """(3, 3) float32 rows: two unit vectors across the ray, and the ray."""
    third = np.asarray(ray, np.float64) / np.linalg.norm(ray)
    first = np.cross(third, np.eye(3)[np.argmin(np.abs(third))])
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(third, first), third]).astype(np.float32)


_SOUPS: dict[int, tuple[Mesh, Soup]] = {}


def soup_of(mesh: Mesh) -> Soup:
    """The soup of a mesh; kept, since models come again in every moment."""
    known = _SOUPS.get(id(mesh))
    if known is not None and known[0] is mesh:
        return known[1]
    if len(_SOUPS) > _KEPT:
        _SOUPS.clear()
    soup = Soup(mesh)
    _SOUPS[id(mesh)] = (mesh, soup)
    return soup
