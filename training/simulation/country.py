# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A country road between fields, woods and hamlets, with a railway on an embankment.

Cross-section, l in metres: lanes to +-3.5, a strip for bicycles on the right to -4.6, verge,
ditch, then whatever the block is: field, wood, meadow with fences, orchard, hamlet. The railway
runs at 46.
"""

from __future__ import annotations

import numpy as np

from training.simulation import props
from training.simulation.agents import HAMLET_EDGE, is_hamlet, rail_height
from training.simulation.buildings import Buildings
from training.simulation.layout import BlockBuilder
from training.simulation.mesh import Material
from training.simulation.signals import BLOCK
from training.simulation.vehicles import ID

RAILWAY = 46.0
_KINDS = {'field': 0.14, 'wood': 0.46, 'meadow': 0.12, 'orchard': 0.28}
_STRIPS = (4.6, 6.2, 8.0, 14.0, 22.0, 34.0, 50.0)


class CountryBlock(Buildings, BlockBuilder):
    """One block of a country road."""

    def lay(self) -> None:
        """Fill the block."""
        self.along = np.linspace(0, BLOCK, 11)
        self.hamlet = is_hamlet(self.route, self.index)
        self._road()
        for side in (-1, 1):
            self._ground(side)
            if self.hamlet:
                self._hamlet(side)
            else:
                quarter = self.route.rng(14, self.index // 2, side + 1)
                names = list(_KINDS)
                kind = names[quarter.choice(len(names), p=list(_KINDS.values()))]
                getattr(self, f'_{kind}')(side)
        self._railway()
        self._roadside()

    def edge(self, side: int) -> float:
        """Where gardens begin in a hamlet."""
        return HAMLET_EDGE[0] if side < 0 else HAMLET_EDGE[1]

    def _road(self) -> None:
        b = self.ground
        b.use(ID['road'], Material.LANE, self.style.asphalt, self.route.number)
        for middle in (-1.75, 1.75):
            b.strip(self.along, (middle - 1.75, 0), (middle + 1.75, 0), (-1.75, 1.75))
        b.use(ID['road'], Material.ASPHALT, tuple(np.asarray(self.style.asphalt) * 1.1))
        b.strip(self.along, (-4.6, 0), (-3.5, 0))
        b.strip(self.along, (3.5, 0), (4.0, 0))
        curvy = abs(float(self.route.curvature(self.s0 + 30))) > 0.004
        if curvy:
            self.line(self.along, 0.0)
        else:
            self.dashes(0, BLOCK, 0.0, 4.0, 12.0)
        for lateral in (-3.42, 3.42):
            self.line(self.along, lateral)

    def _ground(self, side: int) -> None:
        """Verge, ditch and land beside the road, following the hills."""
        b = self.ground
        edges = [4.6 if side < 0 else 4.0, *_STRIPS[1:]]
        heights = [np.full(len(self.along), 0.0)]
        for lateral in edges[1:]:
            land = self.route.land(self.s0 + self.along, np.full(len(self.along), side * lateral))
            dip = 0.0 if self.hamlet else {8.0: -0.55, 6.2: -0.1}.get(lateral, 0.0)
            heights.append(land + dip)
        for k in range(len(edges) - 1):
            near = np.stack([self.along, np.full(len(self.along), side * edges[k]), heights[k]], 1)
            far = np.stack(
                [self.along, np.full(len(self.along), side * edges[k + 1]), heights[k + 1]], 1
            )
            if self.hamlet and k == 0:
                b.use(ID['sidewalk'], Material.PAVING, self.style.paving)
                near[:, 2] = far[:, 2] = 0.12
                wide = far.copy()
                wide[:, 1] = self.edge(side)
                b.skin(np.stack([near, wide], 1))
                b.use(ID['sidewalk'], Material.CONCRETE, (0.4, 0.4, 0.38))
                low = near.copy()
                low[:, 2] = 0.0
                b.skin(np.stack([low, near], 1))
                continue
            b.use(ID['terrain'], Material.GRASS, self.style.grass)
            b.skin(np.stack([near, far], 1))

    def _roadside(self) -> None:
        rng = self.rng
        if not self.hamlet:
            for s in (10.0, 35.0):
                self.put(props.delineator(), s, -5.0)
                self.put(props.delineator(), s, 4.5, np.pi)
        line = self.route.rng(17, self.index // 6).random() < 0.6
        if line:
            for s in (5.0, 35.0):
                self.put(props.wire_pole(), s, 9.6, z=self.land(9.6, s))
        bend = float(self.route.curvature(self.s0 + 30))
        if abs(bend) > 0.0045 or rng.random() < 0.15:
            side = -1 if bend > 0 else 1
            at = -5.3 if side < 0 else 4.7
            self.guard_rail(self.along, at, -side)
        if rng.random() < 0.45:
            self.put(props.traffic_sign(int(rng.integers(7))), rng.uniform(5, 55), -5.9)
        if rng.random() < 0.12:
            self.put(props.direction_board(3.0, 1.6, (0.75, 0.58, 0.02)), 40, -7.4, z=-0.4)
        if self.hamlet and not is_hamlet(self.route, self.index - 1):
            self.put(props.traffic_sign(7), 2.0, -6.6)

    def _field(self, side: int) -> None:
        rng, b = self.rng, self.ground
        color = ((0.34, 0.28, 0.10), (0.17, 0.12, 0.08), (0.13, 0.19, 0.05))[rng.integers(3)]
        b.use(ID['terrain'], Material.FIELD, color)
        along = self.along
        for near, far in ((9.0, 14.0), (14.0, 22.0), (22.0, 34.0), (34.0, 44.0)):
            edges = []
            for lateral in (near, far):
                land = self.route.land(self.s0 + along, np.full(len(along), side * lateral))
                edges.append(
                    np.stack([along, np.full(len(along), side * lateral), land + 0.12], 1)
                )
            b.skin(np.stack(edges, 1))
        for s in np.arange(rng.uniform(0, 12), BLOCK, rng.uniform(9, 16)):
            lateral = side * rng.uniform(7.0, 8.6)
            self.tree(float(s), lateral, 1.2, self.land(lateral, float(s)) - 0.3)
        self._far_trees(side, 5)

    def _wood(self, side: int) -> None:
        rng = self.rng
        for near, far, count in ((5.8, 8, 12), (9, 15, 13), (15, 26, 12), (26, 40, 9)):
            for s in np.linspace(1, BLOCK - 1, count):
                lateral = side * rng.uniform(near, far)
                if side > 0 and abs(lateral - RAILWAY) < 6:
                    continue
                at = float(s + rng.normal(0, 1.2))
                self.tree(at, lateral, rng.uniform(1.2, 1.7), self.land(lateral, at))
        for _ in range(16):
            s, lateral = float(rng.uniform(0, BLOCK)), side * float(rng.uniform(6.6, 13))
            self.bush(s, lateral, self.land(lateral, s) - 0.1, 1.3)

    def _meadow(self, side: int) -> None:
        rng = self.rng
        self.pickets((0.5, BLOCK - 0.5), side * 9.0, 1.2)
        self._far_trees(side, 9)
        for _ in range(4):
            s, lateral = float(rng.uniform(0, BLOCK)), side * float(rng.uniform(6.8, 8.5))
            self.bush(s, lateral, self.land(lateral, s) - 0.2, 1.2)

    def _orchard(self, side: int) -> None:
        """An avenue: old trees in line along the road, hedges behind them."""
        rng = self.rng
        for s in np.arange(3, BLOCK, 9.0):
            lateral = side * 5.6
            self.tree(float(s + rng.normal(0, 0.4)), lateral, 1.5, -0.1, 0)
        self.hedge((1, BLOCK - 1), side * 10.5, self.land(side * 10.5, 30))
        self._far_trees(side, 10)

    def _far_trees(self, side: int, count: int) -> None:
        rng = self.rng
        for _ in range(count):
            s, lateral = float(rng.uniform(0, BLOCK)), side * float(rng.uniform(14, 40))
            self.tree(s, lateral, rng.uniform(1.0, 1.6), self.land(lateral, s))

    def _hamlet(self, side: int) -> None:
        rng = self.rng
        s, edge = 3.0, self.edge(side)
        while s < BLOCK - 10:
            width = float(rng.uniform(9, 13))
            setback = float(rng.uniform(2.0, 6.0))
            if rng.random() < 0.25:
                self.hall(side, s, s + width, setback, float(rng.uniform(4.5, 6.0)))
            else:
                self.villa(side, s, s + width, setback, int(rng.integers(2, 4)))
            front = (s - 0.8, min(s + width + 1.0, BLOCK - 1))
            draw = rng.integers(3)
            if draw == 0:
                self.wall(np.linspace(*front, 4), edge + side * 0.2, side,
                          float(rng.uniform(0.8, 1.6)))  # fmt: skip
            elif draw == 1:
                self.pickets(front, edge + side * 0.2, 1.1)
            else:
                self.hedge(front, edge + side * 0.5)
            gap = s + width + 1.2
            if rng.random() < 0.6:
                kind = 'car' if rng.random() < 0.94 else 'truck'
                self.parked(kind, gap + 1.2, edge + side * (4.0 if kind == 'car' else 6.0),
                            np.pi / 2)  # fmt: skip
            self.tree(s + rng.uniform(0, width), edge + side * 1.3, 0.7)
            s += width + float(rng.uniform(4, 7))
        for _ in range(8):
            at, lateral = float(rng.uniform(0, BLOCK)), edge + side * float(rng.uniform(16, 32))
            self.tree(at, lateral, 1.2, self.land(lateral, at))
        for _ in range(int(rng.integers(1, 4))):
            self.somebody(float(rng.uniform(2, 58)), edge - side * 0.25, rng.uniform(0, 6.28))
        if side < 0:
            for _ in range(int(rng.integers(1, 4))):
                self.parked('parked bicycle', float(rng.uniform(4, 56)), edge + 0.5,
                            rng.normal(0, 0.2), 0.12)  # fmt: skip
            for s_lamp in (8.0, 38.0):
                self.lamp(s_lamp, -5.1, -1, 1.4, 5.5)

    def _railway(self) -> None:
        """An embankment with ballast and rails; the train drives on it."""
        b = self.ground
        along = self.along
        height = rail_height(self.route, self.s0 + along)
        base = self.route.land(self.s0 + along, np.full(len(along), RAILWAY)) - 3.0

        def band(l0: float, z0: np.ndarray, l1: float, z1: np.ndarray) -> None:
            a = np.stack([along, np.full(len(along), RAILWAY + l0), z0], 1)
            c = np.stack([along, np.full(len(along), RAILWAY + l1), z1], 1)
            b.skin(np.stack([a, c], 1))

        b.use(ID['terrain'], Material.GRASS, self.style.grass)
        band(-11.0, np.minimum(base, height), -2.6, height - 0.1)
        band(11.0, np.minimum(base, height), 2.6, height - 0.1)
        b.use(ID['terrain'], Material.GRAVEL, (0.22, 0.20, 0.18))
        band(-2.6, height - 0.1, -1.7, height + 0.1)
        band(-1.7, height + 0.1, 1.7, height + 0.1)
        band(1.7, height + 0.1, 2.6, height - 0.1)
        b.use(ID['terrain'], Material.RAIL, (0.25, 0.22, 0.20))
        for rail in (-0.75, 0.75):
            band(rail - 0.05, height + 0.28, rail + 0.05, height + 0.28)
        for s in (0.0,):
            z = float(height[0])
            mast = props.plain_pole(7.5, 0.12)
            self.put(mast, s + 1, RAILWAY + 3.0, z=z)
