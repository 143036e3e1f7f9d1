# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A2D2, Audi's driving data set (Geyer et al., arXiv 2004.06320).

Layout: `cams_lidars.json` and `camera_lidar_semantic/<scene>/{camera,lidar,label}/cam_<camera>/`
with `<scene>_{camera,lidar,label}_<camera>_<number>.{png,npz,png}` and a `.json` beside images.
Each npz belongs to the image of the same number and camera: it holds the points of five lidars
over about two revolutions, moved to the image's time, in the camera's view frame (x forward,
y left, z up). Images are distorted as recorded; `CamMatrix` is of the rectified image.
"""

from __future__ import annotations

import functools
import json
import lzma
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from clcp_ros.classes import UNLABELLED
from clcp_ros.errors import CalibrationError, ImageError, RecordingError
from training.pairs.geometry import Rectifier, check_intrinsics, project_points
from training.pairs.pair import COLUMNS, Pair
from training.pairs.sync import Matches
from training.sources._files import (
    T_OPTICAL_VIEW,
    check_deskew,
    choose_cameras,
    sequence_names,
)
from training.sources.base import (
    Drops,
    Recording,
    SourceOptions,
    fingerprint_files,
    rectify_encoded,
)

DEFAULT_CAMERA = 'front_center'

# What a damaged zip or npy can raise, besides the obvious: flags turn a member into an encrypted
# one (RuntimeError), another method of compression or a name in another encoding.
_DAMAGED = (
    OSError, ValueError, EOFError, RuntimeError, NotImplementedError, OverflowError, MemoryError,
    TypeError, struct.error, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip

_LONGEST_SCAN_US = 60_000_000

_MODELS = {'Telecam': 'plumb_bob', 'Fisheye': 'equidistant'}

# The mapping is ours: A2D2 has no wall, terrain, rider, bus or train; its trucks hold buses, its
# nature terrain. 255 is what Cityscapes has no class for, or does not evaluate.
_TRAIN_IDS: dict[int, str] = {
    0: 'd23273 6e6e00 ffc125 eee9bf c87dd2 8000ff b432b4 ff00ff',
    1: '808000 b496c8',
    2: 'f1e6ff',
    4: 'eea2ad',
    5: 'fff68f',
    6: '0080ff 1e1c9e 3c1c64 212cb1',
    7: '00ffff 1edcdc 3c9dc7',
    8: '93fdc2',
    10: '87ceff',
    11: 'cc99ff bd499b ef59bf',
    13: 'ff0000 c80000 960000 800000',
    14: 'ff8000 c88000 968000',
    17: '00ff00 00c800 009600',
    18: 'b65906 963204 5a1e01 5a1e1e',
    UNLABELLED: 'ffff00 ffffc8 e96400 400040 b97a57 000064 8b636c ff0080 960096 ccff99 ff46b9 '
    '9696c8 48d1cc 9f79ee 60458f 352e52',
}
"""Cityscapes trainId: A2D2's colours (class_list.json) that become it."""


@dataclass(frozen=True)
class Scan:
    """The content of an npz.

    Attributes:
        points: (N, C) float32, view frame.
        columns: Their names.
        stamp_ns: Middle of the points' times, or None where they have none.
    """

    points: np.ndarray
    columns: tuple[str, ...]
    stamp_ns: int | None


