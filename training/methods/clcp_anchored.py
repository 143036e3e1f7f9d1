# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""CLCP with its feet on the ground: dense, anchored to geometry and to what was known before.

CLCP contrasts one embedding per image. What a segmentation head reads are the tokens, which that
leaves to chance. Here each token answers for what it shows: for the lidar's features of the same
place, for range, height, normal and intensity measured there, for what a frozen copy of the first
weights and a moving average of the present ones said of the undegraded image. Every term has a
weight that may be zero, and then costs nothing. Formulas: docs/methods.md.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clcp_ros.errors import ModelError
from training.methods.base import Batch, Method, MethodEntry, Setup
from training.methods.clcp import MAX_SCALE, embed_scans, lidar_head
from training.methods.dense import (
    NegativeRules,
    allowed_negatives,
    anchor_values,
    gram_values,
    group_points,
    mixed,
    nce_by_frame,
    nce_values,
    point_values,
    return_values,
)
from training.methods.embedded import Embedded, Own
from training.methods.gather import world_size
from training.methods.geometry import GeometryHead
from training.methods.losses import clip_loss
from training.models.image_encoder import EncoderOutput, ImageEncoder
from training.models.interpolate import interpolate_weights, move_average
from training.models.lidar.base import LidarFeatures, sample_maps, samples_of
from training.models.lora import ATTENTION, add_lora, merge_lora
from training.pairs.contrastive import Extras


@dataclass
class AnchoredConfig:
    """Weights of the terms, and what belongs to each.

    Attributes:
        cls: Weight of CLIP's loss on one embedding per image and scan: retrieval.
        point: Weight of the regression from tokens to the lidar's features of the same place.
        nce: Weight of the contrast between tokens and the lidar's features; it trains the lidar
            encoder for `point`, too.
        geometry: Weight of range, height, normal and intensity told from tokens.
        returns: Weight of whether the lidar's rays came back, told from tokens: from the sky none
            do.
        anchor: Weight of the cosine between tokens and those of the frozen initial encoder.
        gram: Weight of the same for the similarities among an image's tokens.
        consistency: Weight of the agreement with a moving average that sees the clean image.
        temperature: Of both contrasts; that of `cls` is learned, that of `nce` stays.
        min_points: Fewest visible points of a cell that counts.
        max_groups: Most cells of a frame for `point` and `nce`, at random; 0 for all. With
            negatives from the whole batch, most cells of all its frames. Memory grows with its
            square.
        max_points: Most points of a batch for `geometry`, at random; 0 for all. Of several
            processes each draws its share.
        negatives: Which cells are negatives of each other.
        width: Of the projections of `point` and `nce`, and of the predictor of `consistency`.
        ema: Decay of the moving average, towards which it rises from the first step on; 0 for
            none.
        export_ema: Save the moving average at the end, instead of the last weights.
        wise_ft: Share of the trained weights in what is saved, the rest being the initial ones
            (WiSE-FT, Wortsman et al. 2022); 1 for no mixture.
        lora_rank: Train low-rank changes of the image encoder's layers only; 0 for all weights.
        lora_layers: Which layers, as a regular expression; attention of vision transformers by
            default.
    """

    cls: float = 0.2
    point: float = 0.0
    nce: float = 0.5
    geometry: float = 1.0
    returns: float = 0.0
    anchor: float = 0.0
    gram: float = 0.0
    consistency: float = 0.0
    temperature: float = 0.07
    min_points: int = 1
    max_groups: int = 2048
    max_points: int = 16384
    negatives: NegativeRules = field(default_factory=NegativeRules)
    width: int = 256
    ema: float = 0.0
    export_ema: bool = True
    wise_ft: float = 1.0
    lora_rank: int = 0
    lora_layers: str = ATTENTION

    def __post_init__(self) -> None:
        # As it is read again from the metadata of a finished run.
        if isinstance(self.negatives, dict):
            self.negatives = NegativeRules(**self.negatives)

    @property
    def dense(self) -> bool:
        """Whether tokens meet features of points."""
        return self.point > 0 or self.nce > 0

    @property
    def anchored(self) -> bool:
        """Whether the initial encoder is needed in training."""
        return self.anchor > 0 or self.gram > 0

    @property
    def trains_lidar_encoder(self) -> bool:
        """Whether any term has gradients for the lidar encoder."""
        return self.nce > 0 or self.cls > 0

    def check(self, from_weights: bool) -> None:
        """Raise ModelError for values that make no sense.

        Args:
            from_weights: Whether the image encoder starts from weights that are worth something.
        """
        weights = {n: getattr(self, n) for n in _TERMS}
        for name, weight in weights.items():
            if not 0 <= weight < math.inf:
                raise ModelError(f'the weight {name} must be a number from 0 on, not {weight}')
        if not any(weights.values()):
            raise ModelError(
                f'all terms have weight 0, so nothing is learned: {", ".join(_TERMS)}'
            )
        if not self.temperature > 0:
            raise ModelError(f'temperature must be positive, not {self.temperature}')
        if not 0 <= self.ema < 1:
            raise ModelError(f'ema is a decay in [0, 1), not {self.ema}')
        if not 0 <= self.wise_ft <= 1:
            raise ModelError(f'wise_ft is a share between 0 and 1, not {self.wise_ft}')
        if self.consistency > 0 and not self.ema:
            raise ModelError('consistency needs a moving average to agree with: ema 0.99, say')
        if not from_weights:
            for name, asked in (
                ('anchor', self.anchor > 0), ('gram', self.gram > 0),
                ('wise_ft', self.wise_ft < 1), ('lora_rank', self.lora_rank > 0),
            ):  # fmt: skip
                if asked:
                    raise ModelError(
                        f'{name} holds on to the initial weights, which are random here: give '
                        'model.image_weights (of a first run on clear days, say), or use '
                        'consistency'
                    )


