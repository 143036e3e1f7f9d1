# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""nuScenes (Caesar et al., CVPR 2020), without its devkit.

Layout: `v1.0-{trainval,mini,test}/*.json`, `samples/<channel>/` with the key frames at 2 Hz and
`sweeps/<channel>/` with what lies between. Cameras and scanner run at rates of their own; the
vehicle's pose is known at each file's time, so a scan is brought to the image's time by it. Scans
are moved to their own stamp already, images are undistorted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from clcp_ros.errors import RecordingError
from training.pairs.geometry import invert_transform
from training.pairs.motion import Trajectory
from training.pairs.pair import COLUMNS
from training.sources._files import (
    FilesRecording,
    UnusableError,
    check_deskew,
    choose_cameras,
    note_short_scans,
    offset_ns,
    plausible,
    read_bin,
    sequence_names,
)
from training.sources._nuscenes_tables import (
    File,
    Mount,
    SceneFiles,
    read_ego_poses,
    read_mounts,
    read_scenes,
    rows,
)
from training.sources.base import Drops, Recording, SourceOptions

CAMERAS = (
    'CAM_FRONT', 'CAM_FRONT_LEFT', 'CAM_FRONT_RIGHT', 'CAM_BACK', 'CAM_BACK_LEFT',
    'CAM_BACK_RIGHT',
)  # fmt: skip
DEFAULT_CAMERA = 'CAM_FRONT'
LIDAR = 'LIDAR_TOP'

LIDARSEG_CLASSES = (
    'noise', 'barrier', 'bicycle', 'bus', 'car', 'construction_vehicle', 'motorcycle',
    'pedestrian', 'traffic_cone', 'trailer', 'truck', 'driveable_surface', 'other_flat',
    'sidewalk', 'terrain', 'manmade', 'vegetation',
)  # fmt: skip
"""The 16 classes of the lidar segmentation challenge at their ids; 0 is not evaluated."""

_CHALLENGE = {
    'movable_object.barrier': 1, 'vehicle.bicycle': 2, 'vehicle.bus.bendy': 3,
    'vehicle.bus.rigid': 3, 'vehicle.car': 4, 'vehicle.construction': 5, 'vehicle.motorcycle': 6,
    'human.pedestrian.adult': 7, 'human.pedestrian.child': 7,
    'human.pedestrian.construction_worker': 7, 'human.pedestrian.police_officer': 7,
    'movable_object.trafficcone': 8, 'vehicle.trailer': 9, 'vehicle.truck': 10,
    'flat.driveable_surface': 11, 'flat.other': 12, 'flat.sidewalk': 13, 'flat.terrain': 14,
    'static.manmade': 15, 'static.vegetation': 16,
}  # fmt: skip
"""Category: id of the challenge; all others are 0."""


@dataclass
class NuScenesRecording(FilesRecording):
    """One scene and one of its cameras.

    Attributes:
        drive: Name of the scene.
        Ks: (N, 3, 3) of the images.
        T_world_cameras: (N, 4, 4), the camera when each image was taken.
        T_world_egos: (N, 4, 4), the vehicle then.
        T_world_lidars: (M, 4, 4), the scanner at each scan's stamp.
        scene_tags: Of all frames.
        label_files: For each scan, its lidarseg file or None; empty without lidarseg.
    """

    drive: str = ''
    Ks: np.ndarray = field(default_factory=lambda: np.zeros((0, 3, 3)))
    T_world_cameras: np.ndarray = field(default_factory=lambda: np.zeros((0, 4, 4)))
    T_world_egos: np.ndarray = field(default_factory=lambda: np.zeros((0, 4, 4)))
    T_world_lidars: np.ndarray = field(default_factory=lambda: np.zeros((0, 4, 4)))
    scene_tags: dict[str, str] = field(default_factory=dict)
    label_files: list[Path | None] = field(default_factory=list)

    def prepare(self, dropped: Drops) -> None:
        """See `FilesRecording.prepare`."""
        self._unlabelled = 0

    def points(self, scan: int, image: int, dropped: Drops) -> tuple[np.ndarray, tuple[str, ...]]:
        """See `FilesRecording.points`."""
        points = read_bin(self.scans[scan], 5)
        columns: tuple[str, ...] = (*COLUMNS, 'ring')
        if self.label_files:
            labels = _read_lidarseg(self.label_files[scan], len(points))
            self._unlabelled += labels is None
            column = np.zeros(len(points)) if labels is None else labels
            points = np.column_stack([points, column.astype(np.float32)])
            columns = (*columns, 'label')
        with np.errstate(invalid='ignore'):
            whole = (points[:, 4] >= 0) & (points[:, 4] < 256) & (points[:, 4] % 1 == 0)
        if 2 * int(whole.sum()) < len(points):
            raise UnusableError('scan: not rows of x, y, z, intensity, ring')
        if not whole.all():
            dropped.add('points: ring is no whole number', count=int((~whole).sum()))
            points = points[whole]
        return plausible(points, dropped, 255.0), columns

    def finish(self) -> None:
        """See `FilesRecording.finish`."""
        if self._unlabelled:
            self.note(
                f'{self._unlabelled} scans have no lidarseg file that fits: their label is 0'
            )

    def geometry(self, image: int, scan: int) -> tuple[np.ndarray, np.ndarray]:
        """See `FilesRecording.geometry`: lidar, vehicle then, world, vehicle now, camera."""
        T = invert_transform(self.T_world_cameras[image]) @ self.T_world_lidars[scan]
        return self.Ks[image], T

    def frame(self, image: int) -> str:
        """See `FilesRecording.frame`: microseconds, as in the file's name."""
        return f'{self.camera_ns[image] // 1000:016d}'

    def pose(self, image: int) -> np.ndarray | None:
        """See `FilesRecording.pose`."""
        return self.T_world_egos[image]

    def tags(self, image: int) -> dict[str, str]:
        """See `FilesRecording.tags`."""
        return dict(self.scene_tags)

    def other_files(self) -> list[Path]:
        """See `FilesRecording.other_files`."""
        return [f for f in self.label_files if f is not None]


