# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Everybody who drives along the road, the ego vehicle among them.

Vehicles keep their distance by the intelligent driver model (Treiber, Hennecke and Helbing 2000,
"Congested traffic states in empirical observations and microscopic simulations", Phys. Rev. E 62),
stop at red lights, slow down in bends and, where there are several lanes, change them after the
safety and incentive criteria of MOBIL in a simple form (Kesting et al. 2007). The state at step k
follows from the state at step k - 1 and nothing else, so any moment can be asked for in any order;
snapshots keep the way there short.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from dataclasses import dataclass, fields

import numpy as np

from training.simulation import fleet
from training.simulation.roads import Route
from training.simulation.signals import (
    BLOCK,
    CROSSING,
    STOP_BEFORE,
    STOP_BEYOND,
    Signals,
    crossings,
)

STEP = 0.1
_SNAPSHOT = 50
_RECENT = 40
_EGO_LENGTH = 4.6
_BRAKE, _ACCELERATION, _HEADWAY, _STANDSTILL = 2.2, 1.4, 1.3, 2.2
_HARDEST = 9.0


@dataclass(frozen=True)
class Lane:
    """One lane of the road.

    Attributes:
        direction: 1 with the ego vehicle, -1 towards it.
        lateral: l of its middle in metres.
        speed: What its drivers would like to drive, m/s.
        mix: Kinds of its vehicles, one after the other.
        gap: Mean distance between two of them in metres.
        neighbours: Lanes that may be changed to, the inner (faster) one first.
    """

    direction: int
    lateral: float
    speed: float
    mix: tuple[str, ...]
    gap: float
    neighbours: tuple[int | None, int | None] = (None, None)


# The first three of a lane drive ahead of the ego vehicle for the whole drive, or meet it first.
_STREET = ('car', 'car', 'car', 'motorcycle', 'car', 'truck', 'car', 'car', 'car', 'car')
_TRAMWAY = (
    'car', 'motorcycle', 'car', 'tram', 'car', 'truck', 'car', 'bus', *('car',) * 4, 'truck',
    *('car',) * 5, 'motorcycle', *('car',) * 11,
)  # fmt: skip
_ROAD = ('car', 'car', 'car', 'motorcycle', 'truck', 'car', 'car', 'car', 'bus', 'car', 'car')
_FAST = ('car', 'car', 'car', 'motorcycle', 'car', 'car', 'car')
_SLOW = ('car', 'car', 'car', 'lorry', 'car', 'car', 'car', 'truck', 'car', 'car', 'bus', 'car')
_BIKES = ('bicycle',)

LANES: dict[str, tuple[Lane, ...]] = {
    'town': (
        Lane(1, -1.65, 11.0, _STREET, 32), Lane(-1, 1.65, 11.0, _TRAMWAY, 31),
        Lane(1, -4.1, 4.6, _BIKES, 62),
    ),
    'country': (
        Lane(1, -1.75, 21.0, _ROAD, 60), Lane(-1, 1.75, 21.0, _ROAD, 52),
        Lane(1, -3.95, 5.0, _BIKES, 110),
        Lane(-1, 46.0, 26.0, ('train',), 560),
    ),
    'motorway': (
        Lane(1, -5.95, 26.0, _SLOW, 56, (1, None)), Lane(1, -2.15, 32.0, _FAST, 90, (None, 0)),
        Lane(-1, 5.95, 26.0, _SLOW, 52, (3, None)), Lane(-1, 2.15, 34.0, _FAST, 75, (None, 2)),
    ),
}  # fmt: skip
EGO_LANE = {'town': 0, 'country': 0, 'motorway': 0}
_EGO_SPEED = {'town': 10.0, 'country': 21.0, 'motorway': 28.0}
BEHIND = {'town': 130.0, 'country': 160.0, 'motorway': 200.0}
AHEAD = {'town': 250.0, 'country': 400.0, 'motorway': 480.0}
"""How much of the road is populated around the ego vehicle, in metres."""


@dataclass
class State:
    """Everybody at one step; index 0 is the ego vehicle; arrays are (N,).

    Attributes:
        s: Metres along the road.
        speed: m/s in the own direction.
        acceleration: m/s^2 until the next step.
        lateral: l in metres.
        lane: Number of the lane driven in or changed to.
        leaving: Number of the lane being left, `lane` itself otherwise.
        kind: Number in `fleet.KINDS`.
        variant: Of the kind.
        length: Metres.
        desired: Speed it would like to drive.
        generation: How often it came into view anew.
    """

    s: np.ndarray
    speed: np.ndarray
    acceleration: np.ndarray
    lateral: np.ndarray
    drift: np.ndarray
    lane: np.ndarray
    leaving: np.ndarray
    kind: np.ndarray
    variant: np.ndarray
    length: np.ndarray
    desired: np.ndarray
    generation: np.ndarray

    def copy(self) -> State:
        """An independent copy."""
        return State(**{f.name: getattr(self, f.name).copy() for f in fields(self)})


