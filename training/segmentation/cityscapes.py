# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Cityscapes (Cordts et al. 2016) as distributed, and whatever else is laid out like it.

`leftImg8bit/<split>/<city>/<name>_leftImg8bit.png` with `gtFine/.../<name>_gtFine_labelIds.png`,
or `..._labelTrainIds.png` where only that exists. The city's folder is the drive; a condition may
follow the last `-` of its name, as in `town03-fog`.
"""

from __future__ import annotations

from pathlib import Path

from clcp_ros.classes import CITYSCAPES
from training.segmentation.listing import CONDITIONS, Frame, folders

CLASSES = CITYSCAPES
_IMAGES, _LABELS = 'leftImg8bit', 'gtFine'
_SUFFIX = '_leftImg8bit'


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
    return folders(root / _IMAGES)


def frames(root: Path, split: str) -> list[Frame]:
    """Frames of a split.

    Args:
        root: Folder of the data set.
        split: Name of a folder in `leftImg8bit`.

    Returns:
        The frames, whether or not their labels exist.
    """
    found = []
    for image in sorted((root / _IMAGES / split).glob(f'*/*{_SUFFIX}.*')):
        if image.suffix not in ('.png', '.jpg'):
            continue
        city, stem = image.parent.name, image.stem.removesuffix(_SUFFIX)
        label = root / _LABELS / split / city / f'{stem}_{_LABELS}_labelIds.png'
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
