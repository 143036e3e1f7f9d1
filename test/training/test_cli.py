# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from clcp_ros.errors import ClcpError
from training.cli import (
    atomic_path,
    normalize_arguments,
    run_command,
    with_the_same_options,
)


@dataclass
class Nested:
    """Nested options.

    Attributes:
        flag: A flag.
        size: A size.
    """

    flag: bool = False
    size: int = 1


def many(
    paths: list[Path], max_gap: float = 0.1, preview: bool = True, live: bool = False
) -> None:
    """A command with a list."""


def one(bag: Path, out: Path = Path('x'), live: bool = False, views: Nested = Nested()) -> None:  # noqa: B008
    """A command.

    Args:
        bag: A bag.
        out: A folder.
        live: Live.
        views: Nested.
    """
    if str(bag) == 'bad':
        raise ClcpError('the bag\nis bad')
    if str(bag) == 'stop':
        raise KeyboardInterrupt
    if str(bag) == 'full':
        raise OSError(28, 'No space left on device', 'pairs/x.tar')
    print(bag, out, live, views)


def test_what_people_type() -> None:
    assert normalize_arguments(many, ['a', 'b c', '--max-gap', '0.1', 'd', '--no-preview']) == [
        '["a", "b c", "d"]', '--max_gap', '0.1', '--preview=false',
    ]  # fmt: skip
    assert normalize_arguments(many, ['--live', 'a', '--max-gap=-1']) == [
        '["a"]', '--live=true', '--max_gap=-1',
    ]  # fmt: skip
    assert normalize_arguments(one, ['b', '--live', 'true', '--views.flag', '--out', 'a-b']) == [
        'b', '--live', 'true', '--views.flag=true', '--out', 'a-b',
    ]  # fmt: skip
    # The group may be left out.
    assert normalize_arguments(one, ['b', '--no-flag', '--size', '3']) == [
        'b', '--views.flag=false', '--views.size', '3',
    ]  # fmt: skip
    assert normalize_arguments(one, ['b', '--flag', '--size=3']) == [
        'b', '--views.flag=true', '--views.size=3',
    ]  # fmt: skip
    assert normalize_arguments(one, ['--help']) == ['--help']
    assert normalize_arguments(one, ['--out']) == ['--out']


def two(first: Nested = Nested(), second: Nested = Nested(), live: bool = False) -> None:  # noqa: B008
    """A command with two groups that have the same options.

    Args:
        first: One.
        second: Another.
        live: Live.
    """
    then = {'first.size': '5'}
    print(with_the_same_options('python x.py', without=['live', 'second.flag'], then=then))


def test_a_name_of_two_groups_is_asked_back(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_command(two, ['--size', '3'])
    assert stopped.value.code == 1
    expected = 'error: --size could be --first.size, --second.size: say which\n'
    assert capsys.readouterr().err == expected
    with pytest.raises(ClcpError, match='--flag could be'):
        normalize_arguments(two, ['--no-flag'])
    assert normalize_arguments(two, ['--second.size=3']) == ['--second.size=3']


def test_what_is_to_be_typed_next_has_the_same_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / 'a recipe.yaml'
    recipe.write_text('second: {size: 7}\n')
    given = ['--live', '--config', str(recipe), '--second.flag', '--first.size=3', '--first.flag']
    run_command(two, given)
    line = f"python x.py --config '{recipe}' --first.flag=true --first.size 5\n"
    assert capsys.readouterr().out == line
    two()
    assert capsys.readouterr().out == 'python x.py --first.size 5\n'


def test_arguments_arrive(capsys: pytest.CaptureFixture[str]) -> None:
    run_command(one, ['b', '--live', '--views.size', '3', '--out=y'])
    assert capsys.readouterr().out == 'b y True Nested(flag=False, size=3)\n'


@pytest.mark.parametrize(
    ('argument', 'code', 'words'),
    [
        ('bad', 1, 'error: the bag is bad\n'),
        ('full', 1, "error: [Errno 28] No space left on device: 'pairs/x.tar'\n"),
        ('stop', 130, '\ninterrupted; run the same command again to go on\n'),
    ],
)
def test_failures_are_one_line(
    argument: str, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_command(one, [argument])
    assert stopped.value.code == code
    assert capsys.readouterr().err == words


def test_unknown_options_fail(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_command(one, ['b', '--typo', '3'])
    assert stopped.value.code == 2
    assert 'typo' in capsys.readouterr().err


def test_output_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / 'folder'
    with atomic_path(target) as path:
        path.mkdir()
        (path / 'a').write_text('1')
        assert not target.exists()

    def fail() -> None:
        with atomic_path(target) as path:
            path.mkdir()
            (path / 'a').write_text(str(1 // 0))

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (target / 'a').read_text() == '1'
    assert [p.name for p in tmp_path.iterdir()] == ['folder']


def test_commands_run_as_scripts_from_anywhere(root: Path, tmp_path: Path) -> None:
    import subprocess

    result = subprocess.run(
        [sys.executable, root / 'training/convert.py', 'nowhere', '--max-gap', '0.1'],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 1
    assert result.stderr.startswith('error: ')
    assert 'nowhere' in result.stderr
    assert len(result.stderr.splitlines()) == 1
