# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a camera sees before light and weather: buffers that all conditions of a moment share."""

from __future__ import annotations

import functools

import cv2
import numpy as np

from training.simulation.lens import PLUMB_BOB
from training.simulation.light import LUX
from training.simulation.mesh import Material
from training.simulation.scene import Hits, Scene
from training.simulation.sensors import CameraConfig
from training.simulation.surface import Surface, describe, noise, smooth_noise

Array = np.ndarray

# Low beams: candela of both lamps together just below the cut-off (UN R112 asks for some 10 000
# to 30 000 per lamp there), and what still goes above it.
_HEADLIGHTS = (2.2, 0.0, 0.65)
_LOW_BEAM = 50_000 * LUX
_HEADLIGHT_COLOR = (1.0, 0.96, 0.86)
_STREETLIGHT = 2_200 * LUX
_STREETLIGHT_COLOR = (1.0, 0.74, 0.42)
_STREETLIGHT_REACH = 26.0


class View:
    """One camera's ray-cast view; everything else is derived when first asked for, and kept.

    Args:
        scene: What it is a view of.
        camera: Which camera.
    """

    def __init__(self, scene: Scene, camera: CameraConfig) -> None:
        self.scene = scene
        self.camera = camera
        self.direction = camera.rays()
        """(H, W, 3) float32 unit rays in `base_link`."""
        self.hits: Hits = scene.cast(np.asarray(camera.position), self.direction)
        self._sun: dict[bytes, Array] = {}

    @property
    def labels(self) -> Array:
        """(H, W) uint8 trainIds."""
        return self.hits.category

    @functools.cached_property
    def depth(self) -> Array:
        """(H, W) float32 distance along the optical axis in metres, inf for sky."""
        axis = self.camera.T_base_camera[:3, 2].astype(np.float32)
        with np.errstate(invalid='ignore'):
            depth = self.hits.distance * (self.direction @ axis)
        return np.where(self.hit, depth, np.float32(np.inf))

    @functools.cached_property
    def hit(self) -> Array:
        """(H, W) bool: not the sky."""
        return np.asarray(self.hits.hit)

    @functools.cached_property
    def surface(self) -> Surface:
        """What the hits look like."""
        return describe(self.hits, 1 / float(self.camera.K[0, 0]))

    @functools.cached_property
    def normal(self) -> Array:
        """(3, H, W) float32, one plane per axis."""
        return np.ascontiguousarray(np.moveaxis(self.hits.normal, -1, 0))

    @functools.cached_property
    def point(self) -> Array:
        """(3, H, W) float32 in `base_link`, one plane per axis."""
        return np.ascontiguousarray(np.moveaxis(self.hits.point, -1, 0))

    @functools.cached_property
    def ray(self) -> Array:
        """(3, H, W) float32 unit rays, one plane per axis."""
        return _ray_planes(self.camera)

    @functools.cached_property
    def open_sky(self) -> Array:
        """(H, W) float32 part of the sky that lights a surface of this inclination."""
        return np.float32(0.62) + np.float32(0.38) * self.normal[2]

    def facing(self, sun: Array) -> Array:
        """(H, W) float32 cosine of the sun's incidence, 0 in the shade."""
        key = sun.tobytes()
        if key not in self._sun:
            cosine = _dot(self.normal, sun)
            np.clip(cosine, 0, 1, out=cosine)
            # Shadows at half the resolution take a third of the time. Where the sampled pixel
            # faces away, or is sky, its neighbours must not get a dark fringe.
            lit = self.scene.sunlit(self.hits, sun, every=2)
            away = cosine[::2, ::2] <= 0
            h, w = cosine.shape
            cosine *= np.maximum(lit, away.repeat(2, 0).repeat(2, 1)[:h, :w])
            self._sun[key] = cosine
        return self._sun[key]

    @functools.cached_property
    def air(self) -> Array:
        """(H, W) float32 metres of air a ray passes; the weather is 100 m thick."""
        up = np.maximum(self.ray[2], np.float32(0.05))
        return np.where(self.hit, self.hits.distance, np.minimum(100 / up, 2000))

    @functools.cached_property
    def mirror(self) -> tuple[Array, Array, Array]:
        """(H, W) shares of horizon, zenith and street light mirrored in paint and glass.

        Schlick 1994, "An inexpensive BRDF model for physically-based rendering", for the angle.
        """
        cosine = np.clip(self.hits.cosine, 0, 1)
        up = self.ray[2] + 2 * cosine * self.normal[2]
        grazing = (1 - cosine) ** 2
        share = self.surface.gloss * (np.float32(0.1) + np.float32(0.9) * grazing * grazing)
        uv = self.hits.uv
        share *= np.float32(0.7) + np.float32(0.3) * noise(uv[..., 0], uv[..., 1], 1.2)
        sky = np.clip((up - np.float32(0.1)) * 4, 0, 1) * share
        high = sky * np.clip(up, 0, 1)
        # Facades fill most of what is mirrored near the horizon.
        return sky - high, high, (share - sky) * np.float32(0.22)

    @functools.cached_property
    def heaven(self) -> tuple[Array, Array, Array]:
        """Flat indices of the sky's pixels, their height (0 horizon to 1 zenith) and clouds."""
        where = np.flatnonzero(~self.hit)
        x, y, up = (plane.ravel()[where] for plane in self.ray)
        up = np.clip(up, 0, 1)
        plane = up + np.float32(0.12)
        x, y = x / plane, y / plane
        cloud = smooth_noise(x, y, 4.0) + 0.5 * smooth_noise(x, y, 1.3)
        cloud = np.clip(0.5 + cloud, 0, 1) * np.clip(up * 8, 0, 1)
        return where, np.clip(up * 2.2, 0, 1) ** np.float32(0.7), cloud

    @functools.cached_property
    def lamplight(self) -> Array:
        """(3, H, W) float32 irradiance by the own low beams, street lights and other vehicles'."""
        total = self._low_beam(np.array(_HEADLIGHTS), np.array([1.0, 0, 0]), 1.0, own=True)
        lights = self.scene.vehicle_lights
        if len(lights.kind):
            heads = np.flatnonzero(np.asarray(lights.kind) == 0)
            place = np.asarray(lights.position)[heads]
            near = np.flatnonzero((place[:, 0] > -30) & (place[:, 0] < 60))
            order = near[np.argsort(np.linalg.norm(place[near], axis=1), kind='stable')][:6]
            for i in order:
                axis = np.asarray(lights.direction)[heads[i]]
                total += self._low_beam(place[i], axis, 0.5, own=False)
        result = np.stack([total * np.float32(c) for c in _HEADLIGHT_COLOR])
        street = self._street_lights()
        for plane, c in zip(result, _STREETLIGHT_COLOR, strict=True):
            plane += street * np.float32(c)
        return result

    def _low_beam(self, position: Array, axis: Array, share: float, own: bool) -> Array:
        """Irradiance by a pair of low beams (or `share` of one)."""
        px, py, pz = (self.point[i] - np.float32(position[i]) for i in range(3))
        cx, cy = np.float32(axis[0]), np.float32(axis[1])
        ahead = px * cx + py * cy
        out = np.zeros_like(ahead)
        reach = 90 if own else 40
        where = np.flatnonzero((ahead > 0.3) & (ahead < reach) & self.hit)
        if not len(where):
            return out
        x, y, z, ahead = (a.ravel()[where] for a in (px, py, pz, ahead))
        side, up = (y * cx - x * cy) / ahead, z / ahead
        d2 = np.maximum(x * x + y * y + z * z, 1)
        # The cut-off of a low beam: little light above the horizon, some for signs.
        beam = np.exp(-((side / np.float32(0.42)) ** 2))
        beam /= 1 + np.exp(np.clip((up + np.float32(0.012)) / np.float32(0.010), -30, 30))
        # Less light is sent to the near ground, so that it is not glaring.
        beam /= 1 + (np.clip(-up, 0, 1) / np.float32(0.04)) ** 2
        beam += np.float32(0.012) * np.exp(-((side / np.float32(0.6)) ** 2))
        nx, ny, nz = (n.ravel()[where] for n in self.normal)
        cosine = np.clip(-(x * nx + y * ny + z * nz) / np.sqrt(d2), 0, 1)
        # Rough ground seen from the side of the light is brighter than a matt one (Oren and Nayar
        # 1994); the exponent stands for it.
        cosine = cosine ** np.float32(0.65)
        if own:
            cosine += 14 * self.surface.retro.ravel()[where]
        out.ravel()[where] = beam * cosine * (np.float32(_LOW_BEAM * share) / d2)
        return out

    def _street_lights(self) -> Array:
        street = np.zeros(self.hit.shape, np.float32)
        flat = street.ravel()
        lamps = np.asarray(self.scene.lamps, np.float32).reshape(-1, 3)
        lamps = lamps[(np.abs(lamps[:, 0]) < 95) & (np.abs(lamps[:, 1]) < 60)]
        close = np.flatnonzero(self.hit & (self.hits.distance < 110))
        x, y, z = (p.ravel()[close] for p in self.point)
        nx, ny, nz = (n.ravel()[close] for n in self.normal)
        for lamp in lamps:
            dx, dy = lamp[0] - x, lamp[1] - y
            across = dx * dx + dy * dy
            part = np.flatnonzero(across < _STREETLIGHT_REACH**2)
            if not len(part):
                continue
            dx, dy, dz = dx[part], dy[part], lamp[2] - z[part]
            d2 = np.maximum(across[part] + dz * dz, 4)
            facing = np.clip(dx * nx[part] + dy * ny[part] + dz * nz[part], 0, None)
            # Fades out at its reach: a hard edge would be seen on the road.
            fade = 1 - across[part] / np.float32(_STREETLIGHT_REACH**2)
            down = np.clip(dz / np.sqrt(d2), 0, 1) + np.float32(0.12)
            light = facing * down / (d2 * np.sqrt(d2)) * fade
            flat[close[part]] += light * np.float32(_STREETLIGHT)
        return street

    @functools.cached_property
    def snow_cover(self) -> Array:
        """(H, W) float32 part of the surface under snow after a long fall."""
        hits = self.hits
        u, v = hits.uv[..., 0], hits.uv[..., 1]
        patchy = noise(u, v, 2.5) * np.float32(0.5) + noise(v, u, 0.4) * np.float32(0.3)
        cover = np.clip((self.normal[2] - np.float32(0.35)) * 3 + patchy * 0.9, 0, 1)
        # Traffic and salt keep a carriageway half clear; snow stays between the wheel tracks.
        road = np.isin(hits.material, (Material.STREET, Material.LANE, Material.MARKING))
        tracks = np.exp(-(((np.abs(v) - np.float32(0.75)) / np.float32(0.38)) ** 2))
        tracks *= np.float32(0.85) + np.float32(0.3) * patchy
        slush = cover * 0.95 * (1 - 0.8 * np.clip(tracks, 0, 1)) * np.clip(0.9 + patchy, 0, 1)
        cover = np.where(road, slush, cover)
        blown = np.clip(patchy * 1.5 - 0.25, 0, 1) * (np.abs(self.normal[2]) < 0.5)
        return np.clip(np.maximum(cover, blown), 0, 1).astype(np.float32)

    @functools.cached_property
    def film(self) -> Array:
        """(H, W) float32 reflectance of the water on the ground when it is fully wet."""
        level = (self.normal[2] > 0.9) & (self.point[2] < 1.0) & self.hit
        u, v = self.hits.uv[..., 0], self.hits.uv[..., 1]
        puddles = np.clip(0.5 + 0.7 * noise(u, v, 3.0) + 0.2 * noise(v, u, 0.5), 0.15, 1)
        # Schlick's approximation of Fresnel's reflectance of water, n = 1.33.
        grazing = 1 - np.clip(self.hits.cosine, 0, 1)
        fresnel = np.float32(0.02) + np.float32(0.98) * grazing**5
        share = level * puddles * np.clip(1.3 * fresnel + 0.04, 0, 0.85)
        return share.astype(np.float32)

    @functools.cached_property
    def wet_mirror(self) -> tuple[Array, Array, Array]:
        """Where the wet ground mirrors what: every third pixel's `map_x`, `map_y`, and sky.

        The mirrored rays are cast; what they hit is looked up in the picture. Where the camera
        cannot see it, the pixel as far above the horizon is taken, exact for what is far away.
        """
        h, w = self.hit.shape
        rows, columns = np.arange(1, h, 3), np.arange(1, w, 3)
        grid = np.ix_(rows, columns)
        map_x = np.broadcast_to(columns, (len(rows), len(columns))).astype(np.float32)
        axis = self.camera.T_base_camera[:3, 2]
        up = self.camera.K[1, 1] * axis[2] / max(float(np.hypot(axis[0], axis[1])), 0.1)
        flipped = 2 * (self.camera.K[1, 2] + up) - rows
        map_y = np.broadcast_to(np.clip(flipped, 0, h - 1)[:, None], map_x.shape)
        map_x, map_y = map_x.copy(), map_y.astype(np.float32)
        open_sky = np.zeros(map_x.shape, np.float32)
        where = np.nonzero(self.film[grid] > 0)
        if len(where[0]):
            at = (rows[where[0]], columns[where[1]])
            start, ray = self.hits.point[at], self.direction[at].copy()
            ray[:, 2] = np.abs(ray[:, 2])
            start = start + np.array([0, 0, 0.03], np.float32)
            met = self.scene.cast(start, ray).distance
            open_sky[where] = ~np.isfinite(met)
            target = start + np.where(np.isfinite(met), met, 500)[:, None] * ray
            T = np.linalg.inv(self.camera.T_base_camera)
            target = target @ T[:3, :3].T + T[:3, 3]
            with np.errstate(invalid='ignore'):
                pixel = self.camera.project(target)
                inside = (pixel > 0).all(1) & (pixel[:, 0] < w - 1) & (pixel[:, 1] < h - 1)
            x, y = np.where(inside[:, None], pixel, 0).round().astype(int).T
            seen = self.depth[y, x]
            with np.errstate(invalid='ignore'):
                same = inside & (
                    ~np.isfinite(met) & ~np.isfinite(seen)
                    | (np.abs(seen - target[:, 2]) < 0.1 * target[:, 2] + 0.5)
                )
            part = (where[0][same], where[1][same])
            map_x[part], map_y[part] = pixel[same, 0], pixel[same, 1]
        return map_x, map_y, open_sky

    @functools.cached_property
    def flow(self) -> Array:
        """(H, W, 2) float32 pixels per second at which the picture moves past the camera.

        From depth, ego motion and the surfaces' own velocity; the sky only moves in turns.
        """
        return self.flow_at(1)

    def flow_at(self, step: int) -> Array:
        """`flow` of every `step`th pixel in each direction."""
        part = np.s_[::step, ::step]
        R = self.camera.T_base_camera[:3, :3].astype(np.float32)
        own = np.asarray(self.scene.velocity, np.float32)
        rate = np.float32(self.scene.yaw_rate)
        rays = [plane[part] for plane in self.ray]
        far = ~self.hit[part]
        # What is infinitely far moves as a point of the unit sphere does.
        x, y = (np.where(far, rays[i], self.point[i][part]) for i in range(2))
        surface = self.hits.velocity[part]
        distance = np.where(far, np.float32(1), self.hits.distance[part])
        planes = [
            np.where(far, turn, surface[..., i] - own[i] + turn)
            for i, turn in enumerate((rate * y, -rate * x, np.float32(0)))
        ]
        optical = [sum(R[i, j] * planes[i] for i in range(3)) for j in range(3)]
        place = [sum(R[i, j] * rays[i] for i in range(3)) for j in range(3)]
        if self.camera.D or self.camera.distortion_model != PLUMB_BOB:
            return self._distorted_flow(np.stack(place, -1) * distance[..., None], optical)
        z = np.maximum(place[2], np.float32(0.05))
        scale = 1 / (z * distance)
        f = float(self.camera.K[0, 0]), float(self.camera.K[1, 1])
        u = (optical[0] - place[0] / z * optical[2]) * scale * np.float32(f[0])
        v = (optical[1] - place[1] / z * optical[2]) * scale * np.float32(f[1])
        return np.stack([u, v], -1).astype(np.float32)

    def _distorted_flow(self, place: Array, velocity: list[Array]) -> Array:
        """By differences through the lens model, at every fourth pixel of a large picture."""
        dt, (h, w) = 1e-3, place.shape[:2]
        every = 4 if h > 64 else 1
        points = place[::every, ::every].reshape(-1, 3).astype(np.float64)
        moved = points + dt * np.stack(velocity, -1)[::every, ::every].reshape(-1, 3)
        flow = (self.camera.project(moved) - self.camera.project(points)) / dt
        coarse = np.nan_to_num(flow).reshape(*place[::every, ::every].shape[:2], 2)
        size = (w, h)
        return np.asarray(cv2.resize(coarse.astype(np.float32), size))


@functools.lru_cache(maxsize=16)
def _ray_planes(camera: CameraConfig) -> Array:
    planes = np.ascontiguousarray(np.moveaxis(camera.rays(), -1, 0))
    planes.flags.writeable = False
    return planes


def _dot(planes: Array, vector: Array) -> Array:
    x, y, z = (np.float32(c) for c in vector)
    result = planes[0] * x
    result += planes[1] * y
    result += planes[2] * z
    return result


def shrink(image: Array, factor: int) -> Array:
    """A smaller picture by averaging."""
    h, w = image.shape[:2]
    size = (max(w // factor, 4), max(h // factor, 4))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
