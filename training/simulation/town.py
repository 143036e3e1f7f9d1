# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A street through a town, in blocks of 60 m that each begin with a crossing.

Cross-section, l in metres: right lots, pavement from -10.6, kerb at -7.1, parking, bicycle lane
[-4.9, -3.3] (where nobody parks the kerb is at -3.3 and the bicycles have a path), own lane,
oncoming lane with a tram track, parking, kerb at 5.7 (or 3.5), pavement to 9.6, left lots.
"""

from __future__ import annotations

import numpy as np

from training.simulation import props
from training.simulation.agents import TOWN_EDGE, may_park
from training.simulation.buildings import Buildings
from training.simulation.layout import PAINT, BlockBuilder
from training.simulation.mesh import Color, Material
from training.simulation.signals import BLOCK, CROSSING, STOP_BEFORE, STOP_BEYOND, has_signal
from training.simulation.vehicles import ID

_TRACK = (0.93, 2.37)
_ZEBRA = (-4.2, -1.0)
_WEIGHTS = {'row': 0.54, 'towers': 0.16, 'houses': 0.13, 'park': 0.11, 'yard': 0.06}


class TownBlock(Buildings, BlockBuilder):
    """One block of a street."""

    def lay(self) -> None:
        """Fill the block."""
        self.parking = {side: may_park(self.route, self.index, side) for side in (-1, 1)}
        self.kerb = {-1: -7.1 if self.parking[-1] else -3.3, 1: 5.7 if self.parking[1] else 3.5}
        self.along = np.linspace(CROSSING, BLOCK, 9)
        self._roads()
        self._pavements()
        self._crossing()
        for side in (-1, 1):
            kind = self._lot_kind(side)
            getattr(self, f'_lot_{kind}')(side)
            self._backdrop(side)
        self._kerbside()
        self._avenue()
        for side in (-1, 1):
            if self.parking[side]:
                self._parking(side)
        self._side_street()

    def _lot_kind(self, side: int) -> str:
        if self.index % 5 == 2 and side == (1 if self.index % 2 else -1):
            return 'yard'  # a wall every few hundred metres, so that a drive meets one
        # Neighbouring blocks tend to look alike: the quarter decides, sometimes the block.
        quarter = self.route.rng(14, self.index // 3, side + 1)
        rng = quarter if self.rng.random() < 0.6 else self.rng
        names = list(_WEIGHTS)
        return names[rng.choice(len(names), p=list(_WEIGHTS.values()))]

    def edge(self, side: int) -> float:
        """Where the lots begin."""
        return TOWN_EDGE[0] if side < 0 else TOWN_EDGE[1]

    def verge(self, side: int) -> float:
        """Where lamps and trees may stand: at the kerb, or beyond the bicycle path."""
        return min(self.kerb[side], -4.95) if side < 0 else self.kerb[side]

    def _roads(self) -> None:
        b, asphalt = self.ground, self.style.asphalt
        tone: Color = tuple(np.asarray(asphalt) * self.rng.uniform(0.92, 1.08))
        cross = np.linspace(0, CROSSING, 4)
        whole = np.linspace(0, BLOCK, 13)
        b.use(ID['road'], Material.LANE, tone, self.route.number)
        for middle in (-1.65, 1.65):
            b.strip(whole, (middle - 1.65, 0), (middle + 1.65, 0), (-1.65, 1.65))
        bike: Color = (0.26, 0.10, 0.08) if self.route.number % 3 == 0 else tone
        b.use(ID['road'], Material.ASPHALT, bike)
        b.strip(whole if self.parking[-1] else cross, (-4.95, 0), (-3.3, 0))
        for side, near, far in ((-1, -4.95, -7.1), (1, 3.3, 5.7)):
            b.use(ID['road'], Material.ASPHALT, tone)
            b.strip(cross, (near, 0), (far, 0))
            if self.parking[side]:
                b.use(ID['road'], Material.ASPHALT, tuple(np.asarray(tone) * 1.12))
                b.strip(self.along, (near, 0), (far, 0))
            elif side > 0:
                b.strip(self.along, (near, 0), (3.5, 0))
        b.use(ID['road'], Material.RAIL, (0.30, 0.29, 0.28))
        for rail in _TRACK:
            b.strip(whole, (rail - 0.04, 0.006), (rail + 0.04, 0.006))
        self._markings()

    def _markings(self) -> None:
        begin, end = CROSSING + 4.0, BLOCK + STOP_BEFORE - 0.5
        solid = np.linspace(begin, end, 8)
        self.dashes(begin, end - 14, 0.0, 3.0, 6.0)
        self.line(np.linspace(end - 14, end, 3), 0.0)
        if self.parking[-1]:
            self.line(solid, -3.3, 0.14)
            self._bike_symbol(begin + 6)
        if self.parking[1]:
            self.line(solid, 3.4, 0.12)
        for side, near, far in ((-1, -7.0, -4.95), (1, 3.4, 5.6)):
            if self.parking[side]:
                for s in np.arange(begin + 1, end - 2, 5.8):
                    self.ground.use(ID['road'], Material.MARKING, PAINT)
                    self.ground.plate((s, s + 0.1), (near, far), 0.004)
        if has_signal(self.index + 1):
            self._arrow(end - 9, -1.65)

    def _arrow(self, s: float, lateral: float) -> None:
        b = self.ground
        b.use(ID['road'], Material.MARKING, PAINT)
        b.plate((s, s + 2.6), (lateral - 0.08, lateral + 0.08), 0.004)
        b.fan([(s + 2.6, lateral - 0.35, 0.004), (s + 3.8, lateral, 0.004),
               (s + 2.6, lateral + 0.35, 0.004)])  # fmt: skip

    def _bike_symbol(self, s: float) -> None:
        b = self.ground
        b.use(ID['road'], Material.MARKING, PAINT)
        for at in (s, s + 1.1):
            b.fan([(at + 0.32 * np.cos(a), -4.1 + 0.3 * np.sin(a), 0.004)
                   for a in np.arange(8) * np.pi / 4])  # fmt: skip
        b.plate((s, s + 1.1), (-4.14, -4.06), 0.005)

    def _pavements(self) -> None:
        b = self.ground
        paving = self.style.paving
        stone: Color = tuple(np.minimum(np.asarray(paving) * 1.25, 0.6))
        for side in (-1, 1):
            kerb, edge = self.kerb[side], self.edge(side)
            b.use(ID['sidewalk'], Material.PAVING, paving)
            b.strip(self.along, (kerb + side * 0.15, 0.13), (edge, 0.13))
            if side < 0 and not self.parking[side]:
                b.use(ID['sidewalk'], Material.PAVING, (0.28, 0.13, 0.10))
                b.strip(self.along, (-4.95, 0.134), (-3.6, 0.134))
            b.use(ID['sidewalk'], Material.CONCRETE, stone)
            b.strip(self.along, (kerb, 0.13), (kerb + side * 0.15, 0.13))
            b.strip(self.along, (kerb, -0.02), (kerb, 0.13))
            for s in (self.along[0], self.along[-1]):
                b.quad((s, kerb, 0), (s, edge, 0), (s, edge, 0.13), (s, kerb, 0.13))
            b.use(ID['sidewalk'], Material.PAVING, paving)
            for s in (CROSSING, BLOCK - 1.8):
                b.plate((s, s + 1.8), (min(edge, side * 66), max(edge, side * 66)), 0.12)
        # Where the side street begins its kerbs run into it.
        for side in (-1, 1):
            edge = self.edge(side)
            b.use(ID['sidewalk'], Material.CONCRETE, stone)
            b.quad((CROSSING, edge, 0), (CROSSING, side * 66, 0), (CROSSING, side * 66, 0.12),
                   (CROSSING, edge, 0.12))  # fmt: skip

    def _crossing(self) -> None:
        b, rng = self.ground, self.rng
        tone = self.style.asphalt
        b.use(ID['road'], Material.ASPHALT, tone)
        b.strip(np.linspace(0, CROSSING, 3), (-70, 0), (-7.1, 0))
        b.strip(np.linspace(0, CROSSING, 3), (5.7, 0), (70, 0))
        # The zebra belongs to this crossing but lies before it.
        b.use(ID['road'], Material.MARKING, PAINT)
        for lateral in np.arange(self.kerb[-1] + 0.3, self.kerb[1] - 0.4, 1.0):
            b.plate(_ZEBRA, (lateral, lateral + 0.5), 0.005)
        if has_signal(self.index):
            b.plate((STOP_BEFORE - 0.2, STOP_BEFORE + 0.2), (-4.9, -0.1), 0.006)
            b.plate((STOP_BEYOND - 0.2, STOP_BEYOND + 0.2), (0.1, 3.2), 0.006)
        else:
            self.put(props.traffic_sign(int(rng.choice((4, 1, 5)))), -4.5, -7.7, z=0.12)
            self.put(props.traffic_sign(5), 9.6, -10.9, np.pi / 2, z=0.12)
            self.put(props.traffic_sign(4), -0.6, 9.9, -np.pi / 2, z=0.12)
        self.put(props.traffic_sign(2), CROSSING + 2.0, self.verge(-1) - 0.5, z=0.12)
        for s in (-5.2, CROSSING + 0.9):
            for lateral in (-7.35, 6.0):
                self.put(props.plain_pole(), s, lateral, z=0.1)

    def _kerbside(self) -> None:
        rng = self.rng
        step = float(self.route.rng(15).uniform(20, 28))
        for side in (-1, 1):
            kerb = self.verge(side) + 0.4 * side
            for s in np.arange(CROSSING + 4 + 5 * (side > 0), BLOCK - 2, step):
                self.lamp(float(s), kerb, side, 1.6)
            yaw = 0.0 if side < 0 else np.pi
            for _ in range(int(rng.integers(2, 5))):
                at = rng.uniform(CROSSING + 4, BLOCK - 7)
                self.put(props.traffic_sign(int(rng.integers(7))), at, kerb, yaw, z=0.12)
            if rng.random() < 0.2:
                board = props.direction_board(2.4, 1.4, (0.75, 0.58, 0.02))
                at = BLOCK - 22 if side < 0 else CROSSING + 22
                self.put(board, at, kerb + side * 0.6, yaw, z=0.12)
            draw = rng.random()
            if draw < 0.16:
                # Where a tramway or a school asks for it: a pedestrian guard rail.
                begin = rng.uniform(CROSSING + 4, BLOCK - 30)
                self.barrier((begin, begin + rng.uniform(12, 24)), self.kerb[side] + side * 0.3)
            elif draw < 0.5:
                begin = rng.uniform(CROSSING + 4, BLOCK - 28)
                self.railing((begin, begin + rng.uniform(10, 22)), self.kerb[side] + side * 0.25,
                             1.05, 0.22)  # fmt: skip
            elif not self.parking[side]:
                for s in np.arange(CROSSING + 3, BLOCK - 6, float(rng.choice((2.5, 4.0)))):
                    post = props.plain_pole(0.95, 0.06, (0.10, 0.11, 0.12))
                    self.put(post, s, self.verge(side) + side * 0.3, z=0.1)
            self._bicycle_racks(side)
            edge = self.edge(side)
            for _ in range(int(rng.integers(3, 9))):
                self.somebody(
                    rng.uniform(CROSSING + 3, BLOCK - 8), edge - side * 0.28,
                    side * np.pi / 2 + rng.normal(0, 1.2),
                )  # fmt: skip

    def _bicycle_racks(self, side: int) -> None:
        rng = self.rng
        wide = not self.parking[side]
        for _ in range(int(rng.integers(1, 4))):
            s = rng.uniform(CROSSING + 5, BLOCK - 14)
            for k in range(int(rng.integers(3, 9))):
                kind = 'parked bicycle' if rng.random() < 0.96 else 'parked motorcycle'
                out = 1.25 if wide else 0.75
                yaw = np.pi / 2 + rng.normal(0, 0.12) if wide else rng.normal(0, 0.1)
                gap = 0.75 if wide else 2.0
                self.parked(kind, s + gap * k, self.verge(side) + side * out, yaw, 0.13)

    def _avenue(self) -> None:
        rng, b = self.rng, self.ground
        for side in (-1, 1):
            if self.route.rng(16, self.index // 2, side + 1).random() < 0.22:
                continue
            wide = not self.parking[side]
            lateral = self.verge(side) + side * (1.1 if wide else 0.75)
            if wide and rng.random() < 0.85:
                b.use(ID['terrain'], Material.GRASS, self.style.grass)
                near = self.verge(side) + side * 0.4
                b.strip(self.along[1:-1], (near, 0.15), (near + side * 1.9, 0.15))
            step = rng.uniform(7, 10)
            size = rng.uniform(0.8, 1.1)
            for s in np.arange(CROSSING + rng.uniform(4, 8), BLOCK - 7, step):
                at = float(s + rng.normal(0, 0.4))
                self.tree(at, lateral, size, 0.1, None if rng.random() < 0.15 else 0)
                b.use(ID['terrain'], Material.SOIL, (0.13, 0.10, 0.07))
                b.plate((at - 0.7, at + 0.7), (lateral - 0.6, lateral + 0.6), 0.14)

    def _parking(self, side: int) -> None:
        rng = self.rng
        s, end = CROSSING + 5.0, BLOCK - 8.0
        middle = -6.05 if side < 0 else 4.58
        if side < 0 and rng.random() < 0.03:
            self.parked('bus', s + 8, -6.1)
            self.put(props.bus_shelter(), s + 8, self.edge(-1) + 0.4 + 1.0, z=0.12)
            s += 17
        while s < end - 5:
            draw = rng.random()
            yaw = rng.normal(0, 0.02) + (np.pi if (rng.random() < 0.1) != (side > 0) else 0)
            if draw < 0.80:
                self.parked('car', s + 2.6, middle, yaw)
                s += 5.8
            elif draw < 0.85:
                for k in range(3):
                    self.parked('parked motorcycle', s + 0.7 + 1.1 * k, middle, yaw + 0.9)
                s += 4.4
            elif draw < 0.875 and s < end - 10:
                self.parked('truck', s + 4.8, middle - 0.05, yaw)
                s += 10.4
            else:
                s += 3

    def _side_street(self) -> None:
        rng = self.rng
        for side in (-1, 1):
            for lateral in np.arange(24, 62, 6.5):
                if rng.random() < 0.5:
                    self.parked('car', CROSSING - 1.1, side * lateral, side * np.pi / 2)
            if rng.random() < 0.5:
                self.tree(CROSSING + 1.0, side * rng.uniform(16, 40), 0.8, 0.1)

    def _lot_row(self, side: int) -> None:
        """Closed row of houses along the pavement."""
        self.row(side, CROSSING + 1.8, BLOCK - 1.8, *self.style.floors)
        self.lawn(side, 12, 60)

    def _lot_towers(self, side: int) -> None:
        """Large modern buildings, with some green or a forecourt before them."""
        rng = self.rng
        setback = float(rng.choice((0.0, 2.5, 4.0)))
        edge = self.edge(side)
        b = self.ground
        if setback:
            b.use(ID['sidewalk'], Material.PAVING, tuple(np.asarray(self.style.paving) * 1.1))
            near, far = edge, edge + side * setback
            b.strip(self.along, (near, 0.12), (far, 0.12))
            for s in np.arange(CROSSING + 5, BLOCK - 4, rng.uniform(6, 10)):
                self.tree(float(s), edge + side * setback * 0.6, 0.75, 0.1)
        width = float(rng.uniform(20, 28))
        s = CROSSING + 1.8
        while s < BLOCK - 8:
            end = min(s + width, BLOCK - 1.8)
            self.tower(side, s, end, setback, int(rng.integers(4, 9)))
            s = end + (0 if rng.random() < 0.6 else 4)
        self.lawn(side, setback + 15, 60)

    def _lot_houses(self, side: int) -> None:
        """Detached houses in gardens behind a fence, a low wall or a hedge."""
        rng = self.rng
        self.lawn(side, 0, 60)
        edge, s = self.edge(side), CROSSING + 3.0
        while s < BLOCK - 9:
            width = float(rng.uniform(8.5, 11.5))
            setback = float(rng.uniform(3.0, 5.5))
            self.villa(side, s, s + width, setback, int(rng.integers(2, 4)))
            front = (s - 0.8, min(s + width + 1.5, BLOCK - 1.9))
            kind = rng.integers(4)
            along = np.linspace(*front, 4)
            if kind == 0:
                self.wall(along, edge + side * 0.3, side, float(rng.uniform(0.7, 1.4)))
            elif kind == 1:
                self.pickets(front, edge + side * 0.3, float(rng.uniform(1.0, 1.5)))
            elif kind == 2:
                self.hedge(front, edge + side * 0.6)
            else:
                self.railing(front, edge + side * 0.3, 1.3)
            self.tree(s + rng.uniform(0, width), edge + side * rng.uniform(1.3, 2.6), 0.6)
            self.bush(s + rng.uniform(0, width), edge + side * rng.uniform(1.2, 2.6))
            s += width + rng.uniform(2.5, 5)
        for _ in range(6):
            self.tree(rng.uniform(CROSSING + 3, BLOCK - 2), edge + side * rng.uniform(15, 26), 1.1)
        self.row(side, CROSSING + 2, BLOCK - 2, 3, 4, setback=32)

    def _lot_park(self, side: int) -> None:
        """Lawn with trees and bushes behind a fence or hedge."""
        rng, edge = self.rng, self.edge(side)
        self.lawn(side, 0, 60)
        if rng.random() < 0.6:
            self.railing((CROSSING + 3, BLOCK - 4), edge + side * 0.3, 1.2)
        else:
            self.hedge((CROSSING + 3, BLOCK - 4), edge + side * 0.6)
        for near, far, count in ((1.5, 6, 6), (6, 14, 9), (14, 30, 9)):
            for s in np.linspace(CROSSING + 3, BLOCK - 3, count):
                self.tree(s + rng.normal(0, 1), edge + side * rng.uniform(near, far), 1.15)
        for _ in range(10):
            self.bush(rng.uniform(CROSSING + 3, BLOCK - 3), edge + side * rng.uniform(1.6, 14))
        self.row(side, CROSSING + 2, BLOCK - 2, 4, 6, setback=36)

    def _lot_yard(self, side: int) -> None:
        """A yard behind a long wall or fence, a hall at its back."""
        rng, edge = self.rng, self.edge(side)
        split = rng.uniform(0.35, 0.8) * (BLOCK - CROSSING - 6)
        first = CROSSING + 2.0
        self.wall(np.linspace(first, first + split, 6), edge + side * 0.3, side,
                  float(rng.uniform(1.9, 2.8)))  # fmt: skip
        self.railing((first + split + 0.5, BLOCK - 2), edge + side * 0.4, 1.9)
        self.lawn(side, 0, 60, gravel=True)
        self.hall(side, CROSSING + 4, BLOCK - 4, float(rng.uniform(5, 12)), rng.uniform(6, 9.5))
        for _ in range(7):
            self.tree(rng.uniform(CROSSING + 3, BLOCK - 3), edge + side * rng.uniform(1.6, 4.5))
        for _ in range(5):
            self.bush(rng.uniform(CROSSING + 3, BLOCK - 3), edge + side * rng.uniform(1.2, 3))

    def lawn(self, side: int, near: float, far: float, gravel: bool = False) -> None:
        """Cover the lots behind the pavement."""
        edge, b = self.edge(side), self.ground
        if gravel:
            b.use(ID['terrain'], Material.GRAVEL, (0.24, 0.22, 0.19))
        else:
            b.use(ID['terrain'], Material.GRASS, self.style.grass)
        along = np.linspace(CROSSING + 1.8, BLOCK - 1.8, 6)
        b.strip(along, (edge + side * near, 0.1), (edge + side * far, 0.1))

    def _backdrop(self, side: int) -> None:
        """Houses and trees in the second row, which close the views between those in front."""
        rng = self.rng
        edge = self.edge(side)
        for s in (rng.uniform(-2, 4), rng.uniform(26, 34)):
            self.block_of_flats(
                s, s + rng.uniform(16, 24), edge + side * rng.uniform(56, 66), side,
                int(rng.integers(4, 9)),
            )  # fmt: skip
        for _ in range(4):
            self.tree(rng.uniform(2, BLOCK), edge + side * rng.uniform(42, 54), 1.3)
