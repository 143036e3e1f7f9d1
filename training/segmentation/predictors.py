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
from clcp_ros.inference import FEATURES, Prediction, Segmenter, preprocess, resize
from training.models.segmenter import LoadedModel
from training.models.segmenter_files import open_model
from training.segmentation.inference import (
    Decision,
    InferenceConfig,
    Plan,
    decide_on_device,
    plan_windows,
)
from training.sparse.matmul import fast_products


class Predictor(Protocol):
    """What evaluation needs of a model."""

    classes: ClassSet
    input: InputSpec
    provenance: dict[str, Any]

    def predict(self, image: np.ndarray) -> Prediction:
        """Logits and features of one (H, W, 3) uint8 RGB image."""

    def plan(self, image: np.ndarray, size: tuple[int, int], how: InferenceConfig) -> Plan:
        """What the network has to see of one image; may run in any thread.

        Args:
            image: (H, W, 3) uint8 RGB.
            size: (height, width) of the mask.
            how: Whole or by windows.
        """

    def logits(self, windows: Tensor) -> Tensor:
        """Run the network.

        Args:
            windows: (B, 3, h, w) float32 of one plan or several.

        Returns:
            (B, C, h', w') float32, where the network is.
        """

    def segment(self, image: np.ndarray, size: tuple[int, int], how: InferenceConfig) -> Decision:
        """Mask and confidence of one image; for many, see `training.segmentation.stream`.

        Args:
            image: (H, W, 3) uint8 RGB.
            size: (height, width) of the mask.
            how: Whole or by windows.
        """


class _Predictor:
    def plan(self, image: np.ndarray, size: tuple[int, int], how: InferenceConfig) -> Plan:
        raise NotImplementedError

    def logits(self, windows: Tensor) -> Tensor:
        raise NotImplementedError

    def segment(self, image: np.ndarray, size: tuple[int, int], how: InferenceConfig) -> Decision:
        """Mask and confidence of one image.

        Args:
            image: (H, W, 3) uint8 RGB.
            size: (height, width) of the mask.
            how: Whole or by windows.

        Raises:
            ModelError: Windows that the network does not take.
        """
        plan = self.plan(image, size, how)
        parts = [self.logits(windows) for windows in plan.windows.split(how.batch_size)]
        return plan.finish(torch.cat(parts))


class TorchPredictor(_Predictor):
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
        with fast_products():
            output = self.model(batch)
        return Prediction(
            output.logits[0].cpu().numpy(),
            {name: getattr(output, name)[0].cpu().numpy() for name in FEATURES},
        )

    def plan(self, image: np.ndarray, size: tuple[int, int], how: InferenceConfig) -> Plan:
        """Windows of any size that the network takes; whole frames on a CPU by the robot's code.

        Args:
            image: (H, W, 3) uint8 RGB.
            size: (height, width) of the mask.
            how: Whole or by windows.
        """
        if how.mode == 'slide':
            plan = plan_windows(image, size, self.input, how)
        else:
            plan = Plan(
                torch.from_numpy(preprocess(image, self.input)[None]),
                lambda logits: _decide(logits[0], size),
            )
        if self.device == 'cpu':
            return plan
        return plan._replace(windows=plan.windows.pin_memory())

    @torch.inference_mode()
    def logits(self, windows: Tensor) -> Tensor:
        """Run the network.

        Args:
            windows: (B, 3, h, w) float32.

        Returns:
            (B, C, h', w') float32 on the network's device.
        """
        with fast_products():
            logits: Tensor = self.model(windows.to(self.device, non_blocking=True)).logits
        return logits.float()


def _decide(logits: Tensor, size: tuple[int, int]) -> Decision:
    if logits.device.type == 'cpu':
        return Decision(*decide(logits.numpy(), *size))
    return decide_on_device(logits, *size)


class BundlePredictor(_Predictor):
    """An exported bundle in the runtime of the robot.

    Args:
        path: The bundle's folder.
        threads: Threads inside an operator; 0 leaves it to the runtime.
        runtime: One of `clcp_ros.runtime.RUNTIMES`.
    """

    def __init__(self, path: Path, threads: int = 0, runtime: str = 'auto') -> None:
        self._bundle = load_bundle(path)
        self.classes, self.input = self._bundle.classes, self._bundle.input
        self.provenance = self._bundle.provenance
        self._segmenter = Segmenter(self._bundle, threads=threads, runtime=runtime)
        self.predict = self._segmenter.predict

    def plan(self, image: np.ndarray, size: tuple[int, int], how: InferenceConfig) -> Plan:
        """As on the robot, or by windows of the bundle's input size.

        Args:
            image: (H, W, 3) uint8 RGB.
            size: (height, width) of the mask.
            how: `whole` is what the robot does, windows included where the bundle has some.

        Raises:
            ModelError: Windows of another size, which an exported model does not take.
        """
        if how.mode == 'slide':
            if how.tiling(self.input).window != (self.input.height, self.input.width):
                raise ModelError(
                    f'the bundle takes windows of {self.input.height} x {self.input.width} only; '
                    'leave --inference.window out, or evaluate the weights'
                )
            return plan_windows(image, size, self.input, how)
        frame, tiling = self._bundle.frame, self._bundle.tiling

        def finish(logits: Tensor) -> Decision:
            array = logits.numpy()
            return Decision(*decide(array[0] if tiling is None else tiling.merge(array), *size))

        windows = self._segmenter.prepare(resize(image, frame.height, frame.width))
        return Plan(torch.from_numpy(windows), finish)

    def logits(self, windows: Tensor) -> Tensor:
        """Run the network.

        Args:
            windows: (B, 3, h, w) float32.

        Returns:
            (B, C, h', w') float32.
        """
        return torch.from_numpy(self._segmenter.logits(windows.numpy()))


def open_predictor(path: Path) -> Predictor:
    """Open a bundle's folder or weights.

    Args:
        path: Which of both is told by whether it is a folder.

    Raises:
        BundleError: A damaged bundle.
        ModelError: A file that is not a segmentation model.
    """
    return BundlePredictor(path) if path.is_dir() else TorchPredictor(open_model(path))
