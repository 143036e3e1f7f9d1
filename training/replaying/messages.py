# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The node's messages, made without ROS."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from clcp_ros.camera_model import resized_camera
from clcp_ros.classes import UNLABELLED
from clcp_ros.node_diagnostics import Status
from clcp_ros.replay_bag import LABEL_INFO_TYPE

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED = 'sensor_msgs/msg/CompressedImage'
CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'
DIAGNOSTICS = 'diagnostic_msgs/msg/DiagnosticArray'


@functools.cache
def typestore() -> Typestore:
    """Jazzy's common messages and vision_msgs/LabelInfo."""
    store = get_typestore(Stores.ROS2_JAZZY)
    store.register(
        {
            **get_types_from_msg(
                'uint16 class_id\nstring class_name', 'vision_msgs/msg/VisionClass'
            ),
            **get_types_from_msg(
                'std_msgs/Header header\nvision_msgs/VisionClass[] class_map\nfloat32 threshold',
                LABEL_INFO_TYPE,
            ),
        }
    )
    return store


def header(stamp_ns: int, frame_id: str) -> Any:
    """std_msgs/Header."""
    types = typestore().types
    time = types['builtin_interfaces/msg/Time'](*divmod(stamp_ns, 1_000_000_000))
    return types['std_msgs/msg/Header'](time, frame_id)


def gray_image(pixels: np.ndarray, head: Any) -> bytes:
    """(H, W) uint8 as sensor_msgs/Image of mono8."""
    height, width = pixels.shape
    return _cdr(
        IMAGE, header=head, height=height, width=width, encoding='mono8', is_bigendian=0,
        step=width, data=np.ascontiguousarray(pixels).ravel(),
    )  # fmt: skip


def encoded_image(data: bytes, kind: str, head: Any) -> bytes:
    """The bytes of a JPEG or PNG as sensor_msgs/CompressedImage; `kind` is its format."""
    return _cdr(COMPRESSED, header=head, format=kind, data=np.frombuffer(data, np.uint8))


def camera_info(info: Any, height: int, width: int, head: Any) -> bytes:
    """A ROS 2 CameraInfo as it is of the resized image."""
    types = typestore().types
    k, p = resized_camera(info, height, width)
    roi = types['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False)
    return _cdr(
        CAMERA_INFO, header=head, height=height, width=width,
        distortion_model=str(info.distortion_model), d=np.asarray(info.d, np.float64),
        k=k.ravel(), r=np.asarray(info.r, np.float64), p=p.ravel(), binning_x=0, binning_y=0,
        roi=roi,
    )  # fmt: skip


def diagnostics(statuses: Sequence[Status], head: Any) -> bytes:
    """Statuses as diagnostic_msgs/DiagnosticArray."""
    types = typestore().types
    status, pair = (
        types['diagnostic_msgs/msg/DiagnosticStatus'],
        types['diagnostic_msgs/msg/KeyValue'],
    )
    return _cdr(
        DIAGNOSTICS,
        header=head,
        status=[
            status(
                level=int(s.level),
                name=s.name,
                message=s.message,
                hardware_id=s.hardware_id,
                values=[pair(key=key, value=value) for key, value in s.values.items()],
            )
            for s in statuses
        ],
    )


def label_info(names: Sequence[str], head: Any) -> bytes:
    """The names of a mask's ids as vision_msgs/LabelInfo."""
    entry = typestore().types['vision_msgs/msg/VisionClass']
    pairs = [*enumerate(names), (UNLABELLED, 'unlabelled')]
    return _cdr(
        LABEL_INFO_TYPE, header=head, threshold=0.0,
        class_map=[entry(class_id=number, class_name=name) for number, name in pairs],
    )  # fmt: skip


def renamed(status: Status, name: str) -> Status:
    """A status under another name."""
    return dataclasses.replace(status, name=name)


def _cdr(kind: str, **fields: Any) -> bytes:
    store = typestore()
    return bytes(store.serialize_cdr(store.types[kind](**fields), kind))
