# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import clcp_ros.monitor
from clcp_ros.frame import Frame
from clcp_ros.image_codec import encode_png
from clcp_ros.inference import Prediction
from clcp_ros.monitor import (
    STATISTICS,
    CameraFusion,
    Evidence,
    FrameScore,
    Knowledge,
    Level,
    MonitorConfig,
    ShiftMonitor,
    ShiftReference,
    ShiftState,
    TapReference,
    image_statistics,
)
from clcp_ros.monitor.faults import Fault, static_tiles
from clcp_ros.monitor.harm import FEATURES, HarmReference
from clcp_ros.monitor.heatmap import heat_map
from clcp_ros.monitor.knowledge import Facts
from clcp_ros.monitor.sequential import SequentialReference
from training.monitoring.kinds import fit_kinds
from training.monitoring.novelty import fit_novelty
from training.monitoring.samples import Samples

SECOND = 1_000_000_000
STEP_NS = SECOND // 2
CLASSES = ('road', 'car', 'sky')
SOURCE_IOU = 0.8
_NOVELTY: list[ShiftReference] = []


def harm_reference() -> HarmReference:
    """Takes the expected IoU of the classes that are present for the mIoU."""
    coefficients = np.zeros(len(FEATURES))
    coefficients[FEATURES.index('soft_iou')] = 1.0
    source = np.full(3, SOURCE_IOU)
    return HarmReference.from_arrays({
        'temperature': np.asarray(1.0),
        'class_iou': source,
        'class_soft_iou': source,
        'class_rate': np.full(3, 0.9),
        'class_share': np.full(3, 1 / 3),
        'class_confidence': np.full(3, 0.9),
        'expected': np.ones(3, bool),
        'presence': np.array([0.0, 0.0, 0.0, 30.0]),  # always in view
        'lowest': np.full(len(FEATURES), -1e9),
        'highest': np.full(len(FEATURES), 1e9),
        'coefficients': coefficients,
        'intercept': np.asarray(0.0),
        'curve': np.array([[0.0, 0.0], [1.0, 1.0]]),
        'sizes': np.array([1.0, 40.0]),
        'source': np.full(2, SOURCE_IOU),
        'margins': np.array([[0.1, 0.1], [0.03, 0.03]]),
    })  # fmt: skip


@pytest.fixture(autouse=True, scope='module')
def domain(daylight_image: Callable[..., Any]) -> None:
    """Fit the domain of `daylight_image` and `prediction` once."""

    def frames(seeds: range) -> Samples:
        said = [prediction(seed).features for seed in seeds]
        return Samples(
            drive=np.array([f'drive{seed // 10}' for seed in seeds]),
            stamp_ns=np.arange(len(seeds)) * STEP_NS,
            tag=np.array(['clear'] * len(seeds)),
            low=np.stack([image_statistics(daylight_image(seed)) for seed in seeds]),
            early=np.stack([features['early'] for features in said]),
            deep=np.stack([features['deep'] for features in said]),
            scene=np.full((len(seeds), 3), 1 / 3),
        )

    _NOVELTY.append(fit_novelty(frames(range(1000, 1060)), frames(range(2000, 2060))).reference)


def make_knowledge(**changes: Any) -> Knowledge:
    sequential = SequentialReference(k=3.0, h=8.0, rho=0.7, c=5.0)
    return Knowledge(_NOVELTY[0], sequential, **{'harm': harm_reference(), **changes})


def make_monitor(config: MonitorConfig | None = None, **changes: Any) -> ShiftMonitor:
    return ShiftMonitor(make_knowledge(**changes), config, classes=CLASSES)


def evidence(novelty: float = 0.0, iou: float = SOURCE_IOU) -> Evidence:
    """Of a frame with this novelty, whose classes all have this expected IoU."""
    right = 2 * iou / (1 + iou)
    confusion = np.full((3, 3), (1 - right) / 6) + np.eye(3) * (right - (1 - right) / 2) / 3
    score = FrameScore(novelty, novelty, novelty, novelty)
    return Evidence(np.zeros(len(STATISTICS)), score, np.hstack([confusion, np.zeros((3, 1))]))


