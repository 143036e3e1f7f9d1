# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Procedural textures: what a hit point looks like, before any light falls on it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from training.simulation.mesh import Material
from training.simulation.scene import Hits

_M = Material
Array = np.ndarray

# Coarse contrast, fine contrast, gloss (0 matt to 1 mirror), lidar reflectivity at 905 nm
# relative to the visible colour, retroreflection. Chosen, not measured.
_PROPERTIES = {
    _M.ASPHALT: (0.25, 0.30, 0.05, 1.2, 0.0), _M.STREET: (0.25, 0.30, 0.05, 1.2, 0.0),
    _M.ZEBRA: (0.2, 0.2, 0.05, 1.2, 0.2), _M.PAVING: (0.15, 0.20, 0.03, 1.1, 0.0),
    _M.GRASS: (0.45, 0.50, 0.0, 3.5, 0.0), _M.FACADE: (0.18, 0.14, 0.0, 1.1, 0.0),
    _M.ROOF: (0.2, 0.3, 0.02, 1.5, 0.0), _M.MASONRY: (0.25, 0.25, 0.0, 1.1, 0.0),
    _M.METAL: (0.1, 0.1, 0.15, 0.8, 0.0), _M.SIGN: (0.0, 0.03, 0.05, 1.0, 1.0),
    _M.LAMP: (0.0, 0.0, 0.0, 0.3, 0.0), _M.LEAF: (0.45, 0.90, 0.02, 4.0, 0.0),
    _M.PAINT: (0.03, 0.02, 0.35, 0.7, 0.0), _M.GLASS: (0.0, 0.0, 0.6, 0.5, 0.0),
    _M.RUBBER: (0.1, 0.1, 0.0, 1.0, 0.0), _M.CLOTH: (0.15, 0.2, 0.0, 1.4, 0.0),
    _M.BARK: (0.3, 0.5, 0.0, 2.0, 0.0), _M.HEADLIGHT: (0.0, 0.0, 0.3, 0.4, 0.3),
    _M.TAILLIGHT: (0.0, 0.0, 0.2, 1.0, 0.8), _M.STREETLAMP: (0.0, 0.0, 0.1, 0.3, 0.0),
    _M.COACH: (0.02, 0.03, 0.25, 0.7, 0.0), _M.PICKETS: (0.25, 0.3, 0.0, 1.4, 0.0),
    _M.SIGN_ROUND: (0.0, 0.0, 0.05, 1.0, 1.0), _M.SOIL: (0.4, 0.5, 0.0, 1.5, 0.0),
    _M.LANE: (0.25, 0.30, 0.05, 1.2, 0.0), _M.MARKING: (0.15, 0.20, 0.05, 1.0, 0.06),
    _M.RAIL: (0.1, 0.1, 0.3, 0.8, 0.0), _M.CONCRETE: (0.2, 0.2, 0.0, 1.2, 0.0),
    _M.GRAVEL: (0.25, 0.6, 0.0, 1.3, 0.0), _M.FIELD: (0.35, 0.4, 0.0, 2.5, 0.0),
    _M.FOREST: (0.5, 0.8, 0.0, 4.0, 0.0), _M.TOWER: (0.05, 0.03, 0.1, 1.0, 0.0),
    _M.SHOP: (0.1, 0.1, 0.05, 1.0, 0.0), _M.SIDING: (0.08, 0.05, 0.08, 1.0, 0.0),
    _M.TARP: (0.1, 0.05, 0.08, 1.2, 0.0), _M.SKIN: (0.05, 0.05, 0.02, 1.3, 0.0),
    _M.PLATE: (0.0, 0.1, 0.1, 1.0, 0.8), _M.BRAKELIGHT: (0.0, 0.0, 0.2, 1.0, 0.8),
    _M.INDICATOR: (0.0, 0.0, 0.2, 1.0, 0.5), _M.SIGN_TEXT: (0.0, 0.02, 0.05, 1.0, 0.7),
}  # fmt: skip
_TABLE = np.array([_PROPERTIES.get(m, (0.1, 0.1, 0.0, 1.0, 0.0)) for m in Material], np.float32)
_COLUMNS = np.ascontiguousarray(_TABLE.T)

