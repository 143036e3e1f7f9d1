# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""No mask waits for its verdict: the real node, whose monitor is the real one with a pause."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy (pip install .[ros])')

from sensor_msgs.msg import Image
from std_srvs.srv import SetBool, Trigger

LIMIT_S = 20.0
EARLY = ('mask', 'confidence', 'overlay', 'mask/compressed')


class Pause:
    """Holds a monitor before its first look at a frame."""

    def __init__(self, monitor: Any) -> None:
        self.reached, self.go_on = threading.Event(), threading.Event()
        update = monitor.update

        def paused(*args: Any, **kwargs: Any) -> Any:
            self.reached.set()
            assert self.go_on.wait(LIMIT_S)
            return update(*args, **kwargs)

        monitor.update = paused


@pytest.fixture
def pause() -> Iterator[Callable[[Any, str], Pause]]:
    pauses: list[Pause] = []

    def make(rig: Any, camera: str = '') -> Pause:
        pauses.append(Pause(rig.node._pipeline.monitors[camera]))
        return pauses[-1]

    yield make
    for made in pauses:
        made.go_on.set()


def _send_and_hold(rig: Any, pause: Callable[[Any], Pause], image: Any) -> tuple[Pause, Image]:
    """Send an image and wait until its mask is out and its verdict under way."""
    held = pause(rig)
    sent = rig.send(image, time.time_ns())
    rig.until(lambda: rig.got['mask'])
    assert held.reached.wait(LIMIT_S)
    return held, sent


def test_what_the_model_says_comes_before_what_the_monitor_says(make_rig, pause, daylight_image):
    rig = make_rig(shift__period_s=0.0).start().listen(*EARLY[:3], 'shift', 'shift/heatmap')
    rig.listen(EARLY[3])
    held, sent = _send_and_hold(rig, pause, daylight_image(0))
    rig.until(lambda: all(rig.got[topic] for topic in EARLY))
    assert not rig.got['shift']
    assert not rig.got['shift/heatmap']
    held.go_on.set()
    rig.until(lambda: rig.got['shift'] and rig.got['shift/heatmap'])
    for topic in (*EARLY, 'shift', 'shift/heatmap'):
        assert [message.header for message in rig.got[topic]] == [sent.header]


def test_no_camera_waits_for_what_is_judged_of_another(make_rig, pause, daylight_image):
    rig = make_rig(cameras=['front', 'rear'], model__batch=2).start()
    rig.listen('front/mask', 'rear/mask', 'front/shift', 'rear/shift')
    for camera in ('front', 'rear'):
        rig.publisher(Image, f'{camera}/image')
    held = pause(rig, 'front'), pause(rig, 'rear')
    # The first frame blocks the thread that judges; the next ones are in one call of the model.
    segmenter, batches = rig.node._pipeline.segmenter, []
    run = segmenter.run
    segmenter.run = lambda batch: (batches.append(len(batch)), run(batch))[1]
    taken = threading.Event()
    rig.node._worker._pipeline.infer = _held(rig.node._worker._pipeline.infer, taken)
    rig.send(daylight_image(0), time.time_ns(), 'front/image')
    rig.spin_for(0.2)
    for camera in ('front', 'rear'):
        rig.send(daylight_image(1), time.time_ns(), f'{camera}/image')
    rig.spin_for(0.2)
    taken.set()
    held[0].go_on.set()
    rig.until(lambda: len(rig.got['front/mask']) == 2 and rig.got['rear/mask'])
    assert batches == [1, 2]
    assert not rig.got['rear/shift']
    held[1].go_on.set()
    rig.until(lambda: len(rig.got['front/shift']) == 2 and rig.got['rear/shift'])


def _held(infer: Callable[..., Any], until: threading.Event) -> Callable[..., Any]:
    def waiting(prepared: Any) -> Any:
        assert until.wait(LIMIT_S)
        return infer(prepared)

    return waiting


def test_a_frame_that_is_saved_has_its_own_verdict(make_rig, pause, daylight_image, tmp_path):
    rig = make_rig(save__folder=str(tmp_path)).start().listen('mask')
    held, sent = _send_and_hold(rig, pause, daylight_image(0))
    client = rig.client(Trigger, 'save_frame')
    answer = client.call_async(Trigger.Request())
    rig.spin_for(0.2)
    assert not answer.done()
    held.go_on.set()
    rig.until(answer.done)
    assert answer.result().success, answer.result().message
    facts = json.loads(Path(answer.result().message).read_text())
    stamp_ns = sent.header.stamp.sec * 1_000_000_000 + sent.header.stamp.nanosec
    assert facts['shift']['scored_stamp_ns'] == facts['stamp_ns'] == stamp_ns
    assert facts['shift']['samples'] == '1'


def test_a_verdict_of_an_activation_that_has_ended_is_not_told(make_rig, pause, daylight_image):
    rig = make_rig().start().listen('mask', 'shift')
    held, _ = _send_and_hold(rig, pause, daylight_image(0))
    begun = time.monotonic()
    assert rig.call(SetBool, 'set_active', data=False).success
    assert time.monotonic() - begun < 5
    held.go_on.set()
    assert rig.call(SetBool, 'set_active', data=True).success
    rig._publishers.clear()
    rig.send(daylight_image(1), time.time_ns())
    rig.until(lambda: rig.got['shift'])
    values = {entry.key: entry.value for entry in rig.got['shift'][0].status[0].values}
    assert rig.got['shift'][0].header == rig.got['mask'][1].header
    assert values['samples'] == '1'
    rig.until(lambda: rig.values('input').get('processed') == '1')


def test_the_node_ends_while_a_frame_is_judged(make_rig, pause, daylight_image):
    rig = make_rig().start().listen('mask', 'shift')
    held, _ = _send_and_hold(rig, pause, daylight_image(0))
    worker = rig.node._worker
    threading.Timer(0.3, held.go_on.set).start()
    rig.stop_spinning()
    rig.node._release()
    assert worker.close()
    assert not rig.got['shift']


def test_a_mask_that_cannot_be_published_fails_its_frame_only(make_rig, daylight_image):
    rig = make_rig(shift__period_s=0.0).start().listen('mask', 'shift')
    outputs = rig.camera.outputs
    publish = outputs.publish_mask
    failures = iter([ValueError('no room')])

    def fail(*args: Any) -> None:
        if (error := next(failures, None)) is not None:
            raise error
        publish(*args)

    outputs.publish_mask = fail
    rig.send(daylight_image(0), time.time_ns())
    rig.until(lambda: rig.values('input').get('failed') == '1')
    sent = rig.send(daylight_image(1), time.time_ns())
    rig.until(lambda: rig.got['mask'] and rig.got['shift'])
    assert [m.header for m in (*rig.got['mask'], *rig.got['shift'])] == [sent.header] * 2
    assert np.frombuffer(rig.got['mask'][0].data, np.uint8).size == 48 * 80