@dataclass
class A2D2Recording:
    """One scene and one of its cameras."""

    folder: Path
    sequence: str
    camera: str
    rectifier: Rectifier
    lidar: str = 'merged'
    notes: list[str] = field(default_factory=list)

    @property
    def drive(self) -> str:
        """What the cameras of a scene share."""
        return self.folder.name

    def __post_init__(self) -> None:
        self.images = _numbered(self.folder / 'camera' / f'cam_{self.camera}', 'png')
        self.scans = _numbered(self.folder / 'lidar' / f'cam_{self.camera}', 'npz')

    def match(self, max_gap: float) -> Matches:
        """See `Recording.match`: by number, as the data set pairs them, whatever `max_gap`."""
        numbers = [number for number in sorted(self.images) if number in self.scans]
        missing = len(self.images) - len(numbers)
        dropped = {'no npz of the same number': missing} if missing else {}
        order = np.array(numbers, np.int64)
        # The points were moved to the image's time, so there is no gap to speak of.
        return Matches(
            order, order, np.zeros(0, np.int64), dropped, len(self.images), len(self.scans)
        )

    def read(self, matches: Matches, sequence: str, dropped: Drops) -> Iterator[Pair]:
        """See `Recording.read`."""
        checked = begun = False
        for number in matches.camera.tolist():
            image_path, scan_path = self.images[number], self.scans[number]
            info = _image_info(image_path)
            try:
                scan = read_scan(scan_path)
            except RecordingError as error:
                dropped.add(str(error).partition(': ')[2], scan_path.name)
                continue
            if not checked:
                self._check_projection(scan_path, scan)
                checked = True
            try:
                image, encoded = rectify_encoded(image_path.read_bytes(), self.rectifier)
            except OSError:
                dropped.add('image: the file cannot be read', image_path.name)
                continue
            except ImageError as error:
                dropped.add(f'image: {str(error).partition(":")[0]}', image_path.name)
                continue
            except CalibrationError:
                # Of another size: one image of many is damaged, the first tells that all are.
                if not begun:
                    raise
                dropped.add('image: not of the size of its camera', image_path.name)
                continue
            begun = True
            camera_us = _stamp_us(info.get('cam_tstamp'))
            if camera_us is None:
                self._note('images without cam_tstamp: the stamp is that of the points, or 0')
            stamp = camera_us * 1000 if camera_us is not None else scan.stamp_ns or number
            yield Pair(
                key=f'{sequence}/{number:09d}',
                sequence=sequence,
                camera=self.camera,
                lidar=self.lidar,
                camera_stamp_ns=stamp,
                lidar_stamp_ns=stamp if scan.stamp_ns is None else scan.stamp_ns,
                image=image,
                encoded=encoded,
                points=scan.points,
                columns=scan.columns,
                K=self.rectifier.K,
                T_camera_lidar=T_OPTICAL_VIEW,
                tags=_tags(info),
                source={
                    'reader': SOURCE.name,
                    'image': str(image_path.relative_to(self.folder.parent)),
                    'points': str(scan_path.relative_to(self.folder.parent)),
                },
            )

    def fingerprint(self) -> str:
        """See `Recording.fingerprint`."""
        r = self.rectifier
        calibration = [r.model, r.K_raw.tolist(), np.asarray(r.D).tolist(), r.K.tolist()]
        described = [path.with_suffix('.json') for path in self.images.values()]
        files = [*self.images.values(), *self.scans.values(), *described]
        return fingerprint_files([file for file in files if file.is_file()], calibration)

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _check_projection(self, path: Path, scan: Scan) -> None:
        """The files state where each point falls: the surest test of calibration and frames."""
        try:
            with np.load(path, allow_pickle=False) as content:
                stated = [content[_key(content.files, name)] for name in ('col', 'row')]
            stated = [values.astype(np.float64) for values in stated]
        except (KeyError, *_DAMAGED):
            return
        uv, _ = project_points(scan.points[:, :3], self.rectifier.K, T_OPTICAL_VIEW)
        if stated[0].shape != stated[1].shape or stated[0].shape != (len(uv),):
            return
        apart = np.abs(uv - np.stack(stated, axis=1))
        error = float(np.median(apart[np.isfinite(apart)])) if np.isfinite(apart).any() else 0.0
        if not error < 1:
            self._note(
                f'the points project {error:.1f} px from the row and col that {path.name} states: '
                'does the calibration belong to this data?'
            )


