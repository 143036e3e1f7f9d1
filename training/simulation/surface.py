# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Procedural textures: what a hit point looks like, before any light falls on it."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import cv2
import numpy as np

from training.simulation.mesh import Material
from training.simulation.scene import Hits

_M = Material

# Rows: coarse contrast, fine contrast, gloss (0 matt to 1 mirror), lidar reflectivity at 905 nm
# relative to the visible colour, retroreflection. Chosen, not measured.
_PROPERTIES = {
    _M.ASPHALT: (0.25, 0.30, 0.05, 1.2, 0.0), _M.STREET: (0.25, 0.30, 0.05, 1.2, 0.0),
    _M.ZEBRA: (0.2, 0.2, 0.05, 1.2, 0.2), _M.PAVING: (0.15, 0.20, 0.03, 1.1, 0.0),
    _M.GRASS: (0.45, 0.50, 0.0, 3.5, 0.0), _M.FACADE: (0.18, 0.14, 0.0, 1.1, 0.0),
    _M.ROOF: (0.2, 0.3, 0.02, 1.5, 0.0), _M.MASONRY: (0.25, 0.25, 0.0, 1.1, 0.0),
    _M.METAL: (0.1, 0.1, 0.15, 0.8, 0.0), _M.SIGN: (0.0, 0.03, 0.05, 1.0, 1.0),
    _M.LAMP: (0.0, 0.0, 0.0, 0.3, 0.0), _M.LEAF: (0.35, 0.55, 0.02, 4.0, 0.0),
    _M.PAINT: (0.03, 0.02, 0.35, 0.7, 0.0), _M.GLASS: (0.0, 0.0, 0.6, 0.5, 0.0),
    _M.RUBBER: (0.1, 0.1, 0.0, 1.0, 0.0), _M.CLOTH: (0.15, 0.2, 0.0, 1.4, 0.0),
    _M.BARK: (0.3, 0.5, 0.0, 2.0, 0.0), _M.HEADLIGHT: (0.0, 0.0, 0.3, 0.4, 0.3),
    _M.TAILLIGHT: (0.0, 0.0, 0.2, 1.0, 0.8), _M.STREETLAMP: (0.0, 0.0, 0.1, 0.3, 0.0),
    _M.COACH: (0.02, 0.03, 0.25, 0.7, 0.0), _M.PICKETS: (0.25, 0.3, 0.0, 1.4, 0.0),
    _M.SIGN_ROUND: (0.0, 0.0, 0.05, 1.0, 1.0), _M.SOIL: (0.4, 0.5, 0.0, 1.5, 0.0),
    _M.LANE: (0.25, 0.30, 0.05, 1.2, 0.0), _M.MARKING: (0.1, 0.15, 0.05, 1.0, 0.25),
    _M.RAIL: (0.1, 0.1, 0.3, 0.8, 0.0), _M.CONCRETE: (0.2, 0.2, 0.0, 1.1, 0.0),
    _M.GRAVEL: (0.3, 0.5, 0.0, 1.2, 0.0), _M.FIELD: (0.45, 0.5, 0.0, 2.5, 0.0),
    _M.FOREST: (0.5, 0.5, 0.0, 4.0, 0.0), _M.TOWER: (0.05, 0.05, 0.3, 0.8, 0.0),
    _M.SHOP: (0.1, 0.1, 0.2, 0.9, 0.0), _M.SIDING: (0.1, 0.1, 0.05, 1.0, 0.0),
    _M.TARP: (0.05, 0.05, 0.08, 1.0, 0.0), _M.SKIN: (0.1, 0.1, 0.0, 1.6, 0.0),
    _M.PLATE: (0.0, 0.05, 0.05, 1.0, 0.8), _M.BRAKELIGHT: (0.0, 0.0, 0.2, 1.0, 0.8),
    _M.INDICATOR: (0.0, 0.0, 0.2, 1.0, 0.3), _M.SIGN_TEXT: (0.0, 0.03, 0.05, 1.0, 1.0),
}  # fmt: skip
_TABLE = np.array([_PROPERTIES[m] for m in Material], np.float32)


@dataclass
class Surface:
    """Looks of hit points; arrays have the rays' leading shape.

    Attributes:
        albedo: (..., 3) float32 linear RGB.
        gloss: float32, 0 matt to 1 mirror.
        emission: (..., 3) float32 light given off when all lamps burn.
        reflectivity: float32 at the lidar's wavelength, in [0, 1].
        retro: float32, part of the light sent back to where it came from.
    """

    albedo: np.ndarray
    gloss: np.ndarray
    emission: np.ndarray
    reflectivity: np.ndarray
    retro: np.ndarray


