# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.shift_baselines import LIBRARIES, alarms_of
from benchmarks.shift_detectors import Outcome, Verdict


class _Above:
    """Reports every sample above a limit; counts how often it was begun anew."""

    begun = 0

    def __init__(self) -> None:
        self.drift_detected = self.drift = False

    def update(self, value: float) -> None:
        self.drift_detected = self.drift = value > 1

    def reset(self) -> None:
        type(self).begun += 1


def test_alarms_are_the_samples_at_which_a_detector_reports() -> None:
    series = np.array([0, 2, 0, 0, 3, 3])
    assert alarms_of(_Above, 'river', series) == [1, 4, 5]
    assert _Above.begun == 0
    assert alarms_of(_Above, 'frouros', series) == [1, 4, 5]
    assert _Above.begun == 3


def test_requirements_are_pinned() -> None:
    assert all('==' in requirement for found in LIBRARIES.values() for requirement in found)


def test_runs_without_the_project(root: Path) -> None:
    """The other environments have neither clcp_ros nor training."""
    script = root / 'benchmarks' / 'shift_baselines.py'
    tree = ast.parse(script.read_text())
    imported = [
        node.names[0].name if isinstance(node, ast.Import) else str(node.module)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
    ]
    assert not [name for name in imported if name.partition('.')[0] in ('clcp_ros', 'training')]
    failed = subprocess.run(
        [sys.executable, '-I', str(script), 'detect', 'river', 'missing.npz', 'out.json'],
        capture_output=True, text=True, cwd=root.parent,
    )  # fmt: skip
    assert 'missing.npz' in failed.stderr


def test_outcome_survives_its_file(tmp_path: Path) -> None:
    outcome = Outcome('one', {'a': Verdict((3, 9), active=0.1)}, {'e': Verdict((), before=True)})
    outcome.save(tmp_path / 'outcome.json')
    found = Outcome.load(tmp_path / 'outcome.json')
    assert found.nominal['a'].alarms == (3, 9)
    assert found.events['e'].before


@pytest.mark.parametrize('library', sorted(LIBRARIES))
def test_library_is_known_by_the_name_it_is_installed_by(library: str) -> None:
    assert LIBRARIES[library][0].partition('==')[0] == library
