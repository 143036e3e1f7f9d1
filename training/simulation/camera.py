# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The camera: one ray-cast view, and the pictures it gives in every condition."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import cv2
import numpy as np

from training.simulation.config import CameraConfig, Condition
from training.simulation.light import Light, extinction, light, rain_rate
from training.simulation.mesh import Material
from training.simulation.scene import Hits, Scene
from training.simulation.surface import Surface, describe, noise

Array = np.ndarray


@dataclass
class View:
    """What the camera sees, before light and weather.

    Attributes:
        camera: The camera.
        hits: (H, W) what each pixel's ray met.
        surface: (H, W) what it looks like.
        direction: (H, W, 3) unit rays in `base_link`.
        scene: What it is a view of.
    """

    camera: CameraConfig
    hits: Hits
    surface: Surface
    direction: Array
    scene: Scene

    @functools.cached_property
    def sunlit(self) -> Array:
        """(H, W) float32 in {0, 1}."""
        return self.scene.sunlit(self.hits)

    @property
    def labels(self) -> Array:
        """(H, W) uint8 trainIds."""
        return self.hits.category

    @property
    def depth(self) -> Array:
        """(H, W) float32 distance along the optical axis in metres, inf for sky."""
        return self.hits.distance * self.direction[..., 0]


@functools.lru_cache(maxsize=4)
def pixel_rays(camera: CameraConfig) -> Array:
    """(H, W, 3) float32 unit vectors in `base_link` through the pixel centres."""
    u, v = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(camera.K).T
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    return (rays @ camera.T_base_camera[:3, :3].T).astype(np.float32)


def look(scene: Scene, camera: CameraConfig) -> View:
    """Cast the camera's rays into the scene, one per pixel."""
    direction = pixel_rays(camera)
    hits = scene.cast(np.asarray(camera.position), direction)
    surface = describe(hits, 1 / float(camera.K[0, 0]))
    return View(camera, hits, surface, direction, scene)


def picture(view: View, condition: Condition, rng: np.random.Generator) -> Array:
    """Light the view and expose the camera.

    Args:
        view: What the camera sees.
        condition: Weather or light.
        rng: Source of the noise, the drops and the flakes.

    Returns:
        (H, W, 3) RGB uint8.
    """
    lit = light(condition)
    albedo = view.surface.albedo
    weather = condition.severity
    if condition.name == 'rain':
        upward = np.clip(view.hits.normal[..., 2], 0, 1)
        # Wet, rough surfaces are darker: light is trapped under the film (Lekner and Dorf 1988).
        albedo = albedo * (1 - (0.15 + 0.4 * upward) * weather)[..., None]
    elif condition.name == 'snow':
        albedo = _snow_cover(view, albedo, weather)
    radiance = albedo * _irradiance(view, lit)
    sky = _sky(view, lit)
    radiance += _reflection(view, lit)
    if lit.lamps > 0.1:
        radiance += albedo * _lamplight(view, lit)
    emitted = view.surface.emission * np.float32(lit.lamps)
    radiance += emitted
    np.copyto(radiance, sky, where=~view.hits.hit[..., None])
    if condition.name == 'rain':
        radiance = _wet_road(view, radiance, weather)
    distance = np.where(view.hits.hit, view.hits.distance, 400).astype(np.float32)
    through = np.exp(np.float32(-extinction(condition)) * distance)[..., None]
    radiance = radiance * through + np.asarray(lit.horizon, np.float32) * (1 - through)
    if lit.lamps > 0.05:
        radiance += _bloom(emitted * through, condition)
    if condition.name == 'rain':
        radiance = _rain(radiance, condition, lit, rng)
    elif condition.name == 'snow':
        radiance = _flakes(radiance, weather, lit, rng)
    return _develop(radiance, lit, rng)


