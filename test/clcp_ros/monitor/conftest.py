# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What several tests of the monitor's stream share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

from clcp_ros.inference import Prediction
from clcp_ros.monitor import (
    STATISTICS,
    Evidence,
    FrameScore,
    Knowledge,
    Level,
    MonitorConfig,
    ShiftMonitor,
    ShiftReference,
    ShiftState,
    image_statistics,
)
from clcp_ros.monitor.harm import FEATURES, HarmReference
from clcp_ros.monitor.sequential import SequentialReference
from training.monitoring.novelty import fit_novelty
from training.monitoring.samples import Samples

SECOND = 1_000_000_000
STEP_NS = SECOND // 2
CLASSES = ('road', 'car', 'sky')
SOURCE_IOU = 0.8


class Kit:
    """Makes monitors of one domain, and streams for them.

    Args:
        novelty: The domain of `daylight_image` and `prediction`.
    """

    def __init__(self, novelty: ShiftReference) -> None:
        self._novelty = novelty

    def knowledge(self, **changes: Any) -> Knowledge:
        sequential = SequentialReference(k=3.0, h=8.0, rho=0.7, c=5.0)
        return Knowledge(self._novelty, sequential, **{'harm': self.harm_reference(), **changes})

    def monitor(self, config: MonitorConfig | None = None, **changes: Any) -> ShiftMonitor:
        return ShiftMonitor(self.knowledge(**changes), config, classes=CLASSES)

    @staticmethod
    def harm_reference() -> HarmReference:
        """Takes the expected IoU of the classes that are present for the mIoU."""
        coefficients = np.zeros(len(FEATURES))
        coefficients[FEATURES.index('soft_iou')] = 1.0
        source = np.full(3, SOURCE_IOU)
        return HarmReference.from_arrays({
            'temperature': np.asarray(1.0),
            'class_iou': source,
            'class_soft_iou': source,
            'class_rate': np.full(3, 0.9),
            'class_share': np.full(3, 1 / 3),
            'class_confidence': np.full(3, 0.9),
            'expected': np.ones(3, bool),
            'presence': np.array([0.0, 0.0, 0.0, 30.0]),  # always in view
            'lowest': np.full(len(FEATURES), -1e9),
            'highest': np.full(len(FEATURES), 1e9),
            'coefficients': coefficients,
            'intercept': np.asarray(0.0),
            'curve': np.array([[0.0, 0.0], [1.0, 1.0]]),
            'sizes': np.array([1.0, 40.0]),
            'source': np.full(2, SOURCE_IOU),
            'margins': np.array([[0.1, 0.1], [0.03, 0.03]]),
        })  # fmt: skip

    @staticmethod
    def evidence(novelty: float = 0.0, iou: float = SOURCE_IOU) -> Evidence:
        """Of a frame with this novelty, whose classes all have this expected IoU."""
        right = 2 * iou / (1 + iou)
        confusion = np.full((3, 3), (1 - right) / 6) + np.eye(3) * (right - (1 - right) / 2) / 3
        score = FrameScore(novelty, novelty, novelty, novelty)
        return Evidence(np.zeros(len(STATISTICS)), score, np.hstack([confusion, np.zeros((3, 1))]))

    @staticmethod
    def play(
        monitor: ShiftMonitor, samples: Iterable[Evidence | None], start_ns: int = 0
    ) -> list[ShiftState]:
        """Judge samples, two a second."""
        return [monitor.judge(start_ns + i * STEP_NS, s) for i, s in enumerate(samples)]

    @staticmethod
    def levels(states: Iterable[ShiftState]) -> list[Level]:
        return [state.level for state in states]

    @staticmethod
    def prediction(seed: int = 0, scale: float = 1.0) -> Prediction:
        rng = np.random.default_rng(seed)
        features = {
            'early': rng.normal(0, scale, 4).astype(np.float32),
            'deep': rng.normal(0, scale, 3).astype(np.float32),
        }
        return Prediction(rng.normal(0, 30, (3, 6, 10)).astype(np.float32), features)

    @staticmethod
    def film(
        monitor: ShiftMonitor,
        images: Iterable[np.ndarray | Any],
        start_ns: int = 0,
        step_ns: int = SECOND // 10,
    ) -> list[ShiftState]:
        """Give a monitor frames, ten a second."""
        return [
            monitor.update(start_ns + i * step_ns, image, Kit.prediction(i))
            for i, image in enumerate(images)
        ]

    def good(self, number: int) -> list[Evidence]:
        return [self.evidence()] * number


@pytest.fixture(scope='session')
def kit(daylight_image: Callable[..., Any]) -> Kit:
    """A kit whose domain is that of `daylight_image`."""

    def frames(seeds: range) -> Samples:
        said = [Kit.prediction(seed).features for seed in seeds]
        return Samples(
            drive=np.array([f'drive{seed // 10}' for seed in seeds]),
            stamp_ns=np.arange(len(seeds)) * STEP_NS,
            tag=np.array(['clear'] * len(seeds)),
            low=np.stack([image_statistics(daylight_image(seed)) for seed in seeds]),
            early=np.stack([features['early'] for features in said]),
            deep=np.stack([features['deep'] for features in said]),
            scene=np.full((len(seeds), 3), 1 / 3),
        )

    return Kit(fit_novelty(frames(range(1000, 1060)), frames(range(2000, 2060))).reference)
