# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a command works on when nothing was prepared: the simulated drive."""

from __future__ import annotations

from pathlib import Path

SIMULATION = Path('sim')
PAIRS = Path('pairs')
ENCODER = Path('runs/pretrain/image_encoder.safetensors')
MODEL = Path('runs/finetune/model.safetensors')
BUNDLE = Path('bundle')


def ensure_simulation(folder: Path = SIMULATION) -> Path:
    """Simulate the default drives unless there is a simulation, whatever its settings.

    Args:
        folder: Where to.

    Returns:
        The folder.
    """
    from training.simulation import simulate
    from training.simulation.run import RECORDINGS

    # Each recording appears when it is whole; simulation.json is there from the beginning.
    if not all((folder / recording.path).exists() for recording in RECORDINGS):
        print(f'{folder} is not whole: simulating the default drives first')
        simulate(folder)
    return folder


def ensure_pairs(folder: Path = PAIRS, simulation: Path = SIMULATION) -> Path:
    """Convert the simulated drives unless there is a pair set.

    Args:
        folder: The pair set.
        simulation: Where the simulated drives are or shall be.

    Returns:
        The pair set's folder.
    """
    from training.convert import convert

    if not (folder / 'index.parquet').is_file():
        ensure_simulation(simulation)
        print(f'{folder} is not there: converting the simulated drives first')
        convert([str(simulation / 'a2d2'), str(simulation / 'bags' / 'town02')], folder)
    return folder


def is_simulated(root: Path) -> bool:
    """Whether the simulator's `simulation.json` lies in the folder or up to two above it.

    Args:
        root: Folder of a data set or recording.
    """
    folder = root.resolve()
    return any((f / 'simulation.json').is_file() for f in (folder, *folder.parents[:2]))
