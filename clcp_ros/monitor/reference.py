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
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from clcp_ros.monitor.statistics import STATISTICS

TAPS = ('low', 'early', 'deep')
_CLIP = 30.0  # of a standardised channel: one dead channel must not decide alone
_DIRECTION_CLIP = 10.0
_TINY = 1e-12
_LEAST_COSINE = 1e-6  # distance below which float32 cannot tell two frames apart


@dataclass(frozen=True)
class Gaussian:
    """A Gaussian with a low-rank covariance plus isotropic residual (Tipping and Bishop 1999).

    D channels, k components.

    Attributes:
        mean: (D,) of the training frames.
        scale: (D,) standard deviation, floored.
        components: (k, D) orthonormal directions of standardised channels.
        variances: (k,) along the components.
        residual_variance: () per channel, off the components.
        unit: Whether frames are L2-normalised first.
    """

    mean: np.ndarray
    scale: np.ndarray
    components: np.ndarray
    variances: np.ndarray
    residual_variance: np.ndarray
    unit: bool = False

    @property
    def channels(self) -> int:
        """Length of a frame's description."""
        return self.mean.size

    def log_distance(self, x: np.ndarray) -> float:
        """Logarithm of the Mahalanobis distance per channel.

        Args:
            x: (D,) a frame's description at this tap.

        Returns:
            log(sqrt(d² / D)).
        """
        x = normalized(x) if self.unit else x.astype(np.float64)
        z = np.clip((x - self.mean) / self.scale, -_CLIP, _CLIP)
        along = self.components @ z
        residual = max(float(z @ z - along @ along), 0.0)
        squared = float(np.sum(along**2 / self.variances)) + residual / float(
            self.residual_variance
        )
        return 0.5 * float(np.log(squared / z.size + _TINY))

    def arrays(self) -> dict[str, np.ndarray]:
        """The attributes."""
        return {
            'mean': self.mean, 'scale': self.scale, 'components': self.components,
            'variances': self.variances, 'residual_variance': self.residual_variance,
            'unit': np.asarray(self.unit),
        }  # fmt: skip

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Gaussian:
        """Undo `arrays`; raises KeyError or ValueError on nonsense."""
        mean = _numbers(arrays, 'mean', (None,))
        components = _numbers(arrays, 'components', (None, mean.size))
        return cls(
            mean=mean,
            scale=_positive(arrays, 'scale', mean.shape),
            components=components,
            variances=_positive(arrays, 'variances', components.shape[:1]),
            residual_variance=_positive(arrays, 'residual_variance', ()),
            unit=bool(_numbers(arrays, 'unit', ())),
        )


