# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import math
import threading

import numpy as np
import pytest

from clcp_ros.latest_slot import LatestSlots
from clcp_ros.monitor import Level, ShiftSource, ShiftState
from clcp_ros.node_arrivals import ArrivalWatch, fingerprint
from clcp_ros.node_diagnostics import (
    SHIFT_KEYS,
    ModelState,
    Status,
    inference_status,
    shift_status,
    stale_shift,
)
from clcp_ros.node_statistics import WINDOW_S, InputStatistics, Limits, Surroundings

ONE = Surroundings(publishers=1)
MEGABYTES = 7 << 20
CPU = 'CPUExecutionProvider'


def make() -> InputStatistics:
    return InputStatistics('/cam/image', Limits(stale_s=2.0, max_age_s=10.0, frozen_s=0.6))


def feed(
    statistics: InputStatistics,
    start_s: float,
    number: int,
    step_s: float = 0.1,
    first_stamp: int = 1,
    size: tuple[int, int] = (48, 80),
) -> float:
    now_s = start_s
    for i in range(number):
        now_s = start_s + i * step_s
        statistics.received(now_s, 'raw', 0.01, stamp_ns=first_stamp + i)
        statistics.processed(
            now_s, latency_s=0.05, seconds={'model': 0.02, 'total': 0.03}, frame_id='cam',
            size=size,
        )  # fmt: skip
    return now_s


def told(statistics: InputStatistics, now_s: float, around: Surroundings = ONE) -> Status:
    return statistics.status(now_s, 50.0, around)


def test_rates_and_counts_in_the_good_case() -> None:
    statistics = make()
    now_s = feed(statistics, 100.0, 101)
    status = told(statistics, now_s)
    assert status.level == Level.OK
    assert status.kinds == ()
    assert float(status.values['rate_hz']) == pytest.approx(10, abs=0.3)
    assert status.values['received'] == status.values['processed'] == '101'
    assert status.values['size'] == '80x48'
    assert status.values['latency_s'] == status.values['latency_max_s'] == '0.050'
    assert status.values['processing_ms'] == '30.0'
    assert status.hardware_id == 'cam'


@pytest.mark.parametrize(
    ('size_bytes', 'around', 'cause', 'cure'),
    [
        (MEGABYTES, ONE, 'images of 7.0 MB do not fit', 'FASTRTPS_DEFAULT_PROFILES_FILE='),
        (0, dataclasses.replace(ONE, expected_bytes=MEGABYTES), 'images of 7.0 MB', 'compressed'),
        (0, ONE, 'images above 512 KB', 'FASTRTPS_DEFAULT_PROFILES_FILE='),
        (9000, ONE, 'overloaded', ''),
        (MEGABYTES, dataclasses.replace(ONE, fastdds=False), 'overloaded', ''),
    ],
)
def test_loss_names_cause_and_cure_until_it_is_over(
    size_bytes: int, around: Surroundings, cause: str, cure: str
) -> None:
    statistics = make()
    if size_bytes:
        statistics.received(99.0, 'raw', 0.01, 1, size_bytes=size_bytes)
    statistics.count(100.0, 'lost', number=7)
    status = told(statistics, 100.1, around)
    assert 'lost' in status.kinds
    assert '7 images lost' in status.message
    assert cause in status.message
    assert cure in status.message
    later_s = feed(statistics, 100.0 + WINDOW_S + 1, 5)
    assert told(statistics, later_s).level == Level.OK
    assert told(statistics, later_s).values['lost'] == '7'


def test_loss_is_an_error_only_while_nothing_gets_through() -> None:
    statistics = make()
    statistics.received(99.9, 'raw', 0.01, 1)
    statistics.count(100.0, 'lost')
    assert told(statistics, 100.1).level == Level.ERROR
    now_s = feed(statistics, 100.2, 2)
    assert told(statistics, now_s).level == Level.WARN


def test_bad_images_are_an_error_only_while_nothing_gets_through() -> None:
    statistics = make()
    statistics.received(100.0, 'raw', 0.01, 1)
    statistics.count(100.0, 'bad', 'odd encoding' + 'x' * 10_000)
    assert told(statistics, 100.1).level == Level.ERROR
    now_s = feed(statistics, 100.2, 3)
    status = told(statistics, now_s)
    assert status.level == Level.WARN
    assert 'odd encoding' in status.message
    assert len(status.message) < 1000


