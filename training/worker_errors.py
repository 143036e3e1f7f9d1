# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Errors of a loader's processes as the one line that they were."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from clcp_ros.errors import ClcpError

_WRAPPED = re.compile(r'Caught (\w+) in DataLoader worker process \d+\.\n.*\n', re.DOTALL)


@contextmanager
def plain_worker_errors() -> Iterator[None]:
    """Raise this project's errors from loader processes without the traceback in their text.

    torch raises them anew in the main process, with the whole traceback as their message.
    """
    try:
        yield
    except ClcpError as error:
        text = str(error)
        if not _WRAPPED.match(text):
            raise
        # The traceback ends with the error's module and class, and what it said.
        last = text.rstrip().rpartition(f'.{type(error).__name__}: ')[2]
        raise type(error)(last) from None
