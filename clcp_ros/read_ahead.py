# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Runs an iterator in a thread of its own, a few items ahead of who takes them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from typing import Any, TypeVar

T = TypeVar('T')

_END = object()


def read_ahead(items: Iterable[T], depth: int = 4) -> Generator[T, None, None]:
    """Give the items of an iterator that runs in another thread, in its order.

    Stages chained like this work at the same time, and the result is that of a plain loop. What
    the iterator raises is raised here; closing this one ends the thread and closes the iterator.

    Args:
        items: What to iterate over.
        depth: Items that may wait.
    """
    waiting: queue.Queue[Any] = queue.Queue(depth)
    stop = threading.Event()
    failure: list[BaseException] = []

    def put(item: Any) -> bool:
        while not stop.is_set():
            try:
                waiting.put(item, timeout=0.05)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        iterator = iter(items)
        try:
            for item in iterator:
                if not put(item):
                    break
        except BaseException as error:  # handed to whoever takes the items
            failure.append(error)
        finally:
            close = getattr(iterator, 'close', None)
            if close is not None:
                close()
            put(_END)

    thread = threading.Thread(target=work, name='read-ahead', daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not _END:
            yield item
        if failure:
            raise failure[0]
    finally:
        stop.set()
        thread.join()
