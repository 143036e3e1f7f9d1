# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Stage 2: what the bundle's network and the monitor's measurements say of every frame, kept.

What is kept depends on the network and on the temperature of its logits alone: monitors that were
fitted differently are compared on the same files, and the scores of a reference are cheap.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

from benchmarks.shift_plan import Drive
from benchmarks.shift_streams import (
    Piece,
    ShiftBenchmarkError,
    drive_pieces,
    read_frames,
    run_jobs,
)
from clcp_ros import decision, preprocess
from clcp_ros.bundle import load_bundle
from clcp_ros.decision import decide
from clcp_ros.inference import Prediction, Segmenter
from clcp_ros.monitor import faults, harm, statistics
from clcp_ros.monitor.faults import FaultDetector
from clcp_ros.monitor.harm import soft_counts
from clcp_ros.monitor.knowledge import Knowledge
from clcp_ros.monitor.reference import FrameScore, class_shares
from clcp_ros.monitor.statistics import image_statistics
from clcp_ros.preprocess import resize
from clcp_ros.replay_scores import confusion_matrix
from training.monitoring.columns import Columns
from training.monitoring.samples import Samples

RIVALS = ('max_softmax', 'entropy', 'energy', 'max_logit')
"""Scores of a frame that the network alone gives, each higher for stranger frames."""

BINS = 256
"""Of the histograms of the greatest probability, from 0 to 1."""


class Sight(NamedTuple):
    """A frame to describe.

    Attributes:
        case: What happens, as `clear`.
        stamp_ns: When.
        severity: Of it.
        image: (H, W, 3) uint8 RGB.
        label: (H, W) uint8 class ids, or None.
    """

    case: str
    stamp_ns: int
    severity: float
    image: np.ndarray
    label: np.ndarray | None


@dataclass(frozen=True)
class Described(Columns):
    """N frames of one piece; S statistics, C classes.

    Attributes:
        case: (N,) str.
        stamp_ns: (N,) int64.
        severity: (N,) float32.
        low: (N, S) float64 statistics of the image.
        early: (N, D1) float32.
        deep: (N, D2) float32.
        scene: (N, C) float64 class shares.
        soft: (N, C, C + 1) float32 from `HarmReference.describe`.
        confusion: (N, C, C + 1) int32 against the labels; zero without.
        rivals: (N, 4) float32, see `RIVALS`.
        histogram: (N, 256) int32 of the greatest probabilities over the grid.
        fault: (N,) str, kind of a fault of the camera, or nothing.
    """

    case: np.ndarray
    stamp_ns: np.ndarray
    severity: np.ndarray
    low: np.ndarray
    early: np.ndarray
    deep: np.ndarray
    scene: np.ndarray
    soft: np.ndarray
    confusion: np.ndarray
    rivals: np.ndarray
    histogram: np.ndarray
    fault: np.ndarray

    def features(self, row: int) -> dict[str, np.ndarray]:
        """`early` (D1,) and `deep` (D2,) of a frame, as a `Prediction` holds them."""
        return {'early': self.early[row], 'deep': self.deep[row]}

    def samples(self, drive: str) -> Samples:
        """As the fits take them; tags are the cases."""
        return Samples(
            np.full(len(self), drive), self.stamp_ns, self.case, self.low, self.early, self.deep,
            self.scene, None, self.confusion.astype(np.int64),
        )  # fmt: skip

    @classmethod
    def load(cls, path: Path) -> Described:
        """Read what `save` wrote.

        Raises:
            ShiftBenchmarkError: It is missing or damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                return cls(**{name: stored[name] for name in cls.__dataclass_fields__})
        except (OSError, ValueError, TypeError, KeyError, BadZipFile, EOFError) as error:
            raise ShiftBenchmarkError(f'{path}: {error}; run the stage evidence again') from None


class Describer:
    """Describes frames with a network.

    Args:
        segmenter: Of the bundle.
        temperature: That the logits are divided by for the expected mIoU.
    """

    def __init__(self, segmenter: Segmenter, temperature: float = 1.0) -> None:
        self.segmenter, self.temperature = segmenter, temperature

    def predict(self, image: np.ndarray) -> tuple[Prediction, np.ndarray]:
        """What the network says, and the small image that it saw."""
        spec = self.segmenter.bundle.frame
        small = resize(image, spec.height, spec.width)
        return self.segmenter.run(self.segmenter.prepare(small))[0], small

    def describe(self, sights: Iterable[Sight]) -> Described:
        """Describe frames, those of a case in the order of their stamps."""
        detectors: dict[str, FaultDetector] = {}
        rows: dict[str, list[Any]] = {name: [] for name in Described.__dataclass_fields__}
        classes = len(self.segmenter.bundle.classes)
        for sight in sights:
            prediction, small = self.predict(sight.image)
            logits = prediction.logits
            detector = detectors.setdefault(sight.case, FaultDetector())
            fault = detector.update(sight.stamp_ns, small)
            confidence, rivals = _rivals(logits)
            values = {
                'case': sight.case, 'stamp_ns': sight.stamp_ns, 'severity': sight.severity,
                'low': image_statistics(sight.image), 'early': prediction.features['early'],
                'deep': prediction.features['deep'], 'scene': class_shares(logits),
                'soft': soft_counts(logits, self.temperature).astype(np.float32),
                'confusion': _confusion(logits, sight.label, classes),
                'rivals': rivals, 'fault': fault.kind if fault else '',
                'histogram': np.histogram(confidence, BINS, (0, 1))[0].astype(np.int32),
            }  # fmt: skip
            for key, value in values.items():
                rows[key].append(value)
        arrays = {key: np.array(values) for key, values in rows.items()}
        arrays['stamp_ns'] = arrays['stamp_ns'].astype(np.int64)
        arrays['severity'] = arrays['severity'].astype(np.float32)
        return Described(**arrays)


def _rivals(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Greatest probability of every cell, and `RIVALS`."""
    flat = logits.reshape(len(logits), -1).astype(np.float64)
    highest = flat.max(axis=0)
    odds = np.exp(flat - highest)
    total = odds.sum(axis=0)
    p = odds / total
    confidence = 1 / total
    entropy = -(p * np.log(np.maximum(p, 1e-12))).sum(axis=0)
    scores = [
        -confidence.mean(), entropy.mean(), -(highest + np.log(total)).mean(), -highest.mean()
    ]  # fmt: skip
    return confidence, np.array(scores, np.float32)