# Radiance of what shines, in the unit of `light`: 1 is white in full sun, about 12 000 cd/m2.
# Seen from beside their beam: the beams themselves are the glare's business.
_EMISSION = {
    _M.HEADLIGHT: (1.2, 1.15, 1.0), _M.TAILLIGHT: (0.035, 0.0012, 0.0008),
    _M.BRAKELIGHT: (0.22, 0.008, 0.005), _M.STREETLAMP: (1.1, 0.85, 0.5),
    _M.INDICATOR: (0.2, 0.1, 0.005),
}  # fmt: skip
_COLOUR = 0.72
_TRAFFIC_LIGHT = 0.35
_ROOM = 0.004
"""Radiance of a lit room behind a window: 50 cd/m2."""


@dataclass
class Surface:
    """Looks of hit points; arrays have the rays' leading shape.

    Attributes:
        albedo: (3, ...) float32 linear RGB, one plane per colour.
        gloss: float32, 0 matt to 1 mirror.
        emission: (3, ...) float32 radiance given off.
        retro: float32, part of the light sent back to where it came from.
    """

    albedo: Array
    gloss: Array
    emission: Array
    retro: Array


@functools.lru_cache(maxsize=1)
def _noise_tile() -> Array:
    """(256, 256) float32 tileable value noise of four octaves in [-1, 1]."""
    rng = np.random.default_rng(7)
    total: Array = np.zeros((256, 256), np.float32)
    for octave in range(4):
        n = 32 << octave
        grid = np.pad(rng.uniform(-1, 1, (n, n)).astype(np.float32), 2, mode='wrap')
        big = cv2.resize(grid, None, fx=256 / n, fy=256 / n, interpolation=cv2.INTER_CUBIC)
        edge = 2 * 256 // n
        total += big[edge : edge + 256, edge : edge + 256] / 1.6**octave
    return np.clip(total / 1.8, -1, 1)


@functools.lru_cache(maxsize=1)
def _flat_tile() -> Array:
    return _noise_tile().ravel()


def noise(x: Array, y: Array, cell: float) -> Array:
    """Value noise in [-1, 1] at float32 coordinates, features of about `cell` metres.

    The texture has 32 texels per feature, so that the nearest one is good enough.
    """
    scale = np.float32(8 / cell)
    column = (x * scale).astype(np.int32)
    row = (y * scale).astype(np.int32)
    column &= 255
    row &= 255
    row <<= 8
    row |= column
    return _flat_tile().take(row)


