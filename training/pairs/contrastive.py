# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Pairs as training samples: a joint crop, an augmented image, prepared points."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from clcp_ros import image_codec
from clcp_ros.errors import ImageError, PairSetError
from training.models.lidar.base import LidarSample, Preparation
from training.models.lidar.minkunet import VoxelPreparation, VoxelSettings
from training.pairs.augment import coarse_dropout, jitter, thesis
from training.pairs.crop import Crop, sample_square
from training.pairs.decode import decode_crop, snap
from training.pairs.geometry import project_points, transform_points
from training.pairs.ground import alone, ground_plane, height_above, normals
from training.pairs.occlusion import unoccluded
from training.pairs.pair import Pair
from training.pairs.pair_set import PairSet
from training.pairs.weather import dense_depth, fill, weather

# Optical axes (right, down, forward) to a vehicle's (forward, left, up).
_T_VIEW_OPTICAL = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]])

_ROAD_M = 0.3


@dataclass
class ViewConfig:
    """What the encoders see of a pair.

    Attributes:
        image_size: Side of the square image, in pixels; a multiple of the encoder's stride.
        crop: A square of the image, or the whole of it squeezed into one (LIP-Loc).
        crop_fraction: Range of the square crop's side, relative to the image's shorter side. The
            thesis crops 896 of 1208 pixels, 0.74.
        points: The lidar encoder sees the points of the crop, or all points of the scan (LIP-Loc).
        frame: Axes of the points: of the camera, turned to forward, left, up (camera); the same
            with the lidar as their origin (sensor); as recorded (lidar).
        road_z_m: Shift points along z so that the road lies at this height: -1.73 is what weights
            from SemanticKITTI have seen.
        flip: Mirror every second training pair, image and points.
        min_points: Fewest points wanted in a crop.
        voxel_size_m: Edge of a voxel, of lidar encoders that have voxels.
        max_voxels: Most voxels of a sample; a random subset is taken of more.
        augment: Of training images: nothing; brightness, contrast and colour (light); what the
            thesis or LIP-Loc do; bad weather and light that know the lidar's depth (weather).
    """

    image_size: int = 128
    crop: Literal['square', 'whole'] = 'square'
    crop_fraction: list[float] = field(default_factory=lambda: [0.6, 0.9])
    points: Literal['crop', 'all'] = 'crop'
    frame: Literal['camera', 'sensor', 'lidar'] = 'camera'
    road_z_m: float | None = None
    flip: bool = False
    min_points: int = 50
    voxel_size_m: float = 0.3
    max_voxels: int = 4000
    augment: Literal['none', 'light', 'thesis', 'lip_loc', 'weather'] = 'light'

    def check(self) -> None:
        """Raise PairSetError for values that make no sense."""
        for name, least in (('image_size', 1), ('min_points', 0), ('max_voxels', 1)):
            if (value := getattr(self, name)) < least:
                raise PairSetError(f'views.{name} must be at least {least}, not {value}')
        if not 0 < self.voxel_size_m < math.inf:
            raise PairSetError(f'views.voxel_size_m must be positive, not {self.voxel_size_m:g}')
        if self.road_z_m is not None and not math.isfinite(self.road_z_m):
            raise PairSetError(f'views.road_z_m is a height in metres, not {self.road_z_m:g}')
        fraction = self.crop_fraction
        if len(fraction) != 2 or not 0 < fraction[0] <= fraction[1] <= 1:
            raise PairSetError(
                'views.crop_fraction are two numbers with 0 < smallest <= largest <= 1, not '
                f'{fraction}'
            )
        if self.flip and self.frame == 'lidar':
            raise PairSetError(
                'points as recorded cannot be mirrored with the image: views.flip needs '
                'views.frame camera or sensor'
            )


