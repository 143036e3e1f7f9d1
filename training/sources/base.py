# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a reader of recordings is: the protocol that each file in this folder follows."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol

import numpy as np

from clcp_ros import image_codec
from clcp_ros.errors import CalibrationError, RecordingError
from training.pairs.geometry import Rectifier
from training.pairs.pair import Pair
from training.pairs.sync import Matches


@dataclass(frozen=True)
class SourceOptions:
    """What a user can say about a recording; None leaves it to the reader.

    Attributes:
        camera: Which camera of a data set that names them; several with commas, or 'all'.
        image_topic: Topic of the images.
        points_topic: Topic of the scans.
        camera_info_topic: Topic of the camera's calibration.
        calibration: YAML file with K, D, distortion_model, T_camera_lidar.
        stamp: Which time of a message counts: 'header' or 'bag' (of recording).
        camera_offset: Seconds added to the camera's stamps.
        lidar_offset: Seconds added to the lidar's stamps.
        deskew: Where the motion within a scan comes from: 'auto', 'none', 'poses' (of the data
            set), 'odom', 'tf' or 'kiss-icp'.
    """

    camera: str | None = None
    image_topic: str | None = None
    points_topic: str | None = None
    camera_info_topic: str | None = None
    calibration: Path | None = None
    stamp: str | None = None
    camera_offset: float | None = None
    lidar_offset: float | None = None
    deskew: str | None = None

    def refuse_others(self, reader: str, understood: Iterable[str]) -> None:
        """Raise RecordingError for an option that was given and means nothing to a reader."""
        known = set(understood)
        for field in fields(self):
            if getattr(self, field.name) is not None and field.name not in known:
                raise RecordingError(f'--{field.name} means nothing to the {reader} reader')


class Drops(Counter[str]):
    """Reason: how often, for whatever was left out.

    Attributes:
        examples: Reason: the first place where it happened.
    """

    def __init__(self) -> None:
        super().__init__()
        self.examples: dict[str, str] = {}

    def add(self, reason: str, example: str = '', count: int = 1) -> None:
        """Count something left out.

        Args:
            reason: The same words each time.
            example: Where it happened.
            count: How many.
        """
        self[reason] += count
        if example:
            self.examples.setdefault(reason, example)


class Recording(Protocol):
    """One camera and one lidar over one stretch of time; is pickled on its way to workers.

    May have an attribute `drive`: what it shares with the recordings of the same drive by other
    cameras, so that a split by sequence does not part them. Otherwise it is a drive of its own.

    Attributes:
        sequence: Name, unique within its source.
        camera: Name of the camera.
        lidar: Name of the lidar.
        notes: What a user should know: what was missing, chosen or assumed.
    """

    sequence: str
    camera: str
    lidar: str
    notes: list[str]

    def fingerprint(self) -> str:
        """Changes when the recording's files do."""

    def match(self, max_gap: float) -> Matches:
        """Which frame belongs to which scan; reads stamps only.

        Args:
            max_gap: Seconds.

        Raises:
            RecordingError: The recording cannot be read.
        """

    def read(self, matches: Matches, sequence: str, dropped: Drops) -> Iterator[Pair]:
        """Read the matched pairs.

        Args:
            matches: From `match`.
            sequence: Name to use in the pairs (`sequence`, made unique in the set).
            dropped: Gets the reasons of pairs that are left out, and of points that are.
        """


class Source(Protocol):
    """A reader, found by its place in this folder as `SOURCE` of its module.

    Attributes:
        name: As used with --reader.
        description: What it reads, for messages.
    """

    name: str
    description: str

    def detect(self, path: Path) -> bool:
        """Whether the path looks like something this reader reads; must be quick."""

    def recordings(self, path: Path, options: SourceOptions) -> Sequence[Recording]:
        """The recordings under a path, sorted by name.

        Raises:
            RecordingError: There are none, or an option does not fit.
            CalibrationError: The calibration is missing.
        """


def fingerprint_files(paths: Iterable[Path], *others: object) -> str:
    """A hash of the files' names, sizes and times of change, and of anything else given."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        status = path.stat()
        digest.update(f'{path.name}\0{status.st_size}\0{status.st_mtime_ns}\n'.encode())
    digest.update(repr(others).encode())
    return digest.hexdigest()


def keep_finite(points: np.ndarray, dropped: Drops, drop_origin: bool = False) -> np.ndarray:
    """Remove whole rows with a NaN or infinity, and counts them.

    Args:
        points: (N, C).
        dropped: Gets the counts.
        drop_origin: Also remove points at exactly (0, 0, 0): a lidar's way to say "no echo".

    Returns:
        (M, C), all columns of the same points.
    """
    # Reducing along rows of four is slow: rows are looked at only where there is a reason to.
    if not np.isfinite(points).all():
        finite = np.isfinite(points).all(axis=1)
        dropped.add('points: not finite', count=int((~finite).sum()))
        points = points[finite]
    if drop_origin:
        origin = (points[:, 0] == 0) & (points[:, 1] == 0) & (points[:, 2] == 0)
        if origin.any():
            dropped.add('points: no echo (0, 0, 0)', count=int(origin.sum()))
            points = points[~origin]
    return points


def rectify_encoded(data: bytes, rectifier: Rectifier) -> tuple[np.ndarray | None, bytes | None]:
    """Rectify an image file, or keep its bytes where it is a pinhole image already.

    Args:
        data: A JPEG or PNG file.
        rectifier: Of its camera.

    Returns:
        The rectified image, or None, and the bytes, or None: always one of them.

    Raises:
        ImageError: The file is truncated or damaged.
        CalibrationError: The image has another size than the calibration.
    """
    if not rectifier.is_identity:
        return rectifier.rectify(image_codec.decode_bytes(data)), None
    size = image_codec.check_bytes(data)
    if size != (rectifier.width, rectifier.height):
        raise CalibrationError(
            f'the calibration is for {rectifier.width} x {rectifier.height}, the image is '
            f'{size[0]} x {size[1]}'
        )
    return None, data
