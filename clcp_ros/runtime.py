# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which library runs a bundle's model, and on what.

Accelerators are ONNX Runtime's, and so are models of 8-bit integers. Others run fastest on a CPU
in OpenVINO (docs/performance.md), which is taken where it is installed; both compute in float32
and agree to rounding. What is really used is told, and so is every fallback.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np

from clcp_ros.errors import BundleError

_logger = logging.getLogger(__name__)

Runtime = Literal['auto', 'onnxruntime', 'openvino']
RUNTIMES: tuple[str, ...] = get_args(Runtime)
"""`auto` is ONNX Runtime on accelerators, and the fastest that is installed on CPUs."""

CPU = 'CPUExecutionProvider'
OPENVINO_CPU = 'OpenVINO CPU'

# What the drivers and allocators of accelerators say when memory is short or the device is gone.
_DEVICE_FAILURE = re.compile(
    r'out of memory|failed to allocate|alloc_failed|memoryallocation|bfcarena|std::bad_alloc'
    r'|cuda (?:failure|error)|device (?:lost|removed)|hip (?:failure|error)',
    re.IGNORECASE,
)

Shape = tuple[int | None, ...]


class _Engine(Protocol):
    """A model in some library."""

    provider: str
    inputs: dict[str, Shape]
    outputs: dict[str, Shape]

    def run(self, names: Sequence[str], feed: Mapping[str, np.ndarray]) -> list[np.ndarray]: ...


