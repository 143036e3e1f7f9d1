# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a user may set of the monitor."""

from __future__ import annotations

from dataclasses import dataclass

from clcp_ros.monitor.sequential import ONSET_S

HARM_SAMPLES = 5
"""Scored frames that an expected mIoU must be made of before it may be an alarm."""


@dataclass(frozen=True)
class MonitorConfig:
    """Settings of the monitor; all may change while it runs.

    Thresholds of the statistics themselves are solved from drives when the bundle is made; what is
    left to set is what an alarm shall mean to the user.

    Attributes:
        warn_drop: Expected loss of mIoU, in [0, 1], that is a warning; the bundle asks for more
            where ordinary drives show more.
        error_drop: Expected loss of mIoU that is an error.
        false_alarm_interval_h: Hours of normal driving between two false alarms that the user
            accepts, of all cameras together; 0 takes the interval that the bundle was made for.
        hold_s: How long things must be well before the level falls.
        window_s: Time over which the expected mIoU is estimated: at least four seconds, and five
            times `period_s`, for an alarm is made of five frames.
        period_s: Time between two frames that are scored; 0 scores every frame. Frames that follow
            each other closely say the same, and faults are looked for in every frame.
        max_gap_s: A longer gap between stamps starts anew.
        min_samples: Scored frames after a start before the monitor commits itself.
        frozen_s: Identical frames for this long mean a frozen camera; 0 switches this off.
        expected_classes: Names of the classes that the route can show; empty: all. A class that
            cannot come must not count as one that is lost.
    """

    warn_drop: float = 0.05
    error_drop: float = 0.10
    false_alarm_interval_h: float = 0.0
    hold_s: float = 10.0
    window_s: float = 20.0
    period_s: float = 0.5
    max_gap_s: float = 2.0
    min_samples: int = 5
    frozen_s: float = 1.0
    expected_classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.warn_drop < self.error_drop:
            raise ValueError('warn_drop must be positive and below error_drop')
        for name in ('window_s', 'max_gap_s', 'min_samples'):
            if not getattr(self, name) > 0:
                raise ValueError(f'{name} must be positive')
        for name in ('false_alarm_interval_h', 'hold_s', 'period_s', 'frozen_s'):
            if not getattr(self, name) >= 0:
                raise ValueError(f'{name} must not be negative')
        if not self.period_s < self.max_gap_s:
            raise ValueError('period_s must be below max_gap_s')
        # What is not longer than the onset alone, or of fewer samples, never counts.
        least_s = max(HARM_SAMPLES * self.period_s, 2 * ONSET_S)
        if self.window_s < least_s:
            raise ValueError(
                f'window_s must be at least {least_s:g} s, the longer of {HARM_SAMPLES} times '
                f'period_s and twice the {ONSET_S:g} s that do not count: else no drop could alarm'
            )
