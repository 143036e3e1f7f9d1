# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Segmenter weights of others: the authors' release and MMSegmentation's, to and fro.

The authors' names are ours, apart from their encoder's unused classifier. MMSegmentation renames
everything, keeps the two mask projections as linear layers (the transposed parameter), and has
attention as `torch.nn.MultiheadAttention`, whose stacked query, key and value are timm's `qkv`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from clcp_ros.errors import ModelError
from training.models.foreign_checkpoint import read_foreign_checkpoint
from training.models.image_encoder import ImageEncoder, read_weights
from training.models.segmenter import HeadSettings, MaskTransformer, SegmentationModel

_BLOCK = {
    'attn.attn.in_proj_weight': 'attn.qkv.weight',
    'attn.attn.in_proj_bias': 'attn.qkv.bias',
    'attn.attn.out_proj': 'attn.proj',
    'ffn.layers.0.0': 'mlp.fc1',
    'ffn.layers.1': 'mlp.fc2',
    'ln1': 'norm1',
    'ln2': 'norm2',
}
"""Inside a transformer block: MMSegmentation's name -> ours."""

_HEAD = {'dec_proj': 'proj_dec', 'layers': 'blocks'}
_ENCODER = {'patch_embed.projection': 'patch_embed.proj', 'layers': 'blocks', 'ln1': 'norm'}
_TRANSPOSED = {'patch_proj.weight': 'proj_patch', 'classes_proj.weight': 'proj_classes'}

_UNUSED = (
    'encoder.head.', 'encoder.head_dist.', 'encoder.pre_logits.', 'auxiliary_head.',
    'decode_head.conv_seg.', 'data_preprocessor.',
)  # fmt: skip
_NEEDED = {'decoder.proj_patch', 'decoder.cls_emb', 'encoder.patch_embed.proj.weight'}


class Checkpoint(NamedTuple):
    """Segmenter weights, and whose they are.

    Attributes:
        layout: `segmenter` for the authors' names, which are ours, or `mmsegmentation`.
        state: Tensors under our names, `encoder.*` and `decoder.*`.
    """

    layout: str
    state: dict[str, Tensor]


def read_segmenter(path: Path) -> Checkpoint:
    """Read Segmenter weights of any layout.

    Args:
        path: `.safetensors`, or a checkpoint in `.pth`, of which nothing is executed.

    Raises:
        ModelError: The file is unreadable or holds no Segmenter.
    """
    if path.suffix == '.safetensors':
        state = read_weights(path)[0]
    else:
        state = read_foreign_checkpoint(path)
    state = {k.removeprefix('module.'): v for k, v in state.items()}
    layout = 'segmenter'
    if any(k.startswith('decode_head.') for k in state):
        layout, state = 'mmsegmentation', from_mmsegmentation(state)
    state = {k: v for k, v in state.items() if not k.startswith(_UNUSED)}
    if not state.keys() >= _NEEDED:
        shown = ', '.join(sorted({k.partition('.')[0] for k in state})[:6])
        raise ModelError(f'{path} holds no Segmenter (a ViT and a mask transformer) but {shown}')
    return Checkpoint(layout, state)


def build_segmenter(
    state: Mapping[str, Tensor],
    architecture: str = 'vit_small_patch16_224',
    name: str | Path = 'the checkpoint',
    drop_path: float = 0.0,
) -> SegmentationModel:
    """A model of the weights' sizes, with the weights in it.

    Args:
        state: Of `read_segmenter`.
        architecture: timm name of the encoder.
        name: For messages.
        drop_path: Stochastic depth of the encoder, for training on.

    Raises:
        ModelError: The encoder is another one.
    """
    num_classes, dim = state['decoder.cls_emb'].shape[1:]
    layers = 1 + max(int(k.split('.')[2]) for k in state if k.startswith('decoder.blocks.'))
    encoder = ImageEncoder(architecture, drop_path=drop_path)
    model = SegmentationModel(
        encoder,
        MaskTransformer(num_classes, encoder.embed_dim, HeadSettings(dim, layers)),
    )
    encoder.match_positions(state.get('encoder.pos_embed'))
    own = to_segmenter(model)
    missing = [k for k in own if k not in state]
    foreign = [k for k in state if k not in own]
    wrong = [k for k in own if k in state and own[k].shape != state[k].shape]
    if missing or foreign or wrong:
        raise ModelError(
            f'{name} does not fit {architecture}: {len(missing)} keys missing {missing[:2]}, '
            f'{len(foreign)} not known {foreign[:2]}, {len(wrong)} of another shape {wrong[:2]}'
        )
    for prefix, part in (('encoder.', encoder.model), ('decoder.', model.decoder)):
        part.load_state_dict(
            {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        )
    return model.eval()


def from_mmsegmentation(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename MMSegmentation's `EncoderDecoder` with a `SegmenterMaskTransformerHead`.

    Args:
        state: Its state dict, with `backbone.*` and `decode_head.*`.

    Returns:
        Tensors under our names; what has none (an old head's unused `conv_seg`) is left out.
    """
    renamed = {}
    for key, value in state.items():
        if key.startswith('decode_head.conv_seg.'):
            continue
        part, _, rest = key.partition('.')
        if part == 'decode_head' and rest in _TRANSPOSED:
            renamed[f'decoder.{_TRANSPOSED[rest]}'] = value.T.contiguous()
        elif part == 'decode_head':
            renamed[f'decoder.{_rename(rest, _HEAD, _BLOCK)}'] = value
        elif part == 'backbone':
            renamed[f'encoder.{_rename(rest, _ENCODER, _BLOCK)}'] = value
        else:
            renamed[key] = value
    return renamed


def to_mmsegmentation(model: SegmentationModel) -> dict[str, Tensor]:
    """The model's weights under MMSegmentation's names.

    Args:
        model: With a plain ViT as encoder.
    """
    block = {v: k for k, v in _BLOCK.items()}
    renamed = {}
    for key, value in model.decoder.state_dict().items():
        transposed = {v: k for k, v in _TRANSPOSED.items()}
        if key in transposed:
            renamed[f'decode_head.{transposed[key]}'] = value.T.contiguous()
        else:
            renamed[f'decode_head.{_rename(key, _inverse(_HEAD), block)}'] = value
    for key, value in model.encoder.model.state_dict().items():
        renamed[f'backbone.{_rename(key, _inverse(_ENCODER), block)}'] = value
    return renamed


def to_segmenter(model: SegmentationModel) -> dict[str, Tensor]:
    """The model's weights under the authors' names.

    Args:
        model: With a plain ViT as encoder.
    """
    return {
        **{f'encoder.{k}': v for k, v in model.encoder.model.state_dict().items()},
        **{f'decoder.{k}': v for k, v in model.decoder.state_dict().items()},
    }


def _rename(key: str, outer: Mapping[str, str], block: Mapping[str, str]) -> str:
    """Rename the front of a key, and what follows the number of a transformer block."""
    if match := re.match(r'(layers|blocks)\.(\d+)\.(.+)', key):
        stack, number, rest = match.groups()
        return f'{outer[stack]}.{number}.{_replace_front(rest, block.items())}'
    return _replace_front(key, outer.items())


def _replace_front(key: str, names: Iterable[tuple[str, str]]) -> str:
    for old, new in names:
        if key == old or key.startswith(f'{old}.'):
            return new + key[len(old) :]
    return key


def _inverse(names: Mapping[str, str]) -> dict[str, str]:
    return {v: k for k, v in names.items()}