@dataclass(frozen=True)
class Neighbours:
    """Training frames themselves: the distance is that of the k-th nearest (Sun et al. 2022).

    Attributes:
        coreset: (M, D) float16, L2-normalised frames that stand for all.
        rank: Which neighbour, 1 for the nearest.
    """

    coreset: np.ndarray
    rank: int
    _rows: np.ndarray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Most processors emulate float16. What rounding took from a row is given back: a distance
        # between neighbours is the small difference of two numbers near 1.
        rows = self.coreset.astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True) + _TINY
        object.__setattr__(self, '_rows', rows)

    @property
    def channels(self) -> int:
        """Length of a frame's description."""
        return self.coreset.shape[1]

    def log_distance(self, x: np.ndarray) -> float:
        """Logarithm of the cosine distance of the k-th nearest training frame.

        Args:
            x: (D,) a frame's description at this tap.

        Returns:
            log(1 - cosine).
        """
        similarity = self._rows @ normalized(x).astype(np.float32)
        place = similarity.size - self.rank
        distance = 1.0 - float(np.partition(similarity, place)[place])
        return float(np.log(max(distance, 0.0) + _LEAST_COSINE))

    def arrays(self) -> dict[str, np.ndarray]:
        """The attributes."""
        return {'coreset': self.coreset, 'rank': np.asarray(self.rank)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Neighbours:
        """Undo `arrays`; raises KeyError or ValueError on nonsense."""
        coreset = _numbers(arrays, 'coreset', (None, None))
        rank = int(_numbers(arrays, 'rank', ()))
        if not 1 <= rank <= len(coreset):
            raise ValueError(f'neighbour {rank} of {len(coreset)} frames')
        return cls(coreset.astype(np.float16), rank)


@dataclass(frozen=True)
class Direction:
    """Where degraded frames lie: log odds of a logistic regression against nominal ones.

    A distance looks all around and so needs a large one; who knows where to look sees more. The
    degraded frames are synthetic, which is why this never stands alone.

    Attributes:
        mean: (D,) of nominal frames.
        scale: (D,) standard deviation, floored.
        weights: (D,) log odds for each standard deviation.
    """

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray

    @property
    def channels(self) -> int:
        """Length of a frame's description."""
        return self.mean.size

    def log_distance(self, x: np.ndarray) -> float:
        """Log odds, up to a constant, that a frame is degraded.

        Args:
            x: (D,) a frame's description at this tap.
        """
        z = (x.astype(np.float64) - self.mean) / self.scale
        return float(np.clip(z, -_DIRECTION_CLIP, _DIRECTION_CLIP) @ self.weights)

    def arrays(self) -> dict[str, np.ndarray]:
        """The attributes."""
        return {'mean': self.mean, 'scale': self.scale, 'weights': self.weights}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Direction:
        """Undo `arrays`; raises KeyError or ValueError on nonsense."""
        mean = _numbers(arrays, 'mean', (None,))
        return cls(
            mean, _positive(arrays, 'scale', mean.shape), _numbers(arrays, 'weights', mean.shape)
        )


Measure = Gaussian | Neighbours | Direction
"""A distance from the training frames."""


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
        return float(np.clip(z, *self.Z_RANGE).mean())

    def arrays(self) -> dict[str, np.ndarray]:
        """The attributes, those of each measure under its number."""
        result = {'location': np.asarray(self.location), 'spread': np.asarray(self.spread)}
        for i, measure in enumerate(self.measures):
            result.update({f'{i}.{name}': array for name, array in measure.arrays().items()})
        return result

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> TapReference:
        """Undo `arrays`; raises KeyError or ValueError on nonsense."""
        location = _numbers(arrays, 'location', (None,))
        parts = [_part(arrays, str(i)) for i in range(location.size)]
        measures = tuple(_measure(part) for part in parts)
        if len({m.channels for m in measures}) != 1:
            raise ValueError('the measures of a tap do not have the same channels')
        return cls(measures, location, _positive(arrays, 'spread', location.shape))


@dataclass(frozen=True)
class SceneModel:
    """What novelty is to be expected of what is in view: an avenue differs from a tunnel.

    A linear function of the shares of the classes, fitted on held-out drives. Shares are limited
    to what was seen there, and so is the result: a mask that is nonsense because the camera is
    blind must not explain the blindness away.

    Attributes:
        weights: (C,) novelty per share.
        mean: (C,) shares of nominal frames.
        least: (C,) smallest shares of nominal frames.
        largest: (C,) largest shares.
        range: (2,) least and largest result on nominal frames.
    """

    weights: np.ndarray
    mean: np.ndarray
    least: np.ndarray
    largest: np.ndarray
    range: np.ndarray

    def expected(self, shares: np.ndarray) -> float:
        """Novelty that is due to the scene, in standard deviations.

        Args:
            shares: (C,) of the classes; what is not finite counts as average.
        """
        shares = np.where(np.isfinite(shares), shares, self.mean)
        seen = np.clip(shares, self.least, self.largest) - self.mean
        return float(np.clip(seen @ self.weights, *self.range))

    def arrays(self) -> dict[str, np.ndarray]:
        """The attributes."""
        return {
            'weights': self.weights, 'mean': self.mean, 'least': self.least,
            'largest': self.largest, 'range': self.range,
        }  # fmt: skip

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> SceneModel:
        """Undo `arrays`; raises KeyError or ValueError on nonsense."""
        weights = _numbers(arrays, 'weights', (None,))
        shape = weights.shape
        model = cls(
            weights=weights,
            mean=_numbers(arrays, 'mean', shape),
            least=_numbers(arrays, 'least', shape),
            largest=_numbers(arrays, 'largest', shape),
            range=_numbers(arrays, 'range', (2,)),
        )
        if (model.least > model.largest).any() or model.range[0] > model.range[1]:
            raise ValueError('the scene model has an empty range')
        return model


@dataclass(frozen=True)
class FrameScore:
    """How far one frame is from the training domain, in standard deviations.

    Attributes:
        novelty: All taps together, less what the scene explains.
        low: Raw image statistics alone.
        early: Early-middle features alone.
        deep: Last features alone.
        p: Share of calibration frames that were at least as novel, this one counted with them: a
            conformal p-value of one frame. For people: frames of a drive are not exchangeable.
        correction: What was taken off `novelty` because the scene explains it; 0 without a model
            of the scene.
    """

    novelty: float
    low: float
    early: float
    deep: float
    p: float = 1.0
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
        knots: (Q,) ascending quantiles, evenly spaced, of novelty on held-out frames; none at all
            is allowed.
        frames: How many held-out frames there were.
        scene: What the scene explains; None where it did not help.
    """

    low: TapReference
    early: TapReference
    deep: TapReference
    location: np.ndarray
    spread: np.ndarray
    knots: np.ndarray = field(default_factory=lambda: np.empty(0))
    frames: int = 0
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
            p=self.p(novelty - correction),
            correction=correction,
        )

    def p(self, novelty: float) -> float:
        """Conformal p-value of a frame's novelty.

        Args:
            novelty: In standard deviations.

        Returns:
            (1 + number of held-out frames at least as novel) / (1 + number of held-out frames),
            interpolated between the quantiles that are stored; 1 without any.
        """
        if not self.knots.size:
            return 1.0
        below = np.interp(novelty, self.knots, np.linspace(0, 1, self.knots.size), 0.0, 1.0)
        return float((1 + (1 - below) * self.frames) / (1 + self.frames))

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything, as arrays that hold numbers and strings."""
        result = {
            'location': np.asarray(self.location), 'spread': np.asarray(self.spread),
            'knots': self.knots, 'frames': np.asarray(self.frames),
            'statistics': np.array(STATISTICS),
        }  # fmt: skip
        parts: dict[str, TapReference | SceneModel] = {t: getattr(self, t) for t in TAPS}
        if self.scene is not None:
            parts['scene'] = self.scene
        for prefix, part in parts.items():
            result.update({f'{prefix}.{name}': a for name, a in part.arrays().items()})
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
        taps = {tap: TapReference.from_arrays(_part(arrays, tap)) for tap in TAPS}
        if taps['low'].measures[0].channels != len(STATISTICS):
            raise ValueError('the low tap does not have a channel per image statistic')
        scene = _part(arrays, 'scene')
        knots = _numbers(arrays, 'knots', (None,))
        if (np.diff(knots) < 0).any():
            raise ValueError('knots do not ascend')
        return cls(
            **taps,
            location=_numbers(arrays, 'location', ()),
            spread=_positive(arrays, 'spread', ()),
            knots=knots,
            frames=int(_numbers(arrays, 'frames', ())),
            scene=SceneModel.from_arrays(scene) if scene else None,
        )


def normalized(features: np.ndarray) -> np.ndarray:
    """L2-normalise features, which makes Mahalanobis distances comparable (Müller & Hein 2025).

    Args:
        features: (D,) any float type.

    Returns:
        (D,) float64.
    """
    x = features.astype(np.float64)
    return x / (np.linalg.norm(x) + _TINY)


def class_shares(logits: np.ndarray) -> np.ndarray:
    """What is in view, as the model sees it.

    Args:
        logits: (C, h, w) on the decoder's grid.

    Returns:
        (C,) float64, the share of the grid at which each class is the most likely one.
    """
    classes = logits.shape[0]
    counts = np.bincount(logits.reshape(classes, -1).argmax(axis=0), minlength=classes)
    return counts / max(int(counts.sum()), 1)


def _measure(arrays: Mapping[str, np.ndarray]) -> Measure:
    if 'coreset' in arrays:
        return Neighbours.from_arrays(arrays)
    if 'weights' in arrays:
        return Direction.from_arrays(arrays)
    return Gaussian.from_arrays(arrays)


def _part(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    start = f'{prefix}.'
    return {name[len(start) :]: a for name, a in arrays.items() if name.startswith(start)}


def _numbers(
    arrays: Mapping[str, np.ndarray], name: str, shape: tuple[int | None, ...]
) -> np.ndarray:
    """An array that has this shape, None for any length, and finite numbers."""
    array = np.asarray(arrays[name])
    fits = array.ndim == len(shape) and all(
        wanted in (None, size) for wanted, size in zip(shape, array.shape, strict=True)
    )
    if not fits or array.dtype.kind not in 'bfiu':
        raise ValueError(f'{name} is {array.dtype} of shape {array.shape}, not {shape}')
    if not np.isfinite(array).all():
        raise ValueError(f'{name} holds numbers that are not finite')
    return array


def _positive(
    arrays: Mapping[str, np.ndarray], name: str, shape: tuple[int | None, ...]
) -> np.ndarray:
    array = _numbers(arrays, name, shape)
    if (array <= 0).any():
        raise ValueError(f'{name} is not positive')
    return array
