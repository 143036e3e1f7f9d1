# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""One moment of a drive, seen by all sensors."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from training.simulation.camera import Picture, picture
from training.simulation.conditions import FROZEN_S
from training.simulation.config import (
    CameraConfig,
    Condition,
    LidarConfig,
    SimulationConfig,
    SimulationError,
)
from training.simulation.lidar import Returns, Scan, measure, sweep
from training.simulation.scene import Scene
from training.simulation.view import View


@dataclass
class Frame:
    """Pictures and a scan of the same moment.

    Attributes:
        image: (H, W, 3) RGB uint8 of the main camera.
        labels: (H, W) uint8 trainIds.
        depth: (H, W) float32 metres along the optical axis, inf for sky.
        scan: The lidar's points.
        camera: The main camera, with `K`, `D` and `T_base_camera`.
        lidar: The lidar, with `T_base_lidar`.
        condition: Light, weather or fault.
        T_world_base: (4, 4) pose of the ego vehicle.
        pictures: Of all cameras that were rendered, the main one first.
        velocity: (3,) m/s of the ego vehicle over ground, in `base_link`.
        yaw_rate: rad/s, positive to the left.
        time: Seconds since the drive began.
        objects: What moves or is parked nearby, with pose, size and velocity.
    """

    image: np.ndarray
    labels: np.ndarray
    depth: np.ndarray
    scan: Scan
    camera: CameraConfig
    lidar: LidarConfig
    condition: Condition
    T_world_base: np.ndarray
    pictures: tuple[Picture, ...] = ()
    velocity: np.ndarray = field(default_factory=lambda: np.zeros(3))
    yaw_rate: float = 0.0
    time: float = 0.0
    objects: Sequence[Any] = ()

    @property
    def T_camera_lidar(self) -> np.ndarray:  # noqa: N802
        """(4, 4) lidar points into the main camera's optical frame."""
        return np.linalg.inv(self.camera.T_base_camera) @ self.lidar.T_base_lidar

    @property
    def views(self) -> dict[str, Picture]:
        """The pictures by the camera's name."""
        return {p.camera.name: p for p in self.pictures}


class Moment:
    """The geometry of one moment, ray-cast once; `frame` gives it in any condition.

    Args:
        config: Seed and sensors.
        town: Number of the town.
        time: Seconds since the drive began.
        with_lidar: Cast the lidar's rays too.
        cameras: Names of the cameras to render, all when left out; the main one always is.
    """

    def __init__(
        self,
        config: SimulationConfig,
        town: int,
        time: float,
        with_lidar: bool = True,
        cameras: Sequence[str] | None = None,
    ) -> None:
        if town < 0 or not math.isfinite(time):
            raise SimulationError(f'there is no town {town} at {time} s')
        self._config, self._town, self.time = config, town, time
        # Times may be negative: a camera can have frozen before the drive began.
        self._key = (config.seed, town, round(time * 1e6) & 0xFFFFFFFFFFFFFFFF)
        self.scene = Scene(config.seed, town, time, config.environment)
        known = [c.name for c in config.cameras]
        unknown = sorted(set(cameras or ()) - set(known))
        if unknown:
            raise SimulationError(f'no camera {unknown[0]!r}; there are {", ".join(known)}')
        self.views = [
            View(self.scene, camera)
            for i, camera in enumerate(config.cameras)
            if i == 0 or cameras is None or camera.name in cameras
        ]
        self._returns: Returns | None = sweep(self.scene, config.lidar) if with_lidar else None

    @property
    def view(self) -> View:
        """The main camera's view."""
        return self.views[0]

    def frame(self, condition: Condition) -> Frame:
        """What the sensors deliver in `condition`; geometry and labels do not depend on it."""
        if condition.is_clear:
            weather = Condition('clear')
        else:
            weather = condition
        if weather.name == 'frozen':
            since = weather.since
            past = self.time - FROZEN_S * weather.severity if since is None else since
            pictures = tuple(
                Picture(old.image, p.labels, p.depth, p.camera, old.exposure_s, old.gain)
                for old, p in zip(self._past(past), self._pictures(None), strict=True)
            )
        else:
            pictures = self._pictures(weather)
        scan = (
            Scan.empty()
            if self._returns is None
            else measure(self._returns, self._config.lidar, weather, (*self._key, 1))
        )
        main = pictures[0]
        return Frame(
            main.image, main.labels, main.depth, scan, main.camera, self._config.lidar, condition,
            self.scene.T_world_base, pictures, np.asarray(self.scene.velocity),
            float(self.scene.yaw_rate), self.time, self.scene.objects,
        )  # fmt: skip

    def _pictures(self, condition: Condition | None) -> tuple[Picture, ...]:
        """Of every camera; black ones where no condition is given."""
        found = []
        for view in self.views:
            index = self._config.cameras.index(view.camera)
            if condition is None:
                image, time_s, gain = np.zeros((*view.labels.shape, 3), np.uint8), 0.0, 1.0
            else:
                drive = (self._config.seed, self._town, index)
                image, exposure = picture(
                    view, condition, (*self._key, 2, index), drive, self.time
                )
                time_s, gain = exposure.time_s, exposure.gain
            found.append(Picture(image, view.labels, view.depth, view.camera, time_s, gain))
        return tuple(found)

    def _past(self, time: float) -> tuple[Picture, ...]:
        names = tuple(view.camera.name for view in self.views)
        return _clear_pictures(self._config, self._town, time, names)


@functools.lru_cache(maxsize=2)
def _clear_pictures(
    config: SimulationConfig, town: int, time: float, cameras: tuple[str, ...]
) -> tuple[Picture, ...]:
    """Kept, since all frames of a frozen stretch show the same."""
    moment = Moment(config, town, time, with_lidar=False, cameras=cameras)
    return moment.frame(Condition('clear')).pictures


def simulate_frame(
    config: SimulationConfig | None = None,
    town: int = 1,
    time: float = 0.0,
    condition: Condition | str = 'clear',
) -> Frame:
    """Simulate one frame.

    Args:
        config: Seed and sensors; the defaults when left out.
        town: Number of the town.
        time: Seconds since the drive began.
        condition: A condition, or its name for one of the configuration's severity.
    """
    config = config or SimulationConfig()
    if isinstance(condition, str):
        condition = config.condition(condition)
    return Moment(config, town, time).frame(condition)
