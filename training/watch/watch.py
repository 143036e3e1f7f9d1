# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Measures at every validation how far the encoder has come, and from where."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clcp_ros.errors import ModelError
from training.models.image_encoder import ImageEncoder
from training.watch.alarms import State, alarms
from training.watch.probe import KnnProbe
from training.watch.quantities import (
    alignment,
    effective_rank,
    linear_cka,
    patch_cosines,
    patch_similarity,
    uniformity,
)

_TOKENS = 8192
_AT_ONCE = 16


@dataclass
class WatchConfig:
    """What is measured at validations beside the loss and retrieval.

    Attributes:
        images: Validation images whose patch tokens are compared with the initial encoder's; 0
            for none.
        probe: Folder of labelled frames (any layout that finetuning reads) for a segmentation by
            nearest neighbours.
        probe_frames: How many of them.
        probe_height: Height of the frames as the encoder sees them; 0 for the views' size.
    """

    images: int = 32
    probe: Path | None = None
    probe_frames: int = 50
    probe_height: int = 0

    def check(self) -> None:
        """Raise ModelError for values that make no sense."""
        if self.images < 0 or self.probe_frames < 2 or self.probe_height < 0:
            raise ModelError('watch: images >= 0, probe_frames >= 2 and probe_height >= 0')


class Watch:
    """Watches one run.

    Args:
        config: What.
        encoder: As it is before the first step; copied.
        images: (N, 3, S, S) normalised validation images, as many as the config asks for.
        image_size: Side of the views.
        steps: Of the whole run.
        pretrained: Whether the encoder knows anything yet.

    Attributes:
        warned: The alarms so far, by name.
    """

    def __init__(
        self,
        config: WatchConfig,
        encoder: ImageEncoder,
        images: Tensor | None,
        image_size: int,
        steps: int,
        pretrained: bool,
    ) -> None:
        self.images, self.steps, self.pretrained = images, steps, pretrained
        self.warned: dict[str, str] = {}
        self._initial = copy.deepcopy(encoder).eval() if images is not None else None
        self._reference: Tensor | None = None
        self._initial_values: dict[str, float] = {}
        self._probe: KnnProbe | None = None
        if config.probe is not None:
            height = config.probe_height or image_size
            self._probe = KnnProbe(config.probe, config.probe_frames, height, encoder)

    def measure(self, method: Any, pairs: tuple[Tensor, Tensor] | None) -> dict[str, float]:
        """Measure.

        Args:
            method: The `Method`, in evaluation mode.
            pairs: (N, D) embeddings of the validation images and scans; None for a method
                without them.

        Returns:
            Values by name: `alignment`, `uniformity_image`, `uniformity_lidar`, `image_rank`,
            `lidar_rank`; `patch_cosine`, `patch_cosine_p05`, `patch_cka`, `patch_rank`,
            `patch_similarity`; `probe_miou`; `watch_s`, the seconds that all this took.
        """
        began = time.perf_counter()
        values: dict[str, float] = {}
        if pairs is not None and len(pairs[0]) > 1:
            image, lidar = pairs
            values['alignment'] = alignment(image, lidar)
            for name, x in (('image', image), ('lidar', lidar)):
                values[f'uniformity_{name}'] = uniformity(x)
                values[f'{name}_rank'] = effective_rank(x)
        if self.images is not None or self._probe is not None:
            encoder = method.watched()
            if self.images is not None:
                values |= self._patches(encoder, method.device)
            if self._probe is not None:
                values['probe_miou'] = self._probe.miou(lambda x: encoder(x).grid, method.device)
        values['watch_s'] = time.perf_counter() - began
        return values

    def warn(
        self, step: int, values: dict[str, float], batch: int, floor: float, scale: float | None
    ) -> list[str]:
        """Find new reasons to warn.

        Args:
            step: Steps done.
            values: What was measured, retrieval and `loss` among it.
            batch: Pairs per step.
            floor: See `Method.floor`.
            scale: Inverse temperature.

        Returns:
            Lines; each alarm is given once a run.
        """
        state = State(
            step, self.steps, values, batch, floor, scale, self._initial_values, self.pretrained
        )
        new = {k: v for k, v in alarms(state).items() if k not in self.warned}
        self.warned |= new
        return list(new.values())

    def _patches(self, encoder: Any, device: torch.device) -> dict[str, float]:
        if self._reference is None:
            assert self._initial is not None
            initial = self._initial.to(device)
            with torch.no_grad():
                self._reference = torch.cat(
                    [tokens_of(initial(x).grid) for x in self._batches(device)]
                )
            self._initial = None  # its tokens are all that is needed of it
            self._initial_values = _describe(self._reference)
        with torch.no_grad():
            tokens = torch.cat([tokens_of(encoder(x).grid) for x in self._batches(device)])
        cosines = patch_cosines(tokens, self._reference)
        some = _some(tokens)
        return {
            'patch_cosine': float(cosines.mean()),
            'patch_cosine_p05': float(cosines.quantile(0.05)),
            'patch_cka': linear_cka(some, _some(self._reference)),
            **_describe(tokens),
        }

    def _batches(self, device: torch.device) -> Iterable[Tensor]:
        assert self.images is not None
        return (x.to(device) for x in self.images.split(_AT_ONCE))


def tokens_of(grid: Tensor) -> Tensor:
    """A map's cells as tokens.

    Args:
        grid: (B, D, h, w).

    Returns:
        (B, h * w, D) float32.
    """
    return grid.detach().float().flatten(2).transpose(1, 2)


def _describe(tokens: Tensor) -> dict[str, float]:
    values = {'patch_rank': effective_rank(_some(tokens))}
    if tokens.shape[1] > 1:
        values['patch_similarity'] = patch_similarity(tokens)
    return values


def _some(tokens: Tensor) -> Tensor:
    """Rows of all images, evenly spread: enough for a covariance."""
    rows = tokens.flatten(0, 1)
    return rows[:: max(len(rows) // _TOKENS, 1)]
