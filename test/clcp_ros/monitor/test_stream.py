# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clcp_ros.frame import Frame
from clcp_ros.monitor import (
    CameraFusion,
    Evidence,
    Level,
    MonitorConfig,
    ShiftMonitor,
    image_statistics,
)
from clcp_ros.monitor.close import LONGEST_S, CloseReference
from clcp_ros.monitor.faults import Fault
from clcp_ros.monitor.heatmap import heat_map
from training.monitoring.kinds import fit_kinds
from training.monitoring.samples import Samples

SECOND = 1_000_000_000
STEP_NS = SECOND // 2
CLASSES = ('road', 'car', 'sky')
SOURCE_IOU = 0.8


# What the level says -----------------------------------------------------------------------------


def test_novelty_warns_and_harm_makes_it_an_error(kit: Any) -> None:
    monitor = kit.monitor()
    assert set(kit.levels(kit.play(monitor, kit.good(30)))[5:]) == {Level.OK}
    harmless = kit.play(monitor, [kit.evidence(7.0)] * 20, 15 * SECOND)
    assert harmless[-1].level == Level.WARN
    assert 'outside the training domain (+7.0 sd)' in harmless[-1].reason
    harmful = kit.play(monitor, [kit.evidence(7.0, 0.4)] * 20, 25 * SECOND)
    assert harmful[-1].level == Level.ERROR
    assert 'degraded: expected mIoU' in harmful[-1].reason
    assert harmful[-1].miou_lo < harmful[-1].miou_est < harmful[-1].miou_hi
    assert {name for name, _ in harmful[-1].ranked_classes} == set(CLASSES)


def test_a_switch_into_harm_is_an_error_within_three_seconds(kit: Any) -> None:
    """The window forgets the time before the switch: otherwise it takes ten seconds."""
    monitor = kit.monitor()
    kit.play(monitor, kit.good(60))
    states = kit.play(monitor, [kit.evidence(8.0, 0.5)] * 20, 30 * SECOND)
    first = kit.levels(states).index(Level.ERROR)
    assert (first + 1) * STEP_NS <= 3.5 * SECOND
    assert states[first].miou_est == pytest.approx(0.5, abs=0.02)


def test_recovery_is_bounded(kit: Any) -> None:
    monitor = kit.monitor()
    kit.play(monitor, [*kit.good(20), *[kit.evidence(12.0, 0.3)] * 1200])
    states = kit.play(monitor, kit.good(80), 610 * SECOND)
    assert kit.levels(states).index(Level.OK) * STEP_NS < 25 * SECOND
    assert states[-1].miou_drop == pytest.approx(0, abs=0.02)


def test_harm_without_novelty_is_told_too(kit: Any) -> None:
    """A network that is unsure of images that are like those it knows."""
    states = kit.play(kit.monitor(), [kit.evidence(0.0, 0.72)] * 60)
    assert states[-1].level == Level.WARN
    states = kit.play(kit.monitor(), [kit.evidence(0.0, 0.4)] * 60)
    assert states[-1].level == Level.ERROR


def lorry(kit: Any, share: float = 0.9, novelty: float = 9.0) -> Evidence:
    confusion = np.diag([(1 - share) / 2, share, (1 - share) / 2])
    scored = kit.evidence(novelty)
    return replace(scored, confusion=np.hstack([confusion, np.zeros((3, 1))]))


def test_a_vehicle_that_came_near_is_no_alarm(kit: Any) -> None:
    queue = [*kit.good(30), lorry(kit, 0.6, 4.0), *[lorry(kit)] * 30, *kit.good(30)]
    states = kit.play(kit.monitor(close=CloseReference.of(CLASSES)), queue)
    assert set(kit.levels(states)[5:]) == {Level.OK}
    behind = states[40]
    assert behind.reason == 'a vehicle fills the view'
    assert math.isnan(behind.miou_est)
    assert behind.score is not None
    assert states[-1].miou_est == pytest.approx(SOURCE_IOU, abs=0.02)
    # Whoever does not know of vehicles takes it for a shift.
    assert Level.WARN in kit.levels(kit.play(kit.monitor(), queue))


def test_what_fills_the_view_for_long_is_judged(kit: Any) -> None:
    monitor = kit.monitor(close=CloseReference.of(CLASSES))
    states = kit.play(monitor, [*kit.good(30), lorry(kit, 0.6, 4.0), *[lorry(kit)] * 90])
    first = kit.levels(states).index(Level.WARN)
    assert LONGEST_S <= (first - 30) * STEP_NS / SECOND <= LONGEST_S + 5


def test_a_cover_that_looks_like_a_vehicle_is_an_alarm_at_once(kit: Any) -> None:
    monitor = kit.monitor(close=CloseReference.of(CLASSES))
    states = kit.play(monitor, [*[lorry(kit, 0.05, 0.0)] * 30, *[lorry(kit)] * 10])
    assert states[-1].level == Level.WARN


