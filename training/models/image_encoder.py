# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Any timm encoder as a map of features, with the preprocessing that its weights expect."""

from __future__ import annotations

import difflib
import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from clcp_ros.errors import ModelError
from training.cli import atomic_path
from training.models.foreign_names import to_timm_names

_logger = logging.getLogger(__name__)

GRID_STRIDE = 16
EARLY_STRIDE = 8

Pool = Literal['avg', 'token']


class EncoderOutput(NamedTuple):
    """Features of a batch of images.

    Attributes:
        grid: (B, D, h, w) last features; patch tokens of a ViT, the stride-16 map of a ConvNet.
        early: (B, D1, h1, w1) features of an early-middle block.
        pooled: (B, D) one embedding per image.
    """

    grid: Tensor
    early: Tensor
    pooled: Tensor


class ImageEncoder(nn.Module):
    """A timm model without its classifier.

    Plain vision transformers give their patch tokens as a map; networks with stages give the
    deepest map of stride 16 or less, the one a segmentation head reads.

    Args:
        architecture: Name of a timm model.
        weights: A file of weights to start from: `.safetensors` of this project or of timm, or a
            state dict in `.pth`; `foreign_names` tells whose names are understood.
        pretrained: Let timm download its weights (needs network).
        pool: Global embedding: mean of the map (`avg`) or the class token (`token`).
        input_size: (height, width) for networks that are built for one size; others take any.
        drop_path: Stochastic depth while training.

    Raises:
        ModelError: Unknown architecture, or weights that do not fit.
    """

    def __init__(
        self,
        architecture: str = 'resnet10t',
        weights: str | os.PathLike[str] | None = None,
        pretrained: bool = False,
        pool: Pool = 'avg',
        input_size: tuple[int, int] | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.pool = pool
        # timm's models have methods that nn.Module does not declare.
        self.model: Any = _create(
            architecture, pretrained and weights is None, input_size, drop_path
        )
        self.mean: tuple[float, ...] = tuple(self.model.pretrained_cfg['mean'])
        self.std: tuple[float, ...] = tuple(self.model.pretrained_cfg['std'])
        # A ViT's blocks all have one stride; a network with stages names them in feature_info.
        features = _feature_info(self.model)
        self._is_plain = len({reduction for _, reduction in features}) == 1
        if self._is_plain:
            self._indices = [max(len(features) // 3 - 1, 0), len(features) - 1]
        else:
            self._indices = [_deepest(features, s) for s in (EARLY_STRIDE, GRID_STRIDE)]
        self.early_dim, self.embed_dim = (features[i][0] for i in self._indices)
        self.stride: int = features[self._indices[1]][1]
        if pool == 'token' and not getattr(self.model, 'num_prefix_tokens', 0):
            raise ModelError(f'{architecture} has no class token; use pool: avg')
        if weights is not None:
            self.load(weights)

    def forward(self, x: Tensor) -> EncoderOutput:
        """Encode normalised images.

        Args:
            x: (B, 3, H, W); H and W are multiples of `stride`.

        Returns:
            Maps and embedding.
        """
        if not self._is_plain:
            early, grid = self.model.forward_intermediates(
                x, indices=self._indices, intermediates_only=True, stop_early=True
            )
            return EncoderOutput(grid, early, grid.mean(dim=(2, 3)))
        tokens, (early, grid) = self.model.forward_intermediates(
            x, indices=self._indices, norm=True, output_fmt='NCHW'
        )
        pooled = tokens[:, 0] if self.pool == 'token' else grid.mean(dim=(2, 3))
        return EncoderOutput(grid, early, pooled)

    def check_size(self, height: int, width: int) -> None:
        """Try a size, before a run depends on it.

        Args:
            height: Pixels.
            width: Pixels.

        Raises:
            ModelError: The network does not take images of that size.
        """
        training = self.training
        parameter = next(self.parameters())
        try:
            with torch.no_grad():
                self.eval()(parameter.new_zeros(1, 3, height, width))
        except (AssertionError, RuntimeError, ValueError) as error:
            raise ModelError(
                f'{self.architecture} does not take images of {height} x {width} '
                f'({str(error).splitlines()[0]}); networks built for one size need crops of the '
                'input size, others multiples of their stride or window'
            ) from None
        finally:
            self.train(training)

    def set_input_size(self, height: int, width: int) -> None:
        """Resample position embeddings once, for a fixed input size (needed before ONNX export).

        Args:
            height: Pixels, a multiple of `stride`.
            width: Pixels, a multiple of `stride`.
        """
        if self._is_plain and hasattr(self.model, 'set_input_size'):
            self.model.set_input_size(img_size=(height, width))

    def match_positions(self, positions: Tensor | None) -> None:
        """Give the position embeddings the grid of some weights', so that those load unchanged.

        Args:
            positions: (1, N, D) of the weights, a square grid behind the prefix tokens; anything
                else is left to the loading to refuse.
        """
        own = getattr(self.model, 'pos_embed', None)
        if positions is None or own is None or own.shape == positions.shape:
            return
        patches = positions.shape[1] - (own.shape[1] - self.model.patch_embed.num_patches)
        side = math.isqrt(max(patches, 0))
        if side > 0 and side * side == patches:
            self.set_input_size(side * self.stride, side * self.stride)

    def save(self, path: Path, input_size: tuple[int, int], provenance: dict[str, Any]) -> None:
        """Write weights under timm's own names, with the preprocessing in the metadata.

        Args:
            path: A `.safetensors` file.
            input_size: (height, width) that the weights were trained at.
            provenance: JSON-serialisable facts on origin.
        """
        metadata = {
            'architecture': self.architecture,
            'mean': json.dumps(self.mean),
            'std': json.dumps(self.std),
            'input_size': json.dumps(list(input_size)),
            'provenance': json.dumps(provenance),
        }
        write_weights(path, self.model.state_dict(), metadata)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Load weights from a file, without executing anything in it.

        Args:
            path: `.safetensors`, or a state dict that `torch.load(weights_only=True)` accepts.

        Raises:
            ModelError: The file is unreadable, or keys are missing from it.
        """
        self.load_state(*read_weights(Path(path)), str(path))

    def load_state(self, state: dict[str, Tensor], metadata: dict[str, str], path: str) -> None:
        """Load weights that were read.

        Args:
            state: Tensors under timm's names, or another project's that are known.
            metadata: `architecture`, `mean` and `std`, as far as they are known.
            path: Where they come from, for messages.

        Raises:
            ModelError: Keys are missing, or the architecture is another.
        """
        if (made_for := metadata.get('architecture', self.architecture)) != self.architecture:
            raise ModelError(f'{path} holds {made_for}, not {self.architecture}')
        if 'mean' in metadata:
            self.mean, self.std = (tuple(json.loads(metadata[k])) for k in ('mean', 'std'))
        state, mean, std = to_timm_names(state, self.architecture)
        self.match_positions(state.get('pos_embed'))
        own = self.model.state_dict()
        if mean is not None and std is not None:
            self.mean, self.std = mean, std
        missing = [k for k in own if k not in state]
        wrong = [k for k in own if k in state and own[k].shape != state[k].shape]
        if missing or wrong:
            raise ModelError(
                f'{path} does not fit {self.architecture}: {len(missing)} keys missing '
                f'{missing[:3]}, {len(wrong)} of another shape {wrong[:3]}'
            )
        self.model.load_state_dict({k: state[k] for k in own})
        if ignored := [k for k in state if k not in own]:
            _logger.info('%s: %d tensors not needed: %s ...', path, len(ignored), ignored[:3])


def write_weights(path: Path, state: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write weights of any device.

    Args:
        path: A `.safetensors` file; it appears whole.
        state: By name.
        metadata: Strings by name.

    Raises:
        ModelError: The disk is full.
    """
    tensors = {k: v.detach().cpu().contiguous() for k, v in state.items()}
    try:
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata)
            # A name that appears before its content would outlive a power cut, empty.
            with temporary.open('rb') as file:
                os.fsync(file.fileno())
    except SafetensorError as error:
        raise ModelError(f'{path} could not be written ({error})') from error


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and metadata from `.safetensors` or a plain state dict.

    Args:
        path: The file.

    Returns:
        Tensors by name, and the metadata (empty for a state dict).

    Raises:
        ModelError: The file is missing, damaged, or holds anything but tensors.
    """
    if not path.is_file():
        raise ModelError(f'{path}: no such file of weights')
    try:
        if path.suffix == '.safetensors':
            with safe_open(path, 'pt') as file:
                return {k: file.get_tensor(k) for k in file.keys()}, file.metadata() or {}  # noqa: SIM118
        state = torch.load(path, map_location='cpu', weights_only=True)
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError) as error:
        raise ModelError(f'{path}: unreadable weights ({error})') from None
    except Exception as error:  # an unpickling error of torch: it refuses code
        # Its message recommends to switch the protection off, which is no advice to pass on.
        _logger.debug('%s: %s', path, error)
        raise ModelError(
            f'{path}: not a file of plain tensors; save the state dict alone, or as .safetensors'
        ) from None
    state = state.get('state_dict', state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ModelError(f'{path}: expected a state dict of tensors')
    return state, {}


def architecture_of(path: Path) -> str | None:
    """The timm name in the metadata of a `.safetensors` file, or None.

    Args:
        path: The file.
    """
    return read_weights(path)[1].get('architecture')


def _create(
    architecture: str, pretrained: bool, input_size: tuple[int, int] | None, drop_path: float
) -> Any:
    # ViTs take any size with dynamic_img_size; others with position embeddings or windows are
    # built for one size; convolutional networks know neither option.
    choices: list[dict[str, Any]] = [{'dynamic_img_size': True}, {}]
    if input_size is not None:
        choices.insert(1, {'img_size': input_size})
    if drop_path:
        choices = [{**c, 'drop_path_rate': drop_path} for c in choices]
    for options in choices:
        try:
            return timm.create_model(architecture, pretrained=pretrained, num_classes=0, **options)
        except (TypeError, ValueError):
            continue
        except RuntimeError as error:
            similar = difflib.get_close_matches(architecture, timm.list_models(), 5, 0.5)
            raise ModelError(f'{error}; similar names: {", ".join(similar)}') from None
    raise ModelError(f'timm cannot create {architecture}')


def _feature_info(model: Any) -> list[tuple[int, int]]:
    info = getattr(model, 'feature_info', None)
    if info is None or not hasattr(model, 'forward_intermediates'):
        raise ModelError(f'{type(model).__name__} gives no intermediate features in this timm')
    entries = info.info if hasattr(info, 'info') else info
    return [(int(f['num_chs']), int(f['reduction'])) for f in entries]


def _deepest(features: list[tuple[int, int]], stride: int) -> int:
    candidates = [i for i, (_, reduction) in enumerate(features) if reduction <= stride]
    return candidates[-1] if candidates else 0
