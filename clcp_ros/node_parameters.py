# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The node's parameters: declaration, validation with reasons. A node module: imports rclpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.parameter import Parameter

from clcp_ros.monitor import MonitorConfig

TRANSPORTS = ('auto', 'raw', 'compressed')
RESOLUTIONS = ('network', 'image')
AUTO_PROVIDERS = ('auto',)

_MONITOR = {f'shift.{field.name}' for field in fields(MonitorConfig)}


@dataclass(frozen=True)
class _Parameter:
    """A parameter: default, meaning, range, and until which state it may be changed."""

    default: Any
    description: str
    range: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()
    read_only: bool = False
    fixed_while: str = ''  # 'configured' or 'active'


_DEFAULTS = MonitorConfig()

PARAMETERS: dict[str, _Parameter] = {
    'bundle.path': _Parameter(
        '', 'Folder of the bundle that training/export.py wrote.', fixed_while='configured'
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
        0, 'Threads inside a layer of the model; 0 leaves it to ONNX Runtime.', (0, 256),
        fixed_while='configured',
    ),
    'model.providers': _Parameter(
        list(AUTO_PROVIDERS),
        'ONNX Runtime execution providers in order of preference; [auto] takes what is there.',
        fixed_while='configured',
    ),
    'shift.warn_enter': _Parameter(
        _DEFAULTS.warn_enter, 'Smoothed novelty (standard deviations) from which to warn.',
        (-4.0, 100.0),
    ),
    'shift.warn_exit': _Parameter(
        _DEFAULTS.warn_exit, 'Smoothed novelty below which the warning ends.', (-4.0, 100.0)
    ),
    'shift.smoothing_s': _Parameter(
        _DEFAULTS.smoothing_s, 'Time constant of the smoothing in seconds of image stamps.',
        (0.01, 600.0),
    ),
    'shift.max_gap_s': _Parameter(
        _DEFAULTS.max_gap_s, 'A longer gap between stamps starts the monitor anew.', (0.01, 600.0)
    ),
    'shift.min_samples': _Parameter(
        _DEFAULTS.min_samples, 'Frames after a start before the monitor commits itself.', (1, 1000)
    ),
    'shift.frozen_samples': _Parameter(
        _DEFAULTS.frozen_samples, 'Identical frames in a row that mean a frozen camera.',
        (2, 100000),
    ),
    'shift.flat_std': _Parameter(
        _DEFAULTS.flat_std,
        'Standard deviation of grey levels below which an image shows nothing.', (0.0, 128.0),
    ),
    'diagnostics.period_s': _Parameter(
        1.0, 'Period of /diagnostics in seconds of wall time.', (0.1, 60.0)
    ),
    'diagnostics.stale_s': _Parameter(
        2.0, 'Silence of the camera in seconds after which it is reported.', (0.1, 600.0)
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
    if parameter.choices:
        descriptor.additional_constraints = f'one of {", ".join(parameter.choices)}'
    elif parameter.fixed_while:
        descriptor.additional_constraints = f'cannot be changed while {parameter.fixed_while}'
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
        if change.name == 'model.providers' and not all(change.value or ['']):
            return 'model.providers must name at least one provider, or be [auto]'
    values = {**current, **{change.name: change.value for change in changes}}
    if values.keys() >= _MONITOR:
        try:
            monitor_config(values)
        except ValueError as error:
            return f'shift: {error}'
    return ''


def monitor_config(values: Mapping[str, Any]) -> MonitorConfig:
    """The monitor's thresholds from parameter values.

    Raises:
        ValueError: The values contradict each other.
    """
    return MonitorConfig(
        **{field.name: values[f'shift.{field.name}'] for field in fields(MonitorConfig)}
    )
