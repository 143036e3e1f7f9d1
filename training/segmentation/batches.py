# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Training batches of augmented frames."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from clcp_ros.bundle import InputSpec
from clcp_ros.inference import preprocess
from training.segmentation.frames import FrameSet
from training.segmentation.labels import LabelReader
from training.segmentation.transforms import AugmentationConfig, augment


class Sample(NamedTuple):
    """One augmented frame.

    Attributes:
        image: (3, h, w) float32, normalised.
        label: (h, w) uint8, 255 is unlabelled.
        outside: What `LabelReader.take` gives after reading it.
    """

    image: np.ndarray
    label: np.ndarray
    outside: dict[str, dict[int, int]]


class Batch(NamedTuple):
    """One training batch.

    Attributes:
        images: (B, 3, h, w) float32.
        labels: (B, h, w) int64.
        outside: Pixels by id outside the class set, by label file.
    """

    images: Tensor
    labels: Tensor
    outside: dict[str, dict[int, int]]


class AugmentedFrames(Dataset[Sample]):
    """Frames by (position, seed).

    Args:
        frames: Where frames are drawn from.
        input_size: (height, width) that the network sees on the robot.
        augmentation: What is done to them.
        mean: Of the normalisation.
        std: Of the normalisation.
    """

    def __init__(
        self,
        frames: FrameSet,
        input_size: tuple[int, int],
        augmentation: AugmentationConfig,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        # Its own reader: what it counts travels with the sample, also out of another process.
        self.frames = replace(frames, labels=LabelReader(frames.labels.ids))
        self.input_size = input_size
        self.augmentation = augmentation
        height, width = augmentation.crop or input_size
        self.spec = InputSpec(
            height, width, (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])
        )  # fmt: skip

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        position, seed = key
        image, label = self.frames.read(self.frames.frames[position])
        outside = self.frames.labels.take()
        image, label = augment(
            image, label, self.input_size, self.augmentation, np.random.default_rng(seed)
        )
        return Sample(preprocess(image, self.spec), label, outside)


def collate(samples: list[Sample]) -> Batch:
    """Stack samples.

    Args:
        samples: B samples of one size.
    """
    return Batch(
        torch.from_numpy(np.stack([s.image for s in samples])),
        torch.from_numpy(np.stack([s.label for s in samples]).astype(np.int64)),
        {path: counts for s in samples for path, counts in s.outside.items()},
    )
