# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The edge cases of a camera in the field, by their numbers."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

import clcp_ros.monitor
from clcp_ros.frame import Frame
from clcp_ros.image_codec import encode_png
from clcp_ros.inference import Prediction
from clcp_ros.monitor import (
    STATISTICS,
    FrameScore,
    Level,
    MonitorConfig,
    ShiftMonitor,
    ShiftState,
    TapReference,
    image_statistics,
)
from clcp_ros.monitor.faults import static_tiles
from clcp_ros.monitor.knowledge import Facts

SECOND = 1_000_000_000
STEP_NS = SECOND // 2


def test_edge_01_a_saturated_sky_gives_finite_scores(
    kit: Any, daylight_image: Callable[..., Any]
) -> None:
    image = daylight_image(0)
    image[:60] = 255
    assert edge_score(kit, image).novelty < math.inf
    assert math.isfinite(edge_score(kit, image).low)


def edge_score(kit: Any, image: np.ndarray, said: Prediction | None = None) -> FrameScore:
    found = kit.monitor().observe(Frame(image), said or kit.prediction())
    assert found.finite
    return found.score


def test_edge_02_a_dead_channel_does_not_decide_alone(
    kit: Any, daylight_image: Callable[..., Any]
) -> None:
    said = kit.prediction()
    said.features['early'][1] = 3e8
    score = edge_score(kit, daylight_image(0), said)
    assert -4 <= score.early <= TapReference.Z_RANGE[1]
    assert score.novelty <= TapReference.Z_RANGE[1]


@pytest.mark.parametrize('grey', [0, 90, 255])
def test_edge_03_a_constant_image_is_an_error_without_the_sum(
    kit: Any, daylight_image: Callable[..., Any], grey: int
) -> None:
    monitor = kit.monitor()
    kit.film(monitor, [daylight_image(i) for i in range(40)])
    states = kit.film(monitor, [np.full((96, 160, 3), grey, np.uint8)] * 30, 4 * SECOND)
    assert kit.levels(states).index(Level.ERROR) in (10, 11)  # after a second
    assert states[-1].fault in ('black', 'covered', 'white')
    assert all(math.isfinite(s.score.novelty) for s in states if s.score)
    assert not states[-1].novelty_cusum > 0
    assert states[-1].reason.startswith('image is')
    assert ';' not in states[-1].reason
    assert math.isnan(states[-1].miou_est)
    after = kit.film(monitor, [daylight_image(i) for i in range(30)], 7 * SECOND)
    assert kit.levels(after).index(Level.OK) <= 12


