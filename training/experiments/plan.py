# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What an experiment on pretraining compares."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, is_dataclass, replace
from inspect import signature
from pathlib import Path
from typing import Any

from clcp_ros.errors import ModelError
from training.finetune import finetune
from training.segmentation.keeping import KeepConfig
from training.simdg.benchmark import Recipe
from training.simdg.sizes import Size

DOMAINS = {'clear': 'pairs-clear', 'all': 'pairs'}
"""What is pretrained on: folder of the pair set in the folder of the benchmark's size."""

BASELINE = 'none'
"""Without pretraining: the size's network, finetuned as all arms are."""

FROZEN = '+frozen'
KEPT = '+kept'


@dataclass
class Arm:
    """A way to pretrain.

    Attributes:
        name: In tables and folders; letters, digits, - and _.
        config: Recipe file of training/pretrain.py; empty for its defaults.
        domains: Pairs to pretrain on, one run each: clear, all.
        options: Options of training/pretrain.py that replace the file's and the common ones.
        finetune: Options of training/finetune.py that replace the size's where everything is
            finetuned, such as `optimizer.encoder_factor`.
        keep: Also finetune everything while the pretraining goes on.
    """

    name: str
    config: str = ''
    domains: list[str] = field(default_factory=lambda: ['clear', 'all'])
    options: dict[str, Any] = field(default_factory=dict)
    finetune: dict[str, Any] = field(default_factory=dict)
    keep: bool = False


@dataclass
class Frames:
    """Labelled frames to compare on instead of the benchmark, such as real ones.

    Attributes:
        split: What is measured, as of training/evaluate.py.
        source: The condition among them that was trained on.
        config: Recipe file of training/finetune.py.
    """

    split: str
    source: str
    config: str = ''


@dataclass
class Plan:
    """What is compared, and how.

    Attributes:
        arms: Ways to pretrain; the baseline without pretraining is always there.
        size: Size of the benchmark.
        common: Options of training/pretrain.py for all arms.
        finetune: Options of training/finetune.py for all recipes that replace the size's.
        full: Finetune everything.
        frozen: Finetune the head alone.
        frames: Labelled frames instead of the benchmark.
        tag: End of the names of runs in the folder of the benchmark, for a plan that finetunes
            otherwise than another one on the same data.
    """

    arms: list[Arm]
    size: str = 'small'
    common: dict[str, Any] = field(default_factory=dict)
    finetune: dict[str, Any] = field(default_factory=dict)
    full: bool = True
    frozen: bool = True
    frames: Frames | None = None
    tag: str = ''


@dataclass(frozen=True)
class Job:
    """One pretraining, and what is finetuned from it.

    Attributes:
        arm: How to pretrain; None for the baseline without pretraining.
        domain: On what.
        seed: Of everything that is random.
    """

    arm: Arm | None
    domain: str
    seed: int

    @property
    def recipe(self) -> str:
        """Name of the recipe in the results."""
        if self.arm is None:
            return BASELINE
        return f'{self.arm.name}.{self.domain}' if self.domain else self.arm.name

    @property
    def title(self) -> str:
        """For people."""
        return f'{self.recipe}, seed {self.seed}'


def check(plan: Plan, size: Size) -> None:
    """Complain before anything runs.

    Args:
        plan: Of the experiment.
        size: Of the benchmark.

    Raises:
        ModelError: Names that cannot be folders or are used twice, unknown domains or
            options, a missing file; nothing to measure.
    """
    check_arms(plan)
    finetune_options('the plan', plan.finetune, size)
    for arm in plan.arms:
        finetune_options(arm.name, {**plan.finetune, **arm.finetune}, size)


