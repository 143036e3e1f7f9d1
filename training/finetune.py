# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Train a segmentation head, and its encoder, on labelled frames.

Starts from the image encoder that training/pretrain.py wrote, from a timm network with weights
from a file, or from nothing; writes `model.safetensors`, which training/evaluate.py and
training/export.py read. Without arguments it works on the simulated drive. Interrupted, it goes on
where it was when the same command is given again.
"""

from __future__ import annotations

if __package__ in (None, ''):
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import training  # noqa: F401  # first: it sets how torch's threads wait

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import timm
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import nn
from torch.utils.data import Dataset

from clcp_ros.errors import ModelError
from training.callbacks import rank_zero_print
from training.cli import git_commit, next_step, run_command
from training.defaults import ENCODER, MODEL
from training.hardware import HardwareConfig
from training.loop import (
    METRICS,
    StepBatches,
    fit,
    make_trainer,
    prepare_run,
    read_metrics,
    to_settings,
)
from training.models.image_encoder import ImageEncoder, architecture_of
from training.models.segmenter import (
    HEAD_WIDTH,
    HeadSettings,
    MaskTransformer,
    SegmentationModel,
    save_model,
)
from training.models.segmenter_files import is_segmenter, open_model
from training.segmentation.batches import (
    AugmentedFrames,
    SegmentationData,
    ValidationFrames,
    collate,
)
from training.segmentation.frames import DATA, FrameSet, open_frames
from training.segmentation.frequencies import balanced_weights, class_counts
from training.segmentation.frequencies import report as frequency_report
from training.segmentation.keeping import KeepConfig, KeptSamples, open_kept
from training.segmentation.task import OptimizerConfig, SegmentationTask
from training.segmentation.transforms import AugmentationConfig
from training.worker_errors import plain_worker_errors

RESULT = MODEL.name
FRAMES = 'frames.txt'
FALLBACK_ENCODER = 'resnet10t'


@dataclass(frozen=True)
class HeadConfig:
    """Size of the mask transformer.

    Attributes:
        dim: Width, a multiple of 64; 0 chooses one that suits the encoder.
        layers: Transformer blocks; 0 leaves a linear classifier of each patch.
        dropout: Of attention, projections and MLPs while training.
    """

    dim: int = 0
    layers: int = 2
    dropout: float = 0.1

    def check(self) -> None:
        """Raise ModelError for values that make no sense."""
        if self.dim < 0 or self.dim % HEAD_WIDTH:
            raise ModelError(
                f'head.dim must be a multiple of {HEAD_WIDTH}, or 0 for one that suits the '
                f'encoder, not {self.dim}'
            )
        if self.layers < 0:
            raise ModelError(f'head.layers must be at least 0, not {self.layers}')
        if not 0 <= self.dropout < 1:
            raise ModelError(f'head.dropout must be in [0, 1), not {self.dropout:g}')


def finetune(
    data: Path = DATA,
    encoder: str = 'auto',
    out: Path = MODEL.parent,
    weights: Path | None = None,
    start: Path | None = None,
    freeze_encoder: bool = False,
    split: str = 'train',
    conditions: str = '',
    layout: str = 'auto',
    input_size: tuple[int, int] = (192, 320),
    head: HeadConfig = HeadConfig(),
    augmentation: AugmentationConfig = AugmentationConfig(),  # noqa: B008  # never changed
    optimizer: OptimizerConfig = OptimizerConfig(),  # noqa: B008
    keep: KeepConfig = KeepConfig(),  # noqa: B008
    drop_path: float = 0.0,
    balance: float = 0.0,
    max_steps: int = 450,
    batch_size: int = 8,
    validation_split: str = 'val',
    validate_every: int = 0,
    checkpoint_every: int = 50,
    workers: int = 0,
    precision: str = '32-true',
    hardware: HardwareConfig = HardwareConfig(),  # noqa: B008
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Finetune a segmentation model; finish or reuse a run with the same settings.

    Args:
        data: Folder of labelled frames (Cityscapes, ACDC or CamVid layout); the default one is
            simulated when it is missing.
        encoder: A file that pretrain wrote, a segmentation model of which the encoder is taken, or
            the name of a timm network; auto takes pretrain's default result, and a small network
            from scratch where there is none.
        out: Folder of the run.
        weights: Weights for a network given by name.
        start: A segmentation model to go on from with its head, instead of `encoder`: of this
            project, of the Segmenter's authors, or of MMSegmentation. Where its classes are
            others in number, what belongs to single classes starts anew.
        freeze_encoder: Train the head alone.
        split: Split to train on; several with commas; `train:day` is one condition of a split.
        conditions: Train on these conditions alone, as in day,clear; empty for all.
        layout: Layout of the data; auto guesses.
        input_size: Height and width that a frame is resized to, on the robot, too.
        head: The mask transformer.
        augmentation: Random scale, crop and colours.
        optimizer: Optimizer and schedule.
        keep: Let a pretraining run go on while the head learns, so that the encoder does not
            forget it; it is also where `encoder` auto comes from then.
        drop_path: Stochastic depth of the encoder.
        balance: Weight classes in the loss by their frequency to the minus this power: 0 for none,
            0.5 helps what is thin or rare, 1 makes all classes count alike.
        max_steps: Steps of the whole run.
        batch_size: Frames per step, of all processes together.
        validation_split: Frames to validate on while training; several with commas.
        validate_every: Steps between validations; 0 for none. Nothing is chosen by them.
        checkpoint_every: Steps between checkpoints.
        workers: Loader processes.
        precision: Lightning's name of a precision, such as bf16-mixed.
        hardware: Processes and devices.
        seed: Of everything that is random.
        overwrite: Start anew whatever is in `out`.

    Returns:
        The file of the model.

    Raises:
        LabelError: The data are missing or damaged.
        ModelError: Settings that make no sense, weights that do not fit, a loss that is not
            finite, or hardware that is not there.
    """
    for config in (head, keep, hardware):
        config.check()
    _check(
        drop_path, balance, seed, max_steps=max_steps, batch_size=batch_size,
        validate_every=validate_every, checkpoint_every=checkpoint_every, workers=workers,
    )  # fmt: skip
    augmentation.check(input_size)
    optimizer.check(max_steps)
    _check_processes(hardware, batch_size)
    frames = open_frames(data, split, layout)
    if conditions:
        frames = frames.only(c.strip() for c in conditions.split(','))
    if keep.run is not None:
        if freeze_encoder:
            raise ModelError('a frozen encoder keeps all of it: leave --keep.run out')
        encoder = keep.encoder if encoder == 'auto' and start is None else encoder
    L.seed_everything(seed, verbose=False)
    model = build_model(
        len(frames.classes), encoder, weights, head, freeze_encoder, input_size, drop_path, start
    )  # fmt: skip
    _check_sizes(model.encoder, input_size, augmentation.crop or input_size)
    model.freeze_unused(augmentation.crop or input_size)
    kept = None if keep.run is None else open_kept(keep, model.encoder)
    settings = to_settings(
        data=str(data), layout=frames.layout, split=split, conditions=frames.conditions,
        frames=_digest('\n'.join(f.name for f in frames.frames).encode()),
        encoder=model.encoder.architecture, initial_weights=_weights_digest(model),
        freeze_encoder=freeze_encoder, input_size=list(input_size), head=head,
        augmentation=augmentation, optimizer=optimizer, drop_path=drop_path, balance=balance,
        max_steps=max_steps, batch_size=batch_size, precision=precision, seed=seed,
        **({'keep': keep.describe()} if kept else {}),
    )  # fmt: skip
    run = prepare_run(out, settings, RESULT, overwrite)
    if run.state == 'done':
        print(f'{run.result}: already done with these settings')
        return run.result
    _describe(model, frames, max_steps, batch_size, run.state)
    if optimizer.warmup > max_steps:
        rank_zero_print(
            f'warning: the run ends within its warm-up of {optimizer.warmup} steps, before the '
            'learning rate is reached: --optimizer.warmup 0'
        )
    stats = model.encoder.mean, model.encoder.std
    samples: Dataset[Any] = AugmentedFrames(frames, input_size, augmentation, *stats)
    batches: Any = StepBatches(np.arange(len(frames)), batch_size, max_steps, seed)
    if kept is not None:
        samples, batches = KeptSamples(samples, kept.pairs), kept.batches(batches, seed)
    data_module = SegmentationData(samples, batches, kept.collate if kept else collate, workers)
    if validate_every:
        data_module.validation = ValidationFrames(
            open_frames(data, validation_split, layout), input_size, *stats
        )
    counts = class_counts(frames)
    class_weights = balanced_weights(counts, balance) if balance else None
    task = SegmentationTask(model, optimizer, max_steps, frames.labels, class_weights, kept)
    if hardware.compile:
        model.encoder.compile()
    trainer = make_trainer(  # from here on the folder is this run's
        run, max_steps=max_steps, seed=seed, validate_every=validate_every,
        checkpoint_every=checkpoint_every,
        precision=precision, gradient_clip=optimizer.clip, ema=optimizer.ema,
        hardware=hardware,
    )  # fmt: skip
    if trainer.is_global_zero:
        print(f'percent of the labelled pixels: {frequency_report(counts, frames.classes.names)}')
    with plain_worker_errors():
        fit(trainer, task, data_module)
    if trainer.is_global_zero:
        frames.labels.report(frames.classes)
        (out / FRAMES).write_text(''.join(f'{f.name}\n' for f in frames.frames))
        save_model(out / RESULT, model, frames.classes, input_size, _provenance(frames, settings))
        print(f'\nwrote {out / RESULT}: {summary(out)}')
    return out / RESULT


