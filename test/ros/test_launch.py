# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The launch file, where ROS' launch is installed (it is not on PyPI)."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip('launch_ros', reason='needs launch_ros of a ROS 2 installation')
pytest.importorskip('rclpy', reason='needs rclpy (pip install .[ros])')


def describe(root: Path) -> Any:
    spec = importlib.util.spec_from_file_location('seg', root / 'launch' / 'segment.launch.py')
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.generate_launch_description()


def test_every_argument_is_described(root):
    arguments = describe(root).get_launch_arguments()
    assert {a.name for a in arguments} == {
        'bundle', 'namespace', 'image', 'params_file', 'use_sim_time', 'log_level', 'autostart',
        'fastdds_profile',
    }  # fmt: skip
    assert all(a.description for a in arguments)
    assert [a.name for a in arguments if not a.default_value] == ['bundle']


RUN = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
service = LaunchService()
service.include_launch_description(LaunchDescription([IncludeLaunchDescription(
    PythonLaunchDescriptionSource(sys.argv[1]),
    launch_arguments=[a.split(':=') for a in sys.argv[2:]])]))
sys.exit(service.run())
"""


def test_launch_activates_the_node_and_ends_it_cleanly(root, ros, tiny_bundle):
    from lifecycle_msgs.srv import GetState

    process = subprocess.Popen(
        [
            sys.executable, '-c', RUN, str(root / 'launch' / 'segment.launch.py'),
            f'bundle:={tiny_bundle}', 'namespace:=launched', 'image:=/front/image',
        ],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, 'PYTHONUNBUFFERED': '1'},
        start_new_session=True,
    )  # fmt: skip
    peer = ros.create_node('launch_peer')
    try:
        client = peer.create_client(GetState, '/launched/segment/get_state')
        end, label = time.monotonic() + 30, ''
        while not client.wait_for_service(0.2) and time.monotonic() < end:
            assert process.poll() is None, process.communicate()[0]
        while label != 'active' and time.monotonic() < end:
            future = client.call_async(GetState.Request())
            ros.spin_until_future_complete(peer, future, timeout_sec=5)
            label = future.result().current_state.label if future.done() else ''
        assert label == 'active'
        assert peer.count_subscribers('/front/image') == 1
        assert peer.count_subscribers('/front/image/compressed') == 1
        # As a terminal does, which launch relies on.
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=30)
    finally:
        process.kill()
        peer.destroy_node()
    assert 'Traceback' not in output, output
    assert 'process has finished cleanly' in output, output
    assert 'escalating' not in output, output
