# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the node says of itself: counters of one camera's input, and the statuses made of them.

No ROS here: time is passed in, and `ros_messages` turns a `Status` into a message.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field

from clcp_ros.monitor import Level, ShiftState

WINDOW_S = 5.0
"""Rates are over this time, and a fault stays in diagnostics for as long after it happened."""

_AHEAD_S = 0.1  # a stamp this far in the future cannot be explained by clock jitter
_BUFFER = 2048


@dataclass(frozen=True)
class Status:
    """One diagnostic status.

    Attributes:
        name: Subcomponent, for example 'input'.
        level: Severity.
        message: One line for people.
        values: Figures by fixed names.
        hardware_id: What it is about.
    """

    name: str
    level: Level
    message: str
    values: dict[str, str] = field(default_factory=dict)
    hardware_id: str = ''


class InputStatistics:
    """Counts what happens to the frames of one camera; used from several threads.

    All times `now_s` are seconds of one monotonic clock.

    Args:
        topics: Names of the topics, for messages.
        stale_s: Silence after which the input is stale.
        max_age_s: Age of an arriving frame beyond which clocks disagree.
    """

    def __init__(self, topics: str, stale_s: float, max_age_s: float) -> None:
        self.topics = topics
        self.stale_s = stale_s
        self.max_age_s = max_age_s
        self._lock = threading.Lock()
        self.counts = dict.fromkeys(
            ('received', 'processed', 'dropped', 'bad', 'failed', 'lost', 'duplicate'), 0
        )
        self.incompatible: dict[str, str] = {}
        self.last_reason = ''
        self.frame_id = ''
        self.size = ''
        self.transport = ''
        self.age_s = 0.0
        self.latency_s = 0.0
        self.seconds: dict[str, float] = {}
        self._arrivals: deque[float] = deque(maxlen=_BUFFER)
        self._results: deque[float] = deque(maxlen=_BUFFER)
        self._recent: dict[str, float] = {}
        self._stamp_is_zero = False

    def received(self, now_s: float, transport: str, age_s: float, stamp_ns: int) -> None:
        """Count a message that arrived; `age_s` is node time minus stamp."""
        with self._lock:
            self.counts['received'] += 1
            self.transport, self.age_s = transport, age_s
            self._stamp_is_zero = stamp_ns == 0
            self._arrivals.append(now_s)
            if not -_AHEAD_S <= age_s <= self.max_age_s:
                self._recent['clock'] = now_s

    def count(self, now_s: float, what: str, reason: str = '', number: int = 1) -> None:
        """Count a frame that was dropped, bad, failed, lost or a duplicate."""
        with self._lock:
            self.counts[what] += number
            self._recent[what] = now_s
            if reason:
                self.last_reason = reason

    def incompatible_qos(self, topic: str, policy: str) -> None:
        """Note a publisher that this node cannot hear."""
        with self._lock:
            self.incompatible[topic] = policy

    def processed(
        self,
        now_s: float,
        *,
        latency_s: float,
        seconds: dict[str, float],
        frame_id: str,
        size: tuple[int, int],
    ) -> None:
        """Count a frame whose results were published; `size` is height and width."""
        with self._lock:
            self.counts['processed'] += 1
            self.latency_s, self.seconds, self.frame_id = latency_s, dict(seconds), frame_id
            self.size = f'{size[1]}x{size[0]}'
            self._results.append(now_s)

    def silent(self, now_s: float, since_s: float) -> bool:
        """Whether no message has arrived for `stale_s`, since activation at the earliest."""
        with self._lock:
            last = self._arrivals[-1] if self._arrivals else since_s
        return now_s - max(last, since_s) > self.stale_s

    def status(self, now_s: float, since_s: float, publishers: int, sim_time: bool) -> Status:
        """The input's status.

        Args:
            now_s: Now.
            since_s: When the node was activated.
            publishers: Publishers that the subscriptions are connected to.
            sim_time: Whether the node runs on `/clock`.
        """
        with self._lock:
            problems = self._problems(now_s, since_s, publishers, sim_time)
            in_rate, out_rate = (
                _rate(times, now_s, since_s) for times in (self._arrivals, self._results)
            )
            values = {
                'rate_hz': f'{in_rate:.2f}',
                'published_hz': f'{out_rate:.2f}',
                **{name: str(number) for name, number in self.counts.items()},
                'last_problem': self.last_reason,
                'incompatible_qos': ', '.join(
                    f'{topic}: {policy}' for topic, policy in self.incompatible.items()
                ),
                'age_s': f'{self.age_s:.3f}',
                'latency_s': f'{self.latency_s:.3f}',
                'transport': self.transport,
                'size': self.size,
                'publishers': str(publishers),
            }
            frame_id = self.frame_id
        level = max((level for level, _ in problems), default=Level.OK)
        problems.sort(key=lambda problem: -problem[0])
        message = '; '.join(text for _, text in problems) or (
            f'{in_rate:.1f} Hz in, {out_rate:.1f} Hz out'
        )
        return Status('input', level, message, values, frame_id)

    def _problems(
        self, now_s: float, since_s: float, publishers: int, sim_time: bool
    ) -> list[tuple[Level, str]]:
        problems: list[tuple[Level, str]] = []
        last = max(self._arrivals[-1] if self._arrivals else since_s, since_s)
        if now_s - last > self.stale_s:
            seen = '' if publishers else ' (no matching publisher)'
            problems.append(
                (Level.STALE, f'no image on {self.topics} for {now_s - last:.1f} s{seen}')
            )
        for topic, policy in self.incompatible.items():
            level = Level.WARN if self._arrivals else Level.ERROR
            problems.append(
                (level, f'a publisher of {topic} has an incompatible QoS ({policy}); set '
                 f'qos_overrides.{topic}.subscription.{policy.lower()}')
            )  # fmt: skip
        recent = {what for what, when in self._recent.items() if now_s - when <= WINDOW_S}
        good = bool(self._results) and now_s - self._results[-1] <= WINDOW_S
        fault = Level.WARN if good else Level.ERROR
        if 'bad' in recent:
            problems.append((fault, f'bad image: {self.last_reason}'))
        if 'failed' in recent:
            problems.append((fault, f'frame failed: {self.last_reason}'))
        if 'lost' in recent:
            problems.append(
                (Level.WARN, f'{self.counts["lost"]} images lost on the way; if they are larger '
                 'than 512 KB start their publisher with config/fastdds.xml (docs/node.md)')
            )  # fmt: skip
        if 'clock' in recent:
            problems.append((Level.WARN, self._clock_problem(sim_time)))
        return problems

    def _clock_problem(self, sim_time: bool) -> str:
        if self._stamp_is_zero:
            return 'image stamps are zero: the driver does not stamp its images'
        way = 'ahead of' if self.age_s < 0 else 'behind'
        hint = 'is /clock published?' if sim_time else 'use_sim_time?'
        return f'clock mismatch: stamps are {abs(self.age_s):.1f} s {way} this node ({hint})'


