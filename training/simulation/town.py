# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A procedural town: one endless bending street in blocks of 60 m, another one for every seed.

The street is laid out in street coordinates (s along the centre line, l to the left, z up) and
bent into the world at the end; a block depends on the seed and its number only, so a town has no
fixed length. Cross-section, l in metres: right lots, pavement [-8.5, -5.7], parking
[-5.7, -3.5], own lane, oncoming lane, tram bed [3.5, 7], pavement [7, 9.8], left lots.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from training.simulation import props
from training.simulation.mesh import Color, Material, Mesh, MeshBuilder, concatenate, placement
from training.simulation.props import ID

BLOCK = 60.0
CROSSING = 9.0
"""Length of the side street at the beginning of every block."""

RIGHT, LEFT = -8.5, 9.8
"""Where the lots begin."""

_FACADES: tuple[Color, ...] = (
    (0.52, 0.40, 0.27), (0.46, 0.20, 0.14), (0.56, 0.53, 0.46), (0.40, 0.40, 0.38),
    (0.55, 0.45, 0.20), (0.36, 0.42, 0.46), (0.50, 0.33, 0.28), (0.33, 0.27, 0.22),
)  # fmt: skip
_ROOFS: tuple[Color, ...] = ((0.26, 0.09, 0.06), (0.10, 0.10, 0.11), (0.20, 0.14, 0.10))
_LOTS = ('row', 'houses', 'park', 'yard')


@dataclass(frozen=True)
class Block:
    """One block in world coordinates.

    Attributes:
        mesh: Everything that does not move, without leaves and spokes.
        detail: Leaves and spokes, which nobody sees from afar.
        lamps: (L, 3) float64 positions of street lights.
    """

    mesh: Mesh
    detail: Mesh
    lamps: np.ndarray


class Town:
    """A town.

    Args:
        seed: Seed of the whole simulation.
        number: Which town; towns of one seed differ in layout, colours and bends.
    """

    def __init__(self, seed: int, number: int) -> None:
        self.seed = seed
        self.number = number
        rng = self.rng(0)
        self._amplitude = rng.uniform(0.1, 0.32, 3)
        self._wave = rng.uniform((140, 260, 420), (240, 420, 800))
        self._phase = rng.uniform(0, 2 * np.pi, 3)
        self._s = np.arange(-500, 40_000, 0.5)
        theta = self.heading(self._s)
        step = 0.5 * np.stack([np.cos(theta), np.sin(theta)], 1)
        self._center = np.concatenate([np.zeros((1, 2)), np.cumsum(step[:-1], 0)])
        order = rng.permutation(len(_FACADES))
        self.facades = tuple(_FACADES[i] for i in order[:5])
        self.green: Color = tuple(rng.uniform((0.05, 0.13, 0.02), (0.12, 0.22, 0.05)))
        self.lamp_step = float(rng.uniform(20, 30))
        self.sun_azimuth = float(rng.uniform(0, 2 * np.pi))
        self.lots = [list(rng.permutation(_LOTS)) for _ in range(2)]

    def rng(self, *key: int) -> np.random.Generator:
        """A generator of this town and `key` alone."""
        return np.random.default_rng([self.seed, self.number, *(k % 2**32 for k in key)])

    def heading(self, s: np.ndarray | float) -> np.ndarray:
        """Heading of the centre line in radians at `s`."""
        s = np.asarray(s, float)[..., None]
        return (self._amplitude * np.sin(2 * np.pi * s / self._wave + self._phase)).sum(-1)

    def pose(self, s: float, lateral: float, yaw: float = 0.0) -> np.ndarray:
        """(4, 4) T_world_object at (s, lateral), turned by `yaw` against the street."""
        x, y, _ = self.bend(np.array([[s, lateral, 0.0]]))[0]
        return placement(x, y, 0.0, float(self.heading(s)) + yaw)

    def bend(self, points: np.ndarray) -> np.ndarray:
        """(..., 3) street coordinates into the world."""
        s, lateral = points[..., 0], points[..., 1]
        theta = self.heading(s)
        x = np.interp(s, self._s, self._center[:, 0]) - np.sin(theta) * lateral
        y = np.interp(s, self._s, self._center[:, 1]) + np.cos(theta) * lateral
        return np.stack([x, y, points[..., 2]], -1)

    @functools.lru_cache(maxsize=16)  # noqa: B019 (a worker holds a handful of towns for its life)
    def block(self, index: int) -> Block:
        """Block number `index`, at s in [60 index, 60 index + 60)."""
        builder = _BlockBuilder(self, index)
        mesh, lamps = builder.build()
        bent = self.bend(mesh.vertices.astype(np.float64)).astype(np.float32)
        mesh = Mesh(bent, mesh.uv, mesh.category, mesh.material, mesh.color, mesh.tag)
        edges = np.linalg.norm(bent - np.roll(bent, 1, axis=1), axis=-1).max(1)
        fine = np.isin(mesh.category, (ID['vegetation'], ID['bicycle'])) & (edges < 0.6)
        return Block(mesh.part(~fine), mesh.part(fine), self.bend(lamps))


