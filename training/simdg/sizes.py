# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The sizes of the benchmark: how much is simulated, and how a network is finetuned on it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from training.segmentation.task import OptimizerConfig
from training.segmentation.transforms import AugmentationConfig
from training.simulation.config import CONDITIONS, CameraConfig, SimulationConfig
from training.simulation.sensors import NOSE_DOWN

SOURCE = 'clear'
"""The only condition with labels to train on."""

ADVERSE = tuple(c for c in CONDITIONS if c != SOURCE)
"""What the trained network meets only in the test."""


@dataclass(frozen=True)
class Size:
    """A size of the benchmark.

    Attributes:
        name: `tiny`, `small` or `base`.
        simulation: Sensors and severity.
        train_towns: Where the vehicle drove: labelled frames in clear weather, and unlabelled
            pairs in every condition.
        val_towns: Unseen towns to develop on, the same poses in every condition.
        test_towns: Unseen towns for the result, the same poses in every condition.
        train_frames: Labelled frames per town.
        val_frames: Poses per town.
        test_frames: Poses per town.
        pair_frames: Unlabelled pairs per town and condition.
        architecture: timm's name of the network that is trained from nothing.
        training: Arguments of `finetune`.
        seeds: Of the trainings.
    """

    name: str
    simulation: SimulationConfig
    train_towns: tuple[int, ...]
    val_towns: tuple[int, ...]
    test_towns: tuple[int, ...]
    train_frames: int
    val_frames: int
    test_frames: int
    pair_frames: int
    architecture: str
    training: dict[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)


def _camera(width: int, height: int) -> tuple[CameraConfig, ...]:
    """A camera with about Cityscapes' field of view: what is thin is not lost in few pixels."""
    return (CameraConfig(width, height, math.radians(50), rotation=(0.0, NOSE_DOWN, 0.0)),)


SEVERITIES = (
    ('low_sun', 0.8), ('dusk', 0.8), ('night', 0.7), ('fog', 0.55), ('rain', 0.25),
    ('snow', 0.25),
)  # fmt: skip
"""Chosen so that a network from nothing keeps about what published ones keep from Cityscapes to
ACDC, night least: 1 km of visibility, 2.5 mm/h of rain, 1 mm/h of water as snow. In the weather
that is `simulate`'s default it keeps too little for anything to be told from."""


# Of the numbers of towns every fifth is a country road and every fifth a motorway: 4 and 5, 14,
# 24 and 25. Each split has some.
SIZES: dict[str, Size] = {
    size.name: size
    for size in (
        Size(
            'tiny',
            SimulationConfig(
                seed=1, rate_hz=1, beams=16, columns=120, camera_configs=_camera(96, 64),
                severities=SEVERITIES,
            ),
            train_towns=(1, 2),
            val_towns=(11,),
            test_towns=(21,),
            train_frames=4,
            val_frames=1,
            test_frames=2,
            pair_frames=2,
            architecture='test_efficientnet',
            training={
                'input_size': (64, 96), 'max_steps': 10, 'batch_size': 4,
                'augmentation': AugmentationConfig(crop=None, scale=(1.0, 1.5)),
                'optimizer': OptimizerConfig(lr=3e-3, warmup=2),
            },
        ),
        Size(
            'small',
            SimulationConfig(
                seed=1, rate_hz=1, camera_configs=_camera(480, 300), severities=SEVERITIES
            ),
            train_towns=(1, 2, 3, 4, 5, 6),
            val_towns=(11, 14),
            test_towns=(21, 22, 24, 25),
            train_frames=50,
            val_frames=5,
            test_frames=8,
            pair_frames=20,
            architecture='mobilenetv4_conv_small',
            training={
                'input_size': (400, 640), 'max_steps': 1200, 'batch_size': 8,
                'checkpoint_every': 150, 'balance': 0.5,
                'augmentation': AugmentationConfig(crop=(192, 256), scale=(0.75, 1.5)),
                'optimizer': OptimizerConfig(lr=2e-3, warmup=100),
            },
        ),
        Size(
            'base',
            SimulationConfig(
                seed=1, rate_hz=1, beams=64, columns=1024, camera_configs=_camera(960, 600),
                severities=SEVERITIES,
            ),
            train_towns=tuple(range(1, 11)),
            val_towns=(11, 12, 14),
            test_towns=(21, 22, 23, 24, 25),
            train_frames=100,
            val_frames=8,
            test_frames=12,
            pair_frames=30,
            architecture='resnet26t',
            training={
                'input_size': (608, 960), 'max_steps': 6000, 'batch_size': 16, 'workers': 12,
                'precision': 'bf16-mixed', 'checkpoint_every': 500, 'balance': 0.5,
                'augmentation': AugmentationConfig(crop=(384, 512), scale=(0.75, 2.0)),
                'optimizer': OptimizerConfig(lr=1e-3, warmup=300, weight_decay=0.05),
            },
        ),
    )
}  # fmt: skip
