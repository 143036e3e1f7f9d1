# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""KITTI raw data, synchronized and rectified (Geiger et al., IJRR 2013).

Layout: `<date>/calib_cam_to_cam.txt`, `<date>/calib_velo_to_cam.txt`,
`<date>/<drive>_sync/{image_02,velodyne_points,oxts}/{data/,timestamps.txt}`.

The scans are as measured over a tenth of a second (readme of the data: "you have to 'untwist' the
points"); those of KITTI odometry, made of the same drives, are untwisted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from clcp_ros.errors import CalibrationError, RecordingError
from training.pairs.geometry import check_transform, invert_transform, make_transform
from training.pairs.motion import Trajectory, deskew
from training.pairs.pair import COLUMNS
from training.sources._files import (
    FilesRecording,
    UnusableError,
    check_deskew,
    choose_cameras,
    image_files,
    intensity_scale,
    note_short_scans,
    offset_ns,
    plausible,
    read_bin,
    sequence_names,
)
from training.sources._kitti import (
    FRAME_PERIOD_NS,
    entry,
    frame_numbers,
    parse_stamp,
    read_stamps,
    read_table,
    split_projection,
    sweep_offsets,
)
from training.sources.base import Drops, Recording, SourceOptions

__all__ = ['SOURCE', 'KittiRaw', 'KittiRawRecording', 'parse_stamp', 'read_calibration']

DEFAULT_CAMERA = 'image_02'

_HINT = 'KITTI publishes it as <date>_calib.zip, it lies beside the drives'
EARTH_RADIUS = 6378137.0
"""Metres; as in KITTI's devkit."""


@dataclass
class KittiRawRecording(FilesRecording):
    """One drive and one of its cameras.

    Attributes:
        folder: Of the drive.
        T_ego_lidar: (4, 4) mount of the scanner on the IMU where scans are to be de-skewed.
    """

    folder: Path = field(default_factory=Path)
    T_ego_lidar: np.ndarray | None = None
    scale: float = 1.0

    @property
    def drive(self) -> str:
        """What the cameras of a drive share."""
        return self.folder.name

    def prepare(self, dropped: Drops) -> None:
        """See `FilesRecording.prepare`."""
        self._poses = read_oxts(self.folder / 'oxts')
        damaged = sum(pose is None for pose in self._poses.values())
        if damaged:
            self.note(f'{damaged} packets of oxts cannot be read: these poses are unknown')
        self._trajectory: Trajectory | None = None
        if self.T_ego_lidar is not None:
            self._trajectory = self._make_trajectory()
            self.note('scans are de-skewed with oxts, to the time of their frame')

    def points(self, scan: int, image: int, dropped: Drops) -> tuple[np.ndarray, tuple[str, ...]]:
        """See `FilesRecording.points`."""
        points = plausible(read_bin(self.scans[scan], 4), dropped, self.scale)
        if self._trajectory is not None and self.T_ego_lidar is not None:
            try:
                points[:, :3] = deskew(
                    points[:, :3],
                    sweep_offsets(points[:, :3], FRAME_PERIOD_NS * 1e-9),
                    int(self.lidar_ns[scan]),
                    self.T_ego_lidar,
                    self._trajectory,
                    int(self.camera_ns[image]),
                )
            except RecordingError:
                raise UnusableError('scan: no poses to de-skew it') from None
        return points, COLUMNS

    def pose(self, image: int) -> np.ndarray | None:
        """See `FilesRecording.pose`."""
        return self._poses.get(self.images[image].stem)

    def other_files(self) -> list[Path]:
        """See `FilesRecording.other_files`."""
        return list((self.folder / 'oxts').glob('**/*.txt'))

    def _make_trajectory(self) -> Trajectory:
        known = {name: pose for name, pose in self._poses.items() if pose is not None}
        files = [Path(name) for name in known]
        stamps = read_stamps(self.folder / 'oxts' / 'timestamps.txt', frame_numbers(files))
        if stamps is None or len(known) < 2:
            raise RecordingError(
                f'{self.folder}/oxts has no timestamps.txt that fits its packets: scans cannot be '
                'de-skewed; leave out --deskew poses'
            )
        return Trajectory.of_unsorted(stamps, np.stack(list(known.values())))


class KittiRaw:
    """The reader."""

    name = 'kitti_raw'
    description = (
        'a folder <date> with calib_cam_to_cam.txt and drives with image_02, velodyne_points'
    )

    def detect(self, path: Path) -> bool:
        """See `Source.detect`."""
        return bool(_drives(path))

    def recordings(self, path: Path, options: SourceOptions) -> list[Recording]:
        """See `Source.recordings`."""
        options.refuse_others(self.name, ['camera', 'camera_offset', 'lidar_offset', 'deskew'])
        check_deskew(options, self.name, 'its motion is in oxts', 'poses')
        drives = _drives(path)
        having = {drive: _cameras(drive) for drive in drives}
        chosen, notes = choose_cameras(having, options.camera, DEFAULT_CAMERA, path)
        names = sequence_names(chosen, {drive: drive.name for drive in drives})
        recordings: list[Recording] = []
        for (drive, camera), name in zip(chosen, names, strict=True):
            recordings.append(self._recording(drive, camera, name, options))
        recordings[0].notes.extend(notes)
        return recordings

    def _recording(
        self, drive: Path, camera: str, name: str, options: SourceOptions
    ) -> KittiRawRecording:
        images = image_files(drive / camera / 'data')
        scans = sorted((drive / 'velodyne_points' / 'data').glob('*.bin'))
        if not images or not scans:
            text = f'{drive} has {len(images)} images of {camera} and {len(scans)} scans'
            if any((drive / 'velodyne_points' / 'data').glob('*.txt')):
                text += '; its scans are text: of the two downloads take the one called _sync'
            raise RecordingError(text)
        K, T_camera_lidar = read_calibration(drive.parent, camera)
        scale = intensity_scale(scans)
        if scale is None:
            raise RecordingError(
                f'{drive}: its scans are not rows of x, y, z, intensity: the values of the fourth '
                'column are in no known range'
            )
        camera_ns, lidar_ns, notes = _stamps(drive, camera, images, scans)
        if not (drive / 'oxts' / 'data').is_dir():
            notes.append('no oxts: poses are unknown (T_world_ego is null)')
        if scale != 1:
            notes.append(f'intensities reach {scale:g}: they are divided by it')
        return KittiRawRecording(
            self.name, drive.parent, name, camera, images, scans,
            camera_ns + offset_ns(options.camera_offset),
            lidar_ns + offset_ns(options.lidar_offset),
            K, T_camera_lidar, _image_size(drive.parent, camera),
            notes=notes + note_short_scans(scans), folder=drive, scale=scale,
            T_ego_lidar=_mount(drive) if options.deskew == 'poses' else None,
        )  # fmt: skip


def read_calibration(folder: Path, camera: str) -> tuple[np.ndarray, np.ndarray]:
    """Calibration of a date.

    p = P_rect R_rect_00 T_velo_cam X (KITTI's devkit). P_rect = K [I | t], so t, the camera's
    place on the rig, goes into the extrinsics and K stays a pinhole matrix.

    Args:
        folder: The date's folder.
        camera: 'image_00' to 'image_03'.

    Returns:
        K (3, 3) and T_camera_lidar (4, 4).

    Raises:
        CalibrationError: A file or an entry is missing.
    """
    number = camera.removeprefix('image_')
    cameras_path, velodyne_path = folder / 'calib_cam_to_cam.txt', folder / 'calib_velo_to_cam.txt'
    cameras, velodyne = read_table(cameras_path, _HINT), read_table(velodyne_path, _HINT)
    P = entry(cameras, f'P_rect_{number}', (3, 4), cameras_path)
    R_rect = entry(cameras, 'R_rect_00', (3, 3), cameras_path)
    R = entry(velodyne, 'R', (3, 3), velodyne_path)
    T_cam0_velo = make_transform(R, entry(velodyne, 'T', (3,), velodyne_path))
    K, T_camera_rect = split_projection(P, str(folder))
    T = T_camera_rect @ make_transform(R_rect, [0, 0, 0]) @ T_cam0_velo
    return K, check_transform(T, str(folder))


def read_oxts(folder: Path) -> dict[str, np.ndarray | None]:
    """T_world_ego of the packets of GPS and IMU, by the names of their files.

    Mercator projection with the first packet as origin, x east, y north, z up (KITTI's devkit).

    Returns:
        Name: (4, 4) float64, or None for a packet that cannot be read; empty without packets.
    """
    poses: dict[str, np.ndarray | None] = {}
    origin, scale = None, 1.0
    for path in sorted((folder / 'data').glob('*.txt')):
        try:
            values = [float(value) for value in path.read_text(errors='replace').split()[:6]]
            lat, lon, alt, roll, pitch, yaw = values
        except (OSError, ValueError):
            poses[path.stem] = None
            continue
        if not all(map(math.isfinite, values)) or not abs(lat) < 85:
            poses[path.stem] = None
            continue
        if origin is None:
            scale = math.cos(math.radians(lat))
        radius = scale * EARTH_RADIUS
        north = radius * math.log(math.tan(math.radians(90 + lat) / 2))
        place = np.array([radius * math.radians(lon), north, alt])
        if origin is None:
            origin = place
        poses[path.stem] = make_transform(_rotation(roll, pitch, yaw), place - origin)
    return poses


def _rotation(roll: float, pitch: float, yaw: float) -> np.ndarray:
    """Rz(yaw) Ry(pitch) Rx(roll), (3, 3)."""
    cr, sr, cp, sp, cy, sy = (f(a) for a in (roll, pitch, yaw) for f in (math.cos, math.sin))
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )


