# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""KITTI-360 (Liao, Xie, Geiger, TPAMI 2022), its perspective cameras.

Layout: `calibration/`, `data_2d_raw/<seq>/image_0{0,1}/{data_rect/,timestamps.txt}`,
`data_3d_raw/<seq>/velodyne_points/{data/,timestamps.txt}`, `data_poses/<seq>/poses.txt`.
Frames of one number were taken together, when the scanner looked forward. The scans are as
measured over a tenth of a second; poses exist where the vehicle moved.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from clcp_ros.errors import CalibrationError, RecordingError
from training.pairs.geometry import (
    check_intrinsics,
    check_transform,
    invert_transform,
    make_transform,
)
from training.pairs.motion import Trajectory, deskew
from training.pairs.pair import COLUMNS
from training.pairs.sync import Matches
from training.sources._files import (
    FilesRecording,
    UnusableError,
    check_deskew,
    choose_cameras,
    image_files,
    intensity_scale,
    match_names,
    note_short_scans,
    plausible,
    read_bin,
    sequence_names,
)
from training.sources._kitti import (
    FRAME_PERIOD_NS,
    entry,
    frame_numbers,
    read_poses,
    read_stamps,
    read_table,
    sweep_offsets,
)
from training.sources.base import Drops, Recording, SourceOptions

DEFAULT_CAMERA = 'image_00'
PERSPECTIVE = ('image_00', 'image_01')

_HINT = 'KITTI-360 publishes it as calibration.zip'
_LONGEST_GAP_S = 0.35
"""Poses further apart belong to a stop, which has none: nothing is interpolated over it."""


@dataclass
class Kitti360Recording(FilesRecording):
    """One sequence and one of its perspective cameras.

    Attributes:
        drive: Name of the sequence.
        poses: The file of the poses; beside it, of rectified camera 0, cam0_to_world.txt.
        T_ego_lidar: (4, 4), the scanner on the GPS/IMU whose poses are published.
        T_ego_rect0: (4, 4), rectified camera 0 on it.
        stamps_file: Of the scanner.
        deskewing: 'auto': where there are poses; 'poses': scans without are left out; 'none'.
    """

    drive: str = ''
    poses: Path = field(default_factory=Path)
    T_ego_lidar: np.ndarray = field(default_factory=lambda: np.eye(4))
    T_ego_rect0: np.ndarray = field(default_factory=lambda: np.eye(4))
    stamps_file: Path = field(default_factory=Path)
    deskewing: str = 'auto'

    def match(self, max_gap: float) -> Matches:
        """See `Recording.match`: by number, as published, whatever `max_gap`."""
        return match_names(self.images, self.scans, self.camera_ns, self.lidar_ns)

    def prepare(self, dropped: Drops) -> None:
        """See `FilesRecording.prepare`."""
        self._poses: dict[int, np.ndarray] = {}
        self._trajectory: Trajectory | None = None
        self._as_measured = 0
        rows, name = read_poses(self.poses, 13), self.poses.name
        if rows is not None:
            self._poses = _by_frame(rows)
        else:
            name = 'cam0_to_world.txt'
            rows = read_poses(self.poses.with_name(name), 17)
            if rows is None:
                self.note('no poses.txt: T_world_ego is null, scans are not de-skewed')
                return
            T_rect0_ego = invert_transform(self.T_ego_rect0)
            self._poses = {f: T @ T_rect0_ego for f, T in _by_frame(rows).items()}
            self.note('no poses.txt: poses are made of cam0_to_world.txt')
        if len(rows) != len(self._poses):
            self.note(f'{len(rows) - len(self._poses)} lines of {name} are no poses: left out')
        unposed = sum(int(path.stem) not in self._poses for path in self.images)
        if unposed:
            self.note(
                f'{unposed} of {len(self.images)} frames have no pose (published only where the '
                'vehicle moved): their T_world_ego is null'
            )
        if self.deskewing == 'none':
            return
        frames = np.array(sorted(self._poses), np.int64)
        stamps = read_stamps(self.stamps_file, frames) if len(frames) else None
        if stamps is None:
            own = dict(zip(frame_numbers(self.scans).tolist(), self.lidar_ns, strict=True))
            frames = np.array([f for f in frames.tolist() if f in own], np.int64)
            stamps = np.array([own[f] for f in frames.tolist()], np.int64)
        if len(frames) < 2:
            return
        poses = np.stack([self._poses[frame] for frame in frames.tolist()])
        self._trajectory = Trajectory.of_unsorted(stamps, poses, max_gap=_LONGEST_GAP_S)
        self.note('scans are de-skewed with the published poses, to the time of their frame')

    def finish(self) -> None:
        """See `FilesRecording.finish`."""
        if self._as_measured and self._trajectory is not None:
            self.note(f'{self._as_measured} scans without poses are kept as measured')

    def points(self, scan: int, image: int, dropped: Drops) -> tuple[np.ndarray, tuple[str, ...]]:
        """See `FilesRecording.points`."""
        points = plausible(read_bin(self.scans[scan], 4), dropped)
        known = int(self.scans[scan].stem) in self._poses
        if known and self._trajectory is not None:
            stamp = int(self.lidar_ns[scan])
            try:
                points[:, :3] = deskew(
                    points[:, :3],
                    sweep_offsets(points[:, :3], FRAME_PERIOD_NS * 1e-9),
                    stamp,
                    self.T_ego_lidar,
                    self._trajectory,
                    stamp,
                )
            except RecordingError:
                known = False
        else:
            known = False
        if not known and self.deskewing == 'poses':
            raise UnusableError('scan: no poses to de-skew it')
        self._as_measured += not known
        return points, COLUMNS

    def pose(self, image: int) -> np.ndarray | None:
        """See `FilesRecording.pose`."""
        return self._poses.get(int(self.images[image].stem))

    def other_files(self) -> list[Path]:
        """See `FilesRecording.other_files`."""
        return [self.poses, self.poses.with_name('cam0_to_world.txt'), self.stamps_file]


