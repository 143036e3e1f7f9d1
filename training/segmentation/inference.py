# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How a frame reaches the network in an evaluation, and what comes of its logits.

`whole` is what the robot does: the frame is resized to the network's input. `slide` is what papers
do: windows of the network's size over the frame at its own, or at a given, resolution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
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
from training.segmentation.tiles import slide

Item = TypeVar('Item')
Result = TypeVar('Result')

_ROWS = 256
"""Rows of a mask decided at once: nineteen classes of a whole frame are 160 MB."""


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


class Decision(NamedTuple):
    """What is published of a frame.

    Attributes:
        mask: (H, W) uint8 class ids.
        confidence: (H, W) uint8, 255 stands for a softmax probability of 1.
    """

    mask: np.ndarray
    confidence: np.ndarray


def slide_logits(
    image: np.ndarray,
    spec: InputSpec,
    config: InferenceConfig,
    forward: Callable[[Tensor], Tensor],
    device: str = 'cpu',
) -> Tensor:
    """Logits of a frame by windows.

    Args:
        image: (H, W, 3) uint8 RGB.
        spec: Input of the network.
        config: Mode `slide`.
        forward: The network: (B, 3, h, w) -> (B, C, h', w').
        device: Where the network is.

    Returns:
        (C, H', W') float32 on the device, at the resized frame's size.
    """
    height, width = config.resize or image.shape[:2]
    prepared = preprocess(image, InputSpec(height, width, spec.mean, spec.std))
    tensor = torch.from_numpy(prepared).to(device)
    return slide(tensor, config.tiling(spec), forward, config.batch_size)


def decide_on_device(logits: Tensor, height: int, width: int) -> Decision:
    """As `clcp_ros.decision.decide`, where the logits are, in strips of rows.

    Args:
        logits: (C, h, w) float32.
        height: Of the mask.
        width: Of the mask.
    """
    mask = np.empty((height, width), np.uint8)
    confidence = np.empty((height, width), np.uint8)
    source = logits.shape[1]
    for top in range(0, height, _ROWS):
        bottom = min(top + _ROWS, height)
        part = _rows(logits, top, bottom, height, width) if source != height else None
        if part is None:
            part = _resize(logits[:, top:bottom], bottom - top, width)
        best, ids = part.max(dim=0)
        peak = 255 / torch.exp(part - best).sum(dim=0)
        mask[top:bottom] = ids.to(torch.uint8).cpu().numpy()
        confidence[top:bottom] = peak.round().to(torch.uint8).cpu().numpy()
    return Decision(mask, confidence)


def _rows(logits: Tensor, top: int, bottom: int, height: int, width: int) -> Tensor:
    """Rows `top` to `bottom` of the logits resized to `height` x `width`."""
    # Half-pixel centres: row y of the target lies at (y + 0.5) * h / height - 0.5 of the source.
    device = logits.device
    y = (torch.arange(top, bottom, device=device) + 0.5) * (logits.shape[1] / height) - 0.5
    y = y.clamp(0, logits.shape[1] - 1)
    low = y.floor().long()
    high = (low + 1).clamp(max=logits.shape[1] - 1)
    share = (y - low)[None, :, None].to(logits.dtype)
    # Columns first: they are fewer before the rows are repeated.
    first = int(low[0])
    wide = _resize(logits[:, first : int(high[-1]) + 1], int(high[-1]) + 1 - first, width)
    return torch.lerp(wide[:, low - first], wide[:, high - first], share)


def _resize(logits: Tensor, height: int, width: int) -> Tensor:
    if logits.shape[1:] == (height, width):
        return logits
    return F.interpolate(logits[None], size=(height, width), mode='bilinear', align_corners=False)[
        0
    ]


def read_ahead(
    read: Callable[[Item], Result], items: Iterable[Item], threads: int = 2, depth: int = 4
) -> Iterator[tuple[Item, Result]]:
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