def _mount(drive: Path) -> np.ndarray:
    """T_ego_lidar: the velodyne on the IMU."""
    path = drive.parent / 'calib_imu_to_velo.txt'
    table = read_table(path, _HINT + '; without it scans cannot be de-skewed')
    T_velo_imu = make_transform(entry(table, 'R', (3, 3), path), entry(table, 'T', (3,), path))
    return invert_transform(check_transform(T_velo_imu, str(path)))


def _image_size(folder: Path, camera: str) -> tuple[int, int] | None:
    path = folder / 'calib_cam_to_cam.txt'
    name = f'S_rect_{camera.removeprefix("image_")}'
    try:
        width, height = entry(read_table(path, _HINT), name, (2,), path)
    except CalibrationError:
        return None
    return int(width), int(height)


def _stamps(
    drive: Path, camera: str, images: list[Path], scans: list[Path]
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    numbers = {camera: frame_numbers(images), 'velodyne_points': frame_numbers(scans)}
    found = {s: read_stamps(drive / s / 'timestamps.txt', n) for s, n in numbers.items()}
    camera_ns, lidar_ns = found.values()
    if camera_ns is not None and lidar_ns is not None:
        return camera_ns, lidar_ns, []
    # One clock invented, the other real: they would never meet. So both are invented.
    notes = ['no timestamps.txt: stamps are the frame number times 0.1 s']
    for sensor in found:
        if found[sensor] is None and (drive / sensor / 'timestamps.txt').is_file():
            notes = [f'{sensor}/timestamps.txt does not fit the frames: stamps are their numbers']
    first, second = numbers.values()
    return first * FRAME_PERIOD_NS, second * FRAME_PERIOD_NS, notes


def _cameras(drive: Path) -> list[str]:
    return sorted(p.name for p in drive.glob('image_0?') if (p / 'data').is_dir())


def _drives(path: Path) -> list[Path]:
    """Drive folders at a path: the drive itself, those of a date, or those of several dates."""
    if not path.is_dir():
        return []
    for pattern in ('velodyne_points', '*/velodyne_points', '*/*/velodyne_points'):
        found = sorted(p.parent for p in path.glob(pattern) if any(p.parent.glob('image_0*')))
        if found:
            return [p.resolve() for p in found]
    return []


SOURCE = KittiRaw()
