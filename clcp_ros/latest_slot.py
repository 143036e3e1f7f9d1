# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A place for one item between two threads: the newest wins."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

T = TypeVar('T')


class LatestSlot(Generic[T]):
    """Holds the newest item until it is taken; an older one that nobody took is dropped.

    A queue would make a consumer that is slower than its producer work on ever older items.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._item: T | None = None
        self._closed = False

    def put(self, item: T) -> bool:
        """Leave an item.

        Returns:
            Whether an older item was dropped for it.
        """
        with self._condition:
            dropped = self._item is not None
            self._item = None if self._closed else item
            self._condition.notify()
            return dropped

    def take(self) -> T | None:
        """Wait for an item and take it.

        Returns:
            The item, or None once the slot is closed.
        """
        with self._condition:
            self._condition.wait_for(lambda: self._item is not None or self._closed)
            item, self._item = self._item, None
            return item

    def close(self) -> None:
        """Wake who waits; nothing can be left or taken from now on."""
        with self._condition:
            self._closed = True
            self._item = None
            self._condition.notify_all()
