# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Waymo Open Dataset, Perception v2 (Sun et al., CVPR 2020), through pyarrow.

Layout: `{training,validation,testing}/<component>/<segment>.parquet`; needed are the components
camera_image, camera_calibration, lidar, lidar_calibration and vehicle_pose, used are also
lidar_pose and stats. The points of all five lidars are joined in the vehicle's frame at the time
of the frame; those of the top one are moved there pixel by pixel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from clcp_ros.errors import CalibrationError, ImageError, RecordingError
from training.pairs.geometry import Rectifier, check_transform, invert_transform
from training.pairs.pair import COLUMNS, Pair
from training.pairs.sync import Matches
from training.sources._files import (
    T_OPTICAL_VIEW,
    UnusableError,
    check_deskew,
    choose_cameras,
    plausible,
    sequence_names,
)
from training.sources._waymo_calibration import (
    CAMERA_KEY,
    CAMERAS,
    LASER_KEY,
    LASERS,
    read_camera,
    read_lasers,
)
from training.sources._waymo_parquet import (
    RowReader,
    inclinations,
    projection_error,
    range_image,
    read_columns,
    to_points,
)
from training.sources.base import (
    Drops,
    Recording,
    SourceOptions,
    fingerprint_files,
    rectify_encoded,
)

DEFAULT_CAMERA = 'FRONT'
NEEDED = ('camera_image', 'camera_calibration', 'lidar', 'lidar_calibration', 'vehicle_pose')

_STAMP = 'key.frame_timestamp_micros'
_IMAGE = '[CameraImageComponent]'
_RANGES = '[LiDARComponent].range_image_return1'
_POSES = '[LiDARPoseComponent].range_image_return1'
_PROJECTION = '[LiDARCameraProjectionComponent].range_image_return1'
_TOP = 1
_FAR_OFF = 15.0
"""Pixels; rolling shutter, which is not undone, moves points by less."""

_TOGETHER = 4 * len(LASERS)
"""Rows of a frame no further apart than this are read in one go through the file."""


