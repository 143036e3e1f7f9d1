# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A street simulator for camera and lidar: same geometry, same poses, several conditions."""

from training.simulation.config import (
    ALL_CONDITIONS,
    CONDITIONS,
    FAULTS,
    CameraConfig,
    Condition,
    LidarConfig,
    SimulationConfig,
    SimulationError,
    camera_rig,
    lidar_preset,
)
from training.simulation.frame import Frame, Moment, simulate_frame
from training.simulation.run import SimulatedData, simulate

__all__ = [
    'ALL_CONDITIONS',
    'CONDITIONS',
    'FAULTS',
    'CameraConfig',
    'Condition',
    'Frame',
    'LidarConfig',
    'Moment',
    'SimulatedData',
    'SimulationConfig',
    'SimulationError',
    'camera_rig',
    'lidar_preset',
    'simulate',
    'simulate_frame',
]
