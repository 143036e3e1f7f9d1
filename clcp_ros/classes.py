# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Class sets: names, colours and the id that means unlabelled."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

UNLABELLED = 255
"""Id of pixels without a class, in every 8-bit mask of this project (vision_msgs' UNLABELED)."""


@dataclass(frozen=True)
class ClassSet:
    """An ordered set of classes; a class id is its position.

    Attributes:
        name: Short name, used in bundles and on the command line.
        names: Class names, lower case.
        colors: RGB triples, one per class.
    """

    name: str
    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.colors) or not 0 < len(self.names) < UNLABELLED:
            raise ValueError(
                f'class set {self.name!r}: {len(self.names)} names, {len(self.colors)} colours'
            )

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def palette(self) -> np.ndarray:
        """(256, 3) uint8 RGB look-up table; ids outside the set are black."""
        table = np.zeros((256, 3), np.uint8)
        table[: len(self.colors)] = self.colors
        return table


CITYSCAPES = ClassSet(
    'cityscapes',
    (
        'road', 'sidewalk', 'building', 'wall', 'fence', 'pole', 'traffic light', 'traffic sign',
        'vegetation', 'terrain', 'sky', 'person', 'rider', 'car', 'truck', 'bus', 'train',
        'motorcycle', 'bicycle',
    ),
    (
        (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153),
        (153, 153, 153), (250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152),
        (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142), (0, 0, 70), (0, 60, 100),
        (0, 80, 100), (0, 0, 230), (119, 11, 32),
    ),
)  # fmt: skip
"""The 19 evaluation classes of Cityscapes (Cordts et al. 2016); ids are Cityscapes' trainIds."""

CAMVID = ClassSet(
    'camvid',
    (
        'sky', 'building', 'pole', 'road', 'pavement', 'tree', 'sign', 'fence', 'car',
        'pedestrian', 'bicyclist',
    ),
    (
        (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222),
        (128, 128, 0), (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
    ),
)  # fmt: skip
"""The 11 classes of the CamVid subset by Badrinarayanan et al. (SegNet); id 11 there is void."""
