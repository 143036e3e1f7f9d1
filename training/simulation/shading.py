# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Radiance of a view in a condition: surfaces under sun, sky and lamps, seen through the air."""

from __future__ import annotations

import cv2
import numpy as np

from training.simulation.conditions import Condition
from training.simulation.light import Light, Rgb, extinction, wetness
from training.simulation.view import View

Array = np.ndarray

_SNOW = (0.80, 0.82, 0.86)


def shade(view: View, condition: Condition, lit: Light, sun: Array) -> Array:
    """Light the view.

    Args:
        view: What the camera sees.
        condition: Light or weather.
        lit: Its light.
        sun: (3,) unit vector towards the sun in `base_link`.

    Returns:
        (3, H, W) float32 linear radiance, one plane per colour, in the unit of `light`.
    """
    albedo = view.surface.albedo
    wet = wetness(condition)
    if wet > 0:
        # Wet, rough surfaces are darker: light is trapped under the film (Lekner and Dorf 1988,
        # "Why some things are darker when wet").
        dark = np.clip(view.normal[2], 0, 1)
        dark *= np.float32(-0.4 * wet)
        dark += np.float32(1 - 0.15 * wet)
        albedo = albedo * dark
    elif condition.weather == 'snow':
        cover = view.snow_cover * np.float32(min(1.0, 1.3 * condition.severity))
        bare = 1 - cover
        albedo = albedo * bare
        for plane, white in zip(albedo, _SNOW, strict=True):
            plane += cover * np.float32(white)
    radiance = _irradiance(view, lit, sun)
    # By day lamps add less than a hundredth; faded out, so that no severity makes a step.
    lamps = float(np.clip((0.20 - max(lit.ambient)) / 0.1, 0, 1))
    if lamps == 1:
        radiance += view.lamplight
    elif lamps > 0:
        radiance += view.lamplight * np.float32(lamps)
    radiance *= albedo
    _add_mirrored(view, lit, radiance)
    radiance += view.surface.emission
    _sky(view, lit, sun, radiance)
    if wet > 0:
        _mirror_in_wet_ground(view, lit, wet, radiance)
    through = np.exp(np.float32(-extinction(condition)) * view.air)
    lost = 1 - through
    for plane, air in zip(radiance, lit.horizon, strict=True):
        plane *= through
        plane += lost * np.float32(air)
    return radiance


def _irradiance(view: View, lit: Light, sun: Array) -> Array:
    result = np.empty((3, *view.hit.shape), np.float32)
    shining = max(lit.sun) > 0.02 * max(lit.ambient)
    facing = view.facing(sun) if shining else None
    for plane, direct, ambient in zip(result, lit.sun, lit.ambient, strict=True):
        np.multiply(view.open_sky, np.float32(ambient), out=plane)
        if facing is not None:
            plane += facing * np.float32(direct)
            # Light bounced off a sunny street: without it everything in the shade would be blue.
            plane += np.float32(0.07 * direct)
    return result


def _add_mirrored(view: View, lit: Light, radiance: Array) -> None:
    low, high, street = view.mirror
    for plane, horizon, zenith, ambient in zip(
        radiance, lit.horizon, lit.zenith, lit.ambient, strict=True
    ):
        plane += low * np.float32(horizon)
        plane += high * np.float32(zenith)
        plane += street * np.float32(ambient)


def _sky(view: View, lit: Light, sun: Array, radiance: Array) -> None:
    where, height, cloud = view.heaven
    if not len(where):
        return
    share = cloud * np.float32(lit.clouds)
    grey = np.float32(0.42 * sum(lit.horizon))
    angle = sum(view.ray[i].ravel()[where] * sun[i] for i in range(3))
    # Forward scattering brightens the sky about the sun, most where it stands low.
    glow = 0.02 / (np.float32(1.02) - angle) ** 1.2
    for plane, horizon, zenith, direct in zip(
        radiance, lit.horizon, lit.zenith, lit.sun, strict=True
    ):
        sky = np.float32(horizon) + height * np.float32(zenith - horizon)
        sky += (grey - sky) * share
        sky += glow * np.float32(0.35 * direct)
        plane.ravel()[where] = sky


def _mirror_in_wet_ground(view: View, lit: Light, wet: float, radiance: Array) -> None:
    map_x, map_y, open_sky = view.wet_mirror
    h, w = view.hit.shape
    share = view.film * np.float32(wet)
    for plane, sky in zip(radiance, _overhead(lit), strict=True):
        seen = cv2.remap(plane, map_x, map_y, cv2.INTER_LINEAR)
        seen = np.where((open_sky > 0) & (map_y <= 0), np.float32(sky), seen)
        # Ripples smear the image most along the line of sight, which is upright in the picture.
        smeared = cv2.GaussianBlur(seen, (0, 0), 0.7, sigmaY=2.5 * h / 300)
        mirrored = cv2.resize(smeared, (w, h), interpolation=cv2.INTER_LINEAR)
        plane += (mirrored - plane) * share


def _overhead(lit: Light) -> Rgb:
    r, g, b = ((a + b) / 2 for a, b in zip(lit.horizon, lit.zenith, strict=True))
    return r, g, b
