# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Everything that moves or changes around the ego vehicle at one moment.

Those who drive along the road come from `Traffic`. Those who walk or cross the road are functions
of the time alone: walkers go round on tracks of their own, all of one track at one speed, and
whoever crosses the road does so while its traffic has red.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from training.simulation import fleet, props
from training.simulation.mesh import Mesh
from training.simulation.roads import Route
from training.simulation.signals import BLOCK, CROSSING, Signals, crossings
from training.simulation.traffic import State, Traffic
from training.simulation.vehicles import ID

SIGHT_OF_PEOPLE = 75.0
"""People farther ahead than this are too small to matter, in metres."""

TOWN_EDGE = (-10.6, 9.6)
"""l at which the lots of a town begin, right and left."""

HAMLET_EDGE = (-7.6, 7.6)


@dataclass(frozen=True)
class Agent:
    """Something that moves or changes.

    Attributes:
        mesh: About its own origin.
        T_world: (4, 4) pose.
        velocity: (3,) m/s in the world.
        turning: Yaw rate in rad/s.
        tag: Number of the object.
        category: trainId.
        size: Length, width, height in metres.
        solid: It is an object of its own, not a lamp or a section of a train.
        coarse: The mesh from afar, if it has another one.
    """

    mesh: Mesh
    T_world: np.ndarray
    velocity: np.ndarray
    turning: float
    tag: int
    category: int
    size: tuple[float, float, float]
    solid: bool = True
    coarse: Mesh | None = None


