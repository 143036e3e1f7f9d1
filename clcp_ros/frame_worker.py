# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Threads that take the newest frame of each camera through the pipeline, without ROS.

One thread decodes, one runs the model, one makes the mask, hands it over and then has the frame
judged, each on another frame, so that the model does not wait for the rest. A frame prepared as
soon as the model has begun would be a whole run of the model old when its turn comes. So preparing
begins just in time: when the model is expected to end, less the time that preparing takes.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from clcp_ros.errors import ClcpError
from clcp_ros.inference import Prediction
from clcp_ros.latest_slot import LatestSlots
from clcp_ros.pipeline import FrameMask, FramePipeline, FrameResult, Prepared

_logger = logging.getLogger(__name__)

_PREDECESSOR_S = 60.0
_FOREVER_S = 3600.0
_MARGIN_S = 0.001


class Duration:
    """What something that recurs takes: a running mean, and its mean deviation."""

    _WEIGHT = 0.2

    def __init__(self) -> None:
        self.mean_s = 0.0
        self.deviation_s = 0.0
        self.known = False

    def add(self, seconds: float) -> None:
        """Take in a duration."""
        if not self.known:
            self.mean_s, self.known = seconds, True
            return
        difference = seconds - self.mean_s
        self.mean_s += self._WEIGHT * difference
        self.deviation_s += self._WEIGHT * (abs(difference) - self.deviation_s)


@dataclass(frozen=True)
class _Arrival:
    frame: Any
    stamp_ns: int
    item: Any


@dataclass(frozen=True)
class _Batch:
    """Frames on their way; each with what its owner wants back."""

    pipeline: FramePipeline
    items: list[Any]
    prepared: list[Prepared]


