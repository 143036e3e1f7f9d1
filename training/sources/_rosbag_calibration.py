# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Calibration of a bag's camera and lidar: CameraInfo and tf, or a YAML file."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from clcp_ros import image_codec
from clcp_ros.errors import CalibrationError, ClcpError, RecordingError
from training.pairs.geometry import (
    Rectifier,
    check_intrinsics,
    check_transform,
    invert_transform,
    make_transform,
    rotation_from_quaternion,
)
from training.sources._rosbag_file import Bag
from training.sources._rosbag_topics import Topics
from training.sources.base import SourceOptions

_MODELS = {
    '': 'none',
    'none': 'none',
    'plumb_bob': 'plumb_bob',
    'rational_polynomial': 'rational_polynomial',
    'equidistant': 'equidistant',
    'fisheye': 'equidistant',
}
_YAML_KEYS = ('K', 'D', 'distortion_model', 'P', 'R', 'T_camera_lidar', 'width', 'height')
_HINT = f'give it with --calibration FILE.yaml (keys {", ".join(_YAML_KEYS[:3])}, T_camera_lidar)'
_TF_MESSAGES = 2000
"""How many messages of /tf are looked at for mounts that were published there."""


@dataclass(frozen=True)
class Calibration:
    """What bag and YAML file together say of a camera.

    Attributes:
        rectifier: Of the camera's images.
        T_camera_lidar: (4, 4), into the rectified camera's frame.
    """

    rectifier: Rectifier
    T_camera_lidar: np.ndarray


@dataclass(frozen=True)
class _Intrinsics:
    model: str
    K: np.ndarray
    D: np.ndarray
    R: np.ndarray
    K_rectified: np.ndarray
    width: int
    height: int


def read_calibration(
    bag: Bag, topics: Topics, options: SourceOptions, notes: list[str]
) -> Calibration:
    """Calibration of a recording.

    Args:
        bag: Open.
        topics: The recording's.
        options: `calibration` names a YAML file, whose entries win over the bag's.
        notes: Gets what a user should know.

    Raises:
        CalibrationError: Something is missing or impossible; the message says where to give it.
    """
    given = _read_yaml(options.calibration)
    where = bag.files[0]
    image = _first(bag, topics.image)
    width, height = _image_size(image)
    info = None if topics.camera_info is None else _first(bag, topics.camera_info)
    if 'K' in given:
        intrinsics = _intrinsics_of_yaml(given, width, height, options.calibration)
    elif info is not None:
        intrinsics = _intrinsics_of_info(info, topics, f'{where}, {topics.camera_info}')
    else:
        raise CalibrationError(f'{where}: no CameraInfo for {topics.image}; {_HINT}')
    scale = _image_scale(intrinsics, info, width, height, f'{where}, {topics.image}')
    if scale is not None:
        notes.append(
            f'K scaled by {scale[0]:g} x {scale[1]:g} to the images of {width} x {height}'
        )
    else:
        scale = np.ones(2)
    rectifier = Rectifier(
        'none' if topics.rectified else intrinsics.model,
        _scaled(intrinsics.K_rectified if topics.rectified else intrinsics.K, scale),
        intrinsics.D,
        _scaled(intrinsics.K_rectified, scale),
        width,
        height,
        np.eye(3) if topics.rectified else intrinsics.R,
    )
    if 'T_camera_lidar' in given:
        T = given['T_camera_lidar']
    else:
        camera_frame = _frame(info if info is not None else image) or _frame(image)
        lidar_frame = _frame(_first(bag, topics.points))
        T = _lookup(bag, camera_frame, lidar_frame, notes)
    # The rectified camera may be turned against the real one.
    T = make_transform(intrinsics.R, [0, 0, 0]) @ T
    return Calibration(rectifier, check_transform(T, str(where)))


