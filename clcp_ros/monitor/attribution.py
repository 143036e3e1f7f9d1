# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What kind of degradation is it? Signatures of kinds, and the courage to say other.

Image statistics and the network's features are standardised on the training domain, so that a
signature is what a kind does to a nominal frame of this camera. A multinomial logistic regression
tells the kinds apart. It knows only what it was shown: a frame whose statistics are far from
everything shown, or that no kind fits well, is of another kind.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

from clcp_ros.monitor.statistics import STATISTICS

NONE = 'none'
"""In domain."""

OTHER = 'other'
"""Out of domain, and like nothing known."""

KINDS = (
    'dark', 'haze', 'rain', 'snow', 'blur', 'noise', 'lens dirt', 'exposure', 'compression',
)  # fmt: skip
"""Degradations that have a signature."""

CLASSES = (NONE, *KINDS, OTHER)
"""What a frame can be, in the order of the rows of `KindReference.weights`."""

MAX_GAP_S = 2.0
TOP = 3
_CLIP = 30.0  # sd; one statistic must not decide alone
_SOFTNESS = 0.1  # of the limit, within which a frame goes from known to unknown


@dataclass(frozen=True)
class Kind:
    """What kind of degradation frames show.

    Attributes:
        name: One of `CLASSES`.
        probability: Of that, in [0, 1].
        top: The statistics that are farthest from the training domain, farthest first, each with
            its signed distance in standard deviations of nominal frames.
    """

    name: str
    probability: float
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class KindReference:
    """What nominal frames and each kind look like; S statistics, V values, P prototypes.

    A frame's values are its statistics and, behind them, the network's features. A reference of
    before knows statistics alone.

    Attributes:
        location: (V,) median of the nominal frames.
        scale: (V,) their robust standard deviation, floored.
        weights: (11, 2 V) of the logistic regression, a row for each of `CLASSES`.
        bias: (11,) of the same.
        prototypes: (P, R) where known families and severities lie, whitened.
        radius: (P,) how far their frames lie from there.
        whitening: (R, S) takes squashed statistics there.
        limit: () radii from the nearest prototype beyond which a frame is unknown.
        least: () probability below which no kind is named.
    """

    location: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    bias: np.ndarray
    prototypes: np.ndarray
    radius: np.ndarray
    whitening: np.ndarray
    limit: np.ndarray
    least: np.ndarray

    def values(self, statistics: np.ndarray, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """What tells the kind of a frame.

        Args:
            statistics: (S,) from `image_statistics`.
            features: `early` (D1,) and `deep` (D2,) from the model.

        Returns:
            (V,).
        """
        if len(self.location) == len(STATISTICS):
            return statistics
        return np.concatenate([statistics, features['early'], features['deep']])

    def z(self, values: np.ndarray) -> np.ndarray:
        """(..., V) values in standard deviations of nominal frames, within 30."""
        z = (np.asarray(values, np.float64) - self.location) / self.scale
        return np.asarray(np.clip(z, -_CLIP, _CLIP))

    def probabilities(self, z: np.ndarray, novel: bool = False) -> np.ndarray:
        """How likely each of `CLASSES` is.

        Args:
            z: (..., V) from `z`.
            novel: It is known that the frame is out of domain.

        Returns:
            (..., 11) of sum 1.
        """
        squashed = np.arcsinh(z)
        logits = both_ways(squashed) @ self.weights.T + self.bias
        if novel:
            logits[..., 0] = -np.inf
        odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
        distance = self._distance(squashed)
        known = 1 / (1 + np.exp((distance / self.limit - 1) / _SOFTNESS))[..., None]
        share = known * odds / odds.sum(axis=-1, keepdims=True)
        share[..., -1] += 1 - known[..., 0]
        return np.asarray(share)

    def distance(self, z: np.ndarray) -> np.ndarray:
        """(...) radii between (..., V) and the nearest family and severity that was shown."""
        return self._distance(np.arcsinh(z))

    def _distance(self, squashed: np.ndarray) -> np.ndarray:
        here = squashed[..., : len(STATISTICS)] @ self.whitening.T
        squared = (
            (here**2).sum(axis=-1)[..., None]
            - 2 * here @ self.prototypes.T
            + (self.prototypes**2).sum(axis=1)
        )
        return np.asarray(np.sqrt(np.maximum(squared / self.radius**2, 0).min(axis=-1)))

    def classify(self, values: np.ndarray, novel: bool = False) -> Kind:
        """Name the kind of one frame.

        Args:
            values: (V,) from `values`.
            novel: It is known that the frame is out of domain, so that it must be of some kind.

        Raises:
            ValueError: They are not finite, or not so many.
        """
        z = self.z(self._checked(values))
        return self.name(self.probabilities(z, novel), z)

    def name(self, probabilities: np.ndarray, z: np.ndarray) -> Kind:
        """Decide.

        Args:
            probabilities: (11,) of one frame or the mean of several.
            z: (V,) of the same; what is told of it are the statistics.
        """
        best = int(np.argmax(probabilities))
        probability = float(probabilities[best])
        if probability < self.least:
            best, probability = len(CLASSES) - 1, 1 - float(probabilities[:-1].max())
        order = np.argsort(-np.abs(z[: len(STATISTICS)]), kind='stable')[:TOP]
        return Kind(CLASSES[best], probability, tuple((STATISTICS[i], float(z[i])) for i in order))

    def arrays(self) -> dict[str, np.ndarray]:
        """The fields and the names of the statistics, for a file."""
        values = {f.name: np.asarray(getattr(self, f.name), np.float64) for f in fields(self)}
        return values | {'statistics': np.array(STATISTICS)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> KindReference:
        """Undo `arrays`.

        Raises:
            KeyError: A field is missing.
            ValueError: It was fitted on other statistics, or a field is not what it should be.
        """
        if arrays['statistics'].tolist() != list(STATISTICS):
            raise ValueError('kinds were fitted on statistics of another release')
        values = {f.name: np.asarray(arrays[f.name], np.float64) for f in fields(cls)}
        s, p, r = len(STATISTICS), len(values['prototypes']), len(values['whitening'])
        v = max(values['location'].size, s)
        shapes = {
            'location': (v,), 'scale': (v,), 'weights': (len(CLASSES), 2 * v),
            'bias': (len(CLASSES),), 'prototypes': (p, r), 'radius': (p,), 'whitening': (r, s),
            'limit': (), 'least': (),
        }  # fmt: skip
        for name, shape in shapes.items():
            if values[name].shape != shape or not values[name].size:
                raise ValueError(f'kinds: {name} has shape {values[name].shape}, not {shape}')
            if not np.isfinite(values[name]).all():
                raise ValueError(f'kinds: {name} holds numbers that are not finite')
        if any((values[name] <= 0).any() for name in ('scale', 'radius', 'limit')):
            raise ValueError('kinds: a scale is not positive')
        if not 0 <= values['least'] < 1:
            raise ValueError('kinds: the least probability is none')
        return cls(**values)

    def _checked(self, values: np.ndarray) -> np.ndarray:
        values = np.asarray(values, np.float64)
        if values.shape != self.location.shape:
            raise ValueError(f'{values.shape} statistics and features, not {self.location.shape}')
        if not np.isfinite(values).all():
            raise ValueError('statistics or features are not finite')
        return values


class KindWindow:
    """The kind over the last seconds of one camera: the mean of the frames' probabilities.

    Args:
        reference: What the kinds look like.
        window_s: Length of the window, seconds; may be changed at any time.
        max_gap_s: A longer gap between stamps, or a stamp that does not go ahead, starts anew.

    Raises:
        ValueError: `window_s` or `max_gap_s` is not positive.
    """

    def __init__(
        self, reference: KindReference, window_s: float = 5.0, max_gap_s: float = MAX_GAP_S
    ) -> None:
        if not window_s > 0 or not max_gap_s > 0:
            raise ValueError('window_s and max_gap_s must be positive')
        self.reference = reference
        self.window_s, self.max_gap_s = window_s, max_gap_s
        self.reset()

    def reset(self) -> None:
        """Forget all frames."""
        self._frames: deque[tuple[int, np.ndarray]] = deque()

    def forget(self, before_ns: int) -> None:
        """Forget the frames before a time: after an abrupt change the old ones say nothing.

        Args:
            before_ns: Stamp of the first frame that stays.
        """
        while self._frames and self._frames[0][0] < before_ns:
            self._frames.popleft()

    def update(self, stamp_ns: int, values: np.ndarray, novel: bool = False) -> Kind:
        """`append` and `kind`."""
        self.append(stamp_ns, values)
        return self.kind(novel)

    def append(self, stamp_ns: int, values: np.ndarray) -> None:
        """Take in a frame.

        Args:
            stamp_ns: The image's stamp.
            values: (V,) from `KindReference.values`.

        Raises:
            ValueError: They are not finite, or not so many; the window is unchanged.
        """
        z = self.reference.z(self.reference._checked(values))
        if self._frames and not 0 < stamp_ns - self._frames[-1][0] <= self.max_gap_s * 1e9:
            self.reset()
        self._frames.append((stamp_ns, z))
        self.forget(stamp_ns - round(self.window_s * 1e9) + 1)

    def kind(self, novel: bool = False) -> Kind:
        """The kind that the window, of at least one frame, shows.

        Args:
            novel: It is known that the window is out of domain, so that it must be of some kind.
        """
        # Averaged anew each time: a running mean would drift over hours.
        all_z = np.array([frame[1] for frame in self._frames])
        share = self.reference.probabilities(all_z, novel).mean(axis=0)
        return self.reference.name(share, all_z.mean(axis=0))


def descriptor(z: np.ndarray) -> np.ndarray:
    """(..., 2 V) what the logistic regression reads of (..., V): how far, and how far either way.

    The area hyperbolic sine is linear within a standard deviation and logarithmic beyond: a
    severity more is about a step more.
    """
    return both_ways(np.arcsinh(z))


def both_ways(squashed: np.ndarray) -> np.ndarray:
    """(..., 2 V) values and magnitudes of (..., V)."""
    return np.concatenate([squashed, np.abs(squashed)], axis=-1)
