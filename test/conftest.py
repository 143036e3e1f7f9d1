# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures that several test files share."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

# Two test workers on two cores: OpenMP's spinning threads would slow each other down.
os.environ.setdefault('OMP_NUM_THREADS', '1')

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import settings

from clcp_ros.bundle import InputSpec, sha256_of, write_description
from clcp_ros.classes import ClassSet
from clcp_ros.inference import preprocess
from clcp_ros.monitor import image_statistics
from clcp_ros.monitor.knowledge import Facts, Knowledge
from clcp_ros.monitor.reference import class_shares
from training.monitoring.novelty import fit_novelty
from training.monitoring.samples import Samples

ROOT = Path(__file__).resolve().parents[1]

# Tests that a script starts in its background ignore Ctrl-C, which their children would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A gate must judge the change and not the dice; every other run draws new examples.
settings.register_profile('gate', derandomize=True)
if os.environ.get('CI'):
    settings.load_profile('gate')


@pytest.fixture(scope='session')
def root() -> Path:
    """The repository root."""
    return ROOT


@pytest.fixture(scope='session')
def sample_data() -> Path:
    """The folder of real sample frames; the test is skipped where it is not there."""
    folder = Path(os.environ.get('CLCP_SAMPLE_DATA', ROOT.parent / 'shared' / 'data'))
    if not folder.is_dir():
        pytest.skip(f'no real sample frames at {folder}; set CLCP_SAMPLE_DATA to their folder')
    return folder


@pytest.fixture(scope='session')
def daylight_image() -> Callable[..., np.ndarray]:
    """The function that makes images of the tiny bundle's domain: `(seed, height, width)`."""
    return daylight


@pytest.fixture(scope='session')
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real bundle with a model of a few weights: dark, middle and bright are its classes."""
    return make_tiny_bundle(tmp_path_factory.mktemp('bundle') / 'tiny')


def daylight(seed: int, height: int = 96, width: int = 160) -> np.ndarray:
    """A structured, medium-bright image, different for each seed."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(60, 200, (6, 10, 3), dtype=np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    noise = rng.normal(0, 6, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def make_tiny_bundle(folder: Path, height: int = 48, width: int = 80) -> Path:
    """Write a bundle whose monitor was fitted on `daylight` images."""
    classes = ClassSet(
        'tiny', ('dark', 'middle', 'bright'), ((0, 0, 90), (90, 90, 0), (250, 250, 0))
    )
    folder.mkdir(parents=True)
    weight = np.array([-4, 0, 4], np.float32).reshape(3, 1, 1, 1).repeat(3, axis=1) / 3
    bias = np.array([-1, 0.2, -1], np.float32)
    node = onnx.helper.make_node
    graph = onnx.helper.make_graph(
        [
            node('AveragePool', ['image'], ['cells'], kernel_shape=[8, 8], strides=[8, 8]),
            node('Conv', ['cells', 'weight', 'bias'], ['logits']),
            node('ReduceMean', ['cells', 'axes'], ['deep'], keepdims=0),
            node('ReduceL2', ['cells', 'axes'], ['norm'], keepdims=0),
            node('Concat', ['deep', 'norm'], ['early'], axis=1),
        ],
        'tiny',
        [onnx.helper.make_tensor_value_info('image', 1, ['N', 3, height, width])],
        [
            onnx.helper.make_tensor_value_info('logits', 1, ['N', 3, height // 8, width // 8]),
            onnx.helper.make_tensor_value_info('early', 1, ['N', 6]),
            onnx.helper.make_tensor_value_info('deep', 1, ['N', 3]),
        ],
        [
            onnx.numpy_helper.from_array(weight, 'weight'),
            onnx.numpy_helper.from_array(bias, 'bias'),
            onnx.numpy_helper.from_array(np.array([2, 3], np.int64), 'axes'),
        ],
    )
    opset = [onnx.helper.make_opsetid('', 18)]
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), folder / 'model.onnx'
    )
    spec = InputSpec(height, width, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    session = onnxruntime.InferenceSession(folder / 'model.onnx')

    def describe(drive: str, seeds: range) -> Samples:
        images = [daylight(seed) for seed in seeds]
        batch = np.stack([preprocess(image, spec) for image in images])
        logits, early, deep = session.run(['logits', 'early', 'deep'], {'image': batch})
        return Samples(
            drive=np.full(len(images), drive),
            stamp_ns=np.arange(len(images)) * 500_000_000,
            tag=np.full(len(images), 'clear'),
            low=np.stack([image_statistics(i) for i in images]),
            early=early,
            deep=deep,
            scene=np.stack([class_shares(row) for row in logits]),
        )

    sha = sha256_of(folder / 'model.onnx')
    fitted = fit_novelty(describe('a', range(60)), describe('b', range(100, 140)))
    Knowledge(fitted.reference, facts=Facts(sha)).save(folder / 'reference.npz')
    write_description(
        folder, name='tiny', classes=classes, input_spec=spec, provenance={'commit': 'test'}
    )
    return folder