@pytest.mark.parametrize(
    ('age_s', 'stamp_ns', 'around', 'text'),
    [
        (3600.0, 1, Surroundings(), '3600.0 s behind this node (use_sim_time?)'),
        (-5.0, 1, Surroundings(), '5.0 s ahead of this node (use_sim_time?)'),
        (60.0, 1, Surroundings(clock_published=True), 'set use_sim_time to true'),
        (-5.0, 1, Surroundings(sim_time=True), 'is /clock published?'),
        (-5.0, 1, Surroundings(sim_time=True, clock_published=True), 'its time is another'),
        (1.7e9, 0, Surroundings(), 'stamps are zero'),
    ],
)
def test_clock_mismatch(age_s: float, stamp_ns: int, around: Surroundings, text: str) -> None:
    statistics = make()
    statistics.received(100.0, 'raw', age_s, stamp_ns)
    status = told(statistics, 100.1, around)
    assert status.level == Level.WARN
    assert text in status.message
    assert 'clock' in status.kinds


def test_silence_outweighs_everything_else() -> None:
    statistics = make()
    assert not statistics.silent(101.0, since_s=100.0)
    assert statistics.silent(103.0, since_s=100.0)
    statistics.set_incompatible({'/cam/image': 'publisher /driver of /cam/image has ...'})
    status = statistics.status(103.0, 100.0, Surroundings())
    assert status.level == Level.STALE
    assert status.message.startswith('no image on /cam/image for 3.0 s (no matching publisher)')
    assert 'publisher /driver' in status.message
    assert status.kinds == ('qos', 'silent')


def test_silence_of_a_connected_publisher_hints_at_large_images() -> None:
    status = told(make(), 103.0)
    assert '1 publisher(s) match: images above 512 KB need config/fastdds.xml' in status.message


def test_a_slow_camera_is_not_silent_between_its_frames() -> None:
    statistics = InputStatistics('/cam/image', Limits(stale_s=0.8))
    now_s = feed(statistics, 100.0, 5, step_s=1.5)
    assert told(statistics, now_s + 1.5).level == Level.OK
    assert told(statistics, now_s + 4.6).level == Level.STALE


def test_frozen_camera_is_named_until_it_moves() -> None:
    statistics = make()

    def receive(now_s: float, stamp_ns: int, mark: int) -> None:
        statistics.received(now_s, 'raw', 0.01, stamp_ns, mark=mark)

    for i in range(4):
        receive(100 + 0.2 * i, 1 + i, 7)
    assert told(statistics, 100.61).level == Level.ERROR
    assert told(statistics, 100.61).kinds == ('frozen',)
    assert 'frozen camera: 4 identical images for 0.6 s' in told(statistics, 100.61).message
    statistics.limits.frozen_s = 0.0
    assert told(statistics, 100.61).level == Level.OK
    statistics.limits.frozen_s = 0.6
    receive(100.8, 9, 8)
    assert told(statistics, 100.81).level == Level.OK


