# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A vehicle right before the camera: nothing can be told of what it hides.

Behind a lorry at a red light all of a frame is far from the training domain, and nothing is wrong
with the camera. Thresholds that bear it find weather late. So these seconds are passed over, if
the vehicle was seen to come nearer in ordinary frames: a cover, which a network may take for a
vehicle, is there at once. And only for half a minute, so that no mistake hides a shift for long.
So near, one vehicle may look like parts of several: all their classes count together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

FILLS = 0.25
"""Share of the grid from which vehicles fill the view."""

FILLED = 'a vehicle fills the view'
"""What the monitor says then."""

LONGEST_S = 30.0
"""What lasts longer is judged like anything else."""

_SEEN = 0.1  # share of the grid that it had before
_BEFORE_S = 4.0  # how long before
_GROWS = 2.5  # times, from one sample to the next; what grows faster has not come near
_ORDINARY = 3.0  # sd; a street is seldom more novel
_WORDS = {'car', 'truck', 'lorry', 'bus', 'train', 'tram', 'van', 'caravan', 'trailer', 'tractor',
          'vehicle', 'vehicles'}  # fmt: skip


@dataclass(frozen=True)
class CloseReference:
    """Which classes can fill the view.

    Attributes:
        vehicles: (C,) bool.
    """

    vehicles: np.ndarray

    @classmethod
    def of(cls, names: Sequence[str]) -> CloseReference | None:
        """By the names of the classes; None where no vehicle is among them."""
        words = [_words(name) for name in names]
        vehicles = np.array([bool(own & _WORDS) and 'ego' not in own for own in words])
        return cls(vehicles) if vehicles.any() else None

    def share(self, predicted: np.ndarray) -> float:
        """Of all vehicles together.

        Args:
            predicted: (C,) share of the grid at which each class is the most likely one.
        """
        return float(predicted[self.vehicles].sum())

    def arrays(self) -> dict[str, np.ndarray]:
        """The attributes."""
        return {'vehicles': self.vehicles}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> CloseReference:
        """Undo `arrays`; raises KeyError or ValueError on nonsense."""
        vehicles = np.asarray(arrays['vehicles'])
        if vehicles.ndim != 1 or vehicles.dtype != bool or not vehicles.any():
            raise ValueError(f'vehicles is {vehicles.dtype} of shape {vehicles.shape}')
        return cls(vehicles)


class CloseVehicle:
    """Follows one camera's stream.

    Args:
        reference: Which classes can fill the view.

    Attributes:
        fills: Whether a vehicle that came near fills the view.
    """

    def __init__(self, reference: CloseReference) -> None:
        self.reference = reference
        self.reset()

    def reset(self) -> None:
        """Forget the stream."""
        self.fills = False
        self._since_ns = 0
        self._seen_ns = -math.inf  # when it was last seen in an ordinary frame
        self._before = 0.0  # share of the sample before

    def update(self, stamp_ns: int, predicted: np.ndarray, novelty: float) -> bool:
        """Take in a sample.

        Args:
            stamp_ns: Stamp of its image; they ascend.
            predicted: (C,) as of `CloseReference.share`.
            novelty: In standard deviations of new frames of the domain.

        Returns:
            Whether it is to be passed over.
        """
        share, ordinary = self.reference.share(predicted), novelty <= _ORDINARY
        if not self.fills:
            if share > _GROWS * self._before:
                self._seen_ns = -math.inf
            came = stamp_ns - self._seen_ns <= _BEFORE_S * 1e9
            if came and share >= FILLS and not ordinary:
                self.fills, self._since_ns = True, stamp_ns
        else:
            gone = ordinary or share < _SEEN
            self.fills = not gone and stamp_ns - self._since_ns < LONGEST_S * 1e9
        if ordinary and share >= _SEEN:
            self._seen_ns = stamp_ns
        self._before = share
        return self.fills


def _words(name: str) -> set[str]:
    return set(''.join(c if c.isalpha() else ' ' for c in name.lower()).split())
