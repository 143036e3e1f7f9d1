# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The documents: links lead somewhere, and commands have the options that they are given."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser

from training.cli import normalize_arguments, subcommand

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]


def commands() -> list[str]:
    """Every `python training/...` of the documents, in blocks and in the text."""
    found: list[str] = []
    for page in PAGES:
        text = re.sub(r'\\\n\s*', ' ', page.read_text())
        for block in re.findall(r'```(?:sh|bash)\n(.*?)```', text, re.DOTALL):
            found += [line.split(' #')[0].strip() for line in block.splitlines()]
        found += re.findall(r'`(python training/[^`\n]+)`', text)
    return sorted({c for c in found if c.startswith('python training/')})


def command_function(script: Path) -> str:
    """The function that a script hands to run_command."""
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'run_command':
            return node.args[0].id  # type: ignore[attr-defined]
    raise AssertionError(f'{script} does not call run_command')


@pytest.mark.parametrize('command', commands())
def test_commands_parse(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # configuration files are named relative to it
    _, script, *arguments = shlex.split(command)
    if '--help' in arguments or '--print_config' in arguments:
        return
    assert (ROOT / script).is_file(), command
    module = importlib.import_module(f'training.{Path(script).stem}')
    subcommands = getattr(module, 'SUBCOMMANDS', {})
    if arguments and arguments[0] in subcommands:
        function = subcommand(subcommands, arguments.pop(0))
    else:
        function = getattr(module, command_function(ROOT / script))
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument('--config', action='config')
    parser.add_function_arguments(function, as_positional=True)
    parser.parse_args(normalize_arguments(function, arguments))


@pytest.mark.parametrize('page', PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r'\]\(([^)#]+)', page.read_text()):
        if not target.startswith('http'):
            assert (page.parent / target).exists(), f'{page.name}: {target}'


def test_make_targets_exist() -> None:
    targets = set(re.findall(r'^([a-z-]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE))
    for page in PAGES:
        for block in re.findall(r'```(?:sh|bash)\n(.*?)```', page.read_text(), re.DOTALL):
            for target in re.findall(r'^make ([a-z-]+)', block, re.MULTILINE):
                assert target in targets, f'{page.name}: make {target}'
