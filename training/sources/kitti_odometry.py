# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""KITTI odometry (Geiger et al., CVPR 2012) and SemanticKITTI (Behley et al., ICCV 2019).

Layout: `sequences/<NN>/{image_2,image_3,image_0,image_1,velodyne,labels}/<frame>.{png,bin,label}`
with `calib.txt`, `times.txt` and, of SemanticKITTI, `poses.txt`; KITTI's own poses are in
`poses/<NN>.txt` beside `sequences`. Images and scans of a number belong together; the scans are
untwisted already.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from clcp_ros.errors import CalibrationError, RecordingError
from training.pairs.geometry import check_transform, invert_transform
from training.pairs.pair import COLUMNS
from training.pairs.sync import Matches
from training.sources._files import (
    FilesRecording,
    UnusableError,
    check_axis,
    check_deskew,
    choose_cameras,
    image_files,
    intensity_scale,
    match_names,
    note_short_scans,
    plausible,
    read_bin,
    read_tags,
    sequence_names,
    tags_of,
)
from training.sources._kitti import (
    FRAME_PERIOD_NS,
    entry,
    frame_numbers,
    read_poses,
    read_table,
    split_projection,
)
from training.sources.base import Drops, Recording, SourceOptions

DEFAULT_CAMERA = 'image_2'
UNTWISTED = 'its scans are moved to one instant already'

SEMANTIC_CLASSES = (
    'unlabeled', 'car', 'bicycle', 'motorcycle', 'truck', 'other-vehicle', 'person', 'bicyclist',
    'motorcyclist', 'road', 'parking', 'sidewalk', 'other-ground', 'building', 'fence',
    'vegetation', 'trunk', 'terrain', 'pole', 'traffic-sign',
)  # fmt: skip
"""SemanticKITTI's 19 classes at their learning ids; 0 is not evaluated."""

_LEARNING_IDS: dict[int, tuple[int, ...]] = {
    0: (0, 1, 52, 99), 1: (10, 252), 2: (11,), 3: (15,), 4: (18, 258),
    5: (13, 16, 20, 256, 257, 259), 6: (30, 254), 7: (31, 253), 8: (32, 255), 9: (40, 60),
    10: (44,), 11: (48,), 12: (49,), 13: (50,), 14: (51,), 15: (70,), 16: (71,), 17: (72,),
    18: (80,), 19: (81,),
}  # fmt: skip
"""Learning id: raw ids of SemanticKITTI (semantic-kitti.yaml); from 252 on of what moves."""


@dataclass
class KittiOdometryRecording(FilesRecording):
    """One sequence and one of its cameras.

    Attributes:
        folder: Of the sequence.
        T_world_ego: (F, 4, 4) of the frames by number, NaN where unknown; ego is the scanner.
        labels: Folder of the labels, or None.
        frame_tags: Content of a `tags.json`.
    """

    folder: Path = field(default_factory=Path)
    T_world_ego: np.ndarray | None = None
    labels: Path | None = None
    frame_tags: dict[str, Any] = field(default_factory=dict)
    scale: float = 1.0

    @property
    def drive(self) -> str:
        """What the cameras of a sequence share."""
        return self.folder.name

    def match(self, max_gap: float) -> Matches:
        """See `Recording.match`: by number, as published; image and scan have one time."""
        return match_names(self.images, self.scans, self.camera_ns, self.lidar_ns)

    def prepare(self, dropped: Drops) -> None:
        """See `FilesRecording.prepare`."""
        self._unlabelled = 0

    def finish(self) -> None:
        """See `FilesRecording.finish`."""
        if self._unlabelled:
            self.note(f'{self._unlabelled} scans have no labels that fit: their label is 0')

    def points(self, scan: int, image: int, dropped: Drops) -> tuple[np.ndarray, tuple[str, ...]]:
        """See `FilesRecording.points`."""
        points = read_bin(self.scans[scan], 4)
        if self.labels is None:
            return plausible(points, dropped, self.scale), COLUMNS
        # Joined before points are left out, so that labels stay with theirs.
        try:
            semantic, _ = read_labels(self.labels / f'{self.scans[scan].stem}.label', len(points))
        except UnusableError:
            semantic = np.zeros(len(points), np.uint16)
            self._unlabelled += 1
        points = np.column_stack([points, semantic.astype(np.float32)])
        return plausible(points, dropped, self.scale), (*COLUMNS, 'label')

    def pose(self, image: int) -> np.ndarray | None:
        """See `FilesRecording.pose`."""
        number = int(self.images[image].stem)
        if self.T_world_ego is None or number >= len(self.T_world_ego):
            return None
        pose = self.T_world_ego[number]
        return pose if np.isfinite(pose).all() else None

    def tags(self, image: int) -> dict[str, str]:
        """See `FilesRecording.tags`."""
        return tags_of(self.frame_tags, self.images[image].stem)

    def other_files(self) -> list[Path]:
        """See `FilesRecording.other_files`."""
        names = ('times.txt', 'poses.txt', 'tags.json')
        own = [self.folder / name for name in names]
        poses = self.folder.parent.parent / 'poses' / f'{self.folder.name}.txt'
        return [*own, poses, *(self.labels.glob('*.label') if self.labels else [])]


