# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Calibration of a bag's camera and lidar: CameraInfo and tf, or a YAML file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from clcp_ros import image_codec
from clcp_ros.bag_file import Bag, header_frame
from clcp_ros.errors import CalibrationError, ClcpError, RecordingError
from training.pairs.geometry import (
    Rectifier,
    check_intrinsics,
    check_transform,
    make_transform,
)
from training.sources._rosbag_tf import TransformTree, frame_name, static_tree
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


@dataclass(frozen=True)
class Calibration:
    """What bag and YAML file together say of a camera.

    Attributes:
        rectifier: Of the camera's images.
        T_camera_lidar: (4, 4), into the rectified camera's frame.
        lidar_frame: The scans' frame.
        tree: The fixed mounts of the bag.
    """

    rectifier: Rectifier
    T_camera_lidar: np.ndarray
    lidar_frame: str
    tree: TransformTree


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
    given = _read_yaml(options.calibration, topics)
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
    window = _image_window(intrinsics, info, width, height, f'{where}, {topics.image}')
    if window.note:
        notes.append(f'{window.note}: K adjusted to the images of {width} x {height}')
    rectifier = Rectifier(
        'none' if topics.rectified else intrinsics.model,
        window.of(intrinsics.K_rectified if topics.rectified else intrinsics.K),
        intrinsics.D,
        window.of(intrinsics.K_rectified),
        width,
        height,
        np.eye(3) if topics.rectified else intrinsics.R,
    )
    lidar_frame = frame_name(_first_frame(bag, topics.points))
    tree = static_tree(bag)
    if 'T_camera_lidar' in given:
        T = given['T_camera_lidar']
    else:
        camera_frame = frame_name((info if info is not None else image).header.frame_id)
        camera_frame = camera_frame or frame_name(image.header.frame_id)
        T, tree = _lookup(bag, tree, camera_frame, lidar_frame, notes)
    # The rectified camera may be turned against the real one.
    T = make_transform(intrinsics.R, [0, 0, 0]) @ T
    notes += [note for note in tree.notes if note not in notes]
    return Calibration(rectifier, check_transform(T, str(where)), lidar_frame, tree)


def _read_yaml(path: Path | None, topics: Topics) -> dict[str, Any]:
    """The file's entries for a camera and a lidar.

    With several cameras a file may hold `cameras: {name: entries}`, with several lidars
    `T_camera_lidar: {name: matrix}`.
    """
    if path is None:
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = ' '.join(str(error).split())
        raise CalibrationError(f'calibration {path} cannot be read: {reason}') from None
    if isinstance(content, dict) and isinstance(content.get('cameras'), dict):
        content = _entry(content['cameras'], topics.camera, f'calibration {path}, cameras')
    if isinstance(content, dict) and isinstance(content.get('T_camera_lidar'), dict):
        T = _entry(content['T_camera_lidar'], topics.lidar, f'calibration {path}, T_camera_lidar')
        content = {**content, 'T_camera_lidar': T}
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


def _entry(named: dict[Any, Any], name: str, where: str) -> Any:
    if name not in named:
        known = ', '.join(map(str, named))
        raise CalibrationError(f'{where}: nothing for {name!r}, only for {known}')
    return named[name]


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

    if not np.any(matrix('k')):
        raise CalibrationError(f'{where}: the camera is not calibrated, its K is zero; {_HINT}')
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


@dataclass(frozen=True)
class _Window:
    """How the pixels of an image lie in the image its calibration is for."""

    offset: np.ndarray
    scale: np.ndarray
    note: str = ''

    def of(self, K: np.ndarray) -> np.ndarray:
        """K of the image; pixel centres are at whole numbers."""
        moved = np.array(K, np.float64)
        moved[:2] *= self.scale[:, None]
        moved[:2, 2] = (K[:2, 2] - self.offset + 0.5) * self.scale - 0.5
        return moved


def _image_window(
    intrinsics: _Intrinsics, info: Any, width: int, height: int, where: str
) -> _Window:
    """Region of interest, binning, and images that were scaled after they were taken."""
    stated = (intrinsics.width, intrinsics.height)
    whole = _Window(np.zeros(2), np.ones(2))
    if stated in ((width, height), (0, 0)):
        return whole
    roi = getattr(info, 'roi', None)
    if info is not None and roi is not None:
        binning = np.array([max(int(info.binning_x), 1), max(int(info.binning_y), 1)])
        cropped = bool(roi.width and roi.height)
        offset = np.array([int(roi.x_offset), int(roi.y_offset)] if cropped else [0, 0])
        region = np.array([int(roi.width), int(roi.height)] if cropped else stated)
        if (offset + region > np.array(stated)).any():
            raise CalibrationError(
                f'{where}: a region of interest of {region[0]} x {region[1]} at '
                f'{offset[0]}, {offset[1]} is not inside of {stated[0]} x {stated[1]}; {_HINT}'
            )
        # Not whole multiples are rounded by some drivers.
        stays = (binning == 1).all() and not cropped
        if not stays and (np.abs(region / binning - [width, height]) < 1).all():
            text = f'region of interest at {offset[0]}, {offset[1]}' if cropped else ''
            if (binning > 1).any():
                text += f'{", " * cropped}binning {binning[0]} x {binning[1]}'
            return _Window(offset.astype(np.float64), 1 / binning, text)
    scale = np.array([width / stated[0], height / stated[1]])
    # Whole pixels round; more than that is a crop, of which nobody knows where.
    if abs(scale[0] / scale[1] - 1) > 0.02 or (roi is not None and (roi.x_offset or roi.y_offset)):
        raise CalibrationError(
            f'{where}: images are {width} x {height}, their calibration is for '
            f'{stated[0]} x {stated[1]}; {_HINT}'
        )
    return _Window(np.zeros(2), scale, f'K scaled by {scale[0]:g} x {scale[1]:g}')


def _image_size(message: Any) -> tuple[int, int]:
    if hasattr(message, 'format'):
        return image_codec.image_size(bytes(message.data))
    return int(message.width), int(message.height)


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


def _first_frame(bag: Bag, topic: str) -> str:
    for _, _, raw in bag.raw_messages([topic]):
        frame = header_frame(raw, bag.is_ros2)
        if frame is not None:
            return frame
    raise RecordingError(f'{bag.files[0]}: no message of {topic} can be read')


def _lookup(
    bag: Bag, tree: TransformTree, camera: str, lidar: str, notes: list[str]
) -> tuple[np.ndarray, TransformTree]:
    """T_camera_lidar, and the tree in which it was found."""
    T = tree.lookup(camera, lidar)
    if T is not None:
        return T, tree
    more = static_tree(bag, with_tf=True)
    T = more.lookup(camera, lidar)
    if T is None:
        frames = {frame for edge in more.edges for frame in edge}
        unknown = [f'{frame!r}' for frame in (lidar, camera) if frame not in frames]
        reason = f'nothing is known of {" and ".join(unknown)}' if unknown else (
            'the two are in different trees'
        )  # fmt: skip
        raise CalibrationError(
            f'{bag.files[0]}: no transform from {lidar!r} (lidar) to {camera!r} (camera): {reason}'
            f'; /tf_static has {tree.describe() or "nothing"}; {_HINT}'
        )
    notes.append(f'{lidar} to {camera} is taken from /tf, where it does not change')
    return T, more
