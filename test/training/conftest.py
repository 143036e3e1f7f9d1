# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A toy data set in Cityscapes' layout, a model that learnt it, and a pair set of noise."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.export import export
from training.finetune import finetune
from training.pairs.pair import Pair
from training.pairs.writer import PairSetWriter
from training.segmentation.batches import AugmentedFrames
from training.segmentation.task import OptimizerConfig
from training.segmentation.transforms import AugmentationConfig

CITIES = {'train': ('a-clear', 'b-clear', 'c-night'), 'val': ('d-clear', 'd-night')}
COLORS = {23: (120, 170, 220), 7: (110, 60, 110), 11: (120, 90, 60), 26: (30, 30, 170)}


@pytest.fixture(scope='session')
def toy_cityscapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sky, road, houses and cars of plain colours in noise; two drives of clear weather."""
    root = tmp_path_factory.mktemp('toy') / 'cityscapes'
    for split, cities in CITIES.items():
        for city in cities:
            for i in range(12):
                write_scene(root, split, city, i)
    return root


@pytest.fixture(scope='session')
def toy_model(toy_cityscapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights finetuned on the clear drives."""
    return finetune(
        toy_cityscapes, 'test_efficientnet', tmp_path_factory.mktemp('runs') / 'finetune',
        conditions='clear', input_size=(64, 96), max_steps=60, batch_size=4,
        augmentation=AugmentationConfig(crop=None, photometric=False, scale=(0.8, 1.25)),
        optimizer=OptimizerConfig(lr=3e-3),
    )  # fmt: skip


@pytest.fixture(scope='session')
def toy_bundle(
    toy_model: Path, toy_cityscapes: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The toy model's bundle."""
    return export(
        toy_model, toy_cityscapes, tmp_path_factory.mktemp('exported') / 'bundle',
        corruptions='fog,night,noise,dirt,jpeg',
    )  # fmt: skip


@pytest.fixture(scope='session')
def noise_pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of noise with points in front of the camera."""
    folder = tmp_path_factory.mktemp('set') / 'pairs'
    K = np.array([[60.0, 0, 47.5], [0, 60, 31.5], [0, 0, 1]])
    T = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])

    def pair(i: int) -> Pair:
        rng = np.random.default_rng(i)
        return Pair(
            f's/{i:03d}', 's', 'c', 'l', i * 10**9, i * 10**9,
            rng.integers(0, 255, (64, 96, 3)).astype(np.uint8),
            rng.uniform([3, -5, -2, 0], [30, 5, 1, 1], (300, 4)).astype(np.float32), K, T,
        )  # fmt: skip

    writer = PairSetWriter(folder)
    writer.write_sequence('s', [pair(i) for i in range(12)])
    writer.finish(['s'], {}, 0.25)
    return folder


@pytest.fixture
def power_cut(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], object]], None]:
    """Runs a finetuning that ends when it has read so many frames."""
    read = AugmentedFrames.__getitem__

    class Stop(Exception):  # noqa: N818
        pass

    def cut(after: int, run: Callable[[], object]) -> None:
        frames_read = itertools.count()

        def failing(self: AugmentedFrames, key: tuple[int, int]) -> object:
            if next(frames_read) >= after:
                raise Stop
            return read(self, key)

        with monkeypatch.context() as patch:
            patch.setattr(AugmentedFrames, '__getitem__', failing)
            with pytest.raises(Stop):
                run()

    return cut


def write_scene(root: Path, split: str, city: str, index: int) -> None:
    rng = np.random.default_rng([ord(city[0]), len(city), index])
    label = np.full((72, 112), 23, np.uint8)
    horizon = int(rng.integers(28, 40))
    label[horizon:] = 7
    for _ in range(3):
        left, top = int(rng.integers(0, 90)), int(rng.integers(6, 20))
        label[top:horizon, left : left + 20] = 11
    left, top = int(rng.integers(0, 80)), int(rng.integers(horizon, 52))
    label[top : top + 14, left : left + 26] = 26
    image = np.zeros((*label.shape, 3))
    for value, color in COLORS.items():
        image[label == value] = color
    image = (image + rng.normal(0, 8, image.shape)) * (0.12 if city.endswith('night') else 1)
    label[-4:] = 1  # ego vehicle: not evaluated
    stem = f'{city}_{index:06d}_000000'
    for folder, suffix, array in (
        ('leftImg8bit', 'leftImg8bit', np.clip(image, 0, 255).astype(np.uint8)),
        ('gtFine', 'gtFine_labelIds', label),
    ):
        file = root / folder / split / city / f'{stem}_{suffix}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(file)


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
