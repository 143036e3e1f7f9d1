# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Writes the layout of nuScenes (Caesar et al. 2020), as nuscenes-devkit reads it.

All tables of `v1.0-mini`, key frames at 2 Hz in `samples` and the others in `sweeps`, lidarseg
(Fong et al. 2022), 3-D boxes of what moves or is parked. Scenes have the names of nuScenes mini,
so that the devkit's splits work: town 1 in one condition after the other, and town 3 for mini_val.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from clcp_ros.classes import CITYSCAPES
from clcp_ros.image_codec import encode_jpeg, encode_png
from training.pairs.motion import quaternions
from training.simulation.config import CONDITIONS, EPOCH_NS, CameraConfig, SimulationConfig
from training.simulation.frame import Frame
from training.simulation.lidar import BACKSCATTER
from training.simulation.recording import (
    Files,
    Recording,
    Shot,
    Truth,
    drive,
    json_bytes,
    pictures,
    rectified,
    transform,
)

VERSION = 'v1.0-mini'
KEY_RATE_HZ = 2.0
"""Annotated key frames per second."""

CATEGORIES = (
    'noise', 'animal', 'human.pedestrian.adult', 'human.pedestrian.child',
    'human.pedestrian.construction_worker', 'human.pedestrian.personal_mobility',
    'human.pedestrian.police_officer', 'human.pedestrian.stroller', 'human.pedestrian.wheelchair',
    'movable_object.barrier', 'movable_object.debris', 'movable_object.pushable_pullable',
    'movable_object.trafficcone', 'static_object.bicycle_rack', 'vehicle.bicycle',
    'vehicle.bus.bendy', 'vehicle.bus.rigid', 'vehicle.car', 'vehicle.construction',
    'vehicle.emergency.ambulance', 'vehicle.emergency.police', 'vehicle.motorcycle',
    'vehicle.trailer', 'vehicle.truck', 'flat.driveable_surface', 'flat.other', 'flat.sidewalk',
    'flat.terrain', 'static.manmade', 'static.other', 'static.vegetation', 'vehicle.ego',
)  # fmt: skip
"""nuScenes-lidarseg's categories; the place is the index."""

_OF_CLASS = {
    'road': 'flat.driveable_surface', 'sidewalk': 'flat.sidewalk', 'building': 'static.manmade',
    'wall': 'static.manmade', 'fence': 'static.manmade', 'pole': 'static.manmade',
    'traffic light': 'static.manmade', 'traffic sign': 'static.manmade',
    'vegetation': 'static.vegetation', 'terrain': 'flat.terrain', 'sky': 'noise',
    'person': 'human.pedestrian.adult', 'rider': 'vehicle.bicycle', 'car': 'vehicle.car',
    'truck': 'vehicle.truck', 'bus': 'vehicle.bus.rigid', 'train': 'vehicle.bus.bendy',
    'motorcycle': 'vehicle.motorcycle', 'bicycle': 'vehicle.bicycle',
}  # fmt: skip
"""Nearest category of each class; nuScenes has no train, and its riders belong to the vehicle."""

LIDARSEG = np.zeros(256, np.uint8)
"""trainId to lidarseg index; returns from the air are noise."""
LIDARSEG[: len(CITYSCAPES)] = [CATEGORIES.index(_OF_CLASS[name]) for name in CITYSCAPES.names]
LIDARSEG[BACKSCATTER] = 0

_TRAIN_SCENES = (61, 553, 655, 757, 796, 1077, 1094, 1100)
_VAL_SCENES = (103, 916)

_R_LIDAR_NUSCENES = np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
"""From nuScenes' lidar axes (x right, y forward, z up) to x forward, y left, z up."""

LIDAR = 'LIDAR_TOP'
_WORDS = {'clear': 'clear day', 'low_sun': 'low sun, glare'}