@dataclass
class WaymoRecording:
    """One segment and one of its cameras.

    Attributes:
        folder: Of the split.
        segment: Its context name.
    """

    folder: Path
    segment: str
    sequence: str
    camera: str
    lidar: str = 'merged'
    notes: list[str] = field(default_factory=list)

    @property
    def drive(self) -> str:
        """What the cameras of a segment share."""
        return self.segment

    def file(self, component: str) -> Path:
        """The segment's file of a component."""
        return self.folder / component / f'{self.segment}.parquet'

    def match(self, max_gap: float) -> Matches:
        """See `Recording.match`: by frame, as published, whatever `max_gap`.

        The gap is from the time of the image's pose to that of the frame.
        """
        read_camera(self.file('camera_calibration'), self.camera)
        read_lasers(self.file('lidar_calibration'))
        images, scans = self._images(), self._scans()
        both = [stamp for stamp in sorted(images) if stamp in scans]
        order = sorted(scans)
        place = {stamp: position for position, stamp in enumerate(order)}
        camera = np.array([images[stamp][0] for stamp in both], np.int64)
        lidar = np.array([place[stamp] for stamp in both], np.int64)
        camera_ns = np.array([images[stamp][1] for stamp in both], np.int64)
        missing = len(images) - len(both)
        dropped = {'no scan of the same frame': missing} if missing else {}
        gaps = np.array(both, np.int64) * 1000 - camera_ns
        sort = np.argsort(camera_ns, kind='stable')
        return Matches(
            camera[sort], lidar[sort], gaps[sort], dropped, len(images), len(scans),
            stamps_ns=camera_ns[sort],
        )  # fmt: skip

    def read(self, matches: Matches, sequence: str, dropped: Drops) -> Iterator[Pair]:
        """See `Recording.read`. Files are read row by row, in their own order."""
        rectifier, T_vehicle_camera = read_camera(self.file('camera_calibration'), self.camera)
        poses = _frame_poses(self.file('vehicle_pose'))
        tags = self._tags()
        order = sorted(self._scans())
        images = RowReader(self.file('camera_image'), _image_columns(self.file('camera_image')))
        scans = _Scans(self.file('lidar'), self.file('lidar_pose'), self.file('lidar_calibration'))
        if scans.poses is None:
            self._note("no lidar_pose: points of the top lidar are not moved to the frame's time")
        checked = False
        try:
            for i, j in zip(matches.camera.tolist(), matches.lidar.tolist(), strict=True):
                stamp = order[j]
                where = f'frame {stamp}'
                try:
                    row = images.row(i)
                    shot = _Shot(row, stamp, poses)
                    image, encoded = _rectified(row[f'{_IMAGE}.image'].as_py(), rectifier)
                    points = plausible(scans.points(stamp, poses), dropped)
                except UnusableError as error:
                    dropped.add(str(error), where)
                    continue
                if shot.readout_s:
                    self._note_shutter(shot.readout_s)
                T_camera_world = invert_transform(shot.T_world_vehicle @ T_vehicle_camera)
                T_camera_vehicle = T_OPTICAL_VIEW @ T_camera_world @ poses[stamp]
                if not checked:
                    self._check_projection(scans, stamp, poses, T_camera_vehicle, rectifier)
                    checked = True
                yield Pair(
                    key=f'{sequence}/{stamp}',
                    sequence=sequence,
                    camera=self.camera,
                    lidar=self.lidar,
                    camera_stamp_ns=shot.stamp_ns,
                    lidar_stamp_ns=stamp * 1000,
                    image=image,
                    encoded=encoded,
                    points=points,
                    columns=COLUMNS,
                    K=rectifier.K,
                    T_camera_lidar=T_camera_vehicle,
                    T_world_ego=shot.T_world_vehicle,
                    tags=tags.get(stamp, {}),
                    source={
                        'reader': SOURCE.name,
                        'segment': self.segment,
                        'image': f'{self.camera} at {stamp}',
                        'points': f'{", ".join(scans.lasers(stamp))} at {stamp}',
                    },
                )
        finally:
            images.close()
            scans.close()

    def fingerprint(self) -> str:
        """See `Recording.fingerprint`."""
        components = (*NEEDED, 'lidar_pose', 'stats')
        files = [self.file(c) for c in components if self.file(c).is_file()]
        sizes = [(f.parent.name, f.stat().st_size) for f in files]
        return fingerprint_files(files, self.segment, self.camera, sizes)

    def _check_projection(
        self,
        scans: _Scans,
        stamp: int,
        poses: dict[int, np.ndarray],
        T_camera_vehicle: np.ndarray,
        rectifier: Rectifier,
    ) -> None:
        """The data set states where points fall: the surest test of frames, poses and clocks."""
        path = self.file('lidar_camera_projection')
        if not path.is_file() or _TOP not in scans.rows[stamp]:
            return
        keys = read_columns(path, [_STAMP, LASER_KEY])
        wanted = list(zip(keys[_STAMP], keys[LASER_KEY], strict=True))
        if (stamp, _TOP) not in wanted:
            return
        reader = RowReader(path, [f'{_PROJECTION}.values', f'{_PROJECTION}.shape'])
        try:
            stated = range_image(reader.row(wanted.index((stamp, _TOP))), _PROJECTION, 6)
        except UnusableError:
            return
        finally:
            reader.close()
        image, points = scans.laser(stamp, _TOP, poses)
        number = CAMERAS.index(self.camera) + 1
        error = projection_error(image, stated, points, number, T_camera_vehicle, rectifier)
        if error is not None and error > _FAR_OFF:
            self._note(
                f'points fall {error:.0f} px from where lidar_camera_projection states: do the '
                'files belong together?'
            )

    def _images(self) -> dict[int, tuple[int, int]]:
        """Frame's stamp in microseconds: row of the camera's image, and its time in ns."""
        path = self.file('camera_image')
        own = f'{_IMAGE}.pose_timestamp'
        wanted = [_STAMP, CAMERA_KEY, *({own} & set(_names(path)))]
        columns = read_columns(path, wanted)
        times = columns.get(own) or [None] * len(columns[_STAMP])
        number = CAMERAS.index(self.camera) + 1
        found = {}
        for row, (stamp, camera, time) in enumerate(
            zip(columns[_STAMP], columns[CAMERA_KEY], times, strict=True)
        ):
            if camera == number and _possible(stamp):
                found[stamp] = row, _image_ns(time, stamp)
        return found

    def _scans(self) -> set[int]:
        """Stamps of the frames that have a scan."""
        return {s for s in read_columns(self.file('lidar'), [_STAMP])[_STAMP] if _possible(s)}

    def _tags(self) -> dict[int, dict[str, str]]:
        path = self.file('stats')
        if not path.is_file():
            self._note('no stats: weather and time of day are not known')
            return {}
        names = {'time_of_day': 'light', 'weather': 'weather', 'location': 'location'}
        there = set(_names(path))
        used = {k: v for k, v in names.items() if f'[StatsComponent].{k}' in there}
        columns = read_columns(path, [_STAMP, *(f'[StatsComponent].{k}' for k in used)])
        tags: dict[int, dict[str, str]] = {}
        for row, stamp in enumerate(columns[_STAMP]):
            values = {v: columns[f'[StatsComponent].{k}'][row] for k, v in used.items()}
            tags[stamp] = {name: str(value).lower() for name, value in values.items() if value}
        return tags

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _note_shutter(self, readout_s: float) -> None:
        if any(note.startswith('rolling shutter') for note in self.notes):
            return
        self._note(
            f'rolling shutter: rows are exposed over {readout_s * 1e3:.0f} ms, the pose is that '
            'of one instant: points on what passes quickly are off by some pixels'
        )


