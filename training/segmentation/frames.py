# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Labelled frames of a data set, whatever its layout."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from clcp_ros.classes import ClassSet
from clcp_ros.errors import ImageError, LabelError
from clcp_ros.image_codec import image_size
from training.defaults import SIMULATION, ensure_simulation, is_simulated
from training.segmentation import a2d2, acdc, camvid, cityscapes
from training.segmentation.labels import LabelReader, read_image
from training.segmentation.listing import Frame

_logger = logging.getLogger(__name__)


DATA = SIMULATION / 'cityscapes'
"""What commands read when nothing else is said."""


class Layout(Protocol):
    """What a layout's module offers."""

    CLASSES: ClassSet

    def recognises(self, root: Path) -> bool:
        """Whether the folder looks like this layout."""

    def splits(self, root: Path) -> list[str]:
        """Names of the splits that are there."""

    def frames(self, root: Path, split: str) -> list[Frame]:
        """All frames of a split."""


LAYOUTS: dict[str, Layout] = {
    'cityscapes': cityscapes,
    'acdc': acdc,
    'camvid': camvid,
    'a2d2': a2d2,
}


@dataclass(frozen=True)
class FrameSet:
    """Frames of one data set.

    Attributes:
        root: Folder of the data set.
        layout: Name of its layout.
        classes: Class set of its labels.
        frames: Sorted by name.
        simulated: Whether a simulator made them.
        labels: Reader of their labels, which counts ids outside the class set.
    """

    root: Path
    layout: str
    classes: ClassSet
    frames: tuple[Frame, ...]
    simulated: bool
    labels: LabelReader

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def conditions(self) -> list[str]:
        """Conditions of the frames, sorted."""
        return sorted({f.condition for f in self.frames})

    @property
    def drives(self) -> list[str]:
        """Drives of the frames, sorted."""
        return sorted({f.drive for f in self.frames})

    def read(self, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
        """Read an image and its label.

        Args:
            frame: One of the frames.

        Returns:
            (H, W, 3) uint8 RGB, and (H, W) uint8 class ids with 255 for unlabelled.

        Raises:
            ImageError: The image is unreadable.
            LabelError: The label is missing, unreadable or of another size.
        """
        image = read_image(frame.image)
        return image, self.labels.read(frame.label, image.shape[:2])

    def read_label(self, frame: Frame) -> np.ndarray:
        """Read a label without decoding its image.

        Args:
            frame: One of the frames.

        Returns:
            (H, W) uint8 class ids with 255 for unlabelled.

        Raises:
            ImageError: The image's header is unreadable.
            LabelError: The label is missing, unreadable or of another size.
        """
        try:
            width, height = image_size(frame.image.read_bytes())
        except ImageError as error:
            raise ImageError(f'{frame.image}: {error}') from None
        return self.labels.read(frame.label, (height, width))

    def only(self, conditions: Iterable[str]) -> FrameSet:
        """The frames of some conditions.

        Args:
            conditions: Their names.

        Raises:
            LabelError: A condition has no frame.
        """
        wanted = list(conditions)
        if missing := [c for c in wanted if c not in self.conditions]:
            raise LabelError(
                f'{self.root}: no frames of condition {", ".join(missing)}; '
                f'there are {", ".join(self.conditions)}'
            )
        return replace(self, frames=tuple(f for f in self.frames if f.condition in wanted))


_NAMES_SHOWN = 20


def open_frames(root: Path, split: str, layout: str = 'auto', labelled: bool = True) -> FrameSet:
    """List the frames of a data set.

    Args:
        root: Folder of the data set; the simulator's is made when it is missing.
        split: Split, or several with commas; `split:condition` takes one condition of it, as in
            `val,train:dusk`.
        layout: `cityscapes`, `acdc`, `camvid`, `a2d2`, or `auto` to guess, and to say so.
        labelled: Whether every image needs a label; those of test splits have none.

    Returns:
        The frames; images and labels are matched by name, and every label file exists where they
        are needed.

    Raises:
        LabelError: Not a known layout, no such split or condition, or a label is missing.
    """
    root = Path(root)
    if root == DATA and not root.is_dir():
        ensure_simulation()
    name = _guess(root) if layout == 'auto' else layout
    if name not in LAYOUTS:
        raise LabelError(f'unknown layout {name!r}; known are auto, {", ".join(LAYOUTS)}')
    module = LAYOUTS[name]
    frames: dict[str, Frame] = {}
    for part in split.split(','):
        split_name, _, condition = part.strip().partition(':')
        if split_name not in module.splits(root):
            found = ', '.join(module.splits(root)) or 'no split at all'
            raise LabelError(f'{root}: no split {split_name!r} in layout {name}; found {found}')
        chosen = [f for f in module.frames(root, split_name) if condition in ('', f.condition)]
        if not chosen:
            raise LabelError(f'{root}: no frames in {part.strip()!r}')
        frames |= {f.name: f for f in chosen}
    ordered = sorted(frames.values(), key=lambda f: f.name)
    _report_empty(root, ordered)
    if labelled:
        _check_labels(root, ordered)
    kinds = {f.label_ids for f in ordered}
    if len(kinds) > 1 and labelled:
        raise LabelError(f'{root}: labels of several kinds are mixed: {", ".join(sorted(kinds))}')
    simulated = is_simulated(root)
    _logger.info(
        '%s: layout %s%s, %s: %d frames%s', root, name, ' (guessed)' if layout == 'auto' else '',
        split, len(ordered), ', simulated' if simulated else '',
    )  # fmt: skip
    return FrameSet(root, name, module.CLASSES, tuple(ordered), simulated, LabelReader(min(kinds)))


def _check_labels(root: Path, frames: list[Frame]) -> None:
    missing = [f for f in frames if not f.label.is_file()]
    if not missing:
        return
    names = ', '.join(f.name for f in missing[:_NAMES_SHOWN])
    more = f' and {len(missing) - _NAMES_SHOWN} more' if len(missing) > _NAMES_SHOWN else ''
    raise LabelError(
        f'{root}: {len(missing)} of {len(frames)} images have no label: {names}{more}; for the '
        f'first, {missing[0].label.relative_to(root)} was expected'
    )


def _report_empty(root: Path, frames: list[Frame]) -> None:
    """Say which folders of conditions hold no image of the chosen splits (ACDC)."""
    chosen = {(f.split, f.condition) for f in frames}
    for split in sorted({s for s, _ in chosen}):
        for folder in sorted(root.glob(f'rgb_anon/*/{split}')):
            if (split, folder.parent.name) not in chosen and not any(folder.rglob('*.png')):
                _logger.warning('%s: no frame in %s', root, folder.relative_to(root))


def _guess(root: Path) -> str:
    if not root.is_dir():
        raise LabelError(f'{root}: no such folder of labelled frames')
    for name, module in LAYOUTS.items():
        if module.recognises(root):
            return name
    raise LabelError(
        f'{root}: no known layout; expected leftImg8bit/ (cityscapes), rgb_anon/ (acdc), '
        'trainannot/ (camvid) or scenes with camera/ and label/ (a2d2)'
    )
