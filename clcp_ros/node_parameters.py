# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The node's parameters: declaration, validation with reasons. A node module: imports rclpy."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.parameter import Parameter

from clcp_ros.bundle import DESCRIPTION
from clcp_ros.errors import CalibrationError
from clcp_ros.monitor import MonitorConfig
from clcp_ros.node_snapshot import default_folder
from clcp_ros.runtime import RUNTIMES
from clcp_ros.scans import pose_matrix

TRANSPORTS = ('auto', 'raw', 'compressed')
RESOLUTIONS = ('network', 'image')
AUTO_PROVIDERS = ('auto',)

_CAMERA = re.compile(r'/?[A-Za-z_]\w*(/[A-Za-z_]\w*)*', re.ASCII)
_MONITOR = {f'shift.{field.name}' for field in fields(MonitorConfig)}


@dataclass(frozen=True)
class _Parameter:
    """A parameter: default, meaning, range, and while in which state it may not be changed."""

    default: Any
    description: str
    range: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()
    read_only: bool = False
    fixed_while: str = ''  # 'configured' or 'active'
    may_be_empty: bool = False  # ROS gives an empty list another type

    @property
    def type_name(self) -> str:
        """Its ROS type in words."""
        if isinstance(self.default, list):
            return 'double array' if isinstance(self.default[0], float) else 'string array'
        return {bool: 'bool', int: 'integer', float: 'double', str: 'string'}[type(self.default)]

    @property
    def change(self) -> str:
        """When it may be changed."""
        if self.read_only:
            return 'at start'
        return f'while not {self.fixed_while}' if self.fixed_while else 'at any time'

    @property
    def constraints(self) -> str:
        """What its value must be beside its range."""
        parts = [f'one of {", ".join(self.choices)}'] if self.choices else []
        if self.fixed_while:
            parts.append(f'cannot be changed while {self.fixed_while}')
        return '; '.join(parts)


_DEFAULTS = MonitorConfig()

