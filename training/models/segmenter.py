# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The Segmenter (Strudel et al., ICCV 2021): an image encoder and a mask transformer.

Parameter names are those of the authors' release, so that weights can be exchanged.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from clcp_ros.bundle import InputSpec
from clcp_ros.classes import ClassSet
from clcp_ros.errors import ModelError
from training.models.image_encoder import ImageEncoder, read_weights, write_weights
from training.models.unused import freeze_without_gradient

HEAD_WIDTH = 64
"""Channels of one attention head, as in the paper."""

_DIM_CAP = 192
_VIT_DIMS = (192, 384, 768, 1024)


class SegmentationOutput(NamedTuple):
    """What the model says of a batch: the outputs of a bundle's model.

    Attributes:
        logits: (B, C, h, w) on the encoder's grid.
        early: (B, 2 D1) mean, then standard deviation of the early map over its positions.
        deep: (B, D) mean of the grid.
    """

    logits: Tensor
    early: Tensor
    deep: Tensor


@dataclass(frozen=True)
class HeadSettings:
    """Size of the mask transformer.

    Attributes:
        dim: Width, a multiple of 64. The published head has the encoder's.
        layers: Transformer blocks.
        dropout: Of attention, projections and MLPs.
        drop_path: Stochastic depth.
    """

    dim: int
    layers: int = 2
    dropout: float = 0.1
    drop_path: float = 0.0

    @classmethod
    def for_encoder(
        cls, encoder_dim: int, dim: int = 0, layers: int = 2, dropout: float = 0.1
    ) -> HeadSettings:
        """Settings that suit an encoder.

        Args:
            encoder_dim: Channels of the encoder's grid.
            dim: Width; 0 takes the encoder's where that is a ViT's (as published), else the next
                multiple of 64, at most 192.
            layers: Transformer blocks.
            dropout: Of attention, projections and MLPs.
        """
        if dim == 0:
            rounded = -(-encoder_dim // HEAD_WIDTH) * HEAD_WIDTH
            dim = encoder_dim if encoder_dim in _VIT_DIMS else min(rounded, _DIM_CAP)
        return cls(dim, layers, dropout)


class MaskTransformer(nn.Module):
    """Mask transformer: patch tokens and class embeddings attend to each other; a mask is a
    product of both.

    Args:
        num_classes: Classes of the masks, C.
        encoder_dim: Channels of the encoder's grid.
        settings: Size.

    Raises:
        ModelError: The width is no multiple of 64.
    """  # noqa: D205

    def __init__(self, num_classes: int, encoder_dim: int, settings: HeadSettings) -> None:
        super().__init__()
        dim = settings.dim
        if dim < HEAD_WIDTH or dim % HEAD_WIDTH:
            raise ModelError(f'width {dim} of the mask transformer is no multiple of {HEAD_WIDTH}')
        self.num_classes = num_classes
        self.settings = settings
        self.proj_dec = nn.Linear(encoder_dim, dim)
        self.cls_emb = nn.Parameter(torch.empty(1, num_classes, dim))
        rates = torch.linspace(0, settings.drop_path, settings.layers).tolist()
        self.blocks = nn.ModuleList(
            Block(
                dim, dim // HEAD_WIDTH, qkv_bias=True, proj_drop=settings.dropout,
                attn_drop=settings.dropout, drop_path=rate, norm_layer=nn.LayerNorm,
            )
            for rate in rates
        )  # fmt: skip
        self.decoder_norm = nn.LayerNorm(dim)
        self.mask_norm = nn.LayerNorm(num_classes)
        self.apply(_init_weights)
        nn.init.trunc_normal_(self.cls_emb, std=0.02)
        self.proj_patch = nn.Parameter(dim**-0.5 * torch.randn(dim, dim))
        self.proj_classes = nn.Parameter(dim**-0.5 * torch.randn(dim, dim))

    def set_classes(self, num_classes: int) -> None:
        """Give the head another number of classes; what belongs to single classes starts anew.

        Args:
            num_classes: Wanted; nothing changes where it is the present one.
        """
        if num_classes == self.num_classes:
            return
        self.num_classes = num_classes
        self.cls_emb = nn.Parameter(torch.empty(1, num_classes, self.settings.dim))
        nn.init.trunc_normal_(self.cls_emb, std=0.02)
        self.mask_norm = nn.LayerNorm(num_classes)

    def forward(self, grid: Tensor) -> Tensor:
        """Masks from a map of features.

        Args:
            grid: (B, D, h, w), without class or register tokens.

        Returns:
            (B, C, h, w) logits.
        """
        height, width = grid.shape[-2:]
        x = self.proj_dec(grid.flatten(2).transpose(1, 2))
        x = torch.cat([x, self.cls_emb.expand(x.shape[0], -1, -1)], dim=1)
        for block in self.blocks:
            x = block(x)
        x = self.decoder_norm(x)
        patches = x[:, : -self.num_classes] @ self.proj_patch
        classes = x[:, -self.num_classes :] @ self.proj_classes
        masks = F.normalize(patches, dim=-1) @ F.normalize(classes, dim=-1).transpose(1, 2)
        # No temperature: the scale is this norm's affine part.
        return self.mask_norm(masks).transpose(1, 2).unflatten(2, (height, width))


class SegmentationModel(nn.Module):
    """Encoder and decoder.

    Args:
        encoder: Any image encoder.
        decoder: Reads the encoder's grid.
    """

    def __init__(self, encoder: ImageEncoder, decoder: MaskTransformer) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.encoder_frozen = False

    def freeze_encoder(self) -> None:
        """Keep the encoder as it is: no gradients, and no new statistics in its norms."""
        self.encoder.requires_grad_(False)
        self.encoder_frozen = True
        self.train(self.training)

    def freeze_unused(self, size: tuple[int, int]) -> None:
        """Freeze what the masks do not depend on, such as the last stage of a ResNet.

        Args:
            size: (height, width) that the encoder takes.
        """
        trained = [p for p in self.encoder.parameters() if p.requires_grad]
        if not trained:
            return
        training = self.training
        grid = self.eval().encoder(trained[0].new_ones(1, 3, *size)).grid
        freeze_without_gradient(trained, [grid])
        self.train(training)

    def train(self, mode: bool = True) -> SegmentationModel:
        """Set training mode; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.encoder_frozen:
            # requires_grad alone would let BatchNorm overwrite its running statistics.
            self.encoder.eval()
        return self

    def forward(self, x: Tensor) -> SegmentationOutput:
        """Segment normalised images.

        Args:
            x: (B, 3, H, W); H and W are multiples of the encoder's stride.

        Returns:
            Logits and the features that the shift monitor reads.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.encoder_frozen):
            features = self.encoder(x)
        early = features.early.flatten(2)
        return SegmentationOutput(
            self.decoder(features.grid),
            torch.cat([early.mean(2), early.var(2, correction=0).sqrt()], dim=1),
            features.grid.mean(dim=(2, 3)),
        )


