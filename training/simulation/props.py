# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Things that stand along a road: meshes about their origin on the ground, facing +x."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from training.simulation.mesh import Color, Material, Mesh, MeshBuilder
from training.simulation.vehicles import DARK, ID

STEEL: Color = (0.40, 0.41, 0.42)
WHITE: Color = (0.85, 0.85, 0.85)
_RED: Color = (0.65, 0.03, 0.04)
_BLUE: Color = (0.03, 0.12, 0.60)


def _leafy(rng: np.random.Generator, green: Color) -> Color:
    return tuple(np.clip(np.asarray(green) * rng.uniform(0.75, 1.3, 3), 0.01, 0.6))


def _trunk(b: MeshBuilder, rng: np.random.Generator, height: float, radius: float) -> None:
    bow = rng.normal(0, 0.12, 2)
    middle = (bow[0], bow[1], height * 0.55)
    b.cylinder((0, 0, -0.5), middle, radius * 1.25, radius * 0.85, n=7)
    b.cylinder(middle, (bow[0] * 0.5, bow[1] * 0.5, height), radius * 0.85, radius * 0.6)


def broadleaf(rng: np.random.Generator, green: Color, fine: bool = True) -> Mesh:
    """A tree of 6 to 11 m: trunk, boughs and a crown of several clumps."""
    b, c = MeshBuilder(), ID['vegetation']
    tag, shade = int(rng.integers(65536)), _leafy(rng, green)
    height = rng.uniform(6.0, 11.0)
    trunk = height * rng.uniform(0.26, 0.36)
    bark: Color = (0.16, 0.11, 0.07) if rng.random() < 0.8 else (0.45, 0.43, 0.38)
    b.use(c, Material.BARK, bark, tag)
    _trunk(b, rng, trunk + 0.8, height * 0.021)
    crown = (height - trunk) / 2
    wide = crown * rng.uniform(0.8, 1.1)
    middle = np.array((0, 0, trunk + crown))
    count = int(rng.integers(6, 9))
    centers = []
    for k in range(count):
        angle = 2.4 * k + rng.uniform(-0.4, 0.4)
        up = -0.8 + 1.5 * k / (count - 1)
        out = 0.62 * np.sqrt(max(0.0, 1 - up * up * 0.9))
        centers.append(
            middle
            + np.array([wide * out * np.cos(angle), wide * out * np.sin(angle), crown * up * 0.75])
        )
    for center in centers[:4] if fine else ():
        b.cylinder((0, 0, trunk * 0.9), center * (0.7, 0.7, 1) - (0, 0, 0.3), 0.07, 0.03, n=4)
    for center in centers:
        r = crown * rng.uniform(0.42, 0.56)
        tone = np.asarray(shade) * rng.uniform(0.75, 1.15)
        # Light comes from above: the lower clumps of a crown lie in its shade.
        tone = tone * np.clip(0.85 + 0.25 * (center[2] - middle[2]) / crown, 0.6, 1.1)
        b.use(c, Material.LEAF, tuple(tone), tag)
        b.blob(center, (r, r, r * 0.85), rng, 0.22, fine)
    b.use(c, Material.LEAF, shade, tag)
    for center in centers if fine else ():
        b.leaves(center, np.full(3, crown * 0.56), 46, 0.17, rng)
    return b.build()


def conifer(rng: np.random.Generator, green: Color, fine: bool = True) -> Mesh:
    """A spruce of 7 to 14 m in ragged tiers."""
    b, c = MeshBuilder(), ID['vegetation']
    tag = int(rng.integers(65536))
    shade = np.asarray(_leafy(rng, green)) * (0.6, 0.75, 0.85)
    height = rng.uniform(7, 14)
    b.use(c, Material.BARK, (0.14, 0.09, 0.06), tag)
    b.cylinder((0, 0, -0.5), (0, 0, height * 0.9), 0.2, 0.05)
    tiers, n = 6, 11 if fine else 5
    for k in range(tiers):
        low = height * (0.10 + 0.145 * k)
        radius = height * 0.21 * (1 - k / (tiers + 0.6))
        angle = np.arange(n) * 2 * np.pi / n + k
        jag = radius * rng.uniform(0.72, 1.15, n)
        rim = np.stack([jag * np.cos(angle), jag * np.sin(angle),
                        low - rng.uniform(0, 0.35, n)], 1)  # fmt: skip
        tip = np.broadcast_to((0, 0, low + height * 0.26), (n, 3))
        tone = shade * (0.8 + 0.35 * k / tiers)
        b.use(c, Material.LEAF, tuple(tone), tag)
        b.triangles(np.stack([rim, np.roll(rim, -1, 0), tip], 1))
        inner = np.broadcast_to((0, 0, low + 0.2), (n, 3))
        b.use(c, Material.LEAF, tuple(tone * 0.5), tag)
        b.triangles(np.stack([rim, np.roll(rim, -1, 0), inner], 1))
    b.use(c, Material.LEAF, tuple(shade), tag)
    if fine:
        b.leaves(
            (0, 0, height * 0.45), (height * 0.15, height * 0.15, height * 0.38), 90, 0.2, rng
        )
    return b.build()


