# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a lidar encoder is: the interface that each file in this folder follows."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clcp_ros.errors import ModelError
from training.models.image_encoder import read_weights
from training.models.minkunet_layouts import compare_states

LidarSample = dict[str, np.ndarray]
LidarBatch = dict[str, Tensor]

_Settings = TypeVar('_Settings')


@dataclasses.dataclass(frozen=True)
class LidarOptions:
    """What can be asked of any lidar encoder.

    Attributes:
        weights: File of weights to start from.
        frozen: Keep weights and BatchNorm statistics as loaded, in every mode.
        precision: What a frozen encoder computes in: float32 or bfloat16.
        sparse_backend: Of encoders with sparse convolutions: auto, torch, torchsparse or spconv.
        checkpoint_activations: Save memory in training by computing parts twice.
    """

    weights: str | Path | None = None
    frozen: bool = False
    precision: Literal['float32', 'bfloat16'] = 'float32'
    sparse_backend: Literal['auto', 'torch', 'torchsparse', 'spconv'] = 'auto'
    checkpoint_activations: bool = False

    def check(self, sparse: bool = False) -> None:
        """Raise ModelError for options that exclude each other or mean nothing.

        Args:
            sparse: Whether the encoder has sparse convolutions.
        """
        if not sparse and self.sparse_backend != 'auto':
            raise ModelError('sparse_backend means nothing to an encoder without sparse layers')
        if self.precision == 'bfloat16' and not self.frozen:
            raise ModelError(
                'bfloat16 weights are for frozen lidar encoders; train with a mixed precision'
            )


class LidarFeatures(NamedTuple):
    """Features of a batch of scans.

    Attributes:
        tokens: (T, D) features of the encoder's own units: voxels, pillars, patches.
        token_sample: (T,) int64 sample of each token, ascending.
        pooled: (B, D) one embedding per sample: the mean of its tokens, or what the encoder has
            for it (a class token); zeros for a sample without points.
        points: (P, D) features of all points, scan after scan, in the order they were given; zeros
            for points that the encoder did not see. None unless they were asked for.
        point_sample: (P,) int64 sample of each point.
        point_seen: (P,) bool: whether the point lies within what the encoder sees. None unless
            points were asked for.
    """

    tokens: Tensor
    token_sample: Tensor
    pooled: Tensor
    points: Tensor | None
    point_sample: Tensor
    point_seen: Tensor | None


class Preparation(Protocol):
    """From points to what an encoder reads: numpy only, to be used in a loader's workers.

    It is pickled to the workers, so it holds settings and no weights.
    """

    def __call__(self, points: np.ndarray) -> LidarSample:
        """Prepare one scan.

        Args:
            points: (N, 4) float32: x, y, z in metres, intensity in [0, 1]; finite; N may be 0.

        Returns:
            Arrays by name.
        """

    def collate(self, samples: Sequence[LidarSample]) -> LidarBatch:
        """Join prepared scans.

        Args:
            samples: From `__call__`; at least one.

        Returns:
            Tensors by name; `point_count` (B,) int64 is among them.
        """


class LidarEncoder(nn.Module, abc.ABC):
    """A network from scans to features.

    A frozen encoder is in evaluation and without gradients in every mode.

    Attributes:
        architecture: Its name.
        embed_dim: Channels of its features.
        frozen: Whether weights and BatchNorm statistics stay as they are.
        preparation: What makes its input of points.
        weights_prefix: What the names in its state dict begin with, and those in files of weights
            do not.
    """

    weights_prefix: str = ''
    architecture: str
    embed_dim: int
    preparation: Preparation
    frozen: bool = False

    @abc.abstractmethod
    def encode(self, batch: LidarBatch, per_point: bool = False) -> LidarFeatures:
        """Compute features.

        Args:
            batch: From `preparation.collate`, on the encoder's device.
            per_point: Also give features per point.

        Returns:
            The features.
        """

    def forward(self, batch: LidarBatch, per_point: bool = False) -> LidarFeatures:
        """`encode`, without gradients where the encoder is frozen."""
        if not self.frozen:
            return self.encode(batch, per_point)
        with torch.no_grad():
            return self.encode(batch, per_point)

    def freeze(self) -> LidarEncoder:
        """Keep weights and BatchNorm statistics as they are from now on."""
        self.frozen = True
        self.requires_grad_(False)
        return self.train(False)

    def train(self, mode: bool = True) -> LidarEncoder:
        """Set the mode; a frozen encoder stays in evaluation, BatchNorm included."""
        return super().train(mode and not self.frozen)