@dataclass(frozen=True)
class SceneOf:
    """A scene and where it comes from.

    Attributes:
        number: As in scene-0061.
        town: Number of the town.
        condition: Weather or light.
        start: Seconds since the drive began.
        stamp_ns: Of the first frame.
    """

    number: int
    town: int
    condition: str
    start: float
    stamp_ns: int

    @property
    def name(self) -> str:
        """As in the scene table."""
        return f'scene-{self.number:04d}'

    @property
    def log(self) -> str:
        """Name of the log that the scene is of, with which file names begin."""
        moment = datetime.fromtimestamp(self.stamp_ns // 1_000_000_000, timezone.utc)
        return f'sim-{moment:%Y-%m-%d-%H-%M-%S}+0000'

    @property
    def description(self) -> str:
        """The condition in words."""
        return f'Simulated, town {self.town}, {_WORDS.get(self.condition, self.condition)}'


def scenes(config: SimulationConfig) -> list[SceneOf]:
    """Scenes for training, one per condition, then two for validation.

    Args:
        config: Lengths.
    """
    length = max(1, round(config.seconds * config.rate_hz)) / config.rate_hz
    places = [(1, c, i * length) for i, c in enumerate(CONDITIONS[: len(_TRAIN_SCENES)])]
    places += [(3, 'clear', 0.0), (3, 'night', 0.0)]
    numbers = [*_TRAIN_SCENES[: len(places) - 2], *_VAL_SCENES]
    # An hour apart: every scene is a log of its own.
    return [
        SceneOf(number, *place, EPOCH_NS + i * 3_600_000_000_000)
        for i, (number, place) in enumerate(zip(numbers, places, strict=True))
    ]


class NuScenes(Recording):
    """`v1.0-mini` of simulated scenes."""

    path = 'nuscenes'

    def sensors(self, config: SimulationConfig) -> SimulationConfig:
        """See `Recording.sensors`: nuScenes' images have no distortion."""
        return rectified(config)

    def shots(self, config: SimulationConfig) -> list[Shot]:
        """See `Recording.shots`; `index` counts within the scene."""
        return [
            replace(shot, time=scene.start + shot.time)
            for scene in scenes(config)
            for shot in drive(
                config, scene.town, [(scene.condition, config.seconds)], scene.stamp_ns
            )
        ]

    def name(self, shot: Shot, condition: str) -> str:
        """See `Recording.name`; the condition and town tell the scene."""
        return f'town{shot.town:02d}-{condition}/{shot.index:06d}'

    def encode(self, config: SimulationConfig, shot: Shot, frame: Frame) -> Files:
        """See `Recording.encode`."""
        scene = next(
            s for s in scenes(config) if (s.town, s.condition) == (shot.town, frame.condition.name)
        )
        folder = 'samples' if is_key(config, shot.index) else 'sweeps'
        files: Files = []
        channels = channels_of(config)
        for picture in pictures(frame):
            name = _file(scene, channels[picture.camera.name], shot.stamp_ns, folder)
            files.append((name, encode_jpeg(picture.image, picture.camera.jpeg_quality)))
        scan = frame.scan
        points = scan.points @ _R_LIDAR_NUSCENES
        cloud = np.column_stack([points, np.round(scan.intensity * 255), scan.ring]).astype('<f4')
        name = _file(scene, LIDAR, shot.lidar_stamp_ns, folder)
        files.append((name, cloud.tobytes()))
        if folder == 'samples':
            seg = f'lidarseg/{VERSION}/{_token(name)}_lidarseg.bin'
            files.append((seg, LIDARSEG[scan.category].tobytes()))
        return files

    def facts(self, config: SimulationConfig, shot: Shot, frame: Frame) -> dict[str, Any]:
        """See `Recording.facts`: the boxes of a key frame."""
        boxes: list[dict[str, Any]] = []
        if is_key(config, shot.index):
            points = transform(frame.lidar.T_base_lidar, frame.scan.points)
            seen: dict[int, int] = {}
            for thing in getattr(frame, 'objects', ()):
                # The cars of a train share a number, and each has a box of its own.
                place = seen[thing.tag] = seen.get(thing.tag, -1) + 1
                boxes += _box(thing, 64 * int(thing.tag) + place, points, frame.T_world_base)
        return {'index': shot.index, 'lidar_stamp_ns': shot.lidar_stamp_ns, 'boxes': boxes}

    def finish(self, folder: Path, config: SimulationConfig, truths: list[Truth]) -> None:
        """See `Recording.finish`: all tables."""
        for name, rows in Tables(config, truths).build().items():
            path = folder / VERSION / f'{name}.json'
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(json_bytes(rows))
        (folder / 'maps').mkdir(exist_ok=True)
        (folder / _MAP).write_bytes(encode_png(np.zeros((8, 8), np.uint8)))
        (folder / 'sweeps').mkdir(exist_ok=True)


_MAP = 'maps/simulated.png'


class Tables:
    """The tables of a recording.

    Args:
        config: Sensors.
        truths: Of all frames, scene by scene.
    """

    def __init__(self, config: SimulationConfig, truths: list[Truth]) -> None:
        self.config = config
        self.truths = truths
        self.channels = channels_of(config)
        self.tables: dict[str, list[dict[str, Any]]] = {
            name: []
            for name in (
                'attribute', 'calibrated_sensor', 'category', 'ego_pose', 'instance', 'lidarseg',
                'log', 'map', 'sample', 'sample_annotation', 'sample_data', 'scene', 'sensor',
                'visibility',
            )
        }  # fmt: skip

    def build(self) -> dict[str, list[dict[str, Any]]]:
        """Rows by table."""
        tables = self.tables
        tables['category'] = [
            {'token': _token('category', name), 'name': name, 'description': '', 'index': i}
            for i, name in enumerate(CATEGORIES)
        ]
        tables['visibility'] = [
            {'token': str(i), 'level': level, 'description': ''}
            for i, level in enumerate(('v0-40', 'v40-60', 'v60-80', 'v80-100'), 1)
        ]
        for channel in (*self.channels.values(), LIDAR):
            modality = 'lidar' if channel == LIDAR else 'camera'
            row = {'token': _token('sensor', channel), 'channel': channel, 'modality': modality}
            tables['sensor'].append(row)
        all_scenes = scenes(self.config)
        for scene in all_scenes:
            prefix = f'town{scene.town:02d}-{scene.condition}/'
            self._scene(scene, [t for t in self.truths if t.frame.startswith(prefix)])
        tables['map'].append(
            {
                'token': _token('map'), 'category': 'semantic_prior', 'filename': _MAP,
                'log_tokens': [_token('log', s.name) for s in all_scenes],
            }
        )  # fmt: skip
        return tables

    def _scene(self, scene: SceneOf, truths: list[Truth]) -> None:
        config, tables = self.config, self.tables
        keys = [t for t in truths if is_key(config, t.facts['index'])]
        samples = [_token('sample', t.frame) for t in keys]
        moment = datetime.fromtimestamp(scene.stamp_ns // 1_000_000_000, timezone.utc)
        tables['log'].append(
            {
                'token': _token('log', scene.name), 'logfile': scene.log, 'vehicle': 'simulated',
                'date_captured': f'{moment:%Y-%m-%d}', 'location': f'simulated-town{scene.town}',
            }
        )  # fmt: skip
        tables['scene'].append(
            {
                'token': _token('scene', scene.name), 'log_token': _token('log', scene.name),
                'nbr_samples': len(keys), 'first_sample_token': samples[0],
                'last_sample_token': samples[-1], 'name': scene.name,
                'description': scene.description,
                'tags': {
                    'condition': scene.condition, 'severity': f'{truths[0].severity:g}',
                    'town': str(scene.town),
                },
            }
        )  # fmt: skip
        for (token, before, after), truth in zip(_chain(samples), keys, strict=True):
            tables['sample'].append(
                {
                    'token': token, 'timestamp': truth.facts['lidar_stamp_ns'] // 1000,
                    'prev': before, 'next': after, 'scene_token': _token('scene', scene.name),
                }
            )  # fmt: skip
        for camera in config.cameras:
            self._sensor_data(scene, truths, self.channels[camera.name], camera)
        self._sensor_data(scene, truths, LIDAR, None)
        self._annotations(scene, keys)

    def _sensor_data(
        self, scene: SceneOf, truths: list[Truth], channel: str, camera: CameraConfig | None
    ) -> None:
        config, tables = self.config, self.tables
        if camera is None:
            T = config.lidar.T_base_lidar.copy()
            T[:3, :3] = T[:3, :3] @ _R_LIDAR_NUSCENES
        else:
            T = camera.T_base_camera
        calibrated = _token('calibrated_sensor', scene.name, channel)
        tables['calibrated_sensor'].append(
            {
                'token': calibrated, 'sensor_token': _token('sensor', channel),
                'translation': T[:3, 3].tolist(), 'rotation': _wxyz(T),
                'camera_intrinsic': [] if camera is None else camera.K.tolist(),
            }
        )  # fmt: skip
        key_indices = [t.facts['index'] for t in truths if is_key(config, t.facts['index'])]
        rows: list[dict[str, Any]] = []
        for truth in truths:
            index = truth.facts['index']
            stamp_ns = truth.facts['lidar_stamp_ns'] if camera is None else truth.stamp_ns
            key = is_key(config, index)
            file = _file(scene, channel, stamp_ns, 'samples' if key else 'sweeps')
            pose = _token('ego_pose', file)
            nearest = min(key_indices, key=lambda k: (abs(k - index), k))
            owner = truths[nearest]
            tables['ego_pose'].append(
                {
                    'token': pose, 'timestamp': stamp_ns // 1000, 'rotation': _wxyz(truth.pose),
                    'translation': truth.pose[:3, 3].tolist(),
                }
            )  # fmt: skip
            rows.append(
                {
                    'token': _token(file), 'sample_token': _token('sample', owner.frame),
                    'ego_pose_token': pose, 'calibrated_sensor_token': calibrated,
                    'timestamp': stamp_ns // 1000,
                    'fileformat': 'pcd' if camera is None else 'jpg',
                    'is_key_frame': key, 'height': camera.height if camera else 0,
                    'width': camera.width if camera else 0, 'filename': file,
                }
            )  # fmt: skip
            if camera is None and key:
                tables['lidarseg'].append(
                    {
                        'token': _token(file), 'sample_data_token': _token(file),
                        'filename': f'lidarseg/{VERSION}/{_token(file)}_lidarseg.bin',
                    }
                )  # fmt: skip
        chain = _chain([row['token'] for row in rows])
        for row, (_, before, after) in zip(rows, chain, strict=True):
            tables['sample_data'].append({**row, 'prev': before, 'next': after})

    def _annotations(self, scene: SceneOf, keys: list[Truth]) -> None:
        """One instance per object of the scene, one annotation per key frame that shows it."""
        seen: dict[int, list[dict[str, Any]]] = {}
        names: dict[int, str] = {}
        for truth in keys:
            for box in truth.facts['boxes']:
                names[box['tag']] = box['category']
                seen.setdefault(box['tag'], []).append(
                    {
                        'token': _token('annotation', truth.frame, str(box['tag'])),
                        'sample_token': _token('sample', truth.frame),
                        'instance_token': _token('instance', scene.name, str(box['tag'])),
                        'visibility_token': '4', 'attribute_tokens': [],
                        'translation': box['translation'], 'size': box['size'],
                        'rotation': box['rotation'], 'num_lidar_pts': box['points'],
                        'num_radar_pts': 0,
                    }
                )  # fmt: skip
        for tag, rows in sorted(seen.items()):
            chain = _chain([row['token'] for row in rows])
            self.tables['instance'].append(
                {
                    'token': rows[0]['instance_token'],
                    'category_token': _token('category', names[tag]),
                    'nbr_annotations': len(rows), 'first_annotation_token': rows[0]['token'],
                    'last_annotation_token': rows[-1]['token'],
                }
            )  # fmt: skip
            for row, (_, before, after) in zip(rows, chain, strict=True):
                self.tables['sample_annotation'].append({**row, 'prev': before, 'next': after})


def is_key(config: SimulationConfig, index: int) -> bool:
    """Whether a frame of a scene is a key frame.

    Args:
        config: Says how many frames there are in a second.
        index: Number of the frame within its scene.
    """
    return index % max(1, round(config.rate_hz / KEY_RATE_HZ)) == 0


def channels_of(config: SimulationConfig) -> dict[str, str]:
    """The channel of each camera; the main one is CAM_FRONT.

    Args:
        config: Sensors.
    """
    main, *others = (camera.name for camera in config.cameras)
    return {main: 'CAM_FRONT', **{name: f'CAM_{name.upper()}' for name in others}}


def _box(
    thing: Any, number: int, points: np.ndarray, T_world_base: np.ndarray
) -> list[dict[str, Any]]:
    """The box of an object, if any lidar point lies in it, as nuScenes annotates."""
    length, width, height = (float(v) for v in thing.size)
    # Objects stand on their origin, boxes are about their centre.
    up = np.eye(4)
    up[2, 3] = height / 2
    T = np.asarray(thing.T_base_object, np.float64) @ up
    inside = transform(np.linalg.inv(T), points)
    # A finger's breadth around it: wheels and mirrors stand out.
    margin = np.array([length, width, height]) / 2 + 0.05
    count = int((np.abs(inside) <= margin).all(axis=1).sum())
    if not count:
        return []
    T_world = np.asarray(T_world_base, np.float64) @ T
    category = _OF_CLASS[CITYSCAPES.names[int(thing.category)]]
    return [
        {
            'tag': number, 'category': category, 'points': count,
            'translation': T_world[:3, 3].tolist(), 'rotation': _wxyz(T_world),
            'size': [width, length, height],
        }
    ]  # fmt: skip


def _file(scene: SceneOf, channel: str, stamp_ns: int, folder: str) -> str:
    suffix = 'pcd.bin' if channel == LIDAR else 'jpg'
    return f'{folder}/{channel}/{scene.log}__{channel}__{stamp_ns // 1000}.{suffix}'


def _token(*names: str) -> str:
    return hashlib.md5('/'.join(names).encode(), usedforsecurity=False).hexdigest()


def _chain(tokens: list[str]) -> list[tuple[str, str, str]]:
    """Each token with the one before and the one after; empty at the ends."""
    return list(zip(tokens, ['', *tokens[:-1]], [*tokens[1:], ''], strict=True))


def _wxyz(T: np.ndarray) -> list[float]:
    x, y, z, w = quaternions(T[None, :3, :3])[0].tolist()
    return [w, x, y, z]