def poplar(rng: np.random.Generator, green: Color, fine: bool = True) -> Mesh:
    """A slender tree of 9 to 14 m."""
    b, c = MeshBuilder(), ID['vegetation']
    tag, shade = int(rng.integers(65536)), _leafy(rng, green)
    height = rng.uniform(9, 14)
    b.use(c, Material.BARK, (0.18, 0.14, 0.10), tag)
    _trunk(b, rng, height * 0.3, 0.2)
    for k in range(5):
        r = height * (0.095, 0.115, 0.11, 0.09, 0.055)[k]
        z = height * (0.24 + 0.165 * k)
        b.use(c, Material.LEAF, tuple(np.asarray(shade) * (0.8 + 0.07 * k)), tag)
        b.blob(
            (rng.normal(0, 0.15), rng.normal(0, 0.15), z), (r, r, height * 0.13), rng, 0.2, fine
        )
    b.use(c, Material.LEAF, shade, tag)
    if fine:
        b.leaves((0, 0, height * 0.57), (height * 0.1, height * 0.1, height * 0.4), 170, 0.18, rng)
    return b.build()


TREES: tuple[Callable[[np.random.Generator, Color, bool], Mesh], ...] = (
    broadleaf,
    conifer,
    poplar,
)


def bush(rng: np.random.Generator, green: Color, fine: bool = True) -> Mesh:
    """A shrub of about a metre."""
    b = MeshBuilder()
    tag = int(rng.integers(65536))
    shade = _leafy(rng, green)
    for _ in range(3):
        r = rng.uniform(0.4, 0.75)
        center = (rng.normal(0, 0.3), rng.normal(0, 0.3), r * 0.7)
        tone = tuple(np.asarray(shade) * rng.uniform(0.7, 1.1))
        b.use(ID['vegetation'], Material.LEAF, tone, tag)
        b.blob(center, (r, r, r * 0.9), rng, 0.3, fine)
    if fine:
        b.leaves((0, 0, 0.6), (0.8, 0.8, 0.6), 50, 0.13, rng)
    return b.build()


def hedge(rng: np.random.Generator, green: Color, fine: bool = True, height: float = 1.3) -> Mesh:
    """Two metres of clipped hedge along x."""
    b = MeshBuilder()
    shade = _leafy(rng, green)
    b.use(ID['vegetation'], Material.LEAF, tuple(np.asarray(shade) * 0.75), 0)
    x = np.linspace(-1, 1, 5)
    rings = []
    for at in x:
        jitter = rng.uniform(-0.07, 0.07, (5, 2))
        outline = np.array([(-0.38, 0), (-0.36, height * 0.8), (0, height), (0.36, height * 0.8),
                            (0.38, 0)]) + jitter  # fmt: skip
        rings.append(np.column_stack([np.full(5, at), outline]))
    b.skin(np.array(rings))
    b.fan(rings[0])
    b.fan(rings[-1])
    b.use(ID['vegetation'], Material.LEAF, shade, 0)
    if fine:
        b.leaves((0, 0, height * 0.6), (0.95, 0.42, height * 0.45), 60, 0.09, rng)
    return b.build()


def street_lamp(arm: float = 1.6, height: float = 6.5) -> Mesh:
    """A lamp post; the arm points along +y; the light hangs at (0, arm, height - 0.1)."""
    b, c = MeshBuilder(), ID['pole']
    b.use(c, Material.METAL, (0.26, 0.28, 0.28))
    b.cylinder((0, 0, -0.3), (0, 0, 1.1), 0.13, n=7)
    b.cylinder((0, 0, 1.0), (0, 0, height), 0.09, 0.06)
    b.cylinder((0, 0, height - 0.1), (0, arm, height + 0.05), 0.05, n=4)
    b.box((-0.16, arm - 0.4, height), (0.16, arm + 0.32, height + 0.1))
    b.use(c, Material.STREETLAMP, (0.8, 0.75, 0.6))
    b.box((-0.14, arm - 0.3, height - 0.08), (0.14, arm + 0.3, height))
    return b.build()


def plain_pole(height: float = 0.9, radius: float = 0.05, color: Color = STEEL) -> Mesh:
    """A bollard or post."""
    b = MeshBuilder()
    b.use(ID['pole'], Material.METAL, color)
    b.cylinder((0, 0, -0.3), (0, 0, height), radius, n=7)
    return b.build()


