# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The whole way, small: every command of the demo runs, on real parts, and its page is whole."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clcp_ros.errors import ClcpError
from training.demo import demo, steps_of
from training.simulation import CONDITIONS


def run_demo(root: Path, out: Path) -> str:
    result = subprocess.run(
        [sys.executable, root / 'training/demo.py', '--quick', '--out', out],
        capture_output=True, text=True, timeout=880,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


@pytest.mark.slow
@pytest.mark.ros
@pytest.mark.timeout(900)  # three minutes on two free cores, five on busy ones
def test_the_whole_way(root: Path, tmp_path: Path) -> None:
    pytest.importorskip('rclpy')
    out = tmp_path / 'demo'
    words = run_demo(root, out)
    steps = steps_of(out, quick=True)
    for step in steps:
        assert step.command in words

    page = (out / 'report.html').read_text()
    for title in ('Lidar over the images', 'Learning', 'Shift over time', 'Frames'):
        assert f'<h2>{title}</h2>' in page
    assert len(re.findall(r'<img src="data:', page)) > 10
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page), 'not self-contained'
    replay = json.loads((out / 'replay/summary.json').read_text())
    assert replay['live']['received'] > 0
    assert replay['live']['exit_code'] == 0
    evaluation = json.loads((out / 'evaluation/evaluation.json').read_text())
    assert set(evaluation['conditions']) == set(CONDITIONS)

    start = time.monotonic()
    again = run_demo(root, out)
    assert again.count('done before') == len(steps)
    # Reusing is not redoing: a generous bound on imports and the page.
    assert time.monotonic() - start < 60


def test_other_peoples_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / 'pairs').mkdir()
    with pytest.raises(ClcpError, match='something else than a demo'):
        demo(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ['pairs']
