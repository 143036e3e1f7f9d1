# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""People on foot and on two wheels: meshes about their middle on the ground, facing +x."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from training.simulation.mesh import Color, Material, Mesh, MeshBuilder
from training.simulation.vehicles import DARK, GREY, ID, PAINTS, pick

_CLOTHES: tuple[Color, ...] = (
    (0.05, 0.05, 0.08), (0.30, 0.04, 0.05), (0.08, 0.12, 0.35), (0.55, 0.52, 0.45),
    (0.10, 0.25, 0.12), (0.65, 0.30, 0.05), (0.25, 0.22, 0.20), (0.60, 0.60, 0.62),
    (0.50, 0.42, 0.10), (0.35, 0.15, 0.35), (0.10, 0.30, 0.36), (0.16, 0.13, 0.10),
)  # fmt: skip
_TROUSERS: tuple[Color, ...] = (
    (0.04, 0.05, 0.12), (0.05, 0.05, 0.05), (0.10, 0.13, 0.22), (0.30, 0.26, 0.20),
    (0.20, 0.20, 0.21), (0.14, 0.10, 0.07),
)  # fmt: skip
_SKINS: tuple[Color, ...] = ((0.55, 0.36, 0.26), (0.62, 0.44, 0.34), (0.25, 0.14, 0.09))
_HAIR: tuple[Color, ...] = ((0.03, 0.02, 0.02), (0.10, 0.06, 0.03), (0.30, 0.20, 0.09),
                            (0.32, 0.31, 0.30))  # fmt: skip


@dataclass(frozen=True)
class Looks:
    """What somebody looks like, so that all steps of a walk show the same person.

    Attributes:
        top: Colour of the upper clothes.
        legs: Colour of the lower clothes.
        skin: Colour of the skin.
        hair: Colour of the hair.
        height: In metres.
        girth: Around, 1 is average.
        coat: Length of the coat below the hip in metres.
        bag: 0 none, 1 rucksack, 2 bag in the hand, 3 hat.
        bag_color: Colour of the bag or hat.
    """

    top: Color
    legs: Color
    skin: Color
    hair: Color
    height: float
    girth: float
    coat: float
    bag: int
    bag_color: Color


def looks(rng: np.random.Generator) -> Looks:
    """Somebody; one in eight is a child."""
    child = rng.random() < 0.125
    return Looks(
        pick(rng, _CLOTHES), pick(rng, _TROUSERS), pick(rng, _SKINS), pick(rng, _HAIR),
        float(rng.uniform(1.1, 1.4) if child else rng.normal(1.73, 0.09)),
        float(rng.uniform(0.9, 1.2)),
        float(rng.choice((0.0, 0.0, 0.0, 0.25, 0.5))),
        int(rng.choice(4, p=(0.5, 0.2, 0.2, 0.1))), pick(rng, _CLOTHES),
    )  # fmt: skip


def _rings(points: list[tuple[float, float, float, float, float]], n: int = 7) -> np.ndarray:
    """(M, n, 3) rings about (x, y, z) with half depth and half width."""
    angle = np.arange(n) * 2 * np.pi / n
    p = np.array(points)
    ring = np.stack([np.cos(angle), np.sin(angle), np.zeros(n)], 1)
    return p[:, None, :3] + ring * np.stack([p[:, 3], p[:, 4], np.zeros(len(p))], 1)[:, None]


def _limb(b: MeshBuilder, joints: list[tuple[float, float, float]], radii: list[float]) -> None:
    for (p, q), (r0, r1) in zip(
        itertools.pairwise(joints), itertools.pairwise(radii), strict=True
    ):
        b.cylinder(p, q, r0, r1, n=5 if b.fine else 3)


