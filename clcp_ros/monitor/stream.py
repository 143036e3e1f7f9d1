# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The monitor of one camera's stream: smoothing, faults, levels with hysteresis.

Time is the image's own stamp, never the wall clock, so that a replay gives the live run's states.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

import cv2
import numpy as np

from clcp_ros.frame import Frame
from clcp_ros.monitor.reference import FrameScore, ShiftReference
from clcp_ros.monitor.statistics import frame_statistics

_EARLY = 0.1  # share of the period by which a frame may come early: stamps jitter


class Level(IntEnum):
    """Severity, numbered as diagnostic_msgs/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2
    STALE = 3


@dataclass(frozen=True)
class MonitorConfig:
    """Thresholds of the monitor; all may change while it runs.

    Attributes:
        warn_enter: Smoothed novelty, in standard deviations, from which the level is WARN.
        warn_exit: Smoothed novelty below which it is OK again.
        smoothing_s: Time constant of the smoothing.
        max_gap_s: A longer gap between stamps starts anew.
        min_samples: Scored frames after a start before the monitor commits itself.
        frozen_samples: Identical frames in a row that mean a frozen camera.
        flat_std: Grey-level standard deviation below which an image shows nothing.
        period_s: Time between two frames that are scored; 0 scores every frame. Frames that follow
            each other closely say the same, and faults are looked for in every frame.
    """

    warn_enter: float = 3.0
    warn_exit: float = 2.0
    smoothing_s: float = 1.0
    max_gap_s: float = 2.0
    min_samples: int = 5
    frozen_samples: int = 10
    flat_std: float = 2.0
    period_s: float = 0.5

    def __post_init__(self) -> None:
        if not self.warn_exit < self.warn_enter:
            raise ValueError('warn_exit must be below warn_enter')
        for name in ('smoothing_s', 'max_gap_s', 'min_samples', 'frozen_samples'):
            if getattr(self, name) <= 0:
                raise ValueError(f'{name} must be positive')
        if not self.period_s >= 0:
            raise ValueError('period_s must not be negative')


@dataclass(frozen=True)
class ShiftState:
    """The monitor's verdict after a frame.

    Attributes:
        stamp_ns: Stamp of the frame.
        level: OK, WARN, ERROR or STALE.
        reason: One line for people.
        smoothed: Smoothed novelty in standard deviations; NaN until there is a sample.
        score: The frame's own score; None when it was not scored.
        samples: Scored frames since the last start.
        monitored: The frame was taken in: scored, or found impossible to score. Of the others only
            faults are known.
    """

    stamp_ns: int
    level: Level
    reason: str
    smoothed: float
    score: FrameScore | None
    samples: int
    monitored: bool = True


class ShiftMonitor:
    """Watches one camera.

    Args:
        reference: The training domain.
        config: Thresholds; may be replaced at any time.
    """

    def __init__(self, reference: ShiftReference, config: MonitorConfig | None = None) -> None:
        self.reference = reference
        self.config = config or MonitorConfig()
        self.rejected = 0
        """Frames with non-finite features since construction."""
        self.reset()

    def reset(self) -> None:
        """Forget the stream, not the reference."""
        self._last_stamp_ns: int | None = None
        self._last_scored_ns: int | None = None
        self._smoothed = math.nan
        self._samples = 0
        self._warned = False
        self._last_small: np.ndarray | None = None
        self._identical = 0

    def update(
        self,
        stamp_ns: int,
        image: np.ndarray | Frame,
        features: dict[str, np.ndarray],
        small: np.ndarray | None = None,
    ) -> ShiftState:
        """Take in a frame.

        Args:
            stamp_ns: The image's stamp. A stamp that goes back (a looped bag) or jumps ahead by
                more than `max_gap_s` starts anew.
            image: The frame as received, or (H, W, 3) uint8 RGB.
            features: `early` and `deep` from the model.
            small: (h, w, 3) uint8, the image at a lower resolution, in which faults are looked
                for. Default: the image.

        Returns:
            The verdict.
        """
        self._advance(stamp_ns)
        if not all(np.isfinite(f).all() for f in features.values()):
            self.rejected += 1
            return self._state(stamp_ns, Level.ERROR, 'the model gives non-finite features', None)
        score, frame = None, image if isinstance(image, Frame) else Frame(image)
        if self._due(stamp_ns):
            score = self._score(stamp_ns, frame, features)
        level, reason = self._judge(self._fault(frame.pixels if small is None else small))
        return self._state(stamp_ns, level, reason, score, score is not None)

    def _advance(self, stamp_ns: int) -> None:
        last = self._last_stamp_ns
        if last is not None and not 0 < stamp_ns - last <= self.config.max_gap_s * 1e9:
            self.reset()
        self._last_stamp_ns = stamp_ns

    def _due(self, stamp_ns: int) -> bool:
        last = self._last_scored_ns
        return last is None or stamp_ns - last >= (1 - _EARLY) * self.config.period_s * 1e9

    def _score(self, stamp_ns: int, frame: Frame, features: dict[str, np.ndarray]) -> FrameScore:
        score = self.reference.score(frame_statistics(frame), features)
        self._samples += 1
        if self._last_scored_ns is None:
            self._smoothed = score.novelty
        else:
            dt_s = (stamp_ns - self._last_scored_ns) * 1e-9
            weight = 1 - math.exp(-dt_s / self.config.smoothing_s)
            self._smoothed += weight * (score.novelty - self._smoothed)
        self._last_scored_ns = stamp_ns
        return score

    def _fault(self, small: np.ndarray) -> str:
        """Name a broken camera at once, without waiting for a statistic."""
        last = self._last_small
        same = last is not None and last.shape == small.shape and np.array_equal(last, small)
        self._identical = self._identical + 1 if same else 1
        self._last_small = small.copy()  # the owner may write the next frame into it
        mean, std = cv2.meanStdDev(small[::4])  # enough to see whether there is anything
        if float(std.max()) < self.config.flat_std:
            return f'image is flat (mean grey level {mean.mean():.0f}): covered or broken camera'
        if self._identical >= self.config.frozen_samples:
            return f'{self._identical} identical frames: frozen camera'
        return ''

    def _judge(self, fault: str) -> tuple[Level, str]:
        if fault:
            return Level.ERROR, fault
        if self._samples < self.config.min_samples:
            return Level.STALE, f'{self._samples} of {self.config.min_samples} frames seen'
        limit = self.config.warn_exit if self._warned else self.config.warn_enter
        self._warned = self._smoothed >= limit
        if self._warned:
            return Level.WARN, (
                f'camera is {self._smoothed:.1f} sd from its training domain '
                f'(threshold {self.config.warn_enter:g})'
            )
        return Level.OK, f'in domain ({self._smoothed:+.1f} sd)'

    def _state(
        self,
        stamp_ns: int,
        level: Level,
        reason: str,
        score: FrameScore | None,
        monitored: bool = True,
    ) -> ShiftState:
        return ShiftState(stamp_ns, level, reason, self._smoothed, score, self._samples, monitored)
