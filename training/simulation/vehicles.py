# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Vehicles: meshes about their middle on the ground, facing +x."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from clcp_ros.classes import CITYSCAPES
from training.simulation.mesh import Color, Material, Mesh, MeshBuilder, placement

ID = {name: i for i, name in enumerate(CITYSCAPES.names)}
DARK: Color = (0.03, 0.03, 0.035)
GREY: Color = (0.30, 0.31, 0.32)
GLASS: Color = (0.05, 0.06, 0.07)
PAINTS: tuple[Color, ...] = (
    (0.72, 0.72, 0.73), (0.04, 0.04, 0.05), (0.33, 0.34, 0.36), (0.48, 0.03, 0.03),
    (0.04, 0.10, 0.36), (0.60, 0.60, 0.58), (0.10, 0.20, 0.12), (0.16, 0.17, 0.19),
    (0.50, 0.48, 0.42), (0.07, 0.09, 0.13), (0.66, 0.42, 0.05), (0.10, 0.28, 0.42),
)  # fmt: skip

Station = tuple[float, float, float, float, float, float, float]
"""x, z of sill, belt and roof, half width at sill, belt and roof."""


def pick(rng: np.random.Generator, colors: Sequence[Color]) -> Color:
    """One of the colours, a little lighter or darker."""
    c = np.asarray(colors[int(rng.integers(len(colors)))]) * rng.uniform(0.85, 1.15)
    return tuple(np.clip(c, 0.01, 0.95))


def unlit(mesh: Mesh) -> Mesh:
    """A parked vehicle: its lamps are off and only reflect."""
    material = mesh.material.copy()
    material[material == Material.HEADLIGHT] = Material.METAL
    material[material == Material.TAILLIGHT] = Material.SIGN
    return replace(mesh, material=material)


def braking(mesh: Mesh) -> Mesh:
    """A vehicle whose brake lights are on."""
    material = mesh.material.copy()
    material[material == Material.TAILLIGHT] = Material.BRAKELIGHT
    return replace(mesh, material=material)


def _shade(b: MeshBuilder, half_length: float, half_width: float) -> None:
    """Darkness on the road under a vehicle, which no light of the sky reaches."""
    b.use(ID['road'], Material.ASPHALT, (0.025, 0.025, 0.027))
    b.plate((-half_length, half_length), (-half_width, half_width), 0.012)


def _wheels(
    b: MeshBuilder, category: int, xs: Sequence[float], half: float, r: float, arch: bool = True
) -> None:
    for x in xs:
        for y in (-half, half):
            out = 1.0 if y > 0 else -1.0
            if arch and b.fine:
                b.use(category, Material.RUBBER, (0.015, 0.015, 0.016))
                b.disc((x, y + out * 0.004, r + 0.03), (0, out, 0), r + 0.07, n=10)
            b.use(category, Material.RUBBER, DARK)
            b.wheel((x, y + out * 0.03, r), r, 0.24)
            if b.fine:
                b.use(category, Material.METAL, (0.34, 0.35, 0.36))
                b.disc((x, y + out * 0.036, r), (0, out, 0), r * 0.62, n=7)


def _lights(
    b: MeshBuilder, category: int, front: float, back: float, half: float, z: float,
    wide: float = 0.17,
) -> None:  # fmt: skip
    for y in (-half + wide, half - wide):
        b.use(category, Material.HEADLIGHT, (0.9, 0.9, 0.85))
        b.box((front - 0.12, y - wide, z - 0.07), (front + 0.02, y + wide, z + 0.08))
        b.use(category, Material.TAILLIGHT, (0.55, 0.02, 0.02))
        b.box((back - 0.02, y - wide * 0.9, z), (back + 0.1, y + wide * 0.9, z + 0.17))
    b.use(category, Material.PLATE, (0.75, 0.75, 0.7))
    b.box((back - 0.03, -0.26, z - 0.22), (back + 0.02, 0.26, z - 0.1))
    b.box((front - 0.02, -0.26, z - 0.27), (front + 0.03, 0.26, z - 0.16))


