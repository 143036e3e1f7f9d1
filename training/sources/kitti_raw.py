# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""KITTI raw data, synchronized and rectified (Geiger et al., IJRR 2013).

Layout: `<date>/calib_cam_to_cam.txt`, `<date>/calib_velo_to_cam.txt`,
`<date>/<drive>_sync/{image_02,velodyne_points,oxts}/{data/,timestamps.txt}`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from clcp_ros.errors import CalibrationError, RecordingError
from training.pairs.geometry import check_intrinsics, check_transform, make_transform
from training.pairs.pair import Pair
from training.pairs.sync import Matches, match_nearest
from training.sources.base import Drops, Recording, SourceOptions, fingerprint_files, keep_finite

DEFAULT_CAMERA = 'image_02'
FRAME_PERIOD_NS = 100_000_000
"""10 Hz; stands in for missing timestamps."""


@dataclass
class KittiRawRecording:
    """One drive and one of its cameras."""

    folder: Path
    sequence: str
    camera: str
    K: np.ndarray
    T_camera_lidar: np.ndarray
    lidar: str = 'velodyne'
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.images = sorted((self.folder / self.camera / 'data').glob('*.png'))
        if not self.images:
            self.images = sorted((self.folder / self.camera / 'data').glob('*.jpg'))
        self.scans = sorted((self.folder / 'velodyne_points' / 'data').glob('*.bin'))
        if not self.images or not self.scans:
            raise RecordingError(
                f'{self.folder} has {len(self.images)} images of {self.camera} and '
                f'{len(self.scans)} scans'
            )
        self._camera_ns = self._stamps(self.camera, self.images)
        self._lidar_ns = self._stamps('velodyne_points', self.scans)
        if (self._camera_ns is None) != (self._lidar_ns is None):
            # One clock invented, the other real: they would never meet.
            self._camera_ns = self._lidar_ns = None
        if self._camera_ns is None:
            self.notes.append('no timestamps.txt: stamps are the frame number times 0.1 s')
        if not (self.folder / 'oxts' / 'data').is_dir():
            self.notes.append('no oxts: poses are unknown (T_world_ego is null)')

    def match(self, max_gap: float) -> Matches:
        """See `Recording.match`."""
        return match_nearest(*self._all_stamps(), max_gap)

    def read(self, matches: Matches, sequence: str, dropped: Drops) -> Iterator[Pair]:
        """See `Recording.read`."""
        camera_ns, lidar_ns = self._all_stamps()
        poses = _Oxts(self.folder / 'oxts')
        for i, j in zip(matches.camera.tolist(), matches.lidar.tolist(), strict=True):
            image, scan = self.images[i], self.scans[j]
            raw = np.fromfile(scan, '<f4')
            if raw.size == 0 or raw.size % 4:
                dropped.add('scan: truncated or empty .bin', scan.name)
                continue
            points = keep_finite(raw.reshape(-1, 4), dropped)
            points[:, 3] = points[:, 3].clip(0, 1)
            yield Pair(
                key=f'{sequence}/{image.stem}',
                sequence=sequence,
                camera=self.camera,
                lidar=self.lidar,
                camera_stamp_ns=int(camera_ns[i]),
                lidar_stamp_ns=int(lidar_ns[j]),
                image=None,
                encoded=image.read_bytes(),
                points=points,
                K=self.K,
                T_camera_lidar=self.T_camera_lidar,
                T_world_ego=poses.pose(image.stem),
                source={
                    'reader': SOURCE.name,
                    'image': str(image.relative_to(self.folder.parent)),
                    'points': str(scan.relative_to(self.folder.parent)),
                },
            )

    def fingerprint(self) -> str:
        """See `Recording.fingerprint`."""
        return fingerprint_files(
            [*self.images, *self.scans], self.K.tolist(), self.T_camera_lidar.tolist()
        )

    def _all_stamps(self) -> tuple[np.ndarray, np.ndarray]:
        if self._camera_ns is not None and self._lidar_ns is not None:
            return self._camera_ns, self._lidar_ns
        return _numbers(self.images) * FRAME_PERIOD_NS, _numbers(self.scans) * FRAME_PERIOD_NS

    def _stamps(self, sensor: str, files: list[Path]) -> np.ndarray | None:
        path = self.folder / sensor / 'timestamps.txt'
        if not path.is_file():
            return None
        lines = path.read_text().split('\n')
        # A line per frame of the drive, also for frames whose file is missing.
        try:
            return np.array([parse_stamp(lines[number]) for number in _numbers(files)], np.int64)
        except (ValueError, IndexError):
            self.notes.append(f'{sensor}/timestamps.txt does not fit the frames')
            return None


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
        options.refuse_others(self.name, ['camera'])
        camera = options.camera or DEFAULT_CAMERA
        recordings: list[Recording] = []
        for drive in _drives(path):
            if not (drive / camera / 'data').is_dir():
                there = ', '.join(sorted(p.name for p in drive.glob('image_*'))) or 'none'
                raise RecordingError(f'{drive} has no camera {camera!r}; it has {there}')
            K, T_camera_lidar = read_calibration(drive.parent, camera)
            recordings.append(KittiRawRecording(drive, drive.name, camera, K, T_camera_lidar))
        return recordings


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
    cameras = _read_table(folder / 'calib_cam_to_cam.txt')
    velodyne = _read_table(folder / 'calib_velo_to_cam.txt')
    try:
        P = cameras[f'P_rect_{number}'].reshape(3, 4)
        R_rect = cameras['R_rect_00'].reshape(3, 3)
        T_cam0_velo = make_transform(velodyne['R'].reshape(3, 3), velodyne['T'])
    except (KeyError, ValueError) as error:
        raise CalibrationError(
            f'{folder}: calibration of {camera} is incomplete: {error}'
        ) from None
    K = check_intrinsics(P[:, :3], str(folder))
    T_camera_rect = make_transform(np.eye(3), np.linalg.solve(K, P[:, 3]))
    T = T_camera_rect @ make_transform(R_rect, [0, 0, 0]) @ T_cam0_velo
    return K, check_transform(T, str(folder))


