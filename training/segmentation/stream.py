# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Many frames through a network: reading, the network and what comes after it at the same time.

The network sees full batches, of windows of one frame or several; threads read and prepare the
next frames, others make masks of the last ones and judge them. Decoding, resizing, products and
counting all release the interpreter's lock. Results come in the order of the frames and do not
depend on the number of threads.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from training.segmentation.frames import Frame, FrameSet
from training.segmentation.inference import Decision, InferenceConfig, Plan, read_ahead
from training.segmentation.predictors import Predictor
from training.sparse.matmul import fast_products

Item = TypeVar('Item')
Content = TypeVar('Content')
Result = TypeVar('Result')


class Source(NamedTuple, Generic[Content]):
    """What was read of an item.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        size: (height, width) of the mask.
        content: Anything that is needed afterwards, as its label.
    """

    image: np.ndarray
    size: tuple[int, int]
    content: Content


@dataclass
class _Job(Generic[Item, Content]):
    """A frame whose windows are not all through."""

    item: Item
    content: Content
    plan: Plan
    begun: int = 0
    logits: list[Tensor] = field(default_factory=list)

    @property
    def left(self) -> int:
        return len(self.plan.windows) - self.begun


def stream(
    predictor: Predictor,
    items: Iterable[Item],
    read: Callable[[Item], Source[Content]],
    how: InferenceConfig,
    then: Callable[[Item, Content, Decision], Result],
    threads: int = 0,
) -> Generator[tuple[Item, Result], None, None]:
    """Segment many frames.

    Args:
        predictor: The network.
        items: What to read, in order.
        read: Reads an item, in a thread.
        how: Whole or by windows; the batch size counts windows, of any frames.
        then: What to do with a mask, in a thread.
        threads: That read, and as many that do what comes after; 0 takes half of the cores, at
            least two.

    Yields:
        Items with what `then` gave, in order.
    """
    threads = threads or max(2, (os.cpu_count() or 2) // 2)

    def prepare(item: Item) -> _Job[Item, Content]:
        source = read(item)
        return _Job(item, source.content, predictor.plan(source.image, source.size, how))

    @torch.inference_mode()
    def finish(job: _Job[Item, Content]) -> Result:
        decision = job.plan.finish(torch.cat(job.logits))
        job.logits.clear()
        return then(job.item, job.content, decision)

    done: deque[tuple[Item, Future[Result]]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix='finish')
    jobs = read_ahead(prepare, items, threads, depth=threads + 2)
    try:
        # For all threads: a product must not depend on what another thread does meanwhile.
        with fast_products():
            for job in _run(predictor, (job for _, job in jobs), how.batch_size):
                done.append((job.item, pool.submit(finish, job)))
                while done and (done[0][1].done() or len(done) > threads + 1):
                    item, future = done.popleft()
                    yield item, future.result()
            while done:
                item, future = done.popleft()
                yield item, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        jobs.close()


def stream_frames(
    predictor: Predictor,
    frames: FrameSet,
    how: InferenceConfig,
    then: Callable[[Frame, np.ndarray, np.ndarray, Decision], Result],
) -> Generator[tuple[Frame, Result], None, None]:
    """Segment labelled frames at their labels' sizes, with a progress bar.

    Args:
        predictor: The network.
        frames: What to read.
        how: Whole or by windows.
        then: What to do, in a thread, with a frame, its image (H, W, 3) uint8 RGB, its label
            (H, W) uint8 and the decision.

    Yields:
        Frames with what `then` gave, in order.
    """

    def read(frame: Frame) -> Source[tuple[np.ndarray, np.ndarray]]:
        image, label = frames.read(frame)
        return Source(image, (label.shape[0], label.shape[1]), (image, label))

    bar = tqdm(total=len(frames), desc=f'evaluate {frames.root.name}', unit='frame')
    with bar:
        for found in stream(
            predictor, frames.frames, read, how, lambda frame, pair, d: then(frame, *pair, d)
        ):
            bar.update()
            yield found


def _run(
    predictor: Predictor, jobs: Iterator[_Job[Item, Content]], batch_size: int
) -> Iterator[_Job[Item, Content]]:
    """Jobs with the logits of all their windows, in order."""
    waiting: deque[_Job[Item, Content]] = deque()
    pending = 0
    for job in jobs:
        waiting.append(job)
        pending += job.left
        while pending >= batch_size:
            yield from _batch(predictor, waiting, batch_size)
            pending -= batch_size
    if pending:
        yield from _batch(predictor, waiting, pending)


def _batch(
    predictor: Predictor, waiting: deque[_Job[Item, Content]], size: int
) -> Iterator[_Job[Item, Content]]:
    """Put `size` windows through the network, and give the jobs that this finishes."""
    chosen: list[tuple[_Job[Item, Content], Tensor]] = []
    for job in waiting:
        windows = job.plan.windows[job.begun : job.begun + size]
        chosen.append((job, windows))
        job.begun += len(windows)
        size -= len(windows)
        if not size:
            break
    one = len(chosen) == 1
    batch = chosen[0][1] if one else torch.cat([windows for _, windows in chosen])
    parts = predictor.logits(batch).split([len(windows) for _, windows in chosen])
    for (job, _), part in zip(chosen, parts, strict=True):
        job.logits.append(part)
    while waiting and not waiting[0].left:
        yield waiting.popleft()
