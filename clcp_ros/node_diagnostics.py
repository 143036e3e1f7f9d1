# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the node says of itself: statuses of the model and of the monitor.

No ROS here: `ros_messages` turns a `Status` into a message. The input's status is made by
`node_statistics`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from clcp_ros.monitor import Level, ShiftState

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


def shift_values(state: ShiftState | None, model: str) -> dict[str, str]:
    """A verdict as text under fixed names; what has no value is 'nan'."""
    score = state.score if state else None
    parts = {
        'novelty_z': score.novelty if score else None,
        'novelty_smoothed': state.smoothed if state else None,
        'low_z': score.low if score else None,
        'early_z': score.early if score else None,
        'deep_z': score.deep if score else None,
    }
    return {
        **{name: 'nan' if value is None else f'{value:.6f}' for name, value in parts.items()},
        'samples': str(state.samples if state else 0),
        'level': (state.level if state else Level.STALE).name,
        'model': model,
    }


def shift_status(
    state: ShiftState | None, model: str, frame_id: str, name: str = 'shift'
) -> Status:
    """The monitor's status; without a state it has seen nothing yet."""
    level = state.level if state else Level.STALE
    reason = state.reason if state else 'no frame yet'
    return Status(name, level, reason, shift_values(state, model), f'{frame_id}/{model}')


def stale_shift(status: Status) -> Status:
    """The monitor's status while no image comes: a verdict on one long gone says nothing now."""
    return Status(
        status.name, Level.STALE, 'no image', status.values, status.hardware_id, ('silent',)
    )
