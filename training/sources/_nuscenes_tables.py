# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""nuScenes' JSON tables, read row by row and joined: sample_data alone has 2.6 million rows.

Only what is needed of the rows of the sensors asked for is kept. Tables may be trimmed: of the
keys only those named here are used, and log, map, next and prev not at all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from clcp_ros.errors import CalibrationError, RecordingError
from training.pairs.geometry import check_intrinsics, make_transform, rotation_from_quaternion

_CHUNK = 1 << 20
_LATEST_US = 9_000_000_000_000_000
"""Microseconds that are a possible time, and fit an int64 as nanoseconds."""
_SPACE = re.compile(r'[\s,]*')


@dataclass(frozen=True)
class Mount:
    """A row of calibrated_sensor.

    Attributes:
        channel: Name of the sensor, as LIDAR_TOP.
        T_ego_sensor: (4, 4).
        K: (3, 3), or None for what is no camera.
    """

    channel: str
    T_ego_sensor: np.ndarray
    K: np.ndarray | None


@dataclass(frozen=True)
class File:
    """What is kept of a row of sample_data.

    Attributes:
        name: Path below the data set's folder.
        stamp_ns: Its time.
        mount: Token of its calibrated_sensor.
        ego_pose: Token.
        token: Its own.
        key_frame: Whether it is one.
        size: Width and height, (0, 0) where not stated.
    """

    name: str
    stamp_ns: int
    mount: str
    ego_pose: str
    token: str
    key_frame: bool
    size: tuple[int, int]


