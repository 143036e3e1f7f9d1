# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What happens to one camera's frame, without ROS: the node and replay both run this."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clcp_ros.bundle import Bundle, load_bundle
from clcp_ros.decision import decide
from clcp_ros.inference import Segmenter
from clcp_ros.monitor import MonitorConfig, ShiftMonitor, ShiftReference, ShiftState


@dataclass(frozen=True)
class FrameResult:
    """The result of one frame.

    Attributes:
        stamp_ns: Stamp of the frame.
        mask: (H, W) uint8 class ids, 255 = unlabelled.
        confidence: (H, W) uint8, 255 stands for probability 1.
        shift: The monitor's verdict.
        seconds: Time spent on the model and on everything, by name (monotonic clock).
    """

    stamp_ns: int
    mask: np.ndarray
    confidence: np.ndarray
    shift: ShiftState
    seconds: dict[str, float]


class FramePipeline:
    """Segments and judges the frames of one camera.

    Args:
        bundle: A verified bundle, or the folder of one.
        monitor: Thresholds of the monitor.
        providers: ONNX Runtime execution providers in order of preference.
        threads: Threads inside an operator; 0 leaves it to ONNX Runtime.
        image_resolution: Masks at the image's resolution instead of the network's.

    Raises:
        BundleError: The bundle cannot be used.
    """

    def __init__(
        self,
        bundle: Bundle | str | Path,
        *,
        monitor: MonitorConfig | None = None,
        providers: list[str] | None = None,
        threads: int = 0,
        image_resolution: bool = False,
    ) -> None:
        self.bundle = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
        self.segmenter = Segmenter(self.bundle, providers, threads)
        reference = ShiftReference.load(
            self.bundle.reference_path, self.bundle.sha256[self.bundle.model_path.name]
        )
        self.monitor = ShiftMonitor(reference, monitor)
        self.image_resolution = image_resolution

    def process(self, image: np.ndarray, stamp_ns: int) -> FrameResult:
        """Segment a frame and judge it.

        Args:
            image: (H, W, 3) uint8 RGB.
            stamp_ns: The image's acquisition stamp.

        Returns:
            Mask, confidence and the monitor's verdict. A frame with non-finite logits gives a mask
            that is unlabelled everywhere, with confidence 0.
        """
        start = time.perf_counter()
        prediction = self.segmenter.predict(image)
        modelled = time.perf_counter()
        spec = self.bundle.input
        size = image.shape[:2] if self.image_resolution else (spec.height, spec.width)
        if prediction.finite:
            mask, confidence = decide(prediction.logits, *size)
        else:
            mask, confidence = np.full(size, 255, np.uint8), np.zeros(size, np.uint8)
        shift = self.monitor.update(stamp_ns, image, prediction.features)
        seconds = {'model': modelled - start, 'total': time.perf_counter() - start}
        return FrameResult(stamp_ns, mask, confidence, shift, seconds)