def _read_yaml(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = ' '.join(str(error).split())
        raise CalibrationError(f'calibration {path} cannot be read: {reason}') from None
    if not isinstance(content, dict) or not content:
        raise CalibrationError(f'calibration {path} has none of the keys {", ".join(_YAML_KEYS)}')
    unknown = sorted(set(content) - set(_YAML_KEYS))
    if unknown:
        raise CalibrationError(
            f'calibration {path}: unknown key {unknown[0]!r}; known are {", ".join(_YAML_KEYS)}'
        )
    shapes = {'K': (3, 3), 'R': (3, 3), 'P': (3, 4), 'T_camera_lidar': (4, 4), 'D': (-1,)}
    for key, shape in shapes.items():
        if key in content:
            try:
                content[key] = np.array(content[key], np.float64).reshape(shape)
            except (ValueError, TypeError):
                raise CalibrationError(
                    f'calibration {path}: {key} is not {shape} numbers'
                ) from None
    if 'T_camera_lidar' in content:
        check_transform(content['T_camera_lidar'], f'calibration {path}, T_camera_lidar')
    return content


def _intrinsics_of_yaml(
    given: dict[str, Any], width: int, height: int, path: Path | None
) -> _Intrinsics:
    D = given.get('D', np.zeros(0))
    model = given.get('distortion_model', 'plumb_bob' if len(D) else '')
    K = check_intrinsics(given['K'], f'calibration {path}')
    return _Intrinsics(
        _model(str(model), D, f'calibration {path}'),
        K,
        D,
        given.get('R', np.eye(3)),
        check_intrinsics(given['P'][:, :3], f'calibration {path}') if 'P' in given else K,
        int(given.get('width', width)),
        int(given.get('height', height)),
    )


def _intrinsics_of_info(info: Any, topics: Topics, where: str) -> _Intrinsics:
    # ROS 1 writes K, D, R, P where ROS 2 writes k, d, r, p.
    def matrix(name: str) -> np.ndarray:
        value = getattr(info, name, None)
        return np.asarray(getattr(info, name.upper()) if value is None else value, np.float64)

    try:
        K = check_intrinsics(matrix('k'), where)
    except CalibrationError as error:
        raise CalibrationError(f'{error}; {_HINT}') from None
    P, R, D = matrix('p').reshape(3, 4), matrix('r').reshape(3, 3), matrix('d')
    # Drivers of single cameras often leave R and P empty.
    R = R if np.abs(R).sum() > 0 else np.eye(3)
    K_rectified = check_intrinsics(P[:, :3], where) if P[0, 0] > 0 else K
    model = _model(info.distortion_model, D, where)
    return _Intrinsics(model, K, D, R, K_rectified, int(info.width), int(info.height))


def _model(name: str, D: np.ndarray, where: str) -> str:
    if name not in _MODELS:
        known = ', '.join(sorted(set(_MODELS) - {''}))
        raise CalibrationError(f'{where}: unknown distortion model {name!r}; known are {known}')
    model = _MODELS[name]
    # A simulator's camera: a model by name, without coefficients.
    return 'none' if not len(D) and model != 'equidistant' else model


def _image_scale(
    intrinsics: _Intrinsics, info: Any, width: int, height: int, where: str
) -> np.ndarray | None:
    """How the image is scaled against its calibration, or None when it is not."""
    stated = (intrinsics.width, intrinsics.height)
    if stated in ((width, height), (0, 0)):
        return None
    roi = getattr(info, 'roi', None)
    if roi is not None and (roi.x_offset or roi.y_offset):
        raise CalibrationError(f'{where}: images of a region of interest are not supported')
    scale = np.array([width / stated[0], height / stated[1]])
    # Whole pixels round; more than that is a crop, of which nobody knows where.
    if abs(scale[0] / scale[1] - 1) > 0.02:
        raise CalibrationError(
            f'{where}: images are {width} x {height}, their calibration is for '
            f'{stated[0]} x {stated[1]}; {_HINT}'
        )
    return scale


def _scaled(K: np.ndarray, scale: np.ndarray) -> np.ndarray:
    scaled = np.array(K, np.float64)
    scaled[:2] *= scale[:, None]
    scaled[:2, 2] = (K[:2, 2] + 0.5) * scale - 0.5
    return scaled


def _image_size(message: Any) -> tuple[int, int]:
    if hasattr(message, 'format'):
        return image_codec.image_size(bytes(message.data))
    return int(message.width), int(message.height)


def _frame(message: Any) -> str:
    return str(message.header.frame_id).strip('/')


def _first(bag: Bag, topic: str) -> Any:
    """The first message of a topic that can be decoded."""
    problem: ClcpError | None = None
    for _, _, raw in bag.raw_messages([topic]):
        try:
            message = bag.decode(topic, raw)
            if hasattr(message, 'format'):
                _image_size(message)
        except ClcpError as error:
            problem = problem or error
            continue
        return message
    reason = f': {problem}' if problem else ''
    raise RecordingError(f'{bag.files[0]}: no message of {topic} can be read{reason}')


def _lookup(bag: Bag, camera: str, lidar: str, notes: list[str]) -> np.ndarray:
    """T_camera_lidar by walking the tree of /tf_static."""
    static = _transforms(bag, '/tf_static')
    T = _walk(static, camera, lidar)
    if T is None:
        # ROS 1's robot_state_publisher sends fixed joints on /tf, again and again the same.
        T = _walk({**_transforms(bag, '/tf', _TF_MESSAGES), **static}, camera, lidar)
        if T is not None:
            notes.append(f'{lidar} to {camera} is taken from /tf, where it does not change')
    if T is None:
        edges = ', '.join(f'{parent} -> {child}' for parent, child in sorted(static))
        raise CalibrationError(
            f'{bag.files[0]}: no transform from {lidar!r} (lidar) to {camera!r} (camera); '
            f'/tf_static has {edges or "nothing"}; {_HINT}'
        )
    return T


def _transforms(
    bag: Bag, topic: str, limit: int | None = None
) -> dict[tuple[str, str], np.ndarray]:
    """(parent, child): T_parent_child; without those that change."""
    found: dict[tuple[str, str], np.ndarray] = {}
    moving = set()
    for number, (_, _, raw) in enumerate(bag.raw_messages([topic])):
        if number == limit:
            break
        for entry in bag.decode(topic, raw).transforms:
            q, t = entry.transform.rotation, entry.transform.translation
            edge = (entry.header.frame_id.strip('/'), entry.child_frame_id.strip('/'))
            T = make_transform(rotation_from_quaternion(q.x, q.y, q.z, q.w), [t.x, t.y, t.z])
            if topic == '/tf' and not np.allclose(found.setdefault(edge, T), T, atol=1e-9):
                moving.add(edge)
            found[edge] = T
    return {edge: T for edge, T in found.items() if edge not in moving}


def _walk(
    transforms: dict[tuple[str, str], np.ndarray], target: str, source: str
) -> np.ndarray | None:
    """T_target_source by breadth-first search over the frames, or None."""
    neighbours: dict[str, list[tuple[str, np.ndarray]]] = {}
    for (parent, child), T in transforms.items():
        neighbours.setdefault(parent, []).append((child, T))
        neighbours.setdefault(child, []).append((parent, invert_transform(T)))
    reached = {target: np.eye(4)}
    queue = deque([target])
    while queue:
        frame = queue.popleft()
        if frame == source:
            return reached[frame]
        for other, T_frame_other in neighbours.get(frame, []):
            if other not in reached:
                reached[other] = reached[frame] @ T_frame_other
                queue.append(other)
    return None
