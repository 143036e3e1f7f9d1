# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gc
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from clcp_ros.classes import CITYSCAPES
from clcp_ros.errors import ModelError
from training.finetune import HeadConfig, build_model
from training.models.segmenter import load_model, save_model
from training.segmentation.inference import Decision, InferenceConfig
from training.segmentation.predictors import BundlePredictor, Predictor, TorchPredictor
from training.segmentation.stream import Source, stream

SIZES = [(50, 90), (48, 80), (70, 60), (48, 81), (30, 40), (100, 90)]
SLIDE = InferenceConfig('slide', window=(32, 32), stride=(20, 24), batch_size=5)


@pytest.fixture(scope='module')
def predictor(tmp_path_factory: pytest.TempPathFactory) -> TorchPredictor:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('stream') / 'm.safetensors'
    save_model(
        path, build_model(19, 'test_vit', head=HeadConfig(layers=1)), CITYSCAPES, (32, 32), {}
    )
    return TorchPredictor(load_model(path), 'cpu')


class Recording:
    """Passes everything on, and keeps the sizes of the batches."""

    def __init__(self, inner: Predictor) -> None:
        self.inner = inner
        self.classes, self.input, self.provenance = (
            inner.classes, inner.input, inner.provenance,
        )  # fmt: skip
        self.predict, self.plan, self.segment = inner.predict, inner.plan, inner.segment
        self.batches: list[int] = []

    def logits(self, windows: Tensor) -> Tensor:
        self.batches.append(len(windows))
        return self.inner.logits(windows)


def read(item: int) -> Source[str]:
    height, width = SIZES[item % len(SIZES)]
    rng = np.random.default_rng(item)
    image = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    return Source(image, (height + 3, width - 2), f'label {item}')


def keep(item: int, content: str, decision: Decision) -> tuple[str, Decision]:
    assert content == f'label {item}'
    return content, decision


@pytest.mark.parametrize('how', [SLIDE, InferenceConfig(batch_size=4)], ids=['slide', 'whole'])
def test_many_frames_give_what_each_gives_alone(
    how: InferenceConfig, predictor: TorchPredictor
) -> None:
    found = list(stream(predictor, range(13), read, how, keep))
    assert [item for item, _ in found] == list(range(13))
    for item, (_, decision) in found:
        source = read(item)
        expected = predictor.segment(source.image, source.size, how)
        assert decision.mask.shape == source.size
        # Another batch size is another order of summation.
        assert (decision.mask != expected.mask).mean() < 1e-3
        assert np.abs(decision.confidence.astype(int) - expected.confidence).max() <= 1


def test_results_do_not_depend_on_threads(predictor: TorchPredictor) -> None:
    runs = [list(stream(predictor, range(9), read, SLIDE, keep, threads)) for threads in (1, 4)]
    for (_, (_, one)), (_, (_, other)) in zip(*runs, strict=True):
        np.testing.assert_array_equal(one.mask, other.mask)
        np.testing.assert_array_equal(one.confidence, other.confidence)


@pytest.mark.parametrize('how', [SLIDE, InferenceConfig(batch_size=4)], ids=['slide', 'whole'])
def test_batches_are_full(how: InferenceConfig, predictor: TorchPredictor) -> None:
    recording = Recording(predictor)
    list(stream(recording, range(7), read, how, keep))
    total = sum(len(predictor.plan(*read(i)[:2], how).windows) for i in range(7))
    size = how.batch_size
    assert recording.batches == [size] * (total // size) + [total % size] * (total % size > 0)


def test_reading_the_network_and_scoring_overlap(predictor: TorchPredictor) -> None:
    busy: set[str] = set()
    together: set[frozenset[str]] = set()
    lock = threading.Lock()

    def during(name: str, seconds: float) -> None:
        with lock:
            busy.add(name)
            together.add(frozenset(busy))
        time.sleep(seconds)
        with lock:
            busy.discard(name)

    class Slow(Recording):
        def logits(self, windows: Tensor) -> Tensor:
            during('network', 0.01)
            return super().logits(windows)

    def slow_read(item: int) -> Source[str]:
        during('read', 0.01)
        return read(item)

    def slow_score(item: int, content: str, decision: Decision) -> None:
        during('score', 0.01)

    list(stream(Slow(predictor), range(20), slow_read, InferenceConfig(batch_size=1), slow_score))
    assert any({'read', 'network'} <= names for names in together)
    assert any({'network', 'score'} <= names for names in together)


def test_frames_are_read_few_ahead_of_their_use(predictor: TorchPredictor) -> None:
    begun: list[int] = []

    def noted(item: int) -> Source[str]:
        begun.append(item)
        return read(item)

    results = stream(predictor, range(500), noted, InferenceConfig(batch_size=1), keep, threads=2)
    for _ in range(3):
        next(results)
    assert len(begun) < 20
    results.close()
    gc.collect()
    assert not [t for t in threading.enumerate() if t.name.startswith('finish')]


def test_no_frames_give_nothing(predictor: TorchPredictor) -> None:
    assert list(stream(predictor, [], read, SLIDE, keep)) == []


@pytest.mark.parametrize('where', ['read', 'score'])
def test_an_error_comes_at_its_frame(where: str, predictor: TorchPredictor) -> None:
    def failing(name: str, item: int) -> None:
        if name == where and item == 4:
            raise ValueError('four')

    def bad_read(item: int) -> Source[str]:
        failing('read', item)
        return read(item)

    def bad_score(item: int, content: str, decision: Decision) -> Any:
        failing('score', item)

    results = stream(predictor, range(50), bad_read, InferenceConfig(batch_size=1), bad_score)
    seen: list[int] = []
    with pytest.raises(ValueError, match='four'):
        seen.extend(item for item, _ in results)
    assert seen == list(range(len(seen)))
    assert len(seen) <= 4


def test_a_bundle_takes_windows_of_its_size_only(toy_bundle: Path) -> None:
    bundle = BundlePredictor(toy_bundle, threads=1)
    with pytest.raises(ModelError, match='windows of 64 x 96 only'):
        list(stream(bundle, range(2), read, SLIDE, keep))
    how = InferenceConfig('slide', stride=(32, 48), batch_size=3)
    found = list(stream(bundle, range(3), read, how, keep))
    assert [d.mask.shape for _, (_, d) in found] == [read(i).size for i in range(3)]
