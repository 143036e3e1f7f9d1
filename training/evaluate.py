# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Measure a segmentation model on labelled frames: mIoU per condition and class, and rPD.

Takes weights (training/finetune.py) or a bundle (training/export.py). Every frame goes through the
preprocessing of the node, and its logits are upsampled to the label's own size. Writes
`evaluation.json`, `.md`, `.tex` and `.html` with the best, median and worst frames, and pictures.
Without arguments it works on the simulated drive. The subcommand `simdg` runs the benchmark of
domain generalisation.
"""

from __future__ import annotations

if __package__ in (None, ''):
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import training  # noqa: F401  # first: it sets how torch's threads wait

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from clcp_ros import bundle as bundle_files
from clcp_ros.bundle import sha256_of
from clcp_ros.errors import LabelError, ModelError
from clcp_ros.image_codec import encode_png
from training.cli import atomic_path, next_step, run_command
from training.defaults import MODEL
from training.reporting.evaluation import evaluation_page
from training.segmentation.frames import DATA, Frame, FrameSet, open_frames
from training.segmentation.inference import Decision, InferenceConfig, read_ahead
from training.segmentation.predictors import Predictor, open_predictor
from training.segmentation.published import THESIS_4_1, THESIS_4_3, latex, markdown
from training.segmentation.results import Evaluation, choose_source
from training.segmentation.scores import Scores

_logger = logging.getLogger(__name__)

RESULT = 'evaluation.json'
TABLE = 'evaluation.md'
LATEX = 'evaluation.tex'
PAGE = 'evaluation.html'
PICTURES = 'predictions'
FRAMES = 'frames.txt'


def evaluate(
    model: Path = MODEL,
    data: Path = DATA,
    split: str = 'val',
    source: str = 'auto',
    bundle: Path | None = None,
    target: Path | None = None,
    target_split: str = 'val',
    layout: str = 'auto',
    out: Path | None = None,
    pictures: int = 2,
    inference: InferenceConfig = InferenceConfig(),  # noqa: B008  # never changed
    boundary: bool = True,
) -> Evaluation:
    """Evaluate a model and print the table.

    Args:
        model: Weights that finetune wrote, or a bundle's folder.
        data: Folder of labelled frames; the default one is simulated when it is missing.
        split: Split; several with commas; `train:dusk` is one condition of a split.
        source: Condition that the others are compared with; auto takes clear, day or all.
        bundle: A bundle to evaluate instead of the weights.
        target: Another folder of labelled frames, whose conditions are further targets.
        target_split: Its split.
        layout: Layout of the data; auto guesses.
        out: Folder to write to; by default beside the weights, `runs/evaluate` for a bundle.
        pictures: Pictures per condition.
        inference: Whole frames as on the robot, or sliding windows.
        boundary: Measure boundary mIoU, which takes as long as everything else but the model.

    Returns:
        The figures.

    Raises:
        LabelError: The data are missing, damaged, or of other classes than the model's.
        ModelError: The model is missing or damaged.
        BundleError: The bundle is missing or damaged.
    """
    path = bundle or model
    if not path.exists():
        raise ModelError(f'{path}: no such model; train one with `python training/finetune.py`')
    predictor = open_predictor(path)
    sets = [open_frames(data, split, layout)]
    if target is not None:
        sets.append(open_frames(target, target_split, 'auto'))
    chosen = choose_source(sets[0].conditions, source)
    if chosen is None:
        raise LabelError(
            f'{data}: no frames of the source condition {source!r} in {split!r}; give --source '
            f'one of {", ".join(sets[0].conditions)}'
        )
    _warn_of_training_frames(path, sets[0])
    folder = out or (Path('runs/evaluate') if path.is_dir() else path.parent)
    scores: dict[str, Scores] = {}
    drawings: dict[str, bytes] = {}
    for frames in sets:
        shown = _evenly(frames, pictures)
        for frame, image, label, decision in measure(predictor, frames, inference):
            score = scores.setdefault(
                frame.condition, Scores.of(len(predictor.classes), boundary)
            )  # fmt: skip
            score.update(frame.name, decision, label)
            if frame in shown:
                drawing = picture(image, label, decision.mask, predictor.classes.palette)
                drawings[f'{frame.condition}-{shown[frame]}.png'] = encode_png(drawing)
    about = {
        'model': path.name if path.is_dir() else str(Path(path.parent.name) / path.name),
        'model_sha256': sha256_of(path / bundle_files.MODEL if path.is_dir() else path),
        'data': ', '.join(s.root.name for s in sets),
        'split': split,
        'simulated': any(s.simulated for s in sets),
        'trained_on': predictor.provenance.get('data'),
        'inference': asdict(inference),
    }
    result = Evaluation(
        predictor.classes,
        {c: s.matrix for c, s in scores.items()},
        {c: len(s.frames) for c, s in scores.items()},
        chosen,
        about,
        {c: s.boundary.miou() for c, s in scores.items() if s.boundary is not None},
        {c: s.calibration for c, s in scores.items()},
    )
    _write(folder, result, drawings)
    gallery = _gallery(predictor, sets, scores, inference)
    (folder / PAGE).write_text(evaluation_page(result, gallery))
    print(f'\n{"simulated data, " if about["simulated"] else ""}{about["data"]} ({split})\n')
    print(result.table())
    print(f'wrote {folder / RESULT}, {folder / TABLE}, {folder / PAGE}, {folder / PICTURES}/')
    return result


def measure(
    predictor: Predictor,
    frames: FrameSet,
    how: InferenceConfig = InferenceConfig(),  # noqa: B008
) -> Iterator[tuple[Frame, np.ndarray, np.ndarray, Decision]]:
    """Predict all frames of a set, with a progress bar; the next frames are read meanwhile.

    Args:
        predictor: Weights or a bundle.
        frames: What to predict.
        how: Whole or by windows.

    Yields:
        The frame, its image (H, W, 3) uint8 RGB, its label (H, W) uint8, and mask and confidence
        of the label's size.

    Raises:
        LabelError: The frames have other classes than the model, or are damaged.
    """
    _check_classes(frames, predictor)
    bar = tqdm(frames.frames, desc=f'evaluate {frames.root.name}', unit='frame')
    for frame, (image, label) in read_ahead(frames.read, bar):
        height, width = label.shape
        yield frame, image, label, predictor.segment(image, (height, width), how)
    frames.labels.report(frames.classes)


def _gallery(
    predictor: Predictor, sets: list[FrameSet], scores: dict[str, Scores], how: InferenceConfig
) -> dict[str, dict[str, tuple[str, np.ndarray]]]:
    """By condition: name and picture of its best, median and worst frame, predicted once more."""
    wanted = {condition: score.chosen() for condition, score in scores.items()}
    names = {name for chosen in wanted.values() for name in chosen.values()}
    drawn: dict[tuple[str, str], np.ndarray] = {}
    for frames in sets:
        for frame in frames.frames:
            if frame.name in names:
                image, label = frames.read(frame)
                height, width = label.shape
                mask = predictor.segment(image, (height, width), how).mask
                drawn[frame.condition, frame.name] = picture(
                    image, label, mask, predictor.classes.palette
                )
        frames.labels.take()
    return {
        condition: {kind: (name, drawn[condition, name]) for kind, name in chosen.items()}
        for condition, chosen in wanted.items()
    }


def picture(
    image: np.ndarray, label: np.ndarray, mask: np.ndarray, palette: np.ndarray
) -> np.ndarray:
    """Image, label and prediction side by side, 320 pixels wide each.

    Args:
        image: (H, W, 3) uint8 RGB.
        label: (H, W) uint8.
        mask: (H, W) uint8.
        palette: (256, 3) uint8 RGB.

    Returns:
        (h, 960, 3) uint8 RGB.
    """
    size = (320, round(320 * image.shape[0] / image.shape[1]))
    panels = [cv2.resize(image, size, interpolation=cv2.INTER_AREA)]
    panels += [
        palette[cv2.resize(ids, size, interpolation=cv2.INTER_NEAREST)] for ids in (label, mask)
    ]
    return np.hstack(panels)


def _write(folder: Path, result: Evaluation, drawings: dict[str, bytes]) -> None:
    (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    for name, drawing in drawings.items():
        (folder / PICTURES / name).write_bytes(drawing)
    own = result.row(str(result.about['model']))
    published = [*THESIS_4_1, *THESIS_4_3[2:]]
    source, target = result.source, ', '.join(result.targets)
    comparison = markdown([own, *published], source, target)
    note = 'Published rows are Cityscapes -> ACDC, and of other models, resolutions and data.\n'
    beside = f'## Beside published figures\n\n{note}\n{comparison}'
    (folder / TABLE).write_text(f'{result.heading()}\n{result.table()}\n{beside}')
    (folder / LATEX).write_text(latex([own, *published], source, target))
    with atomic_path(folder / RESULT) as file:
        file.write_text(json.dumps(result.to_json(), indent=1) + '\n')


def _evenly(frames: FrameSet, count: int) -> dict[Frame, int]:
    """`count` frames of each condition, spread over it, numbered from 1."""
    shown: dict[Frame, int] = {}
    for condition in frames.conditions:
        members = [f for f in frames.frames if f.condition == condition]
        places = np.linspace(0, len(members) - 1, min(count, len(members)) + 2)[1:-1]
        for number, place in enumerate(places, 1):
            shown[members[round(place)]] = number
    return shown


def _check_classes(frames: FrameSet, predictor: Predictor) -> None:
    if frames.classes.names != predictor.classes.names:
        raise LabelError(
            f'{frames.root} has the classes of {frames.classes.name} ({len(frames.classes)}), the '
            f'model those of {predictor.classes.name} ({len(predictor.classes)})'
        )


def _warn_of_training_frames(path: Path, frames: FrameSet) -> None:
    record = path.parent / FRAMES
    if path.is_dir() or not record.is_file():
        return
    trained = set(record.read_text().splitlines())
    if seen := sum(f.name in trained for f in frames.frames):
        _logger.warning(
            '%d of %d frames were trained on: the figures flatter the model', seen, len(frames)
        )


SUBCOMMANDS = {
    'segmentation': (
        'training.evaluate:evaluate',
        'labelled frames, as without a name',
    ),
    'simdg': ('training.simdg.command:simdg', 'the benchmark of domain generalisation, simulated'),
}
"""What else can be evaluated: a line for each."""


if __name__ == '__main__':
    if run_command(evaluate, subcommands=SUBCOMMANDS).__name__ == 'evaluate':
        next_step('python training/export.py')