class LidarFamily(Protocol):
    """Encoders of one kind, found by its place in this folder as `FAMILY` of its module.

    Attributes:
        name: Of the family.
        architectures: Names of its encoders, at least the usual ones, for messages.
    """

    name: str
    architectures: tuple[str, ...]

    def knows(self, architecture: str) -> bool:
        """Whether `create` makes an encoder of that name."""

    def create(
        self, architecture: str, options: LidarOptions, settings: Mapping[str, Any]
    ) -> LidarEncoder:
        """Create an encoder.

        Raises:
            ModelError: A setting does not exist, or weights do not fit.
        """


def make_settings(kind: type[_Settings], values: Mapping[str, Any]) -> _Settings:
    """Fill a family's dataclass of settings.

    Args:
        kind: The dataclass.
        values: By name; what is not named keeps its default.

    Raises:
        ModelError: There is no such setting, or its value is of no use.
    """
    fields = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
    unknown = [name for name in values if name not in fields]
    if unknown:
        raise ModelError(
            f'{kind.__name__} has no {", ".join(unknown)}; there are {", ".join(fields)}'
        )
    return kind(**values)


def check_points(points: np.ndarray) -> np.ndarray:
    """The columns that encoders read.

    Args:
        points: (N, >=4): x, y, z, intensity; N may be 0.

    Returns:
        (N, 4) float32.

    Raises:
        ModelError: Another shape, or values that are not finite.
    """
    if points.ndim != 2 or points.shape[1] < 4:
        raise ModelError(f'points are (N, 4): x, y, z, intensity; got {tuple(points.shape)}')
    points = np.ascontiguousarray(points[:, :4], np.float32)
    if not np.isfinite(points).all():
        raise ModelError('points with NaN or infinite values; drop them first')
    return points


def samples_of(counts: Tensor) -> Tensor:
    """The sample of each of the rows that lie one sample after the other.

    Args:
        counts: (B,) int64 rows per sample.

    Returns:
        (sum of counts,) int64.
    """
    return torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)


def mean_per_sample(rows: Tensor, sample: Tensor, batch_size: int) -> Tensor:
    """Average rows over each sample.

    Args:
        rows: (T, D).
        sample: (T,) int64.
        batch_size: Number of samples.

    Returns:
        (batch_size, D); zeros for a sample without rows.
    """
    total = rows.new_zeros((batch_size, rows.shape[1])).index_add(0, sample, rows)
    count = torch.bincount(sample, minlength=batch_size).clamp_(min=1)
    return total / count[:, None].to(total.dtype)


def sample_maps(maps: Tensor, xy: Tensor, counts: Tensor) -> Tensor:
    """Interpolate maps bilinearly at places in them; beyond the border, what is at the border.

    Args:
        maps: (B, D, H, W).
        xy: (P, 2) places, sample after sample: column and row in [0, 1], 0 and 1 being the outer
            edges of the first and last cells.
        counts: (B,) int64 places per sample.

    Returns:
        (P, D).
    """
    parts = []
    for one, places in zip(maps, xy.split(counts.tolist()), strict=True):
        grid = (2 * places.to(maps.dtype) - 1)[None, None]
        values = F.grid_sample(
            one[None], grid, 'bilinear', padding_mode='border', align_corners=False
        )
        parts.append(values[0, :, 0].T)
    return torch.cat(parts)


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Load a file of weights strictly.

    Args:
        network: What to load into.
        path: `.safetensors`, or a state dict in `.pth`.

    Raises:
        ModelError: The file is unreadable, or its names or shapes are others.
    """
    state, _ = read_weights(Path(path))
    if difference := compare_states(state, network.state_dict()):
        raise ModelError(f'{path} does not fit {type(network).__name__}: {difference}')
    network.load_state_dict(state)
