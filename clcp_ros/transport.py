# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Settings without which large images are lost or slow on the way between processes."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

FASTDDS_VARIABLE = 'FASTRTPS_DEFAULT_PROFILES_FILE'
"""Environment variable from which Fast DDS reads its profile when a process starts using it."""

ROS_HINT = (
    "source ROS 2's setup.bash, or pip install 'ros-jazzy-rclpy[fastrtps]' "
    'ros-jazzy-common-interfaces'
)
"""What to do where rclpy is missing."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def tune_malloc() -> bool:
    """Keep freed image buffers in the process instead of giving them back to the kernel.

    By default glibc maps every buffer of several megabytes anew, and the page faults cost more
    than copying the image.

    Returns:
        Whether the C library took the settings (glibc only).
    """
    if not sys.platform.startswith('linux'):
        return False
    try:
        mallopt = ctypes.CDLL('libc.so.6').mallopt
    except (OSError, AttributeError):  # musl and others
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, 32 << 20) and mallopt(_M_TRIM_THRESHOLD, 256 << 20))


def fastdds_profile() -> Path | None:
    """The Fast DDS profile with a shared memory segment for images.

    Returns:
        The installed file, that of a clone, or None.
    """
    candidates = [Path(__file__).resolve().parents[1] / 'config' / 'fastdds.xml']
    try:
        from ament_index_python.packages import get_package_share_directory

        share = Path(get_package_share_directory('clcp_ros'))
        candidates.append(share / 'config' / 'fastdds.xml')
    except (ImportError, LookupError, OSError):  # not installed with colcon
        pass
    return next((file for file in candidates if file.is_file()), None)
