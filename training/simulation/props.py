# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Things that stand or move in a street: meshes about their origin on the ground, facing +x."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np

from clcp_ros.classes import CITYSCAPES
from training.simulation.mesh import Color, Material, Mesh, MeshBuilder, placement

ID = {name: i for i, name in enumerate(CITYSCAPES.names)}
DARK: Color = (0.03, 0.03, 0.035)
GREY: Color = (0.30, 0.31, 0.32)
_PAINTS: tuple[Color, ...] = (
    (0.75, 0.75, 0.76), (0.04, 0.04, 0.05), (0.35, 0.36, 0.38), (0.50, 0.03, 0.03),
    (0.04, 0.10, 0.38), (0.62, 0.62, 0.60), (0.12, 0.22, 0.14), (0.68, 0.45, 0.05),
)  # fmt: skip
_CLOTHES: tuple[Color, ...] = (
    (0.05, 0.05, 0.08), (0.30, 0.04, 0.05), (0.08, 0.12, 0.35), (0.55, 0.52, 0.45),
    (0.10, 0.25, 0.12), (0.65, 0.30, 0.05), (0.25, 0.22, 0.20), (0.60, 0.60, 0.62),
)  # fmt: skip
_SKIN: Color = (0.55, 0.36, 0.26)


def _pick(rng: np.random.Generator, colors: tuple[Color, ...]) -> Color:
    c = np.asarray(colors[rng.integers(len(colors))]) * rng.uniform(0.85, 1.15)
    return tuple(np.clip(c, 0.01, 0.95))


def unlit(mesh: Mesh) -> Mesh:
    """A parked vehicle: its lamps are off and only reflect."""
    material = mesh.material.copy()
    material[material == Material.HEADLIGHT] = Material.METAL
    material[material == Material.TAILLIGHT] = Material.SIGN
    return replace(mesh, material=material)


def _shade(b: MeshBuilder, half_length: float, half_width: float) -> None:
    """Darkness on the road under a vehicle, which no light of the sky reaches."""
    b.use(ID['road'], Material.ASPHALT, (0.025, 0.025, 0.027))
    b.plate((-half_length, half_length), (-half_width, half_width), 0.012)


def _wheels(b: MeshBuilder, category: int, xs: tuple[float, ...], half: float, r: float) -> None:
    b.use(category, Material.RUBBER, DARK)
    for x in xs:
        for y in (-half, half):
            side = np.sign(y)
            b.cylinder((x, y - side * 0.22, r), (x, y, r), r, n=8)


def _lights(
    b: MeshBuilder, category: int, front: float, back: float, half: float, z: float
) -> None:
    for y in (-half + 0.25, half - 0.25):
        b.use(category, Material.HEADLIGHT, (0.9, 0.9, 0.85))
        b.box((front - 0.05, y - 0.16, z - 0.08), (front + 0.03, y + 0.16, z + 0.08))
        b.use(category, Material.TAILLIGHT, (0.55, 0.02, 0.02))
        b.box((back - 0.03, y - 0.14, z), (back + 0.05, y + 0.14, z + 0.16))
    b.use(category, Material.SIGN, (0.75, 0.75, 0.7))
    b.box((back - 0.04, -0.26, z - 0.18), (back + 0.02, 0.26, z - 0.06))


def car(rng: np.random.Generator) -> Mesh:
    """A hatchback, a saloon or a van."""
    b, c = MeshBuilder(), ID['car']
    paint = _pick(rng, _PAINTS)
    shape = rng.integers(3)
    long = (1.95, 2.25, 2.4)[shape]
    roof = (1.48, 1.42, 1.95)[shape]
    b.use(c, Material.PAINT, paint)
    nose = 0.75 if shape < 2 else 0.95
    b.extrude(
        [
            (-long, 0.25), (long, 0.25), (long + 0.04, 0.6), (long - 0.7, nose + 0.12),
            (-long, 0.92),
        ],
        0.88, 0.95,
    )  # fmt: skip
    rear = (-long + 0.15, -long + 0.9, -long + 0.05)[shape]
    front = (long - 1.1, long - 1.3, long - 0.75)[shape]
    b.use(c, Material.GLASS, (0.05, 0.06, 0.07))
    b.extrude([(rear, 0.88), (front, 0.86), (front - 0.7, roof), (rear + 0.35, roof)], 0.82, 0.8)
    b.use(c, Material.PAINT, paint)
    b.box((rear + 0.3, -0.68, roof - 0.03), (front - 0.62, 0.68, roof + 0.04))
    for x in (rear + 0.25, (rear + front) / 2 - 0.2):
        b.box((x, -0.8, 0.85), (x + 0.1, 0.8, roof - 0.02), 0.86)
    _wheels(b, c, (-long + 0.75, long - 0.8), 0.9, 0.32)
    _lights(b, c, long + 0.02, -long, 0.88, 0.65)
    _shade(b, long - 0.1, 0.85)
    return b.build()


