# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
import threading

import pytest

from clcp_ros.latest_slot import LatestSlot
from clcp_ros.monitor import Level
from clcp_ros.node_diagnostics import WINDOW_S, InputStatistics, inference_status, shift_status


def make() -> InputStatistics:
    return InputStatistics('/cam/image', stale_s=2.0, max_age_s=10.0)


def feed(statistics: InputStatistics, start_s: float, number: int, step_s: float = 0.1) -> float:
    now_s = start_s
    for i in range(number):
        now_s = start_s + i * step_s
        statistics.received(now_s, 'raw', 0.01, stamp_ns=1 + i)
        statistics.processed(
            now_s, latency_s=0.05, seconds={'model': 0.02}, frame_id='cam', size=(48, 80)
        )
    return now_s


def test_rates_and_counts_in_the_good_case() -> None:
    statistics = make()
    now_s = feed(statistics, 100.0, 101)
    status = statistics.status(now_s, 50.0, publishers=1, sim_time=False)
    assert status.level == Level.OK
    assert float(status.values['rate_hz']) == pytest.approx(10, abs=0.3)
    assert status.values['received'] == status.values['processed'] == '101'
    assert status.values['size'] == '80x48'
    assert status.hardware_id == 'cam'


def test_loss_names_cause_and_cure_until_it_is_over() -> None:
    statistics = make()
    now_s = feed(statistics, 100.0, 20)
    statistics.count(now_s, 'lost', number=7)
    status = statistics.status(now_s, 50.0, 1, False)
    assert status.level == Level.WARN
    assert '7 images lost' in status.message
    assert 'fastdds.xml' in status.message
    later_s = feed(statistics, now_s + WINDOW_S + 1, 5)
    assert statistics.status(later_s, 50.0, 1, False).level == Level.OK
    assert statistics.status(later_s, 50.0, 1, False).values['lost'] == '7'


def test_bad_images_are_an_error_only_while_nothing_gets_through() -> None:
    statistics = make()
    statistics.received(100.0, 'raw', 0.01, 1)
    statistics.count(100.0, 'bad', 'odd encoding')
    assert statistics.status(100.1, 99.0, 1, False).level == Level.ERROR
    now_s = feed(statistics, 100.2, 3)
    status = statistics.status(now_s, 99.0, 1, False)
    assert status.level == Level.WARN
    assert 'odd encoding' in status.message


@pytest.mark.parametrize(
    ('age_s', 'stamp_ns', 'sim_time', 'text'),
    [
        (3600.0, 1, False, '3600.0 s behind this node (use_sim_time?)'),
        (-5.0, 1, False, '5.0 s ahead of this node (use_sim_time?)'),
        (-5.0, 1, True, 'is /clock published?'),
        (1.7e9, 0, False, 'stamps are zero'),
    ],
)
def test_clock_mismatch(age_s: float, stamp_ns: int, sim_time: bool, text: str) -> None:
    statistics = make()
    statistics.received(100.0, 'raw', age_s, stamp_ns)
    status = statistics.status(100.1, 99.0, 1, sim_time)
    assert status.level == Level.WARN
    assert text in status.message


def test_silence_outweighs_everything_else() -> None:
    statistics = make()
    assert not statistics.silent(101.0, since_s=100.0)
    assert statistics.silent(103.0, since_s=100.0)
    statistics.incompatible_qos('/cam/image', 'RELIABILITY')
    status = statistics.status(103.0, 100.0, 0, False)
    assert status.level == Level.STALE
    assert status.message.startswith('no image on /cam/image for 3.0 s (no matching publisher)')
    assert 'qos_overrides./cam/image.subscription.reliability' in status.message


def test_a_provider_that_was_asked_for_and_is_not_used_is_told() -> None:
    def status(wanted: list[str]) -> Level:
        return inference_status(
            model='m', provider='CPUExecutionProvider', wanted=wanted, seconds={}, frame_id=''
        ).level

    assert status([]) == Level.OK
    assert status(['CPUExecutionProvider']) == Level.OK
    assert status(['CUDAExecutionProvider', 'CPUExecutionProvider']) == Level.WARN


def test_shift_without_a_frame_is_stale() -> None:
    status = shift_status(None, 'abc', '')
    assert status.level == Level.STALE
    assert math.isnan(float(status.values['novelty_z']))


def test_slot_keeps_the_newest_and_counts_by_its_answer() -> None:
    slot: LatestSlot[int] = LatestSlot()
    assert [slot.put(i) for i in range(3)] == [False, True, True]
    assert slot.take() == 2
    taken: list[int | None] = []
    thread = threading.Thread(target=lambda: taken.append(slot.take()))
    thread.start()
    slot.put(7)
    thread.join(5)
    assert taken == [7]


def test_closing_a_slot_wakes_who_waits() -> None:
    slot: LatestSlot[int] = LatestSlot()
    taken: list[int | None] = [0]
    thread = threading.Thread(target=lambda: taken.append(slot.take()))
    thread.start()
    slot.close()
    thread.join(5)
    assert taken == [0, None]
    slot.put(1)
    assert slot.take() is None
