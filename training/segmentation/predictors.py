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

from clcp_ros.bundle import InputSpec, load_bundle
from clcp_ros.classes import ClassSet
from clcp_ros.inference import FEATURES, Prediction, Segmenter, preprocess
from training.models.segmenter import LoadedModel, load_model


class Predictor(Protocol):
    """What evaluation needs of a model."""

    classes: ClassSet
    input: InputSpec
    provenance: dict[str, Any]

    def predict(self, image: np.ndarray) -> Prediction:
        """Logits and features of one (H, W, 3) uint8 RGB image."""


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
        self.predict = Segmenter(bundle, threads=threads).predict


def open_predictor(path: Path) -> Predictor:
    """Open a bundle's folder or a `.safetensors` file.

    Args:
        path: Which of both is told by whether it is a folder.

    Raises:
        BundleError: A damaged bundle.
        ModelError: A file that is not a segmentation model.
    """
    return BundlePredictor(path) if path.is_dir() else TorchPredictor(load_model(path))
