# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A street simulator for camera and lidar: same geometry, same poses, several conditions."""

from training.simulation.config import CONDITIONS, Condition, SimulationConfig, SimulationError
from training.simulation.frame import Frame, simulate_frame
from training.simulation.run import SimulatedData, simulate

__all__ = [
    'CONDITIONS',
    'Condition',
    'Frame',
    'SimulatedData',
    'SimulationConfig',
    'SimulationError',
    'simulate',
    'simulate_frame',
]
