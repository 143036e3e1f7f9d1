# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""LIP-Loc (Shubodh et al. 2023, arXiv 2312.16648): images and range images, one kind of network.

As its code trains it: embeddings are not normalised, targets are soft (how alike the images and
the range images of a batch are among themselves), and the camera's encoder learns a hundredth as
fast as the heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from clcp_ros.errors import ModelError
from training.methods.base import Batch, Method, MethodEntry, Setup
from training.methods.embedded import Embedded
from training.models.image_encoder import read_weights
from training.models.lidar.base import LidarEncoder, LidarOptions
from training.models.lidar.range_image import PREFIX, RangeEncoderSettings, RangeImageEncoder
from training.models.lip_loc_names import IMAGENET, Tower, encoder_of, head_of, is_lip_loc
from training.models.minkunet_layouts import compare_states
from training.models.range_image import LIPLOC_EMPTY

_WIDTH = 2048


@dataclass
class LipLocConfig:
    """What is LIP-Loc's own.

    Attributes:
        weights: A published checkpoint to start from, both encoders and heads.
        shared: One encoder for images and range images; LIP-Loc has two.
        empty: Pixels of the range image without a point: 251 as in LIP-Loc's training on x86, or
            0, what was meant.
        normalise: L2-normalise embeddings, as a variant of LIP-Loc does.
        temperature: Fixed; divides the similarities and multiplies those of the targets.
        dropout: Of the heads.
        image_lr: Peak learning rate of the camera's encoder.
        lidar_lr: Peak learning rate of the lidar's encoder.
        head_lr: Peak learning rate of the heads.
        head_weight_decay: Of the heads; encoders have none.
        schedule: plateau multiplies the rates by `factor` when the validation loss has not fallen
            for more than `patience` validations, which LIP-Loc has after every pass; optimizer
            takes the schedule of the optimizer's options.
        factor: Of a plateau.
        patience: Validations.
    """

    weights: str | None = None
    shared: bool = False
    empty: int = LIPLOC_EMPTY
    normalise: bool = False
    temperature: float = 1.0
    dropout: float = 0.1
    image_lr: float = 1e-5
    lidar_lr: float = 1e-4
    head_lr: float = 1e-3
    head_weight_decay: float = 1e-3
    schedule: Literal['plateau', 'optimizer'] = 'plateau'
    factor: float = 0.8
    patience: int = 1

    @property
    def follows_validation(self) -> bool:
        """Whether the result depends on how often is validated."""
        return self.schedule == 'plateau'

    def check(self) -> None:
        """Raise ModelError for values that make no sense."""
        if not self.temperature > 0:
            raise ModelError(f'temperature must be positive, not {self.temperature}')
        if not 0 < self.factor < 1:
            raise ModelError(f'factor must be between 0 and 1, not {self.factor}')
        if not 0 <= self.dropout < 1:
            raise ModelError(f'dropout must be in [0, 1), not {self.dropout}')


def soft_target_loss(image: Tensor, lidar: Tensor, temperature: float = 1.0) -> Tensor:
    """LIP-Loc's loss: cross-entropy to how alike the pairs are within each modality.

    `logits = L I' / t`, `targets = softmax((I I' + L L') / 2 * t)` by rows; half the cross-entropy
    of the rows plus half that of the columns, against the transposed targets. The gradient passes
    through the targets, too, as in LIP-Loc's code.

    Args:
        image: (B, D).
        lidar: (B, D).
        temperature: t.

    Returns:
        Scalar, the mean over the pairs.
    """
    logits = lidar @ image.T / temperature
    alike = (image @ image.T + lidar @ lidar.T) / 2
    targets = F.softmax(alike * temperature, dim=1)
    rows = -(targets * F.log_softmax(logits, dim=1)).sum(dim=1)
    columns = -(targets.T * F.log_softmax(logits.T, dim=1)).sum(dim=1)
    return ((rows + columns) / 2).mean()


