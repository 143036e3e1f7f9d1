# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From an image to logits: resize, normalise, run the model.

Training, evaluation, replay and the node share `resize` and `preprocess` (and `decide`): what was
measured is what runs.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from clcp_ros.bundle import Bundle, InputSpec
from clcp_ros.errors import BundleError

_logger = logging.getLogger(__name__)

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


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize an image as the robot does: by area when shrinking, else bilinearly.

    Args:
        image: (H, W, 3) uint8.
        height: New height.
        width: New width.

    Returns:
        (height, width, 3) uint8.
    """
    if image.shape[:2] == (height, width):
        return image
    shrinking = image.shape[0] >= height and image.shape[1] >= width
    interpolation = cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=interpolation)


def preprocess(image: np.ndarray, spec: InputSpec) -> np.ndarray:
    """Resize and normalise an image for the network.

    Args:
        image: (H, W, 3) uint8 RGB.
        spec: Geometry and normalisation.

    Returns:
        (3, height, width) float32.
    """
    image = resize(image, spec.height, spec.width)
    mean = np.asarray(spec.mean, np.float32) * 255
    scale = 1 / (np.asarray(spec.std, np.float32) * 255)
    return np.ascontiguousarray(((image - mean) * scale).transpose(2, 0, 1))


class Segmenter:
    """A bundle's model in ONNX Runtime.

    Args:
        bundle: A verified bundle.
        providers: Execution providers in order of preference; default: what this machine offers.
        threads: Threads inside an operator; 0 leaves it to ONNX Runtime.

    Raises:
        BundleError: The model cannot be loaded or has other inputs or outputs than it should.
    """

    def __init__(
        self, bundle: Bundle, providers: Sequence[str] | None = None, threads: int = 0
    ) -> None:
        import onnxruntime

        self.bundle = bundle
        # The Azure provider of the CPU wheel is a remote service and runs no model here.
        offered = [p for p in onnxruntime.get_available_providers() if not p.startswith('Azure')]
        wanted = [p for p in (providers or offered) if p in offered]
        if missing := [p for p in providers or () if p not in offered]:
            _logger.warning(
                'execution providers %s are not in this ONNX Runtime, which offers %s',
                missing, offered,
            )  # fmt: skip
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Spinning workers would take the core that decodes and publishes.
        options.add_session_config_entry('session.intra_op.allow_spinning', '0')
        # Tiny values in dark frames are an order of magnitude slower as denormals.
        options.add_session_config_entry('session.set_denormal_as_zero', '1')
        try:
            self._session = onnxruntime.InferenceSession(
                str(bundle.model_path), options, providers=wanted or ['CPUExecutionProvider']
            )
        except Exception as error:  # the run time raises many private types
            raise BundleError(f'{bundle.model_path}: cannot be loaded: {error}') from error
        self._check_interface()
        self.provider: str = self._session.get_providers()[0]
        """The execution provider that is really used."""
        self.wanted = tuple(providers or ())
        """The execution providers that were asked for; empty when none was."""
        self.fallback_reason = ''
        """Why the accelerator was left for the CPU; empty while it was not."""
        self.takes_batches = not isinstance(self._session.get_inputs()[0].shape[0], int)
        """Whether the model takes any number of frames at once."""

    def _check_interface(self) -> None:
        inputs = {i.name: i.shape for i in self._session.get_inputs()}
        outputs = {o.name: o.shape for o in self._session.get_outputs()}
        spec, path = self.bundle.input, self.bundle.model_path
        if inputs.get('image', [])[1:] != [3, spec.height, spec.width]:
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
        return self.run(preprocess(image, self.bundle.input)[None])[0]

    def run(self, batch: np.ndarray) -> list[Prediction]:
        """Run the model on prepared frames.

        Args:
            batch: (N, 3, height, width) float32, normalised; N is 1 unless `takes_batches`.

        Returns:
            N predictions.
        """
        logits, *features = self._session.run(['logits', *FEATURES], {'image': batch})
        return [
            Prediction(one, {name: f[i] for name, f in zip(FEATURES, features, strict=True)})
            for i, one in enumerate(logits)
        ]

    def logits(self, batch: np.ndarray) -> np.ndarray:
        """Run the model on prepared frames or windows.

        Args:
            batch: (N, 3, height, width) float32, normalised, of the bundle's input size.

        Returns:
            (N, C, h, w) float32.
        """
        return self._session.run(['logits'], {'image': np.ascontiguousarray(batch)})[0]
