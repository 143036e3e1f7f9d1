# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The worker with the real pipeline; a slow model is the real one with a pause."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clcp_ros.errors import ImageError
from clcp_ros.frame_worker import Duration, FrameWorker
from clcp_ros.pipeline import FrameError, FramePipeline, FrameResult

SECOND = 1_000_000_000


class Log:
    """What a worker calls back."""

    def __init__(self) -> None:
        self.results: list[tuple[Any, FrameResult]] = []
        self.errors: list[tuple[Any, Exception]] = []
        self.dropped: dict[str, int] = {}
        self.changed = threading.Condition()

    def on_result(self, item: Any, result: FrameResult) -> None:
        with self.changed:
            self.results.append((item, result))
            self.changed.notify_all()

    def on_error(self, item: Any, error: Exception) -> None:
        with self.changed:
            self.errors.append((item, error))
            self.changed.notify_all()

    def on_dropped(self, camera: str, number: int) -> None:
        self.dropped[camera] = self.dropped.get(camera, 0) + number

    def until(self, condition: Callable[[], bool], timeout_s: float = 20) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, timeout_s), (self.results, self.errors)


@pytest.fixture
def start(tiny_bundle: Path) -> Iterator[Callable[..., tuple[FrameWorker, FramePipeline, Log]]]:
    workers: list[FrameWorker] = []

    def make(cameras=('',), model_s=0.0, **options):
        pipeline, log = FramePipeline(tiny_bundle, cameras=cameras, threads=1), Log()
        slow(pipeline, model_s)
        options = {'on_result': log.on_result, 'on_error': log.on_error} | options
        workers.append(FrameWorker(pipeline, on_dropped=log.on_dropped, **options))
        return workers[-1], pipeline, log

    yield make
    for worker in workers:
        assert worker.close(20)


def slow(pipeline: FramePipeline, seconds: float) -> None:
    run = pipeline.segmenter.run
    pipeline.segmenter.run = lambda batch: (time.sleep(seconds), run(batch))[1]


def test_results_are_those_of_the_pipeline(start, tiny_bundle, daylight_image):
    worker, _, log = start()
    plain = FramePipeline(tiny_bundle, threads=1)
    for i in range(8):
        worker.put('', daylight_image(i), i * SECOND, i)
        log.until(lambda n=i: len(log.results) == n + 1)
        item, result = log.results[-1]
        expected = plain.process(daylight_image(i), i * SECOND)
        assert item == i
        np.testing.assert_array_equal(result.mask, expected.mask)
        np.testing.assert_array_equal(result.confidence, expected.confidence)
        assert result.shift == expected.shift


def test_the_newest_frame_wins_and_drops_are_counted(start, daylight_image):
    worker, _, log = start(model_s=0.3)
    for i in range(12):
        worker.put('', daylight_image(i), i, i)
        time.sleep(0.01)
    log.until(lambda: any(item == 11 for item, _ in log.results))
    items = [item for item, _ in log.results]
    # Just in time: the second frame is the last one, not the one that came when the model began.
    assert items == [0, 11]
    assert log.dropped[''] == 10