class Traffic:
    """The drivers of one road.

    Args:
        route: The road.
        signals: Its lights.
    """

    def __init__(self, route: Route, signals: Signals) -> None:
        self.route = route
        self._signals = signals
        kind = route.environment
        self.lanes = LANES[kind]
        self._direction = np.array([lane.direction for lane in self.lanes])
        self._lateral = np.array([lane.lateral for lane in self.lanes])
        self._behind, self._ahead = BEHIND[kind], AHEAD[kind]
        self._snapshots: dict[int, State] = {0: self._first()}
        self._recent: OrderedDict[int, State] = OrderedDict()

    def at(self, time: float) -> State:
        """Everybody at `time` seconds after the drive began (before it: at its beginning)."""
        k = max(0, int(np.floor(time / STEP + 1e-9)))
        state = self._step_at(k).copy()
        dt = max(0.0, time - k * STEP)
        # Who brakes to a standstill within the step does not roll back.
        moving = np.where(
            state.acceleration < 0,
            np.minimum(dt, state.speed / np.maximum(-state.acceleration, 1e-6)),
            dt,
        )
        direction = self._direction[state.lane]
        way = state.speed * moving + 0.5 * state.acceleration * moving**2
        state.s += direction * way
        state.speed += state.acceleration * moving
        state.lateral += state.drift * dt
        return state

    def _step_at(self, k: int) -> State:
        if k in self._recent:
            return self._recent[k]
        known = {**self._snapshots, **self._recent}
        start = max(i for i in known if i <= k)
        state = known[start].copy()
        for i in range(start, k):
            self._advance(state, i)
            if (i + 1) % _SNAPSHOT == 0 and i + 1 not in self._snapshots:
                self._snapshots[i + 1] = state.copy()
        self._recent[k] = state
        while len(self._recent) > _RECENT:
            self._recent.popitem(last=False)
        return state

    def _first(self) -> State:
        lanes, rng = self.lanes, self.route.rng(2)
        ego_lane = EGO_LANE[self.route.environment]
        rows = [(0.0, ego_lane)]
        for number, lane in enumerate(lanes):
            s = -self._behind + rng.uniform(0, lane.gap)
            while s < self._ahead:
                if number != ego_lane or abs(s) > 22:
                    rows.append((float(s), number))
                s += lane.gap * rng.uniform(0.65, 1.35)
        n = len(rows)
        self._slots = _slots(rows)
        state = State(
            s=np.array([r[0] for r in rows]), speed=np.zeros(n), acceleration=np.zeros(n),
            lateral=np.zeros(n), drift=np.zeros(n), lane=np.array([r[1] for r in rows]),
            leaving=np.array([r[1] for r in rows]), kind=np.zeros(n, int),
            variant=np.zeros(n, int), length=np.zeros(n), desired=np.zeros(n),
            generation=np.zeros(n, int),
        )  # fmt: skip
        state.lateral[:] = self._lateral[state.lane]
        for i in range(n):
            self._dress(state, i)
        state.speed[:] = 0.8 * state.desired
        self._spread(state)
        self._plan(state, 0)
        return state

    def _spread(self, state: State) -> None:
        """Make room between those who were placed too close for their length."""
        for number in range(len(self.lanes)):
            members = np.flatnonzero((state.lane == number) & (np.arange(len(state.s)) > 0))
            members = members[np.argsort(state.s[members])]
            if state.lane[0] == number:
                front = [i for i in members if state.s[i] > 0]
                back = [i for i in members if state.s[i] <= 0][::-1]
                self._push(state, [0, *map(int, front)], 1)
                self._push(state, [0, *map(int, back)], -1)
            else:
                self._push(state, list(members), 1)

    @staticmethod
    def _push(state: State, order: list[int], sign: int) -> None:
        for a, b in itertools.pairwise(order):
            need = (state.length[a] + state.length[b]) / 2 + 4 + 0.5 * state.speed[b]
            state.s[b] = sign * max(sign * state.s[b], sign * state.s[a] + need)

    def _dress(self, state: State, i: int) -> None:
        """Decide what vehicle number `i` is in its present generation."""
        rng = self.route.rng(3, i, int(state.generation[i]))
        lane = self.lanes[state.lane[i]]
        # By turns, so that a short drive meets every kind.
        later = int(state.generation[i]) * int((state.lane == state.lane[i]).sum())
        name = lane.mix[(self._slots[i] + self.route.number % 3 + later) % len(lane.mix)]
        state.kind[i] = fleet.KINDS.index(name)
        state.variant[i] = rng.integers(fleet.VARIANTS[name])
        state.desired[i] = lane.speed * rng.uniform(0.88, 1.12)
        if name in ('truck', 'lorry', 'bus'):
            state.desired[i] = min(state.desired[i], 24.0 * rng.uniform(0.95, 1.03))
        state.length[i] = fleet.length(
            self.route.seed, self.route.number, name, int(state.variant[i])
        )
        if i == 0:
            state.kind[i] = fleet.KINDS.index('car')
            state.length[i] = _EGO_LENGTH
            state.desired[i] = _EGO_SPEED[self.route.environment]

    def _advance(self, state: State, k: int) -> None:
        """One step on, from step `k`."""
        direction = self._direction[state.lane]
        moving = np.where(
            state.acceleration < 0,
            np.minimum(STEP, state.speed / np.maximum(-state.acceleration, 1e-6)),
            STEP,
        )
        state.s += direction * (state.speed * moving + 0.5 * state.acceleration * moving**2)
        state.speed = np.maximum(state.speed + state.acceleration * STEP, 0)
        state.lateral += state.drift * STEP
        self._recycle(state)
        self._plan(state, k + 1)

    def _recycle(self, state: State) -> None:
        """Who left the populated road comes in again at its other end, if there is room."""
        offset = state.s - state.s[0]
        for i in np.flatnonzero((offset > self._ahead) | (offset < -self._behind)):
            lane = state.lane[i]
            if offset[i] > 0 and self._direction[lane] < 0:
                continue
            entry = -self._behind + 2 if offset[i] > 0 else self._ahead - 2
            s = state.s[0] + entry
            others = (np.arange(len(state.s)) != i) & (
                (state.lane == lane) | (state.leaving == lane)
            )
            room = np.abs(state.s[others] - s) - state.length[others] / 2
            following = self._direction[lane] > 0
            if room.size and room.min() < 0.5 * self.lanes[lane].gap + state.length[i] / 2 + 4:
                continue
            state.s[i] = s
            state.generation[i] += 1
            self._dress(state, int(i))
            state.leaving[i] = lane
            state.lateral[i] = self._lateral[lane]
            state.drift[i] = 0
            # Whoever comes in drives as fast as those who are already there.
            ahead = others & ((state.s > s) if following else (state.s < s))
            limit = state.desired[i]
            if ahead.any():
                nearest = np.flatnonzero(ahead)[np.abs(state.s[ahead] - s).argmin()]
                limit = min(limit, state.speed[nearest] + 2)
            state.speed[i] = limit

    def _plan(self, state: State, k: int) -> None:
        """Choose everybody's acceleration and drift for the step that begins now."""
        gap, leader_speed = self._leaders(state)
        wish = self._wish(state, k)
        self._stop_at_lights(state, k * STEP, gap, leader_speed)
        closing = state.speed - leader_speed
        root = 2 * np.sqrt(_ACCELERATION * _BRAKE)
        wanted = _STANDSTILL + np.maximum(0, state.speed * _HEADWAY + state.speed * closing / root)
        free = 1 - (state.speed / np.maximum(wish, 0.1)) ** 4
        pull = _ACCELERATION * (free - (wanted / np.maximum(gap, 0.2)) ** 2)
        # What kinematics demand at the least, should the model's brake be too soft.
        stopping = np.where(closing > 0, -(closing**2) / (2 * np.maximum(gap - 1.0, 0.05)), np.inf)
        state.acceleration = np.clip(np.minimum(pull, np.where(stopping < -3, stopping, np.inf)),
                                     -_HARDEST, _ACCELERATION)  # fmt: skip
        state.acceleration = np.maximum(state.acceleration, -state.speed / STEP)
        if self.route.environment == 'motorway':
            self._change_lanes(state, k, gap, leader_speed, wish)
        self._steer(state, k)

    def _wish(self, state: State, k: int) -> np.ndarray:
        """The speed each would drive on a free road: slower in bends (2.2 m/s^2 across)."""
        ahead = state.s + self._direction[state.lane] * state.speed * 1.5
        bend = np.abs(self.route.curvature(ahead))
        wish = np.minimum(state.desired, np.sqrt(2.2 / np.maximum(bend, 1e-4)))
        rhythm = 1 + 0.12 * np.sin(0.021 * state.s[0] + self.route.number)
        wish[0] = min(state.desired[0] * rhythm, wish[0])
        return wish

    def _leaders(self, state: State) -> tuple[np.ndarray, np.ndarray]:
        """Free metres before each and the speed of who drives there."""
        direction = self._direction[state.lane]
        along = direction * state.s
        same = (state.lane[:, None] == state.lane) | (state.lane[:, None] == state.leaving)
        same |= state.leaving[:, None] == state.lane
        ahead = along[None, :] - along[:, None]
        n = np.arange(len(along))
        # Two who change into each other's lanes side by side: the lower number goes first.
        valid = same & ((ahead > 0) | ((ahead == 0) & (n[None, :] < n[:, None])))
        valid &= n[None, :] != n[:, None]
        free = np.where(valid, ahead - (state.length[:, None] + state.length[None, :]) / 2, np.inf)
        first = free.argmin(1)
        gap = free[n, first]
        return np.minimum(gap, 1e4), np.where(np.isfinite(gap), state.speed[first], 60.0)

    def _stop_at_lights(
        self, state: State, time: float, gap: np.ndarray, leader_speed: np.ndarray
    ) -> None:
        if not self._signals.exist:
            return
        direction = self._direction[state.lane]
        front = direction * state.s + state.length / 2
        # Lateral 6 m and beyond drives on rails of its own, but the crossing is everybody's.
        for index in crossings(float(state.s[0]), self._behind + 120, self._ahead + 60):
            light = self._signals.state(index, time)
            for sign, line in ((1, STOP_BEFORE), (-1, STOP_BEYOND)):
                at = sign * (BLOCK * index + line)
                distance = at - front
                need = state.speed**2 / (2 * 3.2)
                coming = (direction == sign) & (distance > -0.3) & (distance < 90)
                if light == 2:
                    # Nobody enters a crossing that cannot be left again.
                    clear = CROSSING + abs(line if sign > 0 else line - CROSSING) + 3
                    blocked = (gap < distance + clear + state.length) & (leader_speed < 2.5)
                    stop = coming & blocked & (distance < gap) & (need < np.maximum(distance, 0.3))
                else:
                    able = need < np.maximum(distance, 0.3)
                    stop = coming & (able if light == 1 else (able | (distance > 1.5)))
                nearer = stop & (distance < gap)
                gap[nearer] = np.maximum(distance[nearer] + _STANDSTILL - 0.8, 0.3)
                leader_speed[nearer] = 0.0

    def _change_lanes(
        self, state: State, k: int, gap: np.ndarray, leader_speed: np.ndarray, wish: np.ndarray
    ) -> None:
        n = len(state.s)
        for i in range(k % 20, n, 20):
            lane = self.lanes[state.lane[i]]
            if state.leaving[i] != state.lane[i] or lane.neighbours == (None, None):
                continue
            inner, outer = lane.neighbours
            heavy = fleet.KINDS[state.kind[i]] in ('truck', 'lorry', 'bus')
            slowed = gap[i] < 30 + 1.8 * state.speed[i] and leader_speed[i] < wish[i] - 1.0
            target = None
            if slowed and inner is not None and not heavy:
                target = inner if self._room(state, i, inner, 0.5) else None
            elif (
                not slowed
                and outer is not None
                and self._room(state, i, outer, 1.2 if i == 0 else 2.0)
            ):
                target = outer
            if target is not None:
                state.lane[i] = target

    def _room(self, state: State, i: int, lane: int, seconds: float) -> bool:
        """Whether `lane` is free around vehicle `i`, and for `seconds` before it."""
        others = ((state.lane == lane) | (state.leaving == lane)) & (np.arange(len(state.s)) != i)
        direction = self._direction[lane]
        along = direction * (state.s[others] - state.s[i])
        free = np.abs(along) - (state.length[others] + state.length[i]) / 2
        ahead = along >= 0
        closing = np.where(
            ahead, state.speed[i] - state.speed[others], state.speed[others] - state.speed[i]
        )
        need = 6 + np.maximum(closing, 0) * 2.4 + np.where(ahead, seconds, 0.5) * state.speed[i]
        return bool((free > need).all())

    def _steer(self, state: State, k: int) -> None:
        target = self._lateral[state.lane].copy()
        # Nobody drives on a line drawn with a ruler; both change slowly and by a hand's width.
        phase = np.arange(len(state.s)) * 2.4
        target += 0.12 * np.sin(0.02 * state.s + phase)
        off = target - state.lateral
        limit = np.where(state.lane == state.leaving, 0.25, 0.95) * np.clip(state.speed / 4, 0, 1)
        # Turning in and straightening up take a while.
        wanted = np.clip(off * 0.6, -limit, limit)
        state.drift = state.drift + np.clip(wanted - state.drift, -0.06, 0.06)
        state.drift *= np.clip(state.speed / 2, 0, 1)
        done = np.abs(self._lateral[state.lane] - state.lateral) < 0.7
        state.leaving = np.where(done, state.lane, state.leaving)


def _slots(rows: list[tuple[float, int]]) -> np.ndarray:
    """Number of each vehicle within its lane: those ahead first, the nearest of them first."""
    slots = np.zeros(len(rows), int)
    for lane in {lane for _, lane in rows}:
        members = [i for i, (_, other) in enumerate(rows) if other == lane and i > 0]
        order = sorted(members, key=lambda i: (rows[i][0] < 0, abs(rows[i][0])))
        slots[order] = np.arange(len(order))
    return slots
