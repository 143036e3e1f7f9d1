# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Has the stream left its domain? A test that goes on with every sample of one camera.

The tests share a false-alarm budget. A cumulative sum (Page 1954) with a wide indifference zone
catches what lasts: novelty counts only as far as it exceeds `k`, which no ordinary street does for
long. An innovation test catches what begins at once: two samples in a row that the sample before
them does not explain; less is asked of them if what they began lasts. Novelty of a video is
autocorrelated, so all thresholds come from drives that were left out
(training/monitoring/run_length.py) and not from a table for independent samples.

Time is the image's stamp. A single odd sample (an exposure step) moves neither test: the sum takes
the median of three samples, the innovations must be large twice. Nor can some seconds of something
very odd, a lorry that stands before the camera, fill the sum where drives show such things: then a
sample counts for no more than `limit` (a Huber score in place of the Gaussian one).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

import numpy as np

ONSET_S = 2.0
"""What does not last longer than this raises no alarm: a short tunnel, an exposure step."""

NO_LIMIT = 1e3
"""Standard deviations that novelty is cut at in any case: sums and squares of it stay finite."""

_NEW = ('limit', 'c_lasting', 'lasting_s')  # fields that bundles of before do not have
_MEDIAN = 3
# Of what an innovation is divided by: novelty holds noise that is not autocorrelated, so nearly
# simultaneous samples differ by more than an autoregression says.
_LEAST_VARIANCE = 0.1