def truck(rng: np.random.Generator) -> Mesh:
    """A lorry with a box body or a flat bed."""
    b, c = MeshBuilder(), ID['truck']
    cab = _pick(rng, _PAINTS)
    b.use(c, Material.PAINT, cab)
    b.extrude([(2.1, 0.5), (4.1, 0.5), (4.15, 1.4), (3.85, 2.75), (2.1, 2.85)], 1.18)
    b.use(c, Material.GLASS, (0.05, 0.06, 0.07))
    b.extrude([(4.0, 1.55), (4.17, 1.5), (3.92, 2.5), (3.7, 2.5)], 1.02)
    b.box((2.7, -1.2, 1.55), (3.7, 1.2, 2.3))
    b.use(c, Material.PAINT, _pick(rng, _PAINTS))
    if rng.random() < 0.7:
        b.box((-4.0, -1.24, 0.95), (1.9, 1.24, 3.5))
    else:
        b.box((-4.0, -1.24, 0.95), (1.9, 1.24, 1.6))
        b.use(c, Material.SOIL, (0.3, 0.22, 0.14))
        b.box((-3.8, -1.1, 1.5), (1.7, 1.1, 2.2), 0.7)
    b.use(c, Material.METAL, DARK)
    b.box((-4.0, -0.9, 0.45), (3.0, 0.9, 0.95))
    _wheels(b, c, (-3.0, -1.9, 3.2), 1.15, 0.48)
    _lights(b, c, 4.12, -4.0, 1.2, 0.85)
    _shade(b, 4.0, 1.15)
    return b.build()


def _coach(
    category: int, color: Color, length: float, half: float, roof: float, rng: np.random.Generator
) -> MeshBuilder:
    b = MeshBuilder()
    x = length / 2
    b.use(category, Material.COACH, color, int(rng.integers(65536)))
    b.box((-x, -half, 0.35), (x, half, roof), 0.985)
    b.use(category, Material.METAL, (0.5, 0.5, 0.5))
    b.box((-x + 1, -half * 0.6, roof), (x - 1, half * 0.6, roof + 0.2))
    return b


def bus(rng: np.random.Generator) -> Mesh:
    """A city bus of 11 m."""
    colors = ((0.62, 0.50, 0.04), (0.45, 0.04, 0.05), (0.06, 0.28, 0.30), (0.55, 0.55, 0.57))
    b = _coach(ID['bus'], _pick(rng, colors), 11.0, 1.27, 3.1, rng)
    _wheels(b, ID['bus'], (-3.4, 3.2), 1.22, 0.48)
    _lights(b, ID['bus'], 5.5, -5.5, 1.2, 0.8)
    _shade(b, 5.4, 1.2)
    return b.build()


def tram(rng: np.random.Generator) -> Mesh:
    """A tram of three sections, 28 m; Cityscapes counts it as train."""
    c = ID['train']
    color = _pick(rng, ((0.55, 0.50, 0.38), (0.50, 0.06, 0.06), (0.10, 0.30, 0.16)))
    b = MeshBuilder()
    for x in (-9.4, 0.0, 9.4):
        b.add(_coach(c, color, 9.0, 1.25, 3.45, rng).build().moved(placement(x, 0)))
    b.use(c, Material.RUBBER, DARK)
    for x in (-4.7, 4.7):
        b.box((x - 0.3, -1.1, 0.4), (x + 0.3, 1.1, 3.3))
    b.use(c, Material.METAL, GREY)
    b.cylinder((0, -0.6, 3.6), (1.2, -0.6, 5.0), 0.04, n=4)
    b.cylinder((0, 0.6, 3.6), (1.2, 0.6, 5.0), 0.04, n=4)
    b.cylinder((1.2, -0.8, 5.0), (1.2, 0.8, 5.0), 0.05, n=4)
    _lights(b, c, 13.9, -13.9, 1.1, 0.9)
    _shade(b, 13.8, 1.15)
    return b.build()