@dataclass(frozen=True)
class LoadedModel:
    """A model from a file, with what is needed to use it.

    Attributes:
        model: In evaluation mode, at the input size.
        classes: Class set of the logits.
        input: Geometry and normalisation of the input.
        provenance: Where the weights come from.
    """

    model: SegmentationModel
    classes: ClassSet
    input: InputSpec
    provenance: dict[str, Any]


def save_model(
    path: Path,
    model: SegmentationModel,
    classes: ClassSet,
    input_size: tuple[int, int],
    provenance: dict[str, Any],
) -> None:
    """Write `encoder.*` (timm's names) and `decoder.*` (the authors' names) to one file.

    Args:
        path: A `.safetensors` file; it appears whole.
        model: The model.
        classes: Class set of its logits.
        input_size: (height, width) that frames are resized to.
        provenance: JSON-serialisable facts on origin.
    """
    state = {f'encoder.{k}': v for k, v in model.encoder.model.state_dict().items()}
    state |= {f'decoder.{k}': v for k, v in model.decoder.state_dict().items()}
    metadata = {
        'architecture': model.encoder.architecture,
        'mean': json.dumps(model.encoder.mean),
        'std': json.dumps(model.encoder.std),
        'input_size': json.dumps(list(input_size)),
        'head': json.dumps(asdict(model.decoder.settings)),
        'classes': json.dumps(asdict(classes)),
        'provenance': json.dumps(provenance),
    }
    if (epsilon := norm_epsilon(model.encoder)) is not None:
        metadata['norm_epsilon'] = json.dumps(epsilon)
    if (grid := _position_grid(model.encoder)) is not None:
        metadata['position_grid'] = json.dumps(grid)
    write_weights(path, state, metadata)


