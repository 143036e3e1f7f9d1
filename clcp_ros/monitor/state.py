# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The monitor's verdict after a frame, and what it says to people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clcp_ros.monitor.levels import Level
from clcp_ros.monitor.reference import FrameScore

FRAME_NUMBERS = ('novelty_z', 'low_z', 'early_z', 'deep_z')
"""Figures of a frame that was scored."""

STANDING_NUMBERS = (
    'novelty_cusum', 'cusum_threshold', 'innovation', 'miou_est', 'miou_lo', 'miou_hi',
    'miou_drop', 'drop_threshold', 'kind_prob', 'alignment_z', 'alignment_pairs',
    'alignment_yaw_deg', 'alignment_yaw_z', 'alignment_pitch_deg', 'alignment_pitch_z', 'window_s',
)  # fmt: skip
"""Figures that stand until the next frame is scored."""

TEXTS = ('kind', 'top_stats', 'top_classes', 'scope')
"""What stands beside them in words."""

Ranking = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class ShiftSource:
    """Whose verdicts they are.

    Attributes:
        model: Short id of the model.
        model_sha: Its whole hash.
        supported_h: Hours between two false alarms, of all cameras together, that the calibration
            drives support; NaN when nobody knows.
    """

    model: str
    model_sha: str = ''
    supported_h: float = math.nan


@dataclass(frozen=True)
class ShiftState:
    """The monitor's verdict after a frame; NaN and '' stand for what is not known.

    Attributes:
        stamp_ns: Stamp of the frame.
        level: OK, WARN, ERROR or STALE.
        reason: One line for people.
        samples: Scored frames since the last start.
        monitored: This frame was scored. Of the others only faults are known.
        score: The frame's own score; None when it was not scored.
        novelty_cusum: The sequential novelty statistic.
        cusum_threshold: From where it is an alarm.
        innovation: Of the last samples, see `SequentialState`.
        miou_est: Expected mIoU.
        miou_lo: Lower end of its interval.
        miou_hi: Upper end.
        miou_drop: Expected loss against nominal drives.
        drop_threshold: From where it warns by itself.
        window_s: Time that the expected mIoU is made of.
        kind: Of the shift; 'none' while there is none.
        kind_prob: Its probability.
        ranked_stats: Statistics that say so, with their standard deviations.
        ranked_classes: Classes that lose most IoU, and how much.
        scope: Where to look for the cause, see `Scope`.
        alignment_z: Agreement of image and lidar, in standard deviations; negative is worse.
        alignment_pairs: Points that it is made of.
        alignment_yaw_deg: By how much the lidar seems turned to the left against its calibration.
        alignment_yaw_z: How sure that is, in standard deviations, signed as the angle.
        alignment_pitch_deg: By how much it seems turned up.
        alignment_pitch_z: How sure that is.
        fault: Kind of a fault of the camera or the model.
    """

    stamp_ns: int
    level: Level
    reason: str
    samples: int
    monitored: bool = False
    score: FrameScore | None = None
    novelty_cusum: float = math.nan
    cusum_threshold: float = math.nan
    innovation: float = math.nan
    miou_est: float = math.nan
    miou_lo: float = math.nan
    miou_hi: float = math.nan
    miou_drop: float = math.nan
    drop_threshold: float = math.nan
    window_s: float = math.nan
    kind: str = ''
    kind_prob: float = math.nan
    ranked_stats: Ranking = ()
    ranked_classes: Ranking = ()
    scope: str = ''
    alignment_z: float = math.nan
    alignment_pairs: float = math.nan
    alignment_yaw_deg: float = math.nan
    alignment_yaw_z: float = math.nan
    alignment_pitch_deg: float = math.nan
    alignment_pitch_z: float = math.nan
    fault: str = ''

    def changed(self, **values: Any) -> ShiftState:
        """As `dataclasses.replace`, which looks at every field: this is done for every frame.

        Args:
            values: By the names of attributes.
        """
        other = object.__new__(ShiftState)
        other.__dict__.update(self.__dict__, **values)
        return other

    @property
    def verdict(self) -> tuple[Level, str]:
        """What makes a change worth telling at once."""
        return self.level, self.fault

    @property
    def top_stats(self) -> str:
        """The statistics as text: 'luminance_p95 -8.1, noise +6.0'."""
        return ', '.join(f'{name} {z:+.1f}' for name, z in self.ranked_stats)

    @property
    def top_classes(self) -> str:
        """The classes as text: 'road -0.31, car -0.12'."""
        return ', '.join(f'{name} {-drop:+.2f}' for name, drop in self.ranked_classes)

    @property
    def numbers(self) -> dict[str, float]:
        """Figures by their published names."""
        score = self.score
        own = dict.fromkeys(FRAME_NUMBERS, math.nan)
        if score is not None:
            own = {
                'novelty_z': score.novelty, 'low_z': score.low, 'early_z': score.early,
                'deep_z': score.deep,
            }  # fmt: skip
        return own | {name: getattr(self, name) for name in STANDING_NUMBERS}

    @property
    def texts(self) -> dict[str, str]:
        """Words by their published names."""
        return {name: getattr(self, name) for name in TEXTS}


def number(value: float) -> float:
    """A finite number, or the one NaN: states with the same gaps are equal."""
    value = float(value)
    return value if math.isfinite(value) else math.nan


def verdict_reason(
    state: ShiftState, novelty: float, signs: Sequence[str], misaligned_by: str = ''
) -> str:
    """The line for people of a level that the statistics give.

    Args:
        state: The verdict.
        novelty: Of the last frame that was scored, in standard deviations.
        signs: What is being held against the stream: 'novel', 'harmful', 'misaligned'.
        misaligned_by: Why image and lidar do not fit, where it is known.
    """
    known = not math.isnan(state.miou_est)
    if state.level == Level.OK:
        quality = f', expected mIoU {state.miou_est:.2f}' if known else ''
        return f'in domain ({novelty:+.1f} sd){quality}'
    parts = []
    if 'novel' in signs:
        parts.append(f'outside the training domain ({novelty:+.1f} sd)')
    if known:
        parts.append(
            f'expected mIoU {state.miou_est:.2f} ({state.miou_lo:.2f} to {state.miou_hi:.2f}), '
            f'{abs(state.miou_drop):.2f} {"below" if state.miou_drop > 0 else "above"} normal'
        )
        if state.level == Level.ERROR:
            parts[-1] = f'degraded: {parts[-1]}'
            parts.reverse()
    if 'misaligned' in signs:
        why = f' ({misaligned_by})' if misaligned_by else ''
        parts.append(f'image and lidar do not fit each other: {state.scope}{why}')
    if state.kind not in ('', 'none', 'other'):
        parts.append(f'looks like {state.kind}')
    elif state.kind == 'other':
        parts.append('of no known kind')
    if 'camera' in state.scope:
        parts.append(state.scope)
    return '; '.join(parts)