def person(rng: np.random.Generator, category: int = ID['person'], stride: float = 0.25) -> Mesh:
    """Somebody walking, about 1.75 m."""
    b = MeshBuilder()
    b.use(category, Material.CLOTH, _pick(rng, _CLOTHES))
    for y, x in ((-0.1, stride), (0.1, -stride)):
        b.cylinder((x, y, 0), (0, y, 0.85), 0.075, 0.1, n=5)
    b.use(category, Material.CLOTH, _pick(rng, _CLOTHES))
    b.cylinder((0, 0, 0.82), (0.02, 0, 1.45), 0.17, 0.22, n=7)
    for y, x in ((-0.26, -stride), (0.26, stride)):
        b.cylinder((0, y * 0.85, 1.42), (x * 0.8, y, 0.85), 0.065, 0.05, n=5)
    b.use(category, Material.CLOTH, _SKIN)
    b.blob((0.03, 0, 1.62), (0.1, 0.09, 0.13))
    if rng.random() < 0.25:
        b.use(category, Material.CLOTH, _pick(rng, _CLOTHES))
        b.box((-0.35, -0.17, 0.95), (-0.14, 0.17, 1.4))
    return b.build().scaled(float(rng.uniform(0.88, 1.08)))


def _rider(b: MeshBuilder, rng: np.random.Generator, seat: float, bar: float) -> None:
    c = ID['rider']
    b.use(c, Material.CLOTH, _pick(rng, _CLOTHES))
    for y, z in ((-0.13, 0.35), (0.13, 0.15)):
        b.cylinder((-0.15, y, seat), (0.22, y, seat - 0.2), 0.08, n=5)
        b.cylinder((0.22, y, seat - 0.2), (0.1, y, z), 0.065, n=5)
    b.use(c, Material.CLOTH, _pick(rng, _CLOTHES))
    b.cylinder((-0.15, 0, seat - 0.05), (0.08, 0, seat + 0.58), 0.16, 0.2, n=7)
    for y in (-0.24, 0.24):
        b.cylinder((0.06, y * 0.8, seat + 0.52), (0.45, y, bar), 0.055, n=5)
    b.use(c, Material.CLOTH, _pick(rng, _CLOTHES) if rng.random() < 0.6 else _SKIN)
    b.blob((0.15, 0, seat + 0.76), (0.12, 0.1, 0.13))


def bicycle(rng: np.random.Generator, ridden: bool = True) -> Mesh:
    """A bicycle, with a rider on it or parked."""
    b, c = MeshBuilder(), ID['bicycle']
    b.use(c, Material.RUBBER, DARK)
    angle = np.linspace(0, 2 * np.pi, 13)
    for x in (-0.52, 0.52):
        rim = np.column_stack(
            [x + 0.34 * np.cos(angle), np.zeros(13), 0.35 + 0.34 * np.sin(angle)]
        )
        for p, q in itertools.pairwise(rim):
            b.cylinder(p, q, 0.028, n=3)
        for k in range(0, 12, 2):
            b.cylinder((x, 0, 0.35), rim[k], 0.008, n=3)
    b.use(c, Material.PAINT, _pick(rng, _PAINTS))
    for p, q in (
        ((-0.52, 0, 0.35), (-0.1, 0, 0.3)), ((-0.1, 0, 0.3), (-0.2, 0, 0.88)),
        ((-0.1, 0, 0.3), (0.36, 0, 0.78)), ((-0.18, 0, 0.75), (0.36, 0, 0.8)),
        ((-0.52, 0, 0.35), (-0.18, 0, 0.75)), ((0.52, 0, 0.35), (0.36, 0, 0.98)),
    ):  # fmt: skip
        b.cylinder(p, q, 0.025, n=4)
    b.use(c, Material.RUBBER, DARK)
    b.cylinder((0.4, -0.27, 1.0), (0.4, 0.27, 1.0), 0.02, n=4)
    b.box((-0.32, -0.07, 0.86), (-0.1, 0.07, 0.93))
    if ridden:
        _rider(b, rng, 0.95, 1.02)
    return b.build()


