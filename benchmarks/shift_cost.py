# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the monitor costs beside the network: processor time of one thread."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.shift_evidence import Describer, segmenter_of
from benchmarks.shift_plan import Size
from benchmarks.shift_rows import Row
from benchmarks.shift_streams import Piece, read_frames
from clcp_ros.frame import Frame
from clcp_ros.monitor import MonitorConfig, ShiftMonitor
from clcp_ros.monitor.knowledge import Knowledge

_FRAMES, _ROUNDS = 12, 3
_WARM = 200  # frames; a cover is looked for from the 15th second on
_SELDOM_S = 1.9  # nearly all frames of a monitor that scores that seldom are between samples
_MONITOR_HZ, _NETWORK_HZ = 2.0, 10.0
_HD = (1920, 1080)
_VIT_MS = 352.0  # of a frame of 512 x 512, docs/performance.md


def cost_rows(
    size: Size, root: Path, bundle: Path, knowledge: Knowledge, classes: Sequence[str]
) -> list[Row]:
    """Time the parts by turns on frames of a test drive.

    Args:
        size: The size.
        root: Its folder, with `streams`.
        bundle: Of the network.
        knowledge: Of the monitor.
        classes: Names of the network's classes.
    """
    drive = size.drives_of('test')[0]
    path = Piece(drive, 0).stream(root)
    images = [f.image for f, _ in zip(read_frames(path), range(_FRAMES), strict=False)]
    describer = Describer(segmenter_of(bundle))
    monitor = ShiftMonitor(knowledge, MonitorConfig(), classes=classes)
    watch = ShiftMonitor(knowledge, MonitorConfig(period_s=_SELDOM_S), classes=classes)
    times: dict[str, list[float]] = {}
    seen = [(Frame(image), *describer.predict(image)) for image in images]
    between, step_ns = round(_NETWORK_HZ / _MONITOR_HZ), round(1e9 / _NETWORK_HZ)
    frames = itertools.count(1)

    def look(number: int, name: str = 'between samples') -> None:
        for i in itertools.islice(frames, number):
            begin = time.process_time()
            state = watch.update(i * step_ns, *seen[i % len(seen)])
            if not state.monitored:
                times.setdefault(name, []).append(time.process_time() - begin)

    look(_WARM, 'warm')
    del times['warm']
    stamp_ns = 1
    for _ in range(_ROUNDS):
        for image in images:
            large = cv2.resize(image, _HD, interpolation=cv2.INTER_LINEAR)
            stamp_ns += 500_000_000
            prediction, _ = _timed(times, 'network', describer.predict, image)
            evidence = _timed(times, 'observe', monitor.observe, Frame(image), prediction)
            _timed(times, 'observe, 1920 x 1080', monitor.observe, Frame(large), prediction)
            _timed(times, 'judge', monitor.judge, stamp_ns, evidence, None)
            look(between)
    # Every third of the frames between samples is looked at more closely: a mean, not a median.
    own_ms = {name: 1e3 * float(np.median(values)) for name, values in times.items()}
    own_ms['between samples'] = 1e3 * float(np.mean(times['between samples']))
    rows = [
        Row('cost, one thread', name, 'ms', value, len(times[name]))
        for name, value in own_ms.items()
    ]
    own = _MONITOR_HZ * (own_ms['observe'] + own_ms['judge'])
    own += _NETWORK_HZ * own_ms['between samples']
    for network, what, goal in (
        (own_ms['network'], 'this network', '<= 0.01'),
        (_VIT_MS, f'a ViT-S/16 of {_VIT_MS:g} ms (computed)', ''),
    ):
        share = own / (_NETWORK_HZ * network)
        text = f'monitor at 2 Hz beside {what} at 10 Hz'
        rows.append(Row('cost, one thread', text, 'share', share, goal=goal))
    return rows


def _timed(
    times: dict[str, list[float]], name: str, call: Callable[..., Any], *arguments: Any
) -> Any:
    begin = time.process_time()
    result = call(*arguments)
    times.setdefault(name, []).append(time.process_time() - begin)
    return result