def _body(
    b: MeshBuilder,
    category: int,
    paint: Color,
    stations: Sequence[Station],
    side_glass: Sequence[int],
    top_glass: Sequence[int],
) -> None:
    """The shell of a car over its stations from the front to the back."""
    s = np.array(stations)
    x, mid = s[:, 0], np.zeros(len(s))
    top = s[:, 3]
    for side in (-1, 1):
        sill = np.stack([x, side * s[:, 4], s[:, 1]], 1)
        flank = np.stack([x, side * s[:, 5], s[:, 1] * 0.45 + s[:, 2] * 0.55], 1)
        belt = np.stack([x, side * s[:, 5] * 0.975, s[:, 2]], 1)
        roof = np.stack([x, side * s[:, 6], top], 1)
        crown = np.stack([x, mid, top + 0.035], 1)
        b.use(category, Material.PAINT, paint)
        b.skin(np.stack([sill, flank, belt], 1))
        for k in range(len(s) - 1):
            for edge, other, glass in ((belt, roof, side_glass), (roof, crown, top_glass)):
                if k in glass:
                    b.use(category, Material.GLASS, GLASS)
                else:
                    b.use(category, Material.PAINT, paint)
                b.skin(np.stack([edge[k : k + 2], other[k : k + 2]], 1))
    b.use(category, Material.PAINT, paint)
    for k in (0, -1):
        sx, zb, zm, zt, wb, wm, wt = s[k]
        b.fan([(sx, -wb, zb), (sx, wb, zb), (sx, wm, zm), (sx, wt, zt), (sx, -wt, zt),
               (sx, -wm, zm)])  # fmt: skip
    b.use(category, Material.RUBBER, DARK)
    front, back = s[0, 0], s[-1, 0]
    b.box((front - 0.02, -0.5, 0.36), (front + 0.015, 0.5, 0.5))
    b.box((back, -s[-1, 4] * 0.9, 0.22), (back + 0.06, s[-1, 4] * 0.9, 0.36))


def _mirrors(b: MeshBuilder, x: float, y: float, z: float) -> None:
    for side in (-1, 1) if b.fine else ():
        at = side * (y + 0.1)
        b.box((x - 0.07, at - 0.09, z), (x + 0.07, at + 0.09, z + 0.14))


def car(rng: np.random.Generator, fine: bool = True) -> Mesh:
    """A hatchback, saloon, estate, sport utility or delivery van."""
    b, c = MeshBuilder(fine), ID['car']
    paint = pick(rng, PAINTS)
    kind = rng.choice(5, p=(0.3, 0.22, 0.18, 0.18, 0.12))
    stretch = rng.uniform(0.95, 1.05)
    if kind == 4:
        return _van(b, c, paint, float(stretch))
    length, roof, hood, lift = (
        (2.0, 1.46, 0.92, 0.20), (2.3, 1.42, 0.93, 0.17), (2.28, 1.46, 0.93, 0.18),
        (2.2, 1.70, 1.08, 0.30),
    )[kind]  # fmt: skip
    n, w = length * stretch, 0.86 + 0.04 * (kind == 3)
    belt = hood + 0.03
    # Along the car: nose, bonnet, cowl, top of the windscreen, two pillars, end of the roof, tail.
    tail_top = {0: n - 0.28, 1: n - 0.75, 2: n - 0.1, 3: n - 0.15}[kind]
    roof_end = {0: n - 0.65, 1: n - 1.35, 2: n - 0.45, 3: n - 0.45}[kind]
    cowl = n - 0.98
    screen = cowl - 0.72
    door = (screen - roof_end) * 0.46
    deck = belt + (0.04 if kind == 1 else 0.06)
    stations = [
        (n, lift + 0.12, 0.56, 0.66, w - 0.14, w - 0.06, w - 0.22),
        (n - 0.14, lift, 0.66, 0.78, w - 0.04, w, w - 0.14),
        (cowl, lift, belt - 0.03, hood + 0.05, w, w + 0.02, w - 0.14),
        (screen, lift, belt, roof - 0.04, w, w + 0.02, w - 0.30),
        (door + 0.05, lift, belt, roof, w, w + 0.02, w - 0.28),
        (door - 0.05, lift, belt, roof, w, w + 0.02, w - 0.28),
        (-roof_end + 0.25, lift, belt + 0.02, roof - 0.03, w, w + 0.02, w - 0.29),
        (-roof_end + 0.02, lift, belt + 0.03, roof - 0.06, w, w + 0.02, w - 0.30),
        (-tail_top, lift, belt + 0.03, deck, w, w, w - 0.16),
        (-n + 0.04, lift + 0.05, belt - 0.1, deck - 0.06, w - 0.05, w - 0.02, w - 0.18),
        (-n, lift + 0.1, 0.6, 0.72, w - 0.1, w - 0.06, w - 0.2),
    ]
    side = (2, 3, 5) + ((6,) if kind in (2, 3) else ()) + ((7,) if kind != 1 else ())
    _body(b, c, paint, stations, side, (2, 7))
    b.use(c, Material.PAINT, paint)
    _mirrors(b, cowl - 0.35, w, belt)
    if kind in (2, 3):
        b.use(c, Material.METAL, GREY)
        for y in (-w + 0.34, w - 0.34):
            b.box((-roof_end + 0.3, y - 0.02, roof), (screen - 0.2, y + 0.02, roof + 0.06))
    radius = 0.32 + 0.05 * (kind == 3)
    _wheels(b, c, (-n + 0.78, n - 0.82), w, radius)
    _lights(b, c, n - 0.02, -n, w - 0.06, 0.68 + 0.1 * (kind == 3))
    _shade(b, n - 0.1, w - 0.02)
    return b.build()