def motorcycle(rng: np.random.Generator, ridden: bool = True) -> Mesh:
    """A motorcycle, with a rider on it or parked."""
    b, c = MeshBuilder(), ID['motorcycle']
    b.use(c, Material.RUBBER, DARK)
    for x in (-0.7, 0.72):
        b.cylinder((x, -0.08, 0.32), (x, 0.08, 0.32), 0.32, n=10)
        b.disc((x, -0.09, 0.32), (0, -1, 0), 0.32, n=10)
    b.use(c, Material.METAL, GREY)
    b.box((-0.35, -0.17, 0.22), (0.32, 0.17, 0.6))
    b.cylinder((0.72, 0, 0.32), (0.45, 0, 0.98), 0.06, n=5)
    b.use(c, Material.PAINT, _pick(rng, _PAINTS[2:]))
    b.extrude([(-0.95, 0.68), (-0.2, 0.55), (0.5, 0.6), (0.42, 0.98), (0.0, 0.9)], 0.17, 0.8)
    b.use(c, Material.RUBBER, DARK)
    b.box((-0.75, -0.15, 0.74), (-0.05, 0.15, 0.86))
    b.cylinder((0.42, -0.36, 1.02), (0.42, 0.36, 1.02), 0.025, n=4)
    _lights(b, c, 0.62, -0.95, 0.3, 0.72)
    if ridden:
        _rider(b, rng, 0.88, 1.05)
    return b.build()


def tree(rng: np.random.Generator, green: Color) -> Mesh:
    """A broad-leaved tree of 5 to 9 m or a conifer; the trunk counts as vegetation."""
    b, c = MeshBuilder(), ID['vegetation']
    tag = int(rng.integers(65536))
    shade = tuple(np.clip(np.asarray(green) * rng.uniform(0.75, 1.3, 3), 0.01, 0.6))
    height = rng.uniform(5.0, 9.0)
    b.use(c, Material.BARK, (0.16, 0.11, 0.07), tag)
    if rng.random() < 0.2:
        b.cylinder((0, 0, 0), (0, 0, height * 0.5), 0.16, 0.08)
        b.use(c, Material.LEAF, tuple(np.asarray(shade) * (0.5, 0.7, 0.8)), tag)
        for k in range(3):
            z = 0.9 + k * height * 0.27
            b.cylinder((0, 0, z), (0, 0, z + height * 0.42), 1.7 - 0.42 * k, 0.05, n=9)
        b.leaves((0, 0, height * 0.45), (1.25, 1.25, height * 0.38), 70, 0.22, rng)
        return b.build()
    trunk = height * 0.38
    b.cylinder((0, 0, 0), (rng.normal(0, 0.1), rng.normal(0, 0.1), trunk + 0.8), 0.17, 0.11)
    b.use(c, Material.LEAF, shade, tag)
    crown = (height - trunk) / 2
    for _ in range(2):
        offset = rng.normal(0, 0.45, 3) * (1, 1, 0.6)
        r = crown * rng.uniform(0.55, 0.8)
        b.blob(offset + np.array((0, 0, trunk + crown * 0.9)), (r, r, r * 0.9), rng, 0.25)
    b.leaves((0, 0, trunk + crown * 0.9), (crown * 0.95, crown * 0.95, crown), 180, 0.19, rng)
    return b.build()


def bush(rng: np.random.Generator, green: Color) -> Mesh:
    """A shrub of about a metre."""
    b = MeshBuilder()
    shade = tuple(np.clip(np.asarray(green) * rng.uniform(0.6, 1.2, 3), 0.01, 0.6))
    b.use(ID['vegetation'], Material.LEAF, shade, int(rng.integers(65536)))
    r = rng.uniform(0.5, 0.9)
    b.blob((0, 0, r * 0.7), (r, r, r * 0.9), rng, 0.3)
    b.leaves((0, 0, r * 0.75), (r, r, r), 40, 0.12, rng)
    return b.build()


