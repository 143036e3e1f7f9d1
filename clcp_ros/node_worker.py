# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""One thread from the newest frames to their results; stands in until FrameWorker is there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from clcp_ros.latest_slot import LatestSlots
from clcp_ros.pipeline import FramePipeline


class FrameWorker:
    """See frame_worker."""

    def __init__(
        self,
        pipeline: FramePipeline,
        *,
        on_result: Callable[[Any, Any], None],
        on_error: Callable[[Any, Exception], None],
        on_dropped: Callable[[str, int], None],
        max_batch: int = 0,
        after: FrameWorker | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._on_result, self._on_error, self._on_dropped = on_result, on_error, on_dropped
        self._max_batch = max_batch
        self._slots: LatestSlots[tuple[Any, int, Any]] = LatestSlots()
        self._since = 0.0
        self._closed = False
        self._after = after
        self._thread = threading.Thread(target=self._work, name='segment', daemon=True)
        self._thread.start()

    def put(self, camera: str, frame: Any, stamp_ns: int, item: Any) -> None:
        """Leave a frame."""
        if self._slots.put(camera, (frame, stamp_ns, item)):
            self._on_dropped(camera, 1)

    def replace(self, pipeline: FramePipeline) -> None:
        """Use another one from the next frame on."""
        self._pipeline = pipeline

    def busy_s(self) -> float:
        """For how long the model has been running."""
        since = self._since
        return time.perf_counter() - since if since else 0.0

    def close(self, timeout_s: float = 0.0) -> bool:
        """End."""
        self._closed = True
        self._slots.close()
        if timeout_s:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        if self._after:
            self._after.close(30)
            self._after = None
        for monitor in self._pipeline.monitors.values():
            monitor.reset()
        while True:
            pipeline = self._pipeline
            limits = [n for n in (self._max_batch, pipeline.max_batch) if n]
            taken = self._slots.take(min(limits, default=0))
            if not taken:
                return
            pipeline = self._pipeline  # which may have been replaced meanwhile
            self._since = time.perf_counter()
            try:
                results = pipeline.process_batch([(c, f, s) for c, (f, s, _) in taken])
            except Exception as error:
                results = [error] * len(taken)
            self._since = 0.0
            for (_, (_, _, item)), result in zip(taken, results, strict=True):
                if self._closed:
                    return
                try:
                    if isinstance(result, Exception):
                        self._on_error(item, result)
                    else:
                        self._on_result(item, result)
                except Exception as error:
                    self._on_error(item, error)
