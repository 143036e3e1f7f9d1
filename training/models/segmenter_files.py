# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Opening a segmentation model, whoever wrote it: this project, the authors, MMSegmentation.

A file of this project states everything. The others hold weights alone: the network follows from
their shapes, the input from the grid of their position embeddings, and the class set from its
size; normalisation is that of timm's weights of the network, and can be given.
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clcp_ros.bundle import InputSpec, sha256_of
from clcp_ros.classes import CAMVID, CITYSCAPES, ClassSet
from clcp_ros.errors import ModelError
from training.models.image_encoder import read_weights
from training.models.segmenter import (
    LoadedModel,
    SegmentationModel,
    load_model,
    set_norm_epsilon,
)
from training.models.segmenter_weights import (
    build_segmenter,
    read_segmenter,
    to_mmsegmentation,
    to_segmenter,
)

LAYOUTS = ('clcp', 'segmenter', 'mmsegmentation')
"""Of files: this project's, the authors' (rstrudel/segmenter), MMSegmentation's."""

_SIZES = {(192, 12): 'tiny', (384, 12): 'small', (768, 12): 'base', (1024, 24): 'large'}
_AUTHORS_EPSILON = 1e-5
"""Of the authors' layer norms; timm's and MMSegmentation's ViT has 1e-6."""

_CLASSIFIER = 1000


def open_model(
    path: Path,
    architecture: str = 'auto',
    input_size: tuple[int, int] | None = None,
    drop_path: float = 0.0,
) -> LoadedModel:
    """Open a segmentation model of any layout.

    Args:
        path: What finetune wrote, or a checkpoint of the authors or of MMSegmentation, of which
            nothing is executed.
        architecture: timm's name of the encoder; auto takes the file's, or what its shapes say.
        input_size: (height, width) that frames are resized to instead of what the file says.
        drop_path: Stochastic depth of the encoder, for training on.

    Raises:
        ModelError: The file is missing, damaged, or no segmentation model.
    """
    if is_own(path):
        loaded = load_model(path, drop_path)
        found = loaded.model.encoder.architecture
        if architecture not in ('auto', found):
            raise ModelError(f'{path} holds {found}, not {architecture}')
    else:
        loaded = _open_foreign(path, architecture, drop_path)
    if input_size is None:
        return loaded
    height, width = input_size
    loaded.model.encoder.check_size(height, width)
    loaded.model.encoder.set_input_size(height, width)
    return replace(loaded, input=replace(loaded.input, height=height, width=width))


def is_own(path: Path) -> bool:
    """Whether a file states what this project's models state.

    Args:
        path: The file.

    Raises:
        ModelError: It is missing or damaged.
    """
    return path.suffix == '.safetensors' and 'classes' in read_weights(path)[1]


def is_segmenter(path: Path) -> bool:
    """Whether a file holds a segmentation model, and not an encoder alone.

    Args:
        path: The file.
    """
    try:
        read_segmenter(path)
    except ModelError:
        return is_own(path)
    return True


def guess_architecture(state: Mapping[str, Tensor], name: str | Path = 'the checkpoint') -> str:
    """The timm name of the encoder that a Segmenter's weights are of.

    Args:
        state: Under our names, `encoder.*` and `decoder.*`.
        name: For messages.

    Raises:
        ModelError: A size that was never published.
    """
    dim, _, patch, _ = state['encoder.patch_embed.proj.weight'].shape
    depth = 1 + max(int(k.split('.')[2]) for k in state if k.startswith('encoder.blocks.'))
    size = _SIZES.get((dim, depth))
    if size is None:
        raise ModelError(
            f'{name}: a ViT of {depth} blocks and {dim} channels has no name here; '
            'give --architecture'
        )
    if 'encoder.dist_token' in state:
        return f'deit_{size}_distilled_patch{patch}_224'
    return f'vit_{size}_patch{patch}_224'


def class_set_of(count: int) -> ClassSet:
    """The class set with that many classes; a nameless one where none is known.

    Args:
        count: Classes of the head.
    """
    for known in (CITYSCAPES, CAMVID):
        if len(known) == count:
            return known
    hues = [colorsys.hsv_to_rgb(i * 0.618 % 1, 0.6 + 0.4 * (i % 2), 0.9) for i in range(count)]
    colors = tuple((round(255 * r), round(255 * g), round(255 * b)) for r, g, b in hues)
    return ClassSet(f'unknown-{count}', tuple(f'class {i}' for i in range(count)), colors)


def write_segmenter(path: Path, model: SegmentationModel, layout: str) -> None:
    """Write weights for the authors' code or for MMSegmentation.

    Args:
        path: A `.pth` file; it appears whole. The authors' code wants a `variant.yml` beside it.
        model: With a plain ViT as encoder.
        layout: `segmenter` or `mmsegmentation`.

    Raises:
        ModelError: An encoder that these frameworks' Segmenter does not have.
    """
    if not hasattr(model.encoder.model, 'cls_token') or 'blocks.0.ls1.gamma' in (
        model.encoder.model.state_dict()
    ):
        raise ModelError(
            f'{model.encoder.architecture} is no plain ViT, the only encoder that {layout} has'
        )
    content: dict[str, Any]
    if layout == 'segmenter':
        state = to_segmenter(model)
        # Their encoder keeps ImageNet's classifier, unused, and loads strictly.
        heads = ['head', 'head_dist'] if 'encoder.dist_token' in state else ['head']
        for head in heads:
            state[f'encoder.{head}.weight'] = torch.zeros(_CLASSIFIER, model.encoder.embed_dim)
            state[f'encoder.{head}.bias'] = torch.zeros(_CLASSIFIER)
        content = {'model': state}
    elif layout == 'mmsegmentation':
        content = {'state_dict': to_mmsegmentation(model), 'meta': {}}
    else:
        raise ModelError(f'no layout {layout!r} of checkpoints; there are {", ".join(LAYOUTS)}')
    temporary = path.with_name(f'.{path.name}.partial')
    torch.save(content, temporary)
    temporary.replace(path)


def _open_foreign(path: Path, architecture: str, drop_path: float) -> LoadedModel:
    layout, state = read_segmenter(path)
    if architecture == 'auto':
        architecture = guess_architecture(state, path)
    model = build_segmenter(state, architecture, path, drop_path)
    encoder = model.encoder
    if layout == 'segmenter':
        set_norm_epsilon(encoder, _AUTHORS_EPSILON)
    positions = encoder.model.patch_embed.grid_size
    height, width = (n * encoder.stride for n in positions)
    mean, std = encoder.mean, encoder.std
    classes = class_set_of(model.decoder.num_classes)
    provenance = {
        'source': path.name,
        'source_sha256': sha256_of(path),
        'source_layout': layout,
        'data': {'class_set': f'guessed from {model.decoder.num_classes} classes'},
    }
    spec = InputSpec(height, width, (mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))
    return LoadedModel(model.eval(), classes, spec, provenance)
