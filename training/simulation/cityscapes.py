# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Writes labelled frames in the layout of Cityscapes (Cordts et al. 2016)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from clcp_ros.image_codec import encode_png
from training.simulation.config import CONDITIONS, SimulationConfig
from training.simulation.frame import Frame
from training.simulation.recording import Files, Recording, Shot, json_bytes, spread

LABEL_IDS = np.zeros(256, np.uint8)
"""trainId to Cityscapes' label id; 0 is unlabelled."""
LABEL_IDS[:19] = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)

TRAIN_TOWNS = (1, 2, 6)
"""Several, so that what differs between towns can be told from what differs between conditions."""

TRAIN_ROADS = (4, 5)
"""A country road and a motorway, with half as many frames each: classes stay as frequent as in
Cityscapes, which knows cities only."""

VAL_TOWN = 3

SPAN = 48.0
"""Seconds of the drive over which the frames are spread."""


@dataclass(frozen=True)
class Part:
    """Frames of one town; a town belongs to one split.

    Attributes:
        split: Name of the split.
        town: Number of the town.
        count: Moments.
        conditions: Each moment is shown in all of them.
    """

    split: str
    town: int
    count: int
    conditions: tuple[str, ...]


class Cityscapes(Recording):
    """Labelled frames: by default five places in clear weather to train, town 3 in all to test.

    The test cities show the same moments: a difference between them is the condition's.

    Args:
        path: Of the folder, relative to the output.
        parts: Towns and splits; those of the default data set when left out.
        span: Seconds of a drive that its frames are spread over.
    """

    with_lidar = False

    def __init__(
        self, path: str = 'cityscapes', parts: tuple[Part, ...] = (), span: float = SPAN
    ) -> None:
        self.path = path
        self.parts = parts
        self.span = span
        self._splits = {part.town: part.split for part in parts}

    def settings(self) -> dict[str, Any]:
        """See `Recording.settings`."""
        # Through JSON, as it comes back from the marker: tuples become lists.
        parts: list[Any] = json.loads(json.dumps([asdict(part) for part in self.parts]))
        return {'parts': parts, 'span': self.span}

    def shots(self, config: SimulationConfig) -> list[Shot]:
        """See `Recording.shots`."""
        default = [Part('train', town, config.train_frames, ('clear',)) for town in TRAIN_TOWNS]
        half = (config.train_frames + 1) // 2
        default += [Part('train', road, half, ('clear',)) for road in TRAIN_ROADS]
        default.append(Part('val', VAL_TOWN, config.val_frames, CONDITIONS))
        return [
            shot
            for part in self.parts or default
            for shot in spread(part.town, part.count, part.conditions, self.span)
        ]

    def split(self, shot: Shot) -> str:
        """The split that a moment belongs to."""
        return self._splits.get(shot.town, 'val' if shot.town == VAL_TOWN else 'train')

    def name(self, shot: Shot, condition: str) -> str:
        """See `Recording.name`."""
        city = f'town{shot.town:02d}-{condition}'
        return f'{self.split(shot)}/{city}/{city}_000000_{shot.index:06d}'

    def encode(self, config: SimulationConfig, shot: Shot, frame: Frame) -> Files:
        """See `Recording.encode`."""
        stem = self.name(shot, frame.condition.name)
        return [
            (f'leftImg8bit/{stem}_leftImg8bit.png', encode_png(frame.image)),
            (f'gtFine/{stem}_gtFine_labelIds.png', encode_png(LABEL_IDS[frame.labels])),
            (f'camera/{stem}_camera.json', camera_json(frame)),
            (f'timestamp/{stem}_timestamp.txt', f'{shot.stamp_ns}\n'.encode()),
        ]


def camera_json(frame: Frame) -> bytes:
    """Cityscapes' camera file: the camera in the vehicle frame (x forward, y left, z up).

    Args:
        frame: Of which the main camera is described.
    """
    K, camera = frame.camera.K, frame.camera
    x, y, z = camera.position
    roll, pitch, yaw = getattr(camera, 'rotation', (0.0, 0.0, 0.0))
    return json_bytes(
        {
            'extrinsic': {
                'baseline': 0.0, 'x': x, 'y': y, 'z': z, 'roll': roll, 'pitch': pitch, 'yaw': yaw,
            },
            'intrinsic': {'fx': K[0, 0], 'fy': K[1, 1], 'u0': K[0, 2], 'v0': K[1, 2]},
        }
    )  # fmt: skip
