# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Commands that take all options of another one, so that they read its recipes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar, get_type_hints

_T = TypeVar('_T')


def with_options_of(other: Callable[..., Any]) -> Callable[[Callable[..., _T]], Callable[..., _T]]:
    """Give a command the options of another one beside its own.

    Args:
        other: The other command; its parameters have defaults, and Google-style help texts.

    Returns:
        A decorator for functions whose last parameter is `**settings`.
    """

    def extended(function: Callable[..., _T]) -> Callable[..., _T]:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        types = get_type_hints(other)
        taken = [
            p.replace(kind=p.KEYWORD_ONLY, annotation=types[p.name])
            for p in inspect.signature(other).parameters.values()
        ]
        function.__signature__ = signature.replace(parameters=[*own, *taken])  # type: ignore[attr-defined]
        hints = get_type_hints(function)
        function.__annotations__ = {p.name: hints[p.name] for p in own} | {
            p.name: p.annotation for p in taken
        }
        function.__doc__ = _joined(inspect.getdoc(function) or '', inspect.getdoc(other) or '')
        return function

    return extended


def _joined(own: str, other: str) -> str:
    """One docstring with the arguments of both."""
    before, _, after = own.partition('\n    settings: ')
    _, _, rest = after.partition('\n\n')
    arguments = other.partition('Args:\n')[2].partition('\n\n')[0]
    return f'{before}\n{arguments}\n\n{rest}'