class KittiOdometry:
    """The reader."""

    name = 'kitti_odometry'
    description = 'a folder with sequences/<NN>/{image_2,velodyne,calib.txt}, or such a sequence'

    def detect(self, path: Path) -> bool:
        """See `Source.detect`."""
        return bool(_sequences(path))

    def recordings(self, path: Path, options: SourceOptions) -> list[Recording]:
        """See `Source.recordings`."""
        options.refuse_others(self.name, ['camera', 'deskew'])
        check_deskew(options, self.name, UNTWISTED)
        folders = _sequences(path)
        having = {folder: _cameras(folder) for folder in folders}
        if not any(having.values()):
            raise RecordingError(
                f'{path} has scans and no images; KITTI publishes them apart, as '
                'data_odometry_color.zip: unpack it over the scans'
            )
        chosen, notes = choose_cameras(having, options.camera, DEFAULT_CAMERA, path)
        names = sequence_names(chosen, {f: f.name for f in folders})
        recordings: list[Recording] = []
        for (folder, camera), name in zip(chosen, names, strict=True):
            recordings.append(self._recording(folder, camera, name))
        recordings[0].notes.extend(notes)
        return recordings

    def _recording(self, folder: Path, camera: str, name: str) -> KittiOdometryRecording:
        images = image_files(folder / camera)
        scans = sorted((folder / 'velodyne').glob('*.bin'))
        if not scans:
            raise RecordingError(f'{folder} has {len(images)} images of {camera} and no scans')
        K, T_camera_lidar = read_calibration(folder / 'calib.txt', camera)
        check_axis(images, K, folder / 'calib.txt')
        scale = intensity_scale(scans)
        if scale is None:
            raise RecordingError(
                f'{folder}: its scans are not rows of x, y, z, remission: the values of the '
                'fourth column are in no known range'
            )
        notes = []
        if scale != 1:
            notes.append(f'intensities reach {scale:g}: they are divided by it')
        times = _read_times(folder / 'times.txt')
        numbers = frame_numbers(images), frame_numbers(scans)
        camera_ns, lidar_ns = (_stamps(times, n) for n in numbers)
        if camera_ns is None or lidar_ns is None:
            notes.append(
                'no times.txt that fits the frames: stamps are the frame number times 0.1 s'
            )
            camera_ns, lidar_ns = (n * FRAME_PERIOD_NS for n in numbers)
        poses, pose_notes = _poses(folder)
        labels = folder / 'labels'
        return KittiOdometryRecording(
            self.name, folder.parent, name, camera, images, scans, camera_ns, lidar_ns,
            K, T_camera_lidar, notes=notes + pose_notes + note_short_scans(scans), folder=folder,
            T_world_ego=poses, labels=labels if labels.is_dir() else None,
            frame_tags=read_tags(folder / 'tags.json'), scale=scale,
        )  # fmt: skip


def read_calibration(path: Path, camera: str) -> tuple[np.ndarray, np.ndarray]:
    """A camera of a sequence's calib.txt: p = P Tr X; images are rectified.

    Args:
        path: The file, lines `P0:` to `P3:` and `Tr:` of 12 numbers.
        camera: 'image_0' to 'image_3'.

    Returns:
        K (3, 3) and T_camera_lidar (4, 4).

    Raises:
        CalibrationError: The file or an entry is missing or damaged.
    """
    table = read_table(path, 'KITTI publishes it as data_odometry_calib.zip')
    P = entry(table, f'P{camera.removeprefix("image_")}', (3, 4), path)
    K, T_camera_rect = split_projection(P, str(path))
    return K, T_camera_rect @ _scanner(table, path)