def wire_pole(height: float = 8.0) -> Mesh:
    """A wooden telephone pole with a cross-arm."""
    b = MeshBuilder()
    b.use(ID['pole'], Material.BARK, (0.20, 0.15, 0.10))
    b.cylinder((0, 0, -0.5), (0, 0, height), 0.13, 0.09, n=7)
    b.box((-0.06, -0.9, height - 0.7), (0.06, 0.9, height - 0.55))
    b.use(ID['pole'], Material.METAL, (0.5, 0.5, 0.48))
    for y in (-0.8, 0.0, 0.8):
        b.cylinder((0, y, height - 0.55), (0, y, height - 0.35), 0.04, n=4)
    return b.build()


def delineator() -> Mesh:
    """A roadside post with a reflector, facing -x."""
    b = MeshBuilder()
    b.use(ID['pole'], Material.METAL, (0.75, 0.75, 0.74))
    b.box((-0.04, -0.06, -0.2), (0.04, 0.06, 1.0), 0.9)
    b.use(ID['pole'], Material.RUBBER, DARK)
    b.box((-0.045, -0.065, 0.68), (0.045, 0.065, 0.88))
    b.use(ID['pole'], Material.SIGN, (0.8, 0.6, 0.2))
    b.quad((-0.05, -0.03, 0.72), (-0.05, 0.03, 0.72), (-0.05, 0.03, 0.85), (-0.05, -0.03, 0.85))
    return b.build()


def traffic_light(state: int, arm: float = 0.0) -> Mesh:
    """Lights on a pole, facing -x (towards the traffic that drives along +x).

    Args:
        state: 0 red, 1 yellow, 2 green.
        arm: Length of a mast arm along +y; 0 for none.
    """
    b = MeshBuilder()
    height = 3.5 if arm == 0 else 6.0
    b.use(ID['pole'], Material.METAL, (0.22, 0.23, 0.24))
    b.cylinder((0, 0, -0.3), (0, 0, height), 0.09, 0.07)
    if arm:
        b.cylinder((0, 0, height - 0.1), (0, arm, height), 0.06, n=5)
    dark: Color = (0.035, 0.04, 0.035)
    for y, z in [(0.0, 2.4)] + ([(arm, 5.0)] if arm else []):
        b.use(ID['traffic light'], Material.MASONRY, dark)
        b.box((-0.22, y - 0.2, z), (0.05, y + 0.2, z + 1.05))
        b.quad((0.06, y - 0.34, z - 0.12), (0.06, y + 0.34, z - 0.12),
               (0.06, y + 0.34, z + 1.17), (0.06, y - 0.34, z + 1.17))  # fmt: skip
        colors: tuple[Color, ...] = ((0.9, 0.05, 0.03), (0.9, 0.55, 0.03), (0.05, 0.8, 0.35))
        for k, color in enumerate(colors):
            lit = k == state
            dim = color if lit else tuple(0.12 * np.asarray(color))
            at = z + 0.87 - 0.33 * k
            b.use(ID['traffic light'], Material.LAMP if lit else Material.MASONRY, dim)
            b.disc((-0.235, y, at), (-1, 0, 0), 0.135)
            b.use(ID['traffic light'], Material.MASONRY, dark)
            b.quad((-0.22, y - 0.15, at + 0.1), (-0.42, y - 0.13, at + 0.12),
                   (-0.42, y + 0.13, at + 0.12), (-0.22, y + 0.15, at + 0.1))  # fmt: skip
    return b.build()


SIGNS = 8


