# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The whole way on a simulated drive: from recordings to masks on the robot and a report.

Runs each command as a user would and says which. What is already done is reused. Ends with
`demo/report.html`.
"""

from __future__ import annotations

if __package__ in (None, ''):
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import training  # noqa: F401  # first: it sets how torch's threads wait

import json
import resource
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from clcp_ros.errors import ClcpError
from training.cli import ROOT, next_step, run_command

STEPS = 'steps.json'


@dataclass(frozen=True)
class Step:
    """A command of the way and the file that it ends with.

    Attributes:
        title: What it does.
        script: Command in `training/`.
        arguments: Its arguments.
        result: Written last; relative to the repository when the folder is.
    """

    title: str
    script: str
    arguments: tuple[str, ...]
    result: Path

    @property
    def folder(self) -> Path:
        """Where it writes."""
        return Path(self.arguments[self.arguments.index('--out') + 1])

    @property
    def command(self) -> str:
        """What to type to run the step alone."""
        return shlex.join(['python', f'training/{self.script}', *self.arguments])


# Options of a smoke test: everything happens, nothing is learned.
_QUICK = {
    'simulate.py': (
        '--width', '160', '--height', '100', '--beams', '16', '--columns', '200', '--rate_hz', '4',
        '--seconds', '1.5', '--train_frames', '12', '--val_frames', '3',
    ),
    'pretrain.py': (
        '--max_steps', '4', '--batch_size', '8', '--validate_every', '2',
        '--views.image_size', '64',
    ),
    'finetune.py': ('--max_steps', '6', '--batch_size', '4'),
}  # fmt: skip


def steps_of(out: Path, quick: bool = False) -> list[Step]:
    """The way, step by step.

    Args:
        out: Folder of everything that is written.
        quick: A smoke test that learns nothing.
    """
    extra = _QUICK if quick else {}
    sim, pairs, bundle = out / 'sim', out / 'pairs', out / 'bundle'
    pretrain, finetune = out / 'runs/pretrain', out / 'runs/finetune'
    encoder, model = pretrain / 'image_encoder.safetensors', finetune / 'model.safetensors'
    data = str(sim / 'cityscapes')
    steps = [
        Step(
            'simulate three drives', 'simulate.py', ('--out', str(sim)), sim / 'simulation.json',
        ),
        Step(
            'convert recordings to camera-lidar pairs', 'convert.py',
            (str(sim / 'a2d2'), str(sim / 'bags/town02'), '--out', str(pairs)),
            pairs / 'index.parquet',
        ),
        Step(
            'pretrain the image encoder against the lidar, without labels', 'pretrain.py',
            ('--pairs', str(pairs), '--out', str(pretrain)),
            encoder,
        ),
        Step(
            'finetune for segmentation on labelled clear-weather frames', 'finetune.py',
            ('--data', data, '--encoder', str(encoder), '--out', str(finetune)),
            model,
        ),
        Step(
            'evaluate per condition', 'evaluate.py',
            ('--model', str(model), '--data', data, '--out', str(out / 'evaluation')),
            out / 'evaluation/evaluation.json',
        ),
        Step(
            'export a bundle for the robot', 'export.py',
            ('--model', str(model), '--data', data, '--out', str(bundle),
             '--evaluation', str(out / 'evaluation/evaluation.json')),
            bundle / 'bundle.json',
        ),
        Step(
            'replay the test drive through the ROS 2 node', 'replay.py',
            (str(sim / 'bags/town03'), '--bundle', str(bundle), '--out', str(out / 'replay'),
             '--live'),
            out / 'replay/summary.json',
        ),
    ]  # fmt: skip
    return [
        replace(step, arguments=(*step.arguments, *extra.get(step.script, ()))) for step in steps
    ]


def demo(
    out: Path = Path('demo'),
    fresh: bool = False,
    quick: bool = False,
) -> None:
    """Go the whole way on a simulated drive.

    Args:
        out: Folder of everything that is written.
        fresh: Run every step again.
        quick: A smoke test: everything happens, nothing is learned.

    Raises:
        ClcpError: A step failed, its own words stand above; or the folder is not a demo's.
    """
    from training.demo_report import write_picture, write_report

    if out.exists() and any(out.iterdir()) and not (out / STEPS).is_file():
        raise ClcpError(f'{out} holds something else than a demo; give another --out')
    out.mkdir(parents=True, exist_ok=True)
    done: dict[str, float] = {}
    if (out / STEPS).is_file() and not fresh:
        done = json.loads((out / STEPS).read_text())
    (out / STEPS).write_text(json.dumps(done, indent=1))
    seconds: dict[str, float] = {}
    steps = steps_of(out, quick)
    current = not fresh  # what follows a step that ran is stale
    for number, step in enumerate(steps, 1):
        print(f'\n[{number}/{len(steps)}] {step.title}\n      {step.command}', flush=True)
        if current and step.command in done and step.result.exists():
            print(f'      done before, in {done[step.command]:.0f} s', flush=True)
        else:
            if not current:
                shutil.rmtree(step.folder, ignore_errors=True)
            current = False
            done[step.command] = _run(step)
            (out / STEPS).write_text(json.dumps(done, indent=1))
        seconds[step.title] = done[step.command]
    write_picture(out)
    report = write_report(out, {s.title: (s.command, seconds[s.title]) for s in steps})
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    total = sum(seconds.values())
    memory = '' if current else f'; those that ran now used at most {peak:.1f} GB'
    print(f'\nall steps took {total / 60:.1f} min{memory}')
    print(f'look at {report.resolve()}')
    next_step('python training/convert.py YOUR_RECORDING --out pairs   (docs/data.md)')


def _run(step: Step) -> float:
    start = time.monotonic()
    # From the current folder, not the repository's: `out` may be relative to it.
    script = str(ROOT / 'training' / step.script)
    code = subprocess.run([sys.executable, script, *step.arguments]).returncode
    if code:
        raise ClcpError(
            f'step "{step.title}" failed with exit code {code}; run it alone: {step.command}'
        )
    if not step.result.exists():
        raise ClcpError(f'step "{step.title}" left no {step.result}; run it alone: {step.command}')
    return time.monotonic() - start


if __name__ == '__main__':
    run_command(demo)
