# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How a frame reaches the network in an evaluation, and what comes of its logits.

`whole` is what the robot does: the frame is resized to the network's input. `slide` is what papers
do: windows of the network's size over the frame at its own, or at a given, resolution.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clcp_ros.bundle import InputSpec
from clcp_ros.errors import ModelError
from clcp_ros.inference import preprocess
from clcp_ros.tiling import Tiling
from training.segmentation.tiles import Decision, Mosaic

__all__ = [
    'Decision', 'InferenceConfig', 'Plan', 'decide_on_device', 'plan_windows', 'read_ahead',
]  # fmt: skip

Item = TypeVar('Item')
Result = TypeVar('Result')


@dataclass(frozen=True)
class InferenceConfig:
    """How frames are put through the network.

    Attributes:
        mode: `whole`: resized to the network's input, as on the robot; `slide`: windows.
        resize: Height and width that a frame is resized to before windows are taken; none for its
            own size.
        window: Height and width of a window; none for the network's input size.
        stride: Height and width between windows; none for two thirds of the window.
        batch_size: Windows, or frames of `whole`, at a time.
    """

    mode: Literal['whole', 'slide'] = 'whole'
    resize: tuple[int, int] | None = None
    window: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    batch_size: int = 8

    def __post_init__(self) -> None:
        if self.mode == 'whole' and (self.resize or self.window or self.stride):
            raise ModelError('resize, window and stride belong to --inference.mode slide')
        if self.batch_size < 1:
            raise ModelError(f'the batch size is {self.batch_size}, it must be at least 1')

    def tiling(self, spec: InputSpec) -> Tiling:
        """The windows for a network.

        Args:
            spec: Its input.

        Raises:
            ModelError: The stride leaves pixels out.
        """
        window = self.window or (spec.height, spec.width)
        return Tiling(window, self.stride or (-(-2 * window[0] // 3), -(-2 * window[1] // 3)))


class Plan(NamedTuple):
    """One frame on its way through the network.

    Attributes:
        windows: (W, 3, h, w) float32, normalised; what the network sees.
        finish: Makes the mask of the windows' logits, (W, C, h', w'). It changes nothing, so that
            it may run in any thread.
    """

    windows: Tensor
    finish: Callable[[Tensor], Decision]


def plan_windows(
    image: np.ndarray, size: tuple[int, int], spec: InputSpec, config: InferenceConfig
) -> Plan:
    """Cut a frame into windows.

    Args:
        image: (H, W, 3) uint8 RGB.
        size: (height, width) of the mask.
        spec: Input of the network.
        config: Mode `slide`.
    """
    height, width = config.resize or image.shape[:2]
    frame = torch.from_numpy(preprocess(image, replace(spec, height=height, width=width)))
    tiling = config.tiling(spec)
    rows, columns = tiling.window
    # Zero is the mean.
    frame = F.pad(frame, (0, max(columns - width, 0), 0, max(rows - height, 0)))
    corners = tiling.corners(*frame.shape[1:])
    windows = torch.stack([frame[:, t : t + rows, c : c + columns] for t, c in corners])

    def finish(logits: Tensor) -> Decision:
        grid = logits.shape[2], logits.shape[3]
        return Mosaic(tiling, (height, width), grid, size, logits.device).decide(logits)

    return Plan(windows, finish)


def decide_on_device(logits: Tensor, height: int, width: int) -> Decision:
    """As `clcp_ros.decision.decide`, where the logits are; the confidence is exact.

    Args:
        logits: (C, h, w) float32.
        height: Of the mask.
        width: Of the mask.
    """
    grid = logits.shape[1], logits.shape[2]
    mosaic = Mosaic(Tiling(grid, grid), grid, grid, (height, width), logits.device)
    return mosaic.decide(logits[None])


def read_ahead(
    read: Callable[[Item], Result], items: Iterable[Item], threads: int = 2, depth: int = 4
) -> Generator[tuple[Item, Result], None, None]:
    """Read items in threads while the caller works on those before.

    Decoders release the interpreter's lock, so that threads are enough.

    Args:
        read: What to do with an item.
        items: In the order in which they are wanted.
        threads: Readers.
        depth: Most items that lie ready.

    Yields:
        Items with what `read` gave, in order; an error of `read` is raised at its item.
    """
    waiting: SimpleQueue[tuple[Item, Future[Result]]] = SimpleQueue()
    pool = ThreadPoolExecutor(threads, thread_name_prefix='read')
    try:
        for item in items:
            waiting.put((item, pool.submit(read, item)))
            if waiting.qsize() >= depth:
                first, future = waiting.get()
                yield first, future.result()
        while not waiting.empty():
            first, future = waiting.get()
            yield first, future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
