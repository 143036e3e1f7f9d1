# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The launch files, where ROS' launch is installed (it is not on PyPI)."""

from __future__ import annotations

import ast
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clcp_ros.image_codec import encode_jpeg

FILES = ('segment.launch.py', 'replay.launch.py')
COMMON = {'bundle', 'cameras', 'namespace', 'params_file', 'log_level', 'transport_profile'}


@pytest.mark.parametrize('name', FILES)
def test_importing_a_launch_file_does_nothing(root: Path, name: str) -> None:
    """Only imports, definitions and constants at top level: no action, no file, no process."""
    tree = ast.parse((root / 'launch' / name).read_text())
    allowed = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.Assign, ast.Expr)
    for node in tree.body:
        assert isinstance(node, allowed), ast.dump(node)
        if isinstance(node, ast.Expr):
            assert isinstance(node.value, ast.Constant)


def describe(root: Path, name: str) -> Any:
    pytest.importorskip('launch_ros', reason='needs launch_ros of a ROS 2 installation')
    spec = importlib.util.spec_from_file_location('described', root / 'launch' / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.generate_launch_description()


@pytest.mark.parametrize(
    ('name', 'more', 'required'),
    [
        ('segment.launch.py', {'image', 'use_sim_time', 'autostart', 'respawn'}, ['bundle']),
        ('replay.launch.py', {'bag', 'rate', 'loop', 'image_topic'}, ['bag', 'bundle']),
    ],
)
def test_every_argument_is_declared_at_top_level(
    root: Path, name: str, more: set[str], required: list[str]
) -> None:
    description = describe(root, name)
    from launch.actions import DeclareLaunchArgument

    own = [e for e in description.entities if isinstance(e, DeclareLaunchArgument)]
    assert {a.name for a in own} == COMMON | more
    assert all(a.description for a in own)
    assert sorted(a.name for a in own if a.default_value is None) == required


RUN = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import GroupAction, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
service = LaunchService()
groups = []
for group in ' '.join(sys.argv[2:]).split(' + '):
    pairs = [a.split(':=') for a in group.split()]
    groups.append(GroupAction([IncludeLaunchDescription(
        PythonLaunchDescriptionSource(sys.argv[1]), launch_arguments=pairs)]))
service.include_launch_description(LaunchDescription(groups))
sys.exit(service.run())
"""


@pytest.fixture
def launch(root: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    pytest.importorskip('launch_ros', reason='needs launch_ros of a ROS 2 installation')
    pytest.importorskip('rclpy', reason='needs rclpy (pip install .[ros])')
    processes: list[subprocess.Popen[str]] = []

    def run(name: str, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, '-c', RUN, str(root / 'launch' / name), *arguments],
            cwd=root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, 'PYTHONUNBUFFERED': '1'},
            start_new_session=True,
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def wait_until_active(ros: Any, peer: Any, node: str, process: subprocess.Popen[str]) -> None:
    from lifecycle_msgs.srv import GetState

    client = peer.create_client(GetState, f'{node}/get_state')
    end, label = time.monotonic() + 60, ''
    while not client.wait_for_service(0.2) and time.monotonic() < end:
        assert process.poll() is None, process.communicate()[0]
    while label != 'active' and time.monotonic() < end:
        future = client.call_async(GetState.Request())
        ros.spin_until_future_complete(peer, future, timeout_sec=5)
        label = future.result().current_state.label if future.done() else ''
    assert label == 'active'


def interrupt(process: subprocess.Popen[str]) -> str:
    # As a terminal does, which launch relies on.
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert 'Traceback' not in output, output
    assert 'escalating' not in output, output
    return output


def test_launch_activates_the_node_and_ends_it_cleanly(
    launch: Callable[..., subprocess.Popen[str]], ros: Any, tiny_bundle: Path
) -> None:
    process = launch(
        'segment.launch.py', f'bundle:={tiny_bundle}', 'namespace:=launched',
        'image:=/front/image',
    )  # fmt: skip
    peer = ros.create_node('launch_peer')
    try:
        wait_until_active(ros, peer, '/launched/segment', process)
        assert peer.count_subscribers('/front/image') == 1
        assert peer.count_subscribers('/front/image/compressed') == 1
        output = interrupt(process)
    finally:
        peer.destroy_node()
    assert 'process has finished cleanly' in output, output


def test_two_inclusions_with_cameras_of_their_own(
    launch: Callable[..., subprocess.Popen[str]], ros: Any, tiny_bundle: Path
) -> None:
    process = launch(
        'segment.launch.py',
        f'bundle:={tiny_bundle} namespace:=one cameras:=front,rear image:=/a/image,/b/image',
        '+',
        f'bundle:={tiny_bundle} namespace:=two',
    )
    peer = ros.create_node('launch_peer')
    try:
        wait_until_active(ros, peer, '/one/segment', process)
        wait_until_active(ros, peer, '/two/segment', process)
        assert peer.count_subscribers('/a/image') == 1
        assert peer.count_subscribers('/b/image/compressed') == 1
        # What the first was told does not reach the second.
        assert peer.count_subscribers('/two/image') == 1
        assert peer.count_publishers('/one/segment/front/mask') == 1
        assert peer.count_publishers('/two/segment/mask') == 1
        interrupt(process)
    finally:
        peer.destroy_node()


def test_respawned_node_is_active_again(
    launch: Callable[..., subprocess.Popen[str]], ros: Any, tiny_bundle: Path
) -> None:
    process = launch(
        'segment.launch.py', f'bundle:={tiny_bundle}', 'namespace:=again', 'respawn:=true'
    )
    peer = ros.create_node('launch_peer')
    try:
        wait_until_active(ros, peer, '/again/segment', process)
        (child,) = children(process.pid)
        assert 'fastdds.xml' in Path(f'/proc/{child}/environ').read_text()
        os.kill(child, signal.SIGKILL)
        end = time.monotonic() + 30
        while children(process.pid) in ([], [child]):
            assert time.monotonic() < end
            time.sleep(0.1)
        # The killed one is still announced for a while: ask the graph until it is one again.
        time.sleep(1.0)
        wait_until_active(ros, peer, '/again/segment', process)
        interrupt(process)
    finally:
        peer.destroy_node()


def children(pid: int) -> list[int]:
    """Processes that a process has started."""
    found = Path(f'/proc/{pid}/task/{pid}/children')
    return [int(child) for child in found.read_text().split()]


def test_images_must_be_as_many_as_cameras(
    launch: Callable[..., subprocess.Popen[str]], tiny_bundle: Path
) -> None:
    process = launch(
        'segment.launch.py', f'bundle:={tiny_bundle}', 'cameras:=a,b', 'image:=/a/image'
    )
    output, _ = process.communicate(timeout=30)
    assert process.returncode != 0
    assert 'image has 1 topics for 2 cameras' in output


def test_replay_plays_a_bag_to_the_node_and_ends_with_it(
    launch: Callable[..., subprocess.Popen[str]],
    ros: Any,
    tmp_path: Path,
    tiny_bundle: Path,
    daylight_image: Any,
) -> None:
    from sensor_msgs.msg import Image

    bag = write_bag(tmp_path / 'bag', daylight_image)
    peer = ros.create_node('launch_peer')
    masks: list[Any] = []
    peer.create_subscription(Image, '/bagged/segment/mask', masks.append, 100)
    try:
        process = launch(
            'replay.launch.py',
            f'bag:={bag}',
            f'bundle:={tiny_bundle}',
            'namespace:=bagged',
            'rate:=0.5',
        )
        end = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < end:
            ros.spin_once(peer, timeout_sec=0.05)
        output, _ = process.communicate(timeout=30)
    finally:
        peer.destroy_node()
    assert 'Traceback' not in output, output
    assert '15 images sent' in output
    assert output.count('process has finished cleanly') == 2, output
    # A busy machine may drop some, and hear the node late.
    assert masks
    assert masks[0].header.frame_id == 'cam'


def test_replay_ends_when_the_node_does(
    launch: Callable[..., subprocess.Popen[str]], tmp_path: Path, daylight_image: Any
) -> None:
    bag = write_bag(tmp_path / 'bag', daylight_image)
    process = launch('replay.launch.py', f'bag:={bag}', f'bundle:={tmp_path / "nothing"}')
    output, _ = process.communicate(timeout=50)
    assert 'is not a bundle' in output
    assert 'Traceback' not in output, output


def write_bag(path: Path, daylight_image: Any) -> Path:
    pytest.importorskip('rosbags')
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    kind = 'sensor_msgs/msg/CompressedImage'
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection('/robot/cam/image/compressed', kind, typestore=store)
        for i in range(15):
            stamp_ns = 1_700_000_000_000_000_000 + i * 100_000_000
            time_type = store.types['builtin_interfaces/msg/Time']
            message = store.types[kind](
                header=store.types['std_msgs/msg/Header'](
                    stamp=time_type(*divmod(stamp_ns, 1_000_000_000)), frame_id='cam'
                ),
                format='jpeg',
                data=np.frombuffer(encode_jpeg(daylight_image(i)), np.uint8),
            )
            writer.write(connection, stamp_ns, bytes(store.serialize_cdr(message, kind)))
    return path