def street_lamp(arm: float = 1.6) -> Mesh:
    """A lamp post of 6.5 m; the arm points along +y; the light hangs at (0, arm, 6.4)."""
    b, c = MeshBuilder(), ID['pole']
    b.use(c, Material.METAL, (0.26, 0.28, 0.28))
    b.cylinder((0, 0, 0), (0, 0, 6.5), 0.09, 0.06)
    b.cylinder((0, 0, 6.4), (0, arm, 6.55), 0.045, n=4)
    b.use(c, Material.STREETLAMP, (0.8, 0.75, 0.6))
    b.box((-0.14, arm - 0.3, 6.42), (0.14, arm + 0.3, 6.56))
    return b.build()


def traffic_light(state: int, arm: float = 0.0) -> Mesh:
    """Lights on a pole, facing -x (towards the traffic that drives along +x).

    Args:
        state: 0 red, 1 yellow, 2 green.
        arm: Length of a mast arm along +y; 0 for none.
    """
    b = MeshBuilder()
    height = 3.3 if arm == 0 else 5.8
    b.use(ID['pole'], Material.METAL, (0.22, 0.23, 0.24))
    b.cylinder((0, 0, 0), (0, 0, height), 0.08, 0.07)
    if arm:
        b.cylinder((0, 0, height - 0.1), (0, arm, height), 0.06, n=5)
    for y, z in [(0.0, 2.4)] + ([(arm, 4.9)] if arm else []):
        b.use(ID['traffic light'], Material.MASONRY, (0.035, 0.04, 0.035))
        b.box((-0.22, y - 0.19, z), (0.05, y + 0.19, z + 1.0))
        b.quad(
            (0.06, y - 0.19, z),
            (0.06, y + 0.19, z),
            (0.06, y + 0.19, z + 1),
            (0.06, y - 0.19, z + 1),
        )
        colors: tuple[Color, ...] = ((0.9, 0.05, 0.03), (0.9, 0.55, 0.03), (0.05, 0.8, 0.35))
        for k, color in enumerate(colors):
            lit = k == state
            dim = color if lit else tuple(0.12 * np.asarray(color))
            b.use(ID['traffic light'], Material.LAMP if lit else Material.MASONRY, dim)
            b.disc((-0.235, y, z + 0.82 - 0.31 * k), (-1, 0, 0), 0.125)
    return b.build()


def traffic_sign(kind: int) -> Mesh:
    """A sign on a post, facing -x: 0 prohibition, 1 triangle, 2 blue, 3 yellow, 4 stop."""
    b = MeshBuilder()
    b.use(ID['pole'], Material.METAL, (0.40, 0.41, 0.42))
    b.cylinder((0, 0, 0), (0, 0, 2.75), 0.04, n=5)
    c = ID['traffic sign']
    x, z = -0.06, 2.4
    if kind == 0:
        b.use(c, Material.SIGN, (0.65, 0.03, 0.04)).disc((x, 0, z), (-1, 0, 0), 0.36, n=12)
        b.use(c, Material.SIGN, (0.85, 0.85, 0.85)).disc((x - 0.02, 0, z), (-1, 0, 0), 0.26, n=12)
    elif kind == 1:
        for size, color in ((0.45, (0.65, 0.03, 0.04)), (0.28, (0.85, 0.85, 0.85))):
            b.use(c, Material.SIGN, color)
            x -= 0.015
            b.triangles(
                np.array(
                    [[(x, -size, z - size * 0.6), (x, size, z - size * 0.6), (x, 0, z + size)]]
                )
            )
    elif kind == 4:
        b.use(c, Material.SIGN, (0.65, 0.03, 0.04)).disc((x, 0, z), (-1, 0, 0), 0.4, n=8)
    else:
        color = (0.03, 0.12, 0.60) if kind == 2 else (0.80, 0.58, 0.02)
        b.use(c, Material.SIGN, color)
        b.quad(
            (x, -0.34, z - 0.34), (x, 0.34, z - 0.34), (x, 0.34, z + 0.34), (x, -0.34, z + 0.34)
        )
        b.use(c, Material.SIGN, (0.85, 0.85, 0.85))
        x -= 0.015
        b.quad(
            (x, -0.08, z - 0.24), (x, 0.08, z - 0.24), (x, 0.08, z + 0.24), (x, -0.08, z + 0.24)
        )
    return b.build()