PARAMETERS: dict[str, _Parameter] = {
    'bundle.path': _Parameter(
        '',
        'Folder of the bundle that training/export.py wrote. Changed while configured, it is what '
        '~/reload_bundle loads.',
    ),
    'cameras': _Parameter(
        [''],
        "Namespaces of the cameras, for example ['front', 'rear']; [''] is one camera on image.",
        fixed_while='configured', may_be_empty=True,
    ),
    'autostart': _Parameter(
        True, 'Configure and activate at start; false where a launch file or manager does it.',
        read_only=True,
    ),
    'input_transport': _Parameter(
        'auto',
        'Which images to subscribe to: raw, compressed, or auto (both; whichever comes first is '
        'used until it falls silent).',
        choices=TRANSPORTS, fixed_while='active',
    ),
    'mask.resolution': _Parameter(
        'network', 'Size of the masks: that of the network, or that of the image.',
        choices=RESOLUTIONS, fixed_while='configured',
    ),
    'model.threads': _Parameter(
        0, 'Threads inside a layer of the model; 0 leaves it to the run time.', (0, 256),
        fixed_while='configured',
    ),
    'model.providers': _Parameter(
        list(AUTO_PROVIDERS),
        'ONNX Runtime execution providers in order of preference; [auto] takes what is there.',
        fixed_while='configured',
    ),
    'model.runtime': _Parameter(
        'auto',
        'Library that runs the model: auto is ONNX Runtime on accelerators and the fastest one '
        'installed on CPUs.',
        choices=RUNTIMES, fixed_while='configured',
    ),
    'model.batch': _Parameter(
        0,
        'Most frames of different cameras in one call of the model; 0 takes all that wait.',
        (0, 64), fixed_while='active',
    ),
    'save.folder': _Parameter(
        '', 'Folder of the frames that ~/save_frame writes; empty: clcp_ros in $ROS_HOME (~/.ros).'
    ),
    'shift.warn_drop': _Parameter(
        _DEFAULTS.warn_drop,
        'Expected loss of mIoU, in [0, 1], from which to warn; or what ordinary drives show.',
        (0.001, 1.0),
    ),
    'shift.error_drop': _Parameter(
        _DEFAULTS.error_drop, 'Expected loss of mIoU that is an error.', (0.001, 1.0)
    ),
    'shift.false_alarm_interval_h': _Parameter(
        _DEFAULTS.false_alarm_interval_h,
        'Hours of normal driving between two false alarms, of all cameras together, that are '
        'accepted; 0 takes what the bundle was made for.',
        (0.0, 10000.0),
    ),
    'shift.hold_s': _Parameter(
        _DEFAULTS.hold_s, 'Seconds that all must be well before the level falls.', (0.0, 600.0)
    ),
    'shift.window_s': _Parameter(
        _DEFAULTS.window_s,
        'Seconds of images that the expected mIoU is made of; at least five times period_s.',
        (4.0, 600.0),
    ),
    'shift.expected_classes': _Parameter(
        [''],
        "Names of the classes that this route can show, for example ['road', 'car']; [''] is all. "
        'One that cannot come is not counted as lost.',
        may_be_empty=True,
    ),
    'shift.period_s': _Parameter(
        _DEFAULTS.period_s,
        'Seconds of image stamps between two frames that are scored; 0 scores every frame.',
        (0.0, 10.0),
    ),
    'shift.max_gap_s': _Parameter(
        _DEFAULTS.max_gap_s,
        'After a longer gap between stamps the level is STALE until min_samples frames are '
        'scored.',
        (0.01, 600.0),
    ),
    'shift.min_samples': _Parameter(
        _DEFAULTS.min_samples, 'Scored frames after a start before the monitor commits itself.',
        (1, 1000),
    ),
    'shift.frozen_s': _Parameter(
        _DEFAULTS.frozen_s,
        'Seconds of image stamps of identical frames that mean a frozen camera; 0 switches this '
        'off.',
        (0.0, 600.0),
    ),
    'lidar.topic': _Parameter(
        '',
        "Scans (sensor_msgs/PointCloud2) to compare the images with; '' does without. Needs a "
        'bundle that was fitted with a lidar.',
        fixed_while='configured',
    ),
    'lidar.T_camera_lidar': _Parameter(
        [0.0],
        'Where the camera sees the lidar: x y z in metres and the quaternion x y z w, or the 16 '
        'numbers of a matrix, row by row; [0.0] takes it from /tf_static.',
        fixed_while='configured',
    ),
    'lidar.rectified': _Parameter(
        False, 'The images are rectified: the P of camera_info holds for them, not K and D.',
        fixed_while='configured',
    ),
    'diagnostics.period_s': _Parameter(
        1.0, 'Period of /diagnostics in seconds of wall time.', (0.1, 60.0)
    ),
    'diagnostics.stale_s': _Parameter(
        0.8,
        'Silence of a camera in seconds after which it is reported; never less than three of its '
        'own periods.',
        (0.1, 600.0),
    ),
    'diagnostics.frozen_s': _Parameter(
        0.6, 'Identical images for so many seconds mean a frozen camera; 0 switches this off.',
        (0.0, 600.0),
    ),
    'diagnostics.max_age_s': _Parameter(
        10.0, 'Age of an arriving image in seconds beyond which clocks are said to disagree.',
        (0.1, 3600.0),
    ),
}  # fmt: skip


def declare_parameters(node: Node) -> None:
    """Declare all parameters with descriptors; overrides outside a range are refused here.

    Raises:
        rclpy.exceptions.ParameterException: An override has a wrong type or value.
    """
    for name, parameter in PARAMETERS.items():
        node.declare_parameter(name, parameter.default, _descriptor(parameter))


def _descriptor(parameter: _Parameter) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(
        description=parameter.description, read_only=parameter.read_only
    )
    descriptor.additional_constraints = parameter.constraints
    descriptor.dynamic_typing = parameter.may_be_empty
    if parameter.range:
        low, high = parameter.range
        if isinstance(parameter.default, int):
            descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high))]
        else:
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=float(low), to_value=float(high))
            ]
    return descriptor


