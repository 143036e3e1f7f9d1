# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Convert Segmenter checkpoints from and to the authors' code and MMSegmentation.

Reads a checkpoint of rstrudel/segmenter or of MMSegmentation without running anything that is in
it, and writes a model of this project; or writes a model of this project for one of them. The
commands evaluate, finetune and export take such checkpoints as they are; a converted file states
classes, input size and normalisation, which a checkpoint leaves to guessing.
"""

from __future__ import annotations

if __package__ in (None, ''):
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import training  # noqa: F401  # first: it sets how torch's threads wait

from dataclasses import replace
from pathlib import Path
from typing import Literal

from clcp_ros.classes import CAMVID, CITYSCAPES, ClassSet
from clcp_ros.errors import ModelError
from training.cli import git_commit, next_step, run_command
from training.models.segmenter import LoadedModel, save_model
from training.models.segmenter_files import is_own, open_model, write_segmenter

_CLASS_SETS = {c.name: c for c in (CITYSCAPES, CAMVID)}

Triple = tuple[float, float, float]


def convert_segmenter_weights(
    checkpoint: Path,
    to: Literal['clcp', 'segmenter', 'mmsegmentation'] = 'clcp',
    out: Path | None = None,
    architecture: str = 'auto',
    input_size: tuple[int, int] | None = None,
    classes: str = 'auto',
    mean: Triple | None = None,
    std: Triple | None = None,
    overwrite: bool = False,
) -> Path:
    """Convert a Segmenter checkpoint.

    Args:
        checkpoint: A checkpoint of the authors (`.pth`), of MMSegmentation (`.pth`), or a model
            of this project (`.safetensors`).
        to: Whose layout to write: this project's, the authors', or MMSegmentation's.
        out: The file to write; beside the checkpoint by default.
        architecture: timm's name of the encoder; auto finds it from the shapes of the weights.
        input_size: Height and width that frames are resized to; by default the size that the
            position embeddings were trained for.
        classes: cityscapes or camvid; auto goes by the number of classes.
        mean: Of the normalisation, in [0, 1]; by default that of timm's weights of the encoder.
        std: Of the normalisation, in [0, 1].
        overwrite: Replace `out` if it is there.

    Returns:
        The file.

    Raises:
        ModelError: The checkpoint cannot be read, or holds no Segmenter.
    """
    suffix = '.safetensors' if to == 'clcp' else '.pth'
    if out is None:
        stem = checkpoint if to == 'clcp' else checkpoint.with_name(f'{checkpoint.stem}_{to}')
        out = stem.with_suffix(suffix)
    if out.suffix != suffix:
        raise ModelError(f'{out}: the result is a {suffix} file; name it so')
    if out.resolve() == checkpoint.resolve():
        raise ModelError(f'{out} is the checkpoint itself; choose another --out')
    if out.exists() and not overwrite:
        raise ModelError(f'{out} is there already; choose another --out, or add --overwrite')
    loaded = _described(open_model(checkpoint, architecture, input_size), classes, mean, std)
    out.parent.mkdir(parents=True, exist_ok=True)
    spec = loaded.input
    if to == 'clcp':
        # save_model takes the normalisation from the encoder.
        loaded.model.encoder.mean, loaded.model.encoder.std = spec.mean, spec.std
        provenance = {**loaded.provenance, 'converted_by': git_commit()}
        save_model(out, loaded.model, loaded.classes, (spec.height, spec.width), provenance)
    else:
        write_segmenter(out, loaded.model, to)
    layout = 'clcp' if is_own(checkpoint) else loaded.provenance['source_layout']
    print(
        f'{checkpoint} ({layout}): {loaded.model.encoder.architecture}, '
        f'{len(loaded.classes)} classes ({loaded.classes.name}), input {spec.height} x '
        f'{spec.width}, mean {spec.mean}, std {spec.std}\nwrote {out}'
    )
    if to == 'clcp':
        next_step(f'python training/evaluate.py --model {out} --data DATA --inference.mode slide')
    return out


def _described(
    loaded: LoadedModel, classes: str, mean: Triple | None, std: Triple | None
) -> LoadedModel:
    """The model with what the command line says instead of what was guessed."""
    spec = replace(loaded.input, mean=mean or loaded.input.mean, std=std or loaded.input.std)
    named: ClassSet = loaded.classes
    if classes != 'auto':
        if classes not in _CLASS_SETS:
            raise ModelError(
                f'no class set {classes!r}; there are {", ".join(_CLASS_SETS)} and auto'
            )
        named = _CLASS_SETS[classes]
        if len(named) != len(loaded.classes):
            raise ModelError(
                f'the head has {len(loaded.classes)} classes, {classes} has {len(named)}'
            )
    return replace(loaded, input=spec, classes=named)


if __name__ == '__main__':
    run_command(convert_segmenter_weights)