def _upper(
    b: MeshBuilder, c: int, who: Looks, hip: tuple[float, float], lean: float, scale: float
) -> tuple[float, float]:
    """Torso, neck and head above the hip (x, z); returns where the shoulders are."""
    x, z = hip
    g = who.girth
    sx = x + lean
    b.use(c, Material.CLOTH, who.top)
    b.skin(
        _rings([
            (x, 0, z - 0.08 * scale - who.coat * scale, 0.13 * g, 0.17 * g + 0.1 * who.coat),
            (x, 0, z, 0.115 * g, 0.165 * g),
            (x + lean * 0.5, 0, z + 0.22 * scale, 0.11 * g, 0.15 * g),
            (sx, 0, z + 0.44 * scale, 0.125 * g, 0.20 * g),
            (sx, 0, z + 0.55 * scale, 0.09, 0.15),
            (sx + 0.01, 0, z + 0.60 * scale, 0.055, 0.06),
        ], 7 if b.fine else 4), closed=True,
    )  # fmt: skip
    b.use(c, Material.SKIN, who.skin)
    b.skin(
        _rings([
            (sx + 0.02, 0, z + 0.57 * scale, 0.055, 0.055),
            (sx + 0.05, 0, z + 0.66 * scale, 0.08, 0.065),
            (sx + 0.05, 0, z + 0.76 * scale, 0.10, 0.08),
            (sx + 0.05, 0, z + 0.80 * scale, 0.095, 0.078),
        ], 6 if b.fine else 4), closed=True,
    )  # fmt: skip
    hat = who.bag == 3
    b.use(c, Material.CLOTH if hat else Material.SKIN, who.bag_color if hat else who.hair)
    b.skin(
        _rings([
            (sx + 0.01, 0, z + 0.70 * scale, 0.085, 0.085),
            (sx + 0.02, 0, z + 0.80 * scale, 0.11, 0.095),
            (sx + 0.03, 0, z + 0.87 * scale, 0.07, 0.06),
            (sx + 0.03, 0, z + 0.885 * scale, 0.01, 0.01),
        ], 6 if b.fine else 4), closed=True,
    )  # fmt: skip
    if who.bag == 1:
        b.use(c, Material.CLOTH, who.bag_color)
        b.box((sx - 0.34, -0.16, z + 0.1 * scale), (sx - 0.1, 0.16, z + 0.5 * scale), 0.85)
    return sx, z + 0.5 * scale


def person(who: Looks, phase: float = 0.0, stride: float = 0.3) -> Mesh:
    """Somebody walking or, with a short stride, standing.

    Args:
        who: Looks.
        phase: Of the gait, in [0, 1).
        stride: Reach of a foot before the hip in metres for somebody of 1.75 m.
    """
    b, c = MeshBuilder(), ID['person']
    swing = np.sin(2 * np.pi * phase)
    hip = 0.90 - 0.03 * abs(swing) * (stride > 0.1)
    for side in (-1, 1):
        reach = side * stride * swing
        # The trailing leg bends in the swing, the leading one is nearly straight.
        lift = max(0.0, side * np.cos(2 * np.pi * phase)) * stride * 0.45
        y = side * 0.09
        knee = (reach * 0.55 + 0.04 + 0.15 * lift, y, 0.48 + 0.4 * lift)
        ankle = (reach, y, 0.08 + lift * 0.6)
        b.use(c, Material.CLOTH, who.legs)
        _limb(b, [(0, y, hip), knee, ankle], [0.095 * who.girth, 0.075, 0.055])
        b.use(c, Material.RUBBER, DARK)
        b.box(
            (ankle[0] - 0.07, y - 0.045, ankle[2] - 0.08), (ankle[0] + 0.18, y + 0.045, ankle[2])
        )
    sx, sz = _upper(b, c, who, (0.0, hip), 0.03, 1.0)
    for side in (-1, 1):
        reach = -side * stride * swing * 0.8
        y = side * (0.2 * who.girth + 0.03)
        elbow = (sx + reach * 0.4, y + side * 0.03, sz - 0.29)
        hand = (sx + reach + 0.04, y + side * 0.01, sz - 0.53)
        b.use(c, Material.CLOTH, who.top)
        _limb(b, [(sx, y * 0.9, sz), elbow, hand], [0.06, 0.052, 0.04])
        b.use(c, Material.SKIN, who.skin)
        b.box((hand[0] - 0.03, y - 0.03, hand[2] - 0.1), (hand[0] + 0.04, y + 0.03, hand[2]))
        if who.bag == 2 and side < 0:
            b.use(c, Material.CLOTH, who.bag_color)
            b.box(
                (hand[0] - 0.16, y - 0.06, hand[2] - 0.4), (hand[0] + 0.16, y + 0.05, hand[2]), 0.8
            )
    return b.build().scaled(who.height / 1.79)


