# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Cameras and lidars: geometry and electronics, presets of common ones, and rigs of several."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass, replace

import numpy as np

from training.simulation.conditions import SimulationError
from training.simulation.lens import PLUMB_BOB, check_distortion, project, unproject

OPTICAL = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]], np.float64)
"""Optical axes (x right, y down, z forward) of a camera that looks along x of `base_link`."""


NOSE_DOWN = math.radians(2.5)
"""Of a front camera, about as Cityscapes': less sky, more road."""


def _three_numbers(**vectors: tuple[float, ...]) -> None:
    for name, value in vectors.items():
        if len(value) != 3 or not all(math.isfinite(v) for v in value):
            raise SimulationError(f'{name} must be three numbers, not {value}')


def rotation(roll: float, pitch: float, yaw: float) -> np.ndarray:
    """(3, 3) turn by yaw about z, then pitch about y (nose down), then roll about x (REP 103)."""
    cr, sr, cp, sp = math.cos(roll), math.sin(roll), math.cos(pitch), math.sin(pitch)
    cy, sy = math.cos(yaw), math.sin(yaw)
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )


@dataclass(frozen=True)
class CameraConfig:
    """A camera.

    Attributes:
        width: Image width in pixels.
        height: Image height in pixels.
        hfov: Horizontal field of view in radians of an undistorted pinhole of this focal length;
            ignored where `intrinsics` are given.
        position: Of the optical centre in `base_link`, metres.
        name: Of the camera, also in file names and topics.
        rotation: Roll, pitch (positive looks down) and yaw (positive looks left) in radians; with
            zeros the camera looks along x.
        intrinsics: fx, fy, cx, cy in pixels; from `hfov` when left out.
        distortion_model: `plumb_bob` or `equidistant`, as in sensor_msgs/CameraInfo.
        D: Its coefficients; empty for a perfect lens.
        vignetting: Light lost in the image's corners, 0 to 1.
        blur_px: Standard deviation of the sharp lens' blur in pixels.
        max_exposure_s: Longest exposure; after that the gain rises.
        max_gain: Largest gain.
        full_well: Electrons at which a pixel is white at gain 1; sets the shot noise.
        read_noise: Electrons, standard deviation in the dark.
        jpeg_quality: For writers that store JPEG; the pictures themselves are not compressed.
    """

    width: int = 480
    height: int = 300
    hfov: float = math.radians(65)
    position: tuple[float, float, float] = (1.6, 0.0, 1.5)
    name: str = 'front'
    rotation: tuple[float, float, float] = (0.0, 0.0, 0.0)
    intrinsics: tuple[float, float, float, float] | None = None
    distortion_model: str = PLUMB_BOB
    D: tuple[float, ...] = ()
    vignetting: float = 0.15
    blur_px: float = 0.55
    max_exposure_s: float = 0.02
    max_gain: float = 16.0
    full_well: float = 30_000.0
    read_noise: float = 10.0
    jpeg_quality: int = 90

    def __post_init__(self) -> None:
        if self.width < 16 or self.height < 16:
            name = 'width' if self.width < 16 else 'height'
            raise SimulationError(f'{name} must be at least 16, not {getattr(self, name)}')
        if self.width != int(self.width) or self.height != int(self.height):
            raise SimulationError(
                f'width and height must be whole, not {self.width}, {self.height}'
            )
        _three_numbers(position=self.position, rotation=self.rotation)
        if not 0 < self.hfov < math.pi:
            raise SimulationError(f'hfov must lie between 0 and pi, not {self.hfov}')
        if self.intrinsics is not None and not (
            len(self.intrinsics) == 4 and self.intrinsics[0] > 0 and self.intrinsics[1] > 0
        ):
            raise SimulationError(f'intrinsics are fx, fy, cx, cy, not {self.intrinsics}')
        if not 0 <= self.vignetting < 1:
            raise SimulationError(f'vignetting must lie in [0, 1), not {self.vignetting}')
        if not 1 <= self.jpeg_quality <= 100:
            raise SimulationError(f'jpeg_quality must lie in [1, 100], not {self.jpeg_quality}')
        for name in ('max_exposure_s', 'max_gain', 'full_well'):
            if not getattr(self, name) > 0:
                raise SimulationError(f'{name} must be positive, not {getattr(self, name)}')
        for name in ('blur_px', 'read_noise'):
            if not getattr(self, name) >= 0:
                raise SimulationError(f'{name} must not be negative, not {getattr(self, name)}')
        check_distortion(self.distortion_model, self.D)

    @property
    def K(self) -> np.ndarray:  # noqa: N802
        """(3, 3) float64; pixel (0, 0) has its centre at (0, 0)."""
        if self.intrinsics is not None:
            fx, fy, cx, cy = self.intrinsics
        else:
            fx = fy = self.width / 2 / math.tan(self.hfov / 2)
            cx, cy = (self.width - 1) / 2, (self.height - 1) / 2
        return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], np.float64)

    @property
    def T_base_camera(self) -> np.ndarray:  # noqa: N802
        """(4, 4) optical frame (x right, y down, z forward) into `base_link`."""
        T = np.eye(4)
        T[:3, :3] = rotation(*self.rotation) @ OPTICAL
        T[:3, 3] = self.position
        return T

    def rays(self) -> np.ndarray:
        """(H, W, 3) float32 unit vectors in `base_link` through the pixel centres (kept)."""
        return _pixel_rays(self)

    def project(self, points: np.ndarray) -> np.ndarray:
        """(N, 2) float64 pixels of (N, 3) points in the optical frame, distortion included.

        NaN for points behind a `plumb_bob` camera; pixels may lie outside the image.
        """
        return project(points, self.K, self.distortion_model, self.D)


