# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What every command shares: arguments from a signature, one-line errors, atomic output."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
import json
import logging
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from clcp_ros.errors import ClcpError
from training.allocator import keep_freed_memory

ROOT = Path(__file__).resolve().parents[1]

# Of the command that runs, as jsonargparse understands them; None where none does.
_arguments: list[str] | None = None


def run_command(
    function: Callable[..., Any],
    args: list[str] | None = None,
    subcommands: Mapping[str, tuple[str, str]] | None = None,
) -> Callable[..., Any]:
    """Run `function`, or a subcommand, as a command; an error ends the process.

    Parameters without a default become positional arguments, the others options; help texts come
    from the docstring; `--config FILE` and `--print_config` are added. See `normalize_arguments`
    for what is accepted beside jsonargparse's own forms.

    Args:
        function: The command; its signature is its interface.
        args: Arguments instead of `sys.argv[1:]`.
        subcommands: Place of the function (`package.module:function`) and a line on it, by name:
            an argument list that begins with a name runs that one. Only then is it imported.

    Returns:
        The function that ran.
    """
    from jsonargparse import auto_cli

    global _arguments
    keep_freed_memory()
    logging.basicConfig(level=logging.INFO, format='%(levelname).1s %(name)s: %(message)s')
    given = sys.argv[1:] if args is None else args
    program = Path(sys.argv[0]).name
    epilog = _subcommand_help(program, subcommands or {})
    if subcommands and given and given[0] in subcommands:
        function = subcommand(subcommands, given[0])
        program, epilog, given = f'{program} {given[0]}', None, given[1:]
    module = sys.modules[function.__module__]
    try:
        _arguments = normalize_arguments(function, given)
        auto_cli(
            function,
            args=_arguments,
            as_positional=True,
            prog=program,
            description=(module.__doc__ or '').strip() or None,
            epilog=epilog,
        )
    except ClcpError as error:
        sys.exit(_fail(str(error)))
    except KeyboardInterrupt:
        print('\ninterrupted; run the same command again to go on', file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of a pipe (`| head`) went away: nothing is wrong.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        # Disk full, permission denied, ...: the system's own words are the clearest.
        sys.exit(_fail(str(error)))
    finally:
        _arguments = None
    return function


def subcommand(subcommands: Mapping[str, tuple[str, str]], name: str) -> Callable[..., Any]:
    """Import the function of a subcommand.

    Args:
        subcommands: As `run_command` takes them.
        name: Which.
    """
    module, _, function = subcommands[name][0].partition(':')
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


def _subcommand_help(program: str, subcommands: Mapping[str, tuple[str, str]]) -> str | None:
    if not subcommands:
        return None
    # argparse wraps it, so it is a sentence and no list.
    texts = [f'`{program} {name}`, {about}' for name, (_, about) in subcommands.items()]
    return f'subcommands, each with its own --help: {"; ".join(texts)}'


def normalize_arguments(function: Callable[..., Any], arguments: list[str]) -> list[str]:
    """Accept what people type: `--max-gap 1`, `--live`, `--no-preview`, several plain paths.

    jsonargparse wants option names as in the signature, `true` or `false` after a boolean, and one
    JSON list for a list. An option of a group may leave the group out where that is unambiguous:
    `--sparse-backend` for `--model.sparse_backend`.

    Args:
        function: The command.
        arguments: As typed.

    Returns:
        As jsonargparse understands them.

    Raises:
        ClcpError: Several groups have an option that is called so.
    """
    kinds = _option_kinds(function)
    takes_list = any(k == 'positional list' for k in kinds.values())
    options: list[str] = []
    plain: list[str] = []
    index = 0
    while index < len(arguments):
        argument = arguments[index]
        index += 1
        following = arguments[index] if index < len(arguments) else None
        if not argument.startswith('--'):
            (options if argument == '-h' else plain).append(argument)
            continue
        name, equals, value = argument[2:].partition('=')
        name = name.replace('-', '_')
        opposite = _in_group(name[3:], kinds) if name.startswith('no_') else ''
        negated = kinds.get(opposite) == 'bool'
        name = opposite if negated else _in_group(name, kinds)
        bare = negated or following not in ('true', 'false')
        if kinds.get(name) == 'bool' and not equals and bare:
            options.append(f'--{name}={"false" if negated else "true"}')
        elif equals or name in ('help', 'print_config') or following is None:
            options.append(f'--{name}{equals}{value}')
        else:
            options += [f'--{name}', following]
            index += 1
    if takes_list and plain:
        plain = [json.dumps(plain)]
    return [*plain, *options]


def _in_group(name: str, kinds: dict[str, str]) -> str:
    """The name with its group, where only one option of a group is called so."""
    grouped = [option for option in kinds if option.endswith(f'.{name}')]
    if name in kinds or not grouped:
        return name
    if len(grouped) > 1:
        raise ClcpError(f'--{name} could be --{", --".join(grouped)}: say which')
    return grouped[0]


def _option_kinds(function: Callable[..., Any]) -> dict[str, str]:
    """`bool`, `positional list` or `other` for each option, those of dataclasses with a dot."""
    kinds: dict[str, str] = {}
    hints = get_type_hints(function)
    for name, parameter in inspect.signature(function).parameters.items():
        hint = hints.get(name)
        if dataclasses.is_dataclass(hint):
            for field, kind in get_type_hints(hint).items():
                kinds[f'{name}.{field}'] = 'bool' if kind is bool else 'other'
        elif hint is bool:
            kinds[name] = 'bool'
        elif get_origin(hint) is list and parameter.default is inspect.Parameter.empty:
            kinds[name] = 'positional list'
        else:
            kinds[name] = 'other'
    return kinds


def _fail(message: str) -> int:
    print(f'error: {" ".join(message.split())}', file=sys.stderr)
    return 1


def with_the_same_options(
    program: str, without: Collection[str] = (), then: Mapping[str, str] | None = None
) -> str:
    """A command line with the options of the command that runs.

    Args:
        program: What stands before the options.
        without: Options that are left out, and those of such a group.
        then: Values of more options, which replace those that were given.

    Returns:
        The line. Where a function was called, and no command runs, only `then` is known of it.
    """
    left = {*without, *(then or {})}
    words, given = program.split(), list(_arguments or [])
    while given:
        word = given.pop(0)
        value = [given.pop(0)] if '=' not in word and given else []
        name = word.removeprefix('--').partition('=')[0]
        if word.startswith('--') and not {name, name.partition('.')[0]} & left:
            words += [word, *value]
    for name, value_of in (then or {}).items():
        words += [f'--{name}', value_of]
    return shlex.join(words)


def next_step(text: str) -> None:
    """Tell the user what to type next."""
    print(f'\nnext: {text}')


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a sibling path to write to; rename it to `path` on success, remove it on failure.

    Works for a file and for a folder that the caller creates. An existing target is replaced.

    Args:
        path: Where the result shall appear, whole or not at all.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.partial')
    _remove(temporary)
    try:
        yield temporary
        if temporary.is_dir():
            _remove(path)
        temporary.replace(path)
    except BaseException:
        _remove(temporary)
        raise


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def git_commit() -> str:
    """The commit the code was run from, with `-dirty` when it was changed, or 'unknown'."""
    try:
        return subprocess.run(
            ['git', '-C', str(ROOT), 'describe', '--always', '--dirty', '--abbrev=12'],
            capture_output=True, text=True, check=True, timeout=10,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return 'unknown'