class Kitti360:
    """The reader."""

    name = 'kitti360'
    description = 'a folder with calibration/, data_2d_raw/, data_3d_raw/ and data_poses/'

    def detect(self, path: Path) -> bool:
        """See `Source.detect`."""
        return _root(path) is not None

    def recordings(self, path: Path, options: SourceOptions) -> list[Recording]:
        """See `Source.recordings`."""
        options.refuse_others(self.name, ['camera', 'deskew'])
        check_deskew(options, self.name, 'its motion is in data_poses', 'poses')
        root = _root(path)
        assert root is not None
        chosen_by_path = path.resolve().name
        drives = [
            drive
            for drive in sorted((root / 'data_2d_raw').iterdir())
            if drive.is_dir()
            and (drive.name == chosen_by_path or not chosen_by_path.endswith('_sync'))
        ]
        having = {drive: _cameras(drive) for drive in drives}
        if options.camera and any(
            c.strip() in ('image_02', 'image_03') for c in options.camera.split(',')
        ):
            raise RecordingError(
                'the fisheye cameras image_02 and image_03 are not read; choose among '
                f'{", ".join(PERSPECTIVE)} with --camera'
            )
        chosen, notes = choose_cameras(having, options.camera, DEFAULT_CAMERA, path)
        names = sequence_names(chosen, {drive: drive.name for drive in drives})
        recordings: list[Recording] = []
        for (drive, camera), name in zip(chosen, names, strict=True):
            recordings.append(_recording(root, drive, camera, name, options.deskew or 'auto'))
        recordings[0].notes.extend(notes)
        return recordings


def read_calibration(
    folder: Path, camera: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[int, int]]:
    """Calibration of a perspective camera.

    T_camk_velo = (T_velo_cam0 T_cam0_pose T_pose_camk)^-1, and R_rect turns into the rectified
    camera. Of P_rect only the left 3 x 3 counts: its last column is the baseline to camera 0,
    which T_pose_camk holds already (KITTI-360's devkit, helpers/project.py).

    Args:
        folder: `calibration`.
        camera: 'image_00' or 'image_01'.

    Returns:
        K (3, 3), T_camera_lidar (4, 4), T_ego_lidar (4, 4), and width and height.

    Raises:
        CalibrationError: A file or an entry is missing or damaged.
    """
    number = camera.removeprefix('image_')
    poses_path, optics_path = folder / 'calib_cam_to_pose.txt', folder / 'perspective.txt'
    mounts, optics = read_table(poses_path, _HINT), read_table(optics_path, _HINT)
    T_ego_cam0 = _rigid(entry(mounts, 'image_00', (3, 4), poses_path), poses_path)
    T_ego_camk = _rigid(entry(mounts, camera, (3, 4), poses_path), poses_path)
    T_velo_cam0 = _read_rigid(folder / 'calib_cam_to_velo.txt')
    R_rect = entry(optics, f'R_rect_{number}', (3, 3), optics_path)
    P = entry(optics, f'P_rect_{number}', (3, 4), optics_path)
    width, height = entry(optics, f'S_rect_{number}', (2,), optics_path)
    T_velo_camk = T_velo_cam0 @ invert_transform(T_ego_cam0) @ T_ego_camk
    T = make_transform(R_rect, [0, 0, 0]) @ invert_transform(T_velo_camk)
    return (
        check_intrinsics(P[:, :3], str(optics_path)),
        check_transform(T, str(folder)),
        T_ego_cam0 @ invert_transform(T_velo_cam0),
        (int(width), int(height)),
    )