class Waymo:
    """The reader."""

    name = 'waymo'
    description = 'a folder with camera_image/*.parquet, lidar/*.parquet ..., or with splits of it'

    def detect(self, path: Path) -> bool:
        """See `Source.detect`."""
        return bool(_splits(path))

    def recordings(self, path: Path, options: SourceOptions) -> list[Recording]:
        """See `Source.recordings`."""
        options.refuse_others(self.name, ['camera', 'deskew'])
        check_deskew(options, self.name, 'its scans are moved to one instant already')
        having: dict[Path, list[str]] = {}
        for folder in _splits(path):
            missing = [c for c in NEEDED if not (folder / c).is_dir()]
            if missing:
                raise RecordingError(
                    f'{folder} lacks the components {", ".join(missing)}: download them, too'
                )
            for file in sorted((folder / 'camera_image').glob('*.parquet')):
                numbers = set(read_columns(file, [CAMERA_KEY])[CAMERA_KEY])
                there = [c for n, c in enumerate(CAMERAS, 1) if n in numbers]
                having[folder / file.stem] = there
        chosen, notes = choose_cameras(having, options.camera, DEFAULT_CAMERA, path)
        names = sequence_names(chosen, {segment: segment.name for segment in having})
        recordings: list[Recording] = []
        for (segment, camera), name in zip(chosen, names, strict=True):
            recording = WaymoRecording(segment.parent, segment.name, name, camera)
            for component in NEEDED:
                if not recording.file(component).is_file():
                    raise RecordingError(f'{recording.file(component)} is missing')
            recordings.append(recording)
        recordings[0].notes.extend(notes)
        return recordings


class _Shot:
    """When and where an image was taken."""

    def __init__(self, row: dict[str, Any], stamp: int, poses: dict[int, np.ndarray]) -> None:
        if stamp not in poses:
            raise UnusableError('frame: no vehicle_pose')

        def value(name: str) -> Any:
            scalar = row.get(f'{_IMAGE}.{name}')
            return None if scalar is None else scalar.as_py()

        self.stamp_ns = _image_ns(value('pose_timestamp'), stamp)
        self.T_world_vehicle = poses[stamp]
        transform = value('pose.transform')
        if transform is not None:
            self.T_world_vehicle = _rigid(transform, 'image: impossible pose')
        start = value('rolling_shutter_params.camera_trigger_time')
        end = value('rolling_shutter_params.camera_readout_done_time')
        self.readout_s = end - start if start and end and 0 < end - start < 1 else 0.0


