# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The stages of benchmarks/node.py by themselves, each against the least that could do."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
from node_parts import HEIGHT, WIDTH, photographs

from clcp_ros.decision import decide
from clcp_ros.frame import Frame
from clcp_ros.image_codec import encode_jpeg
from clcp_ros.monitor.statistics import frame_statistics
from clcp_ros.pipeline import FramePipeline
from clcp_ros.preprocess import normalize, resize

_ROUNDS = 25


def limits(bundle: Path) -> list[tuple[str, float, float, str]]:
    """Stage, its milliseconds of a core, those of the limit, and what the limit is."""
    cv2.setNumThreads(1)
    pipeline = FramePipeline(bundle, threads=1)
    spec = pipeline.bundle.frame
    size = spec.width, spec.height
    image = photographs(1)[0]
    data = np.frombuffer(encode_jpeg(image, 90), np.uint8)
    jpeg = SimpleNamespace(format='jpeg', data=data)
    raw = SimpleNamespace(height=HEIGHT, width=WIDTH, encoding='rgb8', step=3 * WIDTH,
                          is_bigendian=0, data=image.reshape(-1))  # fmt: skip
    prepared = pipeline.prepare('', jpeg, 1)
    prediction = pipeline.segmenter.run(prepared.batch)[0]
    best = prediction.logits.argmax(axis=0).astype(np.uint8)
    small, planes = prepared.image, prepared.batch[0]
    half = Frame(raw).at_least(spec.height, spec.width)
    colors = Frame(jpeg).at_least(spec.height, spec.width)
    stamps = iter(range(1, 10**9))
    pipeline.monitor.update(0, prepared.frame, prediction.features, prepared.image)

    def upsample() -> None:
        cv2.resize(best, size, interpolation=cv2.INTER_NEAREST)
        for plane in prediction.logits:
            cv2.resize(plane, size)

    stages: list[tuple[str, Callable[[], Any], Callable[[], Any], str]] = [
        ('decode JPEG', lambda: Frame(jpeg).at_least(spec.height, spec.width),
         lambda: cv2.imdecode(data, cv2.IMREAD_REDUCED_GRAYSCALE_8),
         'reading the bits: gray, an eighth of the size'),
        ('take over raw', lambda: Frame(raw).at_least(spec.height, spec.width),
         lambda: image.max(), 'reading every byte once'),
        ('resize', lambda: resize(half, spec.height, spec.width),
         lambda: cv2.resize(half, size, interpolation=cv2.INTER_NEAREST), 'nearest pixels'),
        ('normalise', lambda: normalize(small, spec), planes.copy, "writing the network's input"),
        ('decide', lambda: decide(prediction.logits, spec.height, spec.width), upsample,
         'upsampling all logits with OpenCV, deciding nothing'),
        ('look for faults',
         lambda: pipeline.monitor.update(next(stamps), prepared.frame, prediction.features, small),
         small.copy, 'copying the small image'),
        ('statistics, JPEG', lambda: frame_statistics(_with_colors(jpeg, colors)),
         lambda: cv2.imdecode(data, cv2.IMREAD_GRAYSCALE), 'decoding luminance'),
        ('statistics, raw', lambda: frame_statistics(Frame(raw)),
         lambda: image.max(), 'reading every byte once'),
    ]  # fmt: skip
    return [(name, *_milliseconds(stage, limit), what) for name, stage, limit, what in stages]


def _with_colors(message: Any, colors: np.ndarray) -> Frame:
    """A frame as the monitor gets it: its colours are decoded already."""
    frame = Frame(message)
    frame._reduced = colors
    return frame


def _milliseconds(stage: Callable[[], Any], limit: Callable[[], Any]) -> tuple[float, float]:
    """Medians of processor time, in turns."""
    spent: tuple[list[float], list[float]] = [], []
    for function in (stage, limit):
        function()
    for _ in range(_ROUNDS):
        for function, times in zip((stage, limit), spent, strict=True):
            start = time.thread_time()
            function()
            times.append(time.thread_time() - start)
    return 1e3 * float(np.median(spent[0])), 1e3 * float(np.median(spent[1]))