class ProjectionHead(nn.Module):
    """From an encoder's embedding to the joint one.

    Args:
        c_in: Channels of the encoder.
        c_out: Size of the joint embedding.
        dropout: Probability.
    """

    def __init__(self, c_in: int, c_out: int, dropout: float) -> None:
        super().__init__()
        # A ResNet-50 gives 2048 channels by itself.
        self.fc = nn.Linear(c_in, _WIDTH) if c_in != _WIDTH else nn.Identity()
        self.projection = nn.Linear(_WIDTH, c_out)
        self.hidden = nn.Linear(c_out, c_out)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(c_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in) to (B, c_out)."""
        p: Tensor = self.projection(self.fc(x))
        out: Tensor = self.norm(self.dropout(self.hidden(F.gelu(p))) + p)
        return out


class LipLoc(Method):
    """An encoder of images and one of range images.

    Args:
        setup: What it is made of; `options` is a `LipLocConfig`. The lidar encoder is a
            `range_<timm name>`.

    Raises:
        ModelError: Another lidar encoder, or weights that do not fit.
    """

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        o, width = self.options, setup.model.embed_dim
        o.check()
        self.image_head = ProjectionHead(self.image_encoder.embed_dim, width, o.dropout)
        self.lidar_head = ProjectionHead(self.lidar_encoder.embed_dim, width, o.dropout)
        if o.weights is not None:
            self._load_published(Path(o.weights))

    @property
    def options(self) -> LipLocConfig:
        """The method's own."""
        options: LipLocConfig = self.setup_.options or LipLocConfig()
        return options

    def make_lidar_encoder(self) -> LidarEncoder:
        """The encoder of range images; the image encoder itself where they are shared."""
        model, o = self.setup_.model, self.options
        if not model.lidar_encoder.startswith(PREFIX):
            raise ModelError(
                f'lip_loc reads range images: its lidar encoder is {PREFIX}<timm name>, such as '
                f'{PREFIX}{model.image_encoder}, not {model.lidar_encoder}'
            )
        own = model.lidar_encoder.removeprefix(PREFIX)
        if o.shared and (own != model.image_encoder or model.freeze_lidar or model.lidar_weights):
            raise ModelError(
                f'a shared encoder is one network: use {PREFIX}{model.image_encoder} without '
                'freeze_lidar and lidar_weights'
            )
        size = self.setup_.views.image_size
        encoder = RangeImageEncoder(
            model.lidar_encoder,
            LidarOptions(model.lidar_weights, model.freeze_lidar, model.lidar_precision),
            RangeEncoderSettings(
                image_size=(size, size), empty=o.empty, pool=model.pool,
                pretrained=model.image_pretrained and not o.shared,
            ),
        )  # fmt: skip
        if o.shared:
            encoder.image_encoder = self.image_encoder
        return encoder

    def embed(self, batch: Batch) -> Embedded:
        """Embed a batch; without `normalise` embeddings have any length."""
        image = self.image_head(self.encode_image(batch['image']).pooled)
        lidar = self.lidar_head(self.lidar_encoder(batch['lidar']).pooled)
        if self.options.normalise:
            image, lidar = F.normalize(image, dim=1), F.normalize(lidar, dim=1)
        return Embedded(image, lidar, visible=batch['lidar']['point_count'] > 0)

    def contrast(self, image: Tensor, lidar: Tensor) -> Tensor:
        """The loss with soft targets."""
        return soft_target_loss(image, lidar, self.options.temperature)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Camera's encoder, lidar's encoder, heads."""
        o = self.options
        image = [p for p in self.image_encoder.parameters() if p.requires_grad]
        known = {id(p) for p in image}
        lidar = [
            p for p in self.lidar_encoder.parameters() if p.requires_grad and id(p) not in known
        ]
        heads = [*self.image_head.parameters(), *self.lidar_head.parameters()]
        return [
            {'params': image, 'lr': o.image_lr, 'weight_decay': 0.0},
            {'params': lidar, 'lr': o.lidar_lr, 'weight_decay': 0.0},
            {'params': heads, 'lr': o.head_lr, 'weight_decay': o.head_weight_decay},
        ]

    def make_schedule(self, optimizer: torch.optim.Optimizer) -> LRScheduler | dict[str, Any]:
        """Lower rates when the validation loss stays; constant ones without validation."""
        o = self.options
        if o.schedule == 'optimizer':
            return super().make_schedule(optimizer)
        every = self.trainer.val_check_interval if self._trainer is not None else None
        if not isinstance(every, int) or every < 1 or self.trainer.limit_val_batches == 0:
            return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
        return {
            'scheduler': ReduceLROnPlateau(optimizer, factor=o.factor, patience=o.patience),
            'monitor': 'val_loss',
            'interval': 'step',
            'frequency': every,
            'strict': False,
        }

    def _load_published(self, path: Path) -> None:
        state, _ = read_weights(path)
        if not is_lip_loc(state):
            raise ModelError(
                f'{path} has not the names of a checkpoint of LIP-Loc (encoder_camera.model.*)'
            )
        # Its encoders are used to images normalised like this, whatever timm's weights expect.
        self.image_encoder.mean, self.image_encoder.std = IMAGENET
        towers: tuple[tuple[Any, Tower, nn.Module], ...] = (
            (self.image_encoder.model, 'camera', self.image_head),
            (cast('RangeImageEncoder', self.lidar_encoder).image_encoder.model, 'lidar',
             self.lidar_head),
        )  # fmt: skip
        for network, tower, head in towers:
            for module, part in (
                (network, encoder_of(state, tower)), (head, head_of(state, tower)),
            ):  # fmt: skip
                if difference := compare_states(part, module.state_dict()):
                    raise ModelError(f'{path}, {tower}: does not fit: {difference}')
                module.load_state_dict(part)


METHOD = MethodEntry('lip_loc', LipLocConfig, LipLoc, own_rates=True)
