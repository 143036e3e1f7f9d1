# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gc
import logging
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from clcp_ros import runtime
from clcp_ros.bundle import InputSpec
from clcp_ros.errors import BundleError
from clcp_ros.runtime import CPU, OPENVINO_CPU, offered_providers, open_session, openvino_installed
from training.onnx_reduce import to_half, to_int8

needs_openvino = pytest.mark.skipif(
    not openvino_installed(), reason='OpenVINO is not installed: pip install openvino'
)
BOTH = ['onnxruntime', pytest.param('openvino', marks=needs_openvino)]
NAMES = ['logits', 'early', 'deep']


@pytest.fixture
def model(tiny_bundle: Path) -> Path:
    return tiny_bundle / 'model.onnx'


def batch(frames: int, seed: int = 0) -> dict[str, np.ndarray]:
    values = np.random.default_rng(seed).normal(size=(frames, 3, 48, 80))
    return {'image': values.astype(np.float32)}


@pytest.mark.parametrize('name', BOTH)
def test_batches_of_any_size(name: str, model: Path) -> None:
    session = open_session(model, threads=1, runtime=name)
    assert session.runtime == name
    assert session.inputs == {'image': (None, 3, 48, 80)}
    assert session.outputs['logits'] == (None, 3, 6, 10)
    assert session.fallback_reason == ''
    feed = batch(5)
    all_at_once = session.run(NAMES, feed)
    for i in (4, 0, 2):
        one = session.run(NAMES, {'image': feed['image'][i : i + 1]})
        for found, expected in zip(one, all_at_once, strict=True):
            np.testing.assert_allclose(found[0], expected[i], atol=1e-5)


@pytest.mark.parametrize('name', BOTH)
def test_results_belong_to_the_caller_and_inputs_stay(name: str, model: Path) -> None:
    session = open_session(model, threads=1, runtime=name)
    feed = batch(2)
    before = feed['image'].copy()
    (first,) = session.run(['logits'], feed)
    kept = first.copy()
    session.run(['logits'], batch(2, seed=1))
    np.testing.assert_array_equal(first, kept)
    first[:] = 0
    np.testing.assert_array_equal(feed['image'], before)
    # Windows of a frame are no contiguous array.
    wide = np.random.default_rng(0).normal(size=(2, 3, 48, 160)).astype(np.float32)
    (found,) = session.run(['logits'], {'image': wide[..., 40:120]})
    (expected,) = session.run(['logits'], {'image': wide[..., 40:120].copy()})
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize('name', BOTH)
def test_threads_take_turns(name: str, model: Path) -> None:
    session = open_session(model, threads=1, runtime=name)
    feeds = [batch(1, seed) for seed in range(4)]
    expected = [session.run(['logits'], feed)[0] for feed in feeds]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(50):
            if not np.allclose(session.run(['logits'], feeds[i])[0], expected[i], atol=1e-6):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize('name', BOTH)
def test_the_callers_arithmetic_stays_as_it_was(name: str, model: Path) -> None:
    open_session(model, threads=1, runtime=name).run(['logits'], batch(1))
    tiny = np.array([np.finfo(np.float32).tiny], np.float32)
    assert (tiny / 2)[0] > 0


def test_a_session_takes_its_thread_along(model: Path) -> None:
    others = set(threading.enumerate())
    session = open_session(model, threads=1)
    session.run(['logits'], batch(1))
    (own,) = (t for t in set(threading.enumerate()) - others if t.name.startswith('model'))
    del session
    gc.collect()
    own.join(5)
    assert not own.is_alive()


@needs_openvino
def test_two_names_of_a_tensor(model: Path, tmp_path: Path) -> None:
    half = tmp_path / 'half.onnx'
    to_half(model, half)
    found, expected = (open_session(half, runtime=r) for r in ('openvino', 'onnxruntime'))
    assert found.inputs['image'] == (None, 3, 48, 80)
    for one, other in zip(*(s.run(NAMES, batch(2)) for s in (found, expected)), strict=True):
        np.testing.assert_allclose(one, other, atol=0.02)


