# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Smaller ONNX models: half precision, or 8-bit integers calibrated on frames.

Input and outputs stay float32, so that nothing else of a bundle changes. What it costs in quality
has to be measured (`compare`); what it gains depends on the machine, see docs/performance.md.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from clcp_ros.bundle import InputSpec
from clcp_ros.decision import decide
from clcp_ros.errors import ModelError
from clcp_ros.inference import Segmenter, preprocess
from training.segmentation.metrics import ConfusionMatrix

Precision = Literal['fp32', 'fp16', 'int8']

QUANTIZED = ('Conv', 'MatMul', 'Gemm')
"""Operators with weights; norms, softmax and what lies between stay float32."""


def to_half(source: Path, target: Path) -> None:
    """Write a model whose weights and arithmetic are float16.

    Args:
        source: A float32 model.
        target: The file to write.

    Raises:
        ModelError: The converter refuses the model.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    try:
        with _quiet():
            onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), target)
    except Exception as error:  # the converter raises many private types
        raise ModelError(f'{source.name} cannot be made float16: {_first_line(error)}') from error


def to_int8(source: Path, target: Path, images: Sequence[np.ndarray], spec: InputSpec) -> None:
    """Write a model whose convolutions and matrix products are of 8-bit integers.

    Static quantization in the QDQ format: weights per channel, activations by the range that they
    take on the given frames, both symmetric around zero. (With a zero point of their own, which
    has finer steps, three times as many pixels changed their class.)

    Args:
        source: A float32 model.
        target: The file to write.
        images: (H, W, 3) uint8 RGB each, of the training domain.
        spec: Input of the model.

    Raises:
        ModelError: No frames, or the quantizer refuses the model.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    if not images:
        raise ModelError('int8 needs frames to calibrate on')
    try:
        with _quiet(), tempfile.TemporaryDirectory() as folder:
            prepared = Path(folder) / 'prepared.onnx'
            # Symbolic inference fails on exported ViTs; the ordinary one finds what is needed.
            quant_pre_process(source, prepared, skip_symbolic_shape=True)
            quantize_static(
                prepared, target, _Calibration(images, spec), quant_format=QuantFormat.QDQ,
                per_channel=True, activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
                op_types_to_quantize=list(QUANTIZED), extra_options={'ActivationSymmetric': True},
            )  # fmt: skip
    except Exception as error:  # the quantizer raises many private types
        raise ModelError(f'{source.name} cannot be quantized: {_first_line(error)}') from error


@dataclass(frozen=True)
class Comparison:
    """What a reduced model does differently.

    Attributes:
        agreement: Share of the labelled pixels with the same class, in [0, 1].
        miou: Of the full model, in [0, 1].
        reduced_miou: Of the reduced one.
        frames: Frames compared.
    """

    agreement: float
    miou: float
    reduced_miou: float
    frames: int

    def __str__(self) -> str:
        change = 100 * (self.reduced_miou - self.miou)
        return (
            f'same class in {self.agreement:.2%} of the pixels, mIoU {100 * self.miou:.2f} -> '
            f'{100 * self.reduced_miou:.2f} ({change:+.2f}) on {self.frames} frames'
        )


def compare(
    full: Segmenter, reduced: Segmenter, frames: Iterable[tuple[np.ndarray, np.ndarray]]
) -> Comparison:
    """Run two models on labelled frames.

    Args:
        full: In float32.
        reduced: The same in another precision.
        frames: Image (H, W, 3) uint8 RGB and label (H, W) uint8.
    """
    classes = len(full.bundle.classes)
    matrices, same, total, count = [ConfusionMatrix(classes) for _ in range(2)], 0, 0, 0
    for image, label in frames:
        masks = [decide(m.predict(image).logits, *label.shape)[0] for m in (full, reduced)]
        for matrix, mask in zip(matrices, masks, strict=True):
            matrix.update(mask, label)
        labelled = label < classes
        same += int((masks[0] == masks[1])[labelled].sum())
        total += int(labelled.sum())
        count += 1
    if not total:
        raise ModelError('no labelled pixel to compare the precisions on')
    return Comparison(same / total, matrices[0].miou(), matrices[1].miou(), count)


class _Calibration:
    """Frames one at a time, as ONNX Runtime's calibration asks for them."""

    def __init__(self, images: Sequence[np.ndarray], spec: InputSpec) -> None:
        self._images, self._spec = iter(images), spec

    def get_next(self) -> dict[str, Any] | None:
        """The next batch of one, or None."""
        image = next(self._images, None)
        return None if image is None else {'image': preprocess(image, self._spec)[None]}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the quantizer's advice on preprocessing."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
