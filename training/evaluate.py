# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Measure a segmentation model on labelled frames: mIoU per condition and class, and rPD.

Takes weights (training/finetune.py) or a bundle (training/export.py). Every frame goes through the
preprocessing of the node, and its logits are upsampled to the label's own size. Writes
`evaluation.json`, `.csv`, `.md`, `.tex` and `.html` with the best, median and worst frames, and
pictures.
Without arguments it works on the simulated drive. The subcommand `submission` writes files for the
test servers of data sets, `simdg` runs the benchmark of domain generalisation.
"""

from __future__ import annotations

if __package__ in (None, ''):
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import training  # noqa: F401  # first: it sets how torch's threads wait

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from clcp_ros import bundle as bundle_files
from clcp_ros.bundle import sha256_of
from clcp_ros.errors import LabelError, ModelError
from clcp_ros.image_codec import encode_png
from training.cli import next_step, run_command
from training.defaults import MODEL
from training.reporting.evaluation import PAGE, RESULT, TABLE, write_evaluation
from training.segmentation.frames import DATA, Frame, FrameSet, open_frames
from training.segmentation.inference import Decision, InferenceConfig
from training.segmentation.pictures import Gallery, evenly, gallery, picture
from training.segmentation.predictors import Predictor, open_predictor
from training.segmentation.result_tables import tables
from training.segmentation.results import Evaluation, Part, choose_source, name_parts
from training.segmentation.scores import Scores
from training.segmentation.stream import stream_frames

_logger = logging.getLogger(__name__)

PICTURES = 'predictions'
FRAMES = 'frames.txt'

_BENCHMARKS = {'cityscapes': 'Cityscapes', 'acdc': 'ACDC'}


def evaluate(
    model: Path = MODEL,
    data: Path = DATA,
    split: str = 'val',
    source: str = 'auto',
    bundle: Path | None = None,
    models: str = '',
    name: str = '',
    target: Path | None = None,
    target_split: str = 'val',
    layout: str = 'auto',
    out: Path | None = None,
    pictures: int = 2,
    inference: InferenceConfig = InferenceConfig(),  # noqa: B008  # never changed
    boundary: bool = True,
) -> Evaluation:
    """Evaluate a model, or several seeds of one, and print the table.

    Args:
        model: Weights that finetune wrote, a Segmenter checkpoint of its authors or of
            MMSegmentation, or a bundle's folder.
        data: Folder of labelled frames; the default one is simulated when it is missing.
        split: Split; several with commas, which are measured apart; `train:dusk` is one condition
            of a split.
        source: Condition that the others are compared with; auto takes clear, day or all.
        bundle: A bundle to evaluate instead of the weights.
        models: Several models to give mean and standard deviation of, with commas or as a pattern
            like `runs/seed*`: runs' folders, weights or bundles.
        name: Of the model in tables beside published ones.
        target: Another folder of labelled frames, whose conditions are further targets.
        target_split: Its split, or several.
        layout: Layout of the data; auto guesses.
        out: Folder to write to; by default beside the weights, `runs/evaluate` for a bundle or
            several models.
        pictures: Pictures per condition, of the first model.
        inference: Whole frames as on the robot, or sliding windows.
        boundary: Measure boundary mIoU, too.

    Returns:
        The figures, of the first model where there are several.

    Raises:
        LabelError: The data are missing, damaged, or of other classes than the model's.
        ModelError: A model is missing or damaged.
        BundleError: A bundle is missing or damaged.
    """
    paths = find_models(models) if models else [bundle or model]
    for path in paths:
        if not path.exists():
            raise ModelError(
                f'{path}: no such model; train one with `python training/finetune.py`'
            )
    sets = [open_frames(data, split, layout)]
    if target is not None:
        sets.append(open_frames(target, target_split, 'auto'))
    parts = _parts(sets)
    chosen = _source_part(list(parts), sets, source, split)
    single = len(paths) == 1
    folder = out or (
        paths[0].parent if single and not paths[0].is_dir() else Path('runs/evaluate')
    )
    results: list[Evaluation] = []
    for path in paths:
        predictor = open_predictor(path)
        _check_classes(sets, predictor)
        _warn_of_training_frames(path, sets[0])
        first = not results
        scores, drawings = _score(
            predictor, sets, parts, inference, boundary, pictures if first else 0
        )
        for frames in sets:
            # Ids outside the class set are told once, however many models see them.
            frames.labels.report(frames.classes) if first else frames.labels.take()
        if first:
            shown = gallery(predictor, sets, scores, _members(sets, parts), inference)
        results.append(
            Evaluation(
                predictor.classes,
                {n: s.matrix for n, s in scores.items()},
                {n: len(s.frames) for n, s in scores.items()},
                parts[chosen],
                _about(path, predictor, sets, split, target_split, inference),
                {n: s.boundary for n, s in scores.items() if s.boundary is not None},
                {n: s.calibration for n, s in scores.items()},
                {n: p for p, n in parts.items()},
            )
        )
        if first:
            first_drawings = drawings
    _write_all(folder, results, first_drawings, shown, name, _columns(sets, results[0]))
    return results[0]


def find_models(text: str) -> list[Path]:
    """Models by names or patterns.

    Args:
        text: Paths or patterns with commas between them.

    Returns:
        Files of weights and folders of bundles; a run's folder stands for its model.

    Raises:
        ModelError: Nothing is there.
    """
    found: list[Path] = []
    for pattern in (p.strip() for p in text.split(',')):
        plain = Path(pattern)
        anchor = Path(plain.anchor)
        relative = str(plain.relative_to(anchor)) if plain.anchor else pattern
        matches = [plain] if plain.exists() else sorted(anchor.glob(relative)) if relative else []
        if not matches:
            raise ModelError(f'{pattern}: no such model')
        found += [m / MODEL.name if (m / MODEL.name).is_file() else m for m in matches]
    return list(dict.fromkeys(found))


def _parts(sets: Sequence[FrameSet]) -> dict[Part, str]:
    """What is counted apart, with its name: conditions by split and data set."""
    return name_parts(sorted({_part(f, s, sets) for s in sets for f in s.frames}))


def _part(frame: Frame, frames: FrameSet, sets: Sequence[FrameSet]) -> Part:
    return Part(frame.condition, frame.split, _data_name(frames, sets))


def _data_name(frames: FrameSet, sets: Sequence[FrameSet]) -> str:
    """The folder's name, or its path where two folders have one name."""
    roots = {s.root.resolve() for s in sets if s.root.name == frames.root.name}
    return frames.root.name if len(roots) == 1 else str(frames.root)


