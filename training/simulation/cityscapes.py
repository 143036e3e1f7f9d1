# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Writes labelled frames in the layout of Cityscapes (Cordts et al. 2016)."""

from __future__ import annotations

import numpy as np

from clcp_ros.image_codec import encode_png
from training.simulation.config import CONDITIONS, SimulationConfig
from training.simulation.frame import Frame
from training.simulation.recording import Files, Recording, Shot, json_bytes, spread

LABEL_IDS = np.zeros(256, np.uint8)
"""trainId to Cityscapes' label id; 0 is unlabelled."""
LABEL_IDS[:19] = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)

TRAIN_TOWNS = (1, 2, 4, 5)
"""Several, so that what differs between towns can be told from what differs between conditions."""

SPAN = 48.0
"""Seconds of the drive over which the frames are spread."""


class Cityscapes(Recording):
    """Labelled frames: four towns in clear weather to train, town 3 in every condition to test.

    The test cities show the same moments: a difference between them is the condition's.
    """

    path = 'cityscapes'
    with_lidar = False

    def shots(self, config: SimulationConfig) -> list[Shot]:
        """See `Recording.shots`."""
        train = [
            shot
            for town in TRAIN_TOWNS
            for shot in spread(town, config.train_frames, ('clear',), SPAN)
        ]
        return train + spread(3, config.val_frames, CONDITIONS, SPAN)

    def split(self, shot: Shot) -> str:
        """The split that a moment belongs to."""
        return 'val' if shot.town == 3 else 'train'

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
