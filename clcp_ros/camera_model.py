# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The camera model of a resized image."""

from __future__ import annotations

from typing import Any

import numpy as np


def resized_camera(info: Any, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """K and P of the image after resizing it.

    Region of interest and binning of the input are resolved, so the result describes the whole
    resized image. Pixel centres are at integers: a resize maps u to (u + 0.5) s - 0.5.

    Args:
        info: sensor_msgs/CameraInfo of ROS 2: rclpy's or rosbags'.
        height: Height of the resized image.
        width: Width of the resized image.

    Returns:
        K (3, 3) and P (3, 4) float64; all zeros, which mean an uncalibrated camera, stay so.
    """
    roi = info.roi
    left, top = int(roi.x_offset), int(roi.y_offset)
    scale_x = width / (roi.width or info.width or width)
    scale_y = height / (roi.height or info.height or height)
    resize = np.array(
        [
            [scale_x, 0, (0.5 - left) * scale_x - 0.5],
            [0, scale_y, (0.5 - top) * scale_y - 0.5],
            [0, 0, 1],
        ]
    )
    k = np.asarray(info.k, np.float64).reshape(3, 3)
    p = np.asarray(info.p, np.float64).reshape(3, 4)
    with np.errstate(invalid='ignore', over='ignore'):  # a damaged calibration stays damaged
        return resize @ k if k.any() else k, resize @ p if p.any() else p