def play(
    monitor: ShiftMonitor, samples: Iterable[Evidence | None], start_ns: int = 0
) -> list[ShiftState]:
    """Judge samples, two a second."""
    return [monitor.judge(start_ns + i * STEP_NS, s) for i, s in enumerate(samples)]


def levels(states: Iterable[ShiftState]) -> list[Level]:
    return [state.level for state in states]


def prediction(seed: int = 0, scale: float = 1.0) -> Prediction:
    rng = np.random.default_rng(seed)
    features = {
        'early': rng.normal(0, scale, 4).astype(np.float32),
        'deep': rng.normal(0, scale, 3).astype(np.float32),
    }
    return Prediction(rng.normal(0, 30, (3, 6, 10)).astype(np.float32), features)


def film(
    monitor: ShiftMonitor,
    images: Iterable[np.ndarray | Any],
    start_ns: int = 0,
    step_ns: int = SECOND // 10,
) -> list[ShiftState]:
    """Give a monitor frames, ten a second."""
    return [
        monitor.update(start_ns + i * step_ns, image, prediction(i))
        for i, image in enumerate(images)
    ]


def good(number: int) -> list[Evidence]:
    return [evidence()] * number


# What the level says -----------------------------------------------------------------------------


def test_novelty_warns_and_harm_makes_it_an_error() -> None:
    monitor = make_monitor()
    assert set(levels(play(monitor, good(30)))[5:]) == {Level.OK}
    harmless = play(monitor, [evidence(7.0)] * 20, 15 * SECOND)
    assert harmless[-1].level == Level.WARN
    assert 'outside the training domain (+7.0 sd)' in harmless[-1].reason
    harmful = play(monitor, [evidence(7.0, 0.4)] * 20, 25 * SECOND)
    assert harmful[-1].level == Level.ERROR
    assert 'degraded: expected mIoU' in harmful[-1].reason
    assert harmful[-1].miou_lo < harmful[-1].miou_est < harmful[-1].miou_hi
    assert {name for name, _ in harmful[-1].ranked_classes} == set(CLASSES)


def test_a_switch_into_harm_is_an_error_within_three_seconds() -> None:
    """The window forgets the time before the switch: otherwise it takes ten seconds."""
    monitor = make_monitor()
    play(monitor, good(60))
    states = play(monitor, [evidence(8.0, 0.5)] * 20, 30 * SECOND)
    first = levels(states).index(Level.ERROR)
    assert (first + 1) * STEP_NS <= 3.5 * SECOND
    assert states[first].miou_est == pytest.approx(0.5, abs=0.02)


def test_recovery_is_bounded() -> None:
    monitor = make_monitor()
    play(monitor, [*good(20), *[evidence(12.0, 0.3)] * 1200])
    states = play(monitor, good(80), 610 * SECOND)
    assert levels(states).index(Level.OK) * STEP_NS < 25 * SECOND
    assert states[-1].miou_drop == pytest.approx(0, abs=0.02)


def test_harm_without_novelty_is_told_too() -> None:
    """A network that is unsure of images that are like those it knows."""
    states = play(make_monitor(), [evidence(0.0, 0.72)] * 60)
    assert states[-1].level == Level.WARN
    states = play(make_monitor(), [evidence(0.0, 0.4)] * 60)
    assert states[-1].level == Level.ERROR


def test_without_an_estimate_of_harm_its_fields_are_unknown() -> None:
    states = play(make_monitor(harm=None), [*good(10), *[evidence(9.0)] * 30])
    assert states[-1].level == Level.WARN
    assert math.isnan(states[-1].miou_est)
    assert states[-1].texts['kind'] == ''
    assert 'mIoU' not in states[-1].reason


