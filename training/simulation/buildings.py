# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Buildings of a block: rows of houses, villas, towers, halls, farms."""

from __future__ import annotations

import numpy as np

from training.simulation.layout import BlockBuilder
from training.simulation.mesh import Color, Material, MeshBuilder
from training.simulation.vehicles import GLASS, ID

_CITY = ID['building']


class Buildings(BlockBuilder):
    """What a block builder can build; walls are told from `edge`, where the lots begin."""

    def edge(self, side: int) -> float:
        """Where the lots begin."""
        raise NotImplementedError

    def _tone(self) -> Color:
        rng = self.rng
        color = np.asarray(self.style.facades[rng.integers(5)]) * rng.uniform(0.8, 1.2)
        return tuple(np.clip(color, 0.02, 0.8))

    def _roof(self) -> Color:
        return self.style.roofs[self.rng.integers(len(self.style.roofs))]

    def shell(
        self, b: MeshBuilder, s: tuple[float, float], lateral: tuple[float, float], height: float,
        color: Color, tag: int, material: Material = Material.FACADE, shop: float = 0.0,
    ) -> None:  # fmt: skip
        """Four walls down into the ground, the lowest `shop` metres of another material."""
        near, far = lateral
        corners = [(s[0], near), (s[1], near), (s[1], far), (s[0], far)]
        bands: list[tuple[float, float, Material, Color]] = [
            (shop or -1.0, height, material, color)
        ]
        if shop:
            dark: Color = tuple(np.asarray(color) * 0.7)
            bands.append((-1.0, shop, Material.SHOP, dark))
        for low, high, what, tone in bands:
            b.use(_CITY, what, tone, tag)
            for (s0, l0), (s1, l1) in zip(corners, corners[1:] + corners[:1], strict=True):
                b.quad((s0, l0, low), (s1, l1, low), (s1, l1, high), (s0, l0, high))
                width = float(np.hypot(s1 - s0, l1 - l0))
                b.texture(
                    np.array(
                        [
                            [(0, low), (width, low), (width, high)],
                            [(0, low), (width, high), (0, high)],
                        ]
                    )
                )

    def roof(
        self, b: MeshBuilder, s: tuple[float, float], lateral: tuple[float, float], height: float,
        color: Color, tag: int, flat: bool, wall: Color,
    ) -> float:  # fmt: skip
        """A flat or saddle roof with its ridge along the road; returns its height."""
        near, far = lateral
        side = np.sign(far - near)
        if flat:
            b.use(_CITY, Material.CONCRETE, tuple(np.asarray(wall) * 0.9), tag)
            low, high = sorted((near - side * 0.15, far))
            b.box((s[0] - 0.1, low, height), (s[1] + 0.1, high, height + 0.4))
            b.use(_CITY, Material.ROOF, (0.2, 0.2, 0.2), tag)
            x, y = np.mean(s), near + side * 4.0
            b.box((x - 1.6, y - 1.5, height), (x + 1.6, y + 1.5, height + 2.6))
            return 0.4
        up = height + float(self.rng.uniform(2.2, 4.0))
        ridge = (near + far) / 2
        b.use(_CITY, Material.ROOF, color, tag)
        for eave in (near - side * 0.45, far + side * 0.45):
            b.quad((s[0] - 0.05, eave, height - 0.15), (s[1] + 0.05, eave, height - 0.15),
                   (s[1] + 0.05, ridge, up), (s[0] - 0.05, ridge, up))  # fmt: skip
        b.use(_CITY, Material.MASONRY, wall, tag)
        b.triangles(np.array([[(x, near, height), (x, far, height), (x, ridge, up)] for x in s]))
        b.box((s[0] + 1.0, ridge - 0.4, up - 0.8), (s[0] + 1.7, ridge + 0.4, up + 0.9))
        return up - height

    def _dormers(
        self, b: MeshBuilder, s: tuple[float, float], near: float, side: int, height: float,
        rise: float, wall: Color,
    ) -> None:  # fmt: skip
        count = int((s[1] - s[0]) // 3.6)
        for k in range(count):
            x = s[0] + (k + 0.5) * (s[1] - s[0]) / count
            low, high = height + 0.25, height + min(1.7, rise - 0.6)
            y = sorted((near + side * 0.7, near + side * 4.0))
            b.use(_CITY, Material.MASONRY, tuple(np.asarray(wall) * 0.9))
            b.box((x - 0.65, y[0], low), (x + 0.65, y[1], high))
            b.use(_CITY, Material.GLASS, GLASS)
            front = near + side * 0.68
            b.quad((x - 0.45, front, low + 0.25), (x + 0.45, front, low + 0.25),
                   (x + 0.45, front, high - 0.15), (x - 0.45, front, high - 0.15))  # fmt: skip

    def _balconies(
        self, b: MeshBuilder, s: tuple[float, float], near: float, side: int, floors: int
    ) -> None:
        middle = (s[0] + s[1]) / 2 + self.rng.uniform(-1, 1)
        for floor in range(1, floors):
            z = 3.0 * floor + 0.05
            y = sorted((near - side * 1.1, near))
            b.use(_CITY, Material.CONCRETE, (0.42, 0.41, 0.39))
            b.box((middle - 1.5, y[0], z), (middle + 1.5, y[1], z + 0.14))
            b.use(_CITY, Material.METAL, (0.10, 0.11, 0.12))
            out = near - side * 1.08
            b.quad((middle - 1.5, out, z + 0.85), (middle + 1.5, out, z + 0.85),
                   (middle + 1.5, out, z + 1.0), (middle - 1.5, out, z + 1.0))  # fmt: skip
            for x in np.linspace(middle - 1.48, middle + 1.48, 12):
                b.quad((x - 0.02, out, z), (x + 0.02, out, z), (x + 0.02, out, z + 0.95),
                       (x - 0.02, out, z + 0.95))  # fmt: skip

    def row(
        self, side: int, begin: float, end: float, fewest: int, most: int, setback: float = 0.0
    ) -> None:
        """Closed row of houses from s = `begin` to `end`."""
        rng = self.rng
        near = self.edge(side) + side * setback
        s, floors = begin, int(rng.integers(fewest, most + 1))
        while s < end - 0.5:
            width = float(rng.uniform(9, 15))
            if end - s - width < 8:
                width = end - s
            floors = int(np.clip(floors + rng.integers(-1, 2), fewest, most))
            b = self.house(s + width / 2)
            color, tag = self._tone(), int(rng.integers(65536))
            height = 3.0 * floors + float(rng.uniform(0.5, 1.0))
            front = setback == 0
            shop = 3.6 if front and rng.random() < self.style.shops else 0.0
            at, deep = (s, s + width), (near, near + side * 11)
            self.shell(b, at, deep, height, color, tag, shop=shop)
            flat = bool(rng.random() < self.style.flat_roofs)
            rise = self.roof(b, at, deep, height, self._roof(), tag, flat, color)
            if front:
                self._front(b, at, near, side, height, floors, color, shop > 0)
                if not flat and rise > 2.6 and rng.random() < 0.6:
                    self._dormers(b, at, near, side, height, rise, color)
            s += width

    def _front(
        self, b: MeshBuilder, s: tuple[float, float], near: float, side: int, height: float,
        floors: int, color: Color, shop: bool,
    ) -> None:  # fmt: skip
        """Cornice, sills, balconies, awnings and drainpipes: what stands out of a facade."""
        rng = self.rng
        b.use(_CITY, Material.CONCRETE, tuple(np.minimum(np.asarray(color) * 1.3, 0.7)))
        for z, out, thick in ((height - 0.35, 0.28, 0.3), (3.55, 0.14, 0.2)):
            y = sorted((near - side * out, near))
            b.box((s[0], y[0], z), (s[1], y[1], z + thick))
        b.use(_CITY, Material.METAL, (0.22, 0.2, 0.18))
        b.cylinder((s[0] + 0.15, near - side * 0.08, 0), (s[0] + 0.15, near - side * 0.08, height),
                   0.06, n=5)  # fmt: skip
        draw = rng.random()
        if draw < 0.3:
            self._balconies(b, s, near, side, floors)
        elif draw < 0.5:
            x = (s[0] + s[1]) / 2
            y = sorted((near - side * 0.8, near))
            b.use(_CITY, Material.FACADE, color, int(rng.integers(65536)))
            b.box((x - 1.6, y[0], 3.3), (x + 1.6, y[1], height - 1.0))
        if shop and rng.random() < 0.6:
            cloth: Color = ((0.5, 0.05, 0.05), (0.05, 0.2, 0.4), (0.5, 0.45, 0.3))[rng.integers(3)]
            b.use(_CITY, Material.TARP, cloth)
            x0, x1 = s[0] + 1.0, s[0] + 1.0 + (s[1] - s[0]) * 0.5
            b.quad((x0, near, 3.0), (x1, near, 3.0), (x1, near - side * 1.2, 2.5),
                   (x0, near - side * 1.2, 2.5))  # fmt: skip

    def villa(self, side: int, s0: float, s1: float, setback: float, floors: int) -> None:
        """A detached house with a saddle roof."""
        rng = self.rng
        near = self.edge(side) + side * setback
        b = self.house((s0 + s1) / 2)
        color, tag = self._tone(), int(rng.integers(65536))
        height = 2.9 * floors + 0.4
        at, deep = (s0, s1), (near, near + side * 9)
        self.shell(b, at, deep, height, color, tag)
        rise = self.roof(b, at, deep, height, self._roof(), tag, False, color)
        if rng.random() < 0.5:
            self._dormers(b, at, near, side, height, rise, color)
        b.use(_CITY, Material.CONCRETE, (0.4, 0.39, 0.37))
        door = (s0 + s1) / 2
        y = sorted((near - side * 1.2, near))
        b.box((door - 0.8, y[0], -0.3), (door + 0.8, y[1], 0.35))
        b.use(_CITY, Material.ROOF, self._roof(), tag)
        b.box((door - 1.0, y[0], 2.5), (door + 1.0, y[1], 2.65))
        if rng.random() < 0.5:
            g0 = s1 + 0.1
            b.use(_CITY, Material.MASONRY, color)
            y = sorted((near + side * 1.5, near + side * 7))
            b.box((g0, y[0], -0.5), (g0 + 2.3, y[1], 2.6))

    def tower(self, side: int, s0: float, s1: float, setback: float, floors: int) -> None:
        """An office or apartment block."""
        rng = self.rng
        near = self.edge(side) + side * setback
        b = self.house((s0 + s1) / 2)
        color, tag = self._tone(), int(rng.integers(65536))
        material = Material.TOWER if rng.random() < 0.5 else Material.FACADE
        height = 3.0 * floors + 1.2
        at, deep = (s0, s1), (near, near + side * 15)
        self.shell(b, at, deep, height, color, tag, material, shop=3.6)
        self.roof(b, at, deep, height, color, tag, True, color)
        y = sorted((near - side * 1.6, near))
        b.use(_CITY, Material.CONCRETE, (0.4, 0.4, 0.41))
        b.box(((s0 + s1) / 2 - 3, y[0], 3.3), ((s0 + s1) / 2 + 3, y[1], 3.6))
        if material == Material.FACADE:
            for x in (s0 + 4, s1 - 4):
                self._balconies(b, (x - 3, x + 3), near, side, floors)

    def hall(self, side: int, s0: float, s1: float, setback: float, height: float) -> None:
        """A factory or warehouse."""
        near = self.edge(side) + side * setback
        b = self.house((s0 + s1) / 2)
        color, tag = self._tone(), int(self.rng.integers(65536))
        material = Material.SIDING if self.rng.random() < 0.6 else Material.FACADE
        at, deep = (s0, s1), (near, near + side * 20)
        self.shell(b, at, deep, height, color, tag, material)
        self.roof(b, at, deep, height, self._roof(), tag, self.rng.random() < 0.6, color)
        b.use(_CITY, Material.METAL, (0.3, 0.31, 0.33))
        for x in np.arange(s0 + 4, s1 - 5, 9.0):
            y = near - side * 0.04
            b.quad((x, y, 0), (x + 3.6, y, 0), (x + 3.6, y, 3.8), (x, y, 3.8))

    def block_of_flats(self, s0: float, s1: float, near: float, side: int, floors: int) -> None:
        """A house in the background."""
        b = self.house((s0 + s1) / 2)
        color, tag = self._tone(), int(self.rng.integers(65536))
        height = 3.0 * floors + 0.8
        at, deep = (s0, s1), (near, near + side * 12)
        self.shell(b, at, deep, height, color, tag)
        flat = bool(self.rng.random() < self.style.flat_roofs)
        self.roof(b, at, deep, height, self._roof(), tag, flat, color)
