# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Counts what happens to one camera's frames, and names what is wrong with them. No ROS here."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field

from clcp_ros.monitor import Level
from clcp_ros.node_arrivals import ArrivalWatch
from clcp_ros.node_diagnostics import Status

WINDOW_S = 5.0
"""Rates are over this time, and a fault stays in diagnostics for as long after it happened."""

COUNTERS = ('received', 'processed', 'dropped', 'bad', 'failed', 'lost', 'duplicate')

SEGMENT_BYTES = 512 << 10
"""Fast DDS's shared memory segment where no profile enlarges it: larger messages do not fit."""

_JITTER_S = 1e-3
_BUFFER = 2048
_REASON_CHARACTERS = 300


@dataclass
class Limits:
    """When a camera's input is at fault.

    Attributes:
        stale_s: Silence after which the input is stale (or three of the camera's own periods).
        max_age_s: Age of an arriving frame beyond which clocks disagree.
        frozen_s: Identical images for this long mean a frozen camera; 0 switches this off.
        ahead_s: How far a stamp may be in the future.
    """

    stale_s: float = 0.8
    max_age_s: float = 10.0
    frozen_s: float = 0.6
    ahead_s: float = 0.1


@dataclass(frozen=True)
class Surroundings:
    """What the node knows beside the frames, when a status is made.

    Attributes:
        publishers: Publishers that the subscriptions are connected to.
        rivals: Publishers of one topic, where there are several.
        other_types: What is published on the topics under another type, for people.
        sim_time: Whether the node runs on `/clock`.
        clock_published: Whether somebody publishes `/clock`.
        expected_bytes: Size of a raw image by the camera's calibration; 0 when unknown.
        fastdds: Whether the middleware is Fast DDS.
        profile: The Fast DDS profile to start the publisher with.
    """

    publishers: int = 0
    rivals: int = 0
    other_types: str = ''
    sim_time: bool = False
    clock_published: bool = False
    expected_bytes: int = 0
    fastdds: bool = True
    profile: str = 'config/fastdds.xml'


@dataclass(frozen=True)
class _Problem:
    kind: str
    level: Level
    text: str


@dataclass
class _Times:
    """How long the last frames took, for the figures."""

    latency_s: float = 0.0
    processing_s: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    recent: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=_BUFFER))