def test_edge_04_frames_with_non_finite_logits_are_rejected_and_three_are_an_error(
    kit: Any,
    daylight_image: Callable[..., Any],
) -> None:
    monitor = kit.monitor()
    kit.play(monitor, kit.good(10))
    image, bad = daylight_image(0), kit.prediction()
    bad.logits[0, 0, 0] = np.nan
    states = [monitor.update((50 + i) * SECOND // 10, image, bad) for i in range(3)]
    assert kit.levels(states) == [Level.OK, Level.OK, Level.ERROR]
    assert monitor.rejected == 3
    assert '3 frames in a row' in states[-1].reason
    assert states[-1].samples == 10
    infinite = kit.prediction()
    infinite.features['deep'][0] = np.inf
    alternating = [
        monitor.update(
            (70 + i) * SECOND // 10, daylight_image(i), (infinite, kit.prediction(i))[i % 2]
        )
        for i in range(20)
    ]
    assert alternating[-1].level == Level.OK


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
def test_edge_05_what_is_not_finite_never_enters_a_state(kit: Any, value: float) -> None:
    monitor, other = kit.monitor(), kit.monitor()
    bad = kit.evidence(4.0)
    wrong = [
        replace(bad, score=replace(bad.score, novelty=value)),
        replace(bad, score=replace(bad.score, low=value)),
        replace(bad, confusion=np.full((3, 4), value)),
    ]
    for i in range(60):
        stamp_ns = i * STEP_NS
        expected = other.judge(stamp_ns, kit.evidence(4.0))
        assert replace(monitor.judge(stamp_ns, kit.evidence(4.0)), reason='') == replace(
            expected, reason=''
        )
        state = monitor.judge(stamp_ns + 1000, wrong[i % 3])
        other.judge(stamp_ns + 1000, None)
        assert all(not math.isinf(number) for number in state.numbers.values())
    assert monitor.rejected == 60


def test_edge_06_a_frozen_camera_is_an_error_after_a_second(
    kit: Any,
    daylight_image: Callable[..., Any],
) -> None:
    monitor = kit.monitor()
    kit.film(monitor, [daylight_image(i) for i in range(40)])
    states = kit.film(monitor, [daylight_image(77)] * 20, 4 * SECOND)
    assert kit.levels(states).index(Level.ERROR) == 10
    assert states[-1].fault == 'frozen'
    monitor = kit.monitor(MonitorConfig(frozen_s=0.0))
    assert Level.ERROR not in kit.levels(kit.film(monitor, [daylight_image(77)] * 100))


@pytest.mark.parametrize('back_ns', [0, 1, 100 * SECOND])
def test_edge_07_a_stamp_that_does_not_advance_starts_anew(kit: Any, back_ns: int) -> None:
    monitor = kit.monitor()
    states = kit.play(monitor, [kit.evidence(9.0, 0.4)] * 40, 200 * SECOND)
    assert states[-1].level == Level.ERROR
    start_ns = states[-1].stamp_ns - back_ns
    again = kit.play(monitor, [kit.evidence(9.0, 0.4)] * 40, start_ns)
    assert again[0].level == Level.STALE
    assert again[0].samples == 1
    assert 'stamp' in again[0].reason
    fresh = kit.play(kit.monitor(), [kit.evidence(9.0, 0.4)] * 40, start_ns)
    assert [replace(s, reason='') for s in again] == [replace(s, reason='') for s in fresh]


def test_edge_07_time_that_jumps_far_ahead_starts_anew(kit: Any) -> None:
    monitor = kit.monitor()
    kit.play(monitor, [kit.evidence(9.0)] * 40)
    state = monitor.judge(10_000 * SECOND, kit.evidence(9.0))
    assert (state.level, state.samples) == (Level.STALE, 1)
    assert state.novelty_cusum == 0
    assert 'jumped ahead' in state.reason


def test_edge_08_nothing_accumulates_across_a_gap(kit: Any) -> None:
    monitor = kit.monitor()
    before = kit.play(monitor, [*kit.good(10), *[kit.evidence(3.5)] * 4])[-1]
    after = monitor.judge(before.stamp_ns + 5 * SECOND, kit.evidence(3.5))
    assert after.novelty_cusum <= before.novelty_cusum
    assert (after.level, after.samples) == (Level.STALE, 1)
    assert 'no image for 5.0 s' in after.reason
    # An alarm that stood before it stands after it, once there are frames to say so.
    monitor = kit.monitor()
    alarmed = kit.play(monitor, [*kit.good(10), *[kit.evidence(9.0)] * 20])[-1]
    states = kit.play(monitor, [kit.evidence(9.0)] * 5, alarmed.stamp_ns + 5 * SECOND)
    assert kit.levels(states) == [Level.STALE] * 4 + [Level.WARN]


@pytest.mark.parametrize(('samples', 'level'), [(1, Level.OK), (3, Level.OK), (9, Level.WARN)])
def test_edge_09_an_exposure_step_does_not_warn_and_a_lasting_change_does(
    kit: Any, samples: int, level: Level
) -> None:
    monitor = kit.monitor()
    kit.play(monitor, kit.good(20))
    states = kit.play(monitor, [*[kit.evidence(10.0)] * samples, *kit.good(4)], 10 * SECOND)
    assert max(kit.levels(states)) == level


@pytest.mark.parametrize('samples', [1, 2, 3, 4, 5])
@pytest.mark.parametrize(('novelty', 'iou'), [(10.0, 0.3), (12.0, 0.1), (2.0, 0.1), (10.0, 0.5)])
@pytest.mark.parametrize('before', [10, 60])
def test_edge_09_what_costs_much_for_two_seconds_does_not_warn(
    kit: Any, samples: int, novelty: float, iou: float, before: int
) -> None:
    monitor = kit.monitor()
    kit.play(monitor, kit.good(before))
    bad = [kit.evidence(novelty, iou)] * samples
    states = kit.play(monitor, [*bad, *kit.good(60)], before * STEP_NS)
    assert set(kit.levels(states)) == {Level.OK}
    assert max(s.miou_drop for s in states) > 0.005  # the figures hide nothing


@pytest.mark.parametrize(('novelty', 'iou'), [(10.0, 0.3), (12.0, 0.1), (2.0, 0.1)])
@pytest.mark.parametrize('apart', [6, 8, 16, 30])
def test_edge_09_one_short_tunnel_after_another_does_not_warn(
    kit: Any, novelty: float, iou: float, apart: int
) -> None:
    monitor = kit.monitor()
    kit.play(monitor, kit.good(60))
    samples = [*[kit.evidence(novelty, iou)] * 4, *kit.good(apart)] * 4
    states = kit.play(monitor, [*samples, *kit.good(20)], 60 * STEP_NS)
    assert set(kit.levels(states)) == {Level.OK}


def test_edge_09_a_moment_of_many_frames_does_not_warn(kit: Any) -> None:
    monitor = kit.monitor(MonitorConfig(period_s=0.0))
    samples = [*kit.good(60), *[kit.evidence(10.0, 0.3)] * 6, *kit.good(120)]
    states = [monitor.judge(i * SECOND // 30, sample) for i, sample in enumerate(samples)]
    assert set(kit.levels(states)) == {Level.STALE, Level.OK}


@pytest.mark.parametrize(
    ('novelty', 'iou', 'delay_s'),
    [(10.0, 0.3, 2.5), (10.0, 0.65, 2.5), (4.0, 0.3, 5.0), (0.0, 0.1, 5.0)],
)
def test_edge_09_what_costs_much_and_lasts_is_an_error_within_seconds(
    kit: Any, novelty: float, iou: float, delay_s: float
) -> None:
    monitor = kit.monitor()
    kit.play(monitor, kit.good(60))
    states = kit.play(monitor, [kit.evidence(novelty, iou)] * 60, 60 * STEP_NS)
    assert kit.levels(states).index(Level.ERROR) * STEP_NS <= delay_s * SECOND
    assert kit.levels(states)[-1] == Level.ERROR


@pytest.mark.parametrize(
    ('window_s', 'period_s'), [(4.0, 0.5), (5.0, 1.0), (4.0, 0.0), (12.5, 2.5), (25.0, 5.0)]
)
def test_the_shortest_windows_that_are_allowed_can_alarm(
    kit: Any, window_s: float, period_s: float
) -> None:
    config = MonitorConfig(window_s=window_s, period_s=period_s, max_gap_s=max(2.0, 2 * period_s))
    monitor = kit.monitor(config)
    step_ns = round(max(period_s, 0.1) * SECOND)
    samples = [*kit.good(40), *[kit.evidence(10.0, 0.3)] * 60]
    states = [monitor.judge(i * step_ns, sample) for i, sample in enumerate(samples)]
    assert states[-1].level == Level.ERROR


def test_edge_10_the_first_five_samples_are_stale(kit: Any) -> None:
    assert kit.levels(kit.play(kit.monitor(), kit.good(6))) == [Level.STALE] * 4 + [Level.OK] * 2
    reason = kit.play(kit.monitor(), kit.good(2))[-1].reason
    assert reason == '2 of 5 frames scored'


def test_edge_11_another_resolution_or_encoding_is_stale_with_a_message(
    kit: Any,
    daylight_image: Callable[..., Any],
) -> None:
    def raw(image: np.ndarray, encoding: str) -> SimpleNamespace:
        height, width = image.shape[:2]
        return SimpleNamespace(
            height=height, width=width, encoding=encoding, is_bigendian=0,
            step=image.size // height, data=image.reshape(-1),
        )  # fmt: skip

    def settle(monitor: ShiftMonitor, start_ns: int, frame: Callable[[int], Any]) -> Any:
        return kit.film(monitor, [Frame(frame(i)) for i in range(30)], start_ns)

    monitor = kit.monitor()
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
    kit: Any,
    daylight_image: Callable[..., Any],
) -> None:
    def last(images: Iterable[np.ndarray]) -> ShiftState:
        return kit.film(kit.monitor(harm=None), images, step_ns=SECOND // 2)[-1]

    dirty = last(covered(daylight_image(i)) for i in range(60))
    assert dirty.fault == 'partly_covered'
    assert dirty.level == Level.WARN
    assert 'have not changed' in dirty.reason
    assert last(daylight_image(i) for i in range(60)).fault == ''


def test_edge_13_what_is_always_in_view_is_no_cover(
    kit: Any, daylight_image: Callable[..., Any]
) -> None:
    """The own bonnet by its place, a mount or an overlay by the mask of the bundle."""
    images = [daylight_image(i) for i in range(60)]
    for image in images:
        image[76:] = (40, 42, 45)
    assert kit.film(kit.monitor(harm=None), images, step_ns=SECOND // 2)[-1].fault == ''
    mounted = [covered(image) for image in images]
    static = static_tiles(mounted)
    assert static.any()
    monitor = kit.monitor(harm=None, facts=Facts(static=static))
    assert kit.film(monitor, mounted, step_ns=SECOND // 2)[-1].fault == ''
    assert kit.film(kit.monitor(harm=None), mounted, step_ns=SECOND // 2)[-1].fault


@pytest.mark.parametrize('shape', [(256, 1), (256,)])
def test_edge_14_histograms_are_the_same_with_any_version_of_opencv(
    daylight_image: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]
) -> None:
    """calcHist gives (256, 1) or (256,): whoever uses it would give other figures."""
    image = daylight_image(3, 120, 160)
    calc = cv2.calcHist
    monkeypatch.setattr(cv2, 'calcHist', lambda *args: calc(*args).reshape(shape))
    found = dict(zip(STATISTICS, image_statistics(image), strict=True))
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    for name, q in (('p05', 5), ('p50', 50), ('p95', 95)):
        wanted = np.percentile(gray, q) / 255
        assert found[f'luminance_{name}'] == pytest.approx(wanted, abs=1.5 / 255)


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


def test_edge_16_denormal_numbers_do_no_harm(kit: Any, daylight_image: Callable[..., Any]) -> None:
    """Dark frames give them; in the models they are flushed to zero, see test_runtime."""
    said = kit.prediction()
    tiny = np.float32(1e-41)
    assert 0 < tiny < np.finfo(np.float32).tiny
    denormal = Prediction(said.logits * tiny, {k: v * tiny for k, v in said.features.items()})
    score = edge_score(kit, (daylight_image(0) // 100).astype(np.uint8), denormal)
    assert math.isfinite(score.novelty)
    state = kit.monitor().update(0, daylight_image(0), denormal)
    assert math.isfinite(state.miou_est)
