# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""ACDC (Sakaridis et al. 2021) as distributed: fog, night, rain and snow.

`rgb_anon/<condition>/<split>/<sequence>/<name>_rgb_anon.png` with
`gt/<condition>/<split>/<sequence>/<name>_gt_labelTrainIds.png`. The splits `*_ref` hold the same
places in clear weather.
"""

from __future__ import annotations

from pathlib import Path

from clcp_ros.classes import CITYSCAPES
from training.segmentation.listing import Frame, folders

CLASSES = CITYSCAPES
_IMAGES, _LABELS = 'rgb_anon', 'gt'
_SUFFIXES = {
    '_rgb_anon.png': '_gt_labelTrainIds.png',
    '_rgb_ref_anon.png': '_gt_ref_labelTrainIds.png',
}


def recognises(root: Path) -> bool:
    """Whether `root` looks like this layout.

    Args:
        root: Folder of the data set.
    """
    return (root / _IMAGES).is_dir()


def splits(root: Path) -> list[str]:
    """Splits in `root`, over all conditions.

    Args:
        root: Folder of the data set.
    """
    images = root / _IMAGES
    return sorted({s for condition in folders(images) for s in folders(images / condition)})


def frames(root: Path, split: str) -> list[Frame]:
    """Frames of a split, all conditions.

    Args:
        root: Folder of the data set.
        split: `train`, `val`, ..., or `train_ref`, `val_ref` (clear weather).

    Returns:
        The frames, whether or not their labels exist.
    """
    suffix = '_rgb_ref_anon.png' if split.endswith('_ref') else '_rgb_anon.png'
    found = []
    for image in sorted((root / _IMAGES).glob(f'*/{split}/*/*{suffix}')):
        condition, _, sequence = image.relative_to(root / _IMAGES).parts[:3]
        stem = image.name.removesuffix(suffix)
        label = root / _LABELS / condition / split / sequence / (stem + _SUFFIXES[suffix])
        found.append(
            Frame(
                f'{split}/{condition}/{sequence}/{stem}', image, label, f'{condition}/{sequence}',
                'clear' if split.endswith('_ref') else condition, 'cityscapes_train_ids',
            )
        )  # fmt: skip
    return found
