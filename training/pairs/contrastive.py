# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Pairs as training samples: a joint crop, an augmented image, voxels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from clcp_ros import image_codec
from clcp_ros.errors import ImageError, PairSetError
from training.pairs.crop import sample_square
from training.pairs.decode import decode_crop, snap
from training.pairs.geometry import project_points, transform_points
from training.pairs.pair_set import PairSet
from training.sparse import Voxels, join_voxels, voxelize

# Optical axes (right, down, forward) to a vehicle's (forward, left, up).
_T_VIEW_OPTICAL = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]])


@dataclass
class ViewConfig:
    """What the encoders see of a pair.

    Attributes:
        image_size: Side of the square image, in pixels; a multiple of the encoder's stride.
        crop_fraction: Range of the square crop's side, relative to the image's shorter side. The
            thesis crops 896 of 1208 pixels, 0.74.
        min_points: Fewest points wanted in a crop.
        voxel_size_m: Edge of a voxel.
        max_voxels: Most voxels of a sample; a random subset is taken of more.
        augment: Jitter brightness, contrast and colour of the image.
    """

    image_size: int = 128
    crop_fraction: list[float] = field(default_factory=lambda: [0.6, 0.9])
    min_points: int = 50
    voxel_size_m: float = 0.3
    max_voxels: int = 4000
    augment: bool = True


class ContrastivePairs(Dataset[dict[str, Any]]):
    """Samples of a pair set for a camera-lidar contrastive method.

    A sample is asked for by position and seed, and is a function of both.

    Args:
        pairs: The pair set.
        config: Crop, size, voxels.
        mean: Of the image encoder, RGB in [0, 1].
        std: Of the image encoder.
        train: Random crop and augmentation; otherwise the largest square, where the seed puts it.
    """

    def __init__(
        self,
        pairs: PairSet,
        config: ViewConfig,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        train: bool,
    ) -> None:
        self.pairs, self.config, self.train = pairs, config, train
        self._mean = np.asarray(mean, np.float32) * 255
        self._std = np.asarray(std, np.float32) * 255

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any]:
        """The sample at (position, seed): `image` (3, S, S) float32 and `voxels`."""
        position, seed = item
        rng = np.random.default_rng(seed)
        pair = self.pairs.read(position)
        assert pair.encoded is not None
        width, height = image_codec.image_size(pair.encoded)
        uv, _ = project_points(pair.xyz, pair.K, pair.T_camera_lidar)
        low, high = self.config.crop_fraction if self.train else (1.0, 1.0)
        # Rounded: the thesis' 0.7417 of 1208 rows are the 896 that shrink to 224 exactly.
        side = round(low * min(height, width)), round(high * min(height, width))
        crop = sample_square(rng, uv, (width, height), side, self.config.min_points)
        size = self.config.image_size
        # The crop decides how little of the image has to be decoded.
        crop = snap(crop, size, size, (width, height))
        try:
            image = decode_crop(pair.encoded, crop, size, size)
        except ImageError as error:
            raise PairSetError(f'{self.pairs.folder}, {pair.key}: {error}') from None
        points = pair.points[crop.contains(uv)]
        if self.train and self.config.augment:
            image = jitter(image, rng)
        view = _T_VIEW_OPTICAL @ pair.T_camera_lidar
        points = np.column_stack([transform_points(view, points[:, :3]), points[:, 3]])
        voxels = voxelize(points.astype(np.float32), self.config.voxel_size_m)
        return {
            'image': ((image - self._mean) / self._std).transpose(2, 0, 1),
            'voxels': subset(voxels, self.config.max_voxels, rng),
        }


def subset(voxels: Voxels, most: int, rng: np.random.Generator) -> Voxels:
    """A random subset of voxels where there are more than `most`."""
    if len(voxels.coords) <= most:
        return voxels
    kept = np.sort(rng.choice(len(voxels.coords), most, replace=False))
    renumbered = np.full(len(voxels.coords), -1)
    renumbered[kept] = np.arange(most)
    return Voxels(voxels.coords[kept], voxels.features[kept], renumbered[voxels.point_to_voxel])


def jitter(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change brightness, contrast and saturation at random.

    Args:
        image: (H, W, 3) uint8 RGB.
        rng: Source of the randomness.

    Returns:
        The same shape and type.
    """
    x = image.astype(np.float32)
    if rng.random() < 0.8:
        contrast, brightness, saturation = rng.uniform(0.6, 1.4, 3)
        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)[..., None]
        x = gray + (x - gray) * saturation
        x = (x - gray.mean()) * contrast + gray.mean() * brightness
    if rng.random() < 0.2:
        x = np.repeat(x.mean(axis=2, keepdims=True), 3, axis=2)
    return np.clip(x, 0, 255).astype(np.uint8)


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Join samples: `image` (B, 3, S, S), `coords` (N, 4) and `features` (N, 4) of all voxels."""
    coords, features = join_voxels([s['voxels'] for s in samples])
    image = torch.from_numpy(np.stack([s['image'] for s in samples]))
    return {'image': image, 'coords': coords, 'features': features}
