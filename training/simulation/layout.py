# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the pieces of all roads have in common: ground, rigid things, parked vehicles, lamps."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

import numpy as np

from training.simulation import fleet, props
from training.simulation.mesh import Color, Material, Mesh, MeshBuilder, concatenate
from training.simulation.roads import Route
from training.simulation.signals import BLOCK
from training.simulation.vehicles import ID, unlit

FACADES: tuple[Color, ...] = (
    (0.52, 0.40, 0.27), (0.46, 0.20, 0.14), (0.56, 0.53, 0.46), (0.40, 0.40, 0.38),
    (0.55, 0.45, 0.20), (0.36, 0.42, 0.46), (0.50, 0.33, 0.28), (0.33, 0.27, 0.22),
    (0.60, 0.58, 0.55), (0.44, 0.46, 0.36),
)  # fmt: skip
ROOFS: tuple[Color, ...] = (
    (0.26, 0.09, 0.06), (0.10, 0.10, 0.11), (0.20, 0.14, 0.10), (0.16, 0.17, 0.19),
)  # fmt: skip
PAINT: Color = (0.62, 0.62, 0.61)


@dataclass(frozen=True)
class Standing:
    """A parked vehicle or something else that stands and is an object.

    Attributes:
        T_world: (4, 4) pose.
        size: Length, width, height in metres.
        category: trainId.
        tag: Number of the object.
    """

    T_world: np.ndarray
    size: tuple[float, float, float]
    category: int
    tag: int


@dataclass(frozen=True)
class Block:
    """One piece of a road.

    Attributes:
        origin: (3,) float64 world position that the meshes are relative to.
        mesh: What does not move and looks the same from everywhere.
        near: The trees and what else has a coarse version, as seen from close by.
        far: The same in fewer triangles.
        lamps: (L, 3) float64 world positions of street lights.
        objects: Parked vehicles.
    """

    origin: np.ndarray
    mesh: Mesh
    near: Mesh
    far: Mesh
    lamps: np.ndarray
    objects: tuple[Standing, ...]


@dataclass(frozen=True)
class Style:
    """What makes one place look different from another.

    Attributes:
        green: Colour of its leaves.
        grass: Colour of its lawns.
        facades: Colours of its houses.
        roofs: Colours of its roofs.
        paving: Colour of its pavements.
        asphalt: Colour of its roads.
        trees: Share of broad-leaved trees, conifers and poplars.
        floors: Lowest and highest number of floors along the street.
        flat_roofs: Share of flat roofs.
        shops: Share of houses with a shop.
        sun_azimuth: Direction of the sun in the world.
        sun_elevation: Its height on a clear day, radians.
        overcast: How readily clouds pass before it.
        cloud_s: How often, in seconds.
        cloud_phase: When.
    """

    green: Color
    grass: Color
    facades: tuple[Color, ...]
    roofs: tuple[Color, ...]
    paving: Color
    asphalt: Color
    trees: tuple[float, float, float]
    floors: tuple[int, int]
    flat_roofs: float
    shops: float
    sun_azimuth: float
    sun_elevation: float
    overcast: float
    cloud_s: float
    cloud_phase: float

    def cloud_cover(self, time: float) -> float:
        """How much of the sunlight clouds take at `time` seconds: 0 none, 1 nearly all.

        Fair weather is not one light: cumulus passes, and shadows come and go.
        """
        wave = np.sin(2 * np.pi * time / self.cloud_s + self.cloud_phase)
        return float(np.clip(0.5 + 1.6 * (wave + self.overcast), 0, 1))


_SEASONS: tuple[tuple[Color, Color], ...] = (
    ((0.05, 0.13, 0.02), (0.10, 0.19, 0.05)), ((0.08, 0.17, 0.03), (0.14, 0.24, 0.05)),
    ((0.05, 0.10, 0.03), (0.09, 0.15, 0.05)), ((0.14, 0.14, 0.03), (0.26, 0.19, 0.04)),
)  # fmt: skip


