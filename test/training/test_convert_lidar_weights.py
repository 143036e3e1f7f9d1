# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints as MMDetection3D writes them for each library become the same safetensors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from clcp_ros.bundle import sha256_of
from clcp_ros.errors import ModelError
from training.cli import run_command
from training.convert_lidar_weights import convert_lidar_weights
from training.models.minkunet import MinkUNet

ARCHITECTURE = 'minkunet18_w16'
BN = ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')


@pytest.fixture(scope='module')
def network() -> MinkUNet:
    torch.manual_seed(0)
    net = MinkUNet(ARCHITECTURE)
    for buffer in net.buffers():
        buffer.copy_(torch.rand(buffer.shape) * 5 + 1)
    return net


def as_spconv(net: MinkUNet) -> dict[str, Tensor]:
    """The names and shapes of MMDetection3D's spconv network, filled module by module."""
    state: dict[str, Tensor] = {}

    def conv(name: str, layer: torch.nn.Module) -> None:
        kernel = layer.kernel.detach()
        if kernel.ndim == 2:
            weight = kernel.reshape(kernel.shape[1], 1, 1, 1, kernel.shape[0])
        else:
            side = 3 if len(kernel) == 27 else 2
            weight = torch.empty(kernel.shape[2], side, side, side, kernel.shape[1])
            for x in range(side):
                for y in range(side):
                    for z in range(side):
                        k = x + 3 * y + 9 * z if side == 3 else 4 * x + 2 * y + z
                        weight[:, x, y, z, :] = kernel[k].T
        state[f'{name}.weight'] = weight

    def norm(name: str, layer: torch.nn.Module) -> None:
        for part in BN:
            state[f'{name}.{part}'] = getattr(layer, part).detach()

    def block(name: str, module: Any) -> None:
        conv(f'{name}.conv1', module.net[0])
        norm(f'{name}.bn1', module.net[1])
        conv(f'{name}.conv2', module.net[3])
        norm(f'{name}.bn2', module.net[4])
        if module.downsample is not None:
            conv(f'{name}.downsample.0', module.downsample[0])
            norm(f'{name}.downsample.1', module.downsample[1])

    def simple(name: str, module: Any) -> None:
        conv(f'{name}.0', module.net[0])
        norm(f'{name}.1', module.net[1])

    walk(net, simple, block)
    state['encoder.0.0.0._max_num_voxels_during_training'] = torch.zeros(1, dtype=torch.int32)
    return state


def as_minkowski(net: MinkUNet) -> dict[str, Tensor]:
    """The names of MMDetection3D's MinkowskiEngine network; x runs fastest in every kernel."""
    state: dict[str, Tensor] = {}

    def conv(name: str, layer: torch.nn.Module) -> None:
        kernel = layer.kernel.detach().clone()
        if kernel.ndim == 3 and len(kernel) == 8:
            for k in range(8):
                x, y, z = k % 2, k // 2 % 2, k // 4
                kernel[k] = layer.kernel.detach()[4 * x + 2 * y + z]
        state[f'{name}.kernel'] = kernel

    def norm(name: str, layer: torch.nn.Module) -> None:
        for part in BN:
            state[f'{name}.bn.{part}'] = getattr(layer, part).detach()

    def block(name: str, module: Any) -> None:
        conv(f'{name}.conv1', module.net[0])
        norm(f'{name}.norm1', module.net[1])
        conv(f'{name}.conv2', module.net[3])
        norm(f'{name}.norm2', module.net[4])
        if module.downsample is not None:
            conv(f'{name}.downsample.net.0', module.downsample[0])
            norm(f'{name}.downsample.net.1', module.downsample[1])

    def simple(name: str, module: Any) -> None:
        conv(f'{name}.net.0', module.net[0])
        norm(f'{name}.net.1', module.net[1])

    walk(net, simple, block)
    return state


def walk(net: Any, simple: Any, block: Any) -> None:
    for i, module in enumerate(net.conv_input):
        simple(f'conv_input.{i}', module)
    for i, stage in enumerate(net.encoder):
        simple(f'encoder.{i}.0', stage[0])
        for j, module in enumerate(list(stage)[1:], 1):
            block(f'encoder.{i}.{j}', module)
    for i, (up, blocks) in enumerate(net.decoder):
        simple(f'decoder.{i}.0', up)
        for j, module in enumerate(blocks):
            block(f'decoder.{i}.1.{j}', module)


LAYOUTS = {
    'torchsparse': lambda net: dict(net.state_dict()),
    'spconv': as_spconv,
    'minkowski': as_minkowski,
}


