# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The expected mIoU of one camera's last seconds, and how much of its drop has lasted."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace

import numpy as np

from clcp_ros.monitor.harm import Harm, HarmReference, Window, tap_scores
from clcp_ros.monitor.reference import FrameScore
from clcp_ros.monitor.sequential import ONSET_S

MAX_GAP_S = 2.0
_TAPS = 3


@dataclass
class _Frame:
    """A frame; `alone` is the mIoU and the drop that it gives by itself, once asked."""

    stamp_ns: int
    window: Window
    alone: tuple[float, float] | None = None


class _Rows:
    """Rows of numbers, the oldest first, that are at hand as one array."""

    def __init__(self, width: int) -> None:
        self._kept = np.empty((64, width))
        self._first = self._end = 0

    def append(self, *parts: np.ndarray) -> None:
        """Add a row that is made of these."""
        if self._end == len(self._kept):
            rows = self.all
            self._kept = np.empty((max(64, 2 * len(rows)), rows.shape[1]))
            self._kept[: len(rows)] = rows
            self._first, self._end = 0, len(rows)
        np.concatenate([part.ravel() for part in parts], out=self._kept[self._end])
        self._end += 1

    def popleft(self) -> None:
        """Forget the oldest."""
        self._first += 1

    @property
    def all(self) -> np.ndarray:
        """(n, width) float64; valid until the next `append`."""
        return self._kept[self._first : self._end]