def load_model(path: Path, drop_path: float = 0.0) -> LoadedModel:
    """Read a model that `save_model` wrote.

    Args:
        path: The `.safetensors` file.
        drop_path: Stochastic depth of the encoder, for training on.

    Returns:
        The model in evaluation mode, and its description.

    Raises:
        ModelError: The file is missing, damaged, or not a segmentation model.
    """
    state, metadata = read_weights(path)
    try:
        entry = json.loads(metadata['classes'])
        classes = ClassSet(
            entry['name'], tuple(entry['names']), tuple(tuple(c) for c in entry['colors'])
        )
        height, width = json.loads(metadata['input_size'])
        mean, std = (tuple(json.loads(metadata[k])) for k in ('mean', 'std'))
        settings = HeadSettings(**json.loads(metadata['head']))
        provenance = json.loads(metadata['provenance'])
        epsilon = float(json.loads(metadata.get('norm_epsilon', 'NaN')))
        grid = json.loads(metadata.get('position_grid', 'null'))
        encoder = ImageEncoder(
            metadata['architecture'], input_size=(height, width), drop_path=drop_path
        )
    except (KeyError, ValueError, TypeError) as error:
        raise ModelError(
            f'{path} is not a segmentation model ({error!r}); '
            'make one with `python training/finetune.py`'
        ) from None
    model = SegmentationModel(encoder, MaskTransformer(len(classes), encoder.embed_dim, settings))
    encoder.mean, encoder.std = mean, std
    if not math.isnan(epsilon):
        set_norm_epsilon(encoder, epsilon)
    if grid is None:
        encoder.match_positions(state.get('encoder.pos_embed'))
    else:
        encoder.set_input_size(grid[0] * encoder.stride, grid[1] * encoder.stride)
    for name, part in (('encoder', encoder.model), ('decoder', model.decoder)):
        own = {k.removeprefix(f'{name}.'): v for k, v in state.items() if k.startswith(name)}
        try:
            part.load_state_dict(own)
        except RuntimeError as error:
            reason = ' '.join(str(error).split())[:200]
            raise ModelError(f'{path}: the {name} does not fit: {reason}') from None
    encoder.set_input_size(height, width)
    return LoadedModel(model.eval(), classes, InputSpec(height, width, mean, std), provenance)


def norm_epsilon(encoder: ImageEncoder) -> float | None:
    """The epsilon of an encoder's layer norms where all have one; releases differ in it.

    Args:
        encoder: Any.
    """
    values = {m.eps for m in encoder.modules() if isinstance(m, nn.LayerNorm)}
    return values.pop() if len(values) == 1 else None


def set_norm_epsilon(encoder: ImageEncoder, epsilon: float) -> None:
    """Give all layer norms of an encoder one epsilon.

    Args:
        encoder: Any.
        epsilon: As it was trained with.
    """
    for module in encoder.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = epsilon


def _position_grid(encoder: ImageEncoder) -> list[int] | None:
    """(rows, columns) of a ViT's position embeddings, None for networks without."""
    model = encoder.model
    if getattr(model, 'pos_embed', None) is None or not hasattr(model, 'patch_embed'):
        return None
    return list(model.patch_embed.grid_size)


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
