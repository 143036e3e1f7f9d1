# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What goes on of pretraining while a segmentation head learns.

Labels of the clear day alone let an encoder forget what it knew of the night. Here its tokens go
on answering for the lidar's measurements, on unlabelled pairs of all conditions, as they did in
the pretraining run whose heads are taken up again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn
from torch.utils.data import Dataset, Sampler

from clcp_ros.bundle import sha256_of
from clcp_ros.errors import ModelError
from training.loop import SETTINGS, StepBatches
from training.methods import load_method
from training.methods.base import EMBEDDING, IMAGE_ENCODER, Method
from training.models.image_encoder import ImageEncoder
from training.pairs.pair_set import PairSet
from training.segmentation.batches import Batch, Sample, collate

Key = tuple[int, int]


@dataclass(frozen=True)
class KeepConfig:
    """What goes on of pretraining.

    Attributes:
        run: Folder of the pretraining run that the encoder comes from; none for nothing.
        pairs: Its pair set, where that is no longer where the run found it.
        weight: Of the method's loss beside that of the labels.
        batch_size: Pairs per step, of all processes together.
    """

    run: Path | None = None
    pairs: Path | None = None
    weight: float = 0.2
    batch_size: int = 8

    def check(self) -> None:
        """Raise ModelError for values that make no sense."""
        if not 0 < self.weight < math.inf:
            raise ModelError(f'keep.weight must be a positive number, not {self.weight:g}')
        if self.batch_size < 1:
            raise ModelError(f'keep.batch_size must be at least 1, not {self.batch_size}')
        if self.run is None and self.pairs is not None:
            raise ModelError('--keep.pairs are those of a run: give --keep.run, too')

    @property
    def encoder(self) -> str:
        """The file of the run's image encoder."""
        assert self.run is not None
        return str(self.run / IMAGE_ENCODER)

    def describe(self) -> dict[str, Any] | None:
        """What the result depends on, JSON-serialisable; None where nothing goes on."""
        if self.run is None:
            return None
        return {
            'weight': self.weight, 'batch_size': self.batch_size, 'pairs': str(self.pairs),
            'run': [sha256_of(self.run / name) for name in (EMBEDDING, IMAGE_ENCODER)],
        }  # fmt: skip


class KeptBatch(NamedTuple):
    """A step's labelled frames, and the pairs beside them.

    Attributes:
        frames: The frames.
        pairs: What the method embeds.
    """

    frames: Batch
    pairs: dict[str, Any]


class _Tagged(NamedTuple):
    of_pairs: bool
    key: Key


class KeptBatches(Sampler[list[_Tagged]]):
    """The frames and the pairs of each step, as one batch that the loader's workers read.

    Args:
        frames: Batches of frames.
        pairs: Batches of pairs, of as many steps.
    """

    def __init__(self, frames: StepBatches, pairs: StepBatches) -> None:
        self.frames, self.pairs = frames, pairs

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def start(self) -> int:
        """Step to start at, for resuming."""
        return self.frames.start

    @start.setter
    def start(self, step: int) -> None:
        self.frames.start = self.pairs.start = step

    def divide(self, rank: int, world_size: int) -> None:
        """Take one rank's share of both.

        Args:
            rank: This process.
            world_size: Number of processes.

        Raises:
            ModelError: A batch size is no multiple of the number of processes.
        """
        self.frames.divide(rank, world_size)
        self.pairs.divide(rank, world_size)

    def __iter__(self) -> Iterator[list[_Tagged]]:
        for frames, pairs in zip(self.frames, self.pairs, strict=True):
            yield [*(_Tagged(False, k) for k in frames), *(_Tagged(True, k) for k in pairs)]


class KeptSamples(Dataset[Any]):
    """Frames and pairs, by what `KeptBatches` asks for.

    Args:
        frames: The frames.
        pairs: Samples of the pair set.
    """

    def __init__(self, frames: Dataset[Any], pairs: Dataset[Any]) -> None:
        self.frames, self.pairs = frames, pairs

    def __getitem__(self, item: _Tagged) -> Any:
        return self.pairs[item.key] if item.of_pairs else self.frames[item.key]


@dataclass
class Kept:
    """A method that goes on.

    Attributes:
        method: Its image encoder is the segmentation model's own.
        pairs: Samples of its pair set, asked for by (position, seed).
        positions: Of its training pairs.
        config: What was asked for.
    """

    method: Method
    pairs: Dataset[Any]
    positions: Any
    config: KeepConfig

    @property
    def collate(self) -> Callable[[list[Any]], KeptBatch]:
        """What joins the samples of a step; it holds no weights."""
        return partial(_collate, self.method.collate)

    def batches(self, frames: StepBatches, seed: int) -> KeptBatches:
        """The batches of a run.

        Args:
            frames: Those of its frames.
            seed: Of the run.
        """
        size = self.config.batch_size
        # Another stream of random numbers than the frames'.
        pairs = StepBatches(self.positions, size, frames.max_steps, seed + 2**31)
        return KeptBatches(frames, pairs)


def open_kept(config: KeepConfig, encoder: ImageEncoder) -> Kept:
    """Take a method up again.

    Args:
        config: With a run.
        encoder: Of the segmentation model; it becomes the method's.

    Raises:
        ModelError: The run or its pairs are missing, or the encoder is of another network.
        PairSetError: The pair set is damaged.
    """
    assert config.run is not None
    config.check()
    method = load_method(config.run)
    if method.image_encoder.architecture != encoder.architecture:
        raise ModelError(
            f'{config.run} pretrained a {method.image_encoder.architecture}, not a '
            f'{encoder.architecture}: nothing of it can go on'
        )
    size = method.setup_.views.image_size
    encoder.check_size(size, size)
    method.image_encoder = encoder
    folder = config.pairs or _pairs_of(config.run)
    pairs = PairSet(folder)
    positions = pairs.rows(split='train')
    if not len(positions):
        raise ModelError(f'{folder} has no training pairs')
    return Kept(method.train(), method.samples(pairs, train=True), positions, config)


def heads_of(method: Method) -> nn.Module:
    """What a method trains beside the image encoder, as a module of its own.

    Args:
        method: The method.
    """
    heads = nn.Module()
    for name, module in method.named_children():
        if module is not method.image_encoder:
            heads.add_module(name, module)
    for name, parameter in method.named_parameters(recurse=False):
        heads.register_parameter(name, parameter)
    return heads


def _pairs_of(run: Path) -> Path:
    try:
        return Path(json.loads((run / SETTINGS).read_text())['pairs'])
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f'{run / SETTINGS} does not say which pairs ({error}); give --keep.pairs'
        ) from None


def _collate(join: Callable[[list[Any]], dict[str, Any]], samples: list[Any]) -> KeptBatch:
    frames = [s for s in samples if isinstance(s, Sample)]
    return KeptBatch(collate(frames), join([s for s in samples if not isinstance(s, Sample)]))