@functools.lru_cache(maxsize=1)
def _noise_tile() -> np.ndarray:
    """(256, 256) float32 tileable value noise of four octaves in [-1, 1]."""
    rng = np.random.default_rng(7)
    total: np.ndarray = np.zeros((256, 256), np.float32)
    for octave in range(4):
        n = 32 << octave
        grid = np.pad(rng.uniform(-1, 1, (n, n)).astype(np.float32), 2, mode='wrap')
        big = cv2.resize(grid, None, fx=256 / n, fy=256 / n, interpolation=cv2.INTER_CUBIC)
        edge = 2 * 256 // n
        total += big[edge : edge + 256, edge : edge + 256] / 1.6**octave
    return np.clip(total / 1.8, -1, 1)


def noise(x: np.ndarray, y: np.ndarray, cell: float) -> np.ndarray:
    """Value noise in [-1, 1] at 2-D float32 coordinate images, features of about `cell` metres."""
    scale = np.float32(8 / cell)
    return cv2.remap(
        _noise_tile(), np.mod(x * scale, 256).astype(np.float32),
        np.mod(y * scale, 256).astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP,
    )  # fmt: skip


def hashed(*keys: np.ndarray) -> np.ndarray:
    """Float32 in [0, 1) from integer arrays, the same for the same keys (xorshift-multiply)."""
    h = np.uint32(2166136261)
    for key in keys:
        h = (np.asarray(key).astype(np.int64).astype(np.uint32) ^ h) * np.uint32(0x9E3779B1)
        h = (h ^ (h >> np.uint32(15))) * np.uint32(0x85EBCA6B)
        h = h ^ (h >> np.uint32(13))
    return (h >> np.uint32(8)).astype(np.float32) / np.float32(1 << 24)


def describe(hits: Hits, pixel: float) -> Surface:
    """Texture the hits.

    Args:
        hits: A 2-D grid of hits.
        pixel: Radians between neighbouring rays; textures finer than that are faded out.
    """
    coarse, fine, gloss, infrared, retro = np.moveaxis(_TABLE[hits.material], -1, 0)
    distance = np.where(hits.hit, hits.distance, 1000).astype(np.float32)
    footprint = distance * np.float32(pixel) / np.maximum(hits.cosine, 0.1)
    shift = hits.tag.astype(np.float32) * np.float32(1.37)
    u, v = hits.uv[..., 0] + shift, hits.uv[..., 1]
    variation: np.ndarray = 1 + coarse * noise(u, v, 1.7) * np.clip(1.5 - footprint / 1.5, 0, 1)
    variation += fine * noise(v, u, 0.16) * np.clip(1.2 - footprint / 0.2, 0, 1)
    albedo = hits.color * np.clip(variation, 0.1, 3)[..., None]
    surface = Surface(
        albedo, gloss.copy(), np.zeros_like(albedo), np.zeros_like(gloss), retro.copy()
    )
    _street(hits, surface)
    _paving(hits, surface, footprint)
    _facades(hits, surface)
    _coaches(hits, surface)
    _lights(hits, surface)
    grey = surface.albedo @ np.array([0.45, 0.35, 0.2], np.float32)
    surface.reflectivity[...] = np.clip(grey * infrared, 0.01, 1)
    return surface


def _street(hits: Hits, out: Surface) -> None:
    street = hits.material == _M.STREET
    s, lateral = hits.uv[..., 0][street], hits.uv[..., 1][street]
    dashed = (np.abs(lateral) < 0.07) & (np.mod(s, 9) < 5)
    edge = (np.abs(lateral + 3.45) < 0.06) | (np.abs(lateral - 3.45) < 0.06)
    bays = (np.abs(lateral + 4.6) < 1.1) & (np.mod(s, 6) < 0.1)
    clear_of_crossing = np.mod(s + 4, 60) > 14
    worn = hashed(np.floor(s * 4), np.floor(lateral * 9)) < 0.88
    paint = (dashed | edge | bays) & clear_of_crossing & worn
    rail = (np.abs(np.abs(lateral - 5.3) - 0.72) < 0.05)  # fmt: skip
    albedo = out.albedo[street]
    tracks = np.exp(-(((np.abs(np.abs(lateral) - 1.75) - 0.75) / 0.25) ** 2))
    albedo *= (1 - 0.18 * tracks)[:, None]
    patch = hashed(np.floor(s / 7.3), np.floor(lateral / 3.5)) < 0.12
    albedo[patch] *= 0.65
    albedo[paint] = 0.62
    albedo[rail] = (0.30, 0.29, 0.28)
    out.albedo[street] = albedo
    gloss, retro = out.gloss[street], out.retro[street]
    gloss[rail], retro[paint] = 0.3, 0.25
    out.gloss[street], out.retro[street] = gloss, retro
    zebra = hits.material == _M.ZEBRA
    stripe = np.mod(hits.uv[..., 1], 1.0) < 0.5
    out.albedo[zebra & stripe] = 0.6


