# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A model as evaluation sees it: an image in, logits on the decoder's grid out.

Torch weights and exported bundles go through the same preprocessing as on the robot.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from clcp_ros.bundle import InputSpec, load_bundle
from clcp_ros.classes import ClassSet
from clcp_ros.decision import decide
from clcp_ros.errors import ModelError
from clcp_ros.inference import FEATURES, Prediction, Segmenter, preprocess
from training.models.segmenter import LoadedModel, load_model
from training.segmentation.inference import (
    Decision,
    InferenceConfig,
    decide_on_device,
    slide_logits,
)


class Predictor(Protocol):
    """What evaluation needs of a model."""

    classes: ClassSet
    input: InputSpec
    provenance: dict[str, Any]

    def predict(self, image: np.ndarray) -> Prediction:
        """Logits and features of one (H, W, 3) uint8 RGB image."""

    def segment(self, image: np.ndarray, size: tuple[int, int], how: InferenceConfig) -> Decision:
        """Mask and confidence of one image.

        Args:
            image: (H, W, 3) uint8 RGB.
            size: (height, width) of the mask.
            how: Whole or by windows.
        """


class TorchPredictor:
    """Weights in torch.

    Args:
        loaded: The model; it is moved to the accelerator where there is one.
        device: torch's name of a device; `auto` takes CUDA where there is one.
    """

    def __init__(self, loaded: LoadedModel, device: str = 'auto') -> None:
        if device == 'auto':
            device = 'cuda' if torch.cuda.is_available() else 'cpu'
        self.model = loaded.model.to(device)
        self.device = device
        self.classes, self.input = loaded.classes, loaded.input
        self.provenance = loaded.provenance

    @torch.inference_mode()
    def predict(self, image: np.ndarray) -> Prediction:
        """Run the model on one frame.

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            Logits and features.
        """
        batch = torch.from_numpy(preprocess(image, self.input)[None]).to(self.device)
        output = self.model(batch)
        return Prediction(
            output.logits[0].cpu().numpy(),
            {name: getattr(output, name)[0].cpu().numpy() for name in FEATURES},
        )

    @torch.inference_mode()
    def segment(self, image: np.ndarray, size: tuple[int, int], how: InferenceConfig) -> Decision:
        """Mask and confidence of one image; on a CPU by the robot's own code.

        Args:
            image: (H, W, 3) uint8 RGB.
            size: (height, width) of the mask.
            how: Whole or by windows, of any size that the network takes.
        """
        if how.mode == 'slide':
            logits = slide_logits(image, self.input, how, self._logits, self.device)
            return decide_on_device(logits, *size)
        logits = self._logits(torch.from_numpy(preprocess(image, self.input)[None]))[0]
        if self.device == 'cpu':
            return Decision(*decide(logits.numpy(), *size))
        return decide_on_device(logits, *size)

    def _logits(self, batch: Tensor) -> Tensor:
        return self.model(batch.to(self.device)).logits.float()


class BundlePredictor:
    """An exported bundle in ONNX Runtime, as on the robot.

    Args:
        path: The bundle's folder.
        threads: Threads inside an operator; 0 leaves it to ONNX Runtime.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        bundle = load_bundle(path)
        self.classes, self.input = bundle.classes, bundle.input
        self.provenance = bundle.provenance
        self._segmenter = Segmenter(bundle, threads=threads)
        self.predict = self._segmenter.predict

    def segment(self, image: np.ndarray, size: tuple[int, int], how: InferenceConfig) -> Decision:
        """Mask and confidence of one image.

        Args:
            image: (H, W, 3) uint8 RGB.
            size: (height, width) of the mask.
            how: Whole or by windows of the bundle's input size.

        Raises:
            ModelError: Windows of another size, which an exported model does not take.
        """
        if how.mode == 'whole':
            return Decision(*decide(self.predict(image).logits, *size))
        if how.tiling(self.input).window != (self.input.height, self.input.width):
            raise ModelError(
                f'the bundle takes windows of {self.input.height} x {self.input.width} only; '
                'leave --inference.window out, or evaluate the weights'
            )
        return decide_on_device(slide_logits(image, self.input, how, self._logits), *size)

    def _logits(self, batch: Tensor) -> Tensor:
        return torch.from_numpy(self._segmenter.logits(batch.numpy()))


def open_predictor(path: Path) -> Predictor:
    """Open a bundle's folder or a `.safetensors` file.

    Args:
        path: Which of both is told by whether it is a folder.

    Raises:
        BundleError: A damaged bundle.
        ModelError: A file that is not a segmentation model.
    """
    return BundlePredictor(path) if path.is_dir() else TorchPredictor(load_model(path))