def _van(b: MeshBuilder, c: int, paint: Color, stretch: float) -> Mesh:
    n, roof, w = 2.6 * stretch, 2.1 * stretch, 0.96
    stations = [
        (n, 0.35, 0.6, 0.72, w - 0.12, w - 0.04, w - 0.2),
        (n - 0.12, 0.25, 0.75, 0.95, w, w, w - 0.12),
        (n - 0.62, 0.25, 1.08, 1.22, w, w + 0.02, w - 0.12),
        (n - 1.25, 0.25, 1.12, roof - 0.04, w, w + 0.02, w - 0.15),
        (n - 2.0, 0.25, 1.12, roof, w, w + 0.02, w - 0.12),
        (-n + 0.04, 0.25, 1.12, roof, w, w + 0.02, w - 0.12),
        (-n, 0.35, 1.12, roof - 0.05, w - 0.02, w, w - 0.14),
    ]
    _body(b, c, paint, stations, (2, 3), (2,))
    b.use(c, Material.GLASS, GLASS)
    b.box((-n - 0.012, -w + 0.2, 1.2), (-n + 0.02, -0.06, roof - 0.3))
    b.box((-n - 0.012, 0.06, 1.2), (-n + 0.02, w - 0.2, roof - 0.3))
    b.use(c, Material.PAINT, paint)
    _mirrors(b, n - 0.85, w, 1.15)
    _wheels(b, c, (-n + 0.95, n - 0.85), w, 0.34)
    _lights(b, c, n - 0.02, -n, w - 0.06, 0.8)
    _shade(b, n - 0.1, w)
    return b.build()


def _cab(b: MeshBuilder, c: int, paint: Color, front: float, half: float, roof: float) -> None:
    """A cab-over-engine cab of about two metres."""
    back = front - 2.0
    b.use(c, Material.PAINT, paint)
    b.extrude(
        [(back, 0.55), (front, 0.45), (front + 0.06, 1.45), (front - 0.25, roof - 0.15),
         (front - 0.6, roof), (back, roof)], half,
    )  # fmt: skip
    b.use(c, Material.GLASS, GLASS)
    top = roof - 0.55
    b.quad(
        (front + 0.075, -half * 0.9, 1.55), (front + 0.075, half * 0.9, 1.55),
        (front - 0.12, half * 0.86, top), (front - 0.12, -half * 0.86, top),
    )  # fmt: skip
    for side in (-half - 0.01, half + 0.01):
        b.quad((front - 0.25, side, 1.5), (front - 1.25, side, 1.5), (front - 1.25, side, top),
               (front - 0.4, side, top))  # fmt: skip
    b.use(c, Material.RUBBER, DARK)
    b.box((front + 0.02, -half * 0.8, 0.75), (front + 0.085, half * 0.8, 1.35))
    b.box((front - 0.3, -half, 0.3), (front + 0.1, half, 0.55))
    for side in (-1, 1):
        y = side * (half + 0.12)
        b.box((front - 0.2, y - 0.06, 1.6), (front - 0.08, y + 0.06, 2.25))