class HarmWindow:
    """The last seconds of one camera.

    Args:
        reference: What is known of the network.
        window_s: Length of the window, seconds; may be changed at any time.
        max_gap_s: A longer gap between stamps, or a stamp that does not go ahead, starts anew.
        expected: (C,) bool, classes that the route may show; None for all that the source has. May
            be changed at any time.
        onset_s: What does not last longer than that is no part of `Harm.lasting_drop`.
        least_drop: Of a smaller drop it is not asked how much has lasted: that takes half of the
            time, and nothing depends on it. May be changed at any time.

    Raises:
        ValueError: `window_s` or `max_gap_s` is not positive, or `expected` does not fit.
    """

    def __init__(
        self,
        reference: HarmReference,
        window_s: float = 20.0,
        max_gap_s: float = MAX_GAP_S,
        expected: np.ndarray | None = None,
        onset_s: float = ONSET_S,
        least_drop: float = -math.inf,
    ) -> None:
        if not window_s > 0 or not max_gap_s > 0:
            raise ValueError('window_s and max_gap_s must be positive')
        if expected is not None and expected.shape != reference.expected.shape:
            raise ValueError(f'{expected.shape} expected classes, not {reference.expected.shape}')
        self.reference = reference
        self.window_s, self.max_gap_s = window_s, max_gap_s
        self.expected = expected
        self.least_drop = least_drop
        self._onset_ns = round(onset_s * 1e9)
        self.reset()

    def reset(self) -> None:
        """Forget all frames."""
        classes = len(self.reference.expected)
        self._frames: deque[_Frame] = deque()
        self._rows = _Rows(classes * (classes + 1) + _TAPS)  # counts and taps of these frames
        self._lately: deque[_Frame] = deque()
        self.harm: Harm | None = None
        """After the last frame; None while there is none."""

    def forget(self, before_ns: int) -> None:
        """Forget the frames before a time: after an abrupt change the old ones say nothing.

        `harm` stays as it is until the next frame.

        Args:
            before_ns: Stamp of the first frame that stays.
        """
        while self._frames and self._frames[0].stamp_ns < before_ns:
            self._frames.popleft()
            self._rows.popleft()

    def update(self, stamp_ns: int, counts: np.ndarray, score: FrameScore) -> Harm:
        """Take in a frame.

        Args:
            stamp_ns: The image's stamp.
            counts: (C, C + 1) from `HarmReference.describe`.
            score: How far the frame is from the training domain.

        Returns:
            What is to be expected of the window.

        Raises:
            ValueError: Something is not finite or has another shape; the window is unchanged.
        """
        classes = len(self.reference.expected)
        if counts.shape != (classes, classes + 1):
            raise ValueError(f'counts of shape {counts.shape} for {classes} classes')
        if not np.isfinite(counts).all():
            raise ValueError('counts are not finite')
        taps = tap_scores(score)
        if self._frames and not 0 < stamp_ns - self._frames[-1].stamp_ns <= self.max_gap_s * 1e9:
            self.reset()
        frame = _Frame(stamp_ns, Window(counts, taps, 1.0))
        self._frames.append(frame)
        self._rows.append(counts, taps)
        self._lately.append(frame)
        # Two at least, however seldom frames come: one has not lasted.
        while len(self._lately) > 2 and self._lately[0].stamp_ns < stamp_ns - 2 * self._onset_ns:
            self._lately.popleft()
        self.forget(stamp_ns - round(self.window_s * 1e9) + 1)
        stamps = [frame.stamp_ns for frame in self._frames]
        harm = self._estimate(stamps, self._rows.all)
        drop = low = math.nan
        if harm.drop >= self.least_drop:
            drop, low = self._lasting(stamps)
        self.harm = replace(
            harm,
            samples=len(stamps),
            window_s=(stamps[-1] - stamps[0]) * 1e-9,
            lasting_drop=drop,
            lasting_low=low,
        )
        return self.harm

    def _estimate(self, stamps: list[int], rows: np.ndarray) -> Harm:
        """What is to be expected of frames, with `samples` and `window_s` still to be filled."""
        number, seconds = len(stamps), (stamps[-1] - stamps[0]) * 1e-9
        # Summed anew each time: a running sum would drift over hours.
        mean = np.add.reduce(rows, axis=0) / number
        classes = len(self.reference.expected)
        counts = mean[:-_TAPS].reshape(classes, classes + 1)
        window = Window(counts, mean[-_TAPS:], min(number, 1 + seconds))
        return self.reference.estimate(window, self.expected)

    def _lasting(self, stamps: list[int]) -> tuple[float, float]:
        """`Harm.lasting_drop` and `Harm.lasting_low`."""
        first, end = self._worst(stamps)
        rest, rows = stamps[:first] + stamps[end:], self._rows.all
        if not rest:
            return math.nan, math.nan
        lasting = self._estimate(rest, np.concatenate((rows[:first], rows[end:])))
        held = self._held(stamps[-1])
        return min(lasting.drop, held), min(lasting.drop_low, held)

    def _alone(self, frame: _Frame) -> tuple[float, float]:
        if frame.alone is None:
            frame.alone = self.reference.outlook(frame.window, self.expected)
        return frame.alone

    def _worst(self, stamps: list[int]) -> tuple[int, int]:
        """First and end of the worst `onset_s`: without them of a short tunnel nothing is left."""
        times = np.array(stamps)
        miou = np.array([self._alone(frame)[0] for frame in self._frames])
        starts = times[: 1 + np.searchsorted(times, times[-1] - self._onset_ns)]
        ends = np.searchsorted(times, starts + self._onset_ns, side='right')
        lost = np.concatenate([[0.0], np.cumsum(miou.mean() - miou)])
        worst = int(np.argmax(lost[ends] - lost[: len(starts)]))
        return worst, int(ends[worst])

    def _held(self, stamp_ns: int) -> float:
        """The drop of single frames that more than `onset_s` of twice as long a time reach.

        Of several short tunnels in a row the window without its worst one still holds the others.
        It goes back beyond what was forgotten: what has only begun has not lasted.
        """
        drops = sorted((self._alone(frame)[1] for frame in self._lately), reverse=True)
        short = sum(frame.stamp_ns >= stamp_ns - self._onset_ns for frame in self._lately)
        return drops[short] if len(drops) > short else -math.inf
