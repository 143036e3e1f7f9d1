# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Pretraining methods, one file each; the registry is this folder."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clcp_ros.errors import ModelError
from training.registry import found_in

if TYPE_CHECKING:
    from training.methods.base import Method, MethodEntry


@functools.cache
def methods() -> dict[str, MethodEntry]:
    """All methods by name: the `METHOD` of each module in this folder that has one."""
    return found_in(__name__, __path__, 'METHOD')


def find_method(name: str) -> MethodEntry:
    """A method by name.

    Args:
        name: Its name.

    Raises:
        ModelError: There is none.
    """
    known = methods()
    if name not in known:
        similar = difflib.get_close_matches(name, known, 3, 0.5) or known
        raise ModelError(f'no pretraining method {name!r}; there are {", ".join(similar)}')
    return known[name]


def load_method(folder: Path) -> Method:
    """What a finished pretraining run learned, in evaluation mode: `embed` embeds.

    Args:
        folder: Of the run, with the three `.safetensors` files that `Method.save` writes.

    Returns:
        The method; `samples` and `collate` make its input.

    Raises:
        ModelError: A file is missing, damaged, or of another run.
    """
    from training.methods.base import EMBEDDING, IMAGE_ENCODER, LIDAR_ENCODER, Setup
    from training.methods.config import ModelConfig
    from training.methods.older import update_heads
    from training.models.image_encoder import read_weights
    from training.models.minkunet_layouts import compare_states
    from training.pairs.contrastive import ViewConfig

    heads, metadata = read_weights(folder / EMBEDDING)
    update_heads(heads)
    try:
        entry = find_method(metadata['method'])
        model = _filled(ModelConfig, metadata['model'])
        views = _filled(ViewConfig, metadata['views'])
        options = _filled(entry.options, metadata['options'])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f'{folder / EMBEDDING}: damaged metadata ({error})') from None
    # The weights to start from may be gone; all of them are replaced below.
    weights = str(folder / IMAGE_ENCODER)
    model = dataclasses.replace(
        model, image_weights=weights, image_pretrained=False, lidar_weights=None
    )
    if getattr(options, 'weights', None) is not None:
        options = dataclasses.replace(options, weights=None)
    method = entry.make(Setup(model, views=views, options=options))
    lidar, _ = read_weights(folder / LIDAR_ENCODER)
    prefix = f'lidar_encoder.{method.lidar_encoder.weights_prefix}'
    state = {f'{prefix}{k}': v for k, v in lidar.items()} | heads
    image = {k: v for k, v in method.state_dict().items() if k.startswith('image_encoder.')}
    if difference := compare_states({**image, **state}, method.state_dict()):
        raise ModelError(f'{folder} holds files that do not belong together: {difference}')
    method.load_state_dict({**image, **state})
    return method.eval()


def _filled(kind: type[Any], text: str) -> Any:
    return kind(**json.loads(text))