class _Scans:
    """The points of frames, read row by row."""

    def __init__(self, lidar: Path, pose: Path, calibration: Path) -> None:
        keys = read_columns(lidar, [_STAMP, LASER_KEY])
        self.calibration = read_lasers(calibration)
        self.rows: dict[int, dict[int, int]] = {}
        for row, (stamp, laser) in enumerate(zip(keys[_STAMP], keys[LASER_KEY], strict=True)):
            if stamp is not None and laser is not None:
                self.rows.setdefault(stamp, {})[laser] = row
        together = all(
            max(rows.values()) - min(rows.values()) <= _TOGETHER for rows in self.rows.values()
        )
        columns = [f'{_RANGES}.values', f'{_RANGES}.shape']
        # Where a file holds one lidar after the other, each needs its own way through it.
        numbers = {laser for rows in self.rows.values() for laser in rows}
        shared = RowReader(lidar, columns)
        self.readers = {n: shared if together else RowReader(lidar, columns) for n in numbers}
        self.poses: RowReader | None = None
        self.pose_rows: dict[int, int] = {}
        if pose.is_file():
            self.poses = RowReader(pose, [f'{_POSES}.values', f'{_POSES}.shape'])
            keys = read_columns(pose, [_STAMP, LASER_KEY])
            for row, (stamp, laser) in enumerate(zip(keys[_STAMP], keys[LASER_KEY], strict=True)):
                if laser == _TOP:
                    self.pose_rows[stamp] = row

    def lasers(self, stamp: int) -> list[str]:
        """Names of the lidars of a frame."""
        return [LASERS[number - 1] for number in sorted(self.rows[stamp])]

    def points(self, stamp: int, poses: dict[int, np.ndarray]) -> np.ndarray:
        """(N, 4) of all lidars in the vehicle's frame."""
        order = sorted(self.rows[stamp], key=self.rows[stamp].__getitem__)
        points = np.concatenate([self.laser(stamp, number, poses)[1] for number in order])
        if not len(points):
            raise UnusableError('scan: no points')
        return points

    def laser(
        self, stamp: int, number: int, poses: dict[int, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Range image (H, W, C) of one lidar, and its points (N, 4) in the vehicle's frame."""
        laser = self.calibration.get(number)
        if laser is None or not 1 <= number <= len(LASERS):
            raise UnusableError('scan: a lidar without calibration')
        image = range_image(self.readers[number].row(self.rows[stamp][number]), _RANGES, 2)
        tilt = inclinations(laser.values, laser.low, laser.high, len(image))
        pixels = None
        if number == _TOP and self.poses is not None:
            if stamp not in self.pose_rows:
                raise UnusableError('scan: no lidar_pose')
            pixels = range_image(self.poses.row(self.pose_rows[stamp]), _POSES, 6)
        return image, to_points(image, tilt, laser.T_vehicle_laser, pixels, poses[stamp])

    def close(self) -> None:
        """Close the files."""
        for reader in [*self.readers.values(), *([self.poses] if self.poses else [])]:
            reader.close()


def _frame_poses(path: Path) -> dict[int, np.ndarray]:
    """T_world_vehicle (4, 4) by the frames' stamps, without impossible ones."""
    name = '[VehiclePoseComponent].world_from_vehicle.transform'
    columns = read_columns(path, [_STAMP, name])
    poses = {}
    for stamp, transform in zip(columns[_STAMP], columns[name], strict=True):
        try:
            poses[stamp] = _rigid(transform, '')
        except UnusableError:
            continue
    return poses


def _rigid(transform: Any, reason: str) -> np.ndarray:
    try:
        return check_transform(np.array(transform, np.float64), '')
    except (CalibrationError, TypeError, ValueError):
        raise UnusableError(reason) from None


def _rectified(data: bytes | None, rectifier: Rectifier) -> tuple[np.ndarray | None, bytes | None]:
    try:
        if not data:
            raise ImageError('no data')
        return rectify_encoded(data, rectifier)
    except CalibrationError:
        size = f'{rectifier.width} x {rectifier.height}'
        raise UnusableError(f'image: not of the size {size} of its camera') from None
    except ImageError as error:
        raise UnusableError(f'image: {str(error).partition(":")[0]}') from None


def _possible(stamp_us: Any) -> bool:
    """Whether microseconds are a time, and fit an int64 as nanoseconds."""
    return isinstance(stamp_us, int) and 0 <= stamp_us < 9_000_000_000_000_000


def _image_ns(seconds: Any, frame_us: int) -> int:
    """Time of an image's pose; the frame's where it is not stated, or of another clock."""
    if isinstance(seconds, float) and abs(seconds - frame_us * 1e-6) < 1.0:
        return round(seconds * 1e6) * 1000
    return frame_us * 1000


def _image_columns(path: Path) -> list[str]:
    names = ('pose.transform', 'pose_timestamp', 'rolling_shutter_params.camera_trigger_time',
             'rolling_shutter_params.camera_readout_done_time')  # fmt: skip
    there = set(_names(path))
    return [f'{_IMAGE}.image', *(n for n in (f'{_IMAGE}.{n}' for n in names) if n in there)]


def _names(path: Path) -> list[str]:
    reader = RowReader(path, [])
    try:
        return list(reader.names)
    finally:
        reader.close()


def _splits(path: Path) -> list[Path]:
    """Folders that hold components: the path itself, or those in it."""
    if not path.is_dir():
        return []
    for pattern in ('camera_image/*.parquet', '*/camera_image/*.parquet'):
        found = sorted({file.parent.parent.resolve() for file in path.glob(pattern)})
        if found:
            return found
    return []


SOURCE = Waymo()