class FrameWorker:
    """Runs frames through a pipeline; the newest of each camera wins.

    Callbacks come from the worker's threads, those of a camera in the order of its frames, and
    none after `close`, except one that is already running. What they raise goes to `on_error`.

    Args:
        pipeline: Made by the caller; no other thread may use it.
        on_result: Called with an item and its result.
        on_error: Called with an item and why there is no result: a ClcpError of the pipeline's,
            or what a callback raised.
        on_dropped: Called with a camera and a number of frames that newer ones replaced; from the
            thread that calls `put`.
        on_mask: Called with an item and its mask, before a frame of the same call of the model is
            judged. When it raises, the frame has failed and is not judged.
        max_batch: Most frames of different cameras in one call of the model; 0 takes all.
        after: A worker that has been closed; this one begins when it has ended.
    """

    def __init__(
        self,
        pipeline: FramePipeline,
        *,
        on_result: Callable[[Any, FrameResult], None],
        on_error: Callable[[Any, Exception], None],
        on_dropped: Callable[[str, int], None],
        on_mask: Callable[[Any, FrameMask], None] | None = None,
        max_batch: int = 0,
        after: FrameWorker | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._on_result, self._on_error, self._on_dropped = on_result, on_error, on_dropped
        self._on_mask = on_mask
        self._max_batch = max_batch
        self._slots: LatestSlots[_Arrival] = LatestSlots()
        # Between the stages there is room for one batch: more would only make frames older.
        self._ready: queue.Queue[_Batch | None] = queue.Queue(1)
        self._inferred: queue.Queue[tuple[_Batch, Sequence[Any]] | None] = queue.Queue(1)
        self._closed = False
        self._waiting = False  # a prepared batch waits for the model
        self._model_since_s = 0.0
        self._model_frames = 0
        self._preparing, self._model = Duration(), Duration()  # per frame
        self._threads = [
            threading.Thread(target=target, name=name, daemon=True)
            for name, target in (
                ('prepare', lambda: self._prepare_all(after)),
                ('infer', self._infer_all),
                ('finish', self._finish_all),
            )
        ]
        for thread in self._threads:
            thread.start()

    def put(self, camera: str, frame: Any, stamp_ns: int, item: Any) -> None:
        """Leave a frame. Any thread may call this; it does not wait.

        Args:
            camera: One of the pipeline's.
            frame: A message or pixels, see `clcp_ros.frame.Frame`.
            stamp_ns: The image's acquisition stamp.
            item: Handed to the callbacks.
        """
        if self._slots.put(camera, _Arrival(frame, stamp_ns, item)):
            self._on_dropped(camera, 1)

    def replace(self, pipeline: FramePipeline) -> None:
        """Use another pipeline for frames that are not yet on their way."""
        self._pipeline = pipeline

    def busy_s(self) -> float:
        """For how long the present call of the model has been running; 0 between calls."""
        since_s = self._model_since_s
        return time.monotonic() - since_s if since_s else 0.0

    def close(self, timeout_s: float = 0.0) -> bool:
        """End; results that are under way are lost.

        Args:
            timeout_s: How long to wait for the threads; 0 does not wait.

        Returns:
            Whether the threads have ended.
        """
        self._closed = True
        self._slots.close()
        until_s = time.monotonic() + timeout_s
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(until_s - time.monotonic(), 0.0))
        return not any(thread.is_alive() for thread in self._threads)

    # The three threads ---------------------------------------------------------------------------

    def _prepare_all(self, after: FrameWorker | None) -> None:
        if after is not None and not after.close(_PREDECESSOR_S):
            _logger.warning('the last call of the model has not ended yet')
        for monitor in self._pipeline.monitors.values():
            monitor.reset()
        while taken := self._slots.take(self._limit(), self._early_s):
            batch = self._prepare(taken)
            if batch.prepared:
                self._waiting = True
                self._ready.put(batch)
        self._ready.put(None)

    def _prepare(self, taken: list[tuple[str, _Arrival]]) -> _Batch:
        pipeline, start_s = self._pipeline, time.monotonic()
        items: list[Any] = []
        prepared: list[Prepared] = []
        for camera, arrival in taken:
            try:
                prepared.append(pipeline.prepare(camera, arrival.frame, arrival.stamp_ns))
                items.append(arrival.item)
            except Exception as error:  # one frame must not end the thread
                self._tell(arrival.item, error)
        if prepared:
            self._preparing.add((time.monotonic() - start_s) / len(taken))
        return _Batch(pipeline, items, prepared)

    def _infer_all(self) -> None:
        while (batch := self._ready.get()) is not None:
            start_s = time.monotonic()
            self._model_frames, self._model_since_s = len(batch.prepared), start_s
            self._waiting = False
            self._slots.wake()
            predictions: Sequence[Prediction | Exception]
            try:
                predictions = batch.pipeline.infer(batch.prepared)
            except Exception as error:
                predictions = [error] * len(batch.prepared)
            self._model_since_s = 0.0
            self._model.add((time.monotonic() - start_s) / len(batch.prepared))
            self._slots.wake()
            self._inferred.put((batch, predictions))
            del batch, predictions  # not to be kept until the next frame comes
        self._inferred.put(None)

    def _finish_all(self) -> None:
        while (done := self._inferred.get()) is not None:
            self._finish(*done)
            del done

    def _finish(self, batch: _Batch, predictions: Sequence[Any]) -> None:
        pipeline = batch.pipeline
        masks: list[tuple[Any, FrameMask, Prediction]] = []
        for item, prepared, prediction in zip(
            batch.items, batch.prepared, predictions, strict=True
        ):
            if self._closed:
                return
            try:
                if isinstance(prediction, Exception):
                    raise prediction
                mask = pipeline.make_mask(prepared, prediction)
                if self._on_mask is not None:
                    self._on_mask(item, mask)
            except Exception as error:
                self._tell(item, error)
            else:
                masks.append((item, mask, prediction))
        # Last: no camera's mask waits for what is judged of another one's.
        for item, mask, prediction in masks:
            if self._closed:
                return
            try:
                self._on_result(item, pipeline.judge(mask, prediction))
            except Exception as error:
                self._tell(item, error)

    def _tell(self, item: Any, error: Exception) -> None:
        if self._closed:
            return
        try:
            self._on_error(item, error)
        except Exception:
            level = logging.DEBUG if isinstance(error, ClcpError) else logging.ERROR
            _logger.log(level, 'on_error failed', exc_info=True)

    # Just in time --------------------------------------------------------------------------------

    def _limit(self) -> int:
        limits = [n for n in (self._max_batch, self._pipeline.max_batch) if n]
        return min(limits, default=0)

    def _early_s(self) -> float:
        """How many seconds it is too early to prepare a frame."""
        since_s = self._model_since_s
        if self._waiting or (since_s and not self._model.known):
            return _FOREVER_S  # until the model takes what waits for it, or has run once
        if not since_s:
            return 0.0
        ends_s = since_s + self._model.mean_s * self._model_frames
        margin_s = _MARGIN_S + self._model.deviation_s + self._preparing.deviation_s
        return ends_s - self._preparing_s() - margin_s - time.monotonic()

    def _preparing_s(self) -> float:
        frames = min(self._limit() or len(self._pipeline.cameras), len(self._pipeline.cameras))
        return self._preparing.mean_s * frames