def test_a_frame_is_taken_shortly_before_the_model_is_free(start, daylight_image):
    """At a camera much faster than the model, no frame waits for long."""
    worker, _, log = start(model_s=0.1)
    image, born, ages, stop = daylight_image(0), {}, [], threading.Event()
    log_result = log.on_result

    def on_result(item: int, result: FrameResult) -> None:
        ages.append(time.monotonic() - born[item])
        log_result(item, result)

    worker._on_result = on_result
    for i in range(400):
        born[i] = time.monotonic()
        worker.put('', image, i * SECOND // 200, i)
        if stop.wait(0.005) or len(ages) >= 15:
            break
    assert len(ages) >= 15
    # A frame prepared when the model began would be 200 ms old.
    assert np.median(ages[3:]) < 0.15


def test_cameras_take_turns(start, daylight_image):
    worker, _, log = start(cameras=('a', 'b', 'c'), model_s=0.05, max_batch=1)
    end = time.monotonic() + 1.5
    i = 0
    while time.monotonic() < end:
        for camera in ('a', 'a', 'b', 'c'):
            worker.put(camera, daylight_image(i % 5), i, (camera, i))
            i += 1
        time.sleep(0.005)
    counts = [sum(item[0] == camera for item, _ in log.results) for camera in 'abc']
    assert min(counts) >= 3
    assert max(counts) - min(counts) <= 1
    assert all(item[0] == result.camera for item, result in log.results)


def test_a_bad_frame_and_a_failing_model_cost_only_their_frames(start, daylight_image):
    worker, pipeline, log = start(cameras=('a', 'b'))
    worker.put('a', np.zeros((4, 4), np.uint8), 1, 'bad')
    log.until(lambda: len(log.errors) == 1)
    assert log.errors[0][0] == 'bad'
    assert isinstance(log.errors[0][1], ImageError)
    run = pipeline.segmenter.run

    def fail(batch: np.ndarray) -> Any:
        raise MemoryError('no memory on the accelerator')

    pipeline.segmenter.run = fail
    worker.put('a', daylight_image(0), 2, 'failed')
    log.until(lambda: len(log.errors) == 2)
    assert isinstance(log.errors[1][1], FrameError)
    assert 'no memory' in str(log.errors[1][1])
    pipeline.segmenter.run = run
    worker.put('b', daylight_image(0), 3, 'good')
    log.until(lambda: len(log.results) == 1)


def test_a_callback_that_raises_is_reported(start, daylight_image):
    failures = iter([ValueError('cannot publish')])

    def on_result(item: Any, result: FrameResult) -> None:
        if (error := next(failures, None)) is not None:
            raise error
        log.on_result(item, result)

    worker, _, log = start(on_result=on_result)
    worker.put('', daylight_image(0), 1, 'first')
    log.until(lambda: len(log.errors) == 1)
    assert str(log.errors[0][1]) == 'cannot publish'
    worker.put('', daylight_image(1), 2, 'second')
    log.until(lambda: len(log.results) == 1)


def test_masks_come_before_anything_is_judged(start, daylight_image):
    told: list[str] = []
    worker, pipeline, log = start(
        cameras=('a', 'b'), model_s=0.2,
        on_mask=lambda item, mask: told.append(f'mask {item} {mask.camera}'),
    )  # fmt: skip
    for camera, monitor in pipeline.monitors.items():
        update = monitor.update
        monitor.update = lambda *args, name=camera, real=update, **kwargs: (
            told.append(f'judged {name}'), real(*args, **kwargs)
        )[1]  # fmt: skip
    worker.put('a', daylight_image(0), 1, 0)
    time.sleep(0.1)
    # These two wait for the model together; the camera that was served longest ago comes first.
    worker.put('a', daylight_image(1), 2, 1)
    worker.put('b', daylight_image(2), 2, 2)
    log.until(lambda: len(log.results) == 3)
    assert told == [
        'mask 0 a', 'judged a', 'mask 2 b', 'mask 1 a', 'judged b', 'judged a'
    ]  # fmt: skip


def test_nothing_comes_after_close_and_a_successor_waits(start, daylight_image):
    worker, pipeline, log = start(model_s=0.4)
    worker.put('', daylight_image(0), 5, 'old')
    time.sleep(0.1)
    begun = time.monotonic()
    assert worker.close(0.0) is False
    assert time.monotonic() - begun < 0.1
    pipeline.monitor._samples = 7
    next_log = Log()
    successor = FrameWorker(
        pipeline, on_result=next_log.on_result, on_error=next_log.on_error,
        on_dropped=next_log.on_dropped, after=worker,
    )  # fmt: skip
    successor.put('', daylight_image(1), 3, 'new')
    next_log.until(lambda: len(next_log.results) == 1)
    assert next_log.results[0][1].shift.samples == 1
    assert not log.results
    assert not log.errors
    assert worker.close(1)
    assert successor.close(20)
    successor.put('', daylight_image(1), 4, 'late')
    assert len(next_log.results) == 1


def test_a_pipeline_is_replaced_between_frames(start, tiny_bundle, daylight_image):
    worker, _, log = start(model_s=0.2)
    other = FramePipeline(tiny_bundle, threads=1, image_resolution=True)
    worker.put('', daylight_image(0), 1, 'old')
    time.sleep(0.1)
    worker.replace(other)
    worker.put('', daylight_image(1), 2, 'new')
    log.until(lambda: len(log.results) == 2)
    sizes = {item: result.mask.shape for item, result in log.results}
    assert sizes == {'old': (48, 80), 'new': (96, 160)}


def test_it_says_for_how_long_the_model_has_been_running(start, daylight_image):
    worker, _, log = start(model_s=0.4)
    assert worker.busy_s() == 0
    worker.put('', daylight_image(0), 1, 0)
    time.sleep(0.2)
    assert 0.05 < worker.busy_s() < 0.4
    log.until(lambda: len(log.results) == 1)
    assert worker.busy_s() == 0


def test_a_running_mean_follows_and_knows_its_deviation():
    duration = Duration()
    duration.add(0.1)
    assert (duration.mean_s, duration.deviation_s) == (0.1, 0)
    for _ in range(60):
        duration.add(0.3)
    assert duration.mean_s == pytest.approx(0.3, abs=1e-3)
    for i in range(200):
        duration.add(0.3 + 0.01 * (-1) ** i)
    assert 0.005 < duration.deviation_s < 0.02
