# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Cityscapes (Cordts et al. 2016) as distributed, and whatever else is laid out like it.

`leftImg8bit/<split>/<city>/<name>_leftImg8bit.png` with `gtFine/.../<name>_gtFine_labelIds.png`,
or `..._labelTrainIds.png` where only that exists. The city's folder is the drive; a condition may
follow the last `-` of its name, as in `town03-fog`. Files without folders of splits and cities are
one split, `all`; the city is the first word of their names.
"""

from __future__ import annotations

from pathlib import Path

from clcp_ros.classes import CITYSCAPES
from training.segmentation.listing import CONDITIONS, Frame, folders

CLASSES = CITYSCAPES
_IMAGES, _LABELS = 'leftImg8bit', 'gtFine'
_SUFFIX = '_leftImg8bit'
_FLAT = 'all'


def recognises(root: Path) -> bool:
    """Whether `root` looks like this layout.

    Args:
        root: Folder of the data set.
    """
    return (root / _IMAGES).is_dir()


def splits(root: Path) -> list[str]:
    """Splits in `root`.

    Args:
        root: Folder of the data set.
    """
    images = root / _IMAGES
    flat = [_FLAT] if any(images.glob(f'*{_SUFFIX}.*')) else []
    return folders(images) + flat


def frames(root: Path, split: str) -> list[Frame]:
    """Frames of a split.

    Args:
        root: Folder of the data set.
        split: Name of a folder in `leftImg8bit`.

    Returns:
        The frames, whether or not their labels exist.
    """
    found = []
    images = root / _IMAGES
    pattern = f'*{_SUFFIX}.*' if split == _FLAT else f'{split}/*/*{_SUFFIX}.*'
    for image in sorted(images.glob(pattern)):
        if image.suffix not in ('.png', '.jpg'):
            continue
        stem = image.stem.removesuffix(_SUFFIX)
        city = image.parent.name if split != _FLAT else stem.partition('_')[0]
        folder = root / _LABELS / image.parent.relative_to(images)
        label = folder / f'{stem}_{_LABELS}_labelIds.png'
        ids = 'cityscapes_label_ids'
        prepared = label.with_name(f'{stem}_{_LABELS}_labelTrainIds.png')
        if not label.is_file() and prepared.is_file():
            label, ids = prepared, 'cityscapes_train_ids'
        name = f'{split}/{city}/{stem}'
        found.append(Frame(name, image, label, city, condition_of(city), ids))
    return found


def condition_of(city: str) -> str:
    """The condition in the name of a city's folder, or `all`.

    Args:
        city: Name of the folder.
    """
    last = city.rpartition('-')[2]
    return last if '-' in city and last in CONDITIONS else 'all'