class A2D2:
    """The reader."""

    name = 'a2d2'
    description = 'a folder with cams_lidars.json and scenes with camera/cam_*, lidar/cam_*'

    def detect(self, path: Path) -> bool:
        """See `Source.detect`."""
        return bool(_scenes(path))

    def recordings(self, path: Path, options: SourceOptions) -> list[Recording]:
        """See `Source.recordings`."""
        options.refuse_others(self.name, ['camera', 'calibration', 'deskew'])
        check_deskew(options, self.name, "its points are moved to the images' time already")
        scenes = _scenes(path)
        having = {scene: _cameras(scene) for scene in scenes}
        chosen, notes = choose_cameras(having, options.camera, DEFAULT_CAMERA, path)
        names = sequence_names(chosen, {scene: scene.name for scene in scenes})
        everything = (options.camera or '').strip().lower() == 'all'
        recordings: list[Recording] = []
        for (scene, camera), name in zip(chosen, names, strict=True):
            calibration = options.calibration or _find_calibration(scene)
            if everything and camera not in _calibrated(calibration):
                notes.append(f'{calibration.name} has no camera {camera}: its images are left out')
                continue
            rectifier = read_calibration(calibration, camera)
            recording = A2D2Recording(scene, name, camera, rectifier)
            if not recording.scans:
                # Two published scenes are so: 20181016_095036 and 20181204_191844.
                recording.notes.append(f'no lidar files of cam_{camera}')
            recordings.append(recording)
        if recordings:
            recordings[0].notes.extend(dict.fromkeys(notes))
        return recordings


def read_calibration(path: Path, camera: str) -> Rectifier:
    """A camera of cams_lidars.json.

    Raises:
        CalibrationError: The file or the camera is missing, or an entry of it.
    """
    try:
        entry = _calibrated(path)[camera]
        width, height = entry['Resolution']
        return Rectifier(
            _MODELS[entry['Lens']],
            check_intrinsics(np.array(entry['CamMatrixOriginal']), str(path)),
            np.array(entry['Distortion'], np.float64).ravel(),
            check_intrinsics(np.array(entry['CamMatrix']), str(path)),
            int(width),
            int(height),
        )
    except (ValueError, TypeError) as error:
        raise CalibrationError(f'{path} cannot be read: {error}') from None
    except KeyError as error:
        raise CalibrationError(f'{path} lacks {error} for camera {camera!r}') from None


def _calibrated(path: Path) -> dict[str, Any]:
    """The cameras of cams_lidars.json."""
    try:
        cameras = json.loads(path.read_text(encoding='utf-8'))['cameras']
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CalibrationError(f'{path} cannot be read: {error}') from None
    if not isinstance(cameras, dict):
        raise CalibrationError(f'{path} cannot be read: its cameras are no table')
    return cameras


