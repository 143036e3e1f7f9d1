# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How fast frames are evaluated by sliding windows, and what that costs beside the network.

One window at a time, everything in turn and pixels averaged as papers describe it, against what
`evaluate.py --inference.mode slide` does, step by step; one run, all taking turns on the same
frames. Frames are synthetic photographs as PNG with labels, in Cityscapes' layout; weights are
random, which changes no time.
"""

from __future__ import annotations

if __package__ in (None, ''):
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import training  # noqa: F401  # first: it sets how torch's threads wait

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from clcp_ros.classes import CITYSCAPES
from clcp_ros.image_codec import encode_png
from training.cli import run_command
from training.finetune import HeadConfig, build_model
from training.models.segmenter import load_model, save_model
from training.segmentation.frames import Frame, FrameSet, open_frames
from training.segmentation.inference import Decision, InferenceConfig, plan_windows
from training.segmentation.predictors import TorchPredictor
from training.segmentation.scores import Scores
from training.segmentation.stream import stream_frames

Forward = Callable[[Tensor], Tensor]
STEPS = (
    'one window at a time, in turn',
    '+ windows in batches',
    '+ masks by two small products',
    '+ products of the network in oneDNN',
    '+ reading and judging meanwhile (evaluate.py)',
)


def write_frames(root: Path, count: int, height: int, width: int) -> FrameSet:
    """Frames with the spectrum of photographs, and labels of blobs."""
    for i in range(count):
        rng = np.random.default_rng(i)
        image = np.full((height, width, 3), 110, np.float32)
        for octave in range(2, 10):
            side = max(2, 2**octave * height // width), 2**octave
            coarse = rng.normal(0, 1, (*side, 3)).astype(np.float32)
            image += cv2.resize(coarse, (width, height)) * (34 * 0.62 ** (octave - 2))
        image += rng.normal(0, 2.2, image.shape)
        blobs = rng.integers(0, 34, (max(2, height // 60), max(2, width // 60)), dtype=np.uint8)
        label = cv2.resize(blobs, (width, height), interpolation=cv2.INTER_NEAREST)
        stem = f'a_{i:06d}_000000'
        for folder, suffix, array in (
            ('leftImg8bit', 'leftImg8bit', np.clip(image, 0, 255).astype(np.uint8)),
            ('gtFine', 'gtFine_labelIds', label),
        ):
            file = root / folder / 'val' / 'a' / f'{stem}_{suffix}.png'
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encode_png(array))
    return open_frames(root, 'val', 'cityscapes')


def papers_masks(
    image: np.ndarray, predictor: TorchPredictor, how: InferenceConfig, forward: Forward
) -> Decision:
    """Logits of windows upsampled, added, divided by their count: all classes of all pixels."""
    height, width = image.shape[:2]
    windows = plan_windows(image, (height, width), predictor.input, how).windows
    tiling = how.tiling(predictor.input)
    rows, columns = tiling.window
    total = torch.zeros(len(predictor.classes), height, width)
    count = torch.zeros(height, width)
    corners = iter(tiling.corners(height, width))
    for batch in windows.split(how.batch_size):
        logits = F.interpolate(forward(batch), (rows, columns), mode='bilinear')
        for part, (top, left) in zip(logits, corners, strict=False):
            total[:, top : top + rows, left : left + columns] += part
            count[top : top + rows, left : left + columns] += 1
    best, ids = (total / count).softmax(0).max(0)
    return Decision(ids.to(torch.uint8).numpy(), (255 * best).round().to(torch.uint8).numpy())


def steps(
    predictor: TorchPredictor, frames: FrameSet, how: InferenceConfig
) -> dict[str, Callable[[], Scores]]:
    """Ways to evaluate the frames; each adds one thing to the one before."""
    one = InferenceConfig('slide', window=how.window, stride=how.stride, batch_size=1)

    def plain(batch: Tensor) -> Tensor:
        logits: Tensor = predictor.model(batch).logits
        return logits

    def in_turn(segment: Callable[[np.ndarray], Decision]) -> Callable[[], Scores]:
        def run() -> Scores:
            scores = Scores.of(len(predictor.classes))
            with torch.inference_mode():
                for frame in frames.frames:
                    image, label = frames.read(frame)
                    scores.update(frame.name, segment(image), label)
            return scores

        return run

    def products(forward: Forward) -> Callable[[np.ndarray], Decision]:
        def segment(image: np.ndarray) -> Decision:
            height, width = image.shape[:2]
            plan = plan_windows(image, (height, width), predictor.input, how)
            parts = [forward(batch) for batch in plan.windows.split(how.batch_size)]
            return plan.finish(torch.cat(parts))

        return segment

    def streamed() -> Scores:
        scores = Scores.of(len(predictor.classes))

        def judge(
            frame: Frame, image: np.ndarray, label: np.ndarray, decision: Decision
        ) -> Scores:
            own = Scores.of(len(predictor.classes))
            own.update(frame.name, decision, label)
            return own

        for _, own in stream_frames(predictor, frames, how, judge):
            scores += own
        return scores

    runs = (
        in_turn(lambda image: papers_masks(image, predictor, one, plain)),
        in_turn(lambda image: papers_masks(image, predictor, how, plain)),
        in_turn(products(plain)),
        in_turn(products(predictor.logits)),
        streamed,
    )
    return dict(zip(STEPS, runs, strict=True))


def rates(runs: dict[str, Callable[[], Scores]], frames: int, rounds: int) -> None:
    """Print frames per second of each way, and what that is of the first one."""
    wall: dict[str, list[float]] = {name: [] for name in runs}
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    found: dict[str, Scores] = {}
    for _ in range(rounds):
        for name, run in runs.items():
            begin, spent = time.perf_counter(), time.process_time()
            found[name] = run()
            wall[name].append((time.perf_counter() - begin) / frames)
            cpu[name].append((time.process_time() - spent) / frames)
    print('| | s a frame | times as fast | processor, s | times less | pixels told otherwise |')
    print('|---|---:|---:|---:|---:|---:|')
    first = STEPS[0]
    counts = found[first].matrix.counts
    for name in runs:
        other = np.abs(found[name].matrix.counts - counts).sum() / 2 / counts.sum()
        ratio = [float(np.median(np.divide(t[first], t[name]))) for t in (wall, cpu)]
        print(
            f'| {name} | {np.median(wall[name]):.2f} | {ratio[0]:.2f} | '
            f'{np.median(cpu[name]):.2f} | {ratio[1]:.2f} | {other:.1e} |'
        )


def overhead(
    predictor: TorchPredictor, frames: FrameSet, how: InferenceConfig, rounds: int, tflops: float
) -> None:
    """Print what a frame costs beside the network, by processor time of one thread."""
    frame = frames.frames[0]
    image, label = frames.read(frame)
    height, width = label.shape
    plan = predictor.plan(image, (height, width), how)
    logits = torch.cat([predictor.logits(w) for w in plan.windows.split(how.batch_size)])
    decision = plan.finish(logits)

    def judge() -> None:
        Scores.of(len(predictor.classes)).update('', decision, label)

    parts: dict[str, Callable[[], object]] = {
        'decode image and label': lambda: frames.read(frame),
        'resize, normalise, cut': lambda: predictor.plan(image, (height, width), how),
        'mask and confidence in pixels': lambda: plan.finish(logits),
        'confusion, calibration, boundaries': judge,
    }
    times: dict[str, list[float]] = {name: [] for name in parts}
    network: list[float] = []
    for _ in range(rounds + 1):
        for name, part in parts.items():
            times[name].append(_processor_ms(part))
    for _ in range(2):
        batch = plan.windows[: how.batch_size]
        spent = _processor_ms(partial(predictor.logits, batch))
        network.append(spent * len(plan.windows) / len(batch))
    model = min(network)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        predictor.model(plan.windows[:1])
    gflop = counter.get_total_flops() * len(plan.windows) / 1e9
    device = gflop / tflops
    print(f'\n{len(plan.windows)} windows of {plan.windows.shape[2]} x {plan.windows.shape[3]}: '
          f'{gflop:.0f} GFLOP a frame, {model:.0f} ms here (measured), {device:.1f} ms at '
          f'{tflops:g} TFLOP/s (computed)\n')  # fmt: skip
    print('| beside the network | processor, ms | of the network here |')
    print('|---|---:|---:|')
    total = 0.0
    for name, found in times.items():
        median = float(np.median(found[1:]))
        total += median
        print(f'| {name} | {median:.1f} | {median / model:.1%} |')
    print(f'| together | {total:.1f} | {total / model:.1%} |')
    on_cpu = total - float(np.median(times['mask and confidence in pixels'][1:]))
    print(
        f'\nBeside an accelerator of {tflops:g} TFLOP/s, which makes the masks itself, '
        f'{on_cpu / device:.1f} cores keep up with it (computed).'
    )


def _processor_ms(call: Callable[[], object]) -> float:
    spent = time.process_time()
    call()
    return 1e3 * (time.process_time() - spent)


def benchmark(
    encoder: str = 'vit_small_patch16_224', window: int = 224, height: int = 512,
    width: int = 1024, frames: int = 3, rounds: int = 3, batch_size: int = 8, threads: int = 0,
    tflops: float = 50.0,
) -> None:  # fmt: skip
    """Measure evaluation by sliding windows.

    Args:
        encoder: A timm name.
        window: Height and width of a window, in steps of two thirds.
        height: Of the frames.
        width: Of the frames.
        frames: Number of frames.
        rounds: That medians are taken of; 0 leaves the rates out.
        batch_size: Windows at a time.
        threads: Inside an operator of torch; 0 leaves it to torch.
        tflops: Rate of the accelerator that the overhead is compared with, in TFLOP/s.
    """
    if threads:
        torch.set_num_threads(threads)
    how = InferenceConfig('slide', window=(window, window), batch_size=batch_size)
    with tempfile.TemporaryDirectory(prefix='clcp-bench-') as name:
        root = Path(name)
        torch.manual_seed(0)
        model = build_model(len(CITYSCAPES), encoder, head=HeadConfig(layers=2))
        save_model(root / 'm.safetensors', model, CITYSCAPES, (window, window), {})
        predictor = TorchPredictor(load_model(root / 'm.safetensors'), 'cpu')
        data = write_frames(root / 'data', frames, height, width)
        print(f'{encoder}, frames of {height} x {width}, {torch.get_num_threads()} threads\n')
        if rounds:
            rates(steps(predictor, data, how), frames, rounds)
        overhead(predictor, data, how, max(rounds, 5), tflops)


if __name__ == '__main__':
    run_command(benchmark)