def _members(
    sets: Sequence[FrameSet], parts: dict[Part, str]
) -> dict[str, list[tuple[FrameSet, Frame]]]:
    found: dict[str, list[tuple[FrameSet, Frame]]] = {}
    for frames in sets:
        for frame in frames.frames:
            found.setdefault(parts[_part(frame, frames, sets)], []).append((frames, frame))
    return found


def _source_part(parts: list[Part], sets: Sequence[FrameSet], wanted: str, split: str) -> Part:
    """The part that others are compared with; of several splits the validation split."""
    frames = sets[0]
    condition = choose_source(frames.conditions, wanted)
    if condition is None:
        raise LabelError(
            f'{frames.root}: no frames of the source condition {wanted!r} in {split!r}; give '
            f'--source one of {", ".join(frames.conditions)}'
        )
    candidates = [
        p for p in parts if p.condition == condition and p.data == _data_name(frames, sets)
    ]
    return sorted(candidates, key=lambda p: (p.split != 'val', p.split))[0]


def _score(
    predictor: Predictor,
    sets: Sequence[FrameSet],
    parts: dict[Part, str],
    inference: InferenceConfig,
    boundary: bool,
    pictures: int,
) -> tuple[dict[str, Scores], dict[str, bytes]]:
    """What is counted of one model by part, and some pictures."""
    scores = {name: Scores.of(len(predictor.classes), boundary) for name in parts.values()}
    drawings: dict[str, bytes] = {}
    for frames in sets:
        shown = evenly(frames, pictures)

        def judge(
            frame: Frame, image: np.ndarray, label: np.ndarray, decision: Decision,
            shown: Mapping[Frame, int] = shown,
        ) -> tuple[Scores, bytes | None]:  # fmt: skip
            score = Scores.of(len(predictor.classes), boundary)
            score.update(frame.name, decision, label)
            if frame not in shown:
                return score, None
            drawing = picture(image, label, decision.mask, predictor.classes.palette)
            return score, encode_png(drawing)

        for frame, (score, drawing) in stream_frames(predictor, frames, inference, judge):
            part = parts[_part(frame, frames, sets)]
            scores[part] += score
            if drawing is not None:
                name = part.replace(' (', '-').replace(', ', '-').rstrip(')')
                drawings[f'{name}-{shown[frame]}.png'] = drawing
    if not any(s.matrix.counts.any() for s in scores.values()):
        raise LabelError(
            f'{", ".join(str(s.root) for s in sets)}: no labelled pixel in any frame; a test '
            "split's labels are with its server, see `python training/evaluate.py submission`"
        )
    for name, score in scores.items():
        if not score.matrix.counts.any():
            _logger.warning('%s: no labelled pixel in any of its frames', name)
    return scores, drawings


