# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The land to the horizon: hills, fields and woods on a grid that is fixed in the world."""

from __future__ import annotations

import numpy as np

from training.simulation.layout import Place
from training.simulation.mesh import Material, Mesh, MeshBuilder, concatenate, skin_triangles
from training.simulation.vehicles import ID

_NEAR, _FAR = (12.0, 300.0), (60.0, 1500.0)
"""Size of a cell and reach of the fine and of the coarse grid, in metres."""

SUNK = 1.2
"""The grid lies this much below the strips that a block lays beside its road."""


def terrain(place: Place, s: float, origin: np.ndarray) -> Mesh:
    """Everything beyond the strips along the road, around the road's point at `s`.

    Args:
        place: Whose land.
        s: Metres along the road.
        origin: (3,) world position that the mesh is relative to.
    """
    fine = _grid(place, s, origin, *_NEAR, hole=0.0)
    coarse = _grid(place, s, origin, *_FAR, hole=_NEAR[1] - _FAR[0])
    return concatenate([fine, coarse, _horizon(place, s, origin)])


def _horizon(place: Place, s: float, origin: np.ndarray) -> Mesh:
    """Wooded hills so far away that they stay where they are while the ego vehicle drives."""
    azimuth = np.linspace(0, 2 * np.pi, 145)
    at = np.stack([np.cos(azimuth), np.sin(azimuth)], 1)
    number = place.route.number
    up = 4.2 + 1.6 * patches(at * 3.0, 1.0, number + 40) + 0.8 * patches(at * 11, 1.0, number + 41)
    center = np.append(place.route.center(s), 0.0) - origin
    foot = np.column_stack([at * 2600, np.full(len(at), -60.0)])
    crest = np.column_stack([at * 3400, 3400 * np.tan(np.radians(up))])
    b = MeshBuilder()
    b.use(ID['vegetation'], Material.FOREST, tuple(0.6 * np.asarray(place.style.green) + 0.03))
    b.skin(np.stack([foot, crest], 1) + center)
    along = np.stack([azimuth * 400, np.zeros(len(at))], 1)
    top = along + np.array([0.0, 120.0])
    b.texture(skin_triangles(np.stack([along, top], 1)))
    return b.build()


def _grid(
    place: Place, s: float, origin: np.ndarray, cell: float, reach: float, hole: float
) -> Mesh:
    center = origin[:2]
    first = np.floor((center - reach) / cell).astype(int)
    count = int(2 * reach / cell) + 1
    i, j = np.meshgrid(*(first[k] + np.arange(count + 1) for k in (0, 1)), indexing='ij')
    xy = np.stack([i, j], -1) * cell
    height, distance = place.route.ground(xy.reshape(-1, 2), s)
    height, distance = height.reshape(i.shape), distance.reshape(i.shape)
    wooded = _wooded(place, xy, distance)
    bumps = patches(xy, 25.0, place.route.number) * 3.0
    height = height - SUNK * (distance < 46) - 0.4 + wooded * (11 + bumps)
    points = np.concatenate([xy, height[..., None]], -1)
    # Textures stick to the world whatever the mesh is relative to.
    texture = np.mod(np.stack([i, j], -1), 256) * cell
    corner = wooded[:-1, :-1] + wooded[1:, 1:] + wooded[1:, :-1] + wooded[:-1, 1:]
    outside = np.abs(xy[:-1, :-1] + cell / 2 - center).max(-1) > hole
    b = MeshBuilder()
    style = place.style
    owner = patches(np.floor(xy[:-1, :-1] / 90) * 90 + 7, 200.0, place.route.number + 9)
    forest = corner > 1.5
    meadow, crop = owner < 0.15, owner >= 0.15
    crop_color = ((0.32, 0.27, 0.10), (0.16, 0.12, 0.08), (0.12, 0.17, 0.05))
    groups = [
        (forest, 'vegetation', Material.FOREST, tuple(0.7 * np.asarray(style.green))),
        (~forest & meadow, 'terrain', Material.GRASS, style.grass),
    ]
    for k, color in enumerate(crop_color):
        mine = ~forest & crop & (np.floor(owner * 97) % 3 == k)
        groups.append((mine, 'terrain', Material.FIELD, color))
    for mask, category, material, color in groups:
        mask = mask & outside
        if not mask.any():
            continue
        b.use(ID[category], material, color)
        b.triangles(_triangles(points - origin)[np.repeat(mask.ravel(), 2)])
        b.texture(_triangles(texture)[np.repeat(mask.ravel(), 2)])
    return b.build()


def _triangles(grid: np.ndarray) -> np.ndarray:
    """(2 cells, 3, D) triangles of a grid of (M, N, D) points."""
    a, p, q, r = grid[:-1, :-1], grid[1:, :-1], grid[1:, 1:], grid[:-1, 1:]
    pair = np.stack([np.stack([a, p, q], 2), np.stack([a, q, r], 2)], 2)
    return pair.reshape(-1, 3, grid.shape[-1])


def patches(xy: np.ndarray, size: float, key: int) -> np.ndarray:
    """Smooth noise in [-1, 1] at (..., 2) world positions, in patches of `size` metres."""
    at = np.asarray(xy, float) / size
    cell = np.floor(at)
    t = at - cell
    t = t * t * (3 - 2 * t)
    i, j = np.moveaxis(cell.astype(np.int64), -1, 0)

    def corner(di: int, dj: int) -> np.ndarray:
        h = ((i + di) * 73_856_093) ^ ((j + dj) * 19_349_663) ^ (key * 83_492_791)
        h = (h ^ (h >> 13)) * 1_274_126_177 & 0xFFFFFFFF
        value: np.ndarray = ((h ^ (h >> 16)) & 0xFFFF) / 32767.5 - 1
        return value

    low = corner(0, 0) * (1 - t[..., 0]) + corner(1, 0) * t[..., 0]
    high = corner(0, 1) * (1 - t[..., 0]) + corner(1, 1) * t[..., 0]
    blended: np.ndarray = low * (1 - t[..., 1]) + high * t[..., 1]
    return blended


def _wooded(place: Place, xy: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """1 where woods stand, 0 where not."""
    kind = place.route.environment
    clear = {'town': 90.0, 'country': 38.0, 'motorway': 48.0}[kind]
    share = {'town': 0.25, 'country': 0.0, 'motorway': -0.1}[kind]
    dense = patches(xy, 160.0, place.route.number + 3)
    return ((dense > share) & (distance > clear)).astype(float)
