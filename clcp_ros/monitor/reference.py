# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the monitor knows of the training domain, and how far a frame is from it.

A frame is described at three taps: `low` (statistics of the raw image), `early` (an early-middle
block of the encoder) and `deep` (its last block). At each tap a distance is measured from the
training frames: from their Gaussian, or from the nearest of them. The logarithm of the distance is
standardised on held-out drives of the same domain, since frames that were fitted on score better
than any new frame. Novelty is the mean of the taps, standardised in the same way: its unit is one
standard deviation of new in-domain frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from clcp_ros.monitor.arrays import numbers, part, positive
from clcp_ros.monitor.measures import (
    Direction,
    Gaussian,
    Measure,
    Neighbours,
    measure_from_arrays,
    normalized,
)
from clcp_ros.monitor.scene import SceneModel, class_shares
from clcp_ros.monitor.statistics import STATISTICS

__all__ = [
    'TAPS',
    'Direction',
    'FrameScore',
    'Gaussian',
    'Measure',
    'Neighbours',
    'SceneModel',
    'ShiftReference',
    'TapReference',
    'class_shares',
    'normalized',
]

TAPS = ('low', 'early', 'deep')


@dataclass(frozen=True)
class TapReference:
    """The training domain at one tap, by one measure or several.

    Attributes:
        measures: How far a frame is from it.
        location: (number of measures,) median of their log distances on held-out frames.
        spread: (number of measures,) robust standard deviations of the same.
    """

    # No single measure decides alone, however far off a frame is.
    Z_RANGE: ClassVar[tuple[float, float]] = (-4.0, 12.0)

    measures: tuple[Measure, ...]
    location: np.ndarray
    spread: np.ndarray

    def z(self, x: np.ndarray) -> float:
        """The distance in standard deviations of held-out in-domain frames, within (-4, 12).

        Args:
            x: (D,) a frame's description at this tap.
        """
        return self.standardised(np.array([m.log_distance(x) for m in self.measures]))

    def standardised(self, log_distances: np.ndarray) -> float:
        """`z` of log distances by each measure, (number of measures,)."""
        z = (log_distances - self.location) / self.spread
        return float(z.clip(*self.Z_RANGE).mean())

    def arrays(self) -> dict[str, np.ndarray]:
        """The attributes, those of each measure under its number."""
        result = {'location': np.asarray(self.location), 'spread': np.asarray(self.spread)}
        for i, measure in enumerate(self.measures):
            result.update({f'{i}.{name}': array for name, array in measure.arrays().items()})
        return result

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> TapReference:
        """Undo `arrays`; raises KeyError or ValueError on nonsense."""
        location = numbers(arrays, 'location', (None,))
        parts = [part(arrays, str(i)) for i in range(location.size)]
        measures = tuple(measure_from_arrays(one) for one in parts)
        if len({m.channels for m in measures}) != 1:
            raise ValueError('the measures of a tap do not have the same channels')
        return cls(measures, location, positive(arrays, 'spread', location.shape))


@dataclass(frozen=True)
class FrameScore:
    """How far one frame is from the training domain, in standard deviations.

    Attributes:
        novelty: All taps together, less what the scene explains.
        low: Raw image statistics alone.
        early: Early-middle features alone.
        deep: Last features alone.
        correction: What was taken off `novelty` because the scene explains it; 0 without a model
            of the scene.
    """

    novelty: float
    low: float
    early: float
    deep: float
    correction: float = 0.0


@dataclass(frozen=True)
class ShiftReference:
    """The training domain at all taps.

    Attributes:
        low: Statistics of the raw image.
        early: Early-middle features.
        deep: Last features.
        location: () mean of the taps' mean on held-out frames.
        spread: () its standard deviation.
        scene: What the scene explains; None where it did not help.
    """

    low: TapReference
    early: TapReference
    deep: TapReference
    location: np.ndarray
    spread: np.ndarray
    scene: SceneModel | None = None

    def score(
        self,
        statistics: np.ndarray,
        features: Mapping[str, np.ndarray],
        scene: np.ndarray | None = None,
    ) -> FrameScore:
        """Score a frame.

        Args:
            statistics: (S,) from `image_statistics`.
            features: `early` (D1,) and `deep` (D2,) from the model.
            scene: (C,) from `class_shares`; without it an average scene is assumed.

        Returns:
            Novelty and its parts; all finite when the arguments are.
        """
        z = [
            self.low.z(statistics),
            self.early.z(features['early']),
            self.deep.z(features['deep']),
        ]
        novelty = float((np.mean(z) - self.location) / self.spread)
        correction = 0.0
        if self.scene is not None and scene is not None:
            correction = self.scene.expected(scene)
        low, early, deep = z
        return FrameScore(
            novelty=novelty - correction,
            low=low,
            early=early,
            deep=deep,
            correction=correction,
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything, as arrays that hold numbers and strings."""
        result = {
            'location': np.asarray(self.location),
            'spread': np.asarray(self.spread),
            'statistics': np.array(STATISTICS),
        }
        parts: dict[str, TapReference | SceneModel] = {t: getattr(self, t) for t in TAPS}
        if self.scene is not None:
            parts['scene'] = self.scene
        for prefix, one in parts.items():
            result.update({f'{prefix}.{name}': a for name, a in one.arrays().items()})
        return result

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> ShiftReference:
        """Undo `arrays`.

        Raises:
            KeyError: An array is missing.
            ValueError: Shapes do not fit each other, a number is not finite, or the statistics
                are others than those of this version.
        """
        names = tuple(str(name) for name in arrays['statistics'])
        if names != STATISTICS:
            raise ValueError('its image statistics are not those of this version')
        taps = {tap: TapReference.from_arrays(part(arrays, tap)) for tap in TAPS}
        if taps['low'].measures[0].channels != len(STATISTICS):
            raise ValueError('the low tap does not have a channel per image statistic')
        scene = part(arrays, 'scene')
        return cls(
            **taps,
            location=numbers(arrays, 'location', ()),
            spread=positive(arrays, 'spread', ()),
            scene=SceneModel.from_arrays(scene) if scene else None,
        )