class Session:
    """A loaded model. Any thread may call it; calls wait for each other.

    Made by `open_session`. The model runs in a thread of its own: both libraries leave the thread
    that calls them in a mode in which tiny numbers are zero, and the caller's arithmetic must not
    depend on whether it ran a model before.

    Attributes:
        runtime: `onnxruntime` or `openvino`.
        wanted: Execution providers that were asked for; empty when none was.
        fallback_reason: Why something else than wanted, or than this machine's accelerator, runs
            the model, in one line; empty while nothing fell back.
    """

    def __init__(
        self, path: Path, wanted: tuple[str, ...], threads: int, runtime: str, engine: _Engine,
        fallback_reason: str, thread: ThreadPoolExecutor,
    ) -> None:  # fmt: skip
        self._path, self._threads, self._wanted_runtime = path, threads, runtime
        self._engine, self._thread = engine, thread
        self.wanted = wanted
        self.fallback_reason = fallback_reason

    @property
    def runtime(self) -> str:
        """Library that is really used."""
        return 'openvino' if self.provider == OPENVINO_CPU else 'onnxruntime'

    @property
    def provider(self) -> str:
        """Execution provider that is really used: ONNX Runtime's name, or `OpenVINO CPU`."""
        return self._engine.provider

    @property
    def inputs(self) -> dict[str, Shape]:
        """Shape of each input; None where any size will do."""
        return self._engine.inputs

    @property
    def outputs(self) -> dict[str, Shape]:
        """Shape of each output; None where the size depends on the input's."""
        return self._engine.outputs

    def run(self, names: Sequence[str], feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Run the model. An accelerator that runs out of memory is left for the CPU, once.

        Args:
            names: Outputs that are wanted.
            feed: Array by input.

        Returns:
            The outputs in the order of `names`; they belong to the caller.

        Raises:
            Exception: Whatever the library raises for an input that does not fit.
        """
        return self._thread.submit(self._run, names, feed).result()

    def _run(self, names: Sequence[str], feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        try:
            return self._engine.run(names, feed)
        except Exception as error:  # the run times have many private types
            if self.provider in (CPU, OPENVINO_CPU) or not _DEVICE_FAILURE.search(str(error)):
                raise
            self._fall_back(f'{self.provider} failed: {_first_line(error)}')
            return self._engine.run(names, feed)

    def _fall_back(self, reason: str) -> None:
        self._engine = _open_on_cpu(self._path, self._threads, self._wanted_runtime)
        self.fallback_reason = reason
        _logger.error('%s; the model now runs on the CPU (%s)', reason, self.provider)


def open_session(
    model_path: Path,
    providers: Sequence[str] | None = None,
    threads: int = 0,
    runtime: str = 'auto',
) -> Session:
    """Load a model.

    Args:
        model_path: An ONNX file with its weights inside.
        providers: ONNX Runtime's execution providers in order of preference; default: what this
            machine offers. `CPUExecutionProvider` stands for the CPU, whatever runs it there.
        threads: Threads inside an operator; 0 leaves it to the library.
        runtime: One of `RUNTIMES`. With `openvino`, the CPU, whatever the providers.

    Returns:
        The session; `provider`, `runtime` and `fallback_reason` say what was chosen.

    Raises:
        BundleError: The model cannot be loaded, the runtime is unknown or not installed.
    """
    if runtime not in RUNTIMES:
        raise BundleError(f'no runtime {runtime!r}; choose one of {", ".join(RUNTIMES)}')
    wanted = tuple(providers or ())
    thread = ThreadPoolExecutor(1, thread_name_prefix='model')
    engine, reason = thread.submit(_open, model_path, wanted, threads, runtime).result()
    if reason:
        _logger.warning('%s; the model runs on %s', reason, engine.provider)
    return Session(model_path, wanted, threads, runtime, engine, reason, thread)


def _open(path: Path, wanted: tuple[str, ...], threads: int, runtime: str) -> tuple[_Engine, str]:
    """A model, and why it is not where it was wanted."""
    if runtime == 'openvino':
        return _OpenVino(path, threads), ''
    chosen, reason = _choose(wanted)
    engine: _Engine | None = None
    if chosen != [CPU]:
        engine, failure = _open_accelerated(path, chosen, threads)
        reason = reason or failure
        if engine is not None and wanted and engine.provider != wanted[0]:
            reason = reason or f'{wanted[0]} could not start on this machine'
    return engine or _open_on_cpu(path, threads, runtime), reason


def openvino_installed() -> bool:
    """Whether OpenVINO can be imported."""
    return importlib.util.find_spec('openvino') is not None


def offered_providers() -> list[str]:
    """Execution providers of the installed ONNX Runtime that run models on this machine."""
    import onnxruntime

    # The Azure provider of the CPU wheel is a remote service and runs no model here.
    return [p for p in onnxruntime.get_available_providers() if not p.startswith('Azure')]


def _choose(wanted: tuple[str, ...]) -> tuple[list[str], str]:
    """Providers to try, the CPU last, and why they are not those that were asked for."""
    offered = offered_providers()
    usable = [p for p in wanted or offered if p in offered]
    reason = ''
    if wanted and wanted[0] not in offered:
        reason = f'{wanted[0]} is not in this ONNX Runtime, which offers {", ".join(offered)}'
    if CPU in usable:
        usable = usable[: usable.index(CPU)]
    return [*usable, CPU], reason


def _open_accelerated(
    path: Path, providers: list[str], threads: int
) -> tuple[_Engine | None, str]:
    """A model on the first provider that starts; None, and why, where none does."""
    try:
        engine = _OnnxRuntime(path, providers, threads)
    except BundleError as error:
        # Out of memory, most likely. Where the model itself is bad, the CPU refuses it, too.
        return None, f'{providers[0]} could not start: {_first_line(error)}'
    if engine.provider == CPU:
        return None, f'{providers[0]} is installed but could not start on this machine'
    return engine, ''


def _open_on_cpu(path: Path, threads: int, runtime: str) -> _Engine:
    if runtime == 'openvino':
        return _OpenVino(path, threads)
    if runtime == 'auto' and openvino_installed():
        try:
            return _OpenVino(path, threads, quantized=False)
        except _QuantizedError:
            pass
        except BundleError as error:
            _logger.warning('%s; ONNX Runtime runs it instead', _first_line(error))
    return _OnnxRuntime(path, [CPU], threads)


class _QuantizedError(Exception):
    """A model of 8-bit integers, which OpenVINO would compute in another way than its author."""


class _OnnxRuntime:
    """A model in ONNX Runtime."""

    def __init__(self, path: Path, providers: list[str], threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Spinning workers would take the core that decodes and publishes.
        options.add_session_config_entry('session.intra_op.allow_spinning', '0')
        # Tiny values in dark frames are an order of magnitude slower as denormals.
        options.add_session_config_entry('session.set_denormal_as_zero', '1')
        try:
            # Its own fallback would change the provider without a word.
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=providers, enable_fallback=0
            )
        except Exception as error:  # the run time raises many private types
            raise BundleError(f'{path}: cannot be loaded: {_first_line(error)}') from error
        self.provider: str = self._session.get_providers()[0]
        self.inputs = {i.name: _shape(i.shape) for i in self._session.get_inputs()}
        self.outputs = {o.name: _shape(o.shape) for o in self._session.get_outputs()}

    def run(self, names: Sequence[str], feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        return list(self._session.run(list(names), dict(feed)))


class _OpenVino:
    """A model in OpenVINO, on the CPU.

    Args:
        path: An ONNX file.
        threads: Inside an operator; 0 leaves it to the library.
        quantized: Take models of 8-bit integers, too. OpenVINO moves their roundings to other
            places: one convolutional network lost 22 points of mIoU that ONNX Runtime keeps.
    """

    provider = OPENVINO_CPU

    def __init__(self, path: Path, threads: int, quantized: bool = True) -> None:
        openvino = _import_openvino()
        settings: dict[str, Any] = {
            # Without it, processors with bfloat16 or float16 units compute in those.
            'INFERENCE_PRECISION_HINT': 'f32',
            'PERFORMANCE_HINT': 'LATENCY',
            'NUM_STREAMS': 1,
            # Pinned threads would fight with those that decode and publish.
            'ENABLE_CPU_PINNING': False,
            'CPU_DENORMALS_OPTIMIZATION': True,
        }
        if threads > 0:
            settings['INFERENCE_NUM_THREADS'] = threads
        try:
            # By name: a damaged file would else be offered to the readers of all other formats.
            reader = openvino.frontend.FrontEndManager().load_by_framework('onnx')
            graph = reader.convert(reader.load(str(path)))
            if not quantized and any(o.get_type_name() == 'FakeQuantize' for o in graph.get_ops()):
                raise _QuantizedError
            self._model = _core().compile_model(graph, 'CPU', settings)
            self._request = self._model.create_infer_request()
        except _QuantizedError:
            raise
        except Exception as error:  # the run time raises many private types
            raise BundleError(
                f'{path}: cannot be loaded by OpenVINO: {_first_line(error)}'
            ) from error
        # A tensor that a conversion was folded into goes by two names.
        self.inputs = {n: _partial(i.partial_shape) for i in self._model.inputs for n in i.names}
        self.outputs = {n: _partial(o.partial_shape) for o in self._model.outputs for n in o.names}

    def run(self, names: Sequence[str], feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        arrays = {name: np.ascontiguousarray(array) for name, array in feed.items()}
        self._request.infer(arrays, share_inputs=True)
        # The request's own memory is overwritten by the next call.
        return [self._request.get_tensor(name).data.copy() for name in names]


@functools.cache
def _core() -> Any:
    return _import_openvino().Core()


def _import_openvino() -> Any:
    converter = 'openvino.tools.ovc'
    missing = 'OpenVINO is not installed; `pip install openvino`, or choose another runtime'
    if not openvino_installed():
        raise BundleError(missing)
    # Importing the package imports its model converter, too, which reports the use to its makers
    # over the network. A robot does not do that; without the converter the rest works.
    blocked = converter not in sys.modules
    if blocked:
        sys.modules[converter] = None  # type: ignore[assignment]  # import's way to say no
    try:
        importlib.import_module('openvino.frontend')
        return importlib.import_module('openvino')
    except (ImportError, OSError) as error:
        raise BundleError(f'OpenVINO does not start: {_first_line(error)}') from error
    finally:
        if blocked:
            del sys.modules[converter]


def _shape(shape: Sequence[Any]) -> Shape:
    return tuple(n if isinstance(n, int) else None for n in shape)


def _partial(shape: Any) -> Shape:
    return tuple(None if n.is_dynamic else int(n.get_length()) for n in shape)


def _first_line(error: Exception) -> str:
    """What an error says, without the places in their sources that OpenVINO's begin with."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith('Exception from ')] or lines
    return telling[0][:300] if telling else type(error).__name__
