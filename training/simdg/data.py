# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmark's data: unlabelled pairs, labelled frames of the clear day, paired test frames."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from training.pairs.build import BuildOptions, build, plan
from training.segmentation.frames import FrameSet, open_frames
from training.simdg.sizes import SOURCE, Size
from training.simulation.a2d2 import A2D2
from training.simulation.cityscapes import Cityscapes, Part
from training.simulation.config import CONDITIONS, SimulationConfig
from training.simulation.recording import Shot
from training.simulation.run import MARKER, write_recordings
from training.sources import open_source

SPAN = 300.0
"""Seconds of a drive that labelled and test frames are spread over."""


@dataclass(frozen=True)
class BenchmarkData:
    """Where the data of a size lie.

    Attributes:
        root: Folder of the size.
        labelled: Frames in the layout of Cityscapes: `train`, `val` and `test`.
        pairs: Pair set for pretraining, all conditions, without labels.
        pairs_clear: The same drives and moments with the clear day throughout: what pretraining
            gains from the other conditions is the difference between the two.
        fingerprint: Changes when the data do.
    """

    root: Path
    labelled: Path
    pairs: Path
    pairs_clear: Path
    fingerprint: str

    def frames(self, split: str) -> FrameSet:
        """Labelled frames of a split.

        Args:
            split: `train`, `val` or `test`.
        """
        return open_frames(self.labelled, split, 'cityscapes')


def prepare(
    size: Size, out: Path = Path('simdg'), workers: int | None = None, pairs: bool = True
) -> BenchmarkData:
    """Simulate the data of a size, or what of them is missing.

    Args:
        size: The size.
        out: Folder of the benchmark; the size has a folder of its own in it.
        workers: Processes; the result does not depend on it.
        pairs: Also the pairs for pretraining.

    Returns:
        Where they are.

    Raises:
        SimulationError: Something else lies there.
    """
    root = out / size.name
    towns = [PairTown(size, number) for number in size.train_towns] if pairs else []
    clear = [PairTown(size, number, clear=True) for number in size.train_towns] if pairs else []
    write_recordings(root, size.simulation, [labelled(size), *towns, *clear], workers)
    marker = json.loads((root / MARKER).read_text())
    facts = [marker['parameters'], labelled(size).settings()]
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    data = BenchmarkData(root, root / 'labelled', root / 'pairs', root / 'pairs-clear', digest)
    if pairs:
        _convert(data, data.pairs, towns)
        _convert(data, data.pairs_clear, clear)
    return data


def _convert(data: BenchmarkData, out: Path, towns: list[PairTown]) -> None:
    """Make the pair set of the recordings, unless there is the one of these very recordings."""
    stamp = data.root / f'{out.name}.json'
    facts = json.dumps([data.fingerprint, [town.settings() for town in towns]])
    if stamp.is_file() and stamp.read_text() == facts and (out / 'index.parquet').is_file():
        return
    source = 'a2d2'
    found = [
        (source, town.path, recording)
        for town in towns
        for recording in open_source(data.root / town.path, source)[1]
    ]
    build(plan(list(found)), out, BuildOptions(), overwrite=True)
    stamp.write_text(facts)


def labelled(size: Size) -> Cityscapes:
    """The recording of labelled frames.

    Args:
        size: The size.
    """
    parts = [Part('train', town, size.train_frames, (SOURCE,)) for town in size.train_towns]
    parts += [Part('val', town, size.val_frames, CONDITIONS) for town in size.val_towns]
    parts += [Part('test', town, size.test_frames, CONDITIONS) for town in size.test_towns]
    return Cityscapes('labelled', tuple(parts), SPAN)


class PairTown(A2D2):
    """Unlabelled drives through one town, a stretch of it in each condition.

    Args:
        size: The size.
        town: Number of the town.
        clear: The same moments, but the clear day throughout.
    """

    def __init__(self, size: Size, town: int, clear: bool = False) -> None:
        folder = 'recordings-clear' if clear else 'recordings'
        super().__init__(f'{folder}/town{town:02d}', town, first_scene=town * len(CONDITIONS))
        self.frames = size.pair_frames
        self.clear = clear

    def shots(self, config: SimulationConfig) -> list[Shot]:
        """See `Recording.shots`."""
        shots = super().shots(config)
        if not self.clear:
            return shots
        # One scene: its frames are numbered and stamped on through what were several.
        start_ns = self._start_ns(SOURCE)
        return [
            replace(
                shot, conditions=(SOURCE,), index=i, stamp_ns=start_ns + round(shot.time * 1e9)
            )
            for i, shot in enumerate(shots)
        ]

    def settings(self) -> dict[str, Any]:
        """See `Recording.settings`."""
        return {'frames': self.frames, 'clear': self.clear}
