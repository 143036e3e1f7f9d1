# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A motorway with two lanes each way.

Cross-section, l in metres, alike on both sides: concrete barrier at the middle, inner edge 0.35,
lanes of 3.8 to 7.85, hard shoulder to 10.4, guard rail at 10.9, then cutting, noise wall or
embankment.
"""

from __future__ import annotations

import itertools

import numpy as np

from training.simulation import props
from training.simulation.buildings import Buildings
from training.simulation.layout import BlockBuilder
from training.simulation.mesh import Material
from training.simulation.signals import BLOCK
from training.simulation.vehicles import ID

_MIDDLES = (2.15, 5.95)
_KINDS = {'cutting': 0.36, 'trees': 0.36, 'noise_wall': 0.18, 'open': 0.10}
_STRIPS = (10.4, 12.7, 17.2, 23.2, 32.0, 50.0)


class MotorwayBlock(Buildings, BlockBuilder):
    """One block of a motorway."""

    def lay(self) -> None:
        """Fill the block."""
        self.along = np.linspace(0, BLOCK, 7)
        self._road()
        self._middle()
        for side in (-1, 1):
            quarter = self.route.rng(14, self.index // 4, side + 1)
            names = list(_KINDS)
            kind = names[quarter.choice(len(names), p=list(_KINDS.values()))]
            self._side(side, kind)

    def edge(self, side: int) -> float:
        """Where buildings may stand."""
        return side * 30.0

    def _road(self) -> None:
        b = self.ground
        for side in (-1, 1):
            b.use(ID['road'], Material.LANE, self.style.asphalt, self.route.number)
            for middle in _MIDDLES:
                at = side * middle
                b.strip(self.along, (at - 1.9, 0), (at + 1.9, 0), (-1.9, 1.9))
            b.use(ID['road'], Material.ASPHALT, tuple(np.asarray(self.style.asphalt) * 1.15))
            b.strip(self.along, (side * 7.85, 0), (side * 10.4, 0))
            b.strip(self.along, (0, 0), (side * 0.25, 0))
            self.line(self.along, side * 0.45, 0.15)
            self.line(self.along, side * 7.9, 0.3)
            for lateral in (4.05,):
                begin = (-self.s0) % 18.0
                self.dashes(begin, BLOCK, side * lateral, 6.0, 18.0, 0.15)

    def _middle(self) -> None:
        b = self.ground
        if self.route.rng(21, self.index // 8).random() < 0.6:
            # Older stretches have a rail for either direction and grass between them.
            for side in (-1, 1):
                self.guard_rail(self.along, side * 0.22, side)
            return
        b.use(ID['wall'], Material.CONCRETE, (0.40, 0.39, 0.37))
        profile = ((0.3, 0.0), (0.28, 0.2), (0.12, 0.45), (0.1, 0.82))
        for side in (-1, 1):
            for (l0, z0), (l1, z1) in itertools.pairwise(profile):
                b.strip(self.along, (side * l0, z0), (side * l1, z1))
        b.strip(self.along, (-0.1, 0.82), (0.1, 0.82))

    def _side(self, side: int, kind: str) -> None:
        rng, b = self.rng, self.ground
        self.guard_rail(self.along, side * 10.9, -side)
        heights = {10.4: np.zeros(len(self.along))}
        rise = {'cutting': (0.3, 3.5, 7.5, 11.0), 'noise_wall': (0.0, 0.5, 0.8, 1.0),
                'trees': (0.0, 1.0, 2.0, 3.0), 'open': (-0.3, -0.6, -0.4, 0.0)}[kind]  # fmt: skip
        for lateral, up in zip(_STRIPS[1:], (*rise, rise[-1]), strict=True):
            land = self.route.land(self.s0 + self.along, np.full(len(self.along), side * lateral))
            # Slopes of one block run into those of the next one.
            ends = np.minimum(1, np.minimum(self.along, BLOCK - self.along) / 15 + 0.35)
            heights[lateral] = land + up * ends
        for near, far in itertools.pairwise(_STRIPS):
            edges = [
                np.stack([self.along, np.full(len(self.along), side * at), heights[at]], 1)
                for at in (near, far)
            ]
            b.use(ID['terrain'], Material.GRASS, self.style.grass)
            b.skin(np.stack(edges, 1))
        self._planted(side, kind, heights)
        if kind == 'noise_wall':
            self.wall(self.along, side * 12.4, side, 5.0, 0.25, ID['wall'], Material.CONCRETE,
                      (0.34, 0.36, 0.33))  # fmt: skip
        for s in (10.0,):
            self.put(props.delineator(), s, side * 10.65, 0.0 if side < 0 else np.pi)
        if self.index % 6 == 4 and side < 0:
            self.put(props.gantry(10.6), 30, -10.8)
        elif rng.random() < 0.25:
            at = side * 11.8
            yaw = 0.0 if side < 0 else np.pi
            if rng.random() < 0.5:
                self.put(props.direction_board(4.2, 2.8), 30, at - side * -1.6, yaw)
            else:
                self.put(props.traffic_sign(int(rng.choice((0, 1, 6)))).scaled(1.4), 30, at, yaw)
        if kind == 'open':
            self.pickets((0.5, BLOCK - 0.5), side * 13.5, 1.3)
            for _ in range(2):
                s = float(rng.uniform(2, 40))
                if rng.random() < 0.5:
                    self.block_of_flats(s, s + rng.uniform(12, 20), side * 44, side,
                                        int(rng.integers(3, 7)))  # fmt: skip
        if self.index % 7 == 3:
            self.lamp(20, side * 11.1, side, 2.4, 9.0)

    def _planted(self, side: int, kind: str, heights: dict[float, np.ndarray]) -> None:
        rng = self.rng
        laterals = np.array(_STRIPS)
        middle = np.array([heights[at][len(self.along) // 2] for at in _STRIPS])
        rows = {
            'cutting': ((13.6, 17, 12), (17, 24, 13), (24, 36, 12)),
            'trees': ((12.8, 15, 12), (15, 21, 13), (21, 34, 12)),
            'noise_wall': ((14, 20, 12), (20, 34, 9)),
            'open': ((15, 24, 6), (20, 42, 8)),
        }[kind]
        for near, far, count in rows:
            for s in np.linspace(0.5, BLOCK - 0.5, count):
                lateral = float(rng.uniform(near, far))
                z = float(np.interp(lateral, laterals, middle))
                at = float(s + rng.normal(0, 1.3))
                self.tree(at, side * lateral, rng.uniform(1.2, 1.8), z - 0.4)
        for _ in range(14):
            lateral = float(rng.uniform(12.4, 16))
            z = float(np.interp(lateral, laterals, middle))
            self.bush(float(rng.uniform(0, BLOCK)), side * lateral, z - 0.2, 1.4)
