# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Traffic lights: where they stand and what they show, as a function of time alone."""

from __future__ import annotations

import numpy as np

from training.simulation.roads import Route

BLOCK = 60.0
"""Length of the pieces in which a road is laid out, in metres."""

CROSSING = 9.0
"""Width of the side street at the beginning of every block of a town."""

CYCLE, GREEN, YELLOW = 44.0, 24.0, 3.0
"""Seconds of a whole cycle, and how long the main road sees green and yellow."""

STOP_BEFORE, STOP_BEYOND = -5.4, CROSSING + 3.2
"""Stop lines of the two directions, metres from the block's beginning."""


def has_signal(index: int) -> bool:
    """Every third crossing of a town has lights."""
    return index % 3 == 0


class Signals:
    """The lights of one town."""

    def __init__(self, route: Route) -> None:
        self._rng = route.rng
        self._offsets: dict[int, float] = {}
        self.exist = route.environment == 'town'

    def since_green(self, index: int, time: float) -> float:
        """Seconds since the main road at crossing `index` last got green."""
        if index not in self._offsets:
            self._offsets[index] = float(self._rng(5, index).uniform(0, CYCLE))
        return (time + self._offsets[index]) % CYCLE

    def cycle(self, index: int, time: float) -> int:
        """How many times it got green before."""
        self.since_green(index, time)
        return int((time + self._offsets[index]) // CYCLE)

    def state(self, index: int, time: float) -> int:
        """What the main road sees: 0 red, 1 yellow, 2 green."""
        t = self.since_green(index, time)
        return 2 if t < GREEN else 1 if t < GREEN + YELLOW else 0

    def since_red(self, index: int, time: float) -> float:
        """Seconds since the main road's red began; below 0 before it."""
        return self.since_green(index, time) - GREEN - YELLOW


def crossings(s: float, behind: float, ahead: float) -> list[int]:
    """Blocks with lights whose beginning lies in [s - behind, s + ahead]."""
    first, last = int(np.ceil((s - behind) / BLOCK)), int(np.floor((s + ahead) / BLOCK))
    return [k for k in range(first, last + 1) if has_signal(k)]