def read_scan(path: Path) -> Scan:
    """Read an npz of either key style (`points` or `pcloud_points`, `pcloud_attr.reflectance`).

    Raises:
        RecordingError: Truncated, empty, or without points or reflectance.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            xyz = content[_key(content.files, 'points')]
            reflectance = content[_key(content.files, 'reflectance')]
            try:
                time_us = content[_key(content.files, 'timestamp')]
            except KeyError:
                time_us = None
    except KeyError as error:
        raise RecordingError(f'{path.name}: npz without {error.args[0]}') from None
    except _DAMAGED:
        raise RecordingError(f'{path.name}: npz truncated or damaged') from None
    if xyz.size == 0 or reflectance.size == 0:
        raise RecordingError(f'{path.name}: npz without points')
    count = len(xyz) if xyz.ndim else 0
    fits = xyz.shape == (count, 3) and reflectance.shape == (count,)
    if not fits or (time_us is not None and time_us.shape != (count,)):
        raise RecordingError(f'{path.name}: npz arrays of different lengths')
    if any(a is not None and a.dtype.kind not in 'iufb' for a in (xyz, reflectance, time_us)):
        raise RecordingError(f'{path.name}: npz arrays are not numbers')
    columns: tuple[str, ...] = COLUMNS
    parts = [xyz, np.clip(np.asarray(reflectance, np.float64) / 255, 0, 1)[:, None]]
    stamp_ns = None
    if time_us is not None:
        if not np.isfinite(time_us).all() or not 0 <= time_us.min() <= time_us.max() < 1e16:
            raise RecordingError(f'{path.name}: npz with impossible times')
        # Whole microseconds: the sum of two would not fit float64's 53 bits much longer.
        ticks = np.asarray(time_us, np.int64)
        first, last = int(ticks.min()), int(ticks.max())
        if last - first > _LONGEST_SCAN_US:
            raise RecordingError(f'{path.name}: npz with impossible times')
        middle = first + (last - first) // 2
        stamp_ns = middle * 1000
        parts.append(((ticks - middle) / 1e6)[:, None])
        columns = (*COLUMNS, 'time')
    with np.errstate(over='ignore', invalid='ignore'):
        # Beyond float32 becomes infinite, and goes with what is not finite.
        points = np.concatenate(parts, axis=1).astype(np.float32)
    return Scan(points, columns, stamp_ns)


def labels_to_train_ids(rgb: np.ndarray) -> tuple[np.ndarray, int]:
    """Turn A2D2's colour labels into Cityscapes' 19 train ids.

    Args:
        rgb: (H, W, 3) uint8.

    Returns:
        (H, W) uint8, 255 where there is no such class, and the number of pixels whose colour is
        not A2D2's at all (they are 255 too).
    """
    wide = rgb.astype(np.int32)
    ids = color_to_train_id(wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2], -1)
    unknown = ids < 0
    ids[unknown] = UNLABELLED
    return ids.astype(np.uint8), int(unknown.sum())


def color_to_train_id(colors: np.ndarray, unknown: int) -> np.ndarray:
    """Cityscapes' train ids of A2D2's label colours.

    Args:
        colors: Integers, 0xRRGGBB, of any shape.
        unknown: What a colour becomes that is not A2D2's.

    Returns:
        int16 of the same shape: 0 to 18, 255 for a class that has no counterpart, or `unknown`.
    """
    ids = _color_table()[colors].astype(np.int16)
    ids[ids == _UNKNOWN] = unknown
    return ids


_UNKNOWN = 254


@functools.cache
def _color_table() -> np.ndarray:
    table = np.full(1 << 24, _UNKNOWN, np.uint8)
    for train_id, colors in _TRAIN_IDS.items():
        table[[int(color, 16) for color in colors.split()]] = train_id
    return table


def _key(names: list[str], name: str) -> str:
    """The name as the semantic or as the raw set writes it."""
    for candidate in (name, f'pcloud_{name}', f'pcloud_attr.{name}'):
        if candidate in names:
            return candidate
    raise KeyError(name)


def _numbered(folder: Path, extension: str) -> dict[int, Path]:
    """Frame number: file."""
    found = {}
    for path in sorted(folder.glob(f'*.{extension}')):
        number = re.search(r'_(\d+)$', path.stem)
        if number:
            found[int(number[1])] = path
    return found


def _image_info(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.with_suffix('.json').read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _stamp_us(value: Any) -> int | None:
    """A stamp in microseconds, or None for what is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return int(value) if 0 <= value < 1e16 else None


def _tags(info: dict[str, Any]) -> dict[str, str]:
    """Not A2D2's own, but what others may add to an image's json."""
    own = info.get('tags')
    tags = dict(own) if isinstance(own, dict) else {}
    if 'condition' in info:
        tags['condition'] = info['condition']
    return {str(key): str(value) for key, value in tags.items()}


def _cameras(scene: Path) -> list[str]:
    folders = sorted(scene.glob('camera/cam_*'))
    return [f.name.removeprefix('cam_') for f in folders if f.is_dir()]


def _scenes(path: Path) -> list[Path]:
    """Scene folders at a path: the scene itself, those of a set, or those of a folder of sets."""
    if not path.is_dir():
        return []
    for level in ('', '*/', '*/*/'):
        found = {p.parent.parent for p in path.glob(f'{level}camera/cam_*')}
        if found:
            return sorted(p.resolve() for p in found)
    return []


def _find_calibration(scene: Path) -> Path:
    for folder in list(scene.parents)[:3]:
        found = sorted(folder.glob('cams_lidars*.json'))
        if found:
            return found[0]
    raise CalibrationError(
        f'no cams_lidars.json beside or above {scene.parent}; A2D2 publishes it with the '
        'configuration files. Give its place with --calibration'
    )


SOURCE = A2D2()
