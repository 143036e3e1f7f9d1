# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Convert a published lidar encoder to safetensors, without running anything that is in it.

Reads MinkUNet checkpoints of MMDetection3D in the layouts of torchsparse, spconv and
MinkowskiEngine. The result loads with `--model.lidar_weights` of training/pretrain.py.
"""

from __future__ import annotations

if __package__ in (None, ''):
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import training  # noqa: F401  # first: it sets how torch's threads wait

import json
import re
from pathlib import Path

from clcp_ros.bundle import sha256_of
from clcp_ros.errors import ModelError
from training.cli import git_commit, next_step, run_command
from training.models.minkunet import (
    ARCHITECTURES,
    guess_architecture,
    published_shapes,
)
from training.models.minkunet_layouts import compare_states
from training.models.minkunet_weights import (
    MinkUNetWeights,
    read_minkunet_weights,
    write_minkunet_weights,
)


def convert_lidar_weights(
    checkpoint: Path,
    out: Path | None = None,
    architecture: str = 'auto',
    keep_head: bool = True,
    overwrite: bool = False,
) -> Path:
    """Convert a published lidar encoder.

    Args:
        checkpoint: A `.pth` file of MMDetection3D, or `.safetensors` in one of its layouts.
        out: The `.safetensors` file to write; beside the checkpoint by default.
        architecture: minkunet34_w32, ...; auto finds it from the shapes of the weights.
        keep_head: Keep the weights of the segmentation head beside the backbone's.
        overwrite: Replace `out` if it is there.

    Returns:
        The file.

    Raises:
        ModelError: The checkpoint cannot be read, or is of no network that is known.
    """
    out = checkpoint.with_suffix('.safetensors') if out is None else out
    if out.suffix != '.safetensors':
        raise ModelError(f'{out}: the result is a .safetensors file; name it so')
    if out.resolve() == checkpoint.resolve():
        raise ModelError(f'{out} is the checkpoint itself; choose another --out')
    if out.exists() and not overwrite:
        raise ModelError(f'{out} is there already; choose another --out, or add --overwrite')
    weights = read_minkunet_weights(checkpoint)
    found = _check(checkpoint, weights, architecture)
    sha256 = sha256_of(checkpoint)
    head = weights.head if keep_head else {}
    parameters = sum(
        v.numel()
        for k, v in weights.backbone.items()
        if k.endswith(('.kernel', '.weight', '.bias'))
    )
    metadata = {
        'architecture': found,
        'in_channels': str(weights.backbone['conv_input.0.net.0.kernel'].shape[1]),
        'parameters': str(parameters),
        'source': checkpoint.name,
        'source_sha256': sha256,
        'source_layout': weights.layout,
        'provenance': json.dumps({'commit': git_commit()}),
    }
    write_minkunet_weights(out, weights.backbone, metadata, head)
    print(f'{checkpoint}: {found}, {parameters:,} parameters, layout of {weights.layout}')
    if head:
        print(f'kept the segmentation head: {", ".join(head)}')
    if weights.left_out:
        print(f'left out {len(weights.left_out)} other tensors: {weights.left_out[0]}, ...')
    if (expected := _named_hash(checkpoint)) and not sha256.startswith(expected):
        print(
            f'warning: the name says that its SHA-256 begins with {expected}, but it begins with '
            f'{sha256[:8]}: this is not the published file, or not all of it'
        )
    print(f'wrote {out}')
    next_step(
        f'python training/pretrain.py --model.lidar_encoder {found} --model.lidar_weights {out} '
        '--model.freeze_lidar true --views.voxel_size_m 0.05 --views.max_voxels 80000'
    )
    return out


def _check(path: Path, weights: MinkUNetWeights, architecture: str) -> str:
    """The architecture that the weights are of, strictly."""
    backbone = weights.backbone
    guess = guess_architecture(backbone)
    stem = backbone.get('conv_input.0.net.0.kernel')
    channels = stem.shape[1] if stem is not None and stem.ndim == 3 else 4
    if architecture == 'auto':
        if guess is not None:
            return guess
        differences = {
            name: compare_states(backbone, published_shapes(name, channels))
            for name in ARCHITECTURES
        }
        nearest = min(differences, key=lambda name: _count(differences[name]))
        raise ModelError(
            f'{path} is of no MinkUNet that is known; nearest is {nearest}: {differences[nearest]}'
        )
    if architecture not in ARCHITECTURES:
        raise ModelError(
            f'unknown lidar encoder {architecture!r}; known: {", ".join(ARCHITECTURES)}'
        )
    if difference := compare_states(backbone, published_shapes(architecture, channels)):
        raise ModelError(f'{path} does not fit {architecture}: {difference}')
    return architecture


def _count(difference: str) -> int:
    return sum(int(n) for n in re.findall(r'(?:^|; )(\d+) ', difference))


def _named_hash(path: Path) -> str | None:
    """The first digits of the file's SHA-256 that OpenMMLab puts at the end of names."""
    match = re.search(r'-([0-9a-f]{8})\.pth$', path.name)
    return match[1] if match else None


if __name__ == '__main__':
    run_command(convert_lidar_weights)