@needs_openvino
def test_integers_stay_with_onnxruntime(model: Path, tmp_path: Path) -> None:
    images = [np.full((48, 80, 3), v, np.uint8) for v in (0, 100, 255)]
    spec = InputSpec(48, 80, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    to_int8(model, tmp_path / 'int8.onnx', images, spec)
    session = open_session(tmp_path / 'int8.onnx')
    assert session.runtime == 'onnxruntime'
    assert session.fallback_reason == ''
    assert open_session(tmp_path / 'int8.onnx', runtime='openvino').runtime == 'openvino'


@pytest.mark.parametrize('name', BOTH)
def test_a_bad_input_is_an_error_and_no_fallback(name: str, model: Path) -> None:
    session = open_session(model, threads=1, runtime=name)
    with pytest.raises(Exception, match=r'20|shape'):
        session.run(['logits'], {'image': np.zeros((1, 3, 20, 80), np.float32)})
    assert session.fallback_reason == ''
    assert session.run(['logits'], batch(1))[0].shape == (1, 3, 6, 10)


@pytest.mark.parametrize('name', ['auto', *BOTH])
def test_a_file_that_is_no_model_is_one_clear_error(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'model.onnx').write_bytes(b'junk' * 100)
    with pytest.raises(BundleError, match=r'model\.onnx: cannot be loaded'):
        open_session(tmp_path / 'model.onnx', runtime=name)
    assert 'tensorflow' not in capfd.readouterr().err


def test_the_fastest_on_a_cpu_is_the_default(model: Path) -> None:
    if offered_providers() != [CPU]:
        pytest.skip('this ONNX Runtime has accelerators')
    expected = 'openvino' if openvino_installed() else 'onnxruntime'
    for providers in (None, [], [CPU]):
        session = open_session(model, providers, 1)
        assert session.runtime == expected
        assert session.fallback_reason == ''
    assert open_session(model, [CPU], 1, 'onnxruntime').provider == CPU


def test_without_openvino_onnxruntime_runs_it(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, 'openvino_installed', lambda: False)
    assert open_session(model, [CPU], 1).provider == CPU
    with pytest.raises(BundleError, match='pip install openvino'):
        open_session(model, runtime='openvino')


def test_an_unknown_runtime_is_named(model: Path) -> None:
    with pytest.raises(BundleError, match="no runtime 'tensorrt'; choose one of auto"):
        open_session(model, runtime='tensorrt')


def test_an_accelerator_that_is_not_there_is_told(
    model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if 'CUDAExecutionProvider' in offered_providers():
        pytest.skip('this ONNX Runtime has CUDA')
    session = open_session(model, ['CUDAExecutionProvider', CPU], 1)
    assert session.wanted == ('CUDAExecutionProvider', CPU)
    assert session.provider in (CPU, OPENVINO_CPU)
    assert 'CUDAExecutionProvider is not in this ONNX Runtime' in session.fallback_reason
    assert session.fallback_reason in caplog.text


class ShortOfMemory:
    """Stands for an accelerator, which a test machine does not have."""

    provider = 'CUDAExecutionProvider'

    def __init__(self, message: str) -> None:
        self.inputs: dict[str, runtime.Shape] = {'image': (None, 3, 48, 80)}
        self.outputs: dict[str, runtime.Shape] = {}
        self.message = message
        self.calls = 0

    def run(self, names: Sequence[str], feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        self.calls += 1
        raise RuntimeError(self.message)


@pytest.mark.parametrize(
    'message',
    [
        'BFCArena::AllocateRawInternal(size_t) Failed to allocate memory for requested buffer',
        'CUDA failure 2: out of memory ; GPU=0 ; hostname=robot',
        'CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED',
    ],
)
def test_an_accelerator_out_of_memory_is_left_for_the_cpu(
    message: str, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = ('CUDAExecutionProvider',)
    engine = ShortOfMemory(f'[ONNXRuntimeError] : 1 : FAIL : {message}\nmore')
    session = runtime.Session(model, wanted, 1, 'auto', engine, '', ThreadPoolExecutor(1))
    expected = open_session(model, [CPU], 1).run(NAMES, batch(2))
    for _ in range(2):
        for found, array in zip(session.run(NAMES, batch(2)), expected, strict=True):
            np.testing.assert_array_equal(found, array)
    assert engine.calls == 1
    assert session.provider in (CPU, OPENVINO_CPU)
    assert session.wanted == wanted
    assert message in session.fallback_reason
    assert '\n' not in session.fallback_reason
    assert [r.levelno for r in caplog.records] == [logging.ERROR]


def test_other_failures_of_an_accelerator_are_not_hidden(model: Path) -> None:
    engine = ShortOfMemory('INVALID_ARGUMENT : Got invalid dimensions for input: image')
    session = runtime.Session(model, (), 1, 'auto', engine, '', ThreadPoolExecutor(1))
    with pytest.raises(RuntimeError, match='INVALID_ARGUMENT'):
        session.run(NAMES, batch(1))
    assert session.provider == 'CUDAExecutionProvider'
    assert session.fallback_reason == ''


@needs_openvino
def test_openvino_is_used_without_its_telemetry(model: Path) -> None:
    code = (
        'import sys; from pathlib import Path; from clcp_ros.runtime import open_session\n'
        f'open_session(Path({str(model)!r}), runtime="openvino")\n'
        'print([m for m in sys.modules if "telemetry" in m or m.startswith("openvino.tools")])'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == '[]'


def test_nothing_is_imported_before_it_is_needed() -> None:
    code = 'import sys, clcp_ros.runtime; print({"openvino", "onnxruntime"} & set(sys.modules))'
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == 'set()'
