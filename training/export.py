# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Make a bundle of a finetuned model: what the node and the replay run.

Writes the network as ONNX, checks it against torch on real frames, and fits the shift monitor on
what the exported network itself says of frames of the training domain. The bundle appears whole or
not at all. Without arguments it exports what finetune wrote.
"""

from __future__ import annotations

if __package__ in (None, ''):
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import training  # noqa: F401  # first: it sets how torch's threads wait

import contextlib
import hashlib
import importlib.metadata
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from tqdm import tqdm

from clcp_ros import bundle as bundle_files
from clcp_ros.bundle import Bundle, load_bundle, sha256_of, write_description
from clcp_ros.errors import BundleError, ModelError
from clcp_ros.inference import Segmenter
from clcp_ros.tiling import FrameTiling, Tiling
from training.cli import atomic_path, git_commit, next_step, run_command
from training.defaults import BUNDLE, MODEL
from training.evaluate import RESULT as EVALUATION
from training.latency import print_latencies
from training.models.segmenter import LoadedModel
from training.models.segmenter_files import open_model
from training.monitoring.card import summary, write_monitor
from training.monitoring.domain import LabelledDomain, Source, labelled_domain
from training.monitoring.fit import FitOptions, fit_knowledge
from training.onnx_export import export_onnx, verify_onnx
from training.onnx_reduce import Comparison, Precision, compare, to_half, to_int8
from training.segmentation.frames import DATA, Frame
from training.segmentation.labels import read_image
from training.segmentation.listing import thinned

_logger = logging.getLogger(__name__)

_VERIFIED_FRAMES = 4
_CALIBRATION_FRAMES = 64
_COMPARED_FRAMES = 50


def export(
    model: Path = MODEL,
    data: Path = DATA,
    out: Path = BUNDLE,
    split: str = 'train',
    conditions: str = '',
    held_out: str = '',
    layout: str = 'auto',
    evaluation: Path | None = None,
    name: str = '',
    max_frames: int = 400,
    false_alarm_interval_h: float = 8.0,
    corruptions: str = 'all',
    precision: Precision = 'fp32',
    frame_size: tuple[int, int] | None = None,
    stride: tuple[int, int] | None = None,
    benchmark: bool = False,
    overwrite: bool = False,
) -> Path:
    """Export a bundle; reuse the one that is there when it was made of the same inputs.

    Args:
        model: Weights that finetune wrote.
        data: Labelled frames of the training domain, whose images the monitor is fitted on.
        out: Folder of the bundle; one that is there is replaced.
        split: Frames that the monitor's reference is fitted on.
        conditions: Conditions that count as the training domain, as in day,clear; empty takes
            those that the model was trained on.
        held_out: Split whose drives in these conditions calibrate the monitor; empty leaves each
            drive of the fitted split out in turn, or each third of one when drives are few.
        layout: Layout of the data; auto guesses.
        evaluation: What evaluate wrote, for the record; default: beside the model.
        name: Name of the bundle; default: network and class set.
        max_frames: Most frames for the fit, and for a calibration on held-out drives.
        false_alarm_interval_h: Hours of normal driving between two false alarms of one camera that
            the monitor's thresholds are solved for; the card says what the frames support.
        corruptions: all, none, or families with commas, from which the monitor learns what
            degraded frames look like and cost.
        precision: fp16 halves the file, for accelerators; int8 is calibrated on frames of the fit.
            What changes in the masks is reported.
        frame_size: Height and width that frames are resized to and then seen through windows of
            the network's input size, whose logits are averaged; none for whole frames.
        stride: Height and width between windows; none for about two thirds of one.
        benchmark: Also print the time of a frame for each runtime and execution provider of this
            machine.
        overwrite: Export anew even if nothing changed.

    Returns:
        The bundle's folder.

    Raises:
        ModelError: The model cannot be read or exported, ONNX differs from torch, or the windows
            do not fit the frame.
        LabelError: The data are missing, or too few.
        BundleError: `out` is something else than a bundle.
    """
    loaded = open_model(model)
    if not onnx_sized(loaded):
        raise ModelError(f'{model}: more than 2 GB of weights do not fit one ONNX file')
    tiling = frame_tiling(loaded, frame_size, stride)
    options = FitOptions(false_alarm_interval_h, corruptions)
    _ = options.families  # a typing error shall not cost an export
    trained = loaded.provenance.get('data') or {}
    chosen = labelled_domain(
        data, loaded.classes, trained, split, conditions, held_out, layout, max_frames
    )
    domain = chosen.domain
    name = name or f'{loaded.model.encoder.architecture} {loaded.classes.name}'
    model_sha256 = sha256_of(model)
    inputs = {
        'name': name,
        'model_sha256': model_sha256,
        'precision': precision,
        'tiling': None if tiling is None else json.loads(json.dumps(asdict(tiling))),
        'monitor': {
            'fit': _record(domain.fit),
            'held_out': _record(domain.calibration),
            'labelled': _record(domain.labelled),
            'calibration': domain.how,
            'options': asdict(options),
        },
        'metrics': _metrics(evaluation or model.parent / EVALUATION, model_sha256),
    }
    if out.exists() and not (out / bundle_files.DESCRIPTION).is_file() and any(out.iterdir()):
        raise BundleError(f'{out} exists and is no bundle: not replaced; choose another --out')
    if not overwrite and _is_made_of(out, inputs):
        print(f'{out}: already exported from the same inputs')
        if benchmark:
            print_latencies(out)
        return out
    cache = out.with_name(f'.{out.name}.monitor')
    with atomic_path(out) as folder:
        folder.mkdir()
        export_onnx(loaded, folder / bundle_files.MODEL)
        bundle = Bundle(folder, name, loaded.classes, loaded.input)
        segmenter = Segmenter(bundle, ['CPUExecutionProvider'])
        images = [read_image(f.image) for f in thinned(chosen.frames, _VERIFIED_FRAMES)]
        differences = verify_onnx(loaded, segmenter, images)
        if segmenter.runtime != 'onnxruntime':  # which runs it where the other is not installed
            plain = verify_onnx(loaded, Segmenter(bundle, runtime='onnxruntime'), images)
            differences = {name: max(d, plain[name]) for name, d in differences.items()}
        change = None
        if precision != 'fp32':
            segmenter, change = _reduce(bundle, segmenter, precision, chosen)
        if tiling is not None:
            bundle = replace(bundle, tiling=tiling)
            segmenter = Segmenter(bundle, ['CPUExecutionProvider'])
        sha256 = sha256_of(folder / bundle_files.MODEL)
        fit = fit_knowledge(segmenter, domain, options, model_sha256=sha256, cache=cache)
        write_monitor(folder, fit.knowledge, fit.card)
        write_description(
            folder, name=name, classes=loaded.classes, input_spec=loaded.input,
            provenance=_provenance(loaded, inputs, domain.how, differences, change), tiling=tiling,
        )  # fmt: skip
        load_bundle(folder)
    shutil.rmtree(cache, ignore_errors=True)
    size = sum(f.stat().st_size for f in out.iterdir()) / 1e6
    print(
        f'wrote {out}: {size:.1f} MB, {_seen(loaded, tiling)}, '
        f'{len(loaded.classes)} classes; ONNX differs from torch by '
        f'{max(differences.values()):.1g} at most; monitor: {domain.how}'
    )
    for line in summary(fit.card):
        print(f'  {line}')
    if reservation := fit.knowledge.reservation():
        print(f'the node will say at start: {reservation}')
    if change is not None:
        print(f'{precision} against fp32: {change}')
    if benchmark:
        print_latencies(out)
    return out


def frame_tiling(
    loaded: LoadedModel, frame_size: tuple[int, int] | None, stride: tuple[int, int] | None
) -> FrameTiling | None:
    """The windows that frames are seen through.

    Args:
        loaded: The model; a window is its input.
        frame_size: Height and width of the resized frame; None for no windows.
        stride: Between windows; None takes the multiple of the network's grid next to two thirds.

    Raises:
        ModelError: The windows do not fit the frame or the network's grid.
    """
    if frame_size is None:
        if stride is not None:
            raise ModelError('a stride belongs to windows: give --frame_size, too')
        return None
    window = loaded.input.height, loaded.input.width
    with torch.inference_mode():
        logits = loaded.model(torch.zeros(1, 3, *window)).logits
    grid = logits.shape[2], logits.shape[3]
    if stride is None:
        cells = [max(1, round(2 * points / 3)) for points in grid]
        stride = cells[0] * window[0] // grid[0], cells[1] * window[1] // grid[1]
    tiling = FrameTiling(*frame_size, Tiling(window, stride))
    tiling.cell(grid)
    return tiling


def _seen(loaded: LoadedModel, tiling: FrameTiling | None) -> str:
    size = f'{loaded.input.height} x {loaded.input.width}'
    if tiling is None:
        return size
    return f'{len(tiling.corners)} windows of {size} in {tiling.height} x {tiling.width}'


def _reduce(
    bundle: Bundle, full: Segmenter, precision: Precision, chosen: LabelledDomain
) -> tuple[Segmenter, Comparison]:
    """Put a smaller model in the place of the bundle's, and say what that changes."""
    reduced = bundle.path / 'reduced.onnx'
    seen: list[Frame] = []
    if precision == 'fp16':
        to_half(bundle.model_path, reduced)
    else:
        seen = thinned(chosen.frames, _CALIBRATION_FRAMES)
        to_int8(bundle.model_path, reduced, [read_image(f.image) for f in seen], bundle.input)
    reduced.replace(bundle.model_path)
    segmenter = Segmenter(bundle, ['CPUExecutionProvider'])
    # Other frames than those of the calibration, where there are more.
    unseen = [f for f in chosen.frames if f not in seen]
    others = thinned(unseen or chosen.frames, _COMPARED_FRAMES)
    frames = (chosen.read(f) for f in tqdm(others, desc=f'compare {precision}', unit='frame'))
    return segmenter, compare(full, segmenter, frames)


