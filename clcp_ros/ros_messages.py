# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Builds the messages that the node publishes. Imports message packages: node modules only."""

from __future__ import annotations

import array
import json
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header, String

from clcp_ros.camera_model import resized_camera
from clcp_ros.classes import UNLABELLED, ClassSet
from clcp_ros.node_diagnostics import Status

# DiagnosticStatus.level is a `byte`, which Python sees as bytes of length one.
_LEVELS = (
    DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR, DiagnosticStatus.STALE,
)  # fmt: skip


def stamp_to_ns(stamp: Any) -> int:
    """A builtin_interfaces/Time in nanoseconds."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def image_message(image: np.ndarray, header: Header) -> Image:
    """Wrap pixels.

    Args:
        image: (H, W) uint8 for mono8, or (H, W, 3) uint8 for rgb8.
        header: Used as it is.

    Returns:
        An unpadded image.
    """
    message = Image()
    message.header = header
    message.height, message.width = image.shape[:2]
    message.encoding = 'mono8' if image.ndim == 2 else 'rgb8'
    message.step = message.width * (1 if image.ndim == 2 else 3)
    # The setter takes an array.array without looking at each byte; bytes or an ndarray would cost
    # hundreds of milliseconds a frame.
    data = array.array('B')
    data.frombytes(np.ascontiguousarray(image).data)
    message.data = data
    return message


def float_image_message(values: np.ndarray, header: Header) -> Image:
    """Wrap a grid of numbers.

    Args:
        values: (H, W) float32, sent as 32FC1.
        header: Used as it is.
    """
    message = Image(header=header, encoding='32FC1', is_bigendian=sys.byteorder == 'big')
    message.height, message.width = values.shape
    message.step = 4 * message.width
    data = array.array('B')
    data.frombytes(np.ascontiguousarray(values, np.float32).tobytes())
    message.data = data
    return message


class ImageBuffer:
    """One Image message that is filled again for every frame.

    `publish` copies the message before it returns, so a new one for each frame would only cost
    page faults.
    """

    def __init__(self) -> None:
        self._message = Image()
        self._pixels = np.zeros(0, np.uint8)

    def fill(self, image: np.ndarray, header: Header) -> Image:
        """The message with these pixels, until the next call.

        Args:
            image: (H, W) uint8 for mono8, or (H, W, 3) uint8 for rgb8.
            header: Used as it is.
        """
        message = self._message
        if image.size != self._pixels.size:
            message = self._message = image_message(image, header)
            self._pixels = np.frombuffer(message.data, np.uint8)
            return message
        message.header = header
        message.height, message.width = image.shape[:2]
        message.encoding = 'mono8' if image.ndim == 2 else 'rgb8'
        message.step = message.width * (1 if image.ndim == 2 else 3)
        np.copyto(self._pixels.reshape(image.shape), image)
        return message


def png_message(mask: np.ndarray, png: bytes, header: Header) -> CompressedImage:
    """Wrap an encoded mask as image_transport's PNG transport does.

    Args:
        mask: (H, W) uint8, for the encoding that is stated.
        png: The file's bytes.
        header: Used as it is.
    """
    encoding = 'mono8' if mask.ndim == 2 else 'rgb8'
    message = CompressedImage(header=header, format=f'{encoding}; png compressed ')
    message.data = array.array('B', png)
    return message


def camera_info_size(info: CameraInfo) -> tuple[int, int]:
    """Height and width of the images that a camera model describes, after its crop and binning."""
    height = (info.roi.height or info.height) // (info.binning_y or 1)
    width = (info.roi.width or info.width) // (info.binning_x or 1)
    return int(height), int(width)


def scaled_camera_info(info: CameraInfo, height: int, width: int, header: Header) -> CameraInfo:
    """The camera model of the image after resizing it to `height` x `width`, see `camera_model`.

    Args:
        info: The image's camera model.
        height: Height of the mask.
        width: Width of the mask.
        header: Used as it is.

    Returns:
        A camera model; distortion coefficients are independent of the resolution.
    """
    message = CameraInfo()
    message.header = header
    message.height, message.width = height, width
    message.distortion_model, message.d, message.r = info.distortion_model, info.d, info.r
    k, p = resized_camera(info, height, width)
    message.k, message.p = k.ravel(), p.ravel()
    return message


def diagnostic_array(header: Header, statuses: Iterable[Status], prefix: str) -> DiagnosticArray:
    """Turn statuses into a message.

    Args:
        header: Used as it is.
        statuses: What to say.
        prefix: Fully qualified node name: two cameras' nodes must not share a status name.
    """
    message = DiagnosticArray()
    message.header = header
    message.status = [
        DiagnosticStatus(
            level=_LEVELS[status.level],
            name=f'{prefix}: {status.name}',
            message=status.message,
            hardware_id=status.hardware_id,
            values=[KeyValue(key=key, value=value) for key, value in status.values.items()],
        )
        for status in statuses
    ]
    return message


def labels_message(classes: ClassSet) -> String:
    """The names and colours of the mask's ids as JSON, for who has no vision_msgs."""
    entries = [
        {'id': i, 'name': name, 'color': list(color)}
        for i, (name, color) in enumerate(zip(classes.names, classes.colors, strict=True))
    ]
    text = {'class_set': classes.name, 'unlabelled': UNLABELLED, 'classes': entries}
    return String(data=json.dumps(text))


def label_info_message(classes: ClassSet, header: Header) -> Any:
    """The names of the mask's ids as vision_msgs/LabelInfo.

    Raises:
        ImportError: vision_msgs is not installed.
    """
    from vision_msgs.msg import LabelInfo, VisionClass

    message = LabelInfo()
    message.header = header
    message.class_map = [
        VisionClass(class_id=class_id, class_name=name)
        for class_id, name in [*enumerate(classes.names), (UNLABELLED, 'unlabelled')]
    ]
    # The layer that consumes mask and confidence reads a threshold here; it is the consumer's to
    # choose, so none is suggested.
    message.threshold = 0.0
    return message
