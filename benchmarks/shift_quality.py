# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How well the mIoU is told without labels, and how often the kind is right.

The rivals tell an accuracy, which is taken to the mIoU by the ratio of both on the source: average
confidence (AC) and the difference of confidences (DoC, Guillory et al. 2021), and average
thresholded confidence (ATC, Garg et al. 2022) with the greatest probability as its score.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from benchmarks.shift_events import Event, Streams
from benchmarks.shift_evidence import BINS, Described, scores_of
from benchmarks.shift_knowledge import Ladder, fit_ladder
from benchmarks.shift_metrics import Errors, errors, runs
from benchmarks.shift_plan import COMBINED, MIDDLE, PLACE
from benchmarks.shift_streams import CLEAR
from clcp_ros.monitor.attribution import KindReference, KindWindow
from clcp_ros.monitor.harm import HarmReference, Window, soft_class_iou, tap_scores
from clcp_ros.monitor.knowledge import Knowledge
from clcp_ros.replay_scores import mean_iou
from training.monitoring.corruptions import kind_of

WINDOWS = (1, 5, 20)
OURS, OURS_WITHOUT = 'monitor', 'monitor, family left out'
SOFT = 'soft IoU, no fit'

_MIDDLE_STEP = 3  # of the corruption ladder


@dataclass(frozen=True)
class Source:
    """What AC, DoC and ATC know of the source.

    Attributes:
        confidence: Mean of the greatest probabilities.
        accuracy: Share of the pixels that are right.
        miou: Of all frames.
        threshold: Index of the first bin that counts as right (ATC).
        soft_bias: Mean soft IoU less the mIoU.
    """

    confidence: float
    accuracy: float
    miou: float
    threshold: int
    soft_bias: float

    @classmethod
    def of(cls, frames: Described) -> Source:
        """Of labelled frames."""
        confusion = frames.confusion.sum(axis=0)
        accuracy = float(np.trace(confusion) / max(confusion.sum(), 1))
        histogram = frames.histogram.sum(axis=0)
        above = histogram[::-1].cumsum()[::-1] / histogram.sum()
        soft = _soft_iou(frames.soft.mean(axis=0))
        miou = mean_iou(confusion)
        return cls(
            _confidence(histogram), accuracy, miou,
            int(np.argmin(np.abs(above - accuracy))), soft - miou,
        )  # fmt: skip

    def estimates(self, histogram: np.ndarray, soft: np.ndarray) -> dict[str, float]:
        """The rivals' mIoU of a window.

        Args:
            histogram: (BINS,) of the greatest probabilities.
            soft: (C, C + 1) mean of `HarmReference.describe`.
        """
        ratio = self.miou / self.accuracy if self.accuracy else math.nan
        confidence = _confidence(histogram)
        atc = float(histogram[self.threshold :].sum() / histogram.sum())
        return {
            'AC': confidence * ratio,
            'DoC': (self.accuracy - (self.confidence - confidence)) * ratio,
            'ATC': atc * ratio,
            SOFT: _soft_iou(soft) - self.soft_bias,
        }


def _confidence(histogram: np.ndarray) -> float:
    middles = (np.arange(BINS) + 0.5) / BINS
    return float(histogram @ middles / histogram.sum())


def _soft_iou(soft: np.ndarray) -> float:
    """Mean expected IoU of the classes that are predicted at all."""
    confusion = soft[:, :-1]
    present = confusion.sum(axis=0) > 1e-3
    return float(soft_class_iou(confusion)[present].mean()) if present.any() else 0.0


class Estimate(NamedTuple):
    """A window.

    Attributes:
        group: `clear`, `conditions` or `ladder`.
        family: Condition or family.
        frames: In the window.
        estimator: Whose.
        value: mIoU that is told.
        truth: By the labels.
    """

    group: str
    family: str
    frames: int
    estimator: str
    value: float
    truth: float