def test_a_short_interval_alarms_earlier_than_a_long_one() -> None:
    def delay(config: MonitorConfig) -> int:
        slowly = [evidence(min(i / 10, 4.0)) for i in range(140)]
        return levels(play(make_monitor(config), slowly)).index(Level.WARN)

    short, default, long = (
        delay(MonitorConfig(false_alarm_interval_h=hours)) for hours in (0.5, 0.0, 200.0)
    )
    assert short < default < long


def test_cameras_share_the_false_alarms() -> None:
    fusion = CameraFusion(('a', 'b', 'c', 'd'))
    four = ShiftMonitor(make_knowledge(), camera='a', fusion=fusion)
    assert (
        four.judge(0, evidence()).cusum_threshold
        > make_monitor().judge(0, evidence()).cusum_threshold
    )


def test_scope_tells_one_lens_from_the_weather() -> None:
    def run(others_novelty: float) -> set[str]:
        names = ('front', 'left', 'right')
        fusion, knowledge = CameraFusion(names), make_knowledge()
        monitors = {n: ShiftMonitor(knowledge, camera=n, fusion=fusion) for n in names}
        scopes = set()
        for i in range(60):
            bad = i >= 20
            for name, monitor in monitors.items():
                novelty = (9.0 if name == 'front' else others_novelty) if bad else 0.0
                state = monitor.judge(i * STEP_NS, evidence(novelty))
                if name == 'front':
                    scopes.add(state.scope)
        return scopes

    assert run(0.0) == {'', 'one camera'}
    assert 'all cameras' in run(9.0)
    assert 'unknown' in {s.scope for s in play(make_monitor(), [evidence(9.0)] * 40)}


def test_settings_change_while_it_runs() -> None:
    monitor = make_monitor()
    play(monitor, [evidence(0.0, 0.6)] * 60)
    assert monitor.judge(30 * SECOND, evidence(0.0, 0.6)).level == Level.ERROR
    monitor.config = replace(monitor.config, warn_drop=0.4, error_drop=0.5, window_s=5.0)
    states = play(monitor, [evidence(0.0, 0.6)] * 60, 31 * SECOND)
    assert states[-1].level == Level.OK
    assert states[-1].window_s <= 5.0
    assert states[-1].samples > 100


def test_classes_that_cannot_come_do_not_count_as_lost() -> None:
    def drop(expected: tuple[str, ...]) -> float:
        monitor = make_monitor(MonitorConfig(expected_classes=expected))
        bad = evidence()
        confusion = bad.confusion.copy()
        confusion[2, :3], confusion[:3, 2] = 0.02, 0.02  # nothing but doubt about the sky
        return play(monitor, [replace(bad, confusion=confusion)] * 40)[-1].miou_drop

    assert drop(()) > drop(('road', 'car')) + 0.1


def test_between_samples_the_last_verdict_stands(daylight_image: Callable[..., Any]) -> None:
    states = film(make_monitor(), [daylight_image(i) for i in range(40)])
    scored = [s for s in states if s.monitored]
    assert len(scored) == 8
    for state in states:
        assert state.monitored == (state.score is not None)
        newest = max((s for s in scored if s.stamp_ns <= state.stamp_ns), key=lambda s: s.stamp_ns)
        assert replace(state, stamp_ns=0, monitored=True, score=None) == replace(
            newest, stamp_ns=0, score=None
        )


def test_observing_changes_no_state(daylight_image: Callable[..., Any]) -> None:
    monitor, other = make_monitor(), make_monitor()
    found = []
    for i in range(20):
        frame, said = Frame(daylight_image(i)), prediction(i)
        direct = other.update(i * STEP_NS, frame, said)
        monitor.observe(frame, said)
        found.append((monitor.judge(i * STEP_NS, monitor.observe(frame, said)), direct))
    assert all(apart == together for apart, together in found)


