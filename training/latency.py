# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How long a frame takes with each runtime and execution provider of this machine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from clcp_ros.bundle import Bundle, load_bundle
from clcp_ros.errors import BundleError
from clcp_ros.inference import Segmenter
from clcp_ros.runtime import CPU, offered_providers, openvino_installed

_WARM_UP = 3


class Latency(NamedTuple):
    """Time of a frame, from pixels to logits.

    Attributes:
        runtime: Library that was asked for.
        provider: Execution provider that was asked for.
        load_s: Seconds until the model is loaded.
        wall_ms: 5th, 50th and 95th percentile in milliseconds; None where it does not run.
        cpu_ms: Median processor time of all threads.
        default: This is what the node takes.
        note: Why it does not run.
    """

    runtime: str
    provider: str
    load_s: float
    wall_ms: tuple[float, float, float] | None
    cpu_ms: float
    default: bool
    note: str = ''

    def __str__(self) -> str:
        name = f'{self.runtime}, {self.provider}'
        if self.wall_ms is None:
            return f'{name}: cannot run this model ({self.note})'
        low, middle, high = self.wall_ms
        default = '; the default of the node' if self.default else ''
        return (
            f'{name}: {middle:.1f} ms a frame (5-95 %: {low:.1f}-{high:.1f}), processor '
            f'{self.cpu_ms:.1f} ms, loads in {self.load_s:.1f} s{default}'
        )


def measure_latencies(path: Path, frames: int = 20, threads: int = 0) -> list[Latency]:
    """Time frames of a bundle's size, all candidates taking turns.

    Args:
        path: The bundle's folder.
        frames: Timed, after a few that are not.
        threads: Inside an operator; 0 leaves it to the library.

    Returns:
        One for each execution provider of ONNX Runtime, and for OpenVINO where it is installed.
    """
    bundle = load_bundle(path)
    default = Segmenter(bundle, threads=threads)
    chosen = default.runtime, default.provider
    del default
    wanted = [('onnxruntime', p) for p in offered_providers()]
    if openvino_installed():
        wanted.append(('openvino', CPU))
    running: dict[int, Segmenter] = {}
    found: list[Latency] = []
    for i, (runtime, provider) in enumerate(wanted):
        begin = time.perf_counter()
        note = ''
        try:
            running[i] = Segmenter(bundle, [provider], threads, runtime)
            note = running[i].fallback_reason
            name = running[i].provider
        except BundleError as error:
            note, name = str(error), provider
        if note:
            running.pop(i, None)
        found.append(
            Latency(
                runtime, name if not note else provider, time.perf_counter() - begin, None, 0.0,
                (runtime, name) == chosen, note,
            )
        )  # fmt: skip
    wall, cpu = _time(bundle, running, frames)
    for i in running:
        low, middle, high = np.percentile(wall[i], [5, 50, 95]).tolist()
        found[i] = found[i]._replace(
            wall_ms=(low, middle, high), cpu_ms=float(np.median(cpu[i]))
        )  # fmt: skip
    return found


def _time(
    bundle: Bundle, running: dict[int, Segmenter], frames: int
) -> tuple[dict[int, list[float]], dict[int, list[float]]]:
    shape = bundle.frame.height, bundle.frame.width, 3
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    wall: dict[int, list[float]] = {i: [] for i in running}
    cpu: dict[int, list[float]] = {i: [] for i in running}
    for n in range(_WARM_UP + frames):
        for i, segmenter in running.items():
            begin, spent = time.perf_counter(), time.process_time()
            segmenter.predict(image)
            if n >= _WARM_UP:
                wall[i].append(1e3 * (time.perf_counter() - begin))
                cpu[i].append(1e3 * (time.process_time() - spent))
    return wall, cpu


def print_latencies(path: Path) -> None:
    """Print how long a frame takes with each runtime and execution provider.

    Args:
        path: A bundle's folder.
    """
    for latency in measure_latencies(path):
        print(latency)