def _irradiance(view: View, lit: Light) -> Array:
    open_sky = 0.62 + 0.38 * view.hits.normal[..., 2]
    if max(lit.sun) < 0.03:
        return open_sky[..., None] * np.asarray(lit.ambient, np.float32)
    sun = view.scene.sun.astype(np.float32)
    facing = np.clip(view.hits.normal @ sun, 0, 1) * view.sunlit
    # Light bounced off a sunny street: without it everything in the shade would be blue.
    bounce = np.asarray(lit.sun, np.float32) * 0.07
    return (
        facing[..., None] * np.asarray(lit.sun, np.float32)
        + open_sky[..., None] * np.asarray(lit.ambient, np.float32)
        + bounce
    )


def _reflection(view: View, lit: Light) -> Array:
    """Sky and street mirrored in paint and glass (Schlick 1994 for the angle)."""
    normal, cosine = view.hits.normal, view.hits.cosine
    up = view.direction[..., 2] + 2 * cosine * normal[..., 2]
    share = view.surface.gloss * (0.10 + 0.90 * (1 - np.clip(cosine, 0, 1)) ** 4)
    share = (share * (0.7 + 0.3 * noise(view.hits.uv[..., 0], view.hits.uv[..., 1], 1.2)))[
        ..., None
    ]
    horizon, zenith = np.asarray(lit.horizon, np.float32), np.asarray(lit.zenith, np.float32)
    sky = horizon + (zenith - horizon) * np.clip(up, 0, 1)[..., None]
    # Facades fill most of what is mirrored near the horizon.
    open_sky = np.clip((up - 0.1) * 4, 0, 1)[..., None]
    return share * (sky * open_sky + np.asarray(lit.ambient, np.float32) * 0.22 * (1 - open_sky))


def _sky(view: View, lit: Light) -> Array:
    up = np.clip(view.direction[..., 2], 0, 1)
    mix = np.clip(up * 2.2, 0, 1)[..., None] ** 0.7
    sky = (
        np.asarray(lit.horizon, np.float32) * (1 - mix) + np.asarray(lit.zenith, np.float32) * mix
    )
    plane = np.maximum(up, 0.03)
    x, y = view.direction[..., 0] / plane, view.direction[..., 1] / plane
    cloud = np.clip(0.5 + noise(x, y, 3.0) + 0.5 * noise(x, y, 0.9), 0, 1) * lit.clouds
    cloud = (cloud * np.clip(up * 8, 0, 1))[..., None]
    grey = np.float32(0.4 * sum(lit.horizon) / 1.0)
    return sky * (1 - cloud) + grey * cloud


_HEADLIGHTS = np.array([2.2, 0.0, 0.65], np.float32)
_HEADLIGHT_INTENSITY = 140.0
_HEADLIGHT_COLOR = np.array([1.0, 0.96, 0.86], np.float32)
_STREETLIGHT_INTENSITY = 11.0
_STREETLIGHT_COLOR = np.array([1.0, 0.74, 0.42], np.float32)
_STREETLIGHT_REACH = 20.0


def _lamplight(view: View, lit: Light) -> Array:
    """Irradiance of the own low beams and the street lights; falls with the distance squared."""
    hits = view.hits
    x, y, z = (hits.point[..., i] - _HEADLIGHTS[i] for i in range(3))
    nx, ny, nz = (hits.normal[..., i] for i in range(3))
    d2 = np.maximum(x * x + y * y + z * z, 1)
    ahead = np.maximum(x, 0.1)
    side, up = y / ahead, z / ahead
    # The cut-off of a low beam: little light above the horizon, some for signs.
    beam = np.exp(-((side / 0.42) ** 2)) / (1 + np.exp(np.clip((up + 0.012) / 0.012, -30, 30)))
    beam = (beam + 0.035 * np.exp(-((side / 0.5) ** 2))) * (x > 0) * hits.hit
    cosine = np.clip(-(x * nx + y * ny + z * nz) / np.sqrt(d2), 0, 1)
    own = beam * (cosine + 14 * view.surface.retro) * (_HEADLIGHT_INTENSITY / d2)
    street = np.zeros_like(own)
    lamps = view.scene.lamps
    for lamp in lamps[(lamps[:, 0] > -12) & (lamps[:, 0] < 90)].astype(np.float32):
        across = np.hypot(hits.point[..., 0] - lamp[0], hits.point[..., 1] - lamp[1])
        close = (across < _STREETLIGHT_REACH) & hits.hit
        if not close.any():
            continue
        to = lamp - hits.point[close]
        d2_lamp = np.maximum((to * to).sum(-1), 4)
        facing = np.clip((to * hits.normal[close]).sum(-1), 0, None)
        down = np.clip(to[:, 2], 0, None)
        # Fades out at its reach: a hard edge would be seen on the road.
        fade = 1 - (across[close] / _STREETLIGHT_REACH) ** 2
        street[close] += facing * down / d2_lamp**2 * fade * _STREETLIGHT_INTENSITY
    total = own[..., None] * _HEADLIGHT_COLOR + street[..., None] * _STREETLIGHT_COLOR
    return total * np.float32(lit.lamps)