_LEAST = {'max_steps': 1, 'batch_size': 1, 'checkpoint_every': 1}
_LARGEST_BALANCE = 2.0


def _check(drop_path: float, balance: float, seed: int, **lengths: int) -> None:
    """Complain about numbers that make no sense, before anything is read."""
    for name, value in lengths.items():
        if value < (least := _LEAST.get(name, 0)):
            raise ModelError(f'--{name} must be at least {least}, not {value}')
    if not 0 <= drop_path < 1:
        raise ModelError(f'--drop_path must be in [0, 1), not {drop_path:g}')
    if not 0 <= balance <= _LARGEST_BALANCE:
        raise ModelError(f'--balance must be in [0, {_LARGEST_BALANCE:g}], not {balance:g}')
    if not 0 <= seed < 2**32:
        raise ModelError(f'--seed must be in [0, 2^32), not {seed}')


def _check_processes(hardware: HardwareConfig, batch_size: int) -> None:
    if hardware.strategy == 'fsdp':
        raise ModelError('--strategy fsdp is for pretraining; finetuning keeps weights whole: ddp')
    if (processes := hardware.devices * hardware.num_nodes) > batch_size:
        raise ModelError(f'{processes} processes need a batch of as many frames, not {batch_size}')


def build_model(
    num_classes: int,
    encoder: str = 'auto',
    weights: Path | None = None,
    head: HeadConfig = HeadConfig(),
    freeze_encoder: bool = False,
    input_size: tuple[int, int] | None = None,
    drop_path: float = 0.0,
    start: Path | None = None,
) -> SegmentationModel:
    """An encoder with a new head, or a whole model to go on from.

    Args:
        num_classes: Of the head.
        encoder: A file, a timm name, or auto.
        weights: Weights for a timm name.
        head: Size of the head.
        freeze_encoder: Keep the encoder as it is.
        input_size: For encoders that are built for one size.
        drop_path: Stochastic depth of the encoder.
        start: A segmentation model, instead of an encoder.

    Raises:
        ModelError: The weights cannot be used.
    """
    if start is not None:
        if encoder != 'auto' or weights is not None:
            raise ModelError('--start gives the whole model; leave --encoder and --weights out')
        model = open_model(start, drop_path=drop_path).model.train()
        model.decoder.set_classes(num_classes)
    else:
        image_encoder = _open_encoder(encoder, weights, input_size, drop_path)
        size = HeadSettings.for_encoder(
            image_encoder.embed_dim, head.dim, head.layers, head.dropout
        )
        model = SegmentationModel(
            image_encoder, MaskTransformer(num_classes, image_encoder.embed_dim, size)
        )
    if freeze_encoder:
        # Lightning takes a frozen encoder's evaluation mode for a mistake.
        warnings.filterwarnings('ignore', '.*in eval mode.*')
        model.freeze_encoder()
    return model


