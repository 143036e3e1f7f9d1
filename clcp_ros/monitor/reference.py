# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the monitor knows of the training domain, and how far a frame is from it.

A frame is described at three taps: `low` (statistics of the raw image), `early` (an early-middle
block of the encoder) and `deep` (its last block). At each tap the training frames give a Gaussian
with a low-rank covariance plus isotropic residual (Tipping and Bishop 1999); the logarithm of the
Mahalanobis distance is standardised on held-out drives of the same domain, since frames that the
Gaussian was fitted on score better than any new frame. Novelty is the mean of the taps,
standardised in the same way: its unit is one standard deviation of new in-domain frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from zipfile import BadZipFile

import numpy as np

from clcp_ros.errors import BundleError

TAPS = ('low', 'early', 'deep')
_CLIP = 30.0  # of a standardised channel: one dead channel must not decide alone
_TAP_FIELDS = (
    'mean', 'scale', 'components', 'variances', 'residual_variance', 'location', 'spread',
)  # fmt: skip


@dataclass(frozen=True)
class TapReference:
    """The training domain at one tap; D channels, k components.

    Attributes:
        mean: (D,) of the training frames.
        scale: (D,) standard deviation, floored.
        components: (k, D) orthonormal directions of standardised channels.
        variances: (k,) along the components.
        residual_variance: () per channel, off the components.
        location: () median of the log distance on held-out frames.
        spread: () robust standard deviation of the same.
    """

    # Of a tap's score: no single tap decides alone, however far it is off.
    Z_RANGE: ClassVar[tuple[float, float]] = (-4.0, 12.0)

    mean: np.ndarray
    scale: np.ndarray
    components: np.ndarray
    variances: np.ndarray
    residual_variance: np.ndarray
    location: np.ndarray
    spread: np.ndarray

    def log_distance(self, x: np.ndarray) -> float:
        """Logarithm of the Mahalanobis distance per channel.

        Args:
            x: (D,) a frame's description at this tap.

        Returns:
            log(sqrt(d² / D)).
        """
        z = np.clip((x.astype(np.float64) - self.mean) / self.scale, -_CLIP, _CLIP)
        along = self.components @ z
        residual = max(float(z @ z - along @ along), 0.0)
        squared = float(np.sum(along**2 / self.variances)) + residual / float(
            self.residual_variance
        )
        return 0.5 * float(np.log(squared / z.size + 1e-12))

    def z(self, x: np.ndarray) -> float:
        """The distance in standard deviations of held-out in-domain frames, within (-4, 12)."""
        z = (self.log_distance(x) - self.location) / self.spread
        return float(np.clip(z, *self.Z_RANGE))


@dataclass(frozen=True)
class FrameScore:
    """How far one frame is from the training domain, in standard deviations.

    Attributes:
        novelty: All taps together.
        low: Raw image statistics alone.
        early: Early-middle features alone.
        deep: Last features alone.
    """

    novelty: float
    low: float
    early: float
    deep: float


@dataclass(frozen=True)
class ShiftReference:
    """The training domain at all taps.

    Attributes:
        low: Statistics of the raw image.
        early: Early-middle features.
        deep: Last features.
        location: () mean of the taps' mean on held-out frames.
        spread: () its standard deviation.
        model_sha256: () str, hash of the model whose features these are.
    """

    low: TapReference
    early: TapReference
    deep: TapReference
    location: np.ndarray
    spread: np.ndarray
    model_sha256: str

    def score(self, statistics: np.ndarray, features: dict[str, np.ndarray]) -> FrameScore:
        """Score a frame.

        Args:
            statistics: (S,) from `image_statistics`.
            features: `early` (D1,) and `deep` (D2,) from the model.

        Returns:
            Novelty and its parts.
        """
        z = [
            self.low.z(statistics),
            self.early.z(normalized(features['early'])),
            self.deep.z(normalized(features['deep'])),
        ]
        return FrameScore(float((np.mean(z) - self.location) / self.spread), *z)

    def save(self, path: Path) -> None:
        """Write arrays only.

        Args:
            path: File name ending in .npz.
        """
        arrays = {
            f'{tap}.{name}': np.asarray(getattr(getattr(self, tap), name))
            for tap in TAPS
            for name in _TAP_FIELDS
        }
        np.savez_compressed(
            path,
            allow_pickle=False,
            location=self.location,
            spread=self.spread,
            model_sha256=np.array(self.model_sha256),
            **arrays,
        )

    @classmethod
    def load(cls, path: Path, model_sha256: str) -> ShiftReference:
        """Read a reference and check that it belongs to the model.

        Args:
            path: The .npz file.
            model_sha256: Hash of the model in use.

        Raises:
            BundleError: The file is damaged or was fitted on another model's features.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                taps = {
                    tap: TapReference(**{n: arrays[f'{tap}.{n}'] for n in _TAP_FIELDS})
                    for tap in TAPS
                }
                reference = cls(
                    **taps,
                    location=arrays['location'],
                    spread=arrays['spread'],
                    model_sha256=str(arrays['model_sha256']),
                )
        except (OSError, ValueError, KeyError, BadZipFile, EOFError) as error:
            raise BundleError(f'{path}: not a monitor reference ({error}); export again') from None
        if reference.model_sha256 != model_sha256:
            raise BundleError(
                f'{path}: fitted on features of another model '
                f'({reference.model_sha256[:12]}, not {model_sha256[:12]}); export again'
            )
        return reference


def normalized(features: np.ndarray) -> np.ndarray:
    """L2-normalise features, which makes Mahalanobis distances comparable (Müller & Hein 2025).

    Args:
        features: (D,) any float type.

    Returns:
        (D,) float64.
    """
    x = features.astype(np.float64)
    return x / (np.linalg.norm(x) + 1e-12)
