# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""When what is watched is a reason to warn.

The thesis' run would have raised three of these within its first hour: a loss that its temperature
keeps near chance, an encoder that drifts away from its weights, patches that lose what they knew.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

HIGH_FLOOR = 0.3
AT_FLOOR = 0.2
AT_CHANCE = 0.98
LEAST_COSINE = 0.5
LEAST_CKA = 0.5
LEAST_RANK_KEPT = 0.3
MOST_SIMILARITY = 0.95
LEAST_EMBEDDING_RANK = 3.0


@dataclass(frozen=True)
class State:
    """What is known of a run at a validation.

    Attributes:
        step: Steps done.
        steps: Of the whole run.
        values: What was logged, without `val_`; `loss` is the training contrast of late.
        pairs: Pairs per step.
        floor: The least contrast that so many pairs can have at the present scale; 0: unknown.
        scale: Inverse temperature; None for a contrast without one.
        initial: `patch_rank` and `patch_similarity` of the initial encoder.
        pretrained: Whether the initial encoder knew anything.
    """

    step: int
    steps: int
    values: Mapping[str, float]
    pairs: int
    floor: float = 0.0
    scale: float | None = None
    initial: Mapping[str, float] | None = None
    pretrained: bool = False

    @property
    def late(self) -> bool:
        """Whether something should have been learned: a fifth of the run, 50 to 500 steps."""
        return self.step >= min(max(self.steps // 5, 50), 500)


def alarms(state: State) -> dict[str, str]:
    """Reasons to warn.

    Args:
        state: Of the run.

    Returns:
        A line by the name of the alarm; what the run has no values for raises none.
    """
    found = {
        'floor': _floor(state),
        'chance': _chance(state),
        'retrieval': _retrieval(state),
        'drift': _drift(state),
        'collapse': _collapse(state),
        'embedding': _embedding(state),
    }
    return {name: text for name, text in found.items() if text}


def _floor(s: State) -> str:
    chance = math.log(max(s.pairs, 2))
    if s.floor < HIGH_FLOOR * chance:
        return ''
    text = (
        f'at a logit scale of {s.scale:.3g} the loss of {s.pairs} pairs cannot fall below '
        f'{s.floor:.2f} (chance is {chance:.2f}): the temperature is far too high, or inverted'
    )
    loss = s.values.get('loss', math.inf)
    if loss - s.floor < AT_FLOOR * (chance - s.floor):
        text = f'the loss, {loss:.2f}, is at its floor: {text}'
    return text


def _chance(s: State) -> str:
    loss, chance = s.values.get('loss'), math.log(max(s.pairs, 2))
    # Only with a floor or a scale is the loss that of CLIP, whose chance level is known.
    if not s.late or loss is None or s.scale is None or loss < AT_CHANCE * chance:
        return ''
    return f'the loss, {loss:.2f}, is at chance ({chance:.2f}) after {s.step} steps'


def _retrieval(s: State) -> str:
    pairs, found = s.values.get('pairs', 0.0), s.values.get('r10')
    if not s.late or found is None or pairs < 30:
        return ''
    chance = 10 / pairs
    spread = math.sqrt(chance * (1 - chance) / (2 * pairs))
    if found > chance + 3 * spread:
        return ''
    return (
        f'retrieval is at chance after {s.step} steps: the partner is among the first ten of '
        f'{pairs:.0f} in {found:.1%} of the cases (chance {chance:.1%}); too small a learning '
        'rate, or pairs that do not belong together (training/check_pairs.py)'
    )


def _drift(s: State) -> str:
    if not s.pretrained:
        return ''
    cosine, cka = (s.values.get(k, 1.0) for k in ('patch_cosine', 'patch_cka'))
    if cosine >= LEAST_COSINE and cka >= LEAST_CKA:
        return ''
    return (
        f'the patch tokens drift away from the initial encoder: cosine {cosine:.2f}, CKA '
        f'{cka:.2f}; what a segmentation head reads is being overwritten: lower the learning '
        'rate, use --optimizer.layer_decay, or anchor it (--method clcp_anchored)'
    )


def _collapse(s: State) -> str:
    initial = s.initial or {}
    rank, similarity = s.values.get('patch_rank'), s.values.get('patch_similarity', 0.0)
    before = initial.get('patch_rank', 0.0)
    if rank is not None and rank < LEAST_RANK_KEPT * before:
        return (
            f'the patch tokens collapse: an effective rank of {rank:.1f}, {before:.1f} at the '
            'beginning'
        )
    if similarity > MOST_SIMILARITY > initial.get('patch_similarity', 1.0):
        return (
            f'the patch tokens collapse: those of an image have a mean cosine of {similarity:.2f}'
        )
    return ''


def _embedding(s: State) -> str:
    ranks = [s.values[k] for k in ('image_rank', 'lidar_rank') if k in s.values]
    if not s.late or not ranks or s.values.get('pairs', 0) < 30:
        return ''
    if min(ranks) >= LEAST_EMBEDDING_RANK:
        return ''
    return (
        f'the embeddings collapse: an effective rank of {min(ranks):.1f} over '
        f'{s.values["pairs"]:.0f} validation pairs'
    )
