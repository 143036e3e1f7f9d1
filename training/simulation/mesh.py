# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Triangle soups with class, material and colour per triangle, and primitives to build them."""

from __future__ import annotations

import enum
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

Color = tuple[float, float, float]
Point = Sequence[float] | np.ndarray


class Material(enum.IntEnum):
    """What a surface is made of; decides texture, gloss, emission and lidar reflectivity."""

    ASPHALT = 0
    STREET = 1  # asphalt with the lane markings and rails of the main street
    ZEBRA = 2
    PAVING = 3
    GRASS = 4
    FACADE = 5
    ROOF = 6
    MASONRY = 7
    METAL = 8
    SIGN = 9
    LAMP = 10  # traffic lights: always on
    LEAF = 11
    PAINT = 12
    GLASS = 13
    RUBBER = 14
    CLOTH = 15
    BARK = 16
    HEADLIGHT = 17
    TAILLIGHT = 18
    STREETLAMP = 19
    COACH = 20  # side of a bus or train: a band of windows
    PICKETS = 21
    SIGN_ROUND = 22  # red rim, white inside
    SOIL = 23
    LANE = 24  # asphalt of one lane; v is measured from the lane's centre
    MARKING = 25  # paint on the road
    RAIL = 26
    CONCRETE = 27
    GRAVEL = 28
    FIELD = 29
    FOREST = 30  # canopy of far woods
    TOWER = 31  # curtain wall
    SHOP = 32  # ground floor with shop windows
    SIDING = 33  # sheet metal with ribs
    TARP = 34
    SKIN = 35
    PLATE = 36
    BRAKELIGHT = 37  # on
    INDICATOR = 38
    SIGN_TEXT = 39


