# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a bundle's network says of frames: the data that every part of the monitor is fitted on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
from tqdm import tqdm

from clcp_ros.decision import decide
from clcp_ros.errors import ModelError
from clcp_ros.inference import Segmenter
from clcp_ros.monitor.harm import soft_counts
from clcp_ros.monitor.reference import class_shares
from clcp_ros.monitor.statistics import STATISTICS, image_statistics
from clcp_ros.replay_scores import confusion_matrix
from training.monitoring.columns import Columns


class Item(NamedTuple):
    """A frame to describe.

    Attributes:
        image: (H, W, 3) uint8 RGB, as the camera delivers it.
        label: (H, W) uint8 class ids, 255 unlabelled; None without a label.
        drive: The drive that it was taken on.
        stamp_ns: When.
        tag: Its condition, as `clear`, or what was done to it, as `fog:3`.
    """

    image: np.ndarray
    label: np.ndarray | None
    drive: str
    stamp_ns: int
    tag: str


@dataclass(frozen=True)
class Samples(Columns):
    """N described frames; S statistics, C classes.

    Attributes:
        drive: (N,) str.
        stamp_ns: (N,) int64.
        tag: (N,) str, condition or corruption, as `clear` or `fog:3`.
        low: (N, S) float64 from `image_statistics`.
        early: (N, D1) float32 from the network.
        deep: (N, D2) float32 from the network.
        scene: (N, C) float64, share of each class on the network's grid.
        logits: (N, C, h, w) float16 on the network's grid, or None.
        confusion: (N, C, C + 1) int64 from `confusion_matrix`, zero for a frame without a label;
            None when no frame has one.
        soft: (N, C, C + 1) float32 from `soft_counts`: all that the expected mIoU reads of logits,
            in a fiftieth of their size; or None.
    """

    drive: np.ndarray
    stamp_ns: np.ndarray
    tag: np.ndarray
    low: np.ndarray
    early: np.ndarray
    deep: np.ndarray
    scene: np.ndarray
    logits: np.ndarray | None = None
    confusion: np.ndarray | None = None
    soft: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name, array in self.columns.items():
            if len(array) != len(self.drive):
                raise ValueError(f'{len(array)} rows of {name} for {len(self.drive)} frames')

    @property
    def drives(self) -> list[str]:
        """Names of the drives, in the order in which they appear."""
        return list(dict.fromkeys(self.drive.tolist()))

    @property
    def labelled(self) -> np.ndarray:
        """(N,) bool: the frame has a label."""
        if self.confusion is None:
            return np.zeros(len(self), bool)
        return np.asarray(self.confusion.any(axis=(1, 2)))

    def features(self, row: int) -> dict[str, np.ndarray]:
        """`early` (D1,) and `deep` (D2,) of a frame, as a `Prediction` holds them."""
        return {'early': self.early[row], 'deep': self.deep[row]}

    @classmethod
    def concat(cls, parts: Sequence[Samples]) -> Samples:
        """Several sets as one.

        Logits remain when all parts have them; frames of a part without labels have a confusion of
        zeros.

        Raises:
            ValueError: There are no parts, or they are of different networks.
        """
        if any(part.confusion is not None for part in parts):
            classes = parts[0].scene.shape[1]
            shape = classes, classes + 1
            parts = [
                replace(p, confusion=np.zeros((len(p), *shape), int)) if p.confusion is None else p
                for p in parts
            ]
        return super().concat(parts)

    @classmethod
    def load(cls, path: Path) -> Samples:
        """Read what `save` wrote.

        Raises:
            ModelError: The file is damaged, or of a release with other statistics.
        """
        names = [field.name for field in fields(cls)]
        try:
            with np.load(path, allow_pickle=False) as stored:
                samples = cls(**{name: stored[name] for name in names if name in stored.files})
        except (OSError, ValueError, TypeError, KeyError, BadZipFile, EOFError) as error:
            raise ModelError(f'{path}: no samples of the monitor ({error}); delete it') from None
        if samples.low.ndim != 2 or samples.low.shape[1] != len(STATISTICS):
            raise ModelError(f'{path}: statistics of another release; delete it')
        return samples


def collect(
    segmenter: Segmenter,
    items: Iterable[Item],
    title: str = '',
    logits: bool = True,
    temperature: float | None = None,
) -> Samples:
    """Describe frames as the node does.

    Args:
        segmenter: Of the bundle that the monitor is fitted for.
        items: Frames; they may be read while this runs.
        title: Of the progress bar.
        logits: Keep the logits, about 80 kB for each frame.
        temperature: Keep `soft` with this temperature of the logits.

    Returns:
        One row for each item, in their order.

    Raises:
        ModelError: There are no items, or the network gives NaN.
    """
    classes = len(segmenter.bundle.classes)
    rows: dict[str, list[np.ndarray]] = {
        name: [] for name in ('low', 'early', 'deep', 'scene', 'logits', 'confusion', 'soft')
    }
    facts: list[tuple[str, int, str]] = []
    for item in tqdm(items, desc=title or 'describe frames', unit='frame'):
        prediction = segmenter.predict(item.image)
        if not prediction.finite:
            raise ModelError(f'the model gives NaN for {_name(item)}')
        facts.append((item.drive, item.stamp_ns, item.tag))
        rows['low'].append(image_statistics(item.image))
        for name, feature in prediction.features.items():
            rows[name].append(feature)
        rows['scene'].append(class_shares(prediction.logits))
        if logits:
            limit = np.finfo(np.float16).max
            rows['logits'].append(prediction.logits.clip(-limit, limit).astype(np.float16))
        if temperature is not None:
            soft = soft_counts(prediction.logits, temperature)
            rows['soft'].append(soft.astype(np.float32))
        rows['confusion'].append(_confusion(prediction.logits, item.label, classes))
    if not facts:
        raise ModelError(f'{title or "describe frames"}: there are no frames')
    drives, stamps, tags = zip(*facts, strict=True)
    arrays = {name: np.stack(values) for name, values in rows.items() if values}
    if not arrays['confusion'].any():
        del arrays['confusion']
    return Samples(np.array(drives), np.array(stamps, np.int64), np.array(tags), **arrays)


def _confusion(logits: np.ndarray, label: np.ndarray | None, classes: int) -> np.ndarray:
    if label is None:
        return np.zeros((classes, classes + 1), np.int64)
    height, width = label.shape
    return confusion_matrix(decide(logits, height, width)[0], label, classes)


def _name(item: Item) -> str:
    return f'a frame of {item.drive} ({item.tag}, stamp {item.stamp_ns})'