@functools.lru_cache(maxsize=16)
def _pixel_rays(camera: CameraConfig) -> np.ndarray:
    u, v = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    rays = unproject(np.stack([u, v], -1), camera.K, camera.distortion_model, camera.D)
    result: np.ndarray = (rays @ camera.T_base_camera[:3, :3].T).astype(np.float32)
    result.flags.writeable = False
    return result


MOTIONS = ('compensated', 'raw', 'none')


@dataclass(frozen=True)
class LidarConfig:
    """A spinning lidar.

    Attributes:
        beams: Number of rings; ring 0 looks lowest.
        columns: Firings per revolution.
        elevation: Lowest and highest beam in radians, the others evenly between.
        position: In `base_link`, metres.
        max_range: Metres; nothing is reported from beyond, and a surface of 10 % facing the sensor
            is just seen at 0.8 of it in clear air.
        range_noise: Standard deviation in metres at short range; grows with weak returns.
        dropout: Probability that a return is lost whatever the surface.
        period: Seconds per revolution.
        table: Elevation of every beam in radians, lowest first; replaces `elevation`.
        motion: `raw`: the sensor turns while the vehicle drives, each point in the lidar frame of
            its own moment, so that the scan is skewed by the ego motion. `compensated`: the same
            returns, all brought into the lidar frame at the scan's stamp. `none`: as if the
            revolution took no time.
        rotation: Roll, pitch and yaw in radians; with zeros the axes are those of `base_link`.
        name: Of the sensor.
        response: (reflectance, reported intensity) pairs from (0, 0) to (1, 1), straight lines
            between them; sensors differ in what they report.
    """

    beams: int = 32
    columns: int = 600
    elevation: tuple[float, float] = (math.radians(-25), math.radians(8))
    position: tuple[float, float, float] = (1.2, 0.0, 1.9)
    max_range: float = 100.0
    range_noise: float = 0.02
    dropout: float = 0.02
    period: float = 0.1
    table: tuple[float, ...] = ()
    motion: str = 'compensated'
    rotation: tuple[float, float, float] = (0.0, 0.0, 0.0)
    name: str = 'top'
    response: tuple[tuple[float, float], ...] = ((0.0, 0.0), (1.0, 1.0))

    def __post_init__(self) -> None:
        if self.beams < 2:
            raise SimulationError(f'beams must be at least 2, not {self.beams}')
        if self.columns < 16:
            raise SimulationError(f'columns must be at least 16, not {self.columns}')
        if self.motion not in MOTIONS:
            raise SimulationError(f'motion must be {" or ".join(MOTIONS)}, not {self.motion!r}')
        if self.table and len(self.table) != self.beams:
            raise SimulationError(f'table holds {len(self.table)} angles for {self.beams} beams')
        if any(not a < b for a, b in itertools.pairwise(self.table)):
            raise SimulationError('table must go upwards: ring 0 looks lowest')
        _three_numbers(position=self.position, rotation=self.rotation)
        if self.response[0] != (0, 0) or self.response[-1][0] != 1:
            raise SimulationError('response must go from (0, 0) to a reflectance of 1')
        if not 0 <= self.dropout < 1:
            raise SimulationError(f'dropout must lie in [0, 1), not {self.dropout}')
        for name in ('max_range', 'period'):
            if not getattr(self, name) > 0:
                raise SimulationError(f'{name} must be positive, not {getattr(self, name)}')
        if not self.range_noise >= 0:
            raise SimulationError(f'range_noise must not be negative, not {self.range_noise}')

    @property
    def elevations(self) -> np.ndarray:
        """(beams,) radians, lowest first."""
        if self.table:
            return np.array(self.table)
        return np.linspace(*self.elevation, self.beams)

    @property
    def T_base_lidar(self) -> np.ndarray:  # noqa: N802
        """(4, 4) lidar frame (x forward, y left, z up) into `base_link`."""
        T = np.eye(4)
        T[:3, :3] = rotation(*self.rotation)
        T[:3, 3] = self.position
        return T


# Fitted to the quantiles of KITTI's and nuScenes' intensities, see docs/simulator.md.
_HDL64_RESPONSE = ((0.0, 0.0), (0.03, 0.05), (0.10, 0.30), (0.34, 0.43), (1.0, 1.0))
_HDL32_RESPONSE = ((0.0, 0.0), (0.03, 0.02), (0.10, 0.05), (0.38, 0.18), (1.0, 1.0))


