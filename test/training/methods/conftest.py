# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def in_two_processes(root: Path) -> Callable[[str, str, Path], None]:
    """Runs a script as two processes, which are given a test file, a folder and their rank."""

    def run(script: str, tests: str, folder: Path) -> None:
        path = folder / 'process.py'
        path.write_text(textwrap.dedent(script))
        environment = {**os.environ, 'PYTHONPATH': str(root), 'OMP_NUM_THREADS': '1'}
        running = [
            subprocess.Popen(
                [sys.executable, str(path), tests, str(folder), str(rank)],
                env=environment, stderr=subprocess.PIPE, text=True,
            )
            for rank in (0, 1)
        ]  # fmt: skip
        for process in running:
            _, errors = process.communicate(timeout=240)
            assert process.returncode == 0, errors[-2000:]

    return run