def _confusion(logits: np.ndarray, label: np.ndarray | None, classes: int) -> np.ndarray:
    if label is None:
        return np.zeros((classes, classes + 1), np.int32)
    height, width = label.shape
    return confusion_matrix(decide(logits, height, width)[0], label, classes).astype(np.int32)


@functools.lru_cache(maxsize=1)
def measurements_digest() -> str:
    """Eight digits that change with the code of what is measured on a frame."""
    digest = hashlib.sha256()
    for module in (statistics, faults, harm, decision, preprocess):
        digest.update(Path(str(module.__file__)).read_bytes())
    return digest.hexdigest()[:8]


@functools.lru_cache(maxsize=1)
def segmenter_of(bundle: Path) -> Segmenter:
    """The bundle's network, with one thread; kept in each process."""
    return Segmenter(load_bundle(bundle), threads=1)


def sights_of(path: Path) -> Iterator[Sight]:
    """The frames of a file of streams."""
    for frame in read_frames(path):
        yield Sight(frame.case, frame.stamp_ns, frame.severity, frame.image, frame.label)


def describe_pieces(
    root: Path,
    folder: Path,
    bundle: Path,
    pieces: Sequence[Piece],
    temperature: float,
    workers: int,
    title: str,
) -> None:
    """Describe the files of streams that are not yet described.

    Args:
        root: Folder of the size, with `streams`.
        folder: Where the results go.
        bundle: Of the network.
        pieces: Which.
        temperature: Of the logits.
        workers: Processes.
        title: Of the bar.
    """
    jobs = [
        (_describe_piece, bundle, temperature, (p.stream(root), p.described(folder)))
        for p in pieces
    ]  # fmt: skip
    run_jobs(title, jobs, [(p.described(folder), p.frames) for p in pieces], workers)


def _describe_piece(bundle: Path, temperature: float, paths: tuple[Path, Path]) -> None:
    source, target = paths
    if not target.exists():
        Describer(segmenter_of(bundle), temperature).describe(sights_of(source)).save(target)


def described_drive(folder: Path, drive: Drive) -> Described:
    """All frames of a clear drive, in order.

    Args:
        folder: With what is described.
        drive: The drive.
    """
    return Described.concat([Described.load(p.described(folder)) for p in drive_pieces(drive)])


def scores_of(knowledge: Knowledge, described: Described) -> list[FrameScore]:
    """The scores of a monitor's reference; cheap."""
    return [
        knowledge.novelty.score(described.low[i], described.features(i), described.scene[i])
        for i in range(len(described))
    ]
