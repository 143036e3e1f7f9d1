# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Light of bright sources scattered in lens and windscreen."""

from __future__ import annotations

import cv2
import numpy as np

from training.simulation.conditions import Condition
from training.simulation.light import LUX, Light, extinction
from training.simulation.view import View

Array = np.ndarray

_LENS = 0.35
"""Scatter of a clean camera behind glass, as a share of the eye's (chosen)."""

_WINDSCREEN = 6.0
"""How much more a low sun scatters, in the dust of a windscreen that it shines on (chosen)."""

_SUN_RAYS = np.array([(0.0, 0.0), (1, 0), (-1, 0), (0, 1), (0, -1), (0.7, 0.7), (-0.7, -0.7)])
_SUN_SPREAD = 0.012
"""Radians about the sun within which twigs and edges dim the glare gradually."""

_COLORS = np.array([[1.0, 0.95, 0.84], [1.0, 0.06, 0.03], [1.0, 0.06, 0.03]], np.float32)
_CANDELA = (900.0, 5.0, 60.0)
"""Of a head light seen above its cut-off, a tail light and a brake light."""

_STREET_CANDELA = 350.0
_STREET_COLOR = np.array([1.0, 0.74, 0.42], np.float32)


def veil(view: View, condition: Condition, lit: Light, sun: Array) -> Array | None:
    """Radiance added to the picture by scattered light.

    Stiles and Holladay's disability glare (CIE 31:1976): L = 10 E / theta^2 in cd/m2, with the
    illuminance E at the eye in lux and theta in degrees; `_LENS` of it for a camera. Sources
    that something hides do not glare; air takes its part of their light.

    Returns:
        (h, w, 3) float32 at a quarter of the size, None if nothing glares.
    """
    position, illuminance = _sources(view, condition, lit, sun)
    if not len(position):
        return None
    ray = view.ray[:, 2::4, 2::4].reshape(3, -1)
    origin = np.asarray(view.camera.position, np.float32)
    direction = position - origin
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    # 1 - cos theta = theta^2 / 2; the core is as wide as a small blur.
    theta2 = 2 * np.clip(1 - direction.astype(np.float32) @ ray, 0, 2) * np.float32(57.3**2)
    core = (57.3 * 0.7 / float(view.camera.K[0, 0])) ** 2
    spread = 1 / (theta2 + np.float32(max(core, 0.04)))
    spread *= np.clip(1 - theta2 * np.float32(1 / 75**2), 0, 1)
    # 10 cd/m2 per lux; the unit of radiance is 40 000 / pi cd/m2.
    strength = illuminance / LUX * (10 * _LENS * np.pi * LUX)
    glare = spread.T @ strength.astype(np.float32)
    h, w = view.ray[0, 2::4, 2::4].shape
    return np.ascontiguousarray(glare.reshape(h, w, 3))


def add_veil(picture: Array, glare: Array) -> None:
    """Add a quarter-size veil to an (H, W, 3) picture in place."""
    h, w = picture.shape[:2]
    picture += cv2.resize(glare, (w, h), interpolation=cv2.INTER_LINEAR)


def _sources(view: View, condition: Condition, lit: Light, sun: Array) -> tuple[Array, Array]:
    """(N, 3) positions in `base_link` and (N, 3) RGB illuminances at the camera."""
    origin = np.asarray(view.camera.position, np.float64)
    places, strengths = [], []
    axis = view.camera.T_base_camera[:3, 2]
    brightest = max(lit.ambient)
    if max(lit.sun) > 0.02 * brightest and float(sun @ axis) > 0.3:
        free = _free_share(view, origin, sun)
        if free > 0:
            beta = extinction(condition) * 100 / max(float(sun[2]), 0.05)
            places.append(origin + 1e4 * sun.astype(np.float64))
            scatter = 1 + (_WINDSCREEN - 1) * float(np.clip(1 - sun[2] / 0.3, 0, 1))
            strengths.append(np.asarray(lit.sun) * (np.exp(-beta) * free * scatter))
    # By day lamps are lost against the sky: their veil would be a thousandth of it.
    if brightest < 0.15:
        lamps, power = _lamps(view)
        if len(lamps):
            distance = np.linalg.norm(lamps - origin, axis=1)
            arriving = power / np.maximum(distance, 1)[:, None] ** 2
            arriving *= np.exp(-extinction(condition) * distance)[:, None]
            places.extend(lamps)
            strengths.extend(arriving)
    return np.array(places).reshape(-1, 3), np.array(strengths).reshape(-1, 3)


def _free_share(view: View, origin: Array, sun: Array) -> float:
    """How much of the sun's surroundings nothing stands before, 0 to 1."""
    side = np.array([-sun[1], sun[0], 0.0])
    side /= max(float(np.linalg.norm(side)), 1e-6)
    up = np.cross(sun, side)
    rays = sun + _SUN_SPREAD * (_SUN_RAYS[:, :1] * side + _SUN_RAYS[:, 1:] * up)
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    met = view.scene.cast(origin, rays.astype(np.float32)).distance
    return float((~np.isfinite(met)).mean())


def _lamps(view: View) -> tuple[Array, Array]:
    """Visible lamps and their intensity towards the camera, RGB."""
    lamps = np.asarray(view.scene.lamps, np.float64).reshape(-1, 3)
    power = np.broadcast_to(_STREET_CANDELA * LUX * _STREET_COLOR, (len(lamps), 3))
    lights = view.scene.vehicle_lights
    if len(lights.kind):
        position = np.asarray(lights.position, np.float64)
        kind = np.asarray(lights.kind).astype(int)
        away = np.asarray(view.camera.position) - position
        away /= np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-6)
        facing = np.clip((np.asarray(lights.direction) * away).sum(1), 0, 1)
        narrow = np.where(kind == 0, facing**8, facing)
        candela = np.array(_CANDELA)[kind] * narrow * LUX
        lamps = np.concatenate([lamps, position])
        power = np.concatenate([power, candela[:, None] * _COLORS[kind]])
    if not len(lamps):
        return lamps, power
    T = np.linalg.inv(view.camera.T_base_camera)
    local = lamps @ T[:3, :3].T + T[:3, 3]
    pixel = view.camera.project(local)
    h, w = view.hit.shape
    with np.errstate(invalid='ignore'):
        inside = (local[:, 2] > 0.5) & (pixel > 1).all(1)
        inside &= (pixel[:, 0] < w - 2) & (pixel[:, 1] < h - 2)
    inside &= local[:, 2] < 250
    x, y = np.where(inside[:, None], pixel, 1).round().astype(int).T
    # The deepest of the neighbours: a lamp may be smaller than a pixel.
    depth = np.max([view.depth[y + j, x + i] for j in (-1, 0, 1) for i in (-1, 0, 1)], axis=0)
    seen = inside & (depth > local[:, 2] - 0.6)
    return lamps[seen], power[seen]
