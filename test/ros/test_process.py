# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The node as a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip('rclpy', reason='needs rclpy (pip install .[ros])')


def start(root: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, '-m', 'clcp_ros.segment_node', '--ros-args', *arguments],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, 'PYTHONUNBUFFERED': '1', 'RCUTILS_LOGGING_USE_STDOUT': '1'},
    )


def read_until(process: subprocess.Popen[str], text: str) -> str:
    lines = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return ''.join(lines)
    raise AssertionError(f'{text!r} not in:\n{"".join(lines)}')


@pytest.mark.parametrize('signals', [[signal.SIGINT], [signal.SIGINT] * 2, [signal.SIGTERM]])
def test_interrupt_ends_cleanly(root, tiny_bundle, signals):
    process = start(root, '-p', f'bundle.path:={tiny_bundle}', '-r', 'image:=/camera/front/image')
    try:
        read_until(process, 'active')
        for number in signals:
            process.send_signal(number)
            time.sleep(0.02)
        output, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 0, output
    assert 'Traceback' not in output


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_interrupt_in_full_work_ends_cleanly(ros, root, tiny_bundle, daylight_image, number):
    from sensor_msgs.msg import Image
    from std_msgs.msg import Header

    from clcp_ros.ros_messages import image_message

    process = start(
        root, '-p', f'bundle.path:={tiny_bundle}', '-p', 'cameras:=[left, right]',
        '-r', '__ns:=/working',
    )  # fmt: skip
    peer = ros.create_node('feeder', namespace='/working')
    try:
        read_until(process, 'active')
        images = [peer.create_publisher(Image, f'{name}/image', 10) for name in ('left', 'right')]
        masks: list[Image] = []
        peer.create_subscription(Image, 'segment/left/mask', masks.append, 10)
        end, message = time.monotonic() + 20, image_message(daylight_image(0), Header())
        while len(masks) < 10 and time.monotonic() < end:
            for publisher in images:
                publisher.publish(message)
            ros.spin_once(peer, timeout_sec=0.002)
        assert len(masks) >= 10
        process.send_signal(number)
        while process.poll() is None and time.monotonic() < end + 20:
            for publisher in images:
                publisher.publish(message)
            time.sleep(0.002)
        output, _ = process.communicate(timeout=20)
    finally:
        process.kill()
        peer.destroy_node()
    assert process.returncode == 0, output
    assert 'Traceback' not in output
    assert 'failed image' not in output


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], 'no bundle: set the parameter bundle.path'),
        (['-p', 'bundle.path:=/nowhere'], '/nowhere is not a bundle'),
        (['-p', 'bundle.path:=b', '-p', 'shift.warn_drop:=0.5'], 'below error_drop'),
        (['-p', 'bundle.path:=b', '-p', 'model.threads:=-1'], 'out of range'),
        (['-p', 'bundle.path:=b', '-p', 'model.threads:=many'], 'INTEGER'),
    ],
)
def test_wrong_start_ends_with_one_clear_line(root, arguments, message):
    process = start(root, *arguments)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    errors = [line for line in output.splitlines() if 'error' in line.lower()]
    assert len(errors) == 1, output
    assert message in errors[0]
    assert 'Traceback' not in output