class _Foreign:
    """Would run a command if it were unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ('touch ran-foreign-code',)


def write(path: Path, state: dict[str, Tensor]) -> Path:
    head = {
        'decode_head.conv_seg.weight': torch.rand(19, 48),
        'decode_head.conv_seg.bias': torch.rand(19),
    }
    named = {f'backbone.{k}': v for k, v in state.items()} | head
    torch.save({'meta': {'epoch': 36}, 'state_dict': named, 'message_hub': _Foreign()}, path)
    return path


@pytest.mark.parametrize('layout', LAYOUTS)
def test_every_layout_becomes_the_same_network(
    tmp_path: Path,
    network: MinkUNet,
    layout: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = write(tmp_path / f'{layout}.pth', LAYOUTS[layout](network))
    out = convert_lidar_weights(checkpoint)
    assert out == tmp_path / f'{layout}.safetensors'
    assert not (tmp_path / 'ran-foreign-code').exists()
    state = load_file(out)
    wanted = network.state_dict()
    assert {k for k in state if k.startswith('backbone.')} == {f'backbone.{k}' for k in wanted}
    assert all(torch.equal(state[f'backbone.{k}'], v) for k, v in wanted.items())
    assert state['decode_head.conv_seg.weight'].shape == (19, 48)
    with safe_open(out, 'pt') as file:
        metadata = file.metadata()
    assert metadata['architecture'] == ARCHITECTURE
    assert metadata['source_layout'] == layout
    assert metadata['layout'] == 'torchsparse'
    assert metadata['source_sha256'] == sha256_of(checkpoint)
    assert metadata['in_channels'] == '4'
    assert int(metadata['parameters']) == sum(p.numel() for p in network.parameters())
    assert 'commit' in json.loads(metadata['provenance'])
    loaded = MinkUNet(ARCHITECTURE, weights=out, frozen=True)
    assert all(torch.equal(v, wanted[k]) for k, v in loaded.state_dict().items())
    assert f'{ARCHITECTURE}, ' in capsys.readouterr().out
    # The same without converting first.
    direct = MinkUNet(ARCHITECTURE, weights=checkpoint)
    assert all(torch.equal(v, wanted[k]) for k, v in direct.state_dict().items())


def test_options(tmp_path: Path, network: MinkUNet, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = write(tmp_path / 'net-0123abcd.pth', as_spconv(network))
    out = tmp_path / 'deep' / 'lidar.safetensors'
    convert_lidar_weights(checkpoint, out, keep_head=False)
    assert not [k for k in load_file(out) if not k.startswith('backbone.')]
    assert 'begins with 0123abcd, but' in capsys.readouterr().out
    with pytest.raises(ModelError, match='--overwrite'):
        convert_lidar_weights(checkpoint, out)
    convert_lidar_weights(checkpoint, out, overwrite=True, architecture=ARCHITECTURE)
    with pytest.raises(ModelError, match=r'does not fit minkunet34_w32: .* missing'):
        convert_lidar_weights(checkpoint, tmp_path / 'b.safetensors', 'minkunet34_w32')
    with pytest.raises(ModelError, match='unknown lidar encoder'):
        convert_lidar_weights(checkpoint, tmp_path / 'b.safetensors', 'resnet')
    with pytest.raises(ModelError, match=r'\.safetensors file; name it so'):
        convert_lidar_weights(checkpoint, tmp_path / 'b.pth')
    with pytest.raises(ModelError, match='the checkpoint itself'):
        convert_lidar_weights(out, out)
    again = convert_lidar_weights(out, tmp_path / 'again.safetensors')
    first, second = load_file(out), load_file(again)
    assert first.keys() == second.keys()
    assert all(torch.equal(v, second[k]) for k, v in first.items())


def test_what_does_not_fit_is_named_and_nothing_is_written(
    tmp_path: Path, network: MinkUNet
) -> None:
    state = as_minkowski(network)
    del state['encoder.1.1.norm2.bn.running_var']
    state['encoder.7.net.0.kernel'] = torch.zeros(1, 1)
    checkpoint = write(tmp_path / 'a.pth', state)
    with pytest.raises(ModelError) as caught:
        convert_lidar_weights(checkpoint)
    for part in (
        f'nearest is {ARCHITECTURE}', 'missing (encoder.1.1.net.4.running_var)',
        'unexpected (encoder.7.net.0.kernel)',
    ):  # fmt: skip
        assert part in str(caught.value)
    with pytest.raises(ModelError, match='holds no MinkUNet'):
        convert_lidar_weights(write(tmp_path / 'b.pth', {'layer1.conv': torch.zeros(1)}))
    assert sorted(p.name for p in tmp_path.iterdir()) == ['a.pth', 'b.pth']


def test_prefixes_and_counters(tmp_path: Path, network: MinkUNet) -> None:
    """Our own checkpoints of a training, and those from before BatchNorm counted batches."""
    wanted = network.state_dict()
    state = {f'lidar_encoder.{k}': v for k, v in wanted.items() if 'num_batches' not in k}
    state['image_encoder.model.conv1.weight'] = torch.zeros(1)
    torch.save({'state_dict': state}, tmp_path / 'last.ckpt')
    loaded = load_file(convert_lidar_weights(tmp_path / 'last.ckpt'))
    assert loaded.keys() == {f'backbone.{k}' for k in wanted}
    save_file(dict(wanted), tmp_path / 'bare.safetensors')
    MinkUNet(ARCHITECTURE, weights=tmp_path / 'bare.safetensors')


def test_the_command(
    tmp_path: Path, network: MinkUNet, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / 'm.pth', as_spconv(network))
    command = [sys.executable, str(root / 'training/convert_lidar_weights.py'), 'm.pth']
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 'next: python training/pretrain.py --model.lidar_encoder minkunet18_w16' in done.stdout
    assert (tmp_path / 'm.safetensors').is_file()
    assert not (tmp_path / 'ran-foreign-code').exists()
    with pytest.raises(SystemExit) as stopped:
        run_command(convert_lidar_weights, ['none.pth'])
    assert stopped.value.code == 1
    assert capsys.readouterr().err == 'error: none.pth: no such file of weights\n'
