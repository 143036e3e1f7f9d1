# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""MinkUNet: a residual U-Net on sparse voxels (Choy et al. 2019, arXiv 1904.08755).

Widths, order of layers and parameter names are those of MMDetection3D's torchsparse backbone, so
that its checkpoints load strictly (without their `backbone.` prefix).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from clcp_ros.errors import ModelError
from training.models.image_encoder import read_weights
from training.sparse import KernelMap, SparseConv, SparseGrid


class MinkUNetWidths(NamedTuple):
    """Channels and depths.

    Attributes:
        base: Channels of the stem.
        encoder: Channels of the four encoder stages.
        decoder: Channels of the four decoder stages; the last one is the output.
        encoder_blocks: Residual blocks per encoder stage.
        decoder_blocks: Residual blocks per decoder stage.
    """

    base: int
    encoder: tuple[int, int, int, int]
    decoder: tuple[int, int, int, int]
    encoder_blocks: tuple[int, int, int, int]
    decoder_blocks: tuple[int, int, int, int]


ARCHITECTURES: dict[str, MinkUNetWidths] = {
    'minkunet34_w32': MinkUNetWidths(
        32, (32, 64, 128, 256), (256, 128, 96, 96), (2, 3, 4, 6), (2, 2, 2, 2)
    ),
    'minkunet18_w32': MinkUNetWidths(
        32, (32, 64, 128, 256), (256, 128, 96, 96), (2, 2, 2, 2), (2, 2, 2, 2)
    ),
    # Not published: small enough to learn something on a CPU in two minutes.
    'minkunet_tiny': MinkUNetWidths(
        16, (16, 32, 64, 96), (96, 64, 48, 48), (1, 1, 1, 1), (1, 1, 1, 1)
    ),
}  # fmt: skip


class _BatchNorm(nn.BatchNorm1d):
    """Statistics of a single row do not exist: such a batch is normalised as in evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) < 2:
            return nn.functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, False, 0, self.eps
            )
        return super().forward(x)


class _ConvBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int, volume: int) -> None:
        super().__init__()
        self.net = nn.Sequential(SparseConv(c_in, c_out, volume), _BatchNorm(c_out), nn.ReLU())

    def forward(self, x: Tensor, pairs: KernelMap) -> Tensor:
        return self.net[2](self.net[1](self.net[0](x, pairs)))


class _ResidualBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            SparseConv(c_in, c_out, 27), _BatchNorm(c_out), nn.ReLU(),
            SparseConv(c_out, c_out, 27), _BatchNorm(c_out),
        )  # fmt: skip
        self.downsample: nn.Module | None = None
        if c_in != c_out:
            self.downsample = nn.Sequential(SparseConv(c_in, c_out, 1), _BatchNorm(c_out))

    def forward(self, x: Tensor, pairs: KernelMap) -> Tensor:
        conv1, norm1, relu, conv2, norm2 = self.net
        y = norm2(conv2(relu(norm1(conv1(x, pairs))), pairs))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class MinkUNet(nn.Module):
    """Sparse residual U-Net with four levels.

    Args:
        architecture: A key of `ARCHITECTURES`.
        in_channels: Channels of the input: x, y, z (metres) and intensity in [0, 1].
        weights: A `.safetensors` file, or a state dict in `.pth`, of the backbone.
        frozen: Keep weights and BatchNorm statistics as they are, in every mode.

    Raises:
        ModelError: Unknown architecture or weights that do not fit.
    """

    def __init__(
        self,
        architecture: str = 'minkunet34_w32',
        in_channels: int = 4,
        weights: str | os.PathLike[str] | None = None,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        if architecture not in ARCHITECTURES:
            raise ModelError(
                f'unknown lidar encoder {architecture!r}; known: {", ".join(ARCHITECTURES)}'
            )
        self.architecture = architecture
        self.frozen = frozen
        w = ARCHITECTURES[architecture]
        self.embed_dim = w.decoder[-1]
        self.conv_input = nn.ModuleList(
            [_ConvBlock(in_channels, w.base, 27), _ConvBlock(w.base, w.base, 27)]
        )
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        c, laterals = w.base, [w.base]
        for c_out, blocks in zip(w.encoder, w.encoder_blocks, strict=True):
            stage = [
                _ConvBlock(c, c, 8),
                *(_ResidualBlock(c if j == 0 else c_out, c_out) for j in range(blocks)),
            ]
            self.encoder.append(nn.ModuleList(stage))
            c = c_out
            laterals.append(c)
        for i, (c_out, blocks) in enumerate(zip(w.decoder, w.decoder_blocks, strict=True)):
            joined = c_out + laterals[-2 - i]
            residual = (_ResidualBlock(joined if j == 0 else c_out, c_out) for j in range(blocks))
            self.decoder.append(nn.ModuleList([_ConvBlock(c, c_out, 8), nn.ModuleList(residual)]))
            c = c_out
        if weights is not None:
            self._load(Path(weights))
        if frozen:
            self.requires_grad_(False)
            self.train()

    def train(self, mode: bool = True) -> MinkUNet:
        """Set the mode; a frozen network stays in evaluation, BatchNorm included."""
        return super().train(mode and not self.frozen)

    def forward(self, grid: SparseGrid, features: Tensor) -> Tensor:
        """Compute features per voxel.

        Args:
            grid: The voxels, stride 1.
            features: (N, in_channels).

        Returns:
            (N, embed_dim), non-negative.
        """
        if len(grid) == 0:
            return features.new_zeros((0, self.embed_dim))
        x = features
        for block in self.conv_input:
            x = block(x, grid.neighbours)
        grids, downs, laterals = [grid], [], [x]
        for module in self.encoder:
            stage = cast('nn.ModuleList', module)
            coarse, down = grids[-1].coarser
            x = stage[0](x, down)
            for block in list(stage)[1:]:
                x = block(x, coarse.neighbours)
            grids.append(coarse)
            downs.append(down)
            laterals.append(x)
        for i, module in enumerate(self.decoder):
            up, blocks = cast('nn.ModuleList', module)
            level = len(downs) - 1 - i
            x = torch.cat([up(x, downs[level].transposed), laterals[level]], dim=1)
            for block in cast('nn.ModuleList', blocks):
                x = block(x, grids[level].neighbours)
        return x

    def _load(self, path: Path) -> None:
        state, _ = read_weights(path)
        prefix = 'backbone.'
        state = {k.removeprefix(prefix): v for k, v in state.items() if 'decode_head' not in k}
        try:
            self.load_state_dict(state)
        except RuntimeError as error:
            lines = [line.strip() for line in str(error).splitlines()[1:3]]
            raise ModelError(
                f'{path} does not fit {self.architecture}: {" ".join(lines)[:300]}'
            ) from None