class _BlockBuilder:
    def __init__(self, town: Town, index: int) -> None:
        self.town = town
        self.rng = town.rng(1, index)
        self.index = index
        self.s0 = BLOCK * index
        self.s1 = self.s0 + CROSSING
        self.s2 = self.s0 + BLOCK
        self.b = MeshBuilder()
        self.parking = index % 5 in (0, 2, 3)
        self.kerb = -5.7 if self.parking else -3.6
        self.grass_track = index % 3 == 1
        self.parts: list[Mesh] = []
        self.lamps: list[tuple[float, float, float]] = []

    def build(self) -> tuple[Mesh, np.ndarray]:
        self._ground()
        self._crossing()
        self._kerbside()
        self._avenue()
        for side, lots in zip((-1, 1), self.town.lots, strict=True):
            kind = lots[self.index % 4]
            getattr(self, f'_lot_{kind}')(side)
        if self.parking:
            self._parking(bus_stop=self.index % 5 == 2)
        self.parts.append(self.b.build())
        return concatenate(self.parts), np.array(self.lamps).reshape(-1, 3)

    def place(
        self, mesh: Mesh, s: float, lateral: float, yaw: float = 0.0, z: float = 0.0
    ) -> None:
        self.parts.append(mesh.moved(placement(s, lateral, z, yaw), int(self.rng.integers(65536))))

    def _edge(self, side: int) -> float:
        return RIGHT if side < 0 else LEFT

    def _ground(self) -> None:
        b, s0, s1, s2 = self.b, self.s0, self.s1, self.s2
        b.use(ID['road'], Material.STREET, (0.11, 0.11, 0.115), self.town.number)
        track = 3.55 if self.grass_track else 7.0
        b.plate((s0, s1), (-5.7, 7.0), 0.0, step=4.5)
        b.plate((s1, s2), (self.kerb, track), 0.0, step=6)
        if self.grass_track:
            b.use(ID['terrain'], Material.GRASS, self._grass())
            b.plate((s1, s2), (3.55, 7.0), 0.05, step=6)
        b.use(ID['road'], Material.ASPHALT, (0.12, 0.12, 0.12))
        b.plate((s0, s1), (-70, -5.7), 0.0, step=4.5)
        b.plate((s0, s1), (7.0, 70), 0.0, step=4.5)
        b.use(ID['sidewalk'], Material.PAVING, (0.30, 0.285, 0.27))
        for y, kerb in (((-8.5, self.kerb), self.kerb), ((7.0, 9.8), 7.0)):
            b.plate((s1, s2), y, 0.13, step=6)
            b.upright((s1, s2), kerb, (0, 0.13), step=6)
        for side in (-1, 1):
            edge = self._edge(side)
            near, far = min(edge, edge + side * 60), max(edge, edge + side * 60)
            b.plate((s1, s1 + 1.6), (near, far), 0.13)
            b.quad((s1, near, 0), (s1, far, 0), (s1, far, 0.13), (s1, near, 0.13))
        b.quad((s1, -8.5, 0), (s1, self.kerb, 0), (s1, self.kerb, 0.13), (s1, -8.5, 0.13))

    def _crossing(self) -> None:
        b, rng, s0, s1 = self.b, self.rng, self.s0, self.s1
        b.use(ID['road'], Material.ZEBRA, (0.11, 0.11, 0.115))
        b.plate((s0 - 3.2, s0 - 0.4), (-5.6, 3.4), 0.006)
        if self.index % 2 == 0:
            state = int(rng.integers(3))
            self.place(props.traffic_light(state, 3.4), s0 - 3.8, -6.2)
            self.place(props.traffic_light(state), s0 - 3.8, 7.5)
            self.place(props.traffic_light(2 - state), s1 + 1.5, 7.6, np.pi)
        else:
            self.place(props.traffic_sign(4 if rng.random() < 0.5 else 1), s0 - 3.5, -6.3)
        self.place(props.traffic_sign(2), s1 + 2.0, self.kerb - 0.5)

    def _kerbside(self) -> None:
        rng, s1, s2 = self.rng, self.s1, self.s2
        for side, lateral in ((-1, self.kerb - 0.4), (1, 7.4)):
            for s in np.arange(s1 + 4 + 5 * (side > 0), s2 - 1, self.town.lamp_step):
                self.place(props.street_lamp(), s, lateral, 0 if side < 0 else np.pi)
                self.lamps.append((s, lateral - side * 1.6, 6.35))
        for _ in range(2):
            self.place(
                props.traffic_sign(int(rng.integers(4))),
                rng.uniform(s1 + 6, s2 - 5),
                self.kerb - 0.45,
            )
        self.place(
            props.traffic_sign(int(rng.integers(4))), rng.uniform(s1 + 6, s2 - 5), 7.35, np.pi
        )
        for _ in range(int(rng.integers(1, 4))):
            self.place(
                props.bicycle(rng, ridden=False), rng.uniform(s1 + 3, s2 - 3), -8.0,
                rng.normal(0, 0.15) + np.pi * rng.integers(2), 0.13,
            )  # fmt: skip

    def _parking(self, bus_stop: bool) -> None:
        rng = self.rng
        s = self.s1 + 4
        while s < self.s2 - 10:
            kind = rng.random()
            yaw = rng.normal(0, 0.03) + (np.pi if rng.random() < 0.15 else 0)
            if bus_stop and s > self.s1 + 18:
                self.place(props.unlit(props.bus(rng)), s + 6, -4.6)
                s += 15
                bus_stop = False
            elif kind < 0.62:
                self.place(props.unlit(props.car(rng)), s + 2.4, -4.65, yaw)
                s += 5.6
            elif kind < 0.76:
                bike = props.unlit(props.motorcycle(rng, ridden=False))
                self.place(bike, s + 1, -4.6, yaw + 0.3)
                s += 2.5
            elif kind < 0.79:
                self.place(props.unlit(props.truck(rng)), s + 4.2, -4.6, yaw)
                s += 9.5
            else:
                s += 4

    def _building(self, s: tuple[float, float], lateral: tuple[float, float], floors: int) -> None:
        rng = self.rng
        color = np.asarray(self.town.facades[rng.integers(5)]) * rng.uniform(0.8, 1.2)
        height = 3.0 * floors + rng.uniform(0.6, 1.2)
        tag = int(rng.integers(65536))
        self.b.use(ID['building'], Material.FACADE, tuple(np.clip(color, 0, 1)), tag)
        near, far = sorted(lateral)
        self.b.box((s[0], near, 0), (s[1], far, height))
        self.b.use(ID['building'], Material.ROOF, _ROOFS[rng.integers(3)], tag)
        if rng.random() < 0.55:
            ridge = (near + far) / 2
            up = height + rng.uniform(1.8, 3.2)
            for edge, sign in ((near, -1), (far, 1)):
                e = edge + 0.4 * sign
                self.b.quad(
                    (s[0], e, height), (s[1], e, height), (s[1], ridge, up), (s[0], ridge, up)
                )
            self.b.use(ID['building'], Material.MASONRY, tuple(np.clip(color, 0, 1)), tag)
            gables = [[(x, near, height), (x, far, height), (x, ridge, up)] for x in s]
            self.b.triangles(np.array(gables))
        else:
            self.b.box((s[0] - 0.2, near - 0.2, height), (s[1] + 0.2, far + 0.2, height + 0.35))

    def _lawn(self, side: int, depth: float = 60.0, start: float = 0.0) -> None:
        edge = self._edge(side) + side * start
        y = sorted((edge, edge + side * depth))
        self.b.use(ID['terrain'], Material.GRASS, self._grass())
        self.b.plate((self.s1 + 1.6, self.s2), (y[0], y[1]), 0.1, step=10)

    def _grass(self) -> Color:
        r, g, b = self.town.green
        return 1.5 * r, 1.2 * g, 1.2 * b

    def _avenue(self) -> None:
        rng = self.rng
        for lateral in (-5.6 if not self.parking else -7.9, 9.1):
            step = rng.uniform(8, 15)
            for s in np.arange(self.s1 + rng.uniform(5, 12), self.s2 - 3, step):
                tree = props.tree(rng, self.town.green).scaled(rng.uniform(0.75, 1.0))
                self.place(tree, s + rng.normal(0, 0.5), lateral)
                self.b.use(ID['terrain'], Material.SOIL, (0.13, 0.10, 0.07))
                self.b.plate((s - 0.7, s + 0.7), (lateral - 0.6, lateral + 0.6), 0.14)

    def _trees(self, side: int, count: int, near: float, far: float) -> None:
        for _ in range(count):
            lateral = self._edge(side) + side * self.rng.uniform(near, far)
            s = self.rng.uniform(self.s1 + 5, self.s2 - 4)
            self.place(props.tree(self.rng, self.town.green), s, lateral)

    def _bushes(self, side: int, count: int, near: float, far: float) -> None:
        for _ in range(count):
            lateral = self._edge(side) + side * self.rng.uniform(near, far)
            s = self.rng.uniform(self.s1 + 3, self.s2 - 2)
            self.place(props.bush(self.rng, self.town.green), s, lateral)

    def _fence(self, side: int, s: tuple[float, float], setback: float = 0.4) -> None:
        y = self._edge(side) + side * setback
        shade = self.rng.uniform(0.6, 1.2)
        self.b.use(ID['fence'], Material.PICKETS, tuple(np.array((0.30, 0.22, 0.14)) * shade))
        for z in (0.45, 1.15):
            self.b.box((s[0], y - 0.03, z), (s[1], y + 0.03, z + 0.1))
        for x in np.arange(s[0], s[1], 0.32):
            self.b.box((x, y - 0.02, 0.1), (x + 0.12, y + 0.02, 1.4))

    def _wall(self, side: int, s: tuple[float, float], height: float) -> None:
        y = self._edge(side) + side * 0.4
        color = np.array((0.42, 0.37, 0.32)) * self.rng.uniform(0.7, 1.25)
        self.b.use(ID['wall'], Material.MASONRY, tuple(color), int(self.rng.integers(65536)))
        self.b.box((s[0], min(y, y + side * 0.3), 0), (s[1], max(y, y + side * 0.3), height))

    def _lot_row(self, side: int) -> None:
        """Closed row of houses along the pavement."""
        edge, s = self._edge(side), self.s1 + 1.6
        floors = int(self.rng.integers(4, 7))
        while s < self.s2 - 5:
            width = min(float(self.rng.uniform(8, 15)), self.s2 - s)
            floors = int(np.clip(floors + self.rng.integers(-1, 2), 3, 7))
            self._building((s, s + width), (edge, edge + side * 11), floors)
            s += width
        self._lawn(side, 50, 11)

    def _lot_houses(self, side: int) -> None:
        """Detached houses in gardens behind a fence, a low wall or a hedge."""
        self._lawn(side)
        edge, s = self._edge(side), self.s1 + 3
        while s < self.s2 - 9:
            width = float(self.rng.uniform(8, 11))
            setback = self.rng.uniform(4.5, 7)
            floors = int(self.rng.integers(1, 4))
            self._building(
                (s, s + width), (edge + side * setback, edge + side * (setback + 9)), floors
            )
            front = (s - 0.8, s + width + 1.5)
            kind = self.rng.integers(3)
            if kind == 0:
                self._wall(side, front, 0.9)
            elif kind == 1:
                self._fence(side, front)
            else:
                for x in np.arange(front[0], front[1], 0.9):
                    self.place(props.bush(self.rng, self.town.green), x, edge + side * 0.8)
            s += width + self.rng.uniform(3, 6)
        self._trees(side, 3, 1.5, 4)
        self._trees(side, 2, 16, 24)

    def _lot_park(self, side: int) -> None:
        """Lawn with trees and bushes behind a fence."""
        self._lawn(side)
        self._fence(side, (self.s1 + 4, self.s1 + 30))
        self._trees(side, 5, 1, 7)
        self._trees(side, 6, 7, 28)
        self._bushes(side, 9, 1.2, 14)
        edge = self._edge(side)
        self._building((self.s1 + 8, self.s2 - 6), (edge + side * 34, edge + side * 44), 5)

    def _lot_yard(self, side: int) -> None:
        """A factory yard behind a long wall, a hall at its back."""
        edge = self._edge(side)
        self._wall(side, (self.s1 + 2, self.s2 - 14), float(self.rng.uniform(1.9, 2.7)))
        self._fence(side, (self.s2 - 13, self.s2 - 1))
        self._lawn(side)
        self._building((self.s1 + 8, self.s2 - 12), (edge + side * 10, edge + side * 26), 3)
        self._trees(side, 5, 2.5, 8)
        self._bushes(side, 4, 1.5, 5)