class NuScenes:
    """The reader."""

    name = 'nuscenes'
    description = 'a folder with v1.0-*/sample_data.json and samples/; its sweeps/ for all frames'

    def detect(self, path: Path) -> bool:
        """See `Source.detect`."""
        return bool(_versions(path))

    def recordings(self, path: Path, options: SourceOptions) -> list[Recording]:
        """See `Source.recordings`."""
        options.refuse_others(self.name, ['camera', 'camera_offset', 'lidar_offset', 'deskew'])
        check_deskew(options, self.name, 'its scans are moved to their stamps already')
        key_frames_only = path.name != 'sweeps'
        recordings: list[Recording] = []
        notes: list[str] = []
        taken: set[str] = set()
        for tables in _versions(path):
            mounts = read_mounts(tables)
            there = [c for c in CAMERAS if c in {m.channel for m in mounts.values()}]
            chosen, chosen_notes = choose_cameras(
                {tables: there}, options.camera, DEFAULT_CAMERA, path
            )
            cameras = [camera for _, camera in chosen]
            scenes = read_scenes(tables, mounts, {*cameras, LIDAR}, key_frames_only)
            fresh = {t: s for t, s in scenes.items() if t not in taken}
            taken |= set(fresh)
            made, made_notes = _recordings(tables, mounts, fresh, cameras, options)
            recordings += made
            notes += chosen_notes + made_notes
        if not recordings:
            raise RecordingError(
                f'{path}: none of the files that its tables name is here; nuScenes publishes '
                'samples/ and sweeps/ apart from the tables'
            )
        recordings.sort(key=lambda recording: recording.sequence)
        recordings[0].notes.extend(notes)
        return recordings


def category_names(tables: Path) -> dict[int, str]:
    """Category names by the ids that lidarseg files hold.

    Raises:
        RecordingError: No category table, or none of lidarseg (it lacks `index`).
    """
    names = {}
    for row in rows(tables / 'category.json'):
        if 'index' not in row or 'name' not in row:
            raise RecordingError(
                f'{tables}/category.json lacks index; the lidarseg download brings one that has it'
            )
        if not isinstance(row['index'], int) or not 0 <= row['index'] < 256:
            raise RecordingError(f'{tables}/category.json: index {row["index"]} is no byte')
        names[row['index']] = str(row['name'])
    return names


def challenge_ids(raw: np.ndarray, names: dict[int, str]) -> tuple[np.ndarray, int]:
    """Lidarseg's ids to the 16 classes of its challenge.

    Args:
        raw: Any shape: ids of a lidarseg file or the column `label` of a pair.
        names: From `category_names`: the ids differ between documents, the table decides.

    Returns:
        uint8 of the same shape, 0 where not evaluated (names: `LIDARSEG_CLASSES`), and the number
        of ids that the table does not have (they are 0 too).
    """
    table = np.full(256, 255, np.uint8)
    for index, name in names.items():
        table[index] = _CHALLENGE.get(name, 0)
    found = table[np.asarray(raw).astype(np.uint8)]
    unknown = found == 255
    return np.where(unknown, np.uint8(0), found), int(unknown.sum())


def _recordings(
    tables: Path,
    mounts: dict[str, Mount],
    scenes: dict[str, SceneFiles],
    cameras: list[str],
    options: SourceOptions,
) -> tuple[list[Recording], list[str]]:
    """Recordings of the scenes that are here, and notes."""
    root = tables.parent
    present = _Present(root)
    absent = 0
    kept: list[tuple[SceneFiles, str]] = []
    for scene in scenes.values():
        for channel, files in scene.files.items():
            scene.files[channel] = [file for file in files if file.name in present]
        here = [camera for camera in cameras if scene.files.get(camera)]
        if not here or not scene.files.get(LIDAR):
            absent += 1
            continue
        kept += [(scene, camera) for camera in here]
    files = [file for scene, _ in kept for files in scene.files.values() for file in files]
    poses = read_ego_poses(tables, {file.ego_pose for file in files})
    labels = _lidarseg_files(tables)
    names = sequence_names(
        [(Path(scene.name), camera) for scene, camera in kept],
        {Path(scene.name): scene.name for scene, _ in kept},
    )
    made: list[Recording] = []
    for (scene, camera), name in zip(kept, names, strict=True):
        recording = _recording(root, scene, camera, name, mounts, poses, options)
        if labels:
            by_name = {root / f.name: labels.get(f.token) for f in scene.files[LIDAR]}
            recording.label_files = [by_name[scan] for scan in recording.scans]
        made.append(recording)
    if not absent:
        return made, []
    return made, [f'{absent} of {len(scenes)} scenes of {tables.name} have no files here']


