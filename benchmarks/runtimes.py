# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which library runs an exported model fastest on this CPU.

A Segmenter with ViT-S/16 (random weights; 19 classes) at 224 and 512, exported as bundles are, in
torch, torch.compile, ONNX Runtime and OpenVINO. One run, all taking turns on the same input, by
processor time, wall time beside it. Every runtime loads in a process of its own, for its memory.
"""

from __future__ import annotations

if __package__ in (None, ''):
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import training  # noqa: F401  # first: it sets how torch's threads wait

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clcp_ros.classes import CITYSCAPES
from clcp_ros.runtime import CPU, Session, open_session, openvino_installed
from training.cli import run_command
from training.finetune import HeadConfig, build_model
from training.models.segmenter import LoadedModel, load_model, save_model
from training.onnx_export import export_onnx
from training.sparse.matmul import fast_products

NAMES = ['logits', 'early', 'deep']
Outputs = list[np.ndarray]

_LOAD = """
import json, sys, time
from pathlib import Path
import numpy as np
begin = time.perf_counter(), time.process_time()
from clcp_ros.runtime import open_session
session = open_session(Path(sys.argv[1]), None, int(sys.argv[3]), sys.argv[2])
size = int(sys.argv[4])
session.run(['logits'], {'image': np.zeros((1, 3, size, size), np.float32)})
wall, cpu = time.perf_counter() - begin[0], time.process_time() - begin[1]
status = Path('/proc/self/status').read_text()  # ru_maxrss would count the parent's, too
memory = int(status.split('VmHWM:')[1].split()[0]) / 1024
print(json.dumps([wall, cpu, memory]))
"""


def make(folder: Path, size: int) -> tuple[LoadedModel, Path]:
    """A ViT-S/16 Segmenter with random weights, and its ONNX file."""
    torch.manual_seed(0)
    model = build_model(len(CITYSCAPES), 'vit_small_patch16_224', head=HeadConfig(layers=2))
    save_model(folder / f'{size}.safetensors', model, CITYSCAPES, (size, size), {})
    loaded = load_model(folder / f'{size}.safetensors')
    export_onnx(loaded, folder / f'{size}.onnx')
    return loaded, folder / f'{size}.onnx'


def candidates(
    loaded: LoadedModel, path: Path, threads: int, compiled: bool
) -> dict[str, Callable[[np.ndarray], Outputs]]:
    """All that can run the model, by name."""

    def in_torch(model: Callable[[torch.Tensor], Any], image: np.ndarray) -> Outputs:
        with torch.inference_mode():
            return [output.numpy() for output in model(torch.from_numpy(image))]

    def in_onednn(image: np.ndarray) -> Outputs:
        with fast_products():
            return in_torch(loaded.model, image)

    def in_session(session: Session, image: np.ndarray) -> Outputs:
        return session.run(NAMES, {'image': image})

    found: dict[str, Callable[[np.ndarray], Outputs]] = {
        'torch': partial(in_torch, loaded.model),
        'torch, products in oneDNN': in_onednn,
    }
    if compiled:
        found['torch.compile'] = partial(in_torch, torch.compile(loaded.model))
    for name in ('onnxruntime', 'openvino'):
        if name == 'openvino' and not openvino_installed():
            print('OpenVINO is not installed: left out')
            continue
        found[name] = partial(in_session, open_session(path, [CPU], threads, name))
    return found


def table(size: int, threads: int, rounds: int, compiled: bool, folder: Path) -> None:
    """Print the times at one size."""
    loaded, path = make(folder, size)
    image = np.random.default_rng(0).normal(size=(1, 3, size, size)).astype(np.float32)
    runs = candidates(loaded, path, threads, compiled)
    expected = runs['torch'](image)
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    wall: dict[str, list[float]] = {name: [] for name in runs}
    differences: dict[str, float] = {}
    for n in range(rounds + 2):
        for name, run in runs.items():
            begin, spent = time.perf_counter(), time.process_time()
            outputs = run(image)
            if n >= 2:
                cpu[name].append(1e3 * (time.process_time() - spent))
                wall[name].append(1e3 * (time.perf_counter() - begin))
            differences[name] = max(
                float(np.abs(a - b).max()) for a, b in zip(outputs, expected, strict=True)
            )
    fastest = min(float(np.median(times)) for times in cpu.values())
    print(
        f'\n{size} x {size}, batch 1, {threads} thread{"s" * (threads > 1)}, median of {rounds}\n'
    )
    print('| | processor, ms | of the fastest | wall, ms | from torch '
          '| start, s | processor, s | memory, MB |')  # fmt: skip
    print('|---|---:|---:|---:|---:|---:|---:|---:|')
    for name, times in cpu.items():
        median = float(np.median(times))
        start = ' | | '
        if name in ('onnxruntime', 'openvino'):
            seconds, spent, memory = _start(path, name, threads, size)
            start = f'{seconds:.1f} | {spent:.1f} | {memory:.0f}'
        print(
            f'| {name} | {median:.0f} | {median / fastest:.2f} | {np.median(wall[name]):.0f} | '
            f'{differences[name]:.0e} | {start} |'
        )


def _start(path: Path, runtime: str, threads: int, size: int) -> tuple[float, float, float]:
    """Seconds, processor seconds and peak memory of a process until its first result."""
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, '-c', _LOAD, str(path), runtime, str(threads), str(size)],
        capture_output=True, text=True, check=True, cwd=root,
    )  # fmt: skip
    wall, cpu, memory = json.loads(done.stdout.splitlines()[-1])
    return wall, cpu, memory


def benchmark(
    sizes: tuple[int, ...] = (224, 512), threads: int = 1, rounds: int = 15, compiled: bool = True
) -> None:
    """Compare the runtimes.

    Args:
        sizes: Height and width of the input.
        threads: Inside an operator.
        rounds: Calls that the median is taken of.
        compiled: Also torch.compile, which needs a C++ compiler and takes minutes.
    """
    torch.set_num_threads(threads)
    if compiled and shutil.which('g++') is None:
        print('no g++: torch.compile is left out')
        compiled = False
    with tempfile.TemporaryDirectory(prefix='clcp-bench-') as name:
        for size in sizes:
            table(size, threads, rounds, compiled, Path(name))


if __name__ == '__main__':
    run_command(benchmark)
