# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The spinning lidar: rays, returns, and what weather does to them."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from training.simulation import atmosphere
from training.simulation.conditions import Condition
from training.simulation.light import wetness
from training.simulation.scene import Hits, Scene
from training.simulation.sensors import LidarConfig
from training.simulation.surface import noise, reflectivity

Array = np.ndarray

BACKSCATTER = 255
"""Category of returns from drops and flakes in the air."""

_WAVELENGTH_NM = 905.0
_PULSE_M = 1.5
"""Half the length of the light pulse in air, c tau / 2 with tau = 10 ns."""
_OVERLAP_M = 10.0
"""Beam and field of view of the receiver overlap fully from here on."""


@dataclass
class Scan:
    """One revolution, in firing order.

    Attributes:
        points: (N, 3) float32, lidar frame (x forward, y left, z up), metres; at the scan's stamp
            or at each point's own moment, see `LidarConfig.motion`.
        intensity: (N,) float32 in [0, 1], corrected for range as sensors deliver it.
        ring: (N,) uint16, 0 is the lowest beam.
        time: (N,) float32 seconds relative to the scan's stamp, at which the lidar looks forward;
            a revolution begins behind the vehicle and goes clockwise.
        category: (N,) uint8 trainIds of what was hit, `BACKSCATTER` for none; for tests.
    """

    points: Array
    intensity: Array
    ring: Array
    time: Array
    category: Array

    def __len__(self) -> int:
        return len(self.points)

    @classmethod
    def empty(cls) -> Scan:
        """No points."""
        none = np.zeros(0, np.float32)
        return cls(
            np.zeros((0, 3), np.float32), none, none.astype(np.uint16), none,
            none.astype(np.uint8),
        )  # fmt: skip


@functools.lru_cache(maxsize=4)
def beam_rays(lidar: LidarConfig) -> Array:
    """(columns, beams, 3) float32 unit vectors in the lidar frame.

    Column 0 looks back, then clockwise from above.
    """
    azimuth = np.pi - 2 * np.pi * (np.arange(lidar.columns) + 0.5) / lidar.columns
    a, e = np.meshgrid(azimuth, lidar.elevations, indexing='ij')
    rays = np.stack([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)], -1)
    return rays.astype(np.float32)


def firing_times(lidar: LidarConfig) -> Array:
    """(columns,) float64 seconds from the scan's stamp."""
    return ((np.arange(lidar.columns) + 0.5) / lidar.columns - 0.5) * lidar.period


@dataclass
class Returns:
    """What the beams of one revolution met, before any weather.

    Attributes:
        hits: (columns, beams).
        rays: (columns, beams, 3) float32 unit rays in the frame that points are reported in.
        origin: (columns or 1, 1, 3) float32 where they start in it.
    """

    hits: Hits
    rays: Array
    origin: Array

    @functools.cached_property
    def material(self) -> tuple[Array, Array, Array]:
        """Diffuse reflectivity, retroreflection and gloss per beam."""
        return reflectivity(self.hits)


def sweep(scene: Scene, lidar: LidarConfig) -> Returns:
    """Cast one revolution.

    The vehicle drives on while the lidar turns, so that each column has its own origin, unless
    `lidar.motion` is `none`; the scene's own movers stand where they are when they are looked at.
    """
    rays = beam_rays(lidar)
    mount = lidar.T_base_lidar
    if lidar.motion == 'none':
        direction = rays @ mount[:3, :3].T.astype(np.float32)
        hits = scene.cast(mount[:3, 3], direction)
        return Returns(hits, rays, np.zeros((1, 1, 3), np.float32))
    poses = np.asarray(scene.ego_pose(firing_times(lidar))) @ mount  # (columns, 4, 4) of the lidar
    direction = _turned(rays, poses)
    start = np.broadcast_to(poses[:, None, :3, 3].astype(np.float32), direction.shape)
    turn = lidar.rotation[2]
    world = scene.rolling(
        lambda azimuth: -_wrapped(np.asarray(azimuth) - turn) / (2 * np.pi) * lidar.period
    )
    hits = world.cast(np.ascontiguousarray(start), direction)
    if lidar.motion == 'raw':
        return Returns(hits, rays, np.zeros((1, 1, 3), np.float32))
    relative = np.linalg.inv(mount) @ poses
    return Returns(hits, _turned(rays, relative), relative[:, None, :3, 3].astype(np.float32))