def _bloom(light_seen: Array, condition: Condition) -> Array:
    """Light scattered in the lens around lamps, wider in fog and rain."""
    h, w = light_seen.shape[:2]
    small = cv2.resize(light_seen, (max(w // 4, 8), max(h // 4, 8)), interpolation=cv2.INTER_AREA)
    wide = {'fog': 2.0, 'rain': 1.6, 'snow': 1.5}.get(condition.name, 1.0)
    glow = 0.30 * cv2.GaussianBlur(small, (0, 0), max(w / 300 * wide, 0.5))
    glow += 0.22 * cv2.GaussianBlur(small, (0, 0), max(w / 70 * wide, 0.8))
    return cv2.resize(glow, (w, h), interpolation=cv2.INTER_LINEAR)


def _snow_cover(view: View, albedo: Array, severity: float) -> Array:
    hits = view.hits
    u, v = hits.uv[..., 0], hits.uv[..., 1]
    patchy = noise(u, v, 2.5) * 0.5 + noise(v, u, 0.4) * 0.3
    cover = np.clip((hits.normal[..., 2] - 0.35) * 3 + patchy * 0.9, 0, 1)
    street = hits.material == Material.STREET
    lane = np.abs(np.abs(v) - 1.75)
    tracks = np.exp(-(((lane - 0.75) / 0.38) ** 2)) * (0.85 + 0.3 * patchy)
    # Traffic and salt keep a carriageway half clear; snow stays between the wheel tracks.
    slush = cover * 0.55 * (1 - np.clip(tracks, 0, 1)) * np.clip(0.7 + patchy, 0, 1)
    cover = np.where(street, slush, cover)
    windblown = np.clip(patchy * 1.5 - 0.35, 0, 1) * (np.abs(hits.normal[..., 2]) < 0.5)
    cover = np.clip(np.maximum(cover, windblown) * min(1.0, 1.3 * severity), 0, 1)[..., None]
    return albedo * (1 - cover) + np.array([0.70, 0.72, 0.76], np.float32) * cover


def _wet_road(view: View, radiance: Array, severity: float) -> Array:
    """Mirror the scene in the wet ground.

    On level ground the mirrored ray of a pixel below the horizon is that of the pixel as far above
    it, seen from the camera's image below the ground: exact for what is far away.
    """
    hits = view.hits
    h = view.camera.height
    horizon = float(view.camera.K[1, 2])
    rows = np.clip(np.round(2 * horizon - np.arange(h)), 0, h - 1).astype(int)
    blur = max(h / 60, 0.5)
    mirrored = cv2.GaussianBlur(radiance[rows], (0, 0), blur * 0.4, sigmaY=blur)
    level = (hits.normal[..., 2] > 0.9) & (hits.point[..., 2] < 0.3) & hits.hit
    u, v = hits.uv[..., 0], hits.uv[..., 1]
    film = np.clip(0.45 + 0.6 * noise(u, v, 3.0) + 0.2 * noise(v, u, 0.5), 0.08, 1)
    # Schlick's approximation of Fresnel's reflectance of water, n = 1.33.
    fresnel = 0.02 + 0.98 * (1 - np.clip(hits.cosine, 0, 1)) ** 5
    share = (level * film * np.clip(1.6 * fresnel + 0.08, 0, 0.85) * severity)[..., None]
    return radiance * (1 - share) + mirrored * share


def _rain(radiance: Array, condition: Condition, lit: Light, rng: np.random.Generator) -> Array:
    h, w = radiance.shape[:2]
    layer = np.zeros((h, w), np.float32)
    slant = rng.normal(0, 0.12)
    for _ in range(int(7 * rain_rate(condition) * w * h / 144_000) + 1):
        size = rng.uniform(0.3, 1.0) ** 2
        x, y = rng.uniform(0, w), rng.uniform(-20, h)
        length = (6 + 34 * size) * h / 300
        end = (round(x + slant * length), round(y + length))
        cv2.line(layer, (round(x), round(y)), end, 0.08 + 0.24 * size, 1)
    streak = cv2.GaussianBlur(layer, (0, 0), 0.6)[..., None]
    bright = np.asarray(lit.horizon, np.float32) * 1.1
    radiance = radiance * (1 - streak) + bright * streak
    drops = np.zeros((h, w), np.float32)
    for _ in range(rng.poisson(7 * condition.severity)):
        center = (int(rng.integers(w)), int(rng.integers(h)))
        cv2.circle(drops, center, max(1, round(rng.uniform(0.008, 0.03) * w)), 1.0, -1)
    lens = cv2.GaussianBlur(drops, (0, 0), max(w / 320, 0.5))[..., None]
    # A drop is a short lens: upside down and out of focus.
    through = cv2.GaussianBlur(np.ascontiguousarray(radiance[::-1]), (0, 0), w / 60) * 0.5
    through += cv2.GaussianBlur(radiance, (0, 0), w / 60) * 0.5
    return radiance * (1 - lens) + through * lens


def _flakes(radiance: Array, severity: float, lit: Light, rng: np.random.Generator) -> Array:
    h, w = radiance.shape[:2]
    area = w * h / 144_000
    layer = np.zeros((h, w), np.float32)
    n = int(900 * severity * area)
    layer[rng.integers(h, size=n), rng.integers(w, size=n)] = rng.uniform(0.3, 1, n)
    layer = cv2.GaussianBlur(layer, (0, 0), 0.7) * 2.2
    near = np.zeros((h, w), np.float32)
    for _ in range(int(60 * severity * area) + 1):
        center = (int(rng.integers(w)), int(rng.integers(h)))
        fall = (center[0] + int(rng.integers(-3, 4)), center[1] + int(rng.integers(1, 6)))
        cv2.line(near, center, fall, rng.uniform(0.5, 1), int(rng.integers(2, 6)))
    layer = np.clip(layer + cv2.GaussianBlur(near, (0, 0), max(w / 320, 0.5)) * 0.8, 0, 0.9)[
        ..., None
    ]
    return radiance * (1 - layer) + np.asarray(lit.horizon, np.float32) * 1.05 * layer


def _develop(radiance: Array, lit: Light, rng: np.random.Generator) -> Array:
    """Lens blur, exposure, shot and read noise, tone curve.

    Noise as in Foi et al. 2008, "Practical Poissonian-Gaussian noise modeling": variance
    `shot * signal + read^2` in linear light.
    """
    signal = cv2.GaussianBlur(radiance, (0, 0), 0.55) * np.float32(lit.exposure)
    level = float(np.clip((0.22 / max(float(signal.mean()), 1e-3)) ** 0.5, 0.75, 1.3))
    signal *= np.float32(level)
    sigma = np.sqrt(np.clip(signal, 0, 1.5) * np.float32(lit.shot) + np.float32(lit.read**2))
    signal += sigma * rng.standard_normal(signal.shape, np.float32)
    np.clip(signal, 0, None, out=signal)
    signal = signal * (1 + signal / 4) / (1 + signal * 0.55)  # rolls off the highlights
    index = np.minimum(signal * 4095, 4095).astype(np.uint16)
    return _GAMMA[index]


_GAMMA = np.round(255 * (np.arange(4096) / 4095) ** (1 / 2.2)).astype(np.uint8)
