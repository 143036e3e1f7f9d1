# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A segmentation by nearest neighbours among labelled patches: no training, a few seconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clcp_ros.bundle import InputSpec
from clcp_ros.classes import UNLABELLED
from clcp_ros.errors import LabelError, ModelError
from clcp_ros.inference import preprocess
from training.models.image_encoder import ImageEncoder
from training.segmentation.frames import LAYOUTS, FrameSet, open_frames
from training.segmentation.listing import Frame, thinned
from training.segmentation.metrics import ConfusionMatrix

NEIGHBOURS = 20
TEMPERATURE = 0.07
BANK = 20_000


class KnnProbe:
    """Labels each patch of some frames as the patches of other frames that look most alike.

    The vote of the nearest neighbours is that of Wu et al. 2018 (arXiv 1805.01978), by patch and
    not by image; so is the mean IoU.

    Args:
        folder: Labelled frames in any layout that finetuning reads. The bank is of the split
            `train` and the queries of `val` where there are both; otherwise one split is divided.
        frames: How many, over bank (three fifths) and queries.
        height: Of the frames as the encoder sees them; the width follows.
        encoder: What will be asked; its stride and statistics are used.

    Raises:
        LabelError: No known layout, or too few frames.
    """

    def __init__(self, folder: Path, frames: int, height: int, encoder: ImageEncoder) -> None:
        if not folder.is_dir():
            raise LabelError(f'{folder}: no such folder of labelled frames')
        bank, queries = _choose(folder, frames)
        self.classes = bank.classes
        self._stride = encoder.stride
        self._size = _frame_size(bank, height, encoder)
        mean, std = encoder.mean, encoder.std
        spec = InputSpec(*self._size, (mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))
        self._bank = [self._read(bank, i, spec) for i in range(len(bank))]
        self._queries = [self._read(queries, i, spec) for i in range(len(queries))]

    def _read(self, frames: FrameSet, i: int, spec: InputSpec) -> tuple[np.ndarray, np.ndarray]:
        image, label = frames.read(frames.frames[i])
        rows, columns = (n // self._stride for n in self._size)
        return preprocess(image, spec), majority(label, rows, columns, len(self.classes))

    @torch.no_grad()
    def miou(self, grid_of: Callable[[Tensor], Tensor], device: torch.device) -> float:
        """The mean IoU over patches.

        Args:
            grid_of: Maps (B, 3, H, W) normalised images to (B, D, h, w) features.
            device: Where it computes.

        Returns:
            In [0, 1]; NaN where nothing is labelled or features are not finite.
        """
        keys, values = self._features(self._bank, grid_of, device)
        chosen = torch.randperm(len(keys), generator=torch.Generator().manual_seed(0))[:BANK]
        keys, values = keys[chosen.to(device)], values[chosen.to(device)]
        matrix = ConfusionMatrix(len(self.classes))
        if not len(keys) or not bool(torch.isfinite(keys).all()):
            return float('nan')
        for query in self._queries:
            features, truth = self._features([query], grid_of, device)
            if not bool(torch.isfinite(features).all()):
                return float('nan')
            near = (features @ keys.T).topk(min(NEIGHBOURS, len(keys)), dim=1)
            votes = torch.zeros(len(features), len(self.classes), device=device)
            weights = ((near.values - 1) / TEMPERATURE).exp()
            votes.scatter_add_(1, values[near.indices], weights)
            matrix.update(
                votes.argmax(1).cpu().numpy().astype(np.uint8),
                truth.cpu().numpy().astype(np.uint8),
            )
        return matrix.miou()

    def _features(
        self,
        frames: list[tuple[np.ndarray, np.ndarray]],
        grid_of: Callable[[Tensor], Tensor],
        device: torch.device,
    ) -> tuple[Tensor, Tensor]:
        """(N, D) normalised features of the labelled patches, and (N,) int64 labels."""
        features, labels = [], []
        for image, label in frames:
            grid = grid_of(torch.from_numpy(image)[None].to(device))[0].float()
            truth = torch.from_numpy(label.astype(np.int64)).to(device)
            if grid.shape[-2:] != truth.shape:
                grid = F.interpolate(grid[None], truth.shape, mode='bilinear')[0]
            tokens = F.normalize(grid.flatten(1).T, dim=1)
            labelled = truth.flatten() != UNLABELLED
            features.append(tokens[labelled])
            labels.append(truth.flatten()[labelled])
        return torch.cat(features), torch.cat(labels)


def majority(label: np.ndarray, rows: int, columns: int, classes: int) -> np.ndarray:
    """The class that covers most of each patch, where one covers half of it.

    Args:
        label: (H, W) uint8, 255 is unlabelled.
        rows: Of the patches.
        columns: Of the patches.
        classes: Number of classes.

    Returns:
        (rows, columns) uint8, 255 where no class covers half.
    """
    shares = np.stack(
        [
            cv2.resize(
                (label == c).astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA
            )
            for c in range(classes)
        ]
    )
    best = shares.argmax(0).astype(np.uint8)
    best[shares.max(0) < 0.5] = UNLABELLED
    return best


def _choose(folder: Path, count: int) -> tuple[FrameSet, FrameSet]:
    """Frames for the bank and for the queries, evenly spread."""
    layout = next((n for n, m in LAYOUTS.items() if m.recognises(folder)), 'auto')
    splits = LAYOUTS[layout].splits(folder) if layout in LAYOUTS else []
    if {'train', 'val'} <= set(splits):
        bank, queries = (open_frames(folder, s, layout) for s in ('train', 'val'))
    else:
        whole = open_frames(folder, splits[0] if splits else 'train', layout)
        if len(whole) < 2:
            raise LabelError(f'{folder}: a probe needs at least two labelled frames')
        cut = max(len(whole) * 3 // 5, 1)
        bank, queries = _subset(whole, whole.frames[:cut]), _subset(whole, whole.frames[cut:])
    bank = _subset(bank, thinned(bank.frames, max(count * 3 // 5, 1)))
    return bank, _subset(queries, thinned(queries.frames, max(count * 2 // 5, 1)))


def _subset(frames: FrameSet, some: Sequence[Frame]) -> FrameSet:
    return dataclasses.replace(frames, frames=tuple(some))


def _frame_size(frames: FrameSet, height: int, encoder: ImageEncoder) -> tuple[int, int]:
    rows, columns = frames.read_label(frames.frames[0]).shape
    stride = encoder.stride
    height = max(height // stride, 1) * stride
    width = max(round(columns / rows * height / stride), 1) * stride
    try:
        encoder.check_size(height, width)
    except ModelError:
        return height, height  # built for one size, which is a square
    return height, width
