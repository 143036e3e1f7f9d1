# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Play a bag to the segment node: rosbag2 (MCAP, sqlite3) or ROS 1.

    ros2 launch clcp_ros replay.launch.py bag:=/path/to/bag bundle:=/path/to/bundle

Cameras are found in the bag and played on the names the node listens to, with /clock. Everything
ends with the bag. To evaluate rather than to watch use training/replay.py.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.events.process import ProcessExited
from launch.launch_context import LaunchContext
from launch.launch_description_entity import LaunchDescriptionEntity
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import EnvironmentVariable, LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchDescription

SHARE = Path(__file__).resolve().parents[1]
PROFILE_VARIABLES = ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE')
FORWARDED = ('bundle', 'cameras', 'namespace', 'params_file', 'log_level', 'transport_profile')


def generate_launch_description() -> LaunchDescription:
    """All arguments, the node and the player."""
    node = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(Path(__file__).with_name('segment.launch.py'))),
        launch_arguments=[
            *((name, LaunchConfiguration(name)) for name in FORWARDED),
            ('image', ''),
            ('use_sim_time', 'true'),
            ('autostart', 'true'),
            ('respawn', 'false'),
        ],
    )
    return LaunchDescription([*arguments(), node, OpaqueFunction(function=play)])


def arguments() -> list[DeclareLaunchArgument]:
    """What can be said on the command line or by a file that includes this one."""
    return [
        DeclareLaunchArgument(
            'bag', description='rosbag2 folder, MCAP, sqlite3 or ROS 1 bag (needs rosbags).'
        ),
        DeclareLaunchArgument(
            'bundle', description='Folder of the bundle (written by training/export.py).'
        ),
        DeclareLaunchArgument('rate', default_value='1.0', description='Speed of the playing.'),
        DeclareLaunchArgument(
            'loop',
            default_value='false',
            choices=['true', 'false'],
            description='Begin again at the end of the bag.',
        ),
        DeclareLaunchArgument(
            'image_topic',
            default_value='',
            description='Topics of the images in the bag with commas, one per camera; empty '
            'takes the only camera, or those that are named.',
        ),
        DeclareLaunchArgument(
            'cameras',
            default_value='',
            description='Names of the cameras with commas, as in front,rear; needed for a bag '
            'with several.',
        ),
        DeclareLaunchArgument(
            'namespace', default_value='', description='Namespace of the node and its topics.'
        ),
        DeclareLaunchArgument(
            'params_file',
            default_value=str(SHARE / 'config' / 'segment.yaml'),
            description='Parameter file; the default explains every key.',
        ),
        DeclareLaunchArgument(
            'log_level',
            default_value='info',
            choices=['debug', 'info', 'warn', 'error', 'fatal'],
            description='Least severity of what the node logs.',
        ),
        DeclareLaunchArgument(
            'transport_profile',
            default_value=EnvironmentVariable(
                PROFILE_VARIABLES[0], default_value=str(SHARE / 'config' / 'fastdds.xml')
            ),
            description='Fast DDS profile with room for images in shared memory, for node and '
            'player; empty takes what the middleware has by default.',
        ),
    ]


def play(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The player, once the arguments are known; its end is that of the launch."""

    def value(name: str) -> str:
        return str(LaunchConfiguration(name).perform(context)).strip()

    options = [value('bag'), '--rate', value('rate')]
    options += ['--loop'] if value('loop') == 'true' else []
    if value('image_topic'):
        options += ['--image-topic', value('image_topic')]
    # Empty means the only camera: the player refuses a bag with several then.
    options.append(f'--cameras={value("cameras").strip("[]")}')
    variables = (
        dict.fromkeys(PROFILE_VARIABLES, value('transport_profile'))
        if value('transport_profile')
        else {}
    )
    if (SHARE / 'clcp_ros' / '__init__.py').is_file():  # a clone
        paths = [str(SHARE), os.environ.get('PYTHONPATH', '')]
        variables['PYTHONPATH'] = os.pathsep.join(filter(None, paths))
    player = Node(
        executable=sys.executable,
        arguments=['-m', 'clcp_ros.bag_player', *options],
        name='bag_player',
        namespace=value('namespace'),
        additional_env=variables,
        output='screen',
        emulate_tty=True,
    )
    ours = f'__ns:=/{value("namespace").strip("/")}'

    def end(event: ProcessExited, _: LaunchContext) -> EmitEvent | None:
        if ours in event.cmd and 'clcp_ros.bag_player' in event.cmd:
            return EmitEvent(event=Shutdown(reason='the bag has ended'))
        if ours in event.cmd and 'clcp_ros.segment_node' in event.cmd:
            return EmitEvent(event=Shutdown(reason='the node has ended'))
        return None

    return [player, RegisterEventHandler(OnProcessExit(on_exit=end))]
