# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Runs a bundle's model on frames.

Training, evaluation, replay and the node share `resize` and `preprocess` (and `decide`): what was
measured is what runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clcp_ros.bundle import Bundle
from clcp_ros.errors import BundleError
from clcp_ros.preprocess import normalize, preprocess, resize
from clcp_ros.runtime import open_session

__all__ = ['FEATURES', 'Prediction', 'Segmenter', 'preprocess', 'resize']

FEATURES = ('early', 'deep')
"""Names of the model's feature outputs, which the shift monitor reads."""


@dataclass(frozen=True)
class Prediction:
    """What the model says of one frame.

    Attributes:
        logits: (C, h, w) float32 on the decoder's grid.
        features: `early` (D1,) and `deep` (D2,), float32.
    """

    logits: np.ndarray
    features: dict[str, np.ndarray]

    @property
    def finite(self) -> bool:
        """Whether logits and features hold no NaN and no infinity."""
        return bool(
            np.isfinite(self.logits).all()
            and all(np.isfinite(f).all() for f in self.features.values())
        )


class Segmenter:
    """A bundle's model, in the library and on the device that `clcp_ros.runtime` chooses.

    Args:
        bundle: A verified bundle.
        providers: Execution providers in order of preference; default: what this machine offers.
        threads: Threads inside an operator; 0 leaves it to the library.
        runtime: One of `clcp_ros.runtime.RUNTIMES`.

    Raises:
        BundleError: The model cannot be loaded or has other inputs or outputs than it should.
    """

    def __init__(
        self,
        bundle: Bundle,
        providers: Sequence[str] | None = None,
        threads: int = 0,
        runtime: str = 'auto',
    ) -> None:
        self.bundle = bundle
        self._session = open_session(bundle.model_path, providers, threads, runtime)
        self._check_interface()

    @property
    def provider(self) -> str:
        """The execution provider that is really used; may change when an accelerator fails."""
        return self._session.provider

    @property
    def runtime(self) -> str:
        """The library that is really used."""
        return self._session.runtime

    @property
    def wanted(self) -> tuple[str, ...]:
        """The execution providers that were asked for; empty when none was."""
        return self._session.wanted

    @property
    def fallback_reason(self) -> str:
        """Why something else than what was wanted runs the model; empty while nothing does."""
        return self._session.fallback_reason

    @property
    def takes_batches(self) -> bool:
        """Whether the model takes any number of frames at once."""
        return self._session.inputs['image'][0] is None

    def _check_interface(self) -> None:
        inputs, outputs = self._session.inputs, self._session.outputs
        spec, path = self.bundle.input, self.bundle.model_path
        if inputs.get('image', ())[1:] != (3, spec.height, spec.width):
            raise BundleError(
                f'{path}: input is {inputs}, not image (N, 3, {spec.height}, {spec.width})'
            )
        if missing := {'logits', *FEATURES} - set(outputs):
            raise BundleError(
                f'{path}: output {", ".join(sorted(missing))} is missing; export again'
            )
        if outputs['logits'][1] != len(self.bundle.classes):
            raise BundleError(
                f'{path}: {outputs["logits"][1]} classes of logits for '
                f'{len(self.bundle.classes)} class names'
            )

    def predict(self, image: np.ndarray) -> Prediction:
        """Run the model on one frame.

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            Logits and features.
        """
        spec = self.bundle.frame
        return self.run(self.prepare(resize(image, spec.height, spec.width)))[0]

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Normalise a frame and cut it into the network's windows.

        Args:
            image: (height, width, 3) uint8 RGB, of the size of `bundle.frame`.

        Returns:
            (W, 3, h, w) float32, W = `bundle.windows`.
        """
        planes = normalize(image, self.bundle.frame)
        return planes[None] if self.bundle.tiling is None else self.bundle.tiling.cut(planes)

    def run(self, batch: np.ndarray) -> list[Prediction]:
        """Run the model on prepared frames.

        Args:
            batch: (N W, 3, h, w) float32, N results of `prepare` one after the other; N is 1
                unless `takes_batches`.

        Returns:
            N predictions.
        """
        names = ['logits', *FEATURES]
        if len(batch) > 1 and not self.takes_batches:
            parts = [self._session.run(names, {'image': window[None]}) for window in batch]
            outputs = [np.concatenate(part) for part in zip(*parts, strict=True)]
        else:
            outputs = self._session.run(names, {'image': batch})
        windows = self.bundle.windows
        return [
            self._prediction(*(output[i : i + windows] for output in outputs))
            for i in range(0, len(batch), windows)
        ]

    def _prediction(self, logits: np.ndarray, *features: np.ndarray) -> Prediction:
        tiling = self.bundle.tiling
        if tiling is None:
            merged, described = logits[0], [feature[0] for feature in features]
        else:
            merged, described = tiling.merge(logits), [f.mean(axis=0) for f in features]
        return Prediction(merged, dict(zip(FEATURES, described, strict=True)))

    def logits(self, batch: np.ndarray) -> np.ndarray:
        """Run the model on prepared frames or windows.

        Args:
            batch: (N, 3, height, width) float32, normalised, of the bundle's input size.

        Returns:
            (N, C, h, w) float32.
        """
        return self._session.run(['logits'], {'image': np.ascontiguousarray(batch)})[0]
