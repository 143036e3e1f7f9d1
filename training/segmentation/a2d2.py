# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A2D2's semantic set (Geyer et al. 2020): colour labels of 55 classes, as Cityscapes' 19.

`<scene>/camera/cam_<view>/<date>_camera_<view>_<number>.png` with the same under `label`. Images
and labels are both distorted by the lens, alike, and used as they are. A2D2 has no official split:
the validation scene is the one that xMUDA (Jaritz et al., CVPR 2020) tests on, or the last scene
where that is missing.
"""

from __future__ import annotations

import re
from pathlib import Path

from clcp_ros.classes import CITYSCAPES
from training.segmentation.listing import Frame, folders

CLASSES = CITYSCAPES
VIEW = 'cam_front_center'
_VALIDATION = '20180807_145028'
_SCENE = re.compile(r'\d{8}_\d{6}')
_INNER = 'camera_lidar_semantic'


def recognises(root: Path) -> bool:
    """Whether `root` looks like this layout.

    Args:
        root: Folder of the data set, or the one above it.
    """
    return bool(_scenes(root))


def splits(root: Path) -> list[str]:
    """Splits in `root`; `all` is every scene.

    Args:
        root: Folder of the data set.
    """
    return ['train', 'val', 'all'] if len(_scenes(root)) > 1 else ['all']


def frames(root: Path, split: str) -> list[Frame]:
    """Frames of a split, of the front centre camera.

    Args:
        root: Folder of the data set.
        split: `train`, `val` or `all`.

    Returns:
        The frames, whether or not their labels exist.
    """
    scenes = _scenes(root)
    names = [s.name for s in scenes]
    held_out = _VALIDATION if _VALIDATION in names else names[-1]
    found = []
    for scene in scenes:
        if split != 'all' and (scene.name == held_out) != (split == 'val'):
            continue
        for image in sorted((scene / 'camera' / VIEW).glob('*.png')):
            name = image.name.replace('_camera_', '_label_')
            label = scene / 'label' / VIEW / name
            found.append(
                Frame(f'{split}/{image.stem}', image, label, scene.name, 'all', 'a2d2_colors')
            )
    return found


def _scenes(root: Path) -> list[Path]:
    """Scenes with labelled images of the view, sorted by name."""
    top = root / _INNER if (root / _INNER).is_dir() else root
    return [
        top / name
        for name in folders(top)
        if _SCENE.fullmatch(name)
        and (top / name / 'camera' / VIEW).is_dir()
        and (top / name / 'label' / VIEW).is_dir()
    ]