def is_hamlet(route: Route, index: int) -> bool:
    """Block `index` of a country road has houses."""
    return bool(route.rng(6, index // 3).random() < 0.38)


def may_park(route: Route, index: int, side: int) -> bool:
    """Block `index` of a town has a parking lane on that side; -1 is the right.

    Where it has none on the right, bicycles ride on a path at the height of the pavement.
    """
    return bool(route.rng(18, index, side + 1).random() < (0.45 if side < 0 else 0.4))


class Population:
    """Everybody around one road."""

    def __init__(self, route: Route) -> None:
        self.route = route
        self.signals = Signals(route)
        self.traffic = Traffic(route, self.signals)

    def ego(self, time: float) -> tuple[np.ndarray, np.ndarray, float, float]:
        """T_world_base, (3,) velocity in it, yaw rate and s of the ego vehicle."""
        state = self.traffic.at(time)
        T, velocity, rate = _driver(self.route, state, 0, 1)
        return T, T[:3, :3].T @ velocity, rate, float(state.s[0])

    def at(self, time: float, behind: float = 90.0) -> list[Agent]:
        """Everybody but the ego vehicle."""
        state = self.traffic.at(time)
        ego_s = float(state.s[0])
        found = self._drivers(state)
        found += self._lights(ego_s, time)
        found += self._crossing_cars(ego_s, time)
        found += self._crossing_people(ego_s, time)
        first, last = int((ego_s - 40) // BLOCK), int((ego_s + SIGHT_OF_PEOPLE) // BLOCK)
        for index in range(first, last + 1):
            found += self._walkers(index, time)
        return found

    def _model(self, kind: str, variant: int, part: int = 0) -> fleet.Model:
        return fleet.model(self.route.seed, self.route.number, kind, variant, part)

    def _drivers(self, state: State) -> list[Agent]:
        found = []
        for i in range(1, len(state.s)):
            name, variant = fleet.KINDS[state.kind[i]], int(state.variant[i])
            direction = self.traffic.lanes[state.lane[i]].direction
            tag = 1000 + 97 * i + int(state.generation[i]) * 7919
            if name in fleet.SECTION:
                found += self._train(state, i, name, tag % 65536)
                continue
            raised = name == 'bicycle' and self._on_path(float(state.s[i]))
            T, velocity, rate = _driver(self.route, state, i, direction, 0.12 * raised)
            model = self._model(name, variant)
            mesh, coarse = model.mesh, model.coarse
            if state.acceleration[i] < -0.6 or state.speed[i] < 0.1:
                mesh, coarse = model.braking, model.coarse_braking
            found.append(
                Agent(mesh, T, velocity, rate, tag % 65536, fleet.CATEGORY[name], model.size,
                      coarse=coarse)
            )  # fmt: skip
        return found

    def _on_path(self, s: float) -> bool:
        if self.route.environment != 'town':
            return False
        index = int(s // BLOCK)
        return s - BLOCK * index > CROSSING and not may_park(self.route, index, -1)

    def _train(self, state: State, i: int, name: str, tag: int) -> list[Agent]:
        """Every section of a train follows the line by itself."""
        lane = self.traffic.lanes[state.lane[i]]
        count, spacing = fleet.SECTIONS[name], fleet.SECTION[name]
        found = []
        for k in range(count):
            back = (k - (count - 1) / 2) * spacing
            part = 1 if k == 0 else -1 if k == count - 1 else 0
            s = float(state.s[i]) - lane.direction * back
            yaw = 0.0 if lane.direction > 0 else np.pi
            z = float(rail_height(self.route, s)) + 0.3 if name == 'train' else 0.0
            T = self.route.pose(s, lane.lateral, z, yaw)
            model = self._model(name, int(state.variant[i]), part)
            velocity = T[:3, 0] * state.speed[i]
            found.append(Agent(model.mesh, T, velocity, 0.0, tag, ID['train'], model.size))
        return found

    def _lights(self, ego_s: float, time: float) -> list[Agent]:
        if not self.signals.exist:
            return []
        found = []
        still = np.zeros(3)
        for index in crossings(ego_s, 40, 190):
            state = self.signals.state(index, time)
            s0, s1 = BLOCK * index, BLOCK * index + CROSSING
            side = 0 if state else 2 if 2 < self.signals.since_red(index, time) < 14 else 0
            places = (
                (s0 - 4.8, -7.6, 0.0, state, 3.6), (s0 - 4.8, 6.2, 0.0, state, 0.0),
                (s1 + 2.0, 6.2, np.pi, state, 0.0), (s1 + 2.0, -7.6, np.pi, state, 0.0),
                (s0 + 9.5, -10.8, np.pi / 2, side, 0.0), (s0 - 0.5, 9.8, -np.pi / 2, side, 0.0),
            )  # fmt: skip
            for k, (s, lateral, yaw, shown, arm) in enumerate(places):
                T = self._pole(s, lateral, yaw)
                mesh = _light_mesh(shown, arm)
                tag = 500 + 8 * (index % 50) + k
                category = ID['traffic light']
                found.append(Agent(mesh, T, still, 0.0, tag, category, (0.4, 0.4, 3.5), False))
        return found

    @functools.lru_cache(maxsize=200)  # noqa: B019 (a worker holds a handful of towns for its life)
    def _pole(self, s: float, lateral: float, yaw: float) -> np.ndarray:
        """T_world of a traffic light's pole; it stands there in every frame."""
        return self.route.pose(s, lateral, 0.12, yaw, upright=True)

    def _crossing_cars(self, ego_s: float, time: float) -> list[Agent]:
        """Cars in the side streets wait for the main road's red and then drive straight on."""
        if not self.signals.exist:
            return []
        found = []
        for index in crossings(ego_s, 60, 150):
            t = self.signals.since_red(index, time)
            # From the middle of the main road's green until its next one: one set of cars.
            cycle = self.signals.cycle(index, time)
            for way in (1, -1):
                rng = self.route.rng(7, index, cycle, way + 1)
                if rng.random() < 0.3:
                    continue
                variant = int(rng.integers(fleet.VARIANTS['car']))
                model = self._model('car', variant)
                late = rng.uniform(0, 1.0)
                start = 11.4 + model.size[0] / 2
                along, speed = _through(t - 2.8 - late, start)
                if along is None:
                    continue
                s = BLOCK * index + (6.7 if way > 0 else 2.3)
                T = self.route.pose(s, way * along, 0.0, way * np.pi / 2)
                mesh = model.mesh if speed else model.braking
                tag = (20_000 + index * 4 + way) % 65536
                velocity = T[:3, 0] * speed
                found.append(Agent(mesh, T, velocity, 0.0, tag, ID['car'], model.size))
        return found

    def _crossing_people(self, ego_s: float, time: float) -> list[Agent]:
        """Some wait at the kerb and change sides at every red of the main road."""
        if not self.signals.exist:
            return []
        found = []
        right, left = -7.75, 6.3
        for index in crossings(ego_s, 40, SIGHT_OF_PEOPLE + 20):
            rng = self.route.rng(8, index)
            for k in range(int(rng.integers(2, 5))):
                variant, parity = (
                    int(rng.integers(fleet.VARIANTS['person'])), int(rng.integers(2))
                )  # fmt: skip
                pace, late = rng.uniform(1.3, 1.6), rng.uniform(0, 1.2)
                t = self.signals.since_red(index, time) - 2.5 - late
                way = 1 if (self.signals.cycle(index, time) + parity) % 2 else -1
                begin, end = (right, left) if way > 0 else (left, right)
                walked = np.clip(t * pace, 0, abs(end - begin))
                moving = 0 < walked < abs(end - begin)
                lateral = begin + way * walked
                s = BLOCK * index - 3.9 + 0.75 * k
                step = int(walked / 1.4 * fleet.STEPS) % fleet.STEPS if moving else fleet.STEPS
                model = self._model('person', variant, step)
                z = 0.12 if not -7.1 < lateral < 5.7 else 0.0
                T = self.route.pose(s, lateral, z, way * np.pi / 2, upright=True)
                velocity = T[:3, 0] * (pace if moving else 0.0)
                tag = (30_000 + index * 8 + k) % 65536
                found.append(
                    Agent(model.mesh, T, velocity, 0.0, tag, ID['person'], model.size,
                          coarse=model.coarse)
                )  # fmt: skip
        return found

    def _walkers(self, index: int, time: float) -> list[Agent]:
        """Everybody on the two pavements of a block."""
        kind = self.route.environment
        if kind == 'motorway' or (kind == 'country' and not is_hamlet(self.route, index)):
            return []
        edges = TOWN_EDGE if kind == 'town' else HAMLET_EDGE
        found = []
        for side, edge in zip((-1, 1), edges, strict=True):
            rng = self.route.rng(9, index, side + 1)
            count = int(rng.integers(10, 18) if kind == 'town' else rng.integers(2, 6))
            pace = float(rng.uniform(1.1, 1.5))
            length, width = BLOCK - CROSSING - 9.0, 0.85
            around = 2 * (length + width)
            start = (np.arange(count) + rng.uniform(-0.3, 0.3, count)) * around / count
            variant = rng.integers(fleet.VARIANTS['person'], size=count)
            walked = start + pace * time
            s, across, yaw = _round(walked % around, length, width)
            # They keep to the right, seen from above.
            inward = across if side < 0 else width - across
            poses = self.route.poses(
                BLOCK * index + CROSSING + 2.5 + s, edge - side * (0.55 + inward),
                np.full(count, 0.12), yaw,
            )  # fmt: skip
            steps = (walked / 1.4 * fleet.STEPS).astype(int) % fleet.STEPS
            for k in range(count):
                model = self._model('person', int(variant[k]), int(steps[k]))
                tag = (40_000 + index * 40 + 20 * (side > 0) + k) % 65536
                velocity = poses[k, :3, 0] * pace
                found.append(
                    Agent(model.mesh, poses[k], velocity, 0.0, tag, ID['person'], model.size,
                          coarse=model.coarse)
                )  # fmt: skip
        return found


def rail_height(route: Route, s: float | np.ndarray) -> np.ndarray:
    """Height of the railway's bed above the road: an embankment with gentler gradients."""
    return 3.2 - 0.35 * route.elevation(s)


def _driver(
    route: Route, state: State, i: int, direction: int, z: float = 0.0
) -> tuple[np.ndarray, np.ndarray, float]:
    """Pose, velocity and yaw rate of vehicle `i`."""
    s, lateral = float(state.s[i]), float(state.lateral[i])
    speed, drift = float(state.speed[i]), float(state.drift[i])
    bend = float(route.curvature(s))
    yaw = np.arctan2(drift, max(speed, 1.0))
    if direction < 0:
        yaw = np.pi - yaw
    T = route.pose(s, lateral, z, yaw)
    # On a parallel of the centre line the same change of s is another way.
    velocity = T[:3, 0] * speed * (1 - bend * lateral)
    return T, velocity, direction * speed * bend


def _through(t: float, start: float) -> tuple[float | None, float]:
    """Where a car in a side street is `t` seconds after it may go, and its speed.

    It comes from 70 m away at 8 m/s, stops `start` metres before the middle of the main road,
    and goes on at 2 m/s^2.
    """
    far, cruise, brake = 70.0, 8.0, 2.5
    if t <= 0:
        stopping = cruise**2 / (2 * brake)
        # It arrives 9 s before it may go, whatever the light shows until then.
        rest = -9.0 - t
        if rest <= 0:
            return -start, 0.0
        duration = cruise / brake
        if rest < duration:
            return -start - 0.5 * brake * rest**2, brake * rest
        along = -start - stopping - cruise * (rest - duration)
        return (along, cruise) if along > -far else (None, 0.0)
    speed = min(2.0 * t, 10.0)
    way = t * t if t < 5 else 25 + 10 * (t - 5)
    along = -start + way
    return (along, speed) if along < far else (None, 0.0)


def _round(
    d: np.ndarray, length: float, width: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Position s, across and heading at `d` metres of a rectangular round trip."""
    corners = [length, length + width, 2 * length + width]
    leg = np.searchsorted(corners, d, side='right')
    rest = d - np.array([0.0, *corners])[leg]
    s = np.choose(leg, [rest, np.full_like(d, length), length - rest, np.zeros_like(d)])
    across = np.choose(leg, [np.zeros_like(d), rest, np.full_like(d, width), width - rest])
    return s, across, leg * np.pi / 2


_LIGHTS: dict[tuple[int, float], Mesh] = {}


def _light_mesh(state: int, arm: float) -> Mesh:
    key = (state, arm)
    if key not in _LIGHTS:
        _LIGHTS[key] = props.traffic_light(state, arm)
    return _LIGHTS[key]