def _about(
    path: Path,
    predictor: Predictor,
    sets: Sequence[FrameSet],
    split: str,
    target_split: str,
    inference: InferenceConfig,
) -> dict[str, object]:
    return {
        'model': path.name if path.is_dir() else str(Path(path.parent.name) / path.name),
        'model_sha256': sha256_of(path / bundle_files.MODEL if path.is_dir() else path),
        'data': ', '.join(_data_name(s, sets) for s in sets),
        'split': ', '.join([split, target_split][: len(sets)]),
        'simulated': any(s.simulated for s in sets),
        'trained_on': predictor.provenance.get('data'),
        'inference': asdict(inference),
    }


def _columns(sets: Sequence[FrameSet], result: Evaluation) -> tuple[str, str]:
    """What a table of several models calls source and target: as the thesis where it is that."""
    known = [None if s.simulated else _BENCHMARKS.get(s.layout) for s in sets]
    if known == ['Cityscapes', 'ACDC']:
        return 'Cityscapes', 'ACDC'
    conditions = dict.fromkeys(result.part(n).condition for n in result.targets)
    return result.part(result.source).condition, ', '.join(conditions)


def _write_all(
    folder: Path,
    results: Sequence[Evaluation],
    drawings: dict[str, bytes],
    shown: Gallery,
    name: str,
    columns: tuple[str, str],
) -> None:
    (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    for file, drawing in drawings.items():
        (folder / PICTURES / file).write_bytes(drawing)
    about = results[0].about
    write_evaluation(folder, results, shown, name or str(about['model']), columns)
    simulated = 'simulated data, ' if about['simulated'] else ''
    print(f'\n{simulated}{about["data"]} ({about["split"]})\n')
    print(tables(results))
    print(f'wrote {folder / RESULT}, {folder / TABLE}, {folder / PAGE}, {folder / PICTURES}/')


def measure(
    predictor: Predictor,
    frames: FrameSet,
    how: InferenceConfig = InferenceConfig(),  # noqa: B008
) -> Iterator[tuple[Frame, np.ndarray, np.ndarray, Decision]]:
    """Predict all frames of a set, with a progress bar; the next frames are read meanwhile.

    Ids outside the class set are counted in `frames.labels`, for the caller to report.

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
    _check_classes([frames], predictor)
    for frame, (image, label, decision) in stream_frames(
        predictor, frames, how, lambda _, image, label, decision: (image, label, decision)
    ):
        yield frame, image, label, decision


def _check_classes(sets: Sequence[FrameSet], predictor: Predictor) -> None:
    for frames in sets:
        if frames.classes.names != predictor.classes.names:
            raise LabelError(
                f'{frames.root} has the classes of {frames.classes.name} ({len(frames.classes)}), '
                f'the model those of {predictor.classes.name} ({len(predictor.classes)})'
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
    'submission': (
        'training.segmentation.submission:submit',
        'files for the test servers of Cityscapes and ACDC',
    ),
    'simdg': ('training.simdg.command:simdg', 'the benchmark of domain generalisation, simulated'),
    'retrieval': (
        'training.retrieval.command:retrieval',
        'places found across camera and lidar by a pretraining run',
    ),
}
"""What else can be evaluated: a line for each."""


if __name__ == '__main__':
    if run_command(evaluate, subcommands=SUBCOMMANDS).__name__ == 'evaluate':
        next_step('python training/export.py')