def estimates(
    streams: Streams,
    events: Sequence[Event],
    calibration: Ladder,
    test: Ladder,
    knowledge: Knowledge,
    temperature: float,
) -> Iterator[Estimate]:
    """Every estimator on every window of the test drives.

    Args:
        streams: The described streams.
        events: What happens; steady conditions only are taken.
        calibration: The corruption ladder that the monitor was fitted on.
        test: That of the test drives.
        knowledge: Of the monitor.
        temperature: Of the logits.
    """
    if knowledge.harm is None:
        return
    clear = Described.concat(list(calibration.frames))
    source = Source.of(clear.take(clear.case == CLEAR))
    full = {OURS: knowledge.harm}
    for _, described in streams.drives('test'):
        yield from _windows('clear', CLEAR, described, knowledge, full, source)
    for event in events:
        # What a frozen picture is worth is not to be seen in it: a fault, not an estimate.
        if event.case.condition not in (PLACE, 'frozen') and not event.case.ramp_s:
            frames = event.frames
            yield from _windows(
                'conditions', event.case.condition, frames, knowledge, full, source
            )
    fitted = calibration.harm_frames(knowledge)
    for family in sorted({tag.partition(':')[0] for f in test.frames for tag in set(f.case)}):
        if family == CLEAR:
            continue
        without = fit_ladder(fitted, temperature, (family,)).reference
        maps = {OURS: knowledge.harm, OURS_WITHOUT: without}
        for frames in test.frames:
            own = np.array([tag.partition(':')[0] == family for tag in frames.case])
            yield from _windows('ladder', family, frames.take(own), knowledge, maps, source)


def _windows(
    group: str,
    family: str,
    frames: Described,
    knowledge: Knowledge,
    maps: dict[str, HarmReference],
    source: Source,
) -> Iterator[Estimate]:
    taps = np.array([tap_scores(score) for score in scores_of(knowledge, frames)])
    for size in WINDOWS:
        for rows in runs(frames.case, frames.stamp_ns, size):
            truth = mean_iou(frames.confusion[rows].sum(axis=0))
            soft = frames.soft[rows].astype(np.float64).mean(axis=0)
            window = Window(soft, taps[rows].mean(axis=0), size)
            values = {name: harm.estimate(window).miou for name, harm in maps.items()}
            values |= source.estimates(frames.histogram[rows].sum(axis=0), soft)
            for name, value in values.items():
                yield Estimate(group, family, size, name, value, truth)


def summed(
    found: Sequence[Estimate], group: str, estimator: str, frames: int, family: str = ''
) -> Errors:
    """The errors of some windows.

    Args:
        found: All windows.
        group: Which.
        estimator: Whose.
        frames: In a window.
        family: Only these, if given.
    """
    chosen = [
        e for e in found
        if (e.group, e.estimator, e.frames) == (group, estimator, frames)
        and family in ('', e.family)
    ]  # fmt: skip
    return errors([e.value for e in chosen], [e.truth for e in chosen])


class Naming(NamedTuple):
    """A kind that was named.

    Attributes:
        group: `conditions` or `ladder`; `alarms` of what the running monitor told.
        family: Condition or family.
        truth: Its kind.
        said: What was said after five frames, or most often during an alarm.
    """

    group: str
    family: str
    truth: str
    said: str


def namings(
    events: Sequence[Event],
    test: Ladder,
    kinds: KindReference | None,
    told: Mapping[str, str],
) -> list[Naming]:
    """What things of middle severity are called, and clear frames.

    The monitor asks for a kind only when it is alarmed; so it is asked here of what is known to be
    out of domain.

    Args:
        events: What happens on the test drives.
        test: The corruption ladder on them.
        kinds: What the monitor knows; None gives nothing.
        told: By event, the kind that the running monitor told; empty without an alarm.
    """
    if kinds is None:
        return []
    found = []
    for event in events:
        name, severity = event.case.condition, event.case.severity
        if name in (PLACE, 'frozen', *COMBINED) or event.case.ramp_s or severity != MIDDLE:
            continue
        said = said_of(event.frames, kinds, novel=True)
        found += [Naming('conditions', name, kind_of(name), kind) for kind in said]
        if told[event.name]:
            found.append(Naming('alarms', name, kind_of(name), told[event.name]))
    for frames in test.frames:
        for tag in dict.fromkeys(frames.case.tolist()):
            family, _, step = tag.partition(':')
            if family == CLEAR or step == str(_MIDDLE_STEP):
                own = frames.take(frames.case == tag)
                found += [
                    Naming('ladder', family, kind_of(family), said)
                    for said in said_of(own, kinds, family != CLEAR)
                ]
    return found


def said_of(frames: Described, kinds: KindReference, novel: bool) -> Iterator[str]:
    """The kind after every five frames.

    Args:
        frames: In the order of their stamps.
        kinds: What the monitor knows.
        novel: It is known that they are out of domain.
    """
    window = KindWindow(kinds)
    for i in range(len(frames)):
        values = kinds.values(frames.low[i], frames.features(i))
        kind = window.update(int(frames.stamp_ns[i]), values, novel)
        if i % 5 == 4:
            yield kind.name
            window.reset()
