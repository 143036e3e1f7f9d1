# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Levels with hysteresis: novelty alone warns, harm makes it an error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

from clcp_ros.monitor.config import HARM_SAMPLES, MonitorConfig

# Share of the entering thresholds below which things are well again.
_CALM_WARN, _CALM_ERROR = 0.25, 0.5  # of the novelty statistic's threshold
WARN_LEAVE, _ERROR_LEAVE = 0.6, 0.7  # of warn_drop and error_drop


class Level(IntEnum):
    """Severity, numbered as diagnostic_msgs/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2
    STALE = 3


@dataclass(frozen=True)
class Signs:
    """What the statistics say after a sample; NaN stands for what is not known.

    Attributes:
        evidence: The sequential novelty statistic as a share of its threshold.
        novel: The novelty test alarms, by its statistic or by an abrupt change.
        drop: Expected loss of mIoU against the source.
        drop_low: Lower end of its interval.
        lasting_drop: Expected loss that has lasted, see `Harm.lasting_drop`.
        lasting_low: Lower end of its interval.
        drop_samples: Scored frames that it is made of.
        misaligned: Image and lidar do not agree although the image is as usual.
    """

    evidence: float = 0.0
    novel: bool = False
    drop: float = math.nan
    drop_low: float = math.nan
    lasting_drop: float = math.nan
    lasting_low: float = math.nan
    drop_samples: int = 0
    misaligned: bool = False


class LevelMachine:
    """The level that a camera's statistics give; faults and staleness are the monitor's.

    | level | enters | leaves, when it was so for `hold_s` |
    |---|---|---|
    | WARN | novel, misaligned, or drop >= warn_drop of five samples, its interval above 0 | evidence < 1/4, drop < 0.6 warn_drop, aligned |
    | ERROR | drop >= error_drop of five samples while novel, or with all of its interval above error_drop | evidence < 1/2 and drop < 0.7 error_drop |

    While nothing is novel, a drop has to reach `least_drop` in place of a smaller `warn_drop`.
    A drop enters only if it would not be well again, nor unsure, without its worst two seconds,
    and shows in more than two of the last four: what a short tunnel costs stays in the window when
    the tunnel is over.

    Attributes:
        level: OK, WARN or ERROR.
        novel: A novelty alarm is being held.
        harmful: The drop is held to be harmful.
        misaligned: A misalignment is being held.
        least_drop: Smaller drops come on nominal drives, too: they do not alarm by themselves. May
            be changed at any time.
    """  # noqa: E501

    def __init__(self, least_drop: float = 0.0) -> None:
        self.least_drop = least_drop
        self.reset()

    def reset(self) -> None:
        """Back to OK."""
        self.level = Level.OK
        self.novel = self.harmful = self.misaligned = False
        self.pause()

    def pause(self) -> None:
        """Begin to wait anew: what nobody saw was not well."""
        self._calm_since_ns: dict[Level, int | None] = {Level.WARN: None, Level.ERROR: None}

    def warns_from(self, config: MonitorConfig) -> float:
        """Drop from which the expected mIoU warns by itself."""
        return max(config.warn_drop, self.least_drop)

    def update(self, stamp_ns: int, signs: Signs, config: MonitorConfig) -> Level:
        """Take in a sample.

        Args:
            stamp_ns: Its stamp; later than the one before.
            signs: What the statistics say.
            config: Thresholds.

        Returns:
            OK, WARN or ERROR.
        """
        self.novel |= signs.novel
        self.misaligned |= signs.misaligned
        # Comparisons with NaN are false: what is not known neither alarms nor keeps an alarm.
        known = signs.drop_samples >= HARM_SAMPLES  # the mIoU of a frame or two says little
        warn_drop = self.warns_from(config)
        costs = (
            known
            and signs.drop >= warn_drop
            and signs.drop_low > 0
            and signs.lasting_drop >= WARN_LEAVE * warn_drop
            and signs.lasting_low > 0
        )
        degraded = (
            known
            and signs.drop >= config.error_drop
            and signs.lasting_drop >= _ERROR_LEAVE * config.error_drop
            and (self.novel or (costs and signs.drop_low >= config.error_drop))
        )
        self.harmful |= costs or degraded
        if degraded:
            self.level = Level.ERROR
        elif self.novel or self.misaligned or self.harmful:
            self.level = max(self.level, Level.WARN)
        calm = {
            Level.ERROR: not degraded
            and not signs.evidence >= _CALM_ERROR
            and not signs.drop >= _ERROR_LEAVE * config.error_drop,
            Level.WARN: not (signs.novel or signs.misaligned or costs)
            and not signs.evidence >= _CALM_WARN
            and not signs.drop >= WARN_LEAVE * warn_drop,
        }
        held = {level: self._held(level, calm[level], stamp_ns, config) for level in calm}
        if self.level == Level.ERROR and not held[Level.ERROR]:
            self.level = Level.WARN
        if self.level == Level.WARN and not held[Level.WARN]:
            self.level = Level.OK
            self.novel = self.harmful = self.misaligned = False
        return self.level

    def _held(self, level: Level, calm: bool, stamp_ns: int, config: MonitorConfig) -> bool:
        """Whether a level has to stay."""
        since_ns = self._calm_since_ns[level]
        if not calm:
            self._calm_since_ns[level] = None
            return True
        if since_ns is None:
            self._calm_since_ns[level] = since_ns = stamp_ns
        return stamp_ns - since_ns < config.hold_s * 1e9