def style_of(route: Route) -> Style:
    """The looks of a place, drawn from its own generator."""
    rng = route.rng(10)
    low, high = _SEASONS[rng.integers(len(_SEASONS))]
    green = tuple(rng.uniform(low, high))
    r, g, b = green
    order = rng.permutation(len(FACADES))
    floors = int(rng.integers(4, 7))
    stone = rng.uniform(0.22, 0.36)
    tar = rng.uniform(0.09, 0.15)
    return Style(
        green=green,
        grass=(min(1.4 * r + 0.01, 1), 1.2 * g, 1.2 * b),
        facades=tuple(FACADES[i] for i in order[:5]),
        roofs=tuple(ROOFS[i] for i in rng.permutation(len(ROOFS))[:2]),
        paving=(stone, stone * rng.uniform(0.9, 1.0), stone * rng.uniform(0.8, 1.0)),
        asphalt=(tar, tar, tar * rng.uniform(0.98, 1.1)),
        trees=tuple(rng.dirichlet((4.0, 1.2, 1.0))),
        floors=(floors, floors + int(rng.integers(2, 4))),
        flat_roofs=float(rng.uniform(0.15, 0.8)),
        shops=float(rng.uniform(0.2, 0.8)),
        sun_azimuth=float(rng.uniform(0, 2 * np.pi)),
        sun_elevation=float(np.radians(rng.uniform(24, 52))),
        overcast=float(rng.uniform(-1.0, 0.3)),
        cloud_s=float(rng.uniform(50, 110)),
        cloud_phase=float(rng.uniform(0, 2 * np.pi)),
    )


class Place:
    """A road and the pieces along it.

    Args:
        route: Where the road runs.
    """

    def __init__(self, route: Route) -> None:
        self.route = route
        self.style = style_of(route)

    @functools.lru_cache(maxsize=64)  # noqa: B019 (a worker holds a handful of places for its life)
    def tree(self, kind: int, variant: int) -> tuple[Mesh, Mesh]:
        """One of the trees that grow here, from close by and from afar."""
        fine, coarse = (
            props.TREES[kind](self.route.rng(11, kind, variant), self.style.green, detail)
            for detail in (True, False)
        )
        return fine, coarse

    @functools.lru_cache(maxsize=32)  # noqa: B019
    def shrub(self, kind: str, variant: int) -> tuple[Mesh, Mesh]:
        """One of the bushes or hedges, from close by and from afar."""
        make = props.hedge if kind == 'hedge' else props.bush
        fine, coarse = (
            make(self.route.rng(12, variant, kind == 'hedge'), self.style.green, detail)
            for detail in (True, False)
        )
        return fine, coarse