def _open_encoder(
    encoder: str, weights: Path | None, input_size: tuple[int, int] | None, drop_path: float
) -> ImageEncoder:
    if encoder == 'auto':
        encoder = str(ENCODER) if ENCODER.is_file() else FALLBACK_ENCODER
    if '/' in encoder or encoder.endswith(('.safetensors', '.pth', '.pt')):
        if weights is not None:
            raise ModelError(f'{encoder} is a file of weights; give --weights or a file, not both')
        weights = Path(encoder)
        if is_segmenter(weights):
            return open_model(weights, drop_path=drop_path).model.encoder.train()
        named = architecture_of(weights)
        if named is None:
            raise ModelError(
                f'{encoder} does not state its timm network; '
                f'use --encoder NAME --weights {encoder}'
            )
        encoder = named
    return ImageEncoder(encoder, weights, input_size=input_size, drop_path=drop_path)


def _check_sizes(encoder: ImageEncoder, *sizes: tuple[int, int]) -> None:
    stride = encoder.stride
    for size in sizes:
        if any(n < stride or n % stride for n in size):
            raise ModelError(
                f'input and crop of {size[0]} x {size[1]}: both must be multiples of {stride}, '
                "the encoder's stride"
            )
        encoder.check_size(*size)


@rank_zero_only
def _describe(
    model: SegmentationModel, frames: FrameSet, max_steps: int, batch_size: int, state: str
) -> None:
    million = [
        sum(p.numel() for p in m.parameters()) / 1e6 for m in (model.encoder, model.decoder)
    ]
    print(
        f'frames: {len(frames)} from {len(frames.drives)} drives '
        f'({", ".join(frames.conditions)}){", simulated" if frames.simulated else ""}\n'
        f'encoder: {model.encoder.architecture} ({million[0]:.1f} M parameters'
        f'{", frozen" if model.encoder_frozen else ""}), head: {million[1]:.1f} M, '
        f'{model.decoder.num_classes} classes\n'
        f'{"going on with" if state == "resume" else "starting"} {max_steps} steps of '
        f'{batch_size} frames'
    )


def _provenance(frames: FrameSet, settings: dict[str, Any]) -> dict[str, Any]:
    return {
        'commit': git_commit(),
        'data': {
            'name': frames.root.name,
            'layout': frames.layout,
            'split': settings['split'],
            'frames': len(frames),
            'drives': frames.drives,
            'conditions': frames.conditions,
            'simulated': frames.simulated,
        },
        'settings': settings,
        'versions': {
            'torch': torch.__version__, 'timm': timm.__version__, 'lightning': L.__version__,
        },
    }  # fmt: skip


def summary(out: Path) -> str:
    """One line on how a run went, from its metrics.

    Args:
        out: Folder of the run.
    """
    losses = [value for _, name, value in read_metrics(out / METRICS) if name == 'train_loss']
    if not losses:
        return 'no metrics'
    n = max(len(losses) // 20, 1)
    return f'loss {np.mean(losses[:n]):.3f} -> {np.mean(losses[-n:]):.3f}'


def _weights_digest(model: nn.Module) -> str:
    return _digest(
        b''.join(t.detach().contiguous().numpy().tobytes() for t in model.state_dict().values())
    )


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


if __name__ == '__main__':
    run_command(finetune)
    next_step('python training/evaluate.py')
