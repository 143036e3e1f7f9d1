# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""CamVid (Brostow et al. 2009) in the layout of SegNet: 11 classes, 480 x 360.

`<split>/<sequence>_<frame>.png` with `<split>annot/` of the same names. Sequence 0001TP was driven
at dusk, the others by day.
"""

from __future__ import annotations

from pathlib import Path

from clcp_ros.classes import CAMVID
from training.segmentation.listing import Frame, folders

CLASSES = CAMVID
_DUSK = '0001TP'
_SUFFIX = 'annot'


def recognises(root: Path) -> bool:
    """Whether `root` looks like this layout.

    Args:
        root: Folder of the data set.
    """
    return bool(splits(root))


def splits(root: Path) -> list[str]:
    """Splits in `root`.

    Args:
        root: Folder of the data set.
    """
    names = folders(root)
    return [n for n in names if n + _SUFFIX in names]


def frames(root: Path, split: str) -> list[Frame]:
    """Frames of a split.

    Args:
        root: Folder of the data set.
        split: `train`, `val` or `test`.

    Returns:
        The frames, whether or not their labels exist.
    """
    found = []
    for image in sorted((root / split).glob('*.png')):
        sequence = image.stem.partition('_')[0]
        label = root / (split + _SUFFIX) / image.name
        condition = 'dusk' if sequence == _DUSK else 'day'
        found.append(Frame(f'{split}/{image.stem}', image, label, sequence, condition, 'camvid'))
    return found
