# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A segmentation model as ONNX, and the proof that both say the same."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch

from clcp_ros.errors import ModelError
from clcp_ros.inference import FEATURES, Segmenter, preprocess
from training.models.segmenter import LoadedModel

OPSET = 20
# Written for opset 20; newer torch states a newer IR that ONNX Runtime 1.17 refuses.
_IR_VERSION = 9
TOLERANCE = 1e-4
"""Largest difference between torch and the exported model, absolute."""


def export_onnx(loaded: LoadedModel, path: Path) -> None:
    """Write a model with input `image` (N, 3, height, width) and outputs logits, early and deep.

    Args:
        loaded: The model; N is free, height and width are its input's.
        path: The .onnx file; weights are inside.

    Raises:
        ModelError: torch cannot export the network.
    """
    example = torch.randn(2, 3, loaded.input.height, loaded.input.width)
    try:
        with _quiet(), torch.no_grad():
            torch.onnx.export(
                loaded.model.eval(), (example,), str(path), dynamo=True, external_data=False,
                opset_version=OPSET, input_names=['image'], output_names=['logits', *FEATURES],
                dynamic_shapes=({0: torch.export.Dim('N')},), verbose=False,
            )  # fmt: skip
    except Exception as error:  # the exporter has many private types
        reason = next((line for line in str(error).splitlines() if line.strip()), '')[:200]
        architecture = loaded.model.encoder.architecture
        raise ModelError(f'{architecture} cannot be exported to ONNX: {reason}') from error
    model = onnx.load(path)
    fold_constants(model)
    model.ir_version = min(model.ir_version, _IR_VERSION)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def fold_constants(model: onnx.ModelProto) -> None:
    """Compute once what is the same for every image, and keep the result.

    A ViT at another size than it was trained at resizes its position embedding, which the exporter
    writes out as a computation. OpenVINO repeats it at every start: seconds at 512 x 512.

    Args:
        model: Changed in place.

    Raises:
        ModelError: The computation fails.
    """
    graph = model.graph
    constant = {i.name for i in graph.initializer}
    folded = []
    for node in graph.node:
        names = [name for name in node.input if name]
        if names and constant.issuperset(names) and not _has_graphs(node):
            folded.append(node)
            constant.update(node.output)
    if not folded:
        return
    kept = [node for node in graph.node if node not in folded]
    used = {name for node in kept for name in node.input} | {o.name for o in graph.output}
    wanted = [name for node in folded for name in node.output if name in used]
    values = _evaluate(model, folded, wanted)
    del graph.node[:]
    graph.node.extend(kept)
    graph.initializer.extend(
        onnx.numpy_helper.from_array(value, name)
        for name, value in zip(wanted, values, strict=True)
    )
    unused = [i for i in graph.initializer if i.name not in used]
    for initializer in unused:
        graph.initializer.remove(initializer)
    for stale in [v for v in graph.value_info if v.name in constant]:
        graph.value_info.remove(stale)


def _has_graphs(node: onnx.NodeProto) -> bool:
    return any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
               for a in node.attribute)  # fmt: skip


def _evaluate(
    model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], wanted: Sequence[str]
) -> list[np.ndarray]:
    read = {name for node in nodes for name in node.input}
    part = onnx.helper.make_model(
        onnx.helper.make_graph(
            nodes, 'constants', [],
            [onnx.helper.make_empty_tensor_value_info(name) for name in wanted],
            [i for i in model.graph.initializer if i.name in read],
        ),
        opset_imports=model.opset_import, ir_version=_IR_VERSION,
    )  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            part.SerializeToString(), options, providers=['CPUExecutionProvider']
        )
        return list(session.run(list(wanted), {}))
    except Exception as error:  # the run time raises many private types
        raise ModelError(f'constants of the exported model: {error}') from error


def verify_onnx(
    loaded: LoadedModel, segmenter: Segmenter, images: Sequence[np.ndarray]
) -> dict[str, float]:
    """Compare torch with the exported model on frames.

    Args:
        loaded: The model in torch.
        segmenter: The exported one, as the robot runs it.
        images: (H, W, 3) uint8 RGB each.

    Returns:
        Largest absolute difference of each output.

    Raises:
        ModelError: One is larger than `TOLERANCE`.
    """
    worst = dict.fromkeys(('logits', *FEATURES), 0.0)
    for image in images:
        batch = torch.from_numpy(preprocess(image, loaded.input)[None])
        with torch.inference_mode():
            expected = loaded.model.cpu()(batch)
        found = segmenter.predict(image)
        for name in worst:
            array = found.logits if name == 'logits' else found.features[name]
            difference = np.abs(array - getattr(expected, name)[0].numpy()).max()
            # NaN compares false with everything: it must not pass as small.
            worst[name] = float(np.fmax(worst[name], np.nan_to_num(difference, nan=np.inf)))
    if bad := {k: v for k, v in worst.items() if not v <= TOLERANCE}:
        figures = ', '.join(f'{k} by {v:.2g}' for k, v in bad.items())
        raise ModelError(f'the exported model differs from torch: {figures} (> {TOLERANCE})')
    return worst


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch's exporter, which prints, logs and warns about its own insides."""
    loggers = [logging.getLogger(name) for name in ('torch.onnx', 'onnxscript', 'onnx_ir')]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter('ignore')
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