def traffic_sign(kind: int) -> Mesh:
    """A sign on a post, facing -x.

    Args:
        kind: 0 prohibition, 1 triangle, 2 blue square, 3 yellow diamond, 4 stop, 5 give way,
            6 blue disc, 7 town name.
    """
    b = MeshBuilder()
    b.use(ID['pole'], Material.METAL, STEEL)
    b.cylinder((0, 0, -0.3), (0, 0, 2.85), 0.04, n=5)
    c = ID['traffic sign']
    x, z = -0.06, 2.45

    def plate(color: Color, corners: list[tuple[float, float]], forward: float) -> None:
        b.use(c, Material.SIGN, color)
        b.fan([(x - forward, y, z + up) for y, up in corners])

    def regular(radius: float, n: int, turn: float = 0.0) -> list[tuple[float, float]]:
        angle = np.arange(n) * 2 * np.pi / n + turn
        return [(radius * float(np.cos(a)), radius * float(np.sin(a))) for a in angle]

    def triangle(size: float, up: int) -> list[tuple[float, float]]:
        return [(-size, -up * size * 0.6), (size, -up * size * 0.6), (0, up * size)]

    def rectangle(w: float, h: float) -> list[tuple[float, float]]:
        return [(-w, -h), (w, -h), (w, h), (-w, h)]

    layers: dict[int, list[tuple[Color, list[tuple[float, float]]]]] = {
        0: [(_RED, regular(0.36, 12)), (WHITE, regular(0.26, 12)),
            ((0.05, 0.05, 0.05), rectangle(0.12, 0.1))],
        1: [(_RED, triangle(0.45, 1)), (WHITE, triangle(0.28, 1)),
            ((0.05, 0.05, 0.05), rectangle(0.04, 0.1))],
        2: [(_BLUE, rectangle(0.34, 0.34)), (WHITE, rectangle(0.08, 0.24))],
        3: [(WHITE, regular(0.44, 4)), ((0.80, 0.58, 0.02), regular(0.33, 4))],
        4: [(_RED, regular(0.4, 8, np.pi / 8)), (WHITE, rectangle(0.26, 0.08))],
        5: [(_RED, triangle(0.45, -1)), (WHITE, triangle(0.29, -1))],
        6: [(_BLUE, regular(0.34, 12)), (WHITE, rectangle(0.05, 0.2))],
        7: [((0.75, 0.58, 0.02), rectangle(0.75, 0.4)),
            ((0.05, 0.05, 0.05), rectangle(0.5, 0.09))],
    }  # fmt: skip
    for k, (color, corners) in enumerate(layers[kind % SIGNS]):
        plate(color, corners, 0.015 * k)
    # The back of a sign is bare metal.
    b.use(c, Material.METAL, STEEL)
    b.fan([(x + 0.012, y, z + up) for y, up in layers[kind % SIGNS][0][1]])
    return b.build()


def gantry(span: float, color: Color = _BLUE) -> Mesh:
    """A sign gantry across a carriageway from y = 0 to `span`, facing -x."""
    b = MeshBuilder()
    b.use(ID['pole'], Material.METAL, STEEL)
    for y in (0.0, span):
        b.box((-0.2, y - 0.2, -1.0), (0.2, y + 0.2, 7.0))
    for z in (5.6, 6.9):
        b.box((-0.15, 0, z), (0.15, span, z + 0.15))
    count = max(1, int(span // 5.5))
    width = span / count
    for k in range(count):
        y0, y1 = k * width + 0.5, (k + 1) * width - 0.5
        board(b, -0.22, (y0, y1), (5.1, 7.6), color)
    return b.build()


def board(
    b: MeshBuilder, x: float, y: tuple[float, float], z: tuple[float, float], color: Color
) -> None:
    """Add a large lettered sign facing -x."""
    c = ID['traffic sign']
    b.use(c, Material.SIGN_TEXT, color)
    width, height = y[1] - y[0], z[1] - z[0]
    b.quad((x, y[1], z[0]), (x, y[0], z[0]), (x, y[0], z[1]), (x, y[1], z[1]))
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    b.texture(np.stack([corners[[0, 1, 2]], corners[[0, 2, 3]]]))
    b.use(c, Material.METAL, STEEL)
    b.quad((x + 0.03, y[0], z[0]), (x + 0.03, y[1], z[0]), (x + 0.03, y[1], z[1]),
           (x + 0.03, y[0], z[1]))  # fmt: skip


def direction_board(width: float = 3.2, height: float = 2.2, color: Color = _BLUE) -> Mesh:
    """A lettered sign on two posts, facing -x."""
    b = MeshBuilder()
    b.use(ID['pole'], Material.METAL, STEEL)
    for y in (-width * 0.3, width * 0.3):
        b.cylinder((0.05, y, -0.5), (0.05, y, 1.4 + height), 0.07, n=6)
    board(b, -0.06, (-width / 2, width / 2), (1.4, 1.4 + height), color)
    return b.build()


def bus_shelter() -> Mesh:
    """A glazed shelter of 4 m, open towards +y."""
    b, c = MeshBuilder(), ID['building']
    b.use(c, Material.METAL, (0.15, 0.16, 0.17))
    b.box((-2.0, -1.3, 2.35), (2.0, 0.2, 2.47))
    for x in (-1.95, 1.95):
        for y in (-1.2, 0.0):
            b.box((x - 0.04, y - 0.04, 0), (x + 0.04, y + 0.04, 2.35))
    b.use(c, Material.GLASS, (0.10, 0.12, 0.12))
    b.quad((-1.9, -1.22, 0.3), (1.9, -1.22, 0.3), (1.9, -1.22, 2.2), (-1.9, -1.22, 2.2))
    b.quad((-1.95, -1.2, 0.3), (-1.95, 0, 0.3), (-1.95, 0, 2.2), (-1.95, -1.2, 2.2))
    b.use(c, Material.METAL, STEEL)
    b.box((-1.4, -1.1, 0.4), (1.4, -0.75, 0.48))
    return b.build()