@dataclass
class Mesh:
    """A triangle soup.

    Attributes:
        vertices: (T, 3, 3) float32, metres.
        uv: (T, 3, 2) float32, surface coordinates in metres for the textures; v is the height on
            upright faces.
        category: (T,) uint8, Cityscapes trainId.
        material: (T,) uint8, `Material`.
        color: (T, 3) float32, linear RGB in [0, 1].
        tag: (T,) uint16, number of the object, to vary textures between objects.
    """

    vertices: np.ndarray
    uv: np.ndarray
    category: np.ndarray
    material: np.ndarray
    color: np.ndarray
    tag: np.ndarray

    def __len__(self) -> int:
        return len(self.vertices)

    def moved(self, T: np.ndarray, tag: int | None = None) -> Mesh:
        """The mesh under the (4, 4) transform `T`, textures sticking to it."""
        vertices = turned(self.vertices, T[:3, :3].T)
        vertices += T[:3, 3].astype(np.float32)
        tags = self.tag if tag is None else np.full_like(self.tag, tag % 65536)
        return replace(self, vertices=vertices, tag=tags)

    def shifted(self, offset: np.ndarray) -> Mesh:
        """The mesh moved by (3,) metres."""
        return replace(self, vertices=self.vertices + np.asarray(offset, np.float32))

    def tinted(self, factor: np.ndarray) -> Mesh:
        """The mesh with its colours multiplied by (3,)."""
        return replace(self, color=np.clip(self.color * factor, 0, 1).astype(np.float32))

    def at(self, vertices: np.ndarray) -> Mesh:
        """The mesh with other (T, 3, 3) vertices."""
        return replace(self, vertices=vertices)

    def compact(self) -> Mesh:
        """The mesh without triangles that have no area."""
        edge = self.vertices[:, 1:] - self.vertices[:, :1]
        area = np.linalg.norm(np.cross(edge[:, 0], edge[:, 1]), axis=1)
        return self if (area > 1e-9).all() else self.part(area > 1e-9)

    @property
    def size(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest corner."""
        return self.vertices.min((0, 1)), self.vertices.max((0, 1))

    def part(self, mask: np.ndarray) -> Mesh:
        """The triangles where the (T,) mask is true."""
        return Mesh(
            self.vertices[mask], self.uv[mask], self.category[mask], self.material[mask],
            self.color[mask], self.tag[mask],
        )  # fmt: skip

    def scaled(self, factor: float) -> Mesh:
        """The mesh at another size."""
        return replace(self, vertices=self.vertices * np.float32(factor))


def turned(vertices: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """(T, 3, 3) float32 rows times a (3, 3) matrix.

    In one product: numpy makes one of each triangle, with the same result in eight times as long.
    """
    product: np.ndarray = vertices.reshape(-1, 3) @ turn.astype(np.float32)
    return product.reshape(-1, 3, 3)


def concatenate(meshes: Iterable[Mesh]) -> Mesh:
    """One soup of several."""
    parts = [m for m in meshes if len(m)]
    if len(parts) == 1:
        return parts[0]
    return Mesh(
        np.concatenate([m.vertices for m in parts]),
        np.concatenate([m.uv for m in parts]),
        np.concatenate([m.category for m in parts]),
        np.concatenate([m.material for m in parts]),
        np.concatenate([m.color for m in parts]),
        np.concatenate([m.tag for m in parts]),
    )


def placement(x: float, y: float, z: float = 0.0, yaw: float = 0.0) -> np.ndarray:
    """(4, 4) transform that turns about z and then shifts."""
    T = np.eye(4)
    c, s = np.cos(yaw), np.sin(yaw)
    T[:2, :2] = [[c, -s], [s, c]]
    T[:3, 3] = x, y, z
    return T


@dataclass
class _Piece:
    """Triangles of one colour, class, material and tag."""

    vertices: np.ndarray
    color: Color | np.ndarray
    use: tuple[int, int, int]
    uv: np.ndarray | None = None


class MeshBuilder:
    """Collects primitives; `category`, `material`, `color` and `tag` hold until changed.

    Args:
        fine: Close up; otherwise wheels and other small parts are left plain.
    """

    def __init__(self, fine: bool = True) -> None:
        self.fine = fine
        self._meshes: list[Mesh] = []
        self._pieces: list[_Piece] = []
        self.category = 0
        self.material = Material.ASPHALT
        self.color: Color = (0.5, 0.5, 0.5)
        self.tag = 0

    def use(
        self, category: int, material: Material, color: Color, tag: int | None = None
    ) -> MeshBuilder:
        """Set what the next primitives are made of."""
        self.category, self.material, self.color = category, material, color
        if tag is not None:
            self.tag = tag % 65536
        return self

    def texture(self, uv: np.ndarray) -> None:
        """Give what the last call added other surface coordinates, (T, 3, 2) or to broadcast."""
        self._pieces[-1].uv = uv

    def add(self, mesh: Mesh) -> None:
        """Add a finished mesh."""
        self._meshes.append(mesh)

    def triangles(self, vertices: np.ndarray, color: np.ndarray | None = None) -> None:
        """Add (T, 3, 3) triangles, with (T, 3) colours if they differ."""
        self._pieces.append(
            _Piece(
                np.asarray(vertices, np.float32),
                self.color if color is None else color,
                (self.category, self.material, self.tag),
            )
        )

    def quad(self, a: Point, b: Point, c: Point, d: Point) -> None:
        """Add a quadrilateral given its corners in order."""
        self.triangles(np.array([[a, b, c], [a, c, d]], np.float32))

    def plate(
        self, x: tuple[float, float], y: tuple[float, float], z: float, step: float | None = None
    ) -> None:
        """Add a horizontal rectangle, in strips of `step` along x so that it can follow a bend."""
        n = 1 if step is None else max(1, round((x[1] - x[0]) / step))
        edges = np.linspace(x[0], x[1], n + 1)
        for x0, x1 in itertools.pairwise(edges):
            self.quad((x0, y[0], z), (x1, y[0], z), (x1, y[1], z), (x0, y[1], z))

    def strip(
        self,
        along: np.ndarray,
        a: tuple[float, float],
        b: tuple[float, float],
        v: tuple[float, float] | None = None,
    ) -> None:
        """Add a band along x of constant cross-section, in as many pieces as it has to bend in.

        Args:
            along: (N,) ascending x of the joints.
            a: y and z of one edge.
            b: y and z of the other edge.
            v: Surface coordinates of the edges; y of a flat and z of an upright band by default.
        """
        x = np.asarray(along, float)
        if v is None:
            flat = abs(b[0] - a[0]) >= abs(b[1] - a[1])
            v = (a[0], b[0]) if flat else (a[1], b[1])
        one = np.full(len(x), 1.0)
        edge_a, edge_b = (np.stack([x, one * e[0], one * e[1]], 1) for e in (a, b))
        self.skin(np.stack([edge_a, edge_b], 1))
        ua = np.stack([x, one * v[0]], 1)
        ub = np.stack([x, one * v[1]], 1)
        self.texture(skin_triangles(np.stack([ua, ub], 1)))

    def skin(self, sections: np.ndarray, closed: bool = False) -> None:
        """Add the surface over (M, K, 3) cross-sections of K points each; `closed`: rings."""
        sections = np.asarray(sections, float)
        if closed:
            sections = np.concatenate([sections, sections[:, :1]], 1)
        self.triangles(skin_triangles(sections))

    def fan(self, corners: Sequence[Point] | np.ndarray) -> None:
        """Add a convex polygon."""
        p = np.asarray(corners, float)
        self.triangles(np.stack([np.stack([p[0], p[i], p[i + 1]]) for i in range(1, len(p) - 1)]))

    def wheel(self, center: Point, radius: float, width: float, n: int = 10) -> None:
        """Add a wheel standing along x whose outer side lies at `center`, towards its y's sign."""
        c = np.asarray(center, float)
        out = 1.0 if c[1] > 0 else -1.0
        if not self.fine:
            angle = np.arange(6) * np.pi / 3
            self.fan(c + radius * np.stack([np.cos(angle), 0 * angle, np.sin(angle)], 1))
            return
        self.cylinder(c - (0, out * width, 0), c, radius, n=n)

    def upright(
        self, x: tuple[float, float], y: float, z: tuple[float, float], step: float | None = None
    ) -> None:
        """Add an upright rectangle along x, in strips of `step`."""
        n = 1 if step is None else max(1, round((x[1] - x[0]) / step))
        edges = np.linspace(x[0], x[1], n + 1)
        for x0, x1 in itertools.pairwise(edges):
            self.quad((x0, y, z[0]), (x1, y, z[0]), (x1, y, z[1]), (x0, y, z[1]))

    def box(self, low: Point, high: Point, taper: float = 1.0) -> None:
        """Add a box without its floor; `taper` shrinks the top."""
        lower, upper = np.asarray(low, float), np.asarray(high, float)
        middle, half = (lower + upper) / 2, (upper - lower) / 2
        corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], float)
        bottom = np.column_stack([middle[:2] + corners * half[:2], np.full(4, lower[2])])
        top = np.column_stack([middle[:2] + corners * half[:2] * taper, np.full(4, upper[2])])
        faces = [(top[0], top[1], top[2]), (top[0], top[2], top[3])]
        for i in range(4):
            j = (i + 1) % 4
            faces += [(bottom[i], bottom[j], top[j]), (bottom[i], top[j], top[i])]
        self.triangles(np.array(faces))

    def extrude(
        self, profile: Sequence[tuple[float, float]], half: float, top: float = 1.0
    ) -> None:
        """Add a convex (x, z) profile extruded to y = +-half; `top` scales y at the top."""
        p = np.asarray(profile, float)
        height = (p[:, 1] - p[:, 1].min()) / np.ptp(p[:, 1])
        y = half * (1 + (top - 1) * height)
        left = np.column_stack([p[:, 0], y, p[:, 1]])
        right = np.column_stack([p[:, 0], -y, p[:, 1]])
        faces = []
        for i in range(len(p)):
            j = (i + 1) % len(p)
            faces += [(left[i], left[j], right[j]), (left[i], right[j], right[i])]
            if 0 < i < len(p) - 1:
                faces += [(left[0], left[i], left[i + 1]), (right[0], right[i], right[i + 1])]
        self.triangles(np.array(faces))

    def cylinder(
        self, a: Point, b: Point, radius: float, end: float | None = None, n: int = 6
    ) -> None:
        """Add a tube from `a` to `b`; `end` is the radius at b; closed at b."""
        start, stop = np.asarray(a, float), np.asarray(b, float)
        axis = (stop - start) / np.linalg.norm(stop - start)
        x, y, z = axis
        side = np.array([y, -x, 0.0] if abs(z) < 0.9 else [0.0, z, -y])
        side /= np.linalg.norm(side)
        other = np.array(
            [y * side[2] - z * side[1], z * side[0] - x * side[2], x * side[1] - y * side[0]]
        )
        angle = np.arange(n) * 2 * np.pi / n
        ring = np.cos(angle)[:, None] * side + np.sin(angle)[:, None] * other
        lower = start + ring * radius
        upper = stop + ring * (radius if end is None else end)
        nxt = np.roll(np.arange(n), -1)
        self.triangles(
            np.concatenate(
                [
                    np.stack([lower, lower[nxt], upper[nxt]], 1),
                    np.stack([lower, upper[nxt], upper], 1),
                    np.stack([upper, upper[nxt], np.broadcast_to(stop, (n, 3))], 1),
                ]
            )
        )

    def disc(self, center: Point, normal: Point, radius: float, n: int = 8) -> None:
        """Add a flat regular polygon."""
        stop = np.asarray(center, float)
        self.cylinder(stop - np.asarray(normal, float) * 0.02, stop, radius, n=n)

    def blob(
        self,
        center: Point,
        radii: Point,
        rng: np.random.Generator | None = None,
        rough: float = 0.0,
        fine: bool = True,
    ) -> None:
        """Add an ellipsoid, its surface displaced by `rough` of the radius.

        It has 80 triangles, or 20 if not `fine`; the generator is used alike for both.
        """
        points = _ICOSPHERE_POINTS
        if rng is not None:
            points = points * (1.0 + rough * rng.uniform(-1, 1, (len(points), 1)))
        faces = _ICOSPHERE_FACES if fine else _ICOSAHEDRON_FACES
        # The coarse one is a little larger, to cover as much of the picture.
        grown = np.asarray(radii) * (1.0 if fine else 1.1)
        self.triangles((points * grown + center)[faces])

    def leaves(
        self, center: Point, radii: Point, count: int, size: float, rng: np.random.Generator
    ) -> None:
        """Add loose triangles near the surface of an ellipsoid, each in its own shade."""
        direction = rng.normal(size=(count, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        middle = center + direction * radii * rng.uniform(0.75, 1.12, (count, 1))
        corners = rng.normal(0, size, (count, 3, 3))
        shade = rng.uniform(0.6, 1.35, (count, 1)) * np.asarray(self.color)
        self.triangles(middle[:, None] + corners, np.clip(shade, 0, 1))

    def build(self) -> Mesh:
        """Everything collected, as one soup."""
        pieces = self._pieces
        if not pieces:
            return concatenate(self._meshes)
        # All at once: thousands of small calls would cost more than the rays of a frame.
        counts = [len(p.vertices) for p in pieces]
        vertices = np.concatenate([p.vertices for p in pieces])
        uv = _surface_coordinates(vertices)
        color = np.empty((len(vertices), 3), np.float32)
        ends = itertools.accumulate(counts)
        for piece, count, end in zip(pieces, counts, ends, strict=True):
            color[end - count : end] = piece.color
            if piece.uv is not None:
                uv[end - count : end] = piece.uv
        numbers = np.repeat(np.array([p.use for p in pieces]), counts, axis=0)
        category, material = numbers[:, 0].astype(np.uint8), numbers[:, 1].astype(np.uint8)
        own = Mesh(vertices, uv, category, material, color, numbers[:, 2].astype(np.uint16))
        return concatenate([own, *self._meshes])

    @property
    def filled(self) -> bool:
        """Something was added."""
        return bool(self._pieces or self._meshes)


def skin_triangles(grid: np.ndarray) -> np.ndarray:
    """(2 (M - 1) (K - 1), 3, D) triangles over an (M, K, D) grid of points."""
    a, b = grid[:-1, :-1], grid[1:, :-1]
    c, d = grid[1:, 1:], grid[:-1, 1:]
    triangles = np.stack([np.stack([a, b, c], 2), np.stack([a, c, d], 2)], 2)
    return triangles.reshape(-1, 3, grid.shape[-1])


def _surface_coordinates(vertices: np.ndarray) -> np.ndarray:
    """(T, 3, 2) coordinates in the plane that a triangle's normal is closest to."""
    ax, ay, az = np.moveaxis(vertices[:, 1] - vertices[:, 0], -1, 0)
    bx, by, bz = np.moveaxis(vertices[:, 2] - vertices[:, 0], -1, 0)
    normal = np.abs(np.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx]))
    axis = normal.argmax(0)
    pick = np.array([[1, 2], [0, 2], [0, 1]])[axis]  # (T, 2)
    return np.take_along_axis(vertices, np.repeat(pick[:, None], 3, axis=1), axis=2)