def _hdl64() -> tuple[float, ...]:
    lower = -24.33 + (24.33 - 8.83) / 31 * np.arange(32)
    upper = -8.33 + (8.33 + 2.0) / 31 * np.arange(32)
    return tuple(np.radians(np.concatenate([lower, upper])).tolist())


def _vls128() -> tuple[float, ...]:
    """Dense about the horizon (0.11 degrees), sparse towards -25 and +15."""
    middle = np.linspace(-5.0, 2.0, 64)
    low = -5.0 - 20.0 * (np.arange(40, 0, -1) / 40) ** 1.7
    high = 2.0 + 13.0 * (np.arange(1, 25) / 24) ** 1.7
    return tuple(np.radians(np.concatenate([low, middle, high])).tolist())


def lidar_preset(
    beams: int = 32, columns: int | None = None, motion: str = 'compensated'
) -> LidarConfig:
    """A spinning lidar like the common one with so many beams.

    16: -15 to 15 degrees (Velodyne VLP-16); 32: -30.67 to 10.67 (HDL-32E); 64: two blocks from
    -24.33 to 2 (HDL-64E); 128: -25 to 15, dense about the horizon (like VLS-128, whose exact table
    is not reproduced). Range, noise and columns from their data sheets, rounded. Any other number
    of beams is spread evenly from -25 to 8 degrees.

    Args:
        beams: Number of rings.
        columns: Firings per revolution; the sensor's own at 10 Hz when left out.
        motion: See `LidarConfig`.
    """
    table: tuple[float, ...] = ()
    low, high, reach, noise, own = -25.0, 8.0, 100.0, 0.02, 1024
    response: tuple[tuple[float, float], ...] = ((0.0, 0.0), (1.0, 1.0))
    if beams == 16:
        low, high, reach, noise, own = -15.0, 15.0, 100.0, 0.03, 1800
    elif beams == 32:
        low, high, reach, noise, own = -30.67, 10.67, 100.0, 0.02, 1800
        response = _HDL32_RESPONSE
    elif beams == 64:
        low, high, reach, noise, own, table = -24.33, 2.0, 120.0, 0.02, 2048, _hdl64()
        response = _HDL64_RESPONSE
    elif beams == 128:
        low, high, reach, noise, own, table = -25.0, 15.0, 220.0, 0.03, 1800, _vls128()
    return LidarConfig(
        beams, own if columns is None else columns, (math.radians(low), math.radians(high)),
        max_range=reach, range_noise=noise, table=table, motion=motion, response=response,
    )  # fmt: skip


RIGS = ('front', 'stereo', 'surround', 'fisheye')


def camera_rig(name: str, width: int = 480, height: int = 300) -> tuple[CameraConfig, ...]:
    """Cameras of a vehicle, the main one first.

    Args:
        name: `front`: one. `stereo`: left and right, 0.54 m apart (KITTI). `surround`: six that
            see all around (nuScenes: five of 70 degrees, 110 to the rear). `fisheye`: the front
            camera and four equidistant ones of 180 degrees, as on cars that park themselves.
        width: Of every image in pixels.
        height: Of every image in pixels.
    """
    front = CameraConfig(width, height, rotation=(0.0, NOSE_DOWN, 0.0))
    if name == 'front':
        return (front,)
    if name == 'stereo':
        return tuple(
            replace(front, position=(1.6, y, 1.5), name=side)
            for side, y in (('left', 0.27), ('right', -0.27))
        )
    if name == 'surround':
        return tuple(
            CameraConfig(
                width, height, math.radians(fov), (x, y, 1.5), where, (0.0, 0.0, math.radians(yaw))
            )
            for where, yaw, x, y, fov in (
                ('front', 0, 1.6, 0.0, 70), ('front_left', 55, 1.5, 0.5, 70),
                ('front_right', -55, 1.5, -0.5, 70), ('back', 180, 0.0, 0.0, 110),
                ('back_left', 110, 1.0, 0.5, 70), ('back_right', -110, 1.0, -0.5, 70),
            )
        )  # fmt: skip
    if name == 'fisheye':
        f = width / math.pi
        lens = (f, f, (width - 1) / 2, (height - 1) / 2)
        around = tuple(
            CameraConfig(
                width, height, position=(x, y, z), name=f'{where}_fisheye', intrinsics=lens,
                rotation=(0.0, math.radians(15), math.radians(yaw)),
                distortion_model='equidistant', D=(-0.01, 0.002, 0.0, 0.0),
            )
            for where, yaw, x, y, z in (
                ('front', 0, 3.6, 0.0, 0.7), ('left', 90, 1.8, 1.0, 1.0),
                ('right', -90, 1.8, -1.0, 1.0), ('back', 180, -1.0, 0.0, 0.9),
            )
        )  # fmt: skip
        return (front, *around)
    raise SimulationError(f'no rig {name!r}; there are {", ".join(RIGS)}')