def parse_stamp(text: str) -> int:
    """Nanoseconds of 'YYYY-MM-DD HH:MM:SS.nnnnnnnnn', taken as UTC.

    Raises:
        ValueError: Not such a text.
    """
    seconds, _, fraction = text.strip().partition('.')
    moment = datetime.strptime(seconds, '%Y-%m-%d %H:%M:%S').replace(tzinfo=timezone.utc)
    return int(moment.timestamp()) * 1_000_000_000 + int(fraction.ljust(9, '0')[:9] or 0)


class _Oxts:
    """T_world_ego from GPS and IMU; the world is where the first frame asked for is."""

    EARTH_RADIUS = 6378137.0

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.origin: np.ndarray | None = None
        self.scale = 1.0

    def pose(self, frame: str) -> np.ndarray | None:
        """(4, 4), or None where there is no packet."""
        path = self.folder / 'data' / f'{frame}.txt'
        try:
            lat, lon, alt, roll, pitch, yaw = map(float, path.read_text().split()[:6])
        except (OSError, ValueError):
            return None
        if self.origin is None:
            self.scale = math.cos(math.radians(lat))
        # Mercator projection, as in KITTI's devkit.
        radius = self.scale * self.EARTH_RADIUS
        place = np.array(
            [
                radius * math.radians(lon),
                radius * math.log(math.tan(math.radians(90 + lat) / 2)),
                alt,
            ]
        )
        if self.origin is None:
            self.origin = place
        cr, sr, cp, sp, cy, sy = (f(a) for a in (roll, pitch, yaw) for f in (math.cos, math.sin))
        rotation = np.array(
            [
                [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
                [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
                [-sp, cp * sr, cp * cr],
            ]
        )
        return make_transform(rotation, place - self.origin)


def _drives(path: Path) -> list[Path]:
    """Drive folders at a path: the drive itself, those of a date, or those of several dates."""
    if not path.is_dir():
        return []
    for pattern in ('velodyne_points', '*/velodyne_points', '*/*/velodyne_points'):
        found = sorted(p.parent for p in path.glob(pattern) if any(p.parent.glob('image_0*')))
        if found:
            return [p.resolve() for p in found]
    return []


def _numbers(files: list[Path]) -> np.ndarray:
    try:
        return np.array([int(path.stem) for path in files], np.int64)
    except ValueError:
        raise RecordingError(f'{files[0].parent}: file names are not frame numbers') from None


def _read_table(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise CalibrationError(
            f'{path} is missing; KITTI publishes it as <date>_calib.zip, it lies beside the drives'
        )
    table = {}
    for line in path.read_text(errors='replace').splitlines():
        name, _, values = line.partition(':')
        try:
            table[name.strip()] = np.array([float(v) for v in values.split()])
        except ValueError:
            continue  # calib_time and the like
    return table


SOURCE = KittiRaw()
