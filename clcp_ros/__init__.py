# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What runs beside the camera: bundles, inference, the shift monitor, the node and replay.

Depends on numpy, OpenCV and ONNX Runtime; rclpy and messages are imported by the node modules
only. Never imports torch or `training`.
"""

from __future__ import annotations

__version__ = '0.1.0'