def read_labels(path: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """A SemanticKITTI label file: a uint32 a point, class in the lower half, instance above.

    Args:
        path: The file.
        count: Points of its scan.

    Returns:
        Raw semantic ids (N,) uint16 and instances (N,) uint16.

    Raises:
        UnusableError: Missing, or not a label for each point.
    """
    try:
        data = path.read_bytes()
    except OSError:
        raise UnusableError('labels: no file of this scan') from None
    if len(data) != 4 * count:
        raise UnusableError('labels: not one for each point')
    raw = np.frombuffer(data, '<u4')
    return (raw & 0xFFFF).astype(np.uint16), (raw >> 16).astype(np.uint16)


def learning_ids(raw: np.ndarray) -> tuple[np.ndarray, int]:
    """SemanticKITTI's raw ids to its 19 learning ids.

    Args:
        raw: Any shape: ids from `read_labels` or the column `label` of a pair.

    Returns:
        uint8 of the same shape, 0 where not evaluated (names: `SEMANTIC_CLASSES`), and the number
        of ids that are none of SemanticKITTI's (they are 0 too).
    """
    table = np.full(1 << 16, 255, np.uint8)
    for learning_id, ids in _LEARNING_IDS.items():
        table[list(ids)] = learning_id
    found = table[np.asarray(raw).astype(np.int64) & 0xFFFF]
    unknown = found == 255
    return np.where(unknown, np.uint8(0), found), int(unknown.sum())


def lift_beams(xyz: np.ndarray, degrees: float = 0.205) -> np.ndarray:
    """Turn each beam upwards, against the known vertical error of KITTI's scanner.

    Not applied by the reader: KITTI's own extrinsics were fitted to the uncorrected scans. It is
    for scan matching, where it straightens walls (Deschaud, "IMLS-SLAM", ICRA 2018; KISS-ICP).

    Args:
        xyz: (N, 3), scanner frame.
        degrees: The angle.

    Returns:
        (N, 3) of the argument's dtype; distances from the scanner do not change.
    """
    p = np.asarray(xyz, np.float64)
    flat = np.hypot(p[:, 0], p[:, 1])
    angle = np.arctan2(p[:, 2], flat) + np.radians(degrees)
    distance = np.linalg.norm(p, axis=1)
    safe = np.where(flat > 0, flat, 1)
    scale = np.where(flat > 0, distance * np.cos(angle) / safe, 1)
    z = np.where(flat > 0, distance * np.sin(angle), p[:, 2])
    return np.column_stack([p[:, 0] * scale, p[:, 1] * scale, z]).astype(np.asarray(xyz).dtype)


def _scanner(table: dict[str, np.ndarray], path: Path) -> np.ndarray:
    """T_cam0_velo."""
    T = np.eye(4)
    # Written as 'Tr' in the odometry set and as 'Tr_velo_to_cam' in the object set.
    name = 'Tr' if 'Tr' in table or 'Tr_velo_to_cam' not in table else 'Tr_velo_to_cam'
    T[:3] = entry(table, name, (3, 4), path)
    return check_transform(T, str(path))


def _poses(folder: Path) -> tuple[np.ndarray | None, list[str]]:
    """T_world_ego by frame number, ego and world in the scanner's axes.

    Files hold poses of rectified camera 0; conjugated with its calibration they are the scanner's.
    """
    candidates = (
        (folder / 'poses.txt', 'SemanticKITTI'),
        (folder.parent.parent / 'poses' / f'{folder.name}.txt', 'KITTI'),
    )
    for path, whose in candidates:
        rows = read_poses(path, 12)
        if rows is None:
            continue
        path_calibration = folder / 'calib.txt'
        T_cam0_velo = _scanner(read_table(path_calibration, ''), path_calibration)
        poses = np.full((len(rows), 4, 4), np.nan)
        for pose, row in zip(poses, rows, strict=True):
            T = np.vstack([row.reshape(3, 4), [0, 0, 0, 1]])
            try:
                pose[:] = invert_transform(T_cam0_velo) @ check_transform(T, '') @ T_cam0_velo
            except CalibrationError:
                continue
        damaged = int(np.isnan(poses).any(axis=(1, 2)).sum())
        notes = [f'poses are those of {whose} ({path.name})']
        if damaged:
            notes.append(f'{damaged} lines of {path.name} are no poses: left out')
        return poses, notes
    return None, ['no poses: T_world_ego is null']


def _read_times(path: Path) -> np.ndarray | None:
    """Seconds of each frame, NaN for lines that are something else."""
    rows = read_poses(path, 1)
    return None if rows is None else rows[:, 0]


def _stamps(times: np.ndarray | None, numbers: np.ndarray) -> np.ndarray | None:
    if times is None or not len(numbers) or numbers.max() >= len(times):
        return None
    seconds = times[numbers]
    if not np.isfinite(seconds).all() or (np.abs(seconds) > 9e9).any():
        return None
    return np.round(seconds * 1e9).astype(np.int64)


def _cameras(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.glob('image_?') if p.is_dir() and any(p.iterdir()))


def _sequences(path: Path) -> list[Path]:
    """Sequence folders at a path: itself, those beside it, of `sequences`, or of `dataset`."""
    if not path.is_dir():
        return []
    for pattern in ('', '*', 'sequences/*', 'dataset/sequences/*'):
        folders = [path] if not pattern else sorted(path.glob(pattern))
        found = [f.resolve() for f in folders if _is_sequence(f)]
        if found:
            return found
    return []


def _is_sequence(folder: Path) -> bool:
    # KITTI object has a calibration for each frame instead, in a folder. Where images or the
    # calibration are not unpacked yet, the folder `sequences` tells, and what lacks is said.
    if not (folder / 'velodyne').is_dir() or (folder / 'calib').is_dir():
        return False
    return (folder / 'calib.txt').is_file() or folder.resolve().parent.name == 'sequences'


SOURCE = KittiOdometry()