def _icosphere() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    phi = (1 + 5**0.5) / 2
    points = [
        (-1, phi, 0), (1, phi, 0), (-1, -phi, 0), (1, -phi, 0), (0, -1, phi), (0, 1, phi),
        (0, -1, -phi), (0, 1, -phi), (phi, 0, -1), (phi, 0, 1), (-phi, 0, -1), (-phi, 0, 1),
    ]  # fmt: skip
    faces = [
        (0, 11, 5), (0, 5, 1), (0, 1, 7), (0, 7, 10), (0, 10, 11), (1, 5, 9), (5, 11, 4),
        (11, 10, 2), (10, 7, 6), (7, 1, 8), (3, 9, 4), (3, 4, 2), (3, 2, 6), (3, 6, 8), (3, 8, 9),
        (4, 9, 5), (2, 4, 11), (6, 2, 10), (8, 6, 7), (9, 8, 1),
    ]  # fmt: skip
    corners = [np.array(p) / np.linalg.norm(p) for p in points]
    middles: dict[tuple[int, int], int] = {}

    def middle(i: int, j: int) -> int:
        key = (min(i, j), max(i, j))
        if key not in middles:
            m = corners[i] + corners[j]
            corners.append(m / np.linalg.norm(m))
            middles[key] = len(corners) - 1
        return middles[key]

    finer = []
    for a, b, c in faces:
        ab, bc, ca = middle(a, b), middle(b, c), middle(c, a)
        finer += [(a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca)]
    return np.array(corners), np.array(finer), np.array(faces)


_ICOSPHERE_POINTS, _ICOSPHERE_FACES, _ICOSAHEDRON_FACES = _icosphere()
