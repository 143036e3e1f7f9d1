# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The camera: a view becomes a picture."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from training.simulation import faults
from training.simulation.conditions import FAULTS, Condition
from training.simulation.exposure import (
    Exposure,
    develop,
    expose,
    meter,
    motion_blur,
    vignette,
)
from training.simulation.glare import add_veil, veil
from training.simulation.light import light, sun_direction
from training.simulation.particles import drops_on_glass, falling, paint
from training.simulation.sensors import CameraConfig, LidarConfig
from training.simulation.shading import shade
from training.simulation.view import View

Array = np.ndarray


@dataclass(frozen=True)
class Picture:
    """What one camera delivers, and the truth about it.

    Attributes:
        image: (H, W, 3) RGB uint8.
        labels: (H, W) uint8 trainIds.
        depth: (H, W) float32 metres along the optical axis, inf for sky.
        camera: Configuration, with `K`, `D` and `T_base_camera`.
        exposure_s: Shutter time in seconds.
        gain: Amplification.
    """

    image: Array
    labels: Array
    depth: Array
    camera: CameraConfig
    exposure_s: float = 0.0
    gain: float = 1.0

    @property
    def K(self) -> Array:  # noqa: N802
        """(3, 3) float64 of the distorted image."""
        return self.camera.K

    @property
    def D(self) -> tuple[float, ...]:  # noqa: N802
        """Distortion coefficients, empty for a perfect lens."""
        return self.camera.D

    @property
    def T_base_camera(self) -> Array:  # noqa: N802
        """(4, 4) optical frame into `base_link`."""
        return self.camera.T_base_camera

    def T_camera_lidar(self, lidar: LidarConfig) -> Array:  # noqa: N802
        """(4, 4) points of `lidar` into the optical frame."""
        T: Array = np.linalg.inv(self.camera.T_base_camera) @ lidar.T_base_lidar
        return T


def picture(
    view: View, condition: Condition, key: tuple[int, ...], drive: tuple[int, ...], time: float
) -> tuple[Array, Exposure]:
    """Light the view and expose the camera.

    Args:
        view: What the camera sees.
        condition: Light, weather or fault; a frozen camera is the caller's business.
        key: Seed of this moment, of noise and of what falls.
        drive: Seed of this camera in this drive, of what sticks to its glass.
        time: Seconds since the drive began.

    Returns:
        (H, W, 3) RGB uint8, and how it was exposed.
    """
    camera = view.camera
    lit = light(condition, view.scene.cloud_cover)
    sun = sun_direction(view.scene, condition)
    planes = shade(view, condition, lit, sun)
    # The weather's own generator: the noise of the sensor is the same in every condition.
    weather = np.random.default_rng([*key, 1])
    if condition.rain_mm_h > 0 or condition.snow_mm_h > 0:
        layer = falling(view, condition, _shutter(planes, camera), weather)
        if layer is not None:
            paint(planes, layer, lit)
    seen = cv2.merge(list(planes))
    glare = veil(view, condition, lit, sun)
    if glare is not None:
        add_veil(seen, glare)
    if condition.rain_mm_h > 0:
        drops_on_glass(seen, condition, time, (*drive, 3))
    fault = condition.name if condition.name in FAULTS else ''
    clean = seen
    seen = faults.on_glass(clean, fault, condition.severity, drive)
    if camera.blur_px > 0:
        seen = cv2.GaussianBlur(seen, (3, 3) if camera.blur_px < 0.8 else (0, 0), camera.blur_px)
    seen *= vignette(camera)
    exposure = meter(seen, camera)
    factor = faults.exposure_factor(fault, condition.severity)
    if fault in ('dirt', 'covered'):
        # Exposures are metered on what can be seen: a cover is not to blow out the rest.
        total = meter(clean, camera).total
        factor = float(np.clip(exposure.total, total / 1.5, total * 1.5)) / exposure.total
    if factor != 1:
        exposure = expose(exposure, factor, camera)
    seen = motion_blur(seen, view, exposure.time_s)
    noise = np.random.default_rng([*key, 0])
    image = develop(seen, exposure, camera, noise, faults.extra_noise(fault, condition.severity))
    if fault == 'compression':
        image = faults.compressed(image, condition.severity)
    return image, exposure


def _shutter(planes: Array, camera: CameraConfig) -> float:
    """Exposure time that the scene will ask for, before anything falls into it."""
    small = np.ascontiguousarray(planes[1, ::8, ::8])
    return meter(np.repeat(small.repeat(8, 0).repeat(8, 1)[..., None], 3, axis=2), camera).time_s
