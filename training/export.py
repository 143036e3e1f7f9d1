# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Make a bundle of a finetuned model: what the node and the replay run.

Writes the network as ONNX, checks it against torch on real frames, and fits the shift monitor's
reference on features that the exported network itself gives for frames of the training domain. The
bundle appears whole or not at all. Without arguments it exports what finetune wrote.
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
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from tqdm import tqdm

from clcp_ros import bundle as bundle_files
from clcp_ros.bundle import Bundle, load_bundle, sha256_of, write_description
from clcp_ros.errors import BundleError, LabelError, ModelError
from clcp_ros.inference import FEATURES, Segmenter
from clcp_ros.monitor import image_statistics
from clcp_ros.tiling import FrameTiling, Tiling
from training.cli import atomic_path, git_commit, next_step, run_command
from training.defaults import BUNDLE, MODEL
from training.evaluate import RESULT as EVALUATION
from training.latency import print_latencies
from training.models.segmenter import LoadedModel
from training.models.segmenter_files import open_model
from training.monitor_fit import fit_reference, fit_reference_by_drive
from training.onnx_export import export_onnx, verify_onnx
from training.onnx_reduce import Comparison, Precision, compare, to_half, to_int8
from training.segmentation.frames import DATA, Frame, FrameSet, open_frames
from training.segmentation.labels import read_image
from training.segmentation.listing import thinned

_logger = logging.getLogger(__name__)

