# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The spinning lidar: rays, returns, and what weather does to them."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from training.simulation.config import Condition, LidarConfig
from training.simulation.light import extinction
from training.simulation.scene import Hits, Scene
from training.simulation.surface import Surface, describe

BACKSCATTER = 255
"""Category of returns from drops and flakes in the air."""


@dataclass
class Scan:
    """One revolution, in firing order.

    Attributes:
        points: (N, 3) float32, lidar frame (x forward, y left, z up), metres.
        intensity: (N,) float32 in [0, 1], corrected for range as sensors deliver it.
        ring: (N,) uint16, 0 is the lowest beam.
        time: (N,) float32 seconds relative to the scan's stamp, at which the lidar looks forward;
            a revolution begins behind the vehicle and goes clockwise.
        category: (N,) uint8 trainIds of what was hit, `BACKSCATTER` for none; for tests.
    """

    points: np.ndarray
    intensity: np.ndarray
    ring: np.ndarray
    time: np.ndarray
    category: np.ndarray

    def __len__(self) -> int:
        return len(self.points)


@functools.lru_cache(maxsize=4)
def beam_rays(lidar: LidarConfig) -> np.ndarray:
    """(columns, beams, 3) float32 unit vectors; column 0 looks back, then clockwise from above."""
    azimuth = np.pi - 2 * np.pi * (np.arange(lidar.columns) + 0.5) / lidar.columns
    elevation = np.linspace(*lidar.elevation, lidar.beams)
    a, e = np.meshgrid(azimuth, elevation, indexing='ij')
    rays = np.stack([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)], -1)
    return rays.astype(np.float32)


def sweep(scene: Scene, lidar: LidarConfig) -> tuple[Hits, Surface]:
    """Cast one revolution into the frozen scene (no distortion by the own motion)."""
    hits = scene.cast(np.asarray(lidar.position), beam_rays(lidar))
    spacing = (lidar.elevation[1] - lidar.elevation[0]) / lidar.beams
    return hits, describe(hits, spacing)


def measure(
    hits: Hits,
    surface: Surface,
    lidar: LidarConfig,
    condition: Condition,
    rng: np.random.Generator,
) -> Scan:
    """What the sensor reports.

    The received power follows the lidar equation for surfaces larger than the beam,
    P ~ reflectivity * cos(incidence) * exp(-2 extinction r) / r^2 (Rasshofer et al. 2011,
    "Influences of weather phenomena on automotive laser radar systems"); the threshold is set so
    that a surface of 5 % facing the sensor is just seen at `max_range` in clear air. In fog, rain
    and snow a ray may instead return from the air, near the sensor and weakly, as Hahner et al.
    2021 ("Fog simulation on real LiDAR point clouds") and 2022 (snow) observe. Light plays no
    part, so clear, dusk and night give identical scans for the same `rng`.
    """
    shape = hits.distance.shape
    jitter = rng.standard_normal(shape, np.float32)
    lost = rng.random(shape, np.float32) < lidar.dropout
    flicker = rng.standard_normal(shape, np.float32)
    distance = np.where(hits.hit, hits.distance, 1e6)
    beta = extinction(condition)
    reflected = surface.reflectivity * (0.25 + 0.75 * hits.cosine) + surface.retro * 0.5
    reflected = np.clip(reflected, 0.005, 1)
    threshold = 0.05 / lidar.max_range**2
    power = reflected * np.exp(-2 * beta * distance) / distance**2
    # Glossy surfaces seen at a flat angle send the beam away.
    glancing = (surface.gloss > 0.3) & (hits.cosine < 0.25)
    seen = (power > threshold) & (distance < lidar.max_range) & ~lost & ~glancing
    measured = distance + lidar.range_noise * jitter
    intensity = reflected * np.exp(-2 * beta * distance) * (1 + 0.06 * flicker)
    category = hits.category
    if condition.name in ('fog', 'rain', 'snow') and condition.severity > 0:
        from_air = rng.random(shape, np.float32)
        where = rng.gamma(2.0, 1.0, shape).astype(np.float32)
        echo = rng.random(shape, np.float32)
        # Drops and flakes are large against the wavelength and sparse: fewer, but farther away.
        share, reach = {'fog': (1.6, 1.6), 'rain': (2.5, 2.5), 'snow': (4.0, 3.5)}[condition.name]
        scattered = (from_air < 1 - np.exp(-share * beta)) & (where * reach + 1.2 < distance)
        measured = np.where(scattered, where * reach + 1.2, measured)
        intensity = np.where(scattered, 0.02 + 0.1 * echo**2, intensity)
        category = np.where(scattered, BACKSCATTER, category)
        seen = (seen | scattered) & ~lost
    columns, rings = np.nonzero(seen)
    points = beam_rays(lidar)[seen] * measured[seen][:, None].astype(np.float32)
    return Scan(
        points.astype(np.float32),
        np.clip(intensity[seen], 0, 1).astype(np.float32),
        rings.astype(np.uint16),
        (((columns + 0.5) / lidar.columns - 0.5) * lidar.period).astype(np.float32),
        category[seen].astype(np.uint8),
    )