@dataclass(frozen=True)
class SequentialReference:
    """Thresholds of the tests, found on nominal drives.

    Attributes:
        k: Indifference zone, in standard deviations: novelty below it does not count.
        h: Threshold of the sum, in standard deviations times seconds.
        rho: Correlation of novelty at a lag of one second.
        c: Threshold of the innovations, in standard deviations.
        cap: The sum is never more than this many `h`, which bounds the time to recover.
        gap_s: Over a longer gap nothing is summed and nothing is compared.
        jump_s: After a longer gap, or a stamp that does not advance, all starts anew.
        onset_s: What does not last longer than this raises no alarm: a short tunnel.
        limit: The sum grows by no more than this in a second, in standard deviations.
        c_lasting: Threshold of the innovations of what lasts longer than `lasting_s`: a vehicle
            that passes close by does not.
        lasting_s: See there.
    """

    k: float = 3.0
    h: float = 8.0
    rho: float = 0.7
    c: float = 5.0
    cap: float = 3.0
    gap_s: float = 2.0
    jump_s: float = 60.0
    onset_s: float = ONSET_S
    limit: float = NO_LIMIT
    c_lasting: float = NO_LIMIT
    lasting_s: float = 6.0

    def __post_init__(self) -> None:
        values = asdict(self)
        if wrong := [name for name, value in values.items() if not math.isfinite(value)]:
            raise ValueError(f'{wrong[0]} must be a finite number')
        for name in ('h', 'c', 'gap_s', 'jump_s', *_NEW):
            if values[name] <= 0:
                raise ValueError(f'{name} must be positive')
        if self.k < 0 or self.onset_s < 0:
            raise ValueError('k and onset_s must not be negative')
        if self.cap < 1:
            raise ValueError('cap must be at least 1: the sum has to reach its threshold')
        if not 0 <= self.rho < 1:
            raise ValueError('rho must be in [0, 1)')

    def arrays(self) -> dict[str, np.ndarray]:
        """The fields as () float64 arrays."""
        return {name: np.asarray(value, np.float64) for name, value in asdict(self).items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> SequentialReference:
        """Undo `arrays`.

        Raises:
            KeyError: A field is missing that bundles of before have.
            ValueError: One is not a number that makes sense.
        """
        values = {}
        for field in fields(cls):
            if field.name in _NEW and field.name not in arrays:
                continue
            value = np.asarray(arrays[field.name])
            if value.shape != () or value.dtype.kind not in 'fiu':
                raise ValueError(f'{field.name} is not a number')
            values[field.name] = float(value)
        return cls(**values)


@dataclass(frozen=True)
class SequentialState:
    """What the tests say after a sample.

    Attributes:
        statistic: The sum, in standard deviations times seconds; 0 while all is ordinary.
        threshold: `h`, for comparison.
        innovation: The smaller of the last two samples' innovations with respect to the sample
            before them, in standard deviations; NaN until there are three samples in a row.
        abrupt: Both exceed `c`: a sudden change.
        alarm: The stream has left its domain; stays until the sum is below a quarter of its
            threshold.
    """

    statistic: float
    threshold: float
    innovation: float
    abrupt: bool
    alarm: bool


class SequentialTest:
    """The tests of one camera's stream.

    Args:
        reference: Thresholds; may be replaced at any time.
    """

    def __init__(self, reference: SequentialReference) -> None:
        self.reference = reference
        self.reset()

    def reset(self) -> None:
        """Forget the stream."""
        self._statistic = 0.0
        self._alarm = False
        self._forget_samples()

    def _forget_samples(self) -> None:
        self._samples: list[tuple[int, float]] = []
        self._above_since: int | None = None
        self._sudden = -math.inf  # the highest innovation since then

    def update(self, stamp_ns: int, novelty: float) -> SequentialState:
        """Take in a sample.

        Args:
            stamp_ns: Stamp of its image.
            novelty: In standard deviations of new frames of the domain. What is not finite is
                passed over: it must not enter the sum.

        Returns:
            What the tests say now.
        """
        if not math.isfinite(novelty):
            return self._state(math.nan)
        dt_s = self._advance(stamp_ns)
        limited = min(max(float(novelty), -NO_LIMIT), NO_LIMIT)
        self._samples = [*self._samples[1 - _MEDIAN :], (stamp_ns, limited)]
        if len(self._samples) < _MEDIAN:
            return self._state(math.nan)
        innovation = self._innovation()
        self._sum(dt_s, innovation)
        return self._state(innovation)

    def _advance(self, stamp_ns: int) -> float:
        """Seconds that the sample stands for; forget what lies before a gap."""
        if not self._samples:
            return 0.0
        dt_s = (stamp_ns - self._samples[-1][0]) * 1e-9
        if not 0 < dt_s <= self.reference.jump_s:
            self.reset()
            return 0.0
        if dt_s > self.reference.gap_s:
            self._forget_samples()
            return 0.0
        return dt_s

    def _innovation(self) -> float:
        """How little the oldest of three samples explains the two others."""
        start_ns, base = self._samples[0]
        smaller = math.inf
        for stamp_ns, novelty in self._samples[1:]:
            explained = self.reference.rho ** ((stamp_ns - start_ns) * 1e-9)
            scale = math.sqrt(max(1 - explained**2, _LEAST_VARIANCE))
            smaller = min(smaller, (novelty - explained * base) / scale)
        return smaller

    def _sum(self, dt_s: float, innovation: float) -> None:
        reference = self.reference
        k, h = reference.k, reference.h
        stamp_ns, latest = self._samples[-1]
        median = sorted(novelty for _, novelty in self._samples)[_MEDIAN // 2]
        raised = self._statistic + dt_s * min(median - k, reference.limit)
        self._statistic = min(max(raised, 0.0), reference.cap * h)
        if median <= k:
            self._above_since, self._sudden = None, -math.inf
        else:
            if self._above_since is None:
                # Two of three samples are above: the one before this is likely the first.
                self._above_since = self._samples[-2][0]
            self._sudden = max(self._sudden, innovation)
            lasted_ns = stamp_ns - self._above_since
            lasts = lasted_ns > reference.lasting_s * 1e9
            late = lasts and self._sudden > reference.c_lasting
            if innovation > reference.c or late:
                self._statistic = max(self._statistic, h)
            # The median is a sample late: what is over already raises no alarm.
            if self._statistic >= h and lasted_ns > reference.onset_s * 1e9 and latest > k:
                self._alarm = True
        if self._statistic < h / 4:
            self._alarm = False

    def _state(self, innovation: float) -> SequentialState:
        return SequentialState(
            statistic=self._statistic,
            threshold=self.reference.h,
            innovation=innovation,
            abrupt=innovation > self.reference.c,
            alarm=self._alarm,
        )