def _turned(rays: Array, poses: Array) -> Array:
    """(columns, beams, 3) float32 rays, each column turned by its (4, 4) pose."""
    turn = poses[:, :3, :3].swapaxes(1, 2).astype(np.float32)
    return np.asarray(np.matmul(rays, np.ascontiguousarray(turn)))


def _wrapped(angle: Array) -> Array:
    return (angle + np.pi) % (2 * np.pi) - np.pi


def measure(
    returns: Returns, lidar: LidarConfig, condition: Condition, key: tuple[int, ...]
) -> Scan:
    """What the sensor reports.

    The received power follows the lidar equation for surfaces larger than the beam,
    P ~ reflectivity * cos(incidence) * exp(-2 beta r) / r^2 (Rasshofer, Spies and Spies 2011,
    "Influences of weather phenomena on automotive laser radar systems"). A surface of 10 % facing
    the sensor at 0.8 of `max_range` is seen half of the time in clear air; the better the signal,
    the fewer returns are lost and the smaller the range noise. So drop-outs grow with range and
    incidence. Weather adds extinction (`beam_extinction`) and returns from the air (`_airborne`).

    Light plays no part, nor do faults of the camera: such scans are identical for one `key`.

    Args:
        returns: What the beams met.
        lidar: The sensor.
        condition: Only fog, rain and snow matter.
        key: Seed of the sensor's noise, the same in every condition.
    """
    hits = returns.hits
    shape = hits.distance.shape
    rng = np.random.default_rng(key)
    jitter = rng.standard_normal(shape, np.float32)
    luck = rng.random(shape, np.float32)
    flicker = rng.standard_normal(shape, np.float32)
    hit = np.isfinite(hits.distance)
    distance = np.where(hit, hits.distance, np.float32(1e5))
    diffuse, retro, gloss = returns.material
    if condition.rain_mm_h > 0 or condition.snow_mm_h > 0:
        diffuse, gloss = _under_weather(hits, diffuse, gloss, condition)
    cosine = hits.cosine
    reflected = np.clip(diffuse * (0.15 + 0.85 * cosine) + 0.5 * retro, 0.002, 1)
    # Glossy surfaces seen at a flat angle send the beam away.
    reflected *= np.clip(1 - gloss * (1 - cosine) ** 2 * 1.6, 0.02, 1)
    beta = beam_extinction(condition)
    through = np.exp(np.float32(-2 * beta) * np.minimum(distance, 1000))
    power = reflected * through / (distance * distance)
    faintest = 0.10 / (0.8 * lidar.max_range) ** 2
    ratio = power / np.float32(faintest)
    cubed = ratio * ratio * ratio
    chance = cubed / (1 + cubed) * np.float32(1 - lidar.dropout)
    seen = hit & (luck < chance) & (distance < lidar.max_range)
    sigma = lidar.range_noise * np.sqrt(1 + np.minimum(2 / np.maximum(ratio, 1e-3), 20))
    measured = distance + sigma * jitter
    intensity = reflected * through * (1 + np.float32(0.06) * flicker)
    category = hits.category
    if condition.weather and beta > 0:
        air = np.random.default_rng([*key, 1])
        scattered, where, echo = _airborne(condition, beta, distance, power, faintest, air)
        scattered &= luck < 1 - lidar.dropout
        measured = np.where(scattered, where, measured)
        intensity = np.where(scattered, echo, intensity)
        category = np.where(scattered, BACKSCATTER, category)
        seen = seen | scattered
    response = np.array(lidar.response)
    columns, rings = np.nonzero(seen)
    points = returns.rays[seen] * measured[seen][:, None].astype(np.float32)
    points += np.broadcast_to(returns.origin, returns.rays.shape)[seen]
    return Scan(
        points.astype(np.float32),
        np.interp(intensity[seen], response[:, 0], response[:, 1]).astype(np.float32),
        rings.astype(np.uint16),
        firing_times(lidar)[columns].astype(np.float32),
        category[seen].astype(np.uint8),
    )


