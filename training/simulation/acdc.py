# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Writes labelled frames in the layout of ACDC (Sakaridis et al. 2021).

Real ACDC shows other places in each condition, and a reference picture taken nearby; here all
conditions show the same moments, and the clear counterparts are of exactly the same poses.
"""

from __future__ import annotations

from clcp_ros.classes import CITYSCAPES
from clcp_ros.image_codec import encode_png
from training.simulation.cityscapes import LABEL_IDS, SPAN
from training.simulation.config import SimulationConfig
from training.simulation.frame import Frame
from training.simulation.recording import Files, Recording, Shot, spread

ADVERSE = ('fog', 'night', 'rain', 'snow')
"""ACDC's conditions."""

TRAIN_TOWNS, VAL_TOWNS = (1, 2), (3,)


class Acdc(Recording):
    """Two towns to train, one to validate; each moment in four conditions and in clear weather."""

    path = 'acdc'
    with_lidar = False

    def shots(self, config: SimulationConfig) -> list[Shot]:
        """See `Recording.shots`."""
        conditions = ('clear', *ADVERSE)
        counts = dict.fromkeys(TRAIN_TOWNS, config.train_frames)
        counts |= dict.fromkeys(VAL_TOWNS, config.val_frames)
        return [s for t, n in counts.items() for s in spread(t, n, conditions, SPAN)]

    def name(self, shot: Shot, condition: str) -> str:
        """See `Recording.name`; a clear frame is the counterpart in all four conditions."""
        split = 'val' if shot.town in VAL_TOWNS else 'train'
        folder = f'*/{split}_ref' if condition == 'clear' else f'{condition}/{split}'
        return f'{folder}/{self.stem(shot)}'

    def stem(self, shot: Shot) -> str:
        """Sequence, and name of the frame without suffix."""
        sequence = f'town{shot.town:02d}'
        return f'{sequence}/{sequence}_frame_{shot.index:06d}'

    def encode(self, config: SimulationConfig, shot: Shot, frame: Frame) -> Files:
        """See `Recording.encode`."""
        condition = frame.condition.name
        name = self.name(shot, condition)
        ref = '_ref' if condition == 'clear' else ''
        image = encode_png(frame.image)
        labels = {
            'labelTrainIds': encode_png(frame.labels),
            'labelIds': encode_png(LABEL_IDS[frame.labels]),
            'labelColor': encode_png(CITYSCAPES.palette[frame.labels]),
        }
        files: Files = []
        for folder in ADVERSE if ref else (condition,):
            place = name.replace('*', folder)
            files.append((f'rgb_anon/{place}_rgb{ref}_anon.png', image))
            files += [(f'gt/{place}_gt{ref}_{kind}.png', png) for kind, png in labels.items()]
        return files
