# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""MinkUNet: a residual U-Net on sparse voxels (Choy et al. 2019, arXiv 1904.08755).

Widths, order of layers and parameter names are those of MMDetection3D's torchsparse backbone, so
that its checkpoints load strictly (`training/models/minkunet_weights.py` reads the others too).
"""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from clcp_ros.errors import ModelError
from training.models.minkunet_layouts import compare_states
from training.models.minkunet_weights import read_minkunet_weights
from training.models.norm import BatchNorm1d, run_twice
from training.sparse import (
    KernelMap,
    SparseConv,
    SparseGrid,
    conv_norm_act,
    fold_norm,
    set_backend,
)

Precision = Literal['float32', 'bfloat16']


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
    decoder_blocks: tuple[int, int, int, int] = (2, 2, 2, 2)


ARCHITECTURES: dict[str, MinkUNetWidths] = {
    'minkunet34_w32': MinkUNetWidths(32, (32, 64, 128, 256), (256, 128, 96, 96), (2, 3, 4, 6)),
    'minkunet18_w32': MinkUNetWidths(32, (32, 64, 128, 256), (256, 128, 96, 96), (2, 2, 2, 2)),
    'minkunet18_w20': MinkUNetWidths(20, (20, 40, 81, 163), (163, 81, 61, 61), (2, 2, 2, 2)),
    'minkunet18_w16': MinkUNetWidths(16, (16, 32, 64, 128), (128, 64, 48, 48), (2, 2, 2, 2)),
    # Not published: small enough to learn something on a CPU in two minutes.
    'minkunet_tiny': MinkUNetWidths(
        16, (16, 32, 64, 96), (96, 64, 48, 48), (1, 1, 1, 1), (1, 1, 1, 1)
    ),
}


class _ConvBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int, volume: int) -> None:
        super().__init__()
        self.net = nn.Sequential(SparseConv(c_in, c_out, volume), BatchNorm1d(c_out), nn.ReLU())

    def forward(self, x: Tensor, pairs: KernelMap) -> Tensor:
        return _conv(self.net, 0, x, pairs)


class _ResidualBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            SparseConv(c_in, c_out, 27), BatchNorm1d(c_out), nn.ReLU(),
            SparseConv(c_out, c_out, 27), BatchNorm1d(c_out),
        )  # fmt: skip
        self.downsample: nn.Sequential | None = None
        if c_in != c_out:
            self.downsample = nn.Sequential(SparseConv(c_in, c_out, 1), BatchNorm1d(c_out))

    def forward(self, x: Tensor, pairs: KernelMap) -> Tensor:
        y = _conv(self.net, 0, x, pairs)
        if self.downsample is not None:
            x = _conv(self.downsample, 0, x, relu=False)
        return _conv(self.net, 3, y, pairs, residual=x)


def _conv(
    net: nn.Sequential, place: int, x: Tensor, pairs: KernelMap | None = None, **after: Any
) -> Tensor:
    """The convolution at a place of `net`, its normalisation, and what comes after."""
    return conv_norm_act(cast('SparseConv', net[place]), net[place + 1], x, pairs, **after)


class MinkUNet(nn.Module):
    """Sparse residual U-Net with four levels.

    A frozen network is frozen in every mode: BatchNorm keeps its statistics, no parameter asks for
    a gradient, and what it computes is done with BatchNorm folded into the convolutions. Its state
    dict stays the published one.

    Args:
        architecture: A key of `ARCHITECTURES`.
        in_channels: Channels of the input: x, y, z (metres) and intensity in [0, 1].
        weights: A file of weights, in any layout that `read_minkunet_weights` knows.
        frozen: Keep weights and BatchNorm statistics as they are, in every mode.
        precision: What a frozen network computes in; `bfloat16` is faster and coarser.
        sparse_backend: `auto`, `torch`, `torchsparse` or `spconv`.
        checkpoint_activations: Compute blocks a second time for their gradients instead of
            keeping what they computed: less memory, about a quarter more time.

    Attributes:
        embed_dim: Channels of `forward`.
        encoder_dim: Channels of `forward_encoder`.

    Raises:
        ModelError: Unknown architecture, weights that do not fit, a backend that is not
            installed, or bfloat16 for a network that is to be trained.
    """

    def __init__(
        self,
        architecture: str = 'minkunet34_w32',
        in_channels: int = 4,
        weights: str | os.PathLike[str] | None = None,
        frozen: bool = False,
        precision: Precision = 'float32',
        sparse_backend: str = 'auto',
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        if architecture not in ARCHITECTURES:
            raise ModelError(
                f'unknown lidar encoder {architecture!r}; known: {", ".join(ARCHITECTURES)}'
            )
        if precision == 'bfloat16' and not frozen:
            raise ModelError(
                'bfloat16 weights are for frozen lidar encoders; train with a mixed precision'
            )
        self.architecture, self.precision = architecture, precision
        self.frozen = False
        self.checkpoint_activations = checkpoint_activations
        # A copy with folded BatchNorm; hidden in a list, so that it is not among the parameters.
        self._folded: list[MinkUNet] = []
        w = ARCHITECTURES[architecture]
        self.embed_dim, self.encoder_dim = w.decoder[-1], w.encoder[-1]
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
        set_backend(self, sparse_backend)
        if weights is not None:
            self._load(Path(weights))
        if frozen:
            self.freeze()

    def freeze(self) -> MinkUNet:
        """Keep weights and BatchNorm statistics as they are from now on."""
        self.frozen = True
        self.requires_grad_(False)
        return self.train(False)

    def train(self, mode: bool = True) -> MinkUNet:
        """Set the mode; a frozen network stays in evaluation, BatchNorm included."""
        return super().train(mode and not self.frozen)

    def forward(self, grid: SparseGrid, features: Tensor) -> Tensor:
        """Compute features per voxel.

        Args:
            grid: The voxels, stride 1.
            features: (N, in_channels).

        Returns:
            (N, embed_dim), non-negative, float32 unless autocast says otherwise.
        """
        if self.frozen:
            with torch.set_grad_enabled(torch.is_grad_enabled() and features.requires_grad):
                return self._network().forward(grid, features).float()
        if len(grid) == 0:
            return features.new_zeros((0, self.embed_dim))
        grids, downs, laterals = self._encode(grid, features)
        x = laterals.pop()
        for i, module in enumerate(self.decoder):
            up, blocks = cast('nn.ModuleList', module)
            level = len(downs) - 1 - i
            x = torch.cat([self._run(up, x, downs[level].transposed), laterals[level]], dim=1)
            for block in cast('nn.ModuleList', blocks):
                x = self._run(block, x, grids[level].neighbours)
        return x

    def forward_encoder(self, grid: SparseGrid, features: Tensor) -> tuple[SparseGrid, Tensor]:
        """Compute features at stride 16, without the decoder.

        Args:
            grid: The voxels, stride 1.
            features: (N, in_channels).

        Returns:
            The coarse voxels: `samples` says which sample each belongs to, `mean_per_sample` pools
            them; and (M, encoder_dim) features, non-negative.
        """
        if self.frozen:
            with torch.set_grad_enabled(torch.is_grad_enabled() and features.requires_grad):
                coarse, x = self._network().forward_encoder(grid, features)
                return coarse, x.float()
        if len(grid) == 0:
            for _ in self.encoder:
                grid = grid.coarser[0]
            return grid, features.new_zeros((0, self.encoder_dim))
        grids, _, outputs = self._encode(grid, features)
        return grids[-1], outputs[-1]

    def _encode(
        self, grid: SparseGrid, features: Tensor
    ) -> tuple[list[SparseGrid], list[KernelMap], list[Tensor]]:
        x = features
        for block in self.conv_input:
            x = self._run(block, x, grid.neighbours)
        grids, downs, outputs = [grid], [], [x]
        for module in self.encoder:
            stage = cast('nn.ModuleList', module)
            coarse, down = grids[-1].coarser
            x = self._run(stage[0], x, down)
            for block in list(stage)[1:]:
                x = self._run(block, x, coarse.neighbours)
            grids.append(coarse)
            downs.append(down)
            outputs.append(x)
        return grids, downs, outputs

    def _run(self, block: nn.Module, x: Tensor, pairs: KernelMap) -> Tensor:
        if not (self.checkpoint_activations and torch.is_grad_enabled()):
            return block(x, pairs)
        return run_twice(block, x, pairs)

    def _network(self) -> MinkUNet:
        """The copy that computes for a frozen network."""
        if not self._folded:
            # Normal tensors even when first used in a validation: those of inference mode could
            # not be part of a gradient later.
            with torch.inference_mode(False), torch.no_grad():
                self._folded.append(_fold(self, getattr(torch, self.precision)))
        return self._folded[0]

    def _apply(self, *args: Any, **kwargs: Any) -> MinkUNet:
        # Moved to another device or type: the copy is made again there.
        self._folded.clear()
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._folded.clear()
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, '_folded': []}

    def _load(self, path: Path) -> None:
        weights = read_minkunet_weights(path)
        if difference := compare_states(weights.backbone, self.state_dict()):
            fitting = guess_architecture(weights.backbone)
            channels = weights.backbone['conv_input.0.net.0.kernel'].shape[1] if fitting else 0
            hint = f'; they are of {fitting} with {channels} input channels' if fitting else ''
            raise ModelError(f'{path} does not fit {self.architecture}: {difference}{hint}')
        self.load_state_dict(weights.backbone)


def guess_architecture(state: dict[str, Tensor]) -> str | None:
    """The architecture whose names and shapes a state dict has, or None.

    Args:
        state: Of a backbone, in torchsparse's layout, without a prefix.
    """
    stem = state.get('conv_input.0.net.0.kernel')
    if stem is None or stem.ndim != 3:
        return None
    for name in ARCHITECTURES:
        if not compare_states(state, published_shapes(name, stem.shape[1])):
            return name
    return None


def published_shapes(architecture: str, in_channels: int = 4) -> dict[str, torch.Size]:
    """Names and shapes of an architecture's tensors.

    Args:
        architecture: A key of `ARCHITECTURES`.
        in_channels: Channels of the input.
    """
    with torch.device('meta'):
        network = MinkUNet(architecture, in_channels)
    return {k: v.shape for k, v in network.state_dict().items()}


def _fold(network: MinkUNet, dtype: torch.dtype) -> MinkUNet:
    """A copy that gives the same in evaluation, its BatchNorm folded into the convolutions."""
    folded = copy.deepcopy(network)
    folded.frozen = folded.checkpoint_activations = False
    for module in folded.modules():
        if isinstance(module, _ConvBlock):
            _fold_pairs(module.net, (0,), dtype)
        elif isinstance(module, _ResidualBlock):
            _fold_pairs(module.net, (0, 3), dtype)
            if module.downsample is not None:
                _fold_pairs(module.downsample, (0,), dtype)
    return folded


def _fold_pairs(net: nn.Sequential, places: tuple[int, ...], dtype: torch.dtype) -> None:
    for i in places:
        fold_norm(cast('SparseConv', net[i]), cast('nn.BatchNorm1d', net[i + 1]), dtype)
        net[i + 1] = nn.Identity()
