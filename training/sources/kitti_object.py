# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""KITTI's object detection set (Geiger et al., CVPR 2012).

Layout: `{training,testing}/{image_2,image_3,velodyne,calib}/<frame>.{png,bin,txt}`. Frames were
drawn from many drives and shuffled: each has its own calibration, none a time or a pose.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from clcp_ros.errors import CalibrationError, RecordingError
from training.pairs.geometry import check_transform, make_transform
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
    sequence_names,
)
from training.sources._kitti import entry, frame_numbers, read_table, split_projection
from training.sources.base import Drops, Recording, SourceOptions

DEFAULT_CAMERA = 'image_2'
SPLITS = ('training', 'testing')
APART_NS = 10_000_000_000
"""Stand-in for the unknown time from one frame to the next: so long that none is taken for the
neighbour of another."""


@dataclass
class KittiObjectRecording(FilesRecording):
    """One of the splits and one of its cameras."""

    folder: Path = field(default_factory=Path)

    @property
    def drive(self) -> str:
        """What the cameras of a split share."""
        return f'object_{self.folder.name}'

    def match(self, max_gap: float) -> Matches:
        """See `Recording.match`: by number, as published."""
        return match_names(self.images, self.scans, self.camera_ns, self.lidar_ns)

    def points(self, scan: int, image: int, dropped: Drops) -> tuple[np.ndarray, tuple[str, ...]]:
        """See `FilesRecording.points`."""
        return plausible(read_bin(self.scans[scan], 4), dropped), COLUMNS

    def geometry(self, image: int, scan: int) -> tuple[np.ndarray, np.ndarray]:
        """See `FilesRecording.geometry`."""
        path = self.folder / 'calib' / f'{self.images[image].stem}.txt'
        try:
            return read_calibration(path, self.camera)
        except CalibrationError:
            raise UnusableError('calibration: missing or damaged file of the frame') from None

    def other_files(self) -> list[Path]:
        """See `FilesRecording.other_files`."""
        return list((self.folder / 'calib').glob('*.txt'))

    def usual_size(self, first: tuple[int, int]) -> tuple[int, int]:
        """See `FilesRecording.usual_size`: drives of other days have other sizes, all right."""
        return first


class KittiObject:
    """The reader."""

    name = 'kitti_object'
    description = 'a folder with training/ or testing/{image_2,velodyne,calib}, or one of these'

    def detect(self, path: Path) -> bool:
        """See `Source.detect`."""
        return bool(_splits(path))

    def recordings(self, path: Path, options: SourceOptions) -> list[Recording]:
        """See `Source.recordings`."""
        options.refuse_others(self.name, ['camera', 'deskew'])
        check_deskew(options, self.name, 'its frames have no poses')
        folders = _splits(path)
        having = {
            f: sorted(p.name for p in f.glob('image_?') if any(p.iterdir())) for f in folders
        }
        chosen, notes = choose_cameras(having, options.camera, DEFAULT_CAMERA, path)
        names = sequence_names(chosen, {f: f'object_{f.name}' for f in folders})
        recordings: list[Recording] = []
        for (folder, camera), name in zip(chosen, names, strict=True):
            images = image_files(folder / camera)
            scans = sorted((folder / 'velodyne').glob('*.bin'))
            if not scans:
                raise RecordingError(f'{folder} has {len(images)} images and no scans')
            if intensity_scale(scans) != 1:
                raise RecordingError(
                    f'{folder}: its scans are not rows of x, y, z, reflectance in 0 to 1'
                )
            recordings.append(self._recording(folder, camera, name, images, scans))
        recordings[0].notes.extend(notes)
        return recordings

    def _recording(
        self, folder: Path, camera: str, name: str, images: list[Path], scans: list[Path]
    ) -> KittiObjectRecording:
        K, T = _first_calibration(folder, camera)
        check_axis(images, K, folder / 'calib')
        untimed = f'frames have no times: stamps are the frame number times {APART_NS // 10**9} s'
        return KittiObjectRecording(
            self.name, folder.parent, name, camera, images, scans,
            frame_numbers(images) * APART_NS, frame_numbers(scans) * APART_NS, K, T,
            notes=[untimed, *note_short_scans(scans)], folder=folder,
        )  # fmt: skip


def read_calibration(path: Path, camera: str) -> tuple[np.ndarray, np.ndarray]:
    """Calibration of a frame: p = P R0_rect Tr_velo_to_cam X.

    Args:
        path: A file of the folder `calib`.
        camera: 'image_2' or 'image_3'.

    Returns:
        K (3, 3) and T_camera_lidar (4, 4).

    Raises:
        CalibrationError: The file or an entry is missing or damaged.
    """
    table = read_table(path, 'KITTI publishes it as data_object_calib.zip')
    P = entry(table, f'P{camera.removeprefix("image_")}', (3, 4), path)
    R = entry(table, 'R0_rect', (3, 3), path)
    T_cam0_velo = np.eye(4)
    T_cam0_velo[:3] = entry(table, 'Tr_velo_to_cam', (3, 4), path)
    K, T_camera_rect = split_projection(P, str(path))
    T = T_camera_rect @ make_transform(R, [0, 0, 0]) @ T_cam0_velo
    return K, check_transform(T, str(path))


def _first_calibration(folder: Path, camera: str) -> tuple[np.ndarray, np.ndarray]:
    """Of the first frame whose file can be read; the first file's error where none can."""
    files = sorted((folder / 'calib').glob('*.txt'))
    problem = CalibrationError(
        f'{folder}/calib holds no files; KITTI publishes them as data_object_calib.zip'
    )
    for number, path in enumerate(files):
        try:
            return read_calibration(path, camera)
        except CalibrationError as error:
            if number == 0:
                problem = error
    raise problem


def _splits(path: Path) -> list[Path]:
    """Folders of the splits at a path: itself, or those in it."""
    if not path.is_dir():
        return []
    for folders in ([path], [path / name for name in SPLITS]):
        found = [
            f.resolve()
            for f in folders
            if (f / 'velodyne').is_dir() and (f / 'calib').is_dir() and any(f.glob('image_?'))
        ]
        if found:
            return found
    return []


SOURCE = KittiObject()