def _recording(
    root: Path,
    scene: SceneFiles,
    camera: str,
    name: str,
    mounts: dict[str, Mount],
    poses: dict[str, np.ndarray],
    options: SourceOptions,
) -> NuScenesRecording:
    posed = {c: [f for f in scene.files[c] if f.ego_pose in poses] for c in (camera, LIDAR)}
    lost = sum(len(scene.files[channel]) - len(posed[channel]) for channel in posed)
    images, scans = posed[camera], posed[LIDAR]
    if not images or not scans:
        raise RecordingError(f'{root}: {scene.name} has no ego_pose for its files')
    camera_ns = _stamps(images) + offset_ns(options.camera_offset)
    lidar_ns = _stamps(scans) + offset_ns(options.lidar_offset)
    T_egos = np.stack([poses[f.ego_pose] for f in images])
    T_lidar_egos = np.stack([poses[f.ego_pose] for f in scans])
    if options.camera_offset or options.lidar_offset:
        # The poses were looked up at the published stamps: they belong to other times now.
        stamps = np.concatenate([_stamps(images), _stamps(scans)])
        trajectory = Trajectory.of_unsorted(
            stamps, np.concatenate([T_egos, T_lidar_egos]), max_extrapolation=1.0
        )
        T_egos, T_lidar_egos = trajectory.at(camera_ns), trajectory.at(lidar_ns)
    mounted = np.stack([mounts[f.mount].T_ego_sensor for f in images])
    Ks = [mounts[f.mount].K for f in images]
    matrices = np.stack([K for K in Ks if K is not None])
    scan_paths = [root / f.name for f in scans]
    T_lidars = T_lidar_egos @ np.stack([mounts[f.mount].T_ego_sensor for f in scans])
    T_cameras = T_egos @ mounted
    notes = [f'{lost} files have no ego_pose: left out'] if lost else []
    size = images[0].size if all(images[0].size) else None
    return NuScenesRecording(
        SOURCE.name, root, name, camera, [root / f.name for f in images], scan_paths,
        camera_ns, lidar_ns, matrices[0], invert_transform(T_cameras[0]) @ T_lidars[0], size,
        LIDAR, notes + note_short_scans(scan_paths), drive=scene.name, Ks=matrices,
        T_world_cameras=T_cameras, T_world_egos=T_egos, T_world_lidars=T_lidars,
        scene_tags=scene.tags,
    )  # fmt: skip


class _Present:
    """Which files are there; a listing of a folder costs less than a question for each file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.listed: dict[str, set[str]] = {}

    def __contains__(self, name: str) -> bool:
        folder, _, file = name.rpartition('/')
        if '..' in name or name.startswith('/'):
            return False
        if folder not in self.listed:
            path = self.root / folder
            self.listed[folder] = {p.name for p in path.iterdir()} if path.is_dir() else set()
        return file in self.listed[folder]


def _lidarseg_files(tables: Path) -> dict[str, Path]:
    """Lidarseg files by the token of their scan."""
    if not (tables / 'lidarseg.json').is_file():
        return {}
    try:
        return {
            row['sample_data_token']: tables.parent / row['filename']
            for row in rows(tables / 'lidarseg.json')
            if '..' not in row['filename']
        }
    except (KeyError, TypeError) as error:
        raise RecordingError(f'{tables}/lidarseg.json is damaged: {error}') from None


def _read_lidarseg(path: Path | None, count: int) -> np.ndarray | None:
    """(count,) uint8 category ids, or None where there is no file that fits."""
    if path is None:
        return None
    try:
        data = path.read_bytes()
    except OSError:
        return None
    return np.frombuffer(data, np.uint8) if len(data) == count else None


def _stamps(files: Iterable[File]) -> np.ndarray:
    return np.array([file.stamp_ns for file in files], np.int64)


def _versions(path: Path) -> list[Path]:
    """Folders of tables: the path itself, those in it, or those beside `samples`, `sweeps`."""
    if not path.is_dir():
        return []
    root = path.resolve()
    if (root / 'sample_data.json').is_file():
        return [root]
    for folder in (root, root.parent) if root.name in ('samples', 'sweeps') else (root,):
        found = sorted(p.parent for p in folder.glob('v1.0-*/sample_data.json'))
        # Of scenes that two of them hold, the larger one's are taken.
        found.sort(key=lambda p: ('trainval' not in p.name, 'mini' in p.name))
        if found:
            return found
    return []


SOURCE = NuScenes()