def check_parameters(
    current: Mapping[str, Any], changes: Sequence[Parameter], *, configured: bool, active: bool
) -> str:
    """Say why parameters cannot be set.

    Args:
        current: Values in force.
        changes: What shall be set, together.
        configured: Whether a bundle is loaded.
        active: Whether images are subscribed to.

    Returns:
        The reason, empty when there is none.
    """
    for change in changes:
        known = PARAMETERS.get(change.name)
        if known is None:
            continue
        if known.choices and change.value not in known.choices:
            return f'{change.name} is one of {", ".join(known.choices)}, not {change.value!r}'
        if known.fixed_while == 'configured' and configured:
            return f'{change.name} takes effect when the node is configured: clean it up first'
        if known.fixed_while == 'active' and active:
            return f'{change.name} takes effect when the node is activated: deactivate it first'
        if reason := _check_value(change.name, change.value, configured=configured):
            return reason
    values = {**current, **{change.name: change.value for change in changes}}
    if reason := _check_lidar(values):
        return reason
    if values.keys() >= _MONITOR:
        try:
            monitor_config(values)
        except ValueError as error:
            return f'shift: {error}'
    return ''


def _check_value(name: str, value: Any, *, configured: bool) -> str:
    """What is wrong with one value beside type, range and choices."""
    # ROS lets a parameter that may be empty take any type.
    if name == 'shift.expected_classes' and not (
        isinstance(value, (list, tuple, type(None)))
        and all(isinstance(v, str) for v in value or ())
    ):
        return 'shift.expected_classes is a list of names'
    if name == 'model.providers' and not all(value or ['']):
        return 'model.providers must name at least one provider, or be [auto]'
    if name == 'cameras':
        return _check_cameras(value)
    # The rest of what can be wrong with a bundle is found when it is loaded.
    if name == 'bundle.path' and configured and not (Path(value) / DESCRIPTION).is_file():
        return f'{value or "the empty path"} is not a bundle: no {DESCRIPTION} in it'
    return ''


def lidar_transform(values: Mapping[str, Any]) -> list[float]:
    """T_camera_lidar from parameter values, as 7 or 16 numbers; empty where it is not given."""
    numbers = list(values.get('lidar.T_camera_lidar') or ())
    return [] if numbers == [0.0] else numbers


def _check_lidar(values: Mapping[str, Any]) -> str:
    numbers = lidar_transform(values)
    if not numbers:
        return ''
    try:
        pose_matrix(numbers)
    except CalibrationError as error:
        return f'lidar.T_camera_lidar: {error}'
    if len(camera_names(values.get('cameras'))) > 1:
        return (
            'lidar.T_camera_lidar is of one camera; where several see the lidar is taken from '
            '/tf_static'
        )
    return ''


def camera_names(value: Any) -> list[str]:
    """Names of the cameras, from the value of `cameras`: the empty name for a single one."""
    return list(value or ['']) if isinstance(value, (list, tuple, type(None))) else [value]


def _check_cameras(value: Any) -> str:
    names = camera_names(value)
    if names == ['']:
        return ''
    for name in names:
        if not isinstance(name, str) or not _CAMERA.fullmatch(name):
            return (
                f'cameras: {name!r} is not a namespace; letters, digits, underscores, and slashes '
                'between them'
            )
    if len({name.strip('/') for name in names}) < len(names):
        return f'cameras: a name occurs twice in {names}'
    return ''


def monitor_config(values: Mapping[str, Any]) -> MonitorConfig:
    """The monitor's thresholds from parameter values.

    Raises:
        ValueError: The values contradict each other.
    """
    settings = {field.name: values[f'shift.{field.name}'] for field in fields(MonitorConfig)}
    expected = settings['expected_classes'] or ()
    return MonitorConfig(
        **settings | {'expected_classes': tuple(name for name in expected if name)}
    )


def save_folder(value: str) -> Path:
    """The folder for saved frames, from the value of `save.folder`."""
    return Path(value).expanduser() if value else default_folder()
