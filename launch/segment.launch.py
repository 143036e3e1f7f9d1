# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Start the segment node, for one camera or several.

    ros2 launch clcp_ros segment.launch.py bundle:=/path/to/bundle image:=/camera/front/image

Works from a clone as well: `ros2 launch launch/segment.launch.py bundle:=...`. To include it in
another launch file put each inclusion into a GroupAction of its own, as always with launch:
arguments of one would else be the defaults of the next.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.launch_context import LaunchContext
from launch.substitutions import EnvironmentVariable, LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterFile

from launch import LaunchDescription

# share/clcp_ros when installed, the repository root in a clone.
SHARE = Path(__file__).resolve().parents[1]

# Fast DDS 2 reads the first, Fast DDS 3 the second.
PROFILE_VARIABLES = ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE')


def generate_launch_description() -> LaunchDescription:
    """All arguments and the node."""
    return LaunchDescription([*arguments(), OpaqueFunction(function=start)])


def arguments() -> list[DeclareLaunchArgument]:
    """What can be said on the command line or by a file that includes this one."""
    yes_no = ['true', 'false']
    return [
        DeclareLaunchArgument(
            'bundle', description='Folder of the bundle (written by training/export.py).'
        ),
        DeclareLaunchArgument(
            'cameras',
            default_value='',
            description='Names of the cameras with commas, as in front,rear: images are then '
            'front/image and rear/image, masks ~/front/mask and ~/rear/mask. Empty is one camera '
            'on image.',
        ),
        DeclareLaunchArgument(
            'image',
            default_value='',
            description='Topics of the images with commas, one per camera; <image>/compressed '
            'and the camera_info beside each follow. Empty keeps image, or <camera>/image.',
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
            'use_sim_time',
            default_value='false',
            choices=yes_no,
            description='Take the time from /clock, as when a bag is played with --clock.',
        ),
        DeclareLaunchArgument(
            'log_level',
            default_value='info',
            choices=['debug', 'info', 'warn', 'error', 'fatal'],
            description='Least severity of what the node logs.',
        ),
        DeclareLaunchArgument(
            'autostart',
            default_value='true',
            choices=yes_no,
            description='Configure and activate the node; false leaves it to a manager.',
        ),
        DeclareLaunchArgument(
            'respawn',
            default_value='false',
            choices=yes_no,
            description='Start the node again, after two seconds, when it has ended.',
        ),
        DeclareLaunchArgument(
            'transport_profile',
            default_value=EnvironmentVariable(
                PROFILE_VARIABLES[0], default_value=str(SHARE / 'config' / 'fastdds.xml')
            ),
            description='Fast DDS profile with room for images in shared memory, for this node '
            'only; the camera driver needs it too. Empty takes what the middleware has by '
            'default. What the environment names wins over our own.',
        ),
    ]


def start(context: LaunchContext) -> list[Node]:
    """The node, once the arguments are known."""

    def value(name: str) -> str:
        return str(LaunchConfiguration(name).perform(context)).strip()

    cameras = [name.strip() for name in value('cameras').strip('[]').split(',')]
    images = [topic.strip() for topic in value('image').split(',')]
    if images != [''] and len(images) != len(cameras):
        raise RuntimeError(
            f'image has {len(images)} topics for {len(cameras)} cameras; give one for each'
        )
    inputs = ['image' if name == '' else f'{name}/image' for name in cameras]
    remappings = [
        (here, topic)
        for here, topic in zip(inputs, images, strict=False)
        if topic not in ('', here)
    ]
    return [
        Node(
            # This interpreter: an entry point's shebang may miss the environment ONNX Runtime is
            # in.
            executable=sys.executable,
            arguments=[
                '-m',
                'clcp_ros.segment_node',
                '--ros-args',
                '--log-level',
                value('log_level'),
            ],
            name='segment',
            namespace=value('namespace'),
            parameters=[
                ParameterFile(value('params_file'), allow_substs=True),
                {
                    'bundle.path': value('bundle'),
                    'cameras': cameras,
                    'use_sim_time': value('use_sim_time') == 'true',
                    # The node's own way to the active state: it is also that of a respawned one.
                    'autostart': value('autostart') == 'true',
                },
            ],
            remappings=remappings,
            additional_env=environment(value('transport_profile')),
            respawn=value('respawn') == 'true',
            respawn_delay=2.0,
            output='screen',
            emulate_tty=True,
        )
    ]


def environment(profile: str) -> dict[str, str]:
    """What the node's process gets beside the environment; other processes keep theirs."""
    variables = dict.fromkeys(PROFILE_VARIABLES, profile) if profile else {}
    if (SHARE / 'clcp_ros' / '__init__.py').is_file():  # a clone
        paths = [str(SHARE), os.environ.get('PYTHONPATH', '')]
        variables['PYTHONPATH'] = os.pathsep.join(filter(None, paths))
    return variables