def truck(rng: np.random.Generator, long: bool | None = None, fine: bool = True) -> Mesh:
    """A lorry: box, tarpaulin, tipper or tank, alone or as a tractor with a semi-trailer."""
    b, c = MeshBuilder(fine), ID['truck']
    long = bool(rng.random() < 0.35) if long is None else long
    half_length = 8.0 if long else float(rng.uniform(3.8, 4.6))
    front, back = half_length, -half_length
    _cab(b, c, pick(rng, PAINTS), front, 1.2, 3.4 if long else 2.8)
    load_front = front - (2.7 if long else 2.15)
    kind = rng.choice(4, p=(0.4, 0.3, 0.18, 0.12))
    color = pick(rng, PAINTS)
    if kind < 2:
        b.use(c, Material.PAINT if kind == 0 else Material.TARP, color)
        b.box((back, -1.25, 1.0), (load_front, 1.25, 3.85 if long else 3.4))
        b.use(c, Material.METAL, (0.5, 0.5, 0.5))
        for y in (-1.18, -0.06, 1.18):
            b.box((back - 0.03, y - 0.04, 1.05), (back + 0.02, y + 0.04, 3.3))
    elif kind == 2:
        b.use(c, Material.PAINT, color)
        b.box((back, -1.24, 0.95), (load_front, 1.24, 1.75))
        for x in np.arange(back + 0.5, load_front, 1.1):
            b.box((x, -1.29, 0.95), (x + 0.12, 1.29, 1.8))
        b.use(c, Material.SOIL, (0.3, 0.22, 0.14))
        b.box((back + 0.3, -1.05, 1.6), (load_front - 0.3, 1.05, 2.3), 0.55)
    else:
        b.use(c, Material.METAL, (0.55, 0.56, 0.58))
        b.cylinder((back + 0.25, 0, 2.15), (load_front, 0, 2.15), 1.15, n=12)
        b.disc((back + 0.24, 0, 2.15), (-1, 0, 0), 1.15, n=12)
    b.use(c, Material.METAL, DARK)
    b.box((back, -0.85, 0.5), (front - 1.2, 0.85, 1.0))
    for side in (-1, 1):
        b.box((back + 2.8, side * 1.1 - 0.03, 0.45), (front - 3.4, side * 1.1 + 0.03, 0.95))
    axles = [back + 1.2, back + 2.35, front - 1.2]
    if long:
        axles += [back + 3.5, front - 4.0]
    _wheels(b, c, axles, 1.2, 0.5, arch=False)
    _lights(b, c, front + 0.1, back, 1.2, 0.85)
    _shade(b, half_length, 1.15)
    return b.build()


def _coach_body(
    b: MeshBuilder, category: int, color: Color, x: tuple[float, float], half: float, roof: float,
    ends: tuple[bool, bool] = (True, True),
) -> None:  # fmt: skip
    """Sides with windows, a roof, and ends with a windscreen where they are free."""
    back, front = x
    b.use(category, Material.COACH, color)
    for y in (-half, half):
        b.quad((back, y, 0.35), (front, y, 0.35), (front, y, roof - 0.15), (back, y, roof - 0.15))
    b.use(category, Material.PAINT, color)
    for y in (-1, 1):
        b.quad((back, y * half, roof - 0.15), (front, y * half, roof - 0.15),
               (front, y * half * 0.86, roof), (back, y * half * 0.86, roof))  # fmt: skip
    b.quad((back, -half * 0.86, roof), (front, -half * 0.86, roof), (front, half * 0.86, roof),
           (back, half * 0.86, roof))  # fmt: skip
    for at, out, free in ((front, 1, ends[0]), (back, -1, ends[1])):
        nose = at + 0.18 * out * free
        outline = [(-half, 0.35), (half, 0.35), (half, roof - 0.15), (half * 0.86, roof),
                   (-half * 0.86, roof), (-half, roof - 0.15)]  # fmt: skip
        rim = [(at, y, z) for y, z in outline]
        face = [(nose if z < 2 else at, y * 0.96, z) for y, z in outline]
        b.use(category, Material.PAINT, color)
        b.skin(np.array([rim, face]), closed=True)
        b.fan(face)
        if free:
            b.use(category, Material.GLASS, GLASS)
            b.quad((nose + 0.02 * out, -half * 0.88, 1.25), (nose + 0.02 * out, half * 0.88, 1.25),
                   (at + 0.03 * out, half * 0.82, roof - 0.55),
                   (at + 0.03 * out, -half * 0.82, roof - 0.55))  # fmt: skip
            b.use(category, Material.SIGN, (0.6, 0.35, 0.03))
            b.box((at - 0.02, -0.7, roof - 0.42), (at + 0.06 * out, 0.7, roof - 0.2))


