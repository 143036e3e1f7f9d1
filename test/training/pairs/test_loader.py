# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The loader as training uses it: distributed, with workers, resumed, over damaged members."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from clcp_ros.errors import PairSetError
from training.loop import StepBatches
from training.pairs import Pair, PairSet, PairSetWriter
from training.pairs.batches import Spacing
from training.pairs.contrastive import ContrastivePairs, ViewConfig
from training.pairs.pair import points_from_bytes, points_to_bytes

K = np.array([[60.0, 0, 47.5], [0, 60, 31.5], [0, 0, 1]])
T = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
VIEWS = ViewConfig(image_size=24, voxel_size_m=0.4, min_points=5)


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('set') / 'pairs'
    writer = PairSetWriter(folder)
    for sequence in ('a', 'b'):
        writer.write_sequence(sequence, [make_pair(sequence, i) for i in range(41)])
    writer.finish(['a', 'b'], {}, 0)
    return folder


def make_pair(sequence: str, number: int) -> Pair:
    rng = np.random.default_rng([ord(sequence), number])
    return Pair(
        f'{sequence}/{number:03d}', sequence, 'c', 'l', number * 10**8, number * 10**8,
        rng.integers(0, 255, (64, 96, 3)).astype(np.uint8),
        rng.uniform([3, -1, -1, 0], [20, 1, 1, 1], (80, 4)).astype(np.float32), K, T,
    )  # fmt: skip


def loader(folder: Path, workers: int, start: int = 0) -> DataLoader:
    pairs = PairSet(folder)
    positions = pairs.rows('train')
    spacing = Spacing.of(pairs, positions, 0.5)
    batches = StepBatches(positions, 8, 14, seed=3, start=start, spacing=spacing)
    data = ContrastivePairs(pairs, VIEWS, (0.5,) * 3, (0.5,) * 3, train=True)
    return DataLoader(data, batch_sampler=batches, collate_fn=data.collate, num_workers=workers)


def test_workers_and_resuming_give_the_same_batches(folder: Path) -> None:
    whole = list(loader(folder, 0))
    assert len(whole) == 14
    for workers, start in ((2, 0), (2, 7), (0, 13)):
        again = list(loader(folder, workers, start))
        assert len(again) == 14 - start
        for one, other in zip(whole[start:], again, strict=True):
            assert (one['image'] == other['image']).all(), (workers, start)
            for name, value in one['lidar'].items():
                assert (value == other['lidar'][name]).all(), (workers, start, name)


RANK = '''
import json, sys
import torch.distributed as dist
from torch.utils.data import DataLoader
from training.loop import StepBatches
from training.pairs import PairSet
from training.pairs.batches import Spacing

class Keys:
    """Which sample was read, through the same reading as training's."""
    def __init__(self, pairs): self.pairs = pairs
    def __getitem__(self, item): return self.pairs.read(item[0]).key

dist.init_process_group('gloo')
pairs = PairSet(sys.argv[1])
positions = pairs.rows('train')
batches = StepBatches(
    positions, 8, 20, seed=5, rank=dist.get_rank(), world_size=dist.get_world_size(),
    spacing=Spacing.of(pairs, positions, 0.5),
)
found = list(DataLoader(Keys(pairs), batch_sampler=batches, num_workers=2, collate_fn=list))
everything = [None, None]
dist.all_gather_object(everything, found)
dist.barrier()
if dist.get_rank() == 0:
    print(json.dumps(everything))
dist.destroy_process_group()
'''


@pytest.mark.slow
def test_two_processes_share_an_epoch(root: Path, folder: Path, tmp_path: Path) -> None:
    """Same number of batches, nothing twice, nothing left out, nothing left running."""
    script = tmp_path / 'rank.py'
    script.write_text(RANK)
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(folder)],
            env={
                **os.environ, 'RANK': str(rank), 'WORLD_SIZE': '2', 'MASTER_ADDR': '127.0.0.1',
                'MASTER_PORT': str(port), 'PYTHONPATH': str(root), 'OMP_NUM_THREADS': '1',
            },
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=200) for process in processes]
    assert [p.returncode for p in processes] == [0, 0], outputs
    ranks = json.loads(outputs[0][0].splitlines()[-1])
    assert [len(batches) for batches in ranks] == [20, 20]
    steps_per_pass = 82 // 8
    for first in (0, steps_per_pass):
        epoch = [
            key for batches in ranks for batch in batches[first : first + steps_per_pass]
            for key in batch
        ]  # fmt: skip
        assert len(epoch) == len(set(epoch)) == 8 * steps_per_pass
    for step in range(20):
        batch = ranks[0][step] + ranks[1][step]
        assert len(ranks[0][step]) == len(ranks[1][step]) == 4
        for sequence in 'ab':
            frames = sorted(int(k[2:]) for k in batch if k[0] == sequence)
            assert all(np.diff(frames) >= 5)


def test_points_are_views_of_the_bytes_read(folder: Path) -> None:
    pair = PairSet(folder).read(3)
    assert not pair.points.flags.owndata
    assert not pair.points.flags.writeable
    assert pair.image is None
    np.testing.assert_array_equal(pair.points, make_pair('a', 3).points)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_damaged_points_are_an_error_or_other_numbers(data: st.DataObject) -> None:
    """Never a traceback of another kind; what is not a whole array of float32 is refused."""
    points = np.arange(40, dtype=np.float32).reshape(8, 5)
    content = bytearray(points_to_bytes(points))
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
        with pytest.raises(PairSetError, match='damaged points'):
            points_from_bytes(bytes(content), 'here')
        return
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    try:
        found = points_from_bytes(bytes(content), 'here')
    except PairSetError:
        return
    assert found.dtype == np.float32
    # A header with other sizes does not fit the bytes; one with other values is the hash's to see.
    assert found.shape == (8, 5)


def test_npy_of_other_kinds_is_refused(tmp_path: Path) -> None:
    for array in (
        np.zeros((3, 4)), np.zeros(8, np.float32), np.zeros((2, 3), np.float32),
        np.zeros((4, 5), np.float32).T, np.array([{}], object),
    ):  # fmt: skip
        path = tmp_path / 'x.npy'
        np.save(path, array, allow_pickle=True)
        with pytest.raises(PairSetError, match='damaged points'):
            points_from_bytes(path.read_bytes(), 'here')


def test_a_flipped_bit_in_an_image_is_seen(folder: Path, tmp_path: Path) -> None:
    """A JPEG decodes in spite of it: only the hash tells."""
    import shutil

    copy = tmp_path / 'pairs'
    shutil.copytree(folder, copy)
    pairs = PairSet(copy)
    row = pairs.row(2)
    shard = copy / 'shards' / row['shard']
    content = bytearray(shard.read_bytes())
    content[row['image_offset'] + row['image_size'] - 40] ^= 4
    shard.write_bytes(content)
    with pytest.raises(PairSetError, match='a/002: differs from its hash'):
        pairs[2]
    assert pairs[1].key == 'a/001'
    unchecked = PairSet(copy, check='never')
    assert unchecked[2].key == 'a/002'