def test_without_an_estimate_of_harm_its_fields_are_unknown(kit: Any) -> None:
    states = kit.play(kit.monitor(harm=None), [*kit.good(10), *[kit.evidence(9.0)] * 30])
    assert states[-1].level == Level.WARN
    assert math.isnan(states[-1].miou_est)
    assert states[-1].texts['kind'] == ''
    assert 'mIoU' not in states[-1].reason


def test_a_short_interval_alarms_earlier_than_a_long_one(kit: Any) -> None:
    def delay(config: MonitorConfig) -> int:
        slowly = [kit.evidence(min(i / 10, 4.0)) for i in range(140)]
        return kit.levels(kit.play(kit.monitor(config), slowly)).index(Level.WARN)

    short, default, long = (
        delay(MonitorConfig(false_alarm_interval_h=hours)) for hours in (0.5, 0.0, 200.0)
    )
    assert short < default < long


def test_cameras_share_the_false_alarms(kit: Any) -> None:
    fusion = CameraFusion(('a', 'b', 'c', 'd'))
    four = ShiftMonitor(kit.knowledge(), camera='a', fusion=fusion)
    assert (
        four.judge(0, kit.evidence()).cusum_threshold
        > kit.monitor().judge(0, kit.evidence()).cusum_threshold
    )


def test_scope_tells_one_lens_from_the_weather(kit: Any) -> None:
    def run(others_novelty: float) -> set[str]:
        names = ('front', 'left', 'right')
        fusion, knowledge = CameraFusion(names), kit.knowledge()
        monitors = {n: ShiftMonitor(knowledge, camera=n, fusion=fusion) for n in names}
        scopes = set()
        for i in range(60):
            bad = i >= 20
            for name, monitor in monitors.items():
                novelty = (9.0 if name == 'front' else others_novelty) if bad else 0.0
                state = monitor.judge(i * STEP_NS, kit.evidence(novelty))
                if name == 'front':
                    scopes.add(state.scope)
        return scopes

    assert run(0.0) == {'', 'one camera'}
    assert 'all cameras' in run(9.0)
    assert 'unknown' in {s.scope for s in kit.play(kit.monitor(), [kit.evidence(9.0)] * 40)}


def test_settings_change_while_it_runs(kit: Any) -> None:
    monitor = kit.monitor()
    kit.play(monitor, [kit.evidence(0.0, 0.6)] * 60)
    assert monitor.judge(30 * SECOND, kit.evidence(0.0, 0.6)).level == Level.ERROR
    monitor.config = replace(monitor.config, warn_drop=0.4, error_drop=0.5, window_s=5.0)
    states = kit.play(monitor, [kit.evidence(0.0, 0.6)] * 60, 31 * SECOND)
    assert states[-1].level == Level.OK
    assert states[-1].window_s <= 5.0
    assert states[-1].samples > 100


@pytest.mark.parametrize('runtime', [False, True])
def test_a_longer_gap_holds_for_faults_too(
    kit: Any, daylight_image: Callable[..., Any], runtime: bool
) -> None:
    config = MonitorConfig(max_gap_s=5.0)
    monitor = kit.monitor(None if runtime else config)
    monitor.config = config
    states = kit.film(monitor, [daylight_image(1)] * 12, step_ns=3 * SECOND)
    assert states[-1].fault == 'frozen'


def test_a_gap_that_is_allowed_is_no_jump(kit: Any) -> None:
    monitor = kit.monitor(MonitorConfig(max_gap_s=200.0))
    states = [monitor.judge(i * 100 * SECOND, kit.evidence()) for i in range(8)]
    assert kit.levels(states) == [Level.STALE] * 4 + [Level.OK] * 4


def test_classes_that_cannot_come_do_not_count_as_lost(kit: Any) -> None:
    def drop(expected: tuple[str, ...]) -> float:
        monitor = kit.monitor(MonitorConfig(expected_classes=expected))
        bad = kit.evidence()
        confusion = bad.confusion.copy()
        confusion[2, :3], confusion[:3, 2] = 0.02, 0.02  # nothing but doubt about the sky
        return kit.play(monitor, [replace(bad, confusion=confusion)] * 40)[-1].miou_drop

    assert drop(()) > drop(('road', 'car')) + 0.1


def test_between_samples_the_last_verdict_stands(
    kit: Any, daylight_image: Callable[..., Any]
) -> None:
    states = kit.film(kit.monitor(), [daylight_image(i) for i in range(40)])
    scored = [s for s in states if s.monitored]
    assert len(scored) == 8
    for state in states:
        assert state.monitored == (state.score is not None)
        newest = max((s for s in scored if s.stamp_ns <= state.stamp_ns), key=lambda s: s.stamp_ns)
        assert replace(state, stamp_ns=0, monitored=True, score=None) == replace(
            newest, stamp_ns=0, score=None
        )