def beam_extinction(condition: Condition) -> float:
    """Extinction coefficient at the laser's wavelength in 1/m, beyond that of clean air."""
    if condition.weather == 'fog' and condition.severity > 0:
        return atmosphere.fog_extinction_at(condition.visibility_m, _WAVELENGTH_NM)
    return atmosphere.rain_extinction(condition.rain_mm_h) + atmosphere.snow_extinction(
        condition.snow_mm_h, _WAVELENGTH_NM
    )


def _under_weather(
    hits: Hits, diffuse: Array, gloss: Array, condition: Condition
) -> tuple[Array, Array]:
    """Wet ground reflects less and more like a mirror; snow lies on what faces up."""
    up = np.clip(hits.normal[..., 2], 0, 1)
    wet = wetness(condition)
    if wet > 0:
        return diffuse * (1 - np.float32(0.5 * wet) * up), gloss + np.float32(0.25 * wet) * up
    uv = hits.uv
    patchy = noise(uv[..., 0], uv[..., 1], 2.5) * np.float32(0.5)
    cover = np.clip((up - 0.35) * 2 + patchy, 0, 1) * np.float32(
        min(1.0, 1.3 * condition.severity) * 0.8
    )
    return diffuse + (np.float32(0.75) - diffuse) * cover, gloss * (1 - cover)


def _airborne(
    condition: Condition,
    beta: float,
    distance: Array,
    power: Array,
    faintest: float,
    rng: np.random.Generator,
) -> tuple[Array, Array, Array]:
    """Returns from drops and flakes: which beams, from how far, with what intensity.

    Fog scatters back along the whole beam: P(r) ~ b c tau / 2 * exp(-2 beta r) / r^2 with the
    backscatter coefficient b = 0.046 / MOR per steradian (Rasshofer et al. 2011; Hahner et al.
    2021, "Fog simulation on real LiDAR point clouds"), in the surfaces' unit times pi. Where the
    strongest part of it, which fluctuates, beats the surface, the sensor reports the fog.
    Rain drops and flakes are few and large: a beam meets one with a probability that grows with
    the extinction, mostly some metres away (Hahner et al. 2022, "LiDAR snowfall simulation"; the
    shares, 2.5 and 4 m of extinction, are chosen).
    """
    shape = distance.shape
    chance = rng.random(shape, np.float32)
    reach = rng.gamma(2.0, 1.0, shape).astype(np.float32)
    echo = rng.random(shape, np.float32)
    if condition.weather == 'fog':
        b = 0.046 * np.pi / condition.visibility_m
        where = 1.5 + 2.2 * reach
        overlap = np.minimum(where / _OVERLAP_M, 1) ** 2
        fluctuation = -np.log(np.maximum(chance, 1e-6))
        soft = b * _PULSE_M * overlap * np.exp(-2 * beta * where) / where**2 * fluctuation
        found = (soft > power) & (soft > faintest) & (where < distance)
        intensity = np.clip(soft * where**2 * 2, 0.004, 0.12)
        return found, where, intensity.astype(np.float32)
    share, scale = (2.5, 2.5) if condition.weather == 'rain' else (4.0, 3.5)
    where = reach * np.float32(scale) + np.float32(1.2)
    found = (chance < 1 - np.exp(-share * beta)) & (where < distance)
    return found, where, 0.01 + 0.12 * echo**3