def check_arms(plan: Plan) -> None:
    """Complain of what makes no sense whatever is measured on.

    Args:
        plan: Of the experiment.

    Raises:
        ModelError: As `check`.
    """
    if not (plan.full or plan.frozen):
        raise ModelError('neither full nor frozen finetuning: there is nothing to measure')
    names = [arm.name for arm in plan.arms]
    for arm in plan.arms:
        if not arm.name or not all(c.isalnum() or c in '-_' for c in arm.name):
            raise ModelError(f'{arm.name!r} is no name of an arm: letters, digits, - and _ only')
        if names.count(arm.name) > 1 or arm.name == BASELINE:
            raise ModelError(f'the name {arm.name} is taken')
        if unknown := sorted(set(arm.domains) - set(DOMAINS)):
            raise ModelError(f'{arm.name}: no domain {unknown[0]!r}; there are clear and all')
        if arm.config and not Path(arm.config).is_file():
            raise ModelError(f'{arm.config}: no such file, for the arm {arm.name}')


def jobs_of(arms: list[Arm], seeds: list[int]) -> list[Job]:
    """All jobs, a seed after the other: whatever is done first is a whole comparison.

    Args:
        arms: What is compared, beside the baseline.
        seeds: Of the runs.
    """
    runs: list[tuple[Arm | None, str]] = [(None, '')]
    runs += [(arm, domain) for arm in arms for domain in arm.domains]
    return [Job(arm, domain, seed) for seed in seeds for arm, domain in runs]


def finetune_options(who: str, wanted: dict[str, Any], size: Size) -> dict[str, Any]:
    """Options of finetune, as arguments of the function.

    Args:
        who: Has them, for people.
        wanted: With names such as `optimizer.encoder_factor`.
        size: Whose options they change.

    Raises:
        ModelError: There is no such option.
    """
    options: dict[str, Any] = {}
    for name, value in wanted.items():
        first, _, field_name = name.partition('.')
        parameters = signature(finetune).parameters
        if first not in parameters:
            raise ModelError(f'{who}: finetune has no option {name}')
        if not field_name:
            options[first] = value
            continue
        whole = options.get(first, size.training.get(first, parameters[first].default))
        if not is_dataclass(whole) or not hasattr(whole, field_name):
            raise ModelError(f'{who}: finetune has no option {name}')
        options[first] = replace(whole, **{field_name: value})  # type: ignore[type-var]
    return options


def variants(plan: Plan, job: Job) -> dict[str, dict[str, Any]]:
    """What is finetuned from a job's pretraining: options of finetune, by the end of the name.

    Args:
        plan: Of the experiment.
        job: The job.
    """
    arm = job.arm or Arm('')
    full = {**plan.finetune, **arm.finetune}
    asked = {'': plan.full, KEPT: plan.full and arm.keep, FROZEN: plan.frozen}
    return {end: plan.finetune if end == FROZEN else full for end in asked if asked[end]}


def recipes_of(job: Job, runs: Path, plan: Plan, size: Size) -> list[Recipe]:
    """What is finetuned from a job's pretraining.

    Args:
        job: The job.
        runs: Folder of the pretraining runs.
        plan: Of the experiment.
        size: Of the benchmark.
    """
    run = runs / job.recipe / f'seed{job.seed}'
    encoder = '' if job.arm is None else str(run / 'image_encoder.safetensors')
    recipes = []
    for end, wanted in variants(plan, job).items():
        options = finetune_options(job.recipe, wanted, size)
        if end != FROZEN:
            keep = options.pop('keep', KeepConfig())
            options |= {'keep': replace(keep, run=run)} if end == KEPT else {}
        name = job.recipe + end + plan.tag
        recipes.append(Recipe(name, encoder, frozen=end == FROZEN, options=options))
    return recipes


def arguments_of(job: Job, pairs: Path, out: Path, common: dict[str, Any]) -> list[str]:
    """Arguments of training/pretrain.py.

    Args:
        job: With an arm.
        pairs: Pair set.
        out: Folder of the run.
        common: Options of all arms.
    """
    assert job.arm is not None
    options = {**common, **job.arm.options}
    return [
        *(['--config', job.arm.config] if job.arm.config else []), *as_arguments(options),
        f'--pairs={pairs}', f'--out={out}', f'--seed={job.seed}',
    ]  # fmt: skip


def as_arguments(options: dict[str, Any]) -> list[str]:
    """Options as a command line has them.

    Args:
        options: Values that YAML can hold, by name.
    """
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in options.items()}
    return [f'--{name}={text}' for name, text in texts.items()]