def test_observing_changes_no_state(kit: Any, daylight_image: Callable[..., Any]) -> None:
    monitor, other = kit.monitor(), kit.monitor()
    found = []
    for i in range(20):
        frame, said = Frame(daylight_image(i)), kit.prediction(i)
        direct = other.update(i * STEP_NS, frame, said)
        monitor.observe(frame, said)
        found.append((monitor.judge(i * STEP_NS, monitor.observe(frame, said)), direct))
    assert all(apart == together for apart, together in found)


def test_the_kind_is_told_while_something_is_wrong(
    kit: Any, daylight_image: Callable[..., Any]
) -> None:
    """With `training.monitoring.kinds`, which needs several frames of each of several drives."""

    def low(change: Callable[[np.ndarray], np.ndarray], seeds: range) -> np.ndarray:
        return np.stack(
            [image_statistics(change(daylight_image(s)).astype(np.uint8)) for s in seeds]
        )

    def samples(rows: np.ndarray, tag: str) -> Samples:
        n = len(rows)
        features = [kit.prediction(seed).features for seed in range(n)]
        return Samples(
            drive=np.array([f'drive{i % 4}' for i in range(n)]), stamp_ns=np.arange(n),
            tag=np.array([tag] * n), low=rows, scene=np.zeros((n, 1)),
            **{tap: np.stack([one[tap] for one in features]) for tap in ('early', 'deep')},
        )  # fmt: skip

    seeds = range(3000, 3040)
    kinds = fit_kinds(
        samples(low(lambda image: image, seeds), 'clear'),
        [
            samples(low(lambda image: image // 6, seeds), 'night:3'),
            samples(low(lambda image: 190 + image // 5, seeds), 'fog:3'),
        ],
    )
    monitor = kit.monitor(kinds=kinds, harm=None)
    bright = [daylight_image(i) for i in range(20)]
    states = kit.film(monitor, [*bright, *(image // 6 for image in bright)], step_ns=STEP_NS)
    assert {s.kind for s in states[5:20]} == {'none'}
    assert states[-1].level == Level.WARN
    assert states[-1].kind == 'dark'
    assert 'looks like dark' in states[-1].reason
    assert len(states[-1].ranked_stats) == 3
    assert 0.5 < states[-1].kind_prob <= 1


def test_the_heat_map_shows_where_the_network_is_unsure(kit: Any) -> None:
    logits = np.zeros((3, 4, 5), np.float32)
    logits[0, :, :3] = 9.0
    heat = heat_map(logits, kit.harm_reference())
    assert heat.shape == (4, 5)
    assert heat.dtype == np.float32
    assert not heat[:, :3].any()
    assert np.allclose(heat[:, 3:], 0.9 - 1 / 3)  # less sure than that class is on the source
    assert np.allclose(heat_map(logits, None)[:, 3:], 2 / 3)
    assert np.all(heat_map(logits * np.nan, None) == 1)


def test_a_verdict_does_not_depend_on_where_in_memory_an_image_lies(
    kit: Any,
    daylight_image: Callable[..., Any],
) -> None:
    """Some of OpenCV's functions round by the alignment of their arguments."""
    image = daylight_image(5)
    found = set()
    for offset in range(64):
        buffer = np.empty(image.size + 64, np.uint8)
        moved = buffer[offset : offset + image.size].reshape(image.shape)
        moved[:] = image
        kept = np.empty(997 * offset + 1, np.uint8)  # moves what is allocated meanwhile
        found.add(repr(kit.monitor().observe(Frame(moved), kit.prediction()).score))
        del kept
    assert len(found) == 1


# Whatever comes ----------------------------------------------------------------------------------

steps = st.sampled_from([0, -5 * SECOND, 1, STEP_NS, STEP_NS, STEP_NS, 3 * SECOND, 90 * SECOND])
novelties = st.floats(-4, 12) | st.sampled_from([math.nan, math.inf])
faults = st.sampled_from([None] * 8 + [Fault('black', 'b'), Fault('partly_covered', 'p')])


@settings(deadline=None, max_examples=40)  # other processes may take the core
@given(st.lists(st.tuples(steps, novelties, st.floats(0.05, 0.95), faults), max_size=40))
def test_no_stream_breaks_it_and_two_runs_say_the_same(kit: Any, stream: list[Any]) -> None:
    def run() -> list[str]:
        monitor, stamp_ns, said = kit.monitor(), 10**15, []
        for step_ns, novelty, iou, fault in stream:
            stamp_ns += step_ns
            state = monitor.judge(stamp_ns, kit.evidence(novelty, iou), fault)
            assert state.level in Level
            assert state.reason
            assert not any(math.isinf(value) for value in state.numbers.values())
            assert 0 <= state.novelty_cusum <= 3 * state.cusum_threshold or math.isnan(
                state.novelty_cusum
            )
            assert (state.level == Level.ERROR) or fault is None or fault.kind != 'black'
            said.append(repr(state))
        return said

    assert run() == run()


def test_memory_does_not_grow(kit: Any, daylight_image: Callable[..., Any]) -> None:
    monitor = kit.monitor()
    kit.play(monitor, kit.good(2000))
    assert monitor._harm is not None
    assert len(monitor._harm._frames) <= 41
