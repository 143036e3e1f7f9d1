# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Training batches of augmented frames."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from clcp_ros.bundle import InputSpec
from clcp_ros.inference import preprocess
from training.loop import RunData
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


class ValidationFrames(Dataset[Sample]):
    """Frames as evaluation sees them: resized to the input size, with labels of their own size.

    Args:
        frames: The frames.
        input_size: (height, width) that the network sees on the robot.
        mean: Of the normalisation.
        std: Of the normalisation.
    """

    def __init__(
        self,
        frames: FrameSet,
        input_size: tuple[int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        self.frames = replace(frames, labels=LabelReader(frames.labels.ids))
        self.spec = InputSpec(
            *input_size, (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, position: int) -> Sample:
        image, label = self.frames.read(self.frames.frames[position])
        return Sample(preprocess(image, self.spec), label, self.frames.labels.take())


class SegmentationData(RunData):
    """The loaders of a finetuning run.

    Attributes:
        validation: Frames to validate on; none for no validation.
    """

    validation: ValidationFrames | None = None

    def val_dataloader(self) -> DataLoader[Any]:
        """One frame at a time, since labels may differ in size; this rank's part of them."""
        assert self.trainer is not None
        assert self.validation is not None
        rank, ranks = self.trainer.global_rank, self.trainer.world_size
        positions = range(rank, len(self.validation), ranks)
        return DataLoader(
            self.validation, batch_size=1, collate_fn=collate, sampler=positions,
            num_workers=self.workers,
        )  # fmt: skip


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
