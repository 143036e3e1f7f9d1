# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A place for the newest item of each of several producers: old ones are dropped, none starves."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar('T')

_RECHECK_S = 1.0


class LatestSlots(Generic[T]):
    """Holds the newest item of each producer until it is taken.

    A queue would make a consumer that is slower than its producers work on ever older items, and
    let a fast producer push a slow one aside.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._items: dict[str, T] = {}
        self._served: dict[str, int] = {}
        self._turn = 0
        self._closed = False

    def put(self, producer: str, item: T) -> bool:
        """Leave an item.

        Returns:
            Whether an older item of this producer was dropped for it.
        """
        with self._condition:
            if self._closed:
                return False
            dropped = producer in self._items
            self._items[producer] = item
            self._condition.notify_all()
            return dropped

    def take(
        self, limit: int = 0, wait_s: Callable[[], float] | None = None
    ) -> list[tuple[str, T]]:
        """Wait for items and take them.

        Args:
            limit: Most items to take; 0 takes all. Who was served longest ago comes first.
            wait_s: Tells how many seconds it is still too early to take anything; items that
                arrive meanwhile replace older ones. `wake` makes it be asked again.

        Returns:
            Producers and items, one each; empty once the place is closed.
        """
        with self._condition:
            while not self._closed:
                delay_s = wait_s() if self._items and wait_s else 0.0
                if self._items and delay_s <= 0:
                    break
                self._condition.wait(min(delay_s, _RECHECK_S) if self._items else None)
            order = sorted(self._items, key=lambda name: self._served.get(name, 0))
            taken = [(name, self._items.pop(name)) for name in order[: limit or None]]
            for name, _ in taken:
                self._turn += 1
                self._served[name] = self._turn
            return taken

    def wake(self) -> None:
        """Let who waits look again at whether it is time."""
        with self._condition:
            self._condition.notify_all()

    def close(self) -> None:
        """Wake who waits; nothing can be left or taken from now on."""
        with self._condition:
            self._closed = True
            self._items.clear()
            self._condition.notify_all()
