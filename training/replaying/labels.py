# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""True masks from a folder of label images."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from clcp_ros.classes import CAMVID, CITYSCAPES, UNLABELLED
from clcp_ros.errors import ImageError, LabelError
from clcp_ros.replay import BagFrame, ReplayBag
from clcp_ros.replay_bag import FrameKey
from clcp_ros.replay_scores import id_table
from training.segmentation.labels import COLORS, ID_TABLES, LabelReader

_NUMBER = re.compile(r'(\d{15,20})')


class FolderLabels:
    """Label images of a replay.

    Files whose names hold a stamp in nanoseconds belong to the frame of that stamp. Where no name
    does, there must be as many as images, and they follow one another in the order of the bag.
    With several cameras each has a folder of its name; cameras without one have no labels.

    Args:
        folder: PNG files of one id (or colour) a pixel.
        ids: How the ids are to be read: a name in `training.segmentation.labels.ID_TABLES`,
            `a2d2_colors`, or `bundle` for the ids of the bundle.
        bag: The bag.

    Raises:
        LabelError: No labels there, or another number than there are images.
    """

    def __init__(self, folder: Path, ids: str, bag: ReplayBag) -> None:
        known = ('bundle', COLORS, *ID_TABLES)
        if ids not in known:
            raise LabelError(f'unknown kind of labels {ids!r}; known are {", ".join(known)}')
        self.ids = ids
        self._files: dict[FrameKey, Path] = {}
        self._reader = None if ids == 'bundle' else LabelReader(ids)
        self.simulated = False
        cameras = bag.cameras
        for camera in cameras:
            own = folder / camera.name
            place = own if own.is_dir() else folder
            if len(cameras) > 1 and not own.is_dir():
                continue
            files = sorted(place.glob('*.png'))
            keys = {(camera.name, stamp, 0): file for stamp, file in _stamps(files).items()}
            if not keys and files:
                count = bag.topics[camera.topic][1]
                if len(files) != count:
                    raise LabelError(
                        f'{place}: {len(files)} labels for {count} images of {camera.topic}; name '
                        'them by their stamps in nanoseconds'
                    )
                frames = (f.key for f in _frames_of(bag, camera.name))
                keys = dict(zip(frames, files, strict=False))
            self._files |= keys
        if not self._files:
            raise LabelError(f'{folder}: no .png files there')

    def get(self, frame: BagFrame, names: Sequence[str]) -> np.ndarray | None:
        """See `LabelSource.get`.

        Raises:
            LabelError: A label image cannot be read, or has classes that are not asked for.
        """
        # A stamp that names a file names it in every round of a looped recording.
        file = self._files.get(frame.key) or self._files.get((*frame.key[:2], 0))
        if file is None:
            return None
        if self._reader is None:
            return _gray(file)
        try:
            labels = self._reader.read(file, frame.frame.size)
        except ImageError as error:
            raise LabelError(f'{file}: its image cannot be read: {error}') from None
        classes = CAMVID if self.ids == 'camvid' else CITYSCAPES
        table = id_table(dict(enumerate(classes.names)), names)
        if (table == 254).any():
            raise LabelError(
                f'the labels ({self.ids}) have classes that the bundle does not; it has '
                f'{", ".join(names[:5])}, ...'
            )
        table[table >= len(names)] = UNLABELLED
        return np.asarray(cv2.LUT(labels, table), np.uint8)


def _frames_of(bag: ReplayBag, camera: str) -> Iterator[BagFrame]:
    return (frame for frame in bag.frames() if frame.camera == camera)


def _stamps(files: list[Path]) -> dict[int, Path]:
    found = {int(match[1]): f for f in files if (match := _NUMBER.search(f.stem))}
    # Some data sets' running numbers are as long, all of them or none.
    return found if len(found) == len(files) else {}


def _gray(file: Path) -> np.ndarray:
    try:
        data = np.frombuffer(file.read_bytes(), np.uint8)
    except OSError as error:
        raise LabelError(f'{file}: cannot be read ({error.strerror})') from None
    labels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if len(data) else None
    if labels is None:
        raise LabelError(f'{file}: damaged label image')
    if labels.ndim != 2 or labels.dtype != np.uint8:
        raise LabelError(f'{file}: a label image holds one 8-bit id a pixel')
    return np.asarray(labels, np.uint8)