@dataclass(frozen=True)
class Agent:
    """Something that moves along the street.

    Attributes:
        mesh: About its own origin.
        start: s in metres at time 0.
        speed: Along s in m/s, negative towards the ego vehicle.
        lateral: l in metres.
        height: z of its ground in metres.
        follow: For vehicles ahead in the own lane: the gap to the ego vehicle, `start` is unused.
        tag: Number of the object.
    """

    mesh: Mesh
    start: float
    speed: float
    lateral: float
    height: float = 0.0
    follow: float | None = None
    tag: int = 0


def agents(town: Town) -> list[Agent]:
    """Everybody on the move in `town`: traffic, trams, cyclists, people on the pavements."""
    rng = town.rng(2)
    found: list[Agent] = []

    def add(mesh: Mesh, start: float, speed: float, lateral: float, **more: float) -> None:
        found.append(Agent(mesh, start, speed, lateral, tag=1000 + len(found), **more))

    lead = (props.truck, props.bus, props.car, props.motorcycle)
    add(lead[rng.integers(4)](rng), 0, 0, -1.75, follow=float(rng.uniform(26, 34)))
    add(props.car(rng), 0, 0, -1.75, follow=float(rng.uniform(52, 60)))
    oncoming = (
        props.car, props.truck, props.car, props.bus, props.car, props.motorcycle, props.car,
        props.car,
    )  # fmt: skip
    for i, k in enumerate(rng.permutation(len(oncoming))):
        s = i * WRAP / len(oncoming) + rng.uniform(-5, 5)
        add(oncoming[k](rng), s, -9.0, 1.8)
    for i in range(2):
        s = WRAP * (i + rng.uniform(0.1, 0.4)) / 2
        add(props.tram(rng), s, -5.5, 5.3)
    for i in range(5):
        bike = props.motorcycle(rng) if i == 2 else props.bicycle(rng)
        add(bike, WRAP * i / 5 + rng.uniform(0, 12), 4.2, -3.05)
    for i in range(52):
        side = -1 if i % 2 else 1
        lateral = side * rng.uniform(6.5, 8.0) + (0.9 if side > 0 else 0.0)
        speed = rng.choice((-1, 1)) * rng.uniform(0.8, 1.5) if rng.random() < 0.85 else 0.0
        walker = props.person(rng, stride=rng.uniform(0.05, 0.3) if speed else 0.03)
        add(walker, rng.uniform(0, WRAP), speed, lateral, height=0.13)
    return found


BEHIND, AHEAD = 60.0, 180.0
"""How much of the street exists around the ego vehicle, in metres."""

WRAP = BEHIND + AHEAD
"""Who leaves at one end of the visible street comes in at the other."""


def agent_pose(town: Town, agent: Agent, ego_s: float, time: float) -> np.ndarray:
    """(4, 4) T_world_agent at `time` seconds with the ego vehicle at `ego_s`."""
    if agent.follow is not None:
        s = ego_s + agent.follow + 5 * np.sin(0.25 * time + agent.tag)
        return town.pose(s, agent.lateral + 0.15 * np.sin(0.4 * time + agent.tag))
    s = agent.start + agent.speed * time
    s = ego_s - BEHIND + (s - ego_s + BEHIND) % WRAP
    T = town.pose(s, agent.lateral, np.pi if agent.speed < 0 else 0.0)
    T[2, 3] = agent.height
    return T