_VERIFIED_FRAMES = 4
_CALIBRATION_FRAMES = 64
_COMPARED_FRAMES = 50
# With fewer, a fit without one of them knows so little of the domain that a dark camera and a new
# street look alike: seen on CamVid's two day drives.
_MANY_DRIVES = 4


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
    domain = _domain(loaded, data, split, conditions, held_out, layout, max_frames)
    name = name or f'{loaded.model.encoder.architecture} {loaded.classes.name}'
    model_sha256 = sha256_of(model)
    inputs = {
        'name': name,
        'model_sha256': model_sha256,
        'precision': precision,
        'tiling': None if tiling is None else json.loads(json.dumps(asdict(tiling))),
        'monitor': {
            'fit': _record(domain.fit),
            'held_out': _record(domain.held_out),
            'calibration': domain.how,
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
    with atomic_path(out) as folder:
        folder.mkdir()
        export_onnx(loaded, folder / bundle_files.MODEL)
        bundle = Bundle(folder, name, loaded.classes, loaded.input)
        segmenter = Segmenter(bundle, ['CPUExecutionProvider'])
        images = [read_image(f.image) for f in thinned(domain.fit, _VERIFIED_FRAMES)]
        differences = verify_onnx(loaded, segmenter, images)
        if segmenter.runtime != 'onnxruntime':  # which runs it where the other is not installed
            plain = verify_onnx(loaded, Segmenter(bundle, runtime='onnxruntime'), images)
            differences = {name: max(d, plain[name]) for name, d in differences.items()}
        change = None
        if precision != 'fp32':
            segmenter, change = _reduce(bundle, segmenter, precision, domain)
        if tiling is not None:
            bundle = replace(bundle, tiling=tiling)
            segmenter = Segmenter(bundle, ['CPUExecutionProvider'])
        sha256 = sha256_of(folder / bundle_files.MODEL)
        features = _features(segmenter, domain.fit, 'monitor: fit')
        if domain.held_out:
            calibration = _features(segmenter, domain.held_out, 'monitor: calibrate')
            reference = fit_reference(features, calibration, sha256)
        else:
            reference = fit_reference_by_drive(features, domain.drives, sha256)
        reference.save(folder / bundle_files.REFERENCE)
        write_description(
            folder, name=name, classes=loaded.classes, input_spec=loaded.input,
            provenance=_provenance(loaded, inputs, domain.how, differences, change), tiling=tiling,
        )  # fmt: skip
        load_bundle(folder)
    size = sum(f.stat().st_size for f in out.iterdir()) / 1e6
    print(
        f'wrote {out}: {size:.1f} MB, {_seen(loaded, tiling)}, '
        f'{len(loaded.classes)} classes; ONNX differs from torch by '
        f'{max(differences.values()):.1g} at most; monitor: {domain.how}'
    )
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
    bundle: Bundle, full: Segmenter, precision: Precision, domain: _Domain
) -> tuple[Segmenter, Comparison]:
    """Put a smaller model in the place of the bundle's, and say what that changes."""
    reduced = bundle.path / 'reduced.onnx'
    seen: list[Frame] = []
    if precision == 'fp16':
        to_half(bundle.model_path, reduced)
    else:
        seen = thinned(domain.fit, _CALIBRATION_FRAMES)
        to_int8(bundle.model_path, reduced, [read_image(f.image) for f in seen], bundle.input)
    reduced.replace(bundle.model_path)
    segmenter = Segmenter(bundle, ['CPUExecutionProvider'])
    # Other frames than those of the calibration, where there are more.
    unseen = [f for f in domain.fit if f not in seen]
    others = thinned(unseen or domain.fit, _COMPARED_FRAMES)
    frames = (domain.read(f) for f in tqdm(others, desc=f'compare {precision}', unit='frame'))
    return segmenter, compare(full, segmenter, frames)


def onnx_sized(loaded: LoadedModel) -> bool:
    """Whether the weights fit into one ONNX file.

    Args:
        loaded: The model.
    """
    return sum(p.numel() * p.element_size() for p in loaded.model.parameters()) < 2**31 - 2**20


@dataclass(frozen=True)
class _Domain:
    """The training domain's frames.

    Attributes:
        fit: Frames that the reference is fitted on.
        held_out: Frames that calibrate it; empty: each drive of `fit` left out in turn.
        drives: The drive of each frame of `fit`.
        how: How this came to be, for people.
        read: Reads a frame's image and label.
    """

    fit: list[Frame]
    held_out: list[Frame]
    drives: list[str]
    how: str
    read: Callable[[Frame], tuple[np.ndarray, np.ndarray]]


def _domain(
    loaded: LoadedModel,
    data: Path,
    split: str,
    conditions: str,
    held_out: str,
    layout: str,
    max_frames: int,
) -> _Domain:
    frames = _in_domain(open_frames(data, split, layout), loaded, conditions)
    fit = thinned(frames.frames, max_frames)
    drives = [f.drive for f in fit]
    number = len(set(drives))
    if held_out:
        candidates = _in_domain(open_frames(data, held_out, layout), loaded, conditions)
        others = [f for f in candidates.frames if f.drive not in frames.drives]
        if not others:
            raise LabelError(f'{data}: {held_out} has no drives that {split} does not have')
        how = f'{number} drives, calibrated on {len({f.drive for f in others})} of {held_out}'
        return _Domain(fit, thinned(others, max_frames), drives, how, frames.read)
    if number >= _MANY_DRIVES:
        return _Domain(fit, [], drives, f'{number} drives, each left out in turn', frames.read)
    _logger.warning(
        '%s: %d drive%s only, so the monitor is calibrated on thirds of drives; its scores will '
        'be too high on other drives', data, number, 's' if number > 1 else '',
    )  # fmt: skip
    how = f'{number} drive{"s" if number > 1 else ""}, each third of a drive left out in turn'
    return _Domain(fit, [], _thirds(drives), how, frames.read)


def _thirds(drives: list[str]) -> list[str]:
    """Name the thirds of each drive, in time."""
    counts, seen, names = Counter(drives), Counter[str](), []
    for drive in drives:
        names.append(f'{drive}, third {3 * seen[drive] // counts[drive] + 1}')
        seen[drive] += 1
    return names


def _in_domain(frames: FrameSet, loaded: LoadedModel, conditions: str) -> FrameSet:
    wanted = [c.strip() for c in conditions.split(',') if c.strip()]
    if not wanted:
        trained = loaded.provenance.get('data', {}).get('conditions', [])
        wanted = [c for c in frames.conditions if c in trained]
    if not wanted:
        raise LabelError(
            f'{frames.root}: its conditions ({", ".join(frames.conditions)}) are not those of the '
            'training; say with --conditions which are the training domain'
        )
    return frames.only(wanted)


def _features(segmenter: Segmenter, frames: list[Frame], title: str) -> dict[str, np.ndarray]:
    """Statistics and features of frames, computed as the node does."""
    rows: dict[str, list[np.ndarray]] = {'low': [], **{name: [] for name in FEATURES}}
    for frame in tqdm(frames, desc=title, unit='frame'):
        image = read_image(frame.image)
        prediction = segmenter.predict(image)
        if not prediction.finite:
            raise ModelError(f'{frame.image}: the model gives NaN for this frame')
        rows['low'].append(image_statistics(image))
        for name in FEATURES:
            rows[name].append(prediction.features[name])
    return {name: np.stack(values) for name, values in rows.items()}


def _record(frames: list[Frame]) -> dict[str, Any]:
    names = '\n'.join(f.name for f in frames)
    return {
        'frames': len(frames),
        'drives': len({f.drive for f in frames}),
        'names_sha256': hashlib.sha256(names.encode()).hexdigest(),
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
