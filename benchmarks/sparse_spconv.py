# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""MinkUNet built of spconv's modules: what the lidar encoder is measured against."""

from __future__ import annotations

from typing import Any

import spconv.pytorch as spconv
import torch
from spconv.pytorch import ops
from spconv.pytorch.conv import SparseConvolution
from torch import Tensor, nn

from training.models.minkunet import ARCHITECTURES, MinkUNet
from training.sparse.backends.layouts import spconv_weight

if not torch.cuda.is_available():
    ops.get_current_stream = lambda: 0  # its CPU gradients ask for a CUDA stream otherwise


class SpconvMinkUNet(nn.Module):
    """The same layers and weights as a MinkUNet, as spconv's users write them.

    Args:
        net: Where the weights come from; unfolded.
    """

    def __init__(self, net: MinkUNet) -> None:
        super().__init__()
        w = ARCHITECTURES[net.architecture]
        self.stem = spconv.SparseSequential(
            *_conv(net.conv_input[0].net[0].kernel.shape[1], w.base), *_conv(w.base, w.base)
        )
        self.downs, self.stages, self.ups, self.joins = (nn.ModuleList() for _ in range(4))
        c, laterals = w.base, [w.base]
        for i, (c_out, blocks) in enumerate(zip(w.encoder, w.encoder_blocks, strict=True)):
            down = spconv.SparseConv3d(c, c, 2, stride=2, bias=False, indice_key=f'down{i}')
            self.downs.append(spconv.SparseSequential(down, nn.BatchNorm1d(c), nn.ReLU()))
            self.stages.append(
                nn.ModuleList(_Block(c if j == 0 else c_out, c_out, i + 1) for j in range(blocks))
            )
            c = c_out
            laterals.append(c)
        for i, (c_out, blocks) in enumerate(zip(w.decoder, w.decoder_blocks, strict=True)):
            level = 3 - i
            up = spconv.SparseInverseConv3d(c, c_out, 2, bias=False, indice_key=f'down{level}')
            self.ups.append(spconv.SparseSequential(up, nn.BatchNorm1d(c_out), nn.ReLU()))
            joined = c_out + laterals[level]
            self.joins.append(
                nn.ModuleList(
                    _Block(joined if j == 0 else c_out, c_out, level) for j in range(blocks)
                )
            )
            c = c_out
        self._copy(net)

    def _copy(self, net: MinkUNet) -> None:
        """Both networks hold their layers in the order of execution, but for the projections."""
        convs = [m for m in self.modules() if isinstance(m, SparseConvolution)]
        norms = [m for m in self.modules() if isinstance(m, nn.BatchNorm1d)]
        for conv, kernel in zip(convs, self._in_order(net, 'kernel'), strict=True):
            conv.weight.data = spconv_weight(kernel)
        for name in ('weight', 'bias', 'running_mean', 'running_var'):
            for norm, value in zip(norms, self._in_order(net, name), strict=True):
                getattr(norm, name).data.copy_(value)

    @staticmethod
    def _in_order(net: MinkUNet, name: str) -> list[Tensor]:
        """Values of one name in the order in which `modules()` comes across their layers."""
        state = {k: v for k, v in net.state_dict().items() if k.split('.')[-1] == name}
        parts: list[list[str]] = [[], [], [], [], []]
        for key in state:
            top, *rest = key.split('.')
            if top == 'conv_input':
                parts[0].append(key)
            elif top == 'encoder':
                parts[1 if rest[1] == '0' else 2].append(key)
            else:
                parts[3 if rest[1] == '0' else 4].append(key)
        return [state[k] for part in parts for k in part]

    def forward(self, coords: Tensor, features: Tensor, batch_size: int) -> Tensor:
        """Features per voxel, from (N, 4) int32 coordinates and (N, C) features."""
        shape = [int(v) // 16 * 16 + 16 for v in coords[:, 1:].amax(dim=0)]
        x = self.stem(spconv.SparseConvTensor(features, coords, shape, batch_size))
        laterals = [x]
        for down, stage in zip(self.downs, self.stages, strict=True):
            x = down(x)
            for block in stage:
                x = block(x)
            laterals.append(x)
        for i, (up, blocks) in enumerate(zip(self.ups, self.joins, strict=True)):
            x = up(x)
            x = x.replace_feature(torch.cat([x.features, laterals[3 - i].features], dim=1))
            for block in blocks:
                x = block(x)
        return x.features


class _Block(nn.Module):
    def __init__(self, c_in: int, c_out: int, level: int) -> None:
        super().__init__()
        key = f'level{level}'
        self.conv1 = spconv.SubMConv3d(c_in, c_out, 3, bias=False, indice_key=key)
        self.norm1 = nn.BatchNorm1d(c_out)
        self.conv2 = spconv.SubMConv3d(c_out, c_out, 3, bias=False, indice_key=key)
        self.norm2 = nn.BatchNorm1d(c_out)
        self.downsample: nn.Module | None = None
        if c_in != c_out:
            conv = spconv.SubMConv3d(c_in, c_out, 1, bias=False)
            self.downsample = spconv.SparseSequential(conv, nn.BatchNorm1d(c_out))

    def forward(self, x: Any) -> Any:
        y = self.conv1(x)
        y = self.conv2(y.replace_feature(torch.relu(self.norm1(y.features))))
        shortcut = x if self.downsample is None else self.downsample(x)
        return y.replace_feature(torch.relu(self.norm2(y.features) + shortcut.features))


def _conv(c_in: int, c_out: int) -> list[nn.Module]:
    conv = spconv.SubMConv3d(c_in, c_out, 3, bias=False, indice_key='level0')
    return [conv, nn.BatchNorm1d(c_out), nn.ReLU()]