def bus(rng: np.random.Generator, fine: bool = True) -> Mesh:
    """A city bus of 11 m or a coach."""
    b, c = MeshBuilder(fine), ID['bus']
    b.tag = int(rng.integers(65536))
    colors = ((0.62, 0.50, 0.04), (0.45, 0.04, 0.05), (0.06, 0.28, 0.30), (0.55, 0.55, 0.57))
    roof = float(rng.choice((3.05, 3.55)))
    _coach_body(b, c, pick(rng, colors), (-5.5, 5.5), 1.27, roof)
    b.use(c, Material.METAL, (0.5, 0.5, 0.5))
    b.box((-3.5, -0.8, roof), (0.5, 0.8, roof + 0.22))
    b.use(c, Material.RUBBER, DARK)
    _mirrors(b, 5.6, 1.3, 2.2)
    _wheels(b, c, (-3.3, 3.0), 1.27, 0.48)
    _lights(b, c, 5.68, -5.68, 1.2, 0.85)
    _shade(b, 5.4, 1.2)
    return b.build()


def tram(rng: np.random.Generator, part: int = 0, color: Color | None = None) -> Mesh:
    """One section of a tram, 9.2 m long; Cityscapes counts it as train.

    Args:
        rng: Source of the colour.
        part: 1 leads, 0 is in the middle, -1 comes last.
        color: Of all its sections.
    """
    b, c = MeshBuilder(), ID['train']
    b.tag = int(rng.integers(65536))
    color = color or pick(rng, ((0.55, 0.50, 0.38), (0.50, 0.06, 0.06), (0.10, 0.30, 0.16)))
    _coach_body(b, c, color, (-4.5, 4.5), 1.2, 3.4, (part > 0, part < 0))
    b.use(c, Material.RUBBER, DARK)
    if part <= 0:
        b.box((4.45, -1.05, 0.4), (4.75, 1.05, 3.25))
    b.box((-4.0, -1.1, 0.05), (4.0, 1.1, 0.36))
    b.use(c, Material.METAL, GREY)
    b.box((-2.5, -0.8, 3.4), (2.5, 0.8, 3.65))
    if part >= 0:
        for y in (-0.6, 0.6):
            b.cylinder((0, y, 3.6), (1.0, y, 4.6), 0.04, n=4)
        b.cylinder((1.0, -0.8, 4.6), (1.0, 0.8, 4.6), 0.05, n=4)
    if part > 0:
        b.use(c, Material.HEADLIGHT, (0.9, 0.9, 0.85))
        for y in (-0.8, 0.8):
            b.box((4.6, y - 0.15, 0.8), (4.71, y + 0.15, 1.0))
    elif part < 0:
        b.use(c, Material.TAILLIGHT, (0.55, 0.02, 0.02))
        for y in (-0.9, 0.9):
            b.box((-4.71, y - 0.1, 0.8), (-4.6, y + 0.1, 1.0))
    _shade(b, 4.4, 1.1)
    return b.build()


def railcar(rng: np.random.Generator, part: int = 0, color: Color | None = None) -> Mesh:
    """One carriage of a regional train, 20 m; `part` as in `tram`."""
    b, c = MeshBuilder(), ID['train']
    b.tag = int(rng.integers(65536))
    color = color or pick(rng, ((0.48, 0.04, 0.05), (0.10, 0.22, 0.42), (0.55, 0.55, 0.56)))
    shell = MeshBuilder()
    _coach_body(shell, c, color, (-9.8, 9.8), 1.4, 3.5, (part > 0, part < 0))
    b.add(shell.build().moved(placement(0, 0, 0.55)))
    b.use(c, Material.METAL, DARK)
    b.box((-9.0, -1.1, 0.35), (9.0, 1.1, 0.95))
    for x in (-7.6, -5.4, 5.4, 7.6):
        b.box((x - 0.45, -0.95, 0), (x + 0.45, 0.95, 0.8))
    if part > 0:
        b.use(c, Material.HEADLIGHT, (0.9, 0.9, 0.85))
        for y in (-0.9, 0.9):
            b.box((9.9, y - 0.15, 1.3), (10.02, y + 0.15, 1.5))
    return b.build()