def figure(who: Looks, phase: float = 0.0, stride: float = 0.3) -> Mesh:
    """Somebody as `person`, with few triangles, for a distance."""
    b, c = MeshBuilder(fine=False), ID['person']
    swing = float(np.sin(2 * np.pi * phase))
    g = who.girth
    for side in (-1, 1):
        y, out = side * 0.09, side * (0.2 * g + 0.03)
        foot, hand = side * stride * swing + 0.03, 0.06 - side * stride * swing * 0.8
        b.use(c, Material.CLOTH, who.legs)
        b.skin(_rings([(0, y, 0.92, 0.1, 0.1), (foot, y, 0, 0.08, 0.07)], 3), closed=True)
        b.use(c, Material.CLOTH, who.top)
        b.skin(
            _rings([(0.03, out, 1.42, 0.06, 0.06), (hand, out, 0.8, 0.05, 0.05)], 3), closed=True
        )
    b.skin(
        _rings([
            (0, 0, 0.82 - who.coat, 0.14 * g, 0.19 * g + 0.1 * who.coat),
            (0.03, 0, 1.4, 0.12 * g, 0.21 * g), (0.04, 0, 1.52, 0.04, 0.05),
        ], 4), closed=True,
    )  # fmt: skip
    b.use(c, Material.SKIN, who.skin)
    b.skin(_rings([(0.05, 0, 1.47, 0.07, 0.07), (0.08, 0, 1.68, 0.11, 0.1)], 4), closed=True)
    b.use(c, Material.SKIN, who.bag_color if who.bag == 3 else who.hair)
    b.skin(_rings([(0.05, 0, 1.64, 0.12, 0.11), (0.06, 0, 1.79, 0.01, 0.01)], 4), closed=True)
    return b.build().scaled(who.height / 1.79)


def _rider(
    b: MeshBuilder, who: Looks, seat: float, bar: tuple[float, float], helmet: bool
) -> None:
    c = ID['rider']
    for y, z in ((-0.12, 0.36), (0.12, 0.14)):
        b.use(c, Material.CLOTH, who.legs)
        _limb(b, [(-0.16, y, seat), (0.2, y, seat - 0.28 + z * 0.4), (0.04, y, z)],
              [0.09, 0.075, 0.05])  # fmt: skip
        b.use(c, Material.RUBBER, DARK)
        b.box((-0.03, y - 0.045, z - 0.07), (0.2, y + 0.045, z + 0.01))
    sx, sz = _upper(b, c, who, (-0.17, seat + 0.02), 0.22, 0.98)
    b.use(c, Material.CLOTH, who.top)
    for y in (-0.2, 0.2):
        _limb(b, [(sx, y, sz), ((sx + bar[0]) / 2, y * 1.25, (sz + bar[1]) / 2 - 0.06),
                  (bar[0], y * 1.15, bar[1])], [0.055, 0.05, 0.04])  # fmt: skip
    if helmet:
        b.use(c, Material.PAINT, who.bag_color)
        b.blob((sx + 0.03, 0, sz + 0.31), (0.15, 0.12, 0.12), fine=b.fine)