@dataclass(frozen=True)
class Extras:
    """What a method wants of a sample beside the image and the points; nothing costs nothing.

    Attributes:
        clean: The image as it was before augmentation, in the same crop.
        points: Where the points lie in the image, and which of them the camera sees.
        geometry: Range, height above the road, normal and intensity of each point; needs `points`.
        reach: The highest row of the image that the lidar's rays reach.
    """

    clean: bool = False
    points: bool = False
    geometry: bool = False
    reach: bool = False


GEOMETRY = ('log_range', 'height', 'normal_x', 'normal_y', 'normal_z', 'intensity')
"""Columns of `geometry`: logarithm of the distance in metres that a camera with a focal length of
the image's side would see it at; height above the road in metres (NaN where there is no road);
unit normal (forward, left, up), zeros where unknown; intensity in [0, 1]."""


class ContrastivePairs(Dataset[dict[str, Any]]):
    """Samples of a pair set for a camera-lidar contrastive method.

    A sample is asked for by position and seed, and is a function of both.

    Args:
        pairs: The pair set.
        config: Crop, size, augmentation.
        mean: Of the image encoder, RGB in [0, 1].
        std: Of the image encoder.
        train: Random crop and augmentation; otherwise the largest square, where the seed puts it.
        preparation: Of the lidar encoder, from points to what it reads; voxels by default.
        extras: What else the method wants.
    """

    def __init__(
        self,
        pairs: PairSet,
        config: ViewConfig,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        train: bool,
        preparation: Preparation | None = None,
        extras: Extras = Extras(),
    ) -> None:
        self.pairs, self.config, self.train, self.extras = pairs, config, train, extras
        self.preparation = preparation or VoxelPreparation(
            VoxelSettings(voxel_size_m=config.voxel_size_m)
        )
        self._mean = np.asarray(mean, np.float32) * 255
        self._std = np.asarray(std, np.float32) * 255
        _, self._sequence = np.unique(pairs.column('sequence'), return_inverse=True)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any]:
        """The sample at (position, seed).

        Returns:
            `image` (3, S, S) float32; `lidar`, from the preparation; `sequence` and `time_s` of
            the pair; `clean` (3, S, S) float32, `uv` (N, 2) float32 places of the points in the
            image, in [0, 1] from edge to edge and -1 for points without a neighbour, `visible`
            (N,) bool, `geometry` (N, 6) float32 and `reach`, a row in [0, 1], where the extras
            ask for them.
        """
        position, seed = item
        rng = np.random.default_rng(seed)
        pair = self.pairs.read(position)
        assert pair.encoded is not None
        width, height = image_codec.image_size(pair.encoded)
        uv, depth = project_points(pair.xyz, pair.K, pair.T_camera_lidar)
        size = self.config.image_size
        crop = self._crop(rng, uv, width, height)
        try:
            clean = decode_crop(pair.encoded, crop, size, size)
        except ImageError as error:
            raise PairSetError(f'{self.pairs.folder}, {pair.key}: {error}') from None
        inside = crop.contains(uv)
        shown = inside if self.config.points == 'crop' else np.ones(len(uv), bool)
        visible = inside
        weathered = self.train and self.config.augment == 'weather'
        if self.extras.points or weathered:
            # In the pixels of the camera, not those of the small image: there all lie close.
            visible = inside.copy()
            visible[inside] = unoccluded(
                uv[inside] - [crop.x, crop.y], depth[inside], crop.width, crop.height
            )
        # Places in the crop as resized, (0, 0) being the centre of its first pixel.
        scale = size / np.array([crop.width, crop.height])
        uv = (uv + 0.5 - [crop.x, crop.y]) * scale - 0.5
        points = self._points(pair)
        flip = bool(self.config.flip and self.train and rng.random() < 0.5)
        if flip:
            clean = np.ascontiguousarray(clean[:, ::-1])
            uv = np.column_stack([size - 1 - uv[:, 0], uv[:, 1]])
            points[:, 1] *= -1
        sample: dict[str, Any] = {
            'sequence': int(self._sequence[position]),
            'time_s': pair.camera_stamp_ns / 1e9,
        }
        plane = self._plane(pair, points, weathered)
        image, holes = self._augment(clean, rng, uv, depth, visible, points, plane)
        sample['image'] = self._normalise(image, holes)
        lidar = self.preparation(points[shown].astype(np.float32))
        if self.train and self.config.augment == 'lip_loc' and 'image' in lidar:
            rows, columns = lidar['image'].shape
            lidar['holes'] = coarse_dropout(rows, columns, rng)
        sample['lidar'] = limit_voxels(lidar, self.config.max_voxels, rng)
        if self.extras.clean:
            sample['clean'] = self._normalise(clean)
        if self.extras.points:
            places = np.float32((uv[shown] + 0.5) / size)
            # Flakes and drops are nothing that a pixel shows.
            places[alone(points[shown, :3])] = -1
            sample['uv'] = places
            sample['visible'] = visible[shown] & (places[:, 0] >= 0)
        if self.extras.geometry:
            focal = float(crop.adjust(pair.K, size, size)[0, 0]) / size
            sample['geometry'] = self._geometry(pair, points, plane, focal, flip)[shown]
        if self.extras.reach:
            sample['reach'] = _reach(pair, crop.adjust(pair.K, size, size)) / size
        return sample

    def collate(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """`collate_with` this set's preparation."""
        return collate_with(self.preparation, samples)

    def _crop(self, rng: np.random.Generator, uv: np.ndarray, width: int, height: int) -> Crop:
        """The window, on whole pixels of the reduced image: it decides how little is decoded."""
        size = self.config.image_size
        if self.config.crop == 'whole':
            return snap(Crop(0, 0, width, height), size, size, (width, height))
        low, high = self.config.crop_fraction if self.train else (1.0, 1.0)
        # Rounded: the thesis' 0.7417 of 1208 rows are the 896 that shrink to 224 exactly.
        shorter = min(height, width)
        side = max(round(low * shorter), 1), max(round(high * shorter), 1)
        crop = sample_square(rng, uv, (width, height), side, self.config.min_points)
        return snap(crop, size, size, (width, height))

    def _points(self, pair: Pair) -> np.ndarray:
        """(N, 4) float64 in the frame asked for."""
        xyz = np.asarray(pair.xyz, np.float64)
        if self.config.frame != 'lidar':
            T = _T_VIEW_OPTICAL @ pair.T_camera_lidar
            if self.config.frame == 'sensor':
                T = T.copy()
                T[:3, 3] = 0
            xyz = transform_points(T, xyz)
        points = np.column_stack([xyz, pair.intensity])
        if self.config.road_z_m is not None and len(points):
            points[:, 2] += self.config.road_z_m - ground_plane(xyz)[2]
        return points

    def _plane(self, pair: Pair, points: np.ndarray, weathered: bool) -> np.ndarray | None:
        """The road, where something asks for it."""
        if not (weathered or self.extras.geometry):
            return None
        return ground_plane(points[:, :3])

    def _augment(
        self,
        image: np.ndarray,
        rng: np.random.Generator,
        uv: np.ndarray,
        depth: np.ndarray,
        visible: np.ndarray,
        points: np.ndarray,
        plane: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """The image that the encoder trains on, and (S, S) bool holes in it or None."""
        kind = self.config.augment if self.train else 'none'
        size = self.config.image_size
        if kind == 'light':
            return jitter(image, rng), None
        if kind == 'thesis':
            return thesis(image, rng), None
        if kind == 'lip_loc':
            return image, coarse_dropout(size, size, rng)
        if kind == 'weather':
            assert plane is not None
            far = dense_depth(uv[visible], depth[visible], size, size)
            road = np.abs(height_above(points[visible, :3], plane)) < _ROAD_M
            ground = fill(uv[visible], road.astype(np.float32), size, size)
            return weather(image, far, rng, ground), None
        return image, None

    def _geometry(
        self, pair: Pair, points: np.ndarray, plane: np.ndarray | None, focal: float, flip: bool
    ) -> np.ndarray:
        """(N, 6) float32, see `GEOMETRY`."""
        assert plane is not None
        # Distances and normals are the camera's, whatever the frame the lidar encoder sees.
        view = transform_points(_T_VIEW_OPTICAL @ pair.T_camera_lidar, pair.xyz)
        if flip:
            view[:, 1] *= -1
        distance = np.linalg.norm(view, axis=1)
        return np.column_stack(
            [
                np.log(np.maximum(distance / focal, 0.1)), height_above(points[:, :3], plane),
                normals(view), pair.intensity,
            ]
        ).astype(np.float32)  # fmt: skip

    def _normalise(self, image: np.ndarray, holes: np.ndarray | None = None) -> np.ndarray:
        x = (image - self._mean) / self._std
        if holes is not None:
            x[holes] = 0
        return x.transpose(2, 0, 1)


def _reach(pair: Pair, K: np.ndarray) -> float:
    """The row of the lidar's highest rays in the middle of the image, where they are lowest.

    Found from what came back anywhere around: a ray into the sky brings nothing.
    """
    view = np.asarray(pair.xyz, np.float64) @ pair.T_camera_lidar[:3, :3].T
    if not len(view):
        return float('inf')
    up = -view[:, 1] / np.maximum(np.hypot(view[:, 0], view[:, 2]), 1e-6)
    return float(K[1, 2] - K[1, 1] * np.percentile(up, 99.5) + 0.5)


def collate_with(preparation: Preparation, samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Join samples.

    Args:
        preparation: Of the lidar encoder.
        samples: Of `ContrastivePairs`; at least one.

    Returns:
        `image` (B, 3, S, S), `lidar` for the lidar encoder, `sequence` (B,) int64 and `time_s`
        (B,) float64; with extras `clean` (B, 3, S, S), `reach` (B,) float32, and `uv`, `visible`
        and `geometry` of all points, sample after sample.
    """
    lidar = preparation.collate([s['lidar'] for s in samples])
    if 'holes' in samples[0]['lidar']:
        lidar['holes'] = torch.from_numpy(np.stack([s['lidar']['holes'] for s in samples]))
    batch: dict[str, Any] = {
        'lidar': lidar,
        'sequence': torch.tensor([s['sequence'] for s in samples]),
        'time_s': torch.tensor([s['time_s'] for s in samples], dtype=torch.float64),
    }
    if 'reach' in samples[0]:
        batch['reach'] = torch.tensor([s['reach'] for s in samples], dtype=torch.float32)
    for name, join in (
        ('image', np.stack), ('clean', np.stack), ('uv', np.concatenate),
        ('visible', np.concatenate), ('geometry', np.concatenate),
    ):  # fmt: skip
        if name in samples[0]:
            batch[name] = torch.from_numpy(join([s[name] for s in samples]))
    return batch


def limit_voxels(sample: LidarSample, most: int, rng: np.random.Generator) -> LidarSample:
    """A random subset of a sample's voxels where there are more than `most`.

    Args:
        sample: Prepared points; without `coords` they have no voxels and stay as they are.
        most: Number of voxels.
        rng: Source of the randomness.

    Returns:
        The sample; points whose voxel was left out have -1 in `point_to_voxel`.
    """
    if 'coords' not in sample or len(sample['coords']) <= most:
        return sample
    count = len(sample['coords'])
    kept = np.sort(rng.choice(count, most, replace=False))
    renumbered = np.full(count, -1)
    renumbered[kept] = np.arange(most)
    rows = sample['point_to_voxel']
    return {
        **sample,
        'coords': sample['coords'][kept],
        'features': sample['features'][kept],
        'point_to_voxel': np.where(rows < 0, -1, renumbered[rows]),
    }
