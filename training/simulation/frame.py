# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""One moment of a drive, seen by both sensors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.simulation.camera import View, look, picture
from training.simulation.config import CameraConfig, Condition, LidarConfig, SimulationConfig
from training.simulation.lidar import Scan, measure, sweep
from training.simulation.scene import Hits, Scene
from training.simulation.surface import Surface


@dataclass
class Frame:
    """A picture and a scan of the same moment.

    Attributes:
        image: (H, W, 3) RGB uint8.
        labels: (H, W) uint8 trainIds.
        depth: (H, W) float32 metres along the optical axis, inf for sky.
        scan: The lidar's points.
        camera: Configuration, with `K` and `T_base_camera`.
        lidar: Configuration, with `T_base_lidar`.
        condition: Weather or light.
        T_world_base: (4, 4) pose of the ego vehicle.
    """

    image: np.ndarray
    labels: np.ndarray
    depth: np.ndarray
    scan: Scan
    camera: CameraConfig
    lidar: LidarConfig
    condition: Condition
    T_world_base: np.ndarray

    @property
    def T_camera_lidar(self) -> np.ndarray:  # noqa: N802
        """(4, 4) lidar points into the camera's optical frame."""
        return np.linalg.inv(self.camera.T_base_camera) @ self.lidar.T_base_lidar


class Moment:
    """The geometry of one moment, ray-cast once; `frame` gives it in any condition.

    Args:
        config: Seed and sensors.
        town: Number of the town.
        time: Seconds since the drive began.
        with_lidar: Cast the lidar's rays too.
    """

    def __init__(
        self, config: SimulationConfig, town: int, time: float, with_lidar: bool = True
    ) -> None:
        self._config = config
        self._key = (config.seed, town, round(time * 1e6))
        scene = Scene(config.seed, town, time)
        self._T_world_base = scene.T_world_base
        self.view: View = look(scene, config.camera)
        self._returns: tuple[Hits, Surface] | None = (
            sweep(scene, config.lidar) if with_lidar else None
        )

    def frame(self, condition: Condition) -> Frame:
        """What the sensors deliver in `condition`; geometry and labels do not depend on it."""
        # The lidar's generator does not know the condition: light must not change its noise.
        camera_rng = np.random.default_rng([*self._key, *condition.name.encode()])
        lidar_rng = np.random.default_rng([*self._key, 1])
        lidar = self._config.lidar
        if self._returns is None:
            empty = np.zeros(0, np.float32)
            scan = Scan(
                np.zeros((0, 3), np.float32), empty, empty.astype(np.uint16), empty,
                empty.astype(np.uint8),
            )  # fmt: skip
        else:
            scan = measure(*self._returns, lidar, condition, lidar_rng)
        return Frame(
            picture(self.view, condition, camera_rng),
            self.view.labels,
            self.view.depth,
            scan,
            self._config.camera,
            lidar,
            condition,
            self._T_world_base,
        )


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
        condition = Condition(condition, config.severity)
    return Moment(config, town, time).frame(condition)