def _paving(hits: Hits, out: Surface, footprint: np.ndarray) -> None:
    near = footprint < 0.08
    slabs = near & (hits.material == _M.PAVING)
    u, v = hits.uv[..., 0], hits.uv[..., 1]
    joint = (np.mod(u, 0.6) < 0.035) | (np.mod(v, 0.6) < 0.035)
    out.albedo[slabs & joint] *= 0.6
    tone = 0.88 + 0.24 * hashed(np.floor(u / 0.6), np.floor(v / 0.6))
    out.albedo[slabs] *= tone[slabs][:, None]
    bricks = near & (hits.material == _M.MASONRY)
    row = np.floor(v / 0.25)
    joint = (np.mod(v, 0.25) < 0.04) | (np.mod(u + 0.25 * row, 0.5) < 0.04)
    out.albedo[bricks & joint] *= 0.65


def _facades(hits: Hits, out: Surface) -> None:
    facade = (hits.material == _M.FACADE) & (np.abs(hits.normal[..., 2]) < 0.5)
    if not facade.any():
        return
    u, v, tag = hits.uv[..., 0][facade], hits.uv[..., 1][facade], hits.tag[facade]
    width = 1.5 + 1.2 * hashed(tag, np.full_like(tag, 1))
    floor = 3.0
    column, row = np.floor(u / width), np.floor(v / floor)
    x, y = u / width - column, v / floor - row
    half = 0.2 + 0.13 * hashed(tag, np.full_like(tag, 2))
    low = np.where(row == 0, 0.1, 0.3)
    window = (np.abs(x - 0.5) < half) & (y > low) & (y < 0.8)
    frame = (np.abs(x - 0.5) < half + 0.05) & (y > low - 0.04) & (y < 0.84) & ~window
    bar = window & (np.abs(x - 0.5) < 0.02)
    albedo, gloss, emission = out.albedo[facade], out.gloss[facade], out.emission[facade]
    albedo[frame | bar] = np.array([0.55, 0.54, 0.5]) * (
        0.5 + 0.6 * hashed(tag[frame | bar], np.full(int((frame | bar).sum()), 3))[:, None]
    )
    glass = window & ~bar
    pane = hashed(column, row, tag)
    curtain = (hashed(row, column, tag) < 0.35) & (y > 0.5)
    albedo[glass] = np.array([0.04, 0.05, 0.06]) * (0.5 + pane[glass][:, None])
    albedo[glass & curtain] = (0.35, 0.33, 0.3)
    gloss[glass] = 0.45
    lit = glass & (pane < 0.22)
    emission[lit] = np.array([1.0, 0.72, 0.35]) * (0.4 + 3 * pane[lit][:, None])
    band = (y < 0.05) & (row > 0)
    albedo[band] *= 1.25
    albedo[(row == 0) & ~window & ~frame] *= 0.75
    out.albedo[facade], out.gloss[facade], out.emission[facade] = albedo, gloss, emission


def _coaches(hits: Hits, out: Surface) -> None:
    coach = (hits.material == _M.COACH) & (np.abs(hits.normal[..., 2]) < 0.5)
    if not coach.any():
        return
    u, v = hits.uv[..., 0][coach], hits.uv[..., 1][coach]
    post = np.mod(u, 1.45) < 0.13
    window = (v > 1.35) & (v < 2.6) & ~post
    door = (np.mod(u + 2, 4.35) < 1.2) & (v > 0.5) & (v < 2.7) & ~post
    stripe = (v > 0.95) & (v < 1.12)
    albedo, gloss, emission = out.albedo[coach], out.gloss[coach], out.emission[coach]
    albedo[stripe] = 0.6
    glass = window | door
    albedo[glass] = (0.04, 0.05, 0.06)
    gloss[glass] = 0.5
    cabin = hashed(np.floor(u / 1.45), hits.tag[coach])
    emission[glass] = np.array([0.75, 0.72, 0.6]) * (0.08 + 0.35 * cabin[glass])[:, None]
    sign = (v > 2.72) & (v < 3.0) & (np.abs(u) < 0.8)
    albedo[sign] = (0.05, 0.05, 0.04)
    emission[sign] = np.array([1.0, 0.6, 0.1]) * 1.2
    out.albedo[coach], out.gloss[coach], out.emission[coach] = albedo, gloss, emission


def _lights(hits: Hits, out: Surface) -> None:
    for material, color in (
        (_M.HEADLIGHT, (9.0, 8.6, 7.5)), (_M.TAILLIGHT, (1.6, 0.03, 0.02)),
        (_M.STREETLAMP, (7.0, 5.4, 3.0)),
    ):  # fmt: skip
        out.emission[hits.material == material] = color
    lamp = hits.material == _M.LAMP
    out.emission[lamp] = hits.color[lamp] * 3
