# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The shift monitor: has the camera left the domain that the network was trained for?

Numpy and OpenCV only, no ROS: the node and the offline replay run the same code on the same frames
and get the same scores.
"""

from clcp_ros.monitor.config import MonitorConfig
from clcp_ros.monitor.evidence import Evidence
from clcp_ros.monitor.fusion import CameraFusion, Scope
from clcp_ros.monitor.knowledge import Knowledge
from clcp_ros.monitor.levels import Level
from clcp_ros.monitor.reference import FrameScore, ShiftReference, TapReference
from clcp_ros.monitor.state import ShiftSource, ShiftState
from clcp_ros.monitor.statistics import STATISTICS, image_statistics
from clcp_ros.monitor.stream import ShiftMonitor

__all__ = [
    'STATISTICS',
    'CameraFusion',
    'Evidence',
    'FrameScore',
    'Knowledge',
    'Level',
    'MonitorConfig',
    'Scope',
    'ShiftMonitor',
    'ShiftReference',
    'ShiftSource',
    'ShiftState',
    'TapReference',
    'image_statistics',
]