def onnx_sized(loaded: LoadedModel) -> bool:
    """Whether the weights fit into one ONNX file.

    Args:
        loaded: The model.
    """
    return sum(p.numel() * p.element_size() for p in loaded.model.parameters()) < 2**31 - 2**20


def _record(sources: Sequence[Source]) -> dict[str, Any]:
    keys = '\n'.join(source.key for source in sources)
    return {
        'frames': sum(source.count or 0 for source in sources),
        'drives': len({source.drive for source in sources}),
        'keys_sha256': hashlib.sha256(keys.encode()).hexdigest(),
    }


def _metrics(evaluation: Path, model_sha256: str) -> dict[str, Any] | None:
    """Figures of an evaluation, if it is of this model."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads(evaluation.read_text())
        if found['model_sha256'] == model_sha256:
            return {
                'data': found['data'],
                'split': found['split'],
                'simulated': found['simulated'],
                'source': found['source'],
                'mean_rpd': found['mean_rpd'],
                'miou': {name: c['miou'] for name, c in found['conditions'].items()},
            }
        _logger.warning('%s is of another model: left out', evaluation)
    return None


def _is_made_of(out: Path, inputs: dict[str, Any]) -> bool:
    with contextlib.suppress(BundleError):
        return load_bundle(out).provenance.get('inputs') == inputs
    return False


def _provenance(
    loaded: LoadedModel,
    inputs: dict[str, Any],
    how: str,
    differences: dict[str, float],
    change: Comparison | None,
) -> dict[str, Any]:
    return {
        'commit': git_commit(),
        'architecture': loaded.model.encoder.architecture,
        'data': loaded.provenance.get('data'),
        'metrics': inputs['metrics'],
        'training': loaded.provenance,
        'monitor': how,
        'onnx_minus_torch': differences,
        'precision': inputs['precision'],
        'reduced': None if change is None else asdict(change),
        'versions': {
            'torch': torch.__version__, 'onnx': onnx.__version__,
            'onnxruntime': onnxruntime.__version__, 'openvino': _openvino_version(),
        },
        'inputs': inputs,
    }  # fmt: skip


def _openvino_version() -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version('openvino')
    return None


if __name__ == '__main__':
    run_command(export)
    next_step('python training/replay.py sim/bags/town03 --bundle bundle')