_TERMS = ('cls', 'point', 'nce', 'geometry', 'returns', 'anchor', 'gram', 'consistency')


class ClcpAnchored(Method):
    """Image tokens that answer for the lidar's points and for what was known before.

    Args:
        setup: What it is made of; `options` is an `AnchoredConfig`.

    Attributes:
        teacher: The moving average of the image encoder, or None.

    Raises:
        ModelError: Options that exclude each other.
    """

    teacher: ImageEncoder | None

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        o, model = self.options, setup.model
        o.check(model.starts_from_weights)
        channels = self.image_encoder.embed_dim
        # Not a submodule: it is the same after a resume, and no part of what is saved.
        self._initial: list[ImageEncoder] = []
        if o.anchored or o.wise_ft < 1:
            self._initial = [_frozen(self.image_encoder)]
        if o.lora_rank:
            add_lora(self.image_encoder.model, o.lora_rank, layers=o.lora_layers)
        self.teacher = _frozen(self.image_encoder) if o.ema else None
        self.register_buffer('steps', torch.zeros((), dtype=torch.int64))
        self.contrast_weight = o.cls
        if o.cls:
            self.image_head = nn.Linear(channels, model.embed_dim)
            self.lidar_head = lidar_head(
                model.lidar_head, self.lidar_encoder.embed_dim, model.embed_dim
            )
            self.logit_scale = nn.Parameter(torch.tensor([math.log(1 / o.temperature)]))
        if o.dense:
            self.token_head = _mlp(channels, o.width, model.embed_dim)
            self.point_head = nn.Linear(self.lidar_encoder.embed_dim, model.embed_dim)
        if o.geometry:
            self.geometry_head = GeometryHead(channels)
        if o.returns:
            self.return_head = nn.Linear(channels, 1)
        if o.consistency:
            self.predictor = _mlp(channels, o.width, channels)
        if not o.trains_lidar_encoder:
            self.lidar_encoder.freeze()
        if o.dense and not o.nce:
            self.point_head.requires_grad_(False)

    @property
    def options(self) -> AnchoredConfig:
        """The method's own."""
        options: AnchoredConfig = self.setup_.options or AnchoredConfig()
        return options

    @property
    def extras(self) -> Extras:
        """What its terms want of a sample."""
        o = self.options
        shape = o.nce > 0 and o.negatives.same_shape
        return Extras(
            clean=o.anchored or o.consistency > 0,
            points=o.dense or o.geometry > 0 or o.returns > 0,
            geometry=o.geometry > 0 or shape,
            reach=o.returns > 0,
        )

    def prepare(self, batch: Sequence[Batch]) -> Sequence[Batch]:
        """Draw the points of `geometry` from the whole batch, whatever its chunks.

        Raises:
            ModelError: Negatives of the whole batch, of which a chunk or process sees a part.
        """
        o = self.options
        if o.nce and o.negatives.scope == 'batch' and (len(batch) > 1 or world_size() > 1):
            raise ModelError(
                'negatives.scope batch knows the frames of one chunk of one process only: leave '
                'out --chunk and train in one process, or take negatives.scope frame'
            )
        most = o.max_points // world_size() if o.max_points else 0
        if not (o.geometry and most):
            return batch
        seen = torch.cat([chunk['visible'] for chunk in batch])
        candidates = seen.nonzero()[:, 0]
        if len(candidates) <= most:
            return batch
        drawn = torch.zeros_like(seen)
        drawn[candidates[torch.randperm(len(candidates), device=seen.device)[:most]]] = True
        parts = drawn.split([len(chunk['visible']) for chunk in batch])
        return [{**c, 'drawn': part} for c, part in zip(batch, parts, strict=True)]

    def embed(self, batch: Batch) -> Embedded:
        """Embed a chunk, and in training compute the terms that concern tokens."""
        o = self.options
        if not (self.training or o.cls):
            return Embedded(None, None)
        output = self.encode_image(batch['image'])
        scans: LidarFeatures | None = None
        if o.cls or (o.dense and self.training):
            scans = self.lidar_encoder(batch['lidar'], per_point=o.dense and self.training)
        own = self._terms(batch, output.grid, scans) if self.training else {}
        if not o.cls:
            return Embedded(None, None, own)
        assert scans is not None
        lidar, visible = embed_scans(
            self.lidar_head, scans.tokens, scans.token_sample, batch['lidar']['point_count']
        )
        image = self.image_head(output.pooled)
        return Embedded(F.normalize(image, dim=1), lidar, own, visible)

    def contrast(self, image: Tensor, lidar: Tensor) -> Tensor:
        """CLIP's loss."""
        return clip_loss(image, lidar, cast('Tensor', self.scale))

    @property
    def scale(self) -> Tensor | None:
        """What multiplies the cosines of `cls`."""
        return self.logit_scale.exp() if self.options.cls else None

    def after_step(self) -> None:
        """Keep the scale within [1, 100], and move the average."""
        if self.options.cls:
            self.logit_scale.clamp_(0, math.log(MAX_SCALE))
        steps = cast('Tensor', self.steps)
        steps += 1
        if self.teacher is not None:
            # Early averages of few steps: the initial weights are nothing to hold on to.
            decay = min(self.options.ema, float((steps + 1) / (steps + 10)))
            move_average(self.teacher, self.image_encoder, decay)

    def train(self, mode: bool = True) -> ClcpAnchored:
        """Set the mode; the moving average stays in evaluation."""
        super().train(mode)
        if getattr(self, 'teacher', None) is not None:
            cast('nn.Module', self.teacher).eval()
        return self

    def exported_encoder(self) -> ImageEncoder:
        """The average or the last weights, changes of low rank merged, mixed with the first."""
        o = self.options
        source = self.teacher if self.teacher is not None and o.export_ema else self.image_encoder
        encoder = copy.deepcopy(source)
        merge_lora(encoder.model)
        if o.wise_ft < 1:
            initial = self._initial[0].to(next(encoder.parameters()).device)
            interpolate_weights(encoder.model, initial.model, o.wise_ft)
        return encoder

    def watched(self) -> Callable[[Tensor], EncoderOutput]:
        """What would be saved now, not the student."""
        if self.options.wise_ft < 1:
            return self.exported_encoder().eval()
        if self.teacher is not None and self.options.export_ema:
            return self.teacher
        return self.encode_image

    def _terms(self, batch: Batch, grid: Tensor, scans: LidarFeatures | None) -> dict[str, Own]:
        """What concerns tokens; in float32, since cosines of bfloat16 have two digits."""
        o = self.options
        own: dict[str, Own] = {}
        first = self._initial_tokens(batch['clean']) if o.anchored else None
        wanted = self._average_tokens(batch['clean']) if o.consistency else None
        with torch.autocast(grid.device.type, enabled=False):
            grid = grid.float()
            if o.dense:
                assert scans is not None
                own |= self._dense_terms(batch, grid, scans)
            if o.geometry:
                own['geometry'] = Own(o.geometry, self._geometry_values(batch, grid))
            if o.returns:
                logits = self.return_head(grid.permute(0, 2, 3, 1))[..., 0]
                sample = samples_of(batch['lidar']['point_count'])
                values = return_values(logits, batch['uv'], sample, batch['reach'])
                own['returns'] = Own(o.returns, values)
            if first is not None and o.anchor:
                own['anchor'] = Own(o.anchor, anchor_values(grid, first))
            if first is not None and o.gram:
                own['gram'] = Own(o.gram, gram_values(grid, first))
            if wanted is not None:
                said = self.predictor(grid.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
                own['consistency'] = Own(o.consistency, anchor_values(said, wanted))
        return own

    def _dense_terms(self, batch: Batch, grid: Tensor, scans: LidarFeatures) -> dict[str, Own]:
        o = self.options
        assert scans.points is not None
        assert scans.point_seen is not None
        shape = (len(grid), grid.shape[2], grid.shape[3])
        most = o.max_groups
        if o.negatives.scope == 'batch':
            most = -(-most // len(grid))
        groups = group_points(
            batch['uv'], batch['visible'] & scans.point_seen, scans.point_sample, shape,
            o.min_points, most, self._seeds(batch),
        )  # fmt: skip
        image = F.normalize(self.token_head(groups.of_map(grid)), dim=1)
        lidar = F.normalize(self.point_head(groups.mean(scans.points.float())), dim=1)
        own: dict[str, Own] = {}
        if o.point:
            own['point'] = Own(o.point, point_values(image, lidar.detach()))
        if o.nce:
            rows = groups.by_frame() if o.negatives.scope == 'frame' else None
            geometry = batch.get('geometry')
            allowed = allowed_negatives(
                groups, o.negatives, batch['sequence'], batch['time_s'], lidar,
                None if geometry is None else groups.mean(geometry), rows,
            )  # fmt: skip
            if rows is None:
                values = nce_values(image, lidar, 1 / o.temperature, allowed)
            else:
                values = nce_by_frame(image, lidar, 1 / o.temperature, allowed, rows)
            own['nce'] = Own(o.nce, values)
        return own

    def _seeds(self, batch: Batch) -> Tensor:
        """(B,) what each frame's random choice follows from: frame and step, not its batch."""
        frame = mixed(batch['time_s'].double().contiguous().view(torch.int64))
        return frame + mixed(batch['sequence']) + cast('Tensor', self.steps)

    def _geometry_values(self, batch: Batch, grid: Tensor) -> Tensor:
        counts = batch['lidar']['point_count']
        chosen = batch['visible'].nonzero()[:, 0]
        if 'drawn' in batch:
            chosen = chosen[batch['drawn'][chosen]]
        sample = samples_of(counts)[chosen]
        tokens = sample_maps(
            grid, batch['uv'][chosen], torch.bincount(sample, minlength=len(grid))
        )
        return self.geometry_head.values(tokens, batch['geometry'][chosen])

    def _initial_tokens(self, images: Tensor) -> Tensor:
        initial = self._initial[0].to(images.device)
        with torch.no_grad():
            return initial(images).grid.float()

    def _average_tokens(self, images: Tensor) -> Tensor:
        assert self.teacher is not None
        with torch.no_grad():
            tokens: Tensor = self.teacher(images).grid.float()
        return tokens


def _frozen(encoder: ImageEncoder) -> ImageEncoder:
    """A copy in evaluation that gets no gradients."""
    frozen = copy.deepcopy(encoder)
    frozen.requires_grad_(False)
    return frozen.eval()


def _mlp(c_in: int, width: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(c_in, width), nn.GELU(), nn.Linear(width, c_out))


METHOD = MethodEntry('clcp_anchored', AnchoredConfig, ClcpAnchored)