def test_the_kind_is_told_while_something_is_wrong(daylight_image: Callable[..., Any]) -> None:
    """With `training.monitoring.kinds`, which needs several frames of each of several drives."""

    def low(change: Callable[[np.ndarray], np.ndarray], seeds: range) -> np.ndarray:
        return np.stack(
            [image_statistics(change(daylight_image(s)).astype(np.uint8)) for s in seeds]
        )

    def samples(rows: np.ndarray, tag: str) -> Samples:
        n = len(rows)
        empty = np.zeros((n, 1))
        return Samples(
            drive=np.array([f'drive{i % 4}' for i in range(n)]), stamp_ns=np.arange(n),
            tag=np.array([tag] * n), low=rows, early=empty, deep=empty, scene=empty,
        )  # fmt: skip

    seeds = range(3000, 3040)
    kinds = fit_kinds(
        samples(low(lambda image: image, seeds), 'clear'),
        [
            samples(low(lambda image: image // 6, seeds), 'night:3'),
            samples(low(lambda image: 190 + image // 5, seeds), 'fog:3'),
        ],
    )
    monitor = make_monitor(kinds=kinds, harm=None)
    bright = [daylight_image(i) for i in range(20)]
    states = film(monitor, [*bright, *(image // 6 for image in bright)], step_ns=STEP_NS)
    assert {s.kind for s in states[5:20]} == {'none'}
    assert states[-1].level == Level.WARN
    assert states[-1].kind == 'dark'
    assert 'looks like dark' in states[-1].reason
    assert len(states[-1].ranked_stats) == 3
    assert 0.5 < states[-1].kind_prob <= 1


def test_the_heat_map_shows_where_the_network_is_unsure() -> None:
    logits = np.zeros((3, 4, 5), np.float32)
    logits[0, :, :3] = 9.0
    heat = heat_map(logits, harm_reference())
    assert heat.shape == (4, 5)
    assert heat.dtype == np.float32
    assert not heat[:, :3].any()
    assert np.allclose(heat[:, 3:], 0.9 - 1 / 3)  # less sure than that class is on the source
    assert np.allclose(heat_map(logits, None)[:, 3:], 2 / 3)
    assert np.all(heat_map(logits * np.nan, None) == 1)


# The edge cases of a camera in the field ---------------------------------------------------------


def test_edge_01_a_saturated_sky_gives_finite_scores(daylight_image: Callable[..., Any]) -> None:
    image = daylight_image(0)
    image[:60] = 255
    assert edge_score(image).novelty < math.inf
    assert math.isfinite(edge_score(image).low)


def edge_score(image: np.ndarray, said: Prediction | None = None) -> FrameScore:
    found = make_monitor().observe(Frame(image), said or prediction())
    assert found.finite
    return found.score


def test_edge_02_a_dead_channel_does_not_decide_alone(daylight_image: Callable[..., Any]) -> None:
    said = prediction()
    said.features['early'][1] = 3e8
    score = edge_score(daylight_image(0), said)
    assert -4 <= score.early <= TapReference.Z_RANGE[1]
    assert score.novelty <= TapReference.Z_RANGE[1]


@pytest.mark.parametrize('grey', [0, 90, 255])
def test_edge_03_a_constant_image_is_an_error_without_the_sum(
    daylight_image: Callable[..., Any], grey: int
) -> None:
    monitor = make_monitor()
    film(monitor, [daylight_image(i) for i in range(40)])
    states = film(monitor, [np.full((96, 160, 3), grey, np.uint8)] * 30, 4 * SECOND)
    assert levels(states).index(Level.ERROR) in (10, 11)  # after a second
    assert states[-1].fault in ('black', 'covered', 'white')
    assert all(math.isfinite(s.score.novelty) for s in states if s.score)
    assert not states[-1].novelty_cusum > 0
    assert states[-1].reason.startswith('image is')
    assert ';' not in states[-1].reason
    assert math.isnan(states[-1].miou_est)
    after = film(monitor, [daylight_image(i) for i in range(30)], 7 * SECOND)
    assert levels(after).index(Level.OK) <= 12


def test_edge_04_frames_with_non_finite_logits_are_rejected_and_three_are_an_error(
    daylight_image: Callable[..., Any],
) -> None:
    monitor = make_monitor()
    play(monitor, good(10))
    image, bad = daylight_image(0), prediction()
    bad.logits[0, 0, 0] = np.nan
    states = [monitor.update((50 + i) * SECOND // 10, image, bad) for i in range(3)]
    assert levels(states) == [Level.OK, Level.OK, Level.ERROR]
    assert monitor.rejected == 3
    assert '3 frames in a row' in states[-1].reason
    assert states[-1].samples == 10
    infinite = prediction()
    infinite.features['deep'][0] = np.inf
    alternating = [
        monitor.update(
            (70 + i) * SECOND // 10, daylight_image(i), (infinite, prediction(i))[i % 2]
        )
        for i in range(20)
    ]
    assert alternating[-1].level == Level.OK


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
def test_edge_05_what_is_not_finite_never_enters_a_state(value: float) -> None:
    monitor, other = make_monitor(), make_monitor()
    bad = evidence(4.0)
    wrong = [
        replace(bad, score=replace(bad.score, novelty=value)),
        replace(bad, score=replace(bad.score, low=value)),
        replace(bad, confusion=np.full((3, 4), value)),
    ]
    for i in range(60):
        stamp_ns = i * STEP_NS
        expected = other.judge(stamp_ns, evidence(4.0))
        assert replace(monitor.judge(stamp_ns, evidence(4.0)), reason='') == replace(
            expected, reason=''
        )
        state = monitor.judge(stamp_ns + 1000, wrong[i % 3])
        other.judge(stamp_ns + 1000, None)
        assert all(not math.isinf(number) for number in state.numbers.values())
    assert monitor.rejected == 60


def test_edge_06_a_frozen_camera_is_an_error_after_a_second(
    daylight_image: Callable[..., Any],
) -> None:
    monitor = make_monitor()
    film(monitor, [daylight_image(i) for i in range(40)])
    states = film(monitor, [daylight_image(77)] * 20, 4 * SECOND)
    assert levels(states).index(Level.ERROR) == 10
    assert states[-1].fault == 'frozen'
    monitor = make_monitor(MonitorConfig(frozen_s=0.0))
    assert Level.ERROR not in levels(film(monitor, [daylight_image(77)] * 100))


@pytest.mark.parametrize('back_ns', [0, 1, 100 * SECOND])
def test_edge_07_a_stamp_that_does_not_advance_starts_anew(back_ns: int) -> None:
    monitor = make_monitor()
    states = play(monitor, [evidence(9.0, 0.4)] * 40, 200 * SECOND)
    assert states[-1].level == Level.ERROR
    start_ns = states[-1].stamp_ns - back_ns
    again = play(monitor, [evidence(9.0, 0.4)] * 40, start_ns)
    assert again[0].level == Level.STALE
    assert again[0].samples == 1
    assert 'stamp' in again[0].reason
    fresh = play(make_monitor(), [evidence(9.0, 0.4)] * 40, start_ns)
    assert [replace(s, reason='') for s in again] == [replace(s, reason='') for s in fresh]


def test_edge_07_time_that_jumps_far_ahead_starts_anew() -> None:
    monitor = make_monitor()
    play(monitor, [evidence(9.0)] * 40)
    state = monitor.judge(10_000 * SECOND, evidence(9.0))
    assert (state.level, state.samples) == (Level.STALE, 1)
    assert state.novelty_cusum == 0
    assert 'jumped ahead' in state.reason


def test_edge_08_nothing_accumulates_across_a_gap() -> None:
    monitor = make_monitor()
    before = play(monitor, [*good(10), *[evidence(3.5)] * 4])[-1]
    after = monitor.judge(before.stamp_ns + 5 * SECOND, evidence(3.5))
    assert after.novelty_cusum <= before.novelty_cusum
    assert (after.level, after.samples) == (Level.STALE, 1)
    assert 'no image for 5.0 s' in after.reason
    # An alarm that stood before it stands after it, once there are frames to say so.
    monitor = make_monitor()
    alarmed = play(monitor, [*good(10), *[evidence(9.0)] * 20])[-1]
    states = play(monitor, [evidence(9.0)] * 5, alarmed.stamp_ns + 5 * SECOND)
    assert levels(states) == [Level.STALE] * 4 + [Level.WARN]


@pytest.mark.parametrize(('samples', 'level'), [(1, Level.OK), (3, Level.OK), (9, Level.WARN)])
def test_edge_09_an_exposure_step_does_not_warn_and_a_lasting_change_does(
    samples: int, level: Level
) -> None:
    monitor = make_monitor()
    play(monitor, good(20))
    states = play(monitor, [*[evidence(10.0)] * samples, *good(4)], 10 * SECOND)
    assert max(levels(states)) == level


def test_edge_10_the_first_five_samples_are_stale() -> None:
    assert levels(play(make_monitor(), good(6))) == [Level.STALE] * 4 + [Level.OK] * 2
    reason = play(make_monitor(), good(2))[-1].reason
    assert reason == '2 of 5 frames scored'


def test_edge_11_another_resolution_or_encoding_is_stale_with_a_message(
    daylight_image: Callable[..., Any],
) -> None:
    def raw(image: np.ndarray, encoding: str) -> SimpleNamespace:
        height, width = image.shape[:2]
        return SimpleNamespace(
            height=height, width=width, encoding=encoding, is_bigendian=0,
            step=image.size // height, data=image.reshape(-1),
        )  # fmt: skip

    def settle(monitor: ShiftMonitor, start_ns: int, frame: Callable[[int], Any]) -> Any:
        return film(monitor, [Frame(frame(i)) for i in range(30)], start_ns)

    monitor = make_monitor()
    first = settle(monitor, 0, lambda i: raw(daylight_image(i), 'rgb8'))
    assert first[-1].level == Level.OK
    swapped = settle(monitor, 3 * SECOND, lambda i: raw(daylight_image(i)[..., ::-1], 'bgr8'))
    assert swapped[0].level == Level.STALE
    assert 'changed from 160x96 rgb8 to 160x96 bgr8' in swapped[0].reason
    assert swapped[-1].level == Level.OK
    gray = settle(monitor, 6 * SECOND, lambda i: raw(daylight_image(i)[..., 0], 'mono8'))
    assert gray[0].level == Level.STALE
    smaller = settle(
        monitor, 9 * SECOND, lambda i: raw(daylight_image(i, 48, 80)[..., 0], 'mono8')
    )
    assert 'from 160x96 mono8 to 80x48 mono8' in smaller[0].reason
    png = settle(
        monitor,
        12 * SECOND,
        lambda i: SimpleNamespace(format='png', data=encode_png(daylight_image(i, 48, 80))),
    )
    assert png[0].level == Level.STALE
    assert 'to 80x48 png' in png[0].reason


def covered(image: np.ndarray) -> np.ndarray:
    """With something on the lens that does not move with the street."""
    image = image.copy()
    image[32:64, 40:100] = 20
    return image


def test_edge_12_a_partial_cover_is_found_while_the_rest_moves(
    daylight_image: Callable[..., Any],
) -> None:
    def last(images: Iterable[np.ndarray]) -> ShiftState:
        return film(make_monitor(harm=None), images, step_ns=SECOND // 2)[-1]

    dirty = last(covered(daylight_image(i)) for i in range(60))
    assert dirty.fault == 'partly_covered'
    assert dirty.level == Level.WARN
    assert 'have not changed' in dirty.reason
    assert last(daylight_image(i) for i in range(60)).fault == ''


def test_edge_13_what_is_always_in_view_is_no_cover(daylight_image: Callable[..., Any]) -> None:
    """The own bonnet by its place, a mount or an overlay by the mask of the bundle."""
    images = [daylight_image(i) for i in range(60)]
    for image in images:
        image[76:] = (40, 42, 45)
    assert film(make_monitor(harm=None), images, step_ns=SECOND // 2)[-1].fault == ''
    mounted = [covered(image) for image in images]
    static = static_tiles(mounted)
    assert static.any()
    monitor = make_monitor(harm=None, facts=Facts(static=static))
    assert film(monitor, mounted, step_ns=SECOND // 2)[-1].fault == ''
    assert film(make_monitor(harm=None), mounted, step_ns=SECOND // 2)[-1].fault


def test_edge_14_no_histogram_whose_shape_depends_on_the_version_of_opencv() -> None:
    """calcHist gives (256, 1) or (256,)."""
    assert all('calcHist' not in text for text in monitor_sources().values())


def test_edge_15_the_monitor_needs_neither_torch_nor_its_companions() -> None:
    """torchvision beside another build of torch fails on import."""
    allowed = {
        'numpy', 'cv2', 'clcp_ros', '__future__', 'collections', 'dataclasses', 'enum', 'math',
        'typing', 'functools', 'pathlib', 'zipfile', 'zlib', 'importlib',
    }  # fmt: skip
    found = set()
    for text in monitor_sources().values():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition('.')[0] for alias in node.names}
            if isinstance(node, ast.ImportFrom):
                found.add((node.module or '').partition('.')[0])
    assert found <= allowed
    assert {'numpy', 'cv2'} <= found


def monitor_sources() -> dict[str, str]:
    folder = Path(clcp_ros.monitor.__file__).parent
    return {path.name: path.read_text() for path in folder.glob('*.py')}


def test_edge_16_denormal_numbers_do_no_harm(daylight_image: Callable[..., Any]) -> None:
    """Dark frames give them; in the models they are flushed to zero, see test_runtime."""
    said = prediction()
    tiny = np.float32(1e-41)
    assert 0 < tiny < np.finfo(np.float32).tiny
    denormal = Prediction(said.logits * tiny, {k: v * tiny for k, v in said.features.items()})
    score = edge_score((daylight_image(0) // 100).astype(np.uint8), denormal)
    assert math.isfinite(score.novelty)
    state = make_monitor().update(0, daylight_image(0), denormal)
    assert math.isfinite(state.miou_est)


def test_a_verdict_does_not_depend_on_where_in_memory_an_image_lies(
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
        found.add(repr(make_monitor().observe(Frame(moved), prediction()).score))
        del kept
    assert len(found) == 1


# Whatever comes ----------------------------------------------------------------------------------

steps = st.sampled_from([0, -5 * SECOND, 1, STEP_NS, STEP_NS, STEP_NS, 3 * SECOND, 90 * SECOND])
novelties = st.floats(-4, 12) | st.sampled_from([math.nan, math.inf])
faults = st.sampled_from([None] * 8 + [Fault('black', 'b'), Fault('partly_covered', 'p')])


@settings(deadline=None, max_examples=40)  # other processes may take the core
@given(st.lists(st.tuples(steps, novelties, st.floats(0.05, 0.95), faults), max_size=40))
def test_no_stream_breaks_it_and_two_runs_say_the_same(stream: list[Any]) -> None:
    def run() -> list[str]:
        monitor, stamp_ns, said = make_monitor(), 10**15, []
        for step_ns, novelty, iou, fault in stream:
            stamp_ns += step_ns
            state = monitor.judge(stamp_ns, evidence(novelty, iou), fault)
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


def test_memory_does_not_grow(daylight_image: Callable[..., Any]) -> None:
    monitor = make_monitor()
    play(monitor, good(2000))
    assert monitor._harm is not None
    assert len(monitor._harm._frames) <= 41
