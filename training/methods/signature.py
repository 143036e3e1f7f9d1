# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Options of all methods as groups of a command."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from clcp_ros.errors import ModelError
from training.methods import find_method, methods

_T = TypeVar('_T')


def with_method_options(function: Callable[..., _T]) -> Callable[..., _T]:
    """Give a command a group of options for each method in the registry.

    Args:
        function: Takes `**options`, the methods' dataclasses by their groups' names, all of them
            or none. Its docstring has no word on them.

    Returns:
        The same function; its signature names the groups, for the parser of the command line.
    """
    signature = inspect.signature(function)
    named = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    annotations = {k: v for k, v in function.__annotations__.items() if k != 'options'}
    for entry in methods().values():
        named.append(
            inspect.Parameter(
                entry.prefix,
                inspect.Parameter.KEYWORD_ONLY,
                default=entry.options(),
                annotation=entry.options,
            )
        )
        annotations[entry.prefix] = entry.options

    function.__annotations__ = annotations
    function.__signature__ = signature.replace(parameters=named)  # type: ignore[attr-defined]
    return function


def options_of(method: str, options: dict[str, Any]) -> Any:
    """The options of one method among those of all; others must be left alone.

    Args:
        method: Name of the method.
        options: Dataclasses by the names of their groups.

    Raises:
        ModelError: There is no such method or group, or options of another method were changed.
    """
    chosen = find_method(method)
    groups = {e.prefix: e.options for e in methods().values()}
    for group, given in options.items():
        if group not in groups:
            raise ModelError(f'no group of options {group!r}; there are {", ".join(groups)}')
        if group != chosen.prefix and given != groups[group]():
            raise ModelError(f'options of {group} mean nothing to --method {method}')
    return options.get(chosen.prefix, chosen.options())