def smooth_noise(x: Array, y: Array, cell: float) -> Array:
    """`noise` of (N,) coordinates without steps, where features fill much of the picture."""
    scale, n = np.float32(8 / cell), len(x)
    if n == 0:
        return np.zeros(0, np.float32)
    rows = -(-n // 1024)
    grid = np.zeros((2, rows * 1024), np.float32)
    grid[0, :n], grid[1, :n] = np.mod(x * scale, 256), np.mod(y * scale, 256)
    map_x, map_y = grid.reshape(2, rows, 1024)
    found = cv2.remap(_noise_tile(), map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return np.asarray(found).ravel()[:n]


def hashed(*keys: Array) -> Array:
    """Float32 in [0, 1) from integer arrays, the same for the same keys (xorshift-multiply)."""
    h: Array = np.uint32(2166136261)
    for key in keys:
        h = (np.asarray(key).astype(np.int32).astype(np.uint32) ^ h) * np.uint32(0x9E3779B1)
        h = (h ^ (h >> np.uint32(15))) * np.uint32(0x85EBCA6B)
        h = h ^ (h >> np.uint32(13))
    return (h >> np.uint32(8)).astype(np.float32) / np.float32(1 << 24)


@functools.lru_cache(maxsize=4)
def _by_tag(key: int) -> Array:
    """`hashed(tag, key)` of every tag."""
    tags = np.arange(1 << 16)
    return hashed(tags, np.full_like(tags, key))


def reflectivity(hits: Hits) -> tuple[Array, Array, Array]:
    """What a lidar at 905 nm sees.

    Returns:
        Diffuse reflectivity in [0.01, 1], retroreflected part, gloss; float32 per hit.
    """
    _, _, gloss, infrared, retro = (column.take(hits.material) for column in _COLUMNS)
    color = hits.color
    grey = color[..., 0] * 0.45 + color[..., 1] * 0.35 + color[..., 2] * 0.2
    uv = hits.uv
    grey *= 1 + 0.25 * noise(uv[..., 0], uv[..., 1], 0.5)
    return np.clip(grey * infrared, 0.01, 1), retro, gloss


def describe(hits: Hits, pixel: float) -> Surface:
    """Texture the hits.

    Args:
        hits: A 2-D grid of hits.
        pixel: Radians between neighbouring rays; textures finer than that are faded out.
    """
    coarse, fine, gloss, _, retro = (column.take(hits.material) for column in _COLUMNS)
    footprint = np.minimum(hits.distance, 1000) * np.float32(pixel)
    footprint /= np.maximum(hits.cosine, 0.1)
    shift = hits.tag * np.float32(1.37)
    u, v = hits.uv[..., 0] + shift, np.ascontiguousarray(hits.uv[..., 1])
    fade = np.clip(np.float32(1.5) - footprint * np.float32(1 / 1.5), 0, 1)
    fade *= coarse
    variation = noise(u, v, 1.7)
    variation *= fade
    np.clip(np.float32(1.2) - footprint * 5, 0, 1, out=fade)
    fade *= fine
    fade *= noise(v, u, 0.16)
    variation += fade
    variation += 1
    np.clip(variation, 0.1, 3, out=variation)
    # The camera's tone curve raises contrast and with it saturation, which this takes back.
    grey = (hits.color @ np.array([0.3, 0.59, 0.11], np.float32)) * np.float32(1 - _COLOUR)
    albedo = np.empty((3, *hits.shape), np.float32)
    for i, plane in enumerate(albedo):
        np.multiply(hits.color[..., i], np.float32(_COLOUR), out=plane)
        plane += grey
        plane *= variation
    out = Surface(albedo, gloss, np.zeros_like(albedo), retro)
    present = np.bincount(hits.material.ravel(), minlength=len(Material))
    for material, paint in _PAINTERS.items():
        if present[material]:
            where = np.flatnonzero(hits.material.ravel() == int(material))
            paint(_Patch(hits, out, footprint, where))
    return out


class _Patch:
    """The pixels of one material: gathered when asked for, scattered on `set`."""

    def __init__(self, hits: Hits, out: Surface, footprint: Array, where: Array) -> None:
        self.where = where
        self._hits, self._out, self._footprint = hits, out, footprint

    def keep(self, mask: Array) -> _Patch:
        """Only the pixels where `mask` is true."""
        return _Patch(self._hits, self._out, self._footprint, self.where[mask])

    @functools.cached_property
    def u(self) -> Array:
        """(N,) metres along the surface."""
        return self._hits.uv.reshape(-1, 2)[:, 0].take(self.where)

    @functools.cached_property
    def v(self) -> Array:
        """(N,) metres across or up the surface."""
        return self._hits.uv.reshape(-1, 2)[:, 1].take(self.where)

    @functools.cached_property
    def tag(self) -> Array:
        """(N,) number of the object."""
        return self._hits.tag.ravel().take(self.where)

    @functools.cached_property
    def normal_z(self) -> Array:
        """(N,) upward part of the normal."""
        return self._hits.normal.reshape(-1, 3)[:, 2].take(self.where)

    @functools.cached_property
    def footprint(self) -> Array:
        """(N,) metres that a pixel covers."""
        return self._footprint.ravel().take(self.where)

    @functools.cached_property
    def color(self) -> Array:
        """(N, 3) linear RGB."""
        return self._hits.color.reshape(-1, 3)[self.where]

    def scale(self, factor: Array) -> None:
        """Multiply the albedo."""
        # Plane by plane, as numpy is twice as fast at it.
        for plane in self._out.albedo.reshape(3, -1):
            plane[self.where] = plane.take(self.where) * factor

    def set(self, mask: Array, albedo: Array | tuple[float, float, float] | float) -> None:
        """Replace the albedo where `mask` is true; (N, 3) colours are per pixel of the patch."""
        self._assign(self._out.albedo, mask, albedo)

    def shine(self, mask: Array, radiance: Array | tuple[float, float, float]) -> None:
        """Set the emission where `mask` is true."""
        self._assign(self._out.emission, mask, radiance)

    def gloss(self, mask: Array, value: float) -> None:
        """Set the gloss where `mask` is true."""
        self._out.gloss.ravel()[self.where[mask]] = value

    def _assign(
        self, target: Array, mask: Array, value: Array | tuple[float, ...] | float
    ) -> None:
        color = np.broadcast_to(np.asarray(value, np.float32), (len(self.where), 3))
        target.reshape(3, -1)[:, self.where[mask]] = color[mask].T


def _lane(p: _Patch) -> None:
    tracks = np.exp(-(((np.abs(p.v) - 0.75) * 4) ** 2))
    patch = hashed(np.floor(p.u / 7.3), p.tag) < 0.10
    joint = (np.abs(p.v) > 1.68) & (p.footprint < 0.2)
    # Bitumen poured into a crack that wanders along the lane.
    crack = np.abs(p.v - 0.9 * noise(p.u, p.u * 0, 9.0)) < 0.02
    crack &= (p.footprint < 0.06) & (hashed(np.floor(p.u / 11), p.tag) < 0.5)
    p.scale((1 - 0.16 * tracks) * np.where(patch, 0.7, 1) * np.where(crack | joint, 0.75, 1))


def _marking(p: _Patch) -> None:
    worn = noise(p.u, p.v, 0.35) + 0.4 * noise(p.v, p.u, 2.0) > 0.72
    p.set(worn, (0.16, 0.16, 0.155))


def _street(p: _Patch) -> None:
    """The old street's own markings."""
    dashed = (np.abs(p.v) < 0.07) & (np.mod(p.u, 9) < 5)
    edge = np.abs(np.abs(p.v) - 3.45) < 0.06
    p.set((dashed | edge) & (np.mod(p.u + 4, 60) > 14), 0.6)


def _zebra(p: _Patch) -> None:
    p.set(np.mod(p.v, 1.0) < 0.5, 0.6)


def _paving(p: _Patch) -> None:
    near = p.footprint < 0.08
    joint = near & ((np.mod(p.u, 0.6) < 0.035) | (np.mod(p.v, 0.6) < 0.035))
    tone = 0.88 + 0.24 * hashed(np.floor(p.u / 0.6), np.floor(p.v / 0.6))
    p.scale(np.where(near, tone, 1) * np.where(joint, 0.6, 1))


def _masonry(p: _Patch) -> None:
    row = np.floor(p.v / 0.25)
    joint = (np.mod(p.v, 0.25) < 0.04) | (np.mod(p.u + 0.25 * row, 0.5) < 0.04)
    p.scale(np.where(joint & (p.footprint < 0.08), 0.65, 1))


def _concrete(p: _Patch) -> None:
    joint = (np.mod(p.u, 4.0) < 0.05) & (p.footprint < 0.2)
    # Rain leaves darker streaks below the edges.
    streaks = 1 - 0.18 * np.clip(noise(p.u, p.v * 0.1, 0.7), 0, 1)
    p.scale(np.where(joint, 0.6, 1) * streaks)


def _field(p: _Patch) -> None:
    rows = 1 + 0.25 * np.sin(p.v * (2 * np.pi / 0.75)) * np.clip(1.4 - p.footprint / 0.3, 0, 1)
    p.scale(rows.astype(np.float32))


def _forest(p: _Patch) -> None:
    p.scale(0.75 + 0.45 * noise(p.u, p.v, 3.0) + 0.25 * noise(p.v, p.u, 0.9))


def _siding(p: _Patch) -> None:
    shade = 1 + 0.14 * np.sign(np.mod(p.u, 0.3) - 0.15) * (p.footprint < 0.15)
    p.scale(shade.astype(np.float32))


def _facade(p: _Patch) -> None:
    p = p.keep(np.abs(p.normal_z) < 0.5)
    if not len(p.where):
        return
    width = 1.5 + 1.2 * _by_tag(1).take(p.tag)
    column, row = np.floor(p.u / width), np.floor(p.v / 3.0)
    x, y = p.u / width - column, p.v / 3.0 - row
    half = 0.2 + 0.13 * _by_tag(2).take(p.tag)
    low = np.where(row == 0, 0.1, 0.3)
    window = (np.abs(x - 0.5) < half) & (y > low) & (y < 0.8)
    frame = (np.abs(x - 0.5) < half + 0.05) & (y > low - 0.04) & (y < 0.84) & ~window
    bar = window & (np.abs(x - 0.5) < 0.02)
    band = np.where((y < 0.05) & (row > 0), 1.25, 1.0)
    p.scale(np.where((row == 0) & ~window & ~frame, 0.75, band).astype(np.float32))
    white = 0.5 + 0.6 * _by_tag(3).take(p.tag)[:, None]
    p.set(frame | bar, np.array([0.55, 0.54, 0.5], np.float32) * white)
    glass = window & ~bar
    pane = hashed(column, row, p.tag)
    curtain = (hashed(row, column, p.tag) < 0.35) & (y > 0.5)
    p.set(glass, np.array([0.04, 0.05, 0.06], np.float32) * (0.5 + pane[:, None]))
    p.set(glass & curtain, (0.35, 0.33, 0.3))
    p.gloss(glass, 0.45)
    _rooms(p, glass, pane, np.where(curtain, 0.45, 1.0), 0.22)


def _rooms(p: _Patch, glass: Array, pane: Array, through: Array | float, share: float) -> None:
    """Light `share` of the rooms, some warm, some cold."""
    lit = glass & (pane < share)
    p, pane, through = p.keep(lit), pane[lit], np.broadcast_to(through, lit.shape)[lit]
    warm = np.mod(pane * 977, 1)[:, None]
    color = np.array([1.0, 0.62, 0.28]) * warm + np.array([0.85, 0.9, 1.0]) * (1 - warm)
    strength = _ROOM * (0.25 + 2 * np.mod(pane * 131, 1)) * through
    p.shine(lit[lit], (color * strength[:, None]).astype(np.float32))


def _tower(p: _Patch) -> None:
    p = p.keep(np.abs(p.normal_z) < 0.5)
    column, row = np.floor(p.u / 1.5), np.floor(p.v / 3.0)
    x, y = np.mod(p.u, 1.5), np.mod(p.v, 3.0)
    near = np.clip(1.5 - p.footprint, 0, 1) > 0.2
    mullion = near & ((x < 0.08) | (y < 0.12))
    spandrel = y < 0.9
    glass = ~mullion & ~spandrel
    pane = hashed(column, row, p.tag)
    p.set(glass, np.array([0.03, 0.045, 0.06], np.float32) * (0.6 + 0.8 * pane[:, None]))
    p.gloss(glass, 0.6)
    _rooms(p, glass, hashed(np.floor(p.u / 4.5), row, p.tag), 1.0, 0.3)


def _shop(p: _Patch) -> None:
    p = p.keep(np.abs(p.normal_z) < 0.5)
    bay = np.floor(p.u / 3.0)
    post = np.mod(p.u, 3.0) < 0.3
    window = ~post & (p.v > 0.4) & (p.v < 2.7)
    sign = ~post & (p.v > 2.9) & (p.v < 3.5)
    kind = hashed(bay, p.tag)
    goods = hashed(np.floor(p.u / 0.35), np.floor(p.v / 0.5), p.tag)
    shade = np.array([0.10, 0.09, 0.08], np.float32) * (0.4 + 1.6 * goods[:, None])
    p.set(window, shade)
    p.gloss(window, 0.35)
    hue = np.stack([np.mod(kind * k, 1) for k in (17, 29, 43)], -1) * 0.6 + 0.03
    letters = sign & (np.mod(p.u, 0.42) < 0.26) & (np.abs(p.v - 3.2) < 0.16)
    p.set(sign, hue.astype(np.float32))
    p.set(letters, 0.7)
    open_ = kind < 0.55
    glow = np.array([1.0, 0.85, 0.62]) * (_ROOM * 3 * (0.35 + goods[:, None]))
    p.shine(window & open_, glow.astype(np.float32))
    p.shine(letters & (kind < 0.8), (hue * 0.02 + 0.01).astype(np.float32))


def _coach(p: _Patch) -> None:
    p = p.keep(np.abs(p.normal_z) < 0.5)
    post = np.mod(p.u, 1.45) < 0.13
    window = (p.v > 1.35) & (p.v < 2.6) & ~post
    door = (np.mod(p.u + 2, 4.35) < 1.2) & (p.v > 0.5) & (p.v < 2.7) & ~post
    p.set((p.v > 0.95) & (p.v < 1.12), 0.6)
    glass = window | door
    p.set(glass, (0.04, 0.05, 0.06))
    p.gloss(glass, 0.5)
    cabin = hashed(np.floor(p.u / 1.45), p.tag)[:, None]
    p.shine(glass, np.array([0.75, 0.72, 0.6], np.float32) * (2 * _ROOM * (0.3 + cabin)))
    sign = (p.v > 2.72) & (p.v < 3.0) & (np.abs(p.u) < 0.8)
    p.set(sign, (0.05, 0.05, 0.04))
    p.shine(sign, (0.06, 0.036, 0.006))


def _sign_text(p: _Patch) -> None:
    line, place = np.mod(p.v, 0.6), np.floor(p.u / 0.16)
    written = (line > 0.2) & (line < 0.48) & (np.mod(p.u, 0.16) < 0.11) & (p.footprint < 0.15)
    p.set(written & (hashed(place, np.floor(p.v / 0.6), p.tag) < 0.75), 0.8)


def _plate(p: _Patch) -> None:
    letters = (np.mod(p.u, 0.075) < 0.045) & (np.mod(p.v, 0.11) < 0.07) & (p.footprint < 0.02)
    p.set(letters, 0.05)


def _traffic_light(p: _Patch) -> None:
    p.shine(np.ones(len(p.where), bool), p.color * np.float32(_TRAFFIC_LIGHT))


def _shining(color: tuple[float, float, float]) -> Callable[[_Patch], None]:
    return lambda p: p.shine(np.ones(len(p.where), bool), color)


_PAINTERS: dict[Material, Callable[[_Patch], None]] = {
    _M.LANE: _lane, _M.MARKING: _marking, _M.STREET: _street, _M.ZEBRA: _zebra,
    _M.PAVING: _paving, _M.MASONRY: _masonry, _M.CONCRETE: _concrete, _M.FIELD: _field,
    _M.FOREST: _forest, _M.SIDING: _siding, _M.FACADE: _facade, _M.TOWER: _tower,
    _M.SHOP: _shop, _M.COACH: _coach, _M.SIGN_TEXT: _sign_text, _M.PLATE: _plate,
    _M.LAMP: _traffic_light, **{m: _shining(c) for m, c in _EMISSION.items()},
}  # fmt: skip
