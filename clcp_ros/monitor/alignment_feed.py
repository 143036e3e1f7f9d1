# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Brings a camera's frames and a lidar's scans together, which come one after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np

from clcp_ros.monitor.alignment import Alignment, AlignmentReference
from clcp_ros.monitor.scan_view import ScanView

FORGET_S = 2.0
"""Time after which a scan is asked for no more; a camera that sends less often is not compared."""


class AlignmentFeed:
    """Brings frames and scans of a stream together.

    A sweep ends a tenth of a second after the moment that it is stamped with, when the image of
    that moment has been judged. So a scored frame is kept until its scan must have come, which
    some later frame tells, scored or not, and what is told at a scored frame is the agreement of
    the one before. Which scan belongs to a frame is decided by stamps alone, live as in a replay.

    Args:
        reference: The nominal agreement.
        settle_s: How much later a frame must be for the scans of an older one to be there.
        forget_s: Over a longer gap between frames none is compared.
    """

    def __init__(
        self, reference: AlignmentReference, settle_s: float = 0.25, forget_s: float = FORGET_S
    ) -> None:
        self.reference = reference
        self._settle_ns, self._forget_ns = round(settle_s * 1e9), round(forget_s * 1e9)
        self._kept: deque[tuple[int, np.ndarray]] = deque(maxlen=32)
        self.reset()

    def reset(self) -> None:
        """Forget the frames that wait."""
        self._kept.clear()
        self._last_ns: int | None = None
        self._told: Alignment | None = None

    def settle(self, stamp_ns: int, scans: Callable[[int], ScanView | None] | None) -> None:
        """Compare a frame that has settled; called for every frame, also where none is scored.

        Args:
            stamp_ns: Stamp of the frame.
            scans: Gives the view of the scan nearest to a stamp, or None where there is none
                within `alignment.MAX_DELAY_NS`; None without a lidar.
        """
        last, self._last_ns = self._last_ns, stamp_ns
        if scans is None or (last is not None and not 0 <= stamp_ns - last <= self._forget_ns):
            self.reset()
            self._last_ns = stamp_ns
        settled: tuple[int, np.ndarray] | None = None
        while self._kept and stamp_ns - self._kept[0][0] >= self._settle_ns:
            settled = self._kept.popleft()
        if settled is not None and scans is not None:
            view = scans(settled[0])
            self._told = None if view is None else self.reference.score(settled[1], view)

    def update(
        self,
        stamp_ns: int,
        logits: np.ndarray,
        scans: Callable[[int], ScanView | None] | None,
    ) -> Alignment | None:
        """Take a scored frame in, and tell what was found of an older one.

        Args:
            stamp_ns: Stamp of the frame.
            logits: (C, h, w) of the frame.
            scans: As for `settle`.

        Returns:
            Of the newest frame that has settled and was not told yet; None where there is none, or
            no scan.
        """
        self.settle(stamp_ns, scans)
        if scans is None:
            return None
        told, self._told = self._told, None
        self._kept.append((stamp_ns, np.array(logits, np.float32)))
        return told
