# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The shift monitor: has the camera left the domain that the network was trained for?

Numpy and OpenCV only, no ROS: the node and the offline replay run the same code on the same frames
and get the same scores.
"""

from clcp_ros.monitor.reference import FrameScore, ShiftReference, TapReference
from clcp_ros.monitor.statistics import STATISTICS, image_statistics
from clcp_ros.monitor.stream import Level, MonitorConfig, ShiftMonitor, ShiftState

__all__ = [
    'STATISTICS',
    'FrameScore',
    'Level',
    'MonitorConfig',
    'ShiftMonitor',
    'ShiftReference',
    'ShiftState',
    'TapReference',
    'image_statistics',
]
