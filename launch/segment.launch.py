# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Start the segment node of one camera.

    ros2 launch clcp_ros segment.launch.py bundle:=/path/to/bundle image:=/camera/front/image

Works from a clone as well: `ros2 launch launch/segment.launch.py bundle:=...`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.conditions import IfCondition
from launch.events import matches_action
from launch.substitutions import LaunchConfiguration, PythonExpression
from launch_ros.actions import LifecycleNode
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.parameter_descriptions import ParameterFile, ParameterValue
from lifecycle_msgs.msg import Transition

from launch import LaunchDescription

# share/clcp_ros when installed, the repository root in a clone.
SHARE = Path(__file__).resolve().parents[1]


def generate_launch_description() -> LaunchDescription:
    """All arguments, the node, and its way to the active state."""
    arguments = [
        DeclareLaunchArgument(
            'bundle', description='Folder of the bundle (written by training/export.py).'
        ),
        DeclareLaunchArgument(
            'namespace', default_value='', description='Namespace of the node and its topics.'
        ),
        DeclareLaunchArgument(
            'image',
            default_value='image',
            description='Topic of the images; <image>/compressed and the camera_info beside it '
            'follow.',
        ),
        DeclareLaunchArgument(
            'params_file',
            default_value=str(SHARE / 'config' / 'segment.yaml'),
            description='Parameter file; the default explains every key.',
        ),
        DeclareLaunchArgument(
            'use_sim_time',
            default_value='false',
            choices=['true', 'false'],
            description='Take the time from /clock, as when a bag is played with --clock.',
        ),
        DeclareLaunchArgument(
            'log_level', default_value='info', description='debug, info, warn, error or fatal.'
        ),
        DeclareLaunchArgument(
            'autostart',
            default_value='true',
            choices=['true', 'false'],
            description='Configure and activate the node; false leaves it to a manager.',
        ),
        DeclareLaunchArgument(
            'fastdds_profile',
            default_value=str(SHARE / 'config' / 'fastdds.xml'),
            description='Fast DDS profile with room for images in shared memory, for what this '
            'launch starts; empty keeps the environment. The camera driver needs it too.',
        ),
    ]
    profile = LaunchConfiguration('fastdds_profile')
    transport = SetEnvironmentVariable(
        'FASTRTPS_DEFAULT_PROFILES_FILE',
        profile,
        condition=IfCondition(PythonExpression(["'", profile, "' != ''"])),
    )
    node = LifecycleNode(
        # This interpreter: an entry point's shebang may miss the environment ONNX Runtime is in.
        executable=sys.executable,
        arguments=[
            '-m', 'clcp_ros.segment_node',
            '--ros-args', '--log-level', LaunchConfiguration('log_level'),
        ],
        name='segment',
        namespace=LaunchConfiguration('namespace'),
        parameters=[
            ParameterFile(LaunchConfiguration('params_file'), allow_substs=True),
            {
                'bundle.path': ParameterValue(LaunchConfiguration('bundle'), value_type=str),
                'use_sim_time': ParameterValue(
                    LaunchConfiguration('use_sim_time'), value_type=bool
                ),
                'autostart': False,
            },
        ],
        remappings=[('image', LaunchConfiguration('image'))],
        output='screen',
        emulate_tty=True,
    )  # fmt: skip
    autostart = IfCondition(LaunchConfiguration('autostart'))
    activate = RegisterEventHandler(
        OnStateTransition(
            target_lifecycle_node=node,
            # Without a start state this would activate again after every deactivation.
            start_state='configuring',
            goal_state='inactive',
            entities=[_change_state(node, Transition.TRANSITION_ACTIVATE)],
        ),
        condition=autostart,
    )
    configure = _change_state(node, Transition.TRANSITION_CONFIGURE, autostart)
    # The handler must be there before the transition it waits for.
    return LaunchDescription([*arguments, transport, activate, node, configure])


def _change_state(
    node: LifecycleNode, transition: int, condition: IfCondition | None = None
) -> EmitEvent:
    return EmitEvent(
        event=ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=transition),
        condition=condition,
    )
