# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the node says of itself: statuses of the model and of the monitor.

No ROS here: `ros_messages` turns a `Status` into a message. The input's status is made by
`node_statistics`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from clcp_ros.monitor import Level, ShiftSource, ShiftState

SHIFT_KEYS = (
    'novelty_z', 'novelty_cusum', 'cusum_threshold', 'innovation', 'low_z', 'early_z', 'deep_z',
    'miou_est', 'miou_lo', 'miou_hi', 'miou_drop', 'drop_threshold', 'kind', 'kind_prob',
    'top_stats', 'top_classes', 'scope', 'alignment_z', 'alignment_pairs', 'alignment_yaw_deg',
    'alignment_yaw_z', 'alignment_pitch_deg', 'alignment_pitch_z', 'samples', 'window_s',
    'level', 'arl0_supported_h', 'model', 'model_sha',
)  # fmt: skip
"""Names of a verdict's values in `~/shift`, in this order."""

_HANGING_S = 3.0
_HANGING_RUNS = 5  # a model that is always that slow does not hang


@dataclass(frozen=True)
class Status:
    """One diagnostic status.

    Attributes:
        name: Subcomponent, for example 'input'.
        level: Severity.
        message: One line for people.
        values: Figures by fixed names.
        hardware_id: What it is about.
        kinds: Fixed names of what is wrong; a change of level or kinds is told at once, while the
            figures in `message` change all the time.
    """

    name: str
    level: Level
    message: str
    values: dict[str, str] = field(default_factory=dict)
    hardware_id: str = ''
    kinds: tuple[str, ...] = ()

    @property
    def state(self) -> tuple[str, Level, tuple[str, ...]]:
        """What makes a change worth telling."""
        return self.name, self.level, self.kinds


@dataclass(frozen=True)
class ModelState:
    """How the model is doing.

    Attributes:
        model: Name and id of the bundle that serves.
        path: Its folder.
        provider: Execution provider that is really used.
        wanted: Providers that were asked for; empty when none was.
        offered: Providers of this ONNX Runtime, best first.
        fallback_reason: Why something else than what was wanted runs the model; empty while
            nothing else does.
        loaded_on: Provider that ran the model when it was loaded.
        busy_s: How long the present call has been going on.
        reload: What became of the last reload, for people.
        reload_failed: Whether that was a refusal.
        seconds: Time spent on the last frame, by stage.
    """

    model: str
    path: str
    provider: str
    wanted: Sequence[str] = ()
    offered: Sequence[str] = ()
    fallback_reason: str = ''
    loaded_on: str = ''
    busy_s: float = 0.0
    reload: str = ''
    reload_failed: bool = False
    seconds: dict[str, float] = field(default_factory=dict)


def inference_status(state: ModelState, hardware_id: str = '') -> Status:
    """The model's status: which bundle runs on what, and why it is not what was asked for."""
    problems = _model_problems(state)
    level = max((level for level, _, _ in problems), default=Level.OK)
    message = '; '.join(text for _, _, text in problems) or f'{state.model} on {state.provider}'
    values = {
        'model': state.model,
        'bundle': state.path,
        'provider': state.provider,
        'wanted': ', '.join(state.wanted),
        'fallback': state.fallback_reason,
        'reload': state.reload,
        **{f'{name}_ms': f'{value * 1e3:.1f}' for name, value in state.seconds.items()},
    }
    kinds = tuple(kind for _, kind, _ in problems)
    return Status('inference', level, message, values, hardware_id, kinds)


def _model_problems(state: ModelState) -> list[tuple[Level, str, str]]:
    """Level, kind and text of what is wrong with the model."""
    model, provider = state.model, state.provider
    problems = []
    if state.busy_s > max(_HANGING_S, _HANGING_RUNS * state.seconds.get('model', 0.0)):
        text = f'the model has been running for {state.busy_s:.0f} s'
        problems.append((Level.ERROR, 'hanging', text))
    if state.fallback_reason:
        # An accelerator that was there and failed is graver than one that never was.
        first = (*state.wanted, *state.offered, '')[0]
        failed = provider != state.loaded_on or first in state.offered
        text = f'{model} fell back to {provider}: {state.fallback_reason}'
        problems.append((Level.ERROR if failed else Level.WARN, 'fallback', text))
    if state.reload_failed:
        problems.append((Level.WARN, 'reload', state.reload))
    return problems


def shift_values(state: ShiftState | None, source: ShiftSource) -> dict[str, str]:
    """A verdict as text under fixed names; a number that is not known is 'nan', a word empty."""
    known = state or ShiftState(0, Level.STALE, '', 0)
    numbers = {name: f'{value:.6f}' for name, value in known.numbers.items()}
    # A count of points.
    numbers['alignment_pairs'] = f'{known.alignment_pairs:.0f}'
    found = {
        **numbers,
        **known.texts,
        'samples': str(known.samples),
        'level': known.level.name,
        'arl0_supported_h': f'{source.supported_h:.6f}',
        'model': source.model,
        'model_sha': source.model_sha,
    }
    return {name: found[name] for name in SHIFT_KEYS}


def shift_status(
    state: ShiftState | None, source: ShiftSource, frame_id: str, name: str = 'shift'
) -> Status:
    """The monitor's status; without a state it has seen nothing yet."""
    level = state.level if state else Level.STALE
    reason = state.reason if state else 'no frame yet'
    kinds = (state.fault,) if state and state.fault else ()
    hardware_id = f'{frame_id}/{source.model}'
    return Status(name, level, reason, shift_values(state, source), hardware_id, kinds)


def stale_shift(status: Status) -> Status:
    """The monitor's status while no image comes: a verdict on one long gone says nothing now."""
    known = ('arl0_supported_h', 'model', 'model_sha')
    values = shift_values(None, ShiftSource('')) | {name: status.values[name] for name in known}
    return Status(status.name, Level.STALE, 'no image', values, status.hardware_id, ('silent',))
