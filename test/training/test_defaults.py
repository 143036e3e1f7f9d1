# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import training.simulation
from training.defaults import ensure_simulation
from training.simulation import SimulationConfig, simulate

TINY = SimulationConfig(
    rate_hz=1, seconds=1, width=32, height=24, beams=2, columns=16, train_frames=1, val_frames=1
)


def test_a_whole_simulation_is_left_alone_and_a_part_of_one_is_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sim = tmp_path / 'sim'
    # The real simulator; only what it makes by default is smaller.
    monkeypatch.setattr(training.simulation, 'simulate', lambda out: simulate(out, TINY, 1))
    ensure_simulation(sim)
    marker = (sim / 'simulation.json').stat().st_mtime_ns
    ensure_simulation(sim)
    assert (sim / 'simulation.json').stat().st_mtime_ns == marker
    shutil.rmtree(sim / 'cityscapes')
    ensure_simulation(sim)
    assert list((sim / 'cityscapes').rglob('*_leftImg8bit.png'))
