# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the readers of data sets of image files and .bin scans share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from clcp_ros import image_codec
from clcp_ros.errors import CalibrationError, ImageError, RecordingError
from training.pairs.pair import Pair
from training.pairs.sync import Matches, match_nearest
from training.sources.base import Drops, SourceOptions, fingerprint_files, keep_finite

T_OPTICAL_VIEW = np.array(
    [[0.0, -1.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
)
"""From a frame with x forward, y left, z up to the optical frame of the same camera."""

FARTHEST = 1000.0
"""Metres; no lidar of these data sets sees a tenth of it, so it can only be damage."""

FEW_POINTS = 0.5
"""Scans with less than this part of the median number of points are pointed out."""

LEARN_FROM = 5
"""Scans looked at to learn the range of the intensities."""

_SCALES = (1.0, 255.0, 4095.0, 65535.0)


class UnusableError(RecordingError):
    """A frame or scan that costs one pair; the message is the reason, the same words each time."""


@dataclass
class FilesRecording:
    """Image files of one camera and scan files of one lidar.

    A reader says with its subclass what differs: how a scan's file is read, where the vehicle was.

    Attributes:
        reader: Name of the reader.
        root: File names in `Pair.source` are relative to it.
        sequence: See `Recording`.
        camera: See `Recording`.
        images: Files of the camera.
        scans: Files of the lidar.
        camera_ns: (N,) int64, a stamp for each image.
        lidar_ns: (M,) int64, a stamp for each scan.
        K: (3, 3) of the camera.
        T_camera_lidar: (4, 4) when both look at the same time.
        size: Width and height that the calibration is for; None: those of the first image.
        lidar: See `Recording`.
        notes: See `Recording`.
    """

    reader: str
    root: Path
    sequence: str
    camera: str
    images: list[Path]
    scans: list[Path]
    camera_ns: np.ndarray
    lidar_ns: np.ndarray
    K: np.ndarray
    T_camera_lidar: np.ndarray
    size: tuple[int, int] | None = None
    lidar: str = 'velodyne'
    notes: list[str] = field(default_factory=list)

    def match(self, max_gap: float) -> Matches:
        """See `Recording.match`."""
        return match_nearest(self.camera_ns, self.lidar_ns, max_gap)

    def read(self, matches: Matches, sequence: str, dropped: Drops) -> Iterator[Pair]:
        """See `Recording.read`."""
        self._usual: tuple[int, int] | None = None
        self.prepare(dropped)
        for i, j in zip(matches.camera.tolist(), matches.lidar.tolist(), strict=True):
            image, scan = self.images[i], self.scans[j]
            try:
                data = self._image(image)
            except UnusableError as error:
                dropped.add(str(error), image.name)
                continue
            try:
                points, columns = self.points(j, i, dropped)
                K, T_camera_lidar = self.geometry(i, j)
            except UnusableError as error:
                dropped.add(str(error), scan.name)
                continue
            yield Pair(
                key=f'{sequence}/{self.frame(i)}',
                sequence=sequence,
                camera=self.camera,
                lidar=self.lidar,
                camera_stamp_ns=int(self.camera_ns[i]),
                lidar_stamp_ns=int(self.lidar_ns[j]),
                image=None,
                encoded=data,
                points=points,
                columns=columns,
                K=K,
                T_camera_lidar=T_camera_lidar,
                T_world_ego=self.pose(i),
                tags=self.tags(i),
                source={
                    'reader': self.reader,
                    'image': self._relative(image),
                    'points': self._relative(scan),
                },
            )
        self.finish()

    def fingerprint(self) -> str:
        """See `Recording.fingerprint`."""
        files = [f for f in (*self.images, *self.scans, *self.other_files()) if f.is_file()]
        told = [f.name for f in fields(self) if f.name not in ('images', 'scans', 'notes')]
        return fingerprint_files(files, [(name, _digest(getattr(self, name))) for name in told])

    def prepare(self, dropped: Drops) -> None:
        """Called once before the pairs are read."""

    def finish(self) -> None:
        """Called when all pairs are read."""

    def points(self, scan: int, image: int, dropped: Drops) -> tuple[np.ndarray, tuple[str, ...]]:
        """Points of a scan for an image, (N, C) float32, and the names of the columns.

        Raises:
            UnusableError: The scan costs its pair.
        """
        raise NotImplementedError

    def geometry(self, image: int, scan: int) -> tuple[np.ndarray, np.ndarray]:
        """K and T_camera_lidar of a pair."""
        return self.K, self.T_camera_lidar

    def frame(self, image: int) -> str:
        """The part of a key after the sequence."""
        return self.images[image].stem

    def pose(self, image: int) -> np.ndarray | None:
        """T_world_ego at an image."""
        return None

    def tags(self, image: int) -> dict[str, str]:
        """Tags of an image."""
        return {}

    def other_files(self) -> list[Path]:
        """Files besides images and scans that decide about the pairs."""
        return []

    def note(self, text: str) -> None:
        """Add a note, once."""
        if text not in self.notes:
            self.notes.append(text)

    def _image(self, path: Path) -> bytes:
        try:
            data = path.read_bytes()
            size = image_codec.check_bytes(data)
        except OSError:
            raise UnusableError('image: the file cannot be read') from None
        except ImageError as error:
            raise UnusableError(f'image: {str(error).partition(":")[0]}') from None
        width, height = self.size or self.usual_size(size)
        if size != (width, height):
            raise UnusableError(f'image: not of the size {width} x {height} of its camera')
        return data

    def usual_size(self, first: tuple[int, int]) -> tuple[int, int]:
        """Where no calibration states it: the size of most of some images."""
        if self._usual is not None:
            return self._usual
        sizes = [first]
        for path in spread(self.images, LEARN_FROM):
            try:
                sizes.append(image_codec.image_size(path.read_bytes()))
            except (OSError, ImageError):
                continue
        self._usual = max(sizes, key=sizes.count)
        return self._usual

    def _relative(self, path: Path) -> str:
        try:
            return path.relative_to(self.root).as_posix()
        except ValueError:
            return path.name


def _digest(value: object) -> str:
    """What tells two values apart, wherever their files lie."""
    if isinstance(value, np.ndarray):
        return hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
    if isinstance(value, Path):
        return value.name
    if isinstance(value, list):
        return repr([_digest(item) for item in value])
    return repr(value)


def read_bin(path: Path, columns: int) -> np.ndarray:
    """A file of rows of little-endian float32.

    Returns:
        (N, columns) float32, writable, N at least 1.

    Raises:
        UnusableError: Missing, empty, or no whole number of rows.
    """
    try:
        data = path.read_bytes()
    except OSError:
        raise UnusableError('scan: the file cannot be read') from None
    if not data or len(data) % (4 * columns):
        raise UnusableError('scan: truncated or empty .bin')
    return np.frombuffer(data, '<f4').reshape(-1, columns).astype(np.float32)


def intensity_scale(scans: Sequence[Path], columns: int = 4) -> float | None:
    """The full range that the intensities of some scans point to: 1, 255, 4095 or 65535.

    Returns:
        None where hardly any value is in such a range: the files are something else.
    """
    values = []
    for path in spread(scans, LEARN_FROM):
        try:
            values.append(read_bin(path, columns)[:, 3])
        except UnusableError:
            continue
    seen = np.concatenate(values) if values else np.zeros(0, np.float32)
    seen = seen[np.isfinite(seen)]
    if not len(seen):
        return 1.0
    # Some may be damaged.
    for scale in _SCALES:
        if ((seen >= 0) & (seen <= scale)).mean() > 0.99:
            return scale
    return None


def plausible(points: np.ndarray, dropped: Drops, scale: float = 1.0) -> np.ndarray:
    """Remove points that no lidar measures, count them, and bring intensities into [0, 1].

    Args:
        points: (N, C): x, y, z, intensity and what follows; changed in place.
        dropped: Gets the counts.
        scale: The intensity that becomes 1.

    Returns:
        (M, C).

    Raises:
        UnusableError: Most points are implausible: this is no scan.
    """
    count = len(points)
    points = keep_finite(points, dropped, drop_origin=True)
    far = (np.abs(points[:, :3]) > FARTHEST).any(axis=1)
    odd = ~far & ((points[:, 3] < 0) | (points[:, 3] > scale))
    if 2 * (count - len(points) + int(far.sum()) + int(odd.sum())) > count:
        raise UnusableError('scan: most points are impossible')
    for reason, bad in (
        (f'points: beyond {FARTHEST:.0f} m', far),
        (f'points: intensity not in 0 to {scale:g}', odd),
    ):
        if bad.any():
            dropped.add(reason, count=int(bad.sum()))
    if far.any() or odd.any():
        points = points[~(far | odd)]
    if scale != 1:
        points[:, 3] /= np.float32(scale)
    return points


def note_short_scans(scans: Sequence[Path]) -> list[str]:
    """A note where scans are much shorter than usual: else nothing shows a cut between rows."""
    sizes = np.array([path.stat().st_size for path in scans])
    short = np.flatnonzero(sizes < FEW_POINTS * np.median(sizes))
    if not len(short):
        return []
    return [
        f'{len(short)} of {len(scans)} scans hold less than half as many points as usual, first '
        f'{scans[short[0]].name}: truncated?'
    ]


def spread(files: Sequence[Path], count: int) -> list[Path]:
    """Some of the files, from all over, first and last with them."""
    chosen = np.unique(np.linspace(0, len(files) - 1, min(count, len(files))).astype(int))
    return [files[i] for i in chosen.tolist()]


def image_files(folder: Path) -> list[Path]:
    """PNG files of a folder, or else JPEG files, by name."""
    for pattern in ('*.png', '*.jpg', '*.jpeg'):
        found = sorted(folder.glob(pattern))
        if found:
            return found
    return []


def check_axis(images: Sequence[Path], K: np.ndarray, where: Path) -> None:
    """The optical axis must lie in the images where nothing else tells that they fit.

    Raises:
        CalibrationError: It lies outside: the calibration is that of other images.
    """
    for path in spread(images, LEARN_FROM):
        try:
            width, height = image_codec.image_size(path.read_bytes())
        except (OSError, ImageError):
            continue
        if not (0 < K[0, 2] < width and 0 < K[1, 2] < height):
            raise CalibrationError(
                f'{where}: the optical axis is at ({K[0, 2]:.0f}, {K[1, 2]:.0f}), the images are '
                f'{width} x {height}: the calibration is that of other images'
            )
        return


def match_names(
    images: Sequence[Path], scans: Sequence[Path], camera_ns: np.ndarray, lidar_ns: np.ndarray
) -> Matches:
    """Pair files of equal stems, as data sets do whose frames are numbered.

    Args:
        images: Sorted.
        scans: Sorted.
        camera_ns: (N,) stamps of the images; they tell the gaps, nothing else.
        lidar_ns: (M,) stamps of the scans.
    """
    positions = {path.stem: position for position, path in enumerate(scans)}
    pairs = [(i, positions[p.stem]) for i, p in enumerate(images) if p.stem in positions]
    missing = len(images) - len(pairs)
    camera, lidar = np.array(pairs, np.int64).reshape(-1, 2).T
    order = np.argsort(camera_ns[camera], kind='stable')
    camera, lidar = camera[order], lidar[order]
    dropped = {'no scan of the same number': missing} if missing else {}
    gaps = lidar_ns[lidar] - camera_ns[camera]
    return Matches(
        camera, lidar, gaps, dropped, len(images), len(scans), stamps_ns=camera_ns[camera]
    )


def choose_cameras(
    having: Mapping[Path, Sequence[str]], wanted: str | None, default: str, where: Path
) -> tuple[list[tuple[Path, str]], list[str]]:
    """Which cameras of which drives to read.

    Args:
        having: For each drive, the cameras that it has.
        wanted: A name, several with commas, 'all', or None for the default.
        default: The camera that is read when none was asked for; where no drive has it, the first
            that there is.
        where: For messages.

    Returns:
        Drives and cameras in order, and notes.

    Raises:
        RecordingError: A camera that was asked for is in no drive.
    """
    there = sorted({camera for cameras in having.values() for camera in cameras})
    notes: list[str] = []
    if wanted is None:
        names = [default if default in there or not there else there[0]]
        if names[0] != default:
            notes.append(f'there is no {default}: {names[0]} is read')
    elif wanted.strip().lower() == 'all':
        names = there
    else:
        spelled = {camera.lower(): camera for camera in there}
        asked = [name.strip() for name in wanted.split(',') if name.strip()]
        names = list(dict.fromkeys(spelled.get(name.lower(), name) for name in asked))
    for name in names or [str(wanted)]:
        if name not in there:
            raise RecordingError(
                f'{where} has no images of camera {name!r}; it has {", ".join(there) or "none"}'
            )
    for drive, cameras in having.items():
        missing = [name for name in names if name not in cameras]
        if missing and (wanted is None or wanted.strip().lower() != 'all'):
            notes.append(f'{drive.name} has no images of {", ".join(missing)}: left out')
    chosen = [(drive, c) for drive, cameras in having.items() for c in names if c in cameras]
    return chosen, notes


def sequence_names(chosen: Iterable[tuple[Path, str]], base: Mapping[Path, str]) -> list[str]:
    """Names of recordings: the drive's, and the camera's where several are read of it."""
    chosen = list(chosen)
    cameras = {camera for _, camera in chosen}
    return [base[d] if len(cameras) == 1 else f'{base[d]}_{camera}' for d, camera in chosen]


def check_deskew(options: SourceOptions, reader: str, why: str, *possible: str) -> None:
    """Refuse a way of de-skewing that a data set has no use for.

    Raises:
        RecordingError: `options.deskew` is neither 'auto', 'none' nor one of `possible`.
    """
    if options.deskew not in (None, 'auto', 'none', *possible):
        known = ', '.join(('auto', 'none', *possible))
        raise RecordingError(
            f'--deskew {options.deskew} is not for the {reader} reader ({known}): {why}'
        )


def offset_ns(seconds: float | None) -> int:
    """Seconds, or None for none, in nanoseconds."""
    return round((seconds or 0.0) * 1e9)


def read_tags(path: Path) -> dict[str, Any]:
    """A `tags.json`, which is no data set's own: tags of a sequence, or of frames by number."""
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def tags_of(content: dict[str, Any], frame: str) -> dict[str, str]:
    """The tags of one frame out of `read_tags`."""
    shared = {k: v for k, v in content.items() if isinstance(v, str)}
    own = content.get(frame)
    return {**shared, **({k: str(v) for k, v in own.items()} if isinstance(own, dict) else {})}