class BlockBuilder:
    """Builds one block in road coordinates: s from its beginning, l to the left, z up."""

    def __init__(self, place: Place, index: int) -> None:
        self.place_ = place
        self.route = place.route
        self.style = place.style
        self.index = index
        self.s0 = BLOCK * index
        self.rng = self.route.rng(1, index)
        self.ground = MeshBuilder()
        """Bent with the road and its gradient: pieces must be short."""
        self._houses: list[tuple[MeshBuilder, float]] = []
        self._rigid: list[Mesh] = []
        self._near: list[Mesh] = []
        self._far: list[Mesh] = []
        self.lamps: list[np.ndarray] = []
        self.objects: list[Standing] = []
        self.origin = self.route.bend(np.array([self.s0, 0.0, 0.0]))

    def lay(self) -> None:
        """Fill the block."""
        raise NotImplementedError

    def build(self) -> Block:
        """Fill the block and move it to its place in the world."""
        self.lay()
        parts = self._rigid
        if self.ground.filled:
            parts.append(self._bent(self.ground.build(), None))
        parts += [self._bent(b.build(), s) for b, s in self._houses if b.filled]
        mesh = concatenate(parts).compact()
        none = mesh.part(np.zeros(len(mesh), bool))
        near, far = (concatenate(p) if p else none for p in (self._near, self._far))
        lamps = np.array(self.lamps, float).reshape(-1, 3)
        return Block(self.origin, mesh, near, far, lamps, tuple(self.objects))

    def _bent(self, mesh: Mesh, level: float | None) -> Mesh:
        at = mesh.vertices.astype(np.float64)
        at[..., 0] += self.s0
        world = self.route.bend(at, None if level is None else self.s0 + level)
        return mesh.at((world - self.origin).astype(np.float32))

    def house(self, s: float) -> MeshBuilder:
        """A builder for something with a level floor, as high as the road at `s`."""
        b = MeshBuilder()
        self._houses.append((b, s))
        return b

    def put(
        self,
        mesh: Mesh,
        s: float,
        lateral: float,
        yaw: float = 0.0,
        z: float = 0.0,
        upright: bool = True,
        tag: int | None = None,
        coarse: Mesh | None = None,
    ) -> np.ndarray:
        """Place a rigid thing, `coarse` from afar; returns its T_world."""
        T = self.route.pose(self.s0 + s, lateral, z, yaw, upright)
        local = T.copy()
        local[:3, 3] -= self.origin
        number = int(self.rng.integers(65536)) if tag is None else tag
        (self._rigid if coarse is None else self._near).append(mesh.moved(local, number))
        if coarse is not None:
            self._far.append(coarse.moved(local, number))
        return T

    def parked(
        self, kind: str, s: float, lateral: float, yaw: float = 0.0, z: float = 0.0
    ) -> float:
        """Place a vehicle whose lamps are off; returns its length."""
        bare = kind.removeprefix('parked ')
        variant = int(self.rng.integers(fleet.VARIANTS[bare]))
        found = fleet.model(self.route.seed, self.route.number, kind, variant)
        tag = int(self.rng.integers(65536))
        coarse = None if found.coarse is None else unlit(found.coarse)
        T = self.put(found.parked, s, lateral, yaw, z, upright=False, tag=tag, coarse=coarse)
        self.objects.append(Standing(T, found.size, fleet.CATEGORY[bare], tag))
        return found.size[0]

    def somebody(self, s: float, lateral: float, yaw: float, z: float = 0.12) -> None:
        """Place a person who stands."""
        variant = int(self.rng.integers(fleet.VARIANTS['person']))
        found = fleet.model(self.route.seed, self.route.number, 'person', variant, fleet.STEPS)
        tag = int(self.rng.integers(65536))
        T = self.put(found.mesh, s, lateral, yaw, z, tag=tag, coarse=found.coarse)
        self.objects.append(Standing(T, found.size, ID['person'], tag))

    def tree(
        self, s: float, lateral: float, size: float = 1.0, z: float = 0.0, kind: int | None = None
    ) -> None:
        """Plant a tree."""
        rng = self.rng
        if kind is None:
            kind = int(rng.choice(3, p=self.style.trees))
        tone = rng.uniform(0.8, 1.2) * rng.uniform(0.94, 1.06, 3)
        size *= float(rng.uniform(0.85, 1.15))
        fine, coarse = (
            m.scaled(size).tinted(tone) for m in self.place_.tree(kind, int(rng.integers(5)))
        )
        self.put(fine, s, lateral, rng.uniform(0, 2 * np.pi), z, coarse=coarse)

    def bush(self, s: float, lateral: float, z: float = 0.0, size: float = 1.0) -> None:
        """Plant a bush."""
        size *= float(self.rng.uniform(0.8, 1.4))
        variant = int(self.rng.integers(6))
        fine, coarse = (m.scaled(size) for m in self.place_.shrub('bush', variant))
        self.put(fine, s, lateral, self.rng.uniform(0, 2 * np.pi), z, coarse=coarse)

    def hedge(self, s: tuple[float, float], lateral: float, z: float = 0.0) -> None:
        """Plant a hedge along the road."""
        for at in np.arange(s[0] + 1, s[1], 2.0):
            fine, coarse = self.place_.shrub('hedge', int(self.rng.integers(4)))
            self.put(fine, float(at), lateral, z=z, coarse=coarse)

    def lamp(
        self, s: float, lateral: float, side: int, arm: float = 1.6, height: float = 6.5
    ) -> None:
        """Put up a street lamp whose arm points across the road; `side` -1 is the right."""
        T = self.put(_lamp_mesh(arm, height), s, lateral, 0.0 if side < 0 else np.pi, 0.1)
        self.lamps.append((T @ np.array([0, arm, height - 0.15, 1.0]))[:3])

    def line(
        self, along: np.ndarray, lateral: float, width: float = 0.12, color: Color = PAINT,
        z: float = 0.004,
    ) -> None:  # fmt: skip
        """Paint a solid line."""
        self.ground.use(ID['road'], Material.MARKING, color)
        half = width / 2
        self.ground.strip(along, (lateral - half, z), (lateral + half, z), (-half, half))

    def dashes(
        self, begin: float, end: float, lateral: float, dash: float, step: float,
        width: float = 0.12,
    ) -> None:  # fmt: skip
        """Paint a broken line."""
        for s in np.arange(begin, end - dash / 2, step):
            self.line(np.array([s, min(s + dash, end)]), lateral, width)

    def wall(self, along: np.ndarray, lateral: float, side: int, height: float, thick: float = 0.3,
             category: int = ID['wall'], material: Material = Material.MASONRY,
             color: Color = (0.42, 0.37, 0.32), base: float = -0.4) -> None:  # fmt: skip
        """Build a wall along the road."""
        b = self.ground
        tone = np.asarray(color) * self.rng.uniform(0.75, 1.2)
        b.use(category, material, tuple(np.clip(tone, 0, 1)), int(self.rng.integers(65536)))
        back = lateral + side * thick
        b.strip(along, (lateral, base), (lateral, height))
        b.strip(along, (back, base), (back, height))
        b.strip(along, (lateral, height), (back, height))
        for s in (along[0], along[-1]):
            b.quad((s, lateral, base), (s, back, base), (s, back, height), (s, lateral, height))

    def pickets(self, s: tuple[float, float], lateral: float, height: float = 1.3) -> None:
        """Put up a wooden fence."""
        shade = np.array(((0.30, 0.22, 0.14), (0.55, 0.54, 0.52))[self.rng.integers(2)])
        b = self.ground
        b.use(ID['fence'], Material.PICKETS, tuple(shade * self.rng.uniform(0.7, 1.2)))
        along = np.linspace(s[0], s[1], max(2, int((s[1] - s[0]) / 5) + 1))
        for z in (0.4, height - 0.25):
            b.strip(along, (lateral, z), (lateral, z + 0.1))
        for x in np.arange(s[0], s[1], 0.26):
            b.quad((x, lateral - 0.015, 0), (x + 0.15, lateral - 0.015, 0),
                   (x + 0.15, lateral - 0.015, height), (x, lateral - 0.015, height))  # fmt: skip

    def railing(self, s: tuple[float, float], lateral: float, height: float = 1.1,
                step: float = 0.3) -> None:  # fmt: skip
        """Put up a fence of metal bars."""
        b = self.ground
        b.use(ID['fence'], Material.METAL, ((0.05, 0.08, 0.06), (0.2, 0.21, 0.22))[self.index % 2])
        along = np.linspace(s[0], s[1], max(2, int((s[1] - s[0]) / 5) + 1))
        for z in (0.15, height - 0.05):
            b.strip(along, (lateral, z), (lateral, z + 0.06))
        for x in np.arange(s[0], s[1], step):
            b.quad((x, lateral, 0), (x + 0.035, lateral, 0), (x + 0.035, lateral, height),
                   (x, lateral, height))  # fmt: skip
        for x in np.arange(s[0], s[1], 2.4):
            b.box((x - 0.04, lateral - 0.04, -0.2), (x + 0.04, lateral + 0.04, height + 0.08))

    def barrier(self, s: tuple[float, float], lateral: float, height: float = 1.05) -> None:
        """Put up panels of sheet metal between posts, as between a pavement and the traffic."""
        b = self.ground
        color = ((0.36, 0.37, 0.38), (0.10, 0.16, 0.12))[int(self.rng.integers(2))]
        b.use(ID['fence'], Material.METAL, color)
        for x in np.arange(s[0], s[1] - 2.4, 2.5):
            along = np.array([x + 0.12, x + 2.38])
            for low, high in ((0.14, 0.62), (0.70, 0.76), (0.84, 0.90), (height - 0.06, height)):
                b.strip(along, (lateral, low), (lateral, high))
            b.box((x - 0.04, lateral - 0.04, -0.2), (x + 0.04, lateral + 0.04, height))

    def guard_rail(self, along: np.ndarray, lateral: float, side: int, base: float = 0.0) -> None:
        """Put up a guard rail; `side` is where the traffic is."""
        b = self.ground
        b.use(ID['fence'], Material.METAL, (0.42, 0.43, 0.44))
        profile = ((0.0, 0.42), (0.06, 0.50), (0.0, 0.58), (0.06, 0.66), (0.0, 0.74))
        for (d0, z0), (d1, z1) in itertools.pairwise(profile):
            b.strip(along, (lateral + side * d0, base + z0), (lateral + side * d1, base + z1))
        for x in np.arange(along[0] + 1, along[-1], 4.0):
            y = lateral - side * 0.07
            b.box((x - 0.05, y - 0.04, base - 0.4), (x + 0.05, y + 0.04, base + 0.7))

    def land(self, lateral: float, s: float) -> float:
        """Height of the ground above the road."""
        return float(self.route.land(np.array(self.s0 + s), np.array(lateral)))


@functools.lru_cache(maxsize=8)
def _lamp_mesh(arm: float, height: float) -> Mesh:
    return props.street_lamp(arm, height)