def bicycle(rng: np.random.Generator, ridden: bool = True, fine: bool = True) -> Mesh:
    """A bicycle, with a rider on it or parked."""
    b, c = MeshBuilder(fine), ID['bicycle']
    angle = np.linspace(0, 2 * np.pi, 13 if fine else 8)
    for x in (-0.52, 0.52):
        b.use(c, Material.RUBBER, DARK)
        radius, half = 0.345, 0.022
        circle = np.stack([np.cos(angle), 0 * angle, np.sin(angle)], 1)
        hub = np.array([x, 0, 0.35])
        inner = hub + (radius - 0.045) * circle
        left, right = (hub + radius * circle + np.array([0, y, 0]) for y in (half, -half))
        b.skin(np.stack([inner, left, right, inner], 1))
        b.use(c, Material.METAL, GREY)
        for k in range(0, 12, 2) if fine else ():
            b.cylinder((x, 0, 0.35), inner[k], 0.006, n=3)
    b.use(c, Material.PAINT, pick(rng, PAINTS))
    for p, q in (
        ((-0.52, 0, 0.35), (-0.1, 0, 0.3)), ((-0.1, 0, 0.3), (-0.2, 0, 0.88)),
        ((-0.1, 0, 0.3), (0.36, 0, 0.78)), ((-0.18, 0, 0.75), (0.36, 0, 0.8)),
        ((-0.52, 0, 0.35), (-0.18, 0, 0.75)), ((0.52, 0, 0.35), (0.36, 0, 0.98)),
    ):  # fmt: skip
        b.cylinder(p, q, 0.024, n=4 if fine else 3)
    b.use(c, Material.RUBBER, DARK)
    b.cylinder((0.38, -0.28, 1.0), (0.38, 0.28, 1.0), 0.02, n=4)
    b.box((-0.34, -0.08, 0.88), (-0.08, 0.08, 0.95), 0.8)
    b.box((-0.14, -0.13, 0.26), (-0.06, 0.13, 0.34))
    kind = rng.integers(3)
    if kind == 0:
        b.use(c, Material.METAL, GREY)
        b.box((-0.86, -0.09, 0.72), (-0.4, 0.09, 0.75))
    elif kind == 1:
        b.use(c, Material.SOIL, (0.25, 0.18, 0.1))
        b.box((0.42, -0.17, 0.85), (0.72, 0.17, 1.08))
    if ridden:
        _rider(b, looks(rng), 0.96, (0.36, 1.03), bool(rng.random() < 0.5))
    else:
        b.use(c, Material.METAL, GREY)
        b.cylinder((-0.1, 0, 0.3), (-0.18, 0.16, 0.0), 0.015, n=3)
    return b.build()


def motorcycle(rng: np.random.Generator, ridden: bool = True, fine: bool = True) -> Mesh:
    """A motorcycle or scooter, with a rider on it or parked."""
    b, c = MeshBuilder(fine), ID['motorcycle']
    for x in (-0.7, 0.72):
        b.use(c, Material.RUBBER, DARK)
        for y in (-0.07, 0.07):
            b.wheel((x, y, 0.31), 0.31, 0.07, n=12)
        b.use(c, Material.METAL, GREY)
        for y in (-0.08, 0.08) if fine else ():
            b.disc((x, y, 0.31), (0, np.sign(y), 0), 0.17, n=7)
    b.use(c, Material.METAL, GREY)
    b.box((-0.35, -0.19, 0.22), (0.34, 0.19, 0.6), 0.85)
    b.cylinder((-0.2, -0.2, 0.3), (-0.95, -0.22, 0.42), 0.055, n=6)
    for y in (-0.1, 0.1):
        b.cylinder((0.74, y, 0.31), (0.42, y, 1.0), 0.03, n=4)
    paint = pick(rng, PAINTS[2:])
    b.use(c, Material.PAINT, paint)
    b.extrude([(-0.12, 0.62), (0.46, 0.6), (0.5, 0.86), (0.36, 1.0), (-0.05, 0.9)], 0.18, 0.75)
    b.extrude([(-1.0, 0.78), (-0.3, 0.62), (-0.1, 0.62), (-0.12, 0.84), (-0.9, 0.92)], 0.15, 0.8)
    b.extrude([(0.42, 0.62), (1.02, 0.6), (0.98, 0.7), (0.5, 0.72)], 0.1, 0.8)
    if rng.random() < 0.5:
        b.extrude([(0.5, 0.8), (0.68, 0.82), (0.52, 1.28), (0.45, 1.05)], 0.2, 0.7)
    b.use(c, Material.RUBBER, DARK)
    b.box((-0.8, -0.15, 0.84), (-0.05, 0.15, 0.94), 0.85)
    b.cylinder((0.4, -0.38, 1.05), (0.4, 0.38, 1.05), 0.025, n=4)
    for y in (-0.34, 0.34):
        b.box((0.4, y - 0.07, 1.2), (0.45, y + 0.07, 1.3))
    b.use(c, Material.HEADLIGHT, (0.9, 0.9, 0.85))
    b.blob((0.66, 0, 0.86), (0.08, 0.11, 0.11), fine=fine)
    b.use(c, Material.TAILLIGHT, (0.55, 0.02, 0.02))
    b.box((-1.03, -0.1, 0.78), (-0.95, 0.1, 0.88))
    b.use(c, Material.PLATE, (0.75, 0.75, 0.7))
    b.box((-1.06, -0.11, 0.52), (-1.02, 0.11, 0.7))
    if ridden:
        _rider(b, looks(rng), 0.93, (0.38, 1.06), True)
    return b.build()