def test_a_repeated_frame_is_not_a_frozen_camera() -> None:
    watch = ArrivalWatch()
    for i in range(20):
        watch.update(i * 0.3, i, i // 3)
    assert watch.frozen_s() == 0


def test_fingerprint_sees_small_differences_and_takes_any_bytes() -> None:
    image = np.random.default_rng(0).integers(0, 255, (1208, 1920, 3), np.uint8)
    other = np.roll(image, 1, axis=0)
    assert fingerprint(image.ravel()) == fingerprint(image.ravel().copy())
    assert fingerprint(image.ravel()) != fingerprint(other.ravel())
    assert fingerprint(b'') != fingerprint(b'\x00')


def test_stamps_that_go_back_or_stand_still_are_told() -> None:
    statistics = make()
    feed(statistics, 100.0, 5, first_stamp=8_000_000_000)
    now_s = feed(statistics, 100.5, 2, first_stamp=3_000_000_004)
    status = told(statistics, now_s)
    assert status.level == Level.WARN
    assert status.kinds == ('backwards',)
    assert 'jumped back by 5.0 s' in status.message
    assert status.values['time_jumps'] == '1'
    rivals = dataclasses.replace(ONE, publishers=2, rivals=2)
    assert '2 publishers of one topic' in told(statistics, now_s, rivals).message
    assert told(statistics, feed(statistics, now_s + WINDOW_S, 20)).values['time_jumps'] == '2'
    for i in range(3):
        statistics.received(200.0 + i / 10, 'raw', 0.01, stamp_ns=77 * 10**9)
    assert 'standing' in told(statistics, 200.3).kinds


def test_change_of_size_is_told() -> None:
    statistics = make()
    now_s = feed(statistics, 100.0, 5)
    now_s = feed(statistics, now_s + 0.1, 2, first_stamp=100, size=(96, 160))
    status = told(statistics, now_s)
    assert (status.level, status.kinds) == (Level.WARN, ('size',))
    assert 'from 80x48 to 160x96' in status.message


def test_nothing_accumulates() -> None:
    statistics = make()
    for i in range(20_000):
        now_s = 100 + i * 1e-3
        statistics.received(now_s, 'raw', 0.01, i, mark=i)
        statistics.count(now_s, 'dropped')
        statistics.processed(now_s, latency_s=0, seconds={}, frame_id='', size=(1, 1))
    kept = [statistics._arrivals, statistics._results, statistics._times.recent]
    assert all(len(k) <= 2048 for k in kept)
    assert len(statistics._recent) == 1


def model_status(**changes: object) -> Status:
    state = ModelState(model='m', path='/m', provider=CPU, loaded_on=CPU)
    return inference_status(dataclasses.replace(state, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ('changes', 'level', 'text'),
    [
        ({}, Level.OK, 'm on CPUExecutionProvider'),
        ({'provider': 'OpenVINO CPU', 'loaded_on': 'OpenVINO CPU',
          'wanted': ['CPUExecutionProvider']}, Level.OK, 'm on OpenVINO CPU'),
        ({'fallback_reason': 'CUDA is not in this ONNX Runtime', 'offered': [CPU],
          'wanted': ['CUDAExecutionProvider', CPU]}, Level.WARN, 'CUDA is not in this'),
        ({'fallback_reason': 'CUDA could not start', 'offered': ['CUDAExecutionProvider', CPU],
          'wanted': ['CUDAExecutionProvider', CPU]}, Level.ERROR, 'CUDA could not start'),
        ({'fallback_reason': 'out of memory', 'loaded_on': 'CUDAExecutionProvider',
          'offered': [CPU]}, Level.ERROR, 'fell back to CPUExecutionProvider: out of memory'),
        ({'busy_s': 12.0}, Level.ERROR, 'running for 12 s'),
        ({'busy_s': 12.0, 'seconds': {'model': 4.0}}, Level.OK, ''),
        ({'reload': 'refused: hash', 'reload_failed': True}, Level.WARN, 'refused: hash'),
    ],
)  # fmt: skip
def test_no_silent_fallback(changes: dict[str, object], level: Level, text: str) -> None:
    status = model_status(**changes)
    assert status.level == level
    assert text in status.message


def test_shift_without_a_frame_is_stale() -> None:
    status = shift_status(None, ShiftSource('abc', 'abcdef', 24.0), '')
    assert status.level == Level.STALE
    assert tuple(status.values) == SHIFT_KEYS
    assert math.isnan(float(status.values['novelty_z']))
    assert status.values['kind'] == status.values['scope'] == ''
    assert float(status.values['arl0_supported_h']) == 24
    assert status.values['model_sha'] == 'abcdef'


def test_a_silent_cameras_figures_say_nothing() -> None:
    source = ShiftSource('abc', 'abcdef', 24.0)
    state = ShiftState(1, Level.OK, 'in domain', 50, novelty_cusum=1.0, kind='none', miou_est=0.7)
    status = stale_shift(shift_status(state, source, 'cam'))
    assert (status.level, status.message) == (Level.STALE, 'no image')
    assert status.values == shift_status(None, source, 'cam').values
    assert status.values['level'] == 'STALE'
    assert status.values['miou_est'] == 'nan'
    assert status.hardware_id == 'cam/abc'


def test_slots_keep_the_newest_and_count_by_their_answer() -> None:
    slots: LatestSlots[int] = LatestSlots()
    assert [slots.put('front', i) for i in range(3)] == [False, True, True]
    assert not slots.put('rear', 9)
    assert slots.take() == [('front', 2), ('rear', 9)]
    taken: list[tuple[str, int]] = []
    thread = threading.Thread(target=lambda: taken.extend(slots.take()))
    thread.start()
    slots.put('rear', 7)
    thread.join(5)
    assert taken == [('rear', 7)]


def test_a_slow_camera_is_served_before_fast_ones() -> None:
    slots: LatestSlots[int] = LatestSlots()
    served = []
    for i in range(9):
        for name in ('a', 'b', 'c'):
            if name != 'c' or i % 3 == 0:
                slots.put(name, i)
        served.append(slots.take(limit=1)[0][0])
    assert [served.count(name) for name in 'abc'] == [3, 3, 3]


def test_taking_can_be_put_off_for_a_newer_item() -> None:
    slots: LatestSlots[int] = LatestSlots()
    slots.put('a', 1)
    early = [True]
    taken: list[tuple[str, int]] = []
    thread = threading.Thread(
        target=lambda: taken.extend(slots.take(wait_s=lambda: 30.0 if early[0] else 0.0))
    )
    thread.start()
    slots.put('a', 2)
    early[0] = False
    slots.wake()
    thread.join(5)
    assert taken == [('a', 2)]


def test_closing_slots_wakes_who_waits() -> None:
    slots: LatestSlots[int] = LatestSlots()
    taken: list[object] = [0]
    thread = threading.Thread(target=lambda: taken.append(slots.take()))
    thread.start()
    slots.close()
    thread.join(5)
    assert taken == [0, []]
    assert not slots.put('a', 1)
    assert slots.take() == []