def _rate(times: deque[float], now_s: float, since_s: float) -> float:
    """Events a second over the window, or over the time since activation when that is shorter."""
    while times and times[0] < now_s - WINDOW_S:
        times.popleft()
    return len(times) / max(min(WINDOW_S, now_s - since_s), 1e-3)


def inference_status(
    *,
    model: str,
    provider: str,
    wanted: list[str],
    seconds: dict[str, float],
    frame_id: str,
) -> Status:
    """The model's status.

    Args:
        model: Name and id of the bundle.
        provider: Execution provider that is really used.
        wanted: Providers that were asked for; empty when none was.
        seconds: Time spent on the last frame, by name.
        frame_id: Camera.
    """
    # An accelerator that was asked for and is not used must not go unnoticed.
    level, message = Level.OK, f'{model} on {provider}'
    if wanted and provider != wanted[0]:
        level = Level.WARN
        message = f'{wanted[0]} was asked for, but {model} runs on {provider}'
    values = {'model': model, 'provider': provider}
    values |= {f'{name}_ms': f'{value * 1e3:.1f}' for name, value in seconds.items()}
    return Status('inference', level, message, values, frame_id)


def shift_values(state: ShiftState | None, model: str) -> dict[str, str]:
    """A verdict as text under fixed names; what has no value is 'nan'."""
    score = state.score if state else None
    parts = {
        'novelty_z': score.novelty if score else None,
        'novelty_smoothed': state.smoothed if state else None,
        'low_z': score.low if score else None,
        'early_z': score.early if score else None,
        'deep_z': score.deep if score else None,
    }
    return {
        **{name: 'nan' if value is None else f'{value:.6f}' for name, value in parts.items()},
        'samples': str(state.samples if state else 0),
        'level': (state.level if state else Level.STALE).name,
        'model': model,
    }


def shift_status(state: ShiftState | None, model: str, frame_id: str) -> Status:
    """The monitor's status; without a state it has seen nothing yet."""
    level = state.level if state else Level.STALE
    reason = state.reason if state else 'no frame yet'
    return Status('shift', level, reason, shift_values(state, model), f'{frame_id}/{model}')
