# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures of an evaluation: some frames of each part, and the best, median and worst of them."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

from training.segmentation.frames import Frame, FrameSet
from training.segmentation.inference import InferenceConfig
from training.segmentation.predictors import Predictor
from training.segmentation.scores import Scores

Gallery = dict[str, dict[str, tuple[str, np.ndarray]]]
"""By part and kind (best, median, worst): a frame's name with its mIoU, and its picture."""

_WIDTH = 320


def picture(
    image: np.ndarray, label: np.ndarray, mask: np.ndarray, palette: np.ndarray
) -> np.ndarray:
    """Image, label and prediction side by side, 320 pixels wide each.

    Args:
        image: (H, W, 3) uint8 RGB.
        label: (H, W) uint8.
        mask: (H, W) uint8.
        palette: (256, 3) uint8 RGB.

    Returns:
        (h, 960, 3) uint8 RGB.
    """
    size = (_WIDTH, round(_WIDTH * image.shape[0] / image.shape[1]))
    panels = [cv2.resize(image, size, interpolation=cv2.INTER_AREA)]
    panels += [
        palette[cv2.resize(ids, size, interpolation=cv2.INTER_NEAREST)] for ids in (label, mask)
    ]
    return np.hstack(panels)


def evenly(frames: FrameSet, count: int) -> dict[Frame, int]:
    """Some frames of each split and condition, spread over it, numbered from 1.

    Args:
        frames: The frames.
        count: How many of each.
    """
    parts: dict[tuple[str, str], list[Frame]] = {}
    for frame in frames.frames:
        parts.setdefault((frame.condition, frame.split), []).append(frame)
    shown: dict[Frame, int] = {}
    for members in parts.values():
        places = np.linspace(0, len(members) - 1, min(count, len(members)) + 2)[1:-1]
        for number, place in enumerate(places, 1):
            shown[members[round(place)]] = number
    return shown


def gallery(
    predictor: Predictor,
    sets: list[FrameSet],
    scores: Mapping[str, Scores],
    members: Mapping[str, list[tuple[FrameSet, Frame]]],
    how: InferenceConfig,
) -> Gallery:
    """The best, median and worst frame of each part, predicted once more.

    Args:
        predictor: The model.
        sets: What was measured; ids outside their class set are not counted again.
        scores: What was counted, by part.
        members: Frames of each part.
        how: Whole or by windows.
    """
    found: Gallery = {}
    for part, score in scores.items():
        places = {frame.name: (frames, frame) for frames, frame in members[part]}
        found[part] = {}
        own = dict(score.frames)
        for kind, name in score.chosen().items():
            frames, frame = places[name]
            image, label = frames.read(frame)
            height, width = label.shape
            mask = predictor.segment(image, (height, width), how).mask
            drawing = picture(image, label, mask, predictor.classes.palette)
            found[part][kind] = f'{name}, mIoU {100 * own[name]:.1f}', drawing
    for frames in sets:
        frames.labels.take()
    return found