@dataclass
class SceneFiles:
    """A scene and its files by channel, in time order.

    Attributes:
        name: As scene-0061.
        tags: Weather, light and what else is known.
        files: Channel: files.
    """

    name: str
    tags: dict[str, str] = field(default_factory=dict)
    files: dict[str, list[File]] = field(default_factory=dict)


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Objects of a JSON file that is a list of objects, one at a time.

    Raises:
        RecordingError: No such file, or it is no such list, or truncated.
    """
    decoder = json.JSONDecoder()
    try:
        with path.open(encoding='utf-8') as stream:
            text = stream.read(_CHUNK)
            position = len(text) - len(text.lstrip())
            if text[position : position + 1] != '[':
                raise RecordingError(f'{path} is no JSON list')
            position += 1
            while True:
                start = _SPACE.match(text, position)
                position = start.end() if start else position
                if text[position : position + 1] == ']':
                    return
                try:
                    row, end = decoder.raw_decode(text, position)
                except ValueError:
                    # Perhaps the row goes on in the next chunk.
                    more = stream.read(_CHUNK)
                    if not more:
                        raise RecordingError(f'{path} is truncated or damaged') from None
                    text, position = text[position:] + more, 0
                    if len(text) > 64 * _CHUNK:
                        raise RecordingError(f'{path} is damaged: a row without end') from None
                    continue
                if not isinstance(row, dict):
                    raise RecordingError(f'{path} is no list of objects')
                position = end
                yield row
    except OSError:
        raise RecordingError(f'{path} is missing or cannot be read') from None
    except UnicodeDecodeError:
        raise RecordingError(f'{path} is damaged: not UTF-8') from None


def read_mounts(tables: Path) -> dict[str, Mount]:
    """Calibrated sensors by token: sensor joined with calibrated_sensor.

    Raises:
        RecordingError: A table is missing or damaged.
        CalibrationError: A camera or LIDAR_TOP has an impossible calibration.
    """
    path = tables / 'calibrated_sensor.json'
    mounts: dict[str, Mount] = {}
    try:
        channels = {r['token']: str(r['channel']) for r in rows(tables / 'sensor.json')}
        for row in rows(path):
            channel = channels[row['sensor_token']]
            if not channel.startswith(('CAM', 'LIDAR')):
                continue
            where = f'{path}, {channel}'
            K = None
            if channel.startswith('CAM'):
                K = check_intrinsics(np.array(row['camera_intrinsic'], np.float64), where)
            T = pose_matrix(row['translation'], row['rotation'])
            if T is None:
                raise CalibrationError(f'{where}: translation or rotation is not possible')
            mounts[row['token']] = Mount(channel, T, K)
    except KeyError as error:
        raise CalibrationError(f'{tables}: sensor or calibrated_sensor lacks {error}') from None
    except (TypeError, ValueError) as error:
        raise CalibrationError(f'{path} is damaged: {error}') from None
    return mounts


def read_scenes(
    tables: Path, mounts: dict[str, Mount], channels: set[str], key_frames_only: bool
) -> dict[str, SceneFiles]:
    """The files of some sensors by the scenes' tokens.

    Args:
        tables: Folder of the tables.
        mounts: From `read_mounts`.
        channels: Names of the sensors.
        key_frames_only: Leave out the sweeps in between.

    Raises:
        RecordingError: A table is missing or damaged.
    """
    try:
        scene_of = {r['token']: r['scene_token'] for r in rows(tables / 'sample.json')}
        scenes = _read_names(tables, set(scene_of.values()))
        for row in rows(tables / 'sample_data.json'):
            mount = row['calibrated_sensor_token']
            channel = mounts[mount].channel if mount in mounts else ''
            key_frame = bool(row.get('is_key_frame', True))
            if channel not in channels or (key_frames_only and not key_frame):
                continue
            scene = scenes.get(scene_of.get(row['sample_token'], ''))
            if scene is None:
                continue
            stamp_us = int(row['timestamp'])
            if not 0 <= stamp_us < _LATEST_US:
                raise ValueError(f'timestamp {stamp_us}')
            size = int(row.get('width') or 0), int(row.get('height') or 0)
            scene.files.setdefault(channel, []).append(
                File(
                    str(row['filename']), stamp_us * 1000, mount,
                    row['ego_pose_token'], row['token'], key_frame, size,
                )
            )  # fmt: skip
    except KeyError as error:
        raise RecordingError(f'{tables}: sample or sample_data lacks {error}') from None
    except (TypeError, ValueError, OverflowError) as error:
        raise RecordingError(f'{tables}/sample_data.json is damaged: {error}') from None
    for scene in scenes.values():
        for files in scene.files.values():
            files.sort(key=lambda file: (file.stamp_ns, file.name))
    return scenes


def read_ego_poses(tables: Path, tokens: set[str]) -> dict[str, np.ndarray]:
    """T_world_ego (4, 4) by token, of the tokens asked for; impossible ones are left out.

    Raises:
        RecordingError: The table is missing or damaged.
    """
    poses = {}
    try:
        for row in rows(tables / 'ego_pose.json'):
            if row['token'] in tokens:
                pose = pose_matrix(row['translation'], row['rotation'])
                if pose is not None:
                    poses[row['token']] = pose
    except (KeyError, TypeError) as error:
        raise RecordingError(f'{tables}/ego_pose.json is damaged: {error}') from None
    return poses


def pose_matrix(translation: Any, rotation: Any) -> np.ndarray | None:
    """(4, 4) of metres and a quaternion w, x, y, z; None where they are impossible."""
    try:
        place = np.array(translation, np.float64)
        w, x, y, z = (float(value) for value in rotation)
        if place.shape != (3,) or not np.isfinite(place).all():
            return None
        return make_transform(rotation_from_quaternion(x, y, z, w), place)
    except (CalibrationError, TypeError, ValueError):
        return None


def tags_of_description(description: str) -> dict[str, str]:
    """Weather and light as far as a scene's description names them.

    Nothing is said of scenes without these words: most are clear days, yet no one states it.
    """
    text = description.lower()
    tags = {}
    if re.search(r'(?<!after )(?<!after the )\brain(y|ing)?\b', text):
        tags['weather'] = 'rain'
    if re.search(r'\bnight(time)?\b', text):
        tags['light'] = 'night'
    return tags


def _read_names(tables: Path, tokens: set[str]) -> dict[str, SceneFiles]:
    places = {}
    if (tables / 'log.json').is_file():
        places = {r.get('token'): r.get('location') for r in rows(tables / 'log.json')}
    scenes = {}
    if (tables / 'scene.json').is_file():
        for row in rows(tables / 'scene.json'):
            token = row.get('token')
            if token not in tokens:
                continue
            tags = tags_of_description(str(row.get('description', '')))
            place = places.get(row.get('log_token'))
            if place:
                tags['location'] = str(place)
            own = row.get('tags')
            if isinstance(own, dict):
                tags.update({str(key): str(value) for key, value in own.items()})
            scenes[token] = SceneFiles(str(row.get('name') or token), tags)
    for token in tokens - set(scenes):
        scenes[token] = SceneFiles(f'scene-{token[:8]}')
    return scenes
