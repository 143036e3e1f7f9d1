# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Compare ways to pretrain, on simdg or on labelled frames: one command per table.

Each arm is pretrained on pairs of the clear day and of all conditions, with every seed; each
encoder is finetuned on the clear day, as it is and frozen, and measured in every condition. What
is done is reused, what was interrupted goes on.
"""

from __future__ import annotations

if __package__ in (None, ''):
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import training  # noqa: F401  # first: it sets how torch's threads wait

from pathlib import Path
from typing import Literal

import yaml

from clcp_ros.errors import ModelError
from training.cli import run_command
from training.experiments.frames import compare_frames
from training.experiments.plan import Arm, Frames, Plan
from training.experiments.pretraining import compare

DEFAULT = Path('config/experiments/simdg_small.yaml')


def experiment(
    plan: Path = DEFAULT,
    size: Literal['tiny', 'small', 'base'] | None = None,
    seeds: int = 0,
    only: str = '',
    split: Literal['test', 'val'] = 'test',
    data: Path | None = None,
    pairs: Path = Path('pairs'),
    weights: Path = Path('weights.pth'),
    out: Path | None = None,
    parallel: int = 1,
) -> str:
    """Run an experiment, or what is missing of it, and print its table.

    Args:
        plan: What is compared: a YAML file with arms, size, common, finetune, full,
            frozen and frames.
        size: Size of the benchmark instead of the plan's.
        seeds: Number of seeds, 0 for the size's.
        only: Names of arms, with commas; by default all.
        split: test, or val to develop on.
        data: Folder of the benchmark, by default simdg; of labelled frames for a plan on frames.
        pairs: Pair set to pretrain on, for a plan on frames.
        weights: What all arms start from, for a plan on frames.
        out: Folder of the experiment; by default experiments/ and the plan's name.
        parallel: Jobs at once, which share the processors.

    Returns:
        The table.

    Raises:
        ModelError: No such plan, or jobs that failed.
    """
    chosen = read_plan(plan)
    wanted = [name.strip() for name in only.split(',') if name.strip()]
    # What is not the whole must not replace its figures.
    part = '-'.join([*wanted, *([f'seeds{seeds}'] if seeds else [])])
    if wanted:
        if unknown := set(wanted) - {arm.name for arm in chosen.arms}:
            raise ModelError(f'{plan} has no arm {min(unknown)}')
        chosen.arms = [arm for arm in chosen.arms if arm.name in wanted]
    out = out or Path('experiments') / plan.stem
    if chosen.frames is not None:
        if data is None:
            raise ModelError(f'{plan} is on labelled frames: say where they lie with --data')
        numbers = list(range(seeds or 3))
        table = compare_frames(chosen, data, pairs, weights, numbers, out, parallel, part)
        print(f'\n{table}')
        return table
    comparison = compare(
        chosen, size=size or '', seeds=list(range(seeds)) if seeds else None, split=split,
        data=data or Path('simdg'), out=out, parallel=parallel, part=part,
    )  # fmt: skip
    table = comparison.table()
    print(f'\nsimulated data\n\n{table}')
    return table


def read_plan(path: Path) -> Plan:
    """Read a plan.

    Args:
        path: YAML file.

    Raises:
        ModelError: Not a plan.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ModelError(f'{path}: no plan of an experiment: {error}') from None
    if not isinstance(content, dict) or not isinstance(content.get('arms'), list):
        raise ModelError(f'{path}: a plan has a list of arms')
    known = set(Plan.__dataclass_fields__)
    if unknown := set(content) - known:
        raise ModelError(f'{path}: unknown key {min(unknown)}; known: {", ".join(sorted(known))}')
    fields = set(Arm.__dataclass_fields__)
    for arm in content['arms']:
        if not isinstance(arm, dict) or 'name' not in arm or (set(arm) - fields):
            raise ModelError(f'{path}: an arm has a name, and of {", ".join(sorted(fields))}')
    frames = content.get('frames')
    if frames is not None and not (
        isinstance(frames, dict) and {'split', 'source'} <= set(frames)
    ):
        raise ModelError(f'{path}: frames have a split and a source')
    try:
        content['frames'] = None if frames is None else Frames(**frames)
    except TypeError as error:
        raise ModelError(f'{path}: frames: {error}') from None
    return Plan(**{**content, 'arms': [Arm(**arm) for arm in content['arms']]})


if __name__ == '__main__':
    run_command(experiment)
