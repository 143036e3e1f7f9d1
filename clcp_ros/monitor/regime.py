# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Since when a stream is as it is now: what was seen before says nothing of what is to come."""

from __future__ import annotations

from clcp_ros.monitor.sequential import SequentialState


class Regime:
    """Follows the sequential test of one camera and tells when something else began."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the stream."""
        self._excursion_ns: int | None = None
        self._return_ns: int | None = None
        self.pause()

    def pause(self) -> None:
        """Forget when the last frame was: there is a gap behind it."""
        self._last_ns: int | None = None

    def begun(
        self, stamp_ns: int, before: SequentialState | None, now: SequentialState
    ) -> int | None:
        """Take in a frame.

        Args:
            stamp_ns: The image's stamp.
            before: What the test said of the frame before; None of the first.
            now: What it says.

        Returns:
            The stamp of the first frame that is like this one, when the test has just found that
            something changed; else None.
        """
        # The median of three rises and falls one sample late.
        previous_ns = stamp_ns if self._last_ns is None else self._last_ns
        self._last_ns = stamp_ns
        was_up = before is not None and before.statistic > 0
        if now.statistic > 0 and not was_up:
            self._excursion_ns = previous_ns
        elif now.statistic == 0:
            self._excursion_ns = None
        if before is None or now.statistic >= before.statistic:
            self._return_ns = None
        elif self._return_ns is None:
            self._return_ns = previous_ns
        alarmed = before is not None and before.alarm
        if now.abrupt and not (before is not None and before.abrupt):
            return previous_ns
        if now.alarm and not alarmed:
            return self._excursion_ns
        if alarmed and not now.alarm:
            return self._return_ns
        return None
