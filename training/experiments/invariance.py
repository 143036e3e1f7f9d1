# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Does an encoder say the same of a place in every condition?

The benchmark shows each pose in every condition, so that what features owe to the place and what
they owe to the weather can be told apart: a two-way analysis of variance of the patch tokens.
Retrieval asks the same of whole images: is the clear day's image of a pose the nearest one to that
of the night?
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from clcp_ros.bundle import InputSpec, sha256_of
from clcp_ros.errors import ModelError
from clcp_ros.preprocess import preprocess
from training.cli import atomic_path
from training.models.image_encoder import ImageEncoder, architecture_of
from training.models.segmenter import load_model
from training.segmentation.frames import FrameSet
from training.segmentation.labels import read_image
from training.segmentation.listing import Frame
from training.simdg.report import Spread
from training.simdg.sizes import SOURCE

PRETRAINED, FINETUNED = 'pretrained', 'finetuned'


@dataclass(frozen=True)
class Invariance:
    """Of an encoder, over the poses of a split; all in percent.

    Attributes:
        place: Share of the tokens' variance that the pose explains, each patch about its own
            mean. With C conditions and P poses, (P - 1) / (C P - 1) of noise.
        condition: Share that the condition explains by moving all poses alike; of noise,
            (C - 1) / (C P - 1).
        found: Images of an adverse condition whose nearest one of the clear day shows the same
            pose, by the cosine of the mean tokens, less the mean of all images.
    """

    place: float
    condition: float
    found: float


@dataclass(frozen=True)
class Run:
    """Whose encoder was measured.

    Attributes:
        recipe: It is of.
        seed: Of the run.
        stage: `pretrained`, or `finetuned` on labels of the clear day.
    """

    recipe: str
    seed: int
    stage: str


@dataclass(frozen=True)
class Measured(Invariance, Run):
    """Invariance of the encoder of a run."""


def invariance(tokens: Tensor, source: int) -> Invariance:
    """Invariance from tokens.

    Args:
        tokens: (C, P, N, D) of C conditions, P poses and N patches.
        source: Index of the clear day among the conditions.

    Raises:
        ModelError: Fewer than two conditions or poses.
    """
    conditions, poses = tokens.shape[:2]
    if conditions < 2 or poses < 2:
        raise ModelError('invariance needs two conditions and two poses at least')
    # Whatever a patch always has, such as the road below, is no knowledge of the place.
    centred = tokens.double() - tokens.double().mean(dim=(0, 1))
    total = centred.square().sum().clamp_min(1e-12)
    place = conditions * centred.mean(0).square().sum() / total
    condition = poses * centred.mean(1).square().sum() / total
    pooled = F.normalize(centred.mean(2), dim=-1)
    adverse = pooled[[i for i in range(conditions) if i != source]]
    nearest = (adverse @ pooled[source].T).argmax(-1)
    found = (nearest == torch.arange(poses)).double().mean()
    return Invariance(*(100 * float(x) for x in (place, condition, found)))


def by_pose(frames: FrameSet) -> list[list[Frame]]:
    """Frames of each condition, in the same order of poses.

    Args:
        frames: Of a split.

    Raises:
        ModelError: The conditions do not show the same poses.
    """
    table = {
        condition: {
            frame.name.replace(f'-{condition}', ''): frame
            for frame in frames.frames
            if frame.condition == condition
        }
        for condition in frames.conditions
    }
    poses = sorted(table[SOURCE]) if SOURCE in table else []
    if not poses or any(sorted(of) != poses for of in table.values()):
        raise ModelError(f'{frames.root}: the conditions do not show the same poses')
    return [[of[pose] for pose in poses] for of in table.values()]


def measure_encoder(encoder: ImageEncoder, frames: FrameSet, size: tuple[int, int]) -> Invariance:
    """Invariance of an encoder.

    Args:
        encoder: In evaluation mode afterwards.
        frames: A split of the benchmark.
        size: (height, width) of the input.
    """
    encoder.eval().set_input_size(*size)
    mean, std = encoder.mean, encoder.std
    spec = InputSpec(*size, (mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))

    def tokens(frame: Frame) -> Tensor:
        image = torch.from_numpy(preprocess(read_image(frame.image), spec))
        grid: Tensor = encoder(image[None]).grid[0]
        return grid.flatten(1).T

    with torch.inference_mode():
        found = [torch.stack([tokens(frame) for frame in of]) for of in by_pose(frames)]
        return invariance(torch.stack(found), frames.conditions.index(SOURCE))


def measure_runs(
    seed: int, encoder: Path | None, models: dict[str, Path], frames: FrameSet, folder: Path
) -> None:
    """Measure the encoders of a job and note it; what was measured is not measured again.

    Args:
        seed: Of the job.
        encoder: File of the pretrained encoder, where there is one.
        models: Files of the finetuned models, by recipe; the encoder belongs to the first.
        frames: A split of the benchmark.
        folder: Of the notes, for this split alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for recipe, model in models.items():
        _measure_once(Run(recipe, seed, FINETUNED), model, model, frames, folder)
    if encoder is not None:
        recipe, model = next(iter(models.items()))
        _measure_once(Run(recipe, seed, PRETRAINED), encoder, model, frames, folder)


def _measure_once(run: Run, path: Path, model: Path, frames: FrameSet, folder: Path) -> None:
    """`model` is whose input size is used; the network itself where that is finetuned."""
    note = folder / f'{run.recipe}-{run.stage}-seed{run.seed}.json'
    digest = sha256_of(path)
    if note.is_file() and json.loads(note.read_text())['sha256'] == digest:
        return
    finetuned = load_model(model)
    network = finetuned.model.encoder
    if run.stage == PRETRAINED:
        network = ImageEncoder(str(architecture_of(path)), path)
    size = finetuned.input.height, finetuned.input.width
    measured = measure_encoder(network, frames, size)
    with atomic_path(note) as part:
        entry = {**asdict(run), **asdict(measured), 'sha256': digest}
        part.write_text(json.dumps(entry) + '\n')


def read_notes(folder: Path) -> list[Measured]:
    """What `measure_runs` noted.

    Args:
        folder: Of the notes.
    """
    names = {f.name for f in fields(Measured)}
    entries = [json.loads(path.read_text()) for path in sorted(folder.glob('*.json'))]
    return [Measured(**{k: v for k, v in entry.items() if k in names}) for entry in entries]


def write_invariance(path: Path, rows: Sequence[Measured]) -> None:
    """Write rows as CSV.

    Args:
        path: The file.
        rows: The rows.
    """
    with atomic_path(path) as part, part.open('w', newline='') as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Measured)])
        writer.writeheader()
        for row in rows:
            entry = asdict(row)
            entry |= {f.name: f'{entry[f.name]:.3f}' for f in fields(Invariance)}
            writer.writerow(entry)


def invariance_table(rows: Sequence[Measured]) -> str:
    """Markdown: recipes down, before and after finetuning across.

    Args:
        rows: Of all recipes, stages and seeds.
    """
    quantities = [f.name for f in fields(Invariance)]
    stages = (PRETRAINED, FINETUNED)
    head = [f'{q} {stage}' for stage in stages for q in quantities]
    lines = [f'| recipe | {" | ".join(head)} |', f'|---|{"---:|" * len(head)}']
    for recipe in dict.fromkeys(row.recipe for row in rows):
        cells = [
            Spread.of(
                getattr(row, q) for row in rows if (row.recipe, row.stage) == (recipe, stage)
            ).text()
            for stage in stages
            for q in quantities
        ]
        lines.append(f'| {recipe} | {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n'
