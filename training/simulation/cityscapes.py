# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Writes labelled frames in the layout of Cityscapes (Cordts et al. 2016)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from clcp_ros.image_codec import encode_png
from training.simulation.config import CONDITIONS, EPOCH_NS, SimulationConfig
from training.simulation.frame import Frame
from training.simulation.recording import Recording, Shot

LABEL_IDS = np.zeros(256, np.uint8)
"""trainId to Cityscapes' label id; 0 is unlabelled."""
LABEL_IDS[:19] = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)

TRAIN_TOWNS = (1, 2, 4, 5)
"""Several, so that what differs between towns can be told from what differs between conditions."""

SPAN = 48.0
"""Seconds of the drive over which the frames are spread."""


class Cityscapes(Recording[list[tuple[str, bytes]]]):
    """Labelled frames: four towns in clear weather to train, town 3 in every condition to test.

    The test cities show the same moments: a difference between them is the condition's.
    """

    path = 'cityscapes'
    with_lidar = False

    def shots(self, config: SimulationConfig) -> list[Shot]:
        """See `Recording.shots`."""
        train = [s for town in TRAIN_TOWNS for s in _spread(town, config.train_frames, ('clear',))]
        return train + _spread(3, config.val_frames, CONDITIONS)

    def encode(
        self, config: SimulationConfig, shot: Shot, frame: Frame
    ) -> list[tuple[str, bytes]]:
        """See `Recording.encode`."""
        split = 'val' if shot.town == 3 else 'train'
        city = f'town{shot.town:02d}-{frame.condition.name}'
        stem = f'{split}/{city}/{city}_000000_{shot.index:06d}'
        return [
            (f'leftImg8bit/{stem}_leftImg8bit.png', encode_png(frame.image)),
            (f'gtFine/{stem}_gtFine_labelIds.png', encode_png(LABEL_IDS[frame.labels])),
        ]

    def write(
        self, folder: Path, config: SimulationConfig, frames: Iterator[list[tuple[str, bytes]]]
    ) -> None:
        """See `Recording.write`."""
        for files in frames:
            for name, data in files:
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)


def _spread(town: int, count: int, conditions: tuple[str, ...]) -> list[Shot]:
    shots = []
    for i in range(count):
        # Half a step in: the frames must not repeat those of the recordings' first seconds.
        time = (i + 0.5) * SPAN / count
        shots.append(Shot(town, time, conditions, i, EPOCH_NS + round(time * 1e9)))
    return shots
