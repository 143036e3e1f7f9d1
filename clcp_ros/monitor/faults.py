# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Broken cameras, looked for in every frame, without waiting for a statistic."""

from __future__ import annotations

from dataclasses import dataclass, fields

import cv2
import numpy as np

KINDS = ('black', 'white', 'covered', 'partly_covered', 'frozen', 'nonfinite')
"""What can be wrong; `nonfinite` is of the model and found by the stream."""

_THUMBNAIL = (64, 48)  # width, height: sensor noise averages out, structure stays


@dataclass(frozen=True)
class FaultConfig:
    """What counts as a fault.

    Attributes:
        flat_std: Standard deviation of the grey levels (0 to 255) of a thumbnail below which an
            image shows nothing.
        black: Mean grey level up to which a flat image is black.
        white: Mean grey level from which a flat image is white.
        flat_s: A flat image must last as long.
        frozen_s: Identical images must last as long.
        frozen_samples: And be as many.
        gap_s: After a longer gap between stamps, or a stamp that goes back, all starts anew.
    """

    flat_std: float = 2.0
    black: float = 20.0
    white: float = 235.0
    flat_s: float = 1.0
    frozen_s: float = 1.0
    frozen_samples: int = 5
    gap_s: float = 2.0

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) >= 0:
                raise ValueError(f'{field.name} must not be negative')


@dataclass(frozen=True)
class Fault:
    """A broken camera.

    Attributes:
        kind: One of `KINDS`.
        text: One line for people.
    """

    kind: str
    text: str


class FaultDetector:
    """Looks at every frame of one camera.

    Args:
        config: Thresholds; may be replaced at any time.
    """

    def __init__(self, config: FaultConfig | None = None) -> None:
        self.config = config or FaultConfig()
        self.reset()

    def reset(self) -> None:
        """Forget the stream."""
        self._last_ns: int | None = None
        self._last: np.ndarray | None = None
        self._same_since_ns = 0
        self._same = 0
        self._flat_since_ns: int | None = None

    def update(self, stamp_ns: int, small: np.ndarray) -> Fault | None:
        """Take in a frame.

        Args:
            stamp_ns: Its stamp.
            small: (h, w, 3) uint8, the image, best at a lower resolution.

        Returns:
            The fault, if there is one that has lasted long enough.
        """
        last = self._last_ns
        if last is not None and not 0 <= stamp_ns - last <= self.config.gap_s * 1e9:
            self.reset()
        self._last_ns = stamp_ns
        thumbnail = cv2.resize(small, _THUMBNAIL, interpolation=cv2.INTER_AREA)
        return self._flat(stamp_ns, thumbnail) or self._frozen(stamp_ns, small)

    def _flat(self, stamp_ns: int, thumbnail: np.ndarray) -> Fault | None:
        means, deviations = cv2.meanStdDev(thumbnail)
        if float(deviations.max()) >= self.config.flat_std:
            self._flat_since_ns = None
            return None
        if self._flat_since_ns is None:
            self._flat_since_ns = stamp_ns
        if stamp_ns - self._flat_since_ns < self.config.flat_s * 1e9:
            return None
        level = float(means.mean())
        if level <= self.config.black:
            return Fault('black', f'image is black (mean grey level {level:.0f})')
        if level >= self.config.white:
            return Fault('white', f'image is white (mean grey level {level:.0f})')
        return Fault(
            'covered', f'image is flat (mean grey level {level:.0f}): covered or broken camera'
        )

    def _frozen(self, stamp_ns: int, small: np.ndarray) -> Fault | None:
        last = self._last
        if last is None or last.shape != small.shape or not np.array_equal(last, small):
            self._last = small.copy()  # the owner may write the next frame into it
            self._same_since_ns, self._same = stamp_ns, 1
            return None
        self._same += 1
        lasted_s = (stamp_ns - self._same_since_ns) * 1e-9
        if lasted_s < self.config.frozen_s or self._same < self.config.frozen_samples:
            return None
        return Fault('frozen', f'{self._same} identical frames in {lasted_s:.1f} s: frozen camera')
