# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Augmentation of an image and its label: scale, crop, flip, photometric distortion.

The pipeline of Segmenter and of the thesis (MMSegmentation's), in numpy and OpenCV. All randomness
comes from the generator that is passed in.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from clcp_ros.classes import UNLABELLED
from clcp_ros.errors import ModelError
from clcp_ros.inference import resize

_CROP_TRIES = 10
_LARGEST_SCALE = 10.0  # a hundred times the pixels


@dataclass(frozen=True)
class AugmentationConfig:
    """Geometry and strength.

    Attributes:
        crop: Height and width of the training crop; none for the input size.
        scale: Range of the random scale of the input size, uniform.
        cat_max: A crop is drawn again (10 times at most) while one class fills more than this
            share of its labelled pixels.
        photometric: Distort brightness, contrast, saturation and hue.
    """

    crop: tuple[int, int] | None = (128, 192)
    scale: tuple[float, float] = (0.75, 1.75)
    cat_max: float = 0.75
    photometric: bool = True

    def check(self, input_size: tuple[int, int]) -> None:
        """Raise ModelError for values that make no sense.

        Args:
            input_size: (height, width) that is scaled.
        """
        low, high = self.scale
        if not 0 < low <= high <= _LARGEST_SCALE:
            raise ModelError(
                f'scale must be two numbers in (0, {_LARGEST_SCALE:g}], the smaller one first, '
                f'not {low:g} and {high:g}'
            )
        if not 0 < self.cat_max <= 1:
            raise ModelError(f'cat_max must be in (0, 1], not {self.cat_max:g}')
        crop = self.crop or input_size
        if min(*input_size, *crop) < 1:
            raise ModelError(
                f'input_size and crop must be positive, not {input_size[0]} x {input_size[1]} and '
                f'{crop[0]} x {crop[1]}'
            )
        if self.crop and any(c > n * high for c, n in zip(crop, input_size, strict=True)):
            raise ModelError(
                f'a crop of {crop[0]} x {crop[1]} is larger than the input of {input_size[0]} x '
                f'{input_size[1]} at its largest scale, {high:g}: the rest would always be black; '
                "--augmentation.crop null takes the input's size"
            )


def augment(
    image: np.ndarray,
    label: np.ndarray,
    input_size: tuple[int, int],
    config: AugmentationConfig,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Augment one frame.

    Args:
        image: (H, W, 3) uint8 RGB.
        label: (H, W) uint8.
        input_size: (height, width) that the network sees on the robot, before random scaling.
        config: Geometry and strength.
        rng: Source of all randomness.

    Returns:
        (h, w, 3) uint8 and (h, w) uint8 of the crop's size, padded with black and 255.
    """
    crop = config.crop or input_size
    scale = rng.uniform(*config.scale)
    height, width = (max(1, round(n * scale)) for n in input_size)
    image = resize(image, height, width)
    label = cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST)
    image, label = random_crop(image, label, crop, config.cat_max, rng)
    if rng.random() < 0.5:
        image, label = image[:, ::-1], label[:, ::-1]
    if config.photometric:
        image = photometric_distortion(image, rng)
    return pad(image, label, crop)


def random_crop(
    image: np.ndarray,
    label: np.ndarray,
    size: tuple[int, int],
    cat_max: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Crop at random, at most to the image's size, and avoid crops of nearly one class.

    Args:
        image: (H, W, 3) uint8.
        label: (H, W) uint8.
        size: (height, width) of the crop.
        cat_max: Largest share of one class among labelled pixels.
        rng: Source of randomness.
    """
    for _ in range(_CROP_TRIES):
        top = int(rng.integers(max(image.shape[0] - size[0], 0) + 1))
        left = int(rng.integers(max(image.shape[1] - size[1], 0) + 1))
        window = (slice(top, top + size[0]), slice(left, left + size[1]))
        counts = np.bincount(label[window].ravel(), minlength=256)
        counts[UNLABELLED] = 0
        if (counts > 0).sum() > 1 and counts.max() < cat_max * counts.sum():
            break
    return image[window], label[window]


def photometric_distortion(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast, saturation and hue, each with probability 0.5.

    Args:
        image: (H, W, 3) uint8 RGB.
        rng: Source of randomness.

    Returns:
        (H, W, 3) uint8, clipped after every step.
    """
    if rng.random() < 0.5:
        image = _linear(image, 1, rng.uniform(-32, 32))
    contrast_first = rng.random() < 0.5
    contrast = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else 1.0
    if contrast_first:
        image = _linear(image, contrast, 0)
    saturation = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else 1.0
    hue = int(rng.integers(-18, 18)) if rng.random() < 0.5 else 0
    if saturation != 1 or hue:
        hsv = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2HSV)
        # OpenCV's 8-bit hue counts half degrees.
        hsv[..., 0] = (hsv[..., 0].astype(np.int16) + hue) % 180
        hsv[..., 1] = _linear(hsv[..., 1], saturation, 0)
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return image if contrast_first else _linear(image, contrast, 0)


def pad(
    image: np.ndarray, label: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Pad at the bottom and on the right with black and 255.

    Args:
        image: (H, W, 3) uint8.
        label: (H, W) uint8.
        size: (height, width) wanted, at least the image's.
    """
    rows, columns = size[0] - image.shape[0], size[1] - image.shape[1]
    if rows or columns:
        image = np.pad(image, ((0, rows), (0, columns), (0, 0)))
        label = np.pad(label, ((0, rows), (0, columns)), constant_values=UNLABELLED)
    return image, label


def _linear(image: np.ndarray, factor: float, offset: float) -> np.ndarray:
    if factor == 1 and offset == 0:
        return image
    table = np.clip(np.arange(256, dtype=np.float32) * factor + offset, 0, 255).astype(np.uint8)
    return table[image]
