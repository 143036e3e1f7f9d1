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


@dataclass(frozen=True)
class _Sample:
    """A frame of the window; `miou` is what is to be expected of it alone."""

    stamp_ns: int
    counts: np.ndarray
    taps: np.ndarray
    miou: float


class HarmWindow:
    """The last seconds of one camera.

    Args:
        reference: What is known of the network.
        window_s: Length of the window, seconds; may be changed at any time.
        max_gap_s: A longer gap between stamps, or a stamp that does not go ahead, starts anew.
        expected: (C,) bool, classes that the route may show; None for all that the source has. May
            be changed at any time.
        onset_s: What does not last longer than that is no part of `Harm.lasting_drop`.

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
    ) -> None:
        if not window_s > 0 or not max_gap_s > 0:
            raise ValueError('window_s and max_gap_s must be positive')
        if expected is not None and expected.shape != reference.expected.shape:
            raise ValueError(f'{expected.shape} expected classes, not {reference.expected.shape}')
        self.reference = reference
        self.window_s, self.max_gap_s = window_s, max_gap_s
        self.expected = expected
        self._onset_ns = round(onset_s * 1e9)
        self.reset()

    def reset(self) -> None:
        """Forget all frames."""
        self._frames: deque[_Sample] = deque()
        self._lately: deque[tuple[int, float]] = deque()
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
        alone = self.reference.estimate(Window(counts, taps, 1.0), self.expected)
        self._frames.append(_Sample(stamp_ns, counts, taps, alone.miou))
        self._lately.append((stamp_ns, alone.drop))
        self.forget(stamp_ns - round(self.window_s * 1e9) + 1)
        samples = list(self._frames)
        harm = self._estimate(samples)
        if rest := self._without_worst(samples):
            lasting, held = self._estimate(rest), self._held(stamp_ns)
            harm = replace(
                harm, lasting_drop=min(lasting.drop, held), lasting_low=min(lasting.drop_low, held)
            )
        self.harm = harm
        return harm

    def _estimate(self, samples: list[_Sample]) -> Harm:
        number, seconds = len(samples), (samples[-1].stamp_ns - samples[0].stamp_ns) * 1e-9
        # Summed anew each time: a running sum would drift over hours.
        window = Window(
            np.sum([sample.counts for sample in samples], axis=0) / number,
            np.sum([sample.taps for sample in samples], axis=0) / number,
            min(number, 1 + seconds),
        )
        harm = self.reference.estimate(window, self.expected)
        return replace(harm, samples=number, window_s=seconds)

    def _without_worst(self, samples: list[_Sample]) -> list[_Sample]:
        """What is left when the worst `onset_s` go: of a short tunnel nothing bad is."""
        stamps = np.array([sample.stamp_ns for sample in samples])
        miou = np.array([sample.miou for sample in samples])
        starts = stamps[: 1 + np.searchsorted(stamps, stamps[-1] - self._onset_ns)]
        ends = np.searchsorted(stamps, starts + self._onset_ns, side='right')
        lost = np.concatenate([[0.0], np.cumsum(miou.mean() - miou)])
        worst = int(np.argmax(lost[ends] - lost[: len(starts)]))
        return samples[:worst] + samples[int(ends[worst]) :]

    def _held(self, stamp_ns: int) -> float:
        """The drop of single frames that more than `onset_s` of twice as long a time reach.

        Of several short tunnels in a row the window without its worst one still holds the others.
        It goes back beyond what was forgotten: what has only begun has not lasted.
        """
        # Two at least, however seldom frames come: one has not lasted.
        while len(self._lately) > 2 and self._lately[0][0] < stamp_ns - 2 * self._onset_ns:
            self._lately.popleft()
        drops = sorted((drop for _, drop in self._lately), reverse=True)
        short = sum(then_ns >= stamp_ns - self._onset_ns for then_ns, _ in self._lately)
        return drops[short] if len(drops) > short else -math.inf