class InputStatistics:
    """Counts what happens to the frames of one camera; used from several threads.

    All times `now_s` are seconds of one monotonic clock. Everything kept is bounded, however long
    the node runs.

    Args:
        topics: Names of the topics, for messages.
        limits: Shared with the node, which may change them at run time.
        name: Of the status.
    """

    def __init__(self, topics: str, limits: Limits, name: str = 'input') -> None:
        self.topics = topics
        self.limits = limits
        self.name = name
        self._lock = threading.Lock()
        self.counts = dict.fromkeys(COUNTERS, 0)
        self.incompatible: dict[str, str] = {}
        self.last_reason = ''
        self.frame_id = ''
        self.size: tuple[int, int] | None = None
        self.transport = ''
        self.encoding = ''
        self.age_s = 0.0
        self._bytes = 0
        self._watch = ArrivalWatch()
        self._times = _Times()
        self._arrivals: deque[float] = deque(maxlen=_BUFFER)
        self._results: deque[float] = deque(maxlen=_BUFFER)
        self._recent: dict[str, tuple[float, str]] = {}

    # What happens --------------------------------------------------------------------------------

    def received(
        self,
        now_s: float,
        transport: str,
        age_s: float,
        stamp_ns: int,
        *,
        size_bytes: int = 0,
        encoding: str = '',
        mark: int | None = None,
    ) -> None:
        """Count a message that arrived.

        Args:
            now_s: Now.
            transport: 'raw' or 'compressed'.
            age_s: The node's time minus the stamp.
            stamp_ns: The stamp.
            size_bytes: Size of the image's data.
            encoding: Encoding or format that the message states.
            mark: `fingerprint` of the data; None when it was not taken.
        """
        with self._lock:
            self.counts['received'] += 1
            self.transport, self.encoding, self.age_s = transport, encoding[:60], age_s
            self._bytes = size_bytes
            self._arrivals.append(now_s)
            unique = self.counts['received'] if mark is None else mark
            back_s = self._watch.update(now_s, stamp_ns, unique)
            if back_s:
                self._recent['backwards'] = (now_s, f'{back_s:.1f}')
            if not -self.limits.ahead_s <= age_s <= self.limits.max_age_s:
                self._recent['clock'] = (now_s, '')

    def count(self, now_s: float, what: str, reason: str = '', number: int = 1) -> None:
        """Count a frame that was dropped, bad, failed, lost or a duplicate."""
        with self._lock:
            self.counts[what] += number
            if reason:
                self.last_reason = reason[:_REASON_CHARACTERS]
            self._recent[what] = (now_s, self.last_reason)

    def note(self, now_s: float, kind: str, text: str) -> None:
        """Show a warning for a while, under a name of its own."""
        with self._lock:
            self._recent[kind] = (now_s, text[:_REASON_CHARACTERS])

    def set_incompatible(self, culprits: dict[str, str]) -> None:
        """Replace what is known of publishers that cannot be heard: what to do, by topic."""
        with self._lock:
            self.incompatible = dict(culprits)

    def processed(
        self,
        now_s: float,
        *,
        latency_s: float,
        seconds: dict[str, float],
        frame_id: str,
        size: tuple[int, int],
    ) -> None:
        """Count a frame whose results were published.

        Args:
            now_s: Now.
            latency_s: Acquisition to publication.
            seconds: Time spent, by stage; `total` is all of it.
            frame_id: The camera's frame.
            size: Height and width of the image.
        """
        with self._lock:
            self.counts['processed'] += 1
            if self.size is not None and size != self.size:
                before, after = (f'{w}x{h}' for h, w in (self.size, size))
                text = f'image size changed from {before} to {after} in flight'
                self._recent['size'] = now_s, text
            self.size, self.frame_id = size, frame_id
            self._times.latency_s, self._times.seconds = latency_s, dict(seconds)
            self._times.processing_s = seconds.get('total', 0.0)
            self._times.recent.append((now_s, latency_s))
            self._results.append(now_s)

    @property
    def seconds(self) -> dict[str, float]:
        """Time spent on the last frame, by stage."""
        with self._lock:
            return dict(self._times.seconds)

    # What is told --------------------------------------------------------------------------------

    def silent_after_s(self) -> float:
        """Silence of this camera that is a fault."""
        with self._lock:
            return self._watch.silent_after_s(self.limits.stale_s)

    def silent(self, now_s: float, since_s: float) -> bool:
        """Whether no message has arrived for too long, since activation at the earliest."""
        with self._lock:
            return self._silence_s(now_s, since_s) > 0

    def _silence_s(self, now_s: float, since_s: float) -> float:
        """Seconds of silence, or 0 while they are no fault."""
        last = max(self._arrivals[-1], since_s) if self._arrivals else since_s
        gap_s = now_s - last
        return gap_s if gap_s > self._watch.silent_after_s(self.limits.stale_s) else 0.0

    def status(self, now_s: float, since_s: float, around: Surroundings) -> Status:
        """The input's status.

        Args:
            now_s: Now.
            since_s: When the node was activated.
            around: What else is known.
        """
        with self._lock:
            problems = self._problems(now_s, since_s, around)
            in_rate, out_rate = (
                _rate(times, now_s, since_s) for times in (self._arrivals, self._results)
            )
            values = self._values(now_s, in_rate, out_rate, around)
            frame_id = self.frame_id
        level = max((problem.level for problem in problems), default=Level.OK)
        problems.sort(key=lambda problem: -problem.level)
        good = f'{in_rate:.1f} Hz in, {out_rate:.1f} Hz out'
        if not self.counts['received']:
            good = f'waiting for the first image on {self.topics}'
        message = '; '.join(problem.text for problem in problems) or good
        kinds = tuple(sorted(problem.kind for problem in problems))
        return Status(self.name, level, message, values, frame_id, kinds)

    def _values(
        self, now_s: float, in_rate: float, out_rate: float, around: Surroundings
    ) -> dict[str, str]:
        times = self._times
        while times.recent and times.recent[0][0] < now_s - WINDOW_S:
            times.recent.popleft()
        worst_s = max((latency for _, latency in times.recent), default=0.0)
        size = f'{self.size[1]}x{self.size[0]}' if self.size else ''
        return {
            'rate_hz': f'{in_rate:.2f}',
            'published_hz': f'{out_rate:.2f}',
            **{name: str(number) for name, number in self.counts.items()},
            'last_problem': self.last_reason,
            'incompatible_qos': '; '.join(self.incompatible.values()),
            'age_s': f'{self.age_s:.3f}',
            'latency_s': f'{times.latency_s:.3f}',
            'latency_max_s': f'{worst_s:.3f}',
            'processing_ms': f'{times.processing_s * 1e3:.1f}',
            'transport': self.transport,
            'encoding': self.encoding,
            'size': size,
            'kilobytes': f'{self._bytes / 1024:.0f}',
            'identical_images': str(self._watch.same),
            'time_jumps': str(self._watch.jumps),
            'publishers': str(around.publishers),
        }

    def _problems(self, now_s: float, since_s: float, around: Surroundings) -> list[_Problem]:
        texts = {
            what: text for what, (when, text) in self._recent.items() if now_s - when <= WINDOW_S
        }
        good = bool(self._results) and now_s - self._results[-1] <= WINDOW_S
        fault = Level.WARN if good else Level.ERROR
        problems = [
            *self._silence(now_s, since_s, around),
            *(
                _Problem('qos', Level.WARN if self._arrivals else Level.ERROR, text)
                for text in self.incompatible.values()
            ),
        ]
        if 'bad' in texts:
            problems.append(_Problem('bad', fault, f'bad image: {texts["bad"]}'))
        if 'failed' in texts:
            problems.append(_Problem('failed', fault, f'frame failed: {texts["failed"]}'))
        if 'lost' in texts:
            problems.append(_Problem('lost', fault, self._loss(around)))
        if not any(problem.kind == 'silent' for problem in problems):
            problems += self._stuck()
        if 'backwards' in texts:
            cause = 'a looped bag or a restarted driver'
            if around.rivals > 1:
                cause = f'{around.rivals} publishers of one topic'
            text = (
                f'stamps jumped back by {texts["backwards"]} s ({cause}): the shift monitor '
                'started anew'
            )
            problems.append(_Problem('backwards', Level.WARN, text))
        if 'clock' in texts:
            problems.append(_Problem('clock', Level.WARN, self._clock_problem(around)))
        for kind in ('size', 'camera_info', 'output_qos'):
            if kind in texts:
                problems.append(_Problem(kind, Level.WARN, texts[kind]))
        return problems

    def _silence(self, now_s: float, since_s: float, around: Surroundings) -> list[_Problem]:
        silence_s = self._silence_s(now_s, since_s)
        if not silence_s:
            return []
        text = f'no image on {self.topics} for {silence_s:.1f} s'
        if not around.publishers:
            text += f' (no matching publisher{around.other_types and ": "}{around.other_types})'
        elif self._may_be_too_large(around):
            text += (
                f' though {around.publishers} publisher(s) match: images above 512 KB need '
                f'{around.profile} on the sender side'
            )
        return [_Problem('silent', Level.STALE, text)]

    def _stuck(self) -> list[_Problem]:
        problems = []
        frozen_s, least_s = self._watch.frozen_s(), self.limits.frozen_s
        if least_s and frozen_s >= least_s - _JITTER_S:
            text = f'frozen camera: {self._watch.same} identical images for {frozen_s:.1f} s'
            problems.append(_Problem('frozen', Level.ERROR, text))
        if self._watch.standing and self._watch.stamp_ns:
            text = 'the stamps of the images stand still: the driver stamps them all alike'
            problems.append(_Problem('standing', Level.WARN, text))
        return problems

    def _may_be_too_large(self, around: Surroundings) -> bool:
        """Whether a connected publisher that was never heard may send what does not fit."""
        unheard = not self._arrivals and not self.counts['lost']
        return unheard and around.fastdds and self._large(around) is not False

    def _large(self, around: Surroundings) -> bool | None:
        """Whether the images exceed the default segment; None when their size is unknown."""
        size = self._bytes or around.expected_bytes
        return size > SEGMENT_BYTES if size else None

    def _loss(self, around: Surroundings) -> str:
        text = f'{self.counts["lost"]} images lost on the way'
        large = self._large(around)
        if not around.fastdds or large is False:
            return f'{text}: this machine or the network is overloaded'
        size = self._bytes or around.expected_bytes
        what = f'images of {size / 2**20:.1f} MB do' if size else 'images above 512 KB do'
        return (
            f"{text}: {what} not fit Fast DDS's default shared memory segment of 512 KB; start "
            f'their publisher with FASTRTPS_DEFAULT_PROFILES_FILE={around.profile}, or send '
            'image/compressed'
        )

    def _clock_problem(self, around: Surroundings) -> str:
        if not self._watch.stamp_ns:
            return 'image stamps are zero: the driver does not stamp its images'
        way = 'ahead of' if self.age_s < 0 else 'behind'
        if around.sim_time:
            hint = 'is /clock published?'
            if around.clock_published:
                hint = '/clock is published, but its time is another: one player must give both'
        else:
            hint = 'use_sim_time?'
            if around.clock_published:
                hint = '/clock is published: set use_sim_time to true'
        return f'clock mismatch: stamps are {abs(self.age_s):.1f} s {way} this node ({hint})'


def _rate(times: deque[float], now_s: float, since_s: float) -> float:
    """Events a second over the window, or over the time since activation when that is shorter."""
    while times and times[0] < now_s - WINDOW_S:
        times.popleft()
    return len(times) / max(min(WINDOW_S, now_s - since_s), 1e-3)