def _recording(
    root: Path, drive: Path, camera: str, name: str, deskewing: str
) -> Kitti360Recording:
    images = image_files(drive / camera / 'data_rect')
    velodyne = root / 'data_3d_raw' / drive.name / 'velodyne_points'
    scans = sorted((velodyne / 'data').glob('*.bin'))
    if not scans:
        raise RecordingError(
            f'{velodyne}/data has no scans for the {len(images)} images of {drive.name}; '
            'KITTI-360 publishes them as data_3d_raw'
        )
    if intensity_scale(scans) != 1:
        raise RecordingError(f'{velodyne}: its scans are not rows of x, y, z, intensity in 0 to 1')
    K, T_camera_lidar, T_ego_lidar, size = read_calibration(root / 'calibration', camera)
    numbers = frame_numbers(images), frame_numbers(scans)
    stamps_file = velodyne / 'timestamps.txt'
    camera_ns = read_stamps(drive / camera / 'timestamps.txt', numbers[0])
    lidar_ns = read_stamps(stamps_file, numbers[1])
    notes = note_short_scans(scans)
    if camera_ns is None or lidar_ns is None:
        notes.append('no timestamps.txt that fits: stamps are the frame number times 0.1 s')
        camera_ns, lidar_ns = (n * FRAME_PERIOD_NS for n in numbers)
        stamps_file = Path()
    return Kitti360Recording(
        SOURCE.name, root, name, camera, images, scans, camera_ns, lidar_ns, K, T_camera_lidar,
        size, notes=notes, drive=drive.name, poses=root / 'data_poses' / drive.name / 'poses.txt',
        T_ego_lidar=T_ego_lidar, T_ego_rect0=_rectified_mount(root / 'calibration'),
        stamps_file=stamps_file, deskewing=deskewing,
    )  # fmt: skip


def _rectified_mount(folder: Path) -> np.ndarray:
    """T_ego_rect0 (4, 4)."""
    path, optics = folder / 'calib_cam_to_pose.txt', folder / 'perspective.txt'
    T_ego_cam0 = _rigid(entry(read_table(path, _HINT), 'image_00', (3, 4), path), path)
    R_rect = entry(read_table(optics, _HINT), 'R_rect_00', (3, 3), optics)
    return T_ego_cam0 @ invert_transform(make_transform(R_rect, [0, 0, 0]))


def _read_rigid(path: Path) -> np.ndarray:
    """A file of twelve numbers."""
    rows = read_poses(path, 12)
    if rows is None:
        raise CalibrationError(f'{path} is missing; {_HINT}')
    if not len(rows) or not np.isfinite(rows[0]).all():
        raise CalibrationError(f'{path} does not hold the twelve numbers of a transform')
    return _rigid(rows[0].reshape(3, 4), path)


def _rigid(rows: np.ndarray, path: Path) -> np.ndarray:
    return check_transform(np.vstack([rows, [0, 0, 0, 1]]), str(path))


def _by_frame(rows: np.ndarray) -> dict[int, np.ndarray]:
    """Frame number: T_world_ego, without lines that are no poses."""
    poses = {}
    for row in rows[np.isfinite(rows).all(axis=1)]:
        if not 0 <= row[0] < 1e12 or row[0] % 1:
            continue
        try:
            # Twelve numbers, or sixteen with the last row.
            poses[int(row[0])] = _rigid(row[1:13].reshape(3, 4), Path('poses.txt'))
        except CalibrationError:
            continue
    return poses


def _cameras(drive: Path) -> list[str]:
    return [c for c in PERSPECTIVE if image_files(drive / c / 'data_rect')]


def _root(path: Path) -> Path | None:
    """The data set's folder: the path itself or what it lies in."""
    if not path.is_dir():
        return None
    for folder in (path, *list(path.resolve().parents)[:2]):
        below = folder == path or path.resolve().relative_to(folder).parts[0] in (
            'data_2d_raw',
            'data_3d_raw',
        )
        if below and (folder / 'data_2d_raw').is_dir() and (folder / 'data_3d_raw').is_dir():
            return folder.resolve()
    return None


SOURCE = Kitti360()
