# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which pairs are for training and which for validation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clcp_ros.errors import PairSetError


@dataclass(frozen=True)
class Split:
    """How a set is split; the same pairs are always split in the same way.

    Attributes:
        kind: 'time' (the last part of each sequence), 'sequence' or 'tag'.
        fraction: Part that is for validation, for 'time' and 'sequence'.
        names: Sequences or drives that are for validation, instead of a fraction.
        tag: Name and value of the tag whose pairs are for validation.
    """

    kind: str = 'time'
    fraction: float = 0.15
    names: tuple[str, ...] = ()
    tag: tuple[str, str] = ('', '')

    @classmethod
    def parse(cls, text: str, val_fraction: float) -> Split:
        """Read `time`, `sequence:0.2`, `sequence:NAME,NAME` or `tag:NAME=VALUE`.

        Args:
            text: As given with --split.
            val_fraction: Fraction for 'time'.

        Raises:
            PairSetError: It is none of these.
        """
        if not 0 <= val_fraction < 1:
            raise PairSetError(f'the validation fraction is {val_fraction}, not in [0, 1)')
        kind, _, rest = text.partition(':')
        if kind == 'time' and not rest:
            return cls('time', val_fraction)
        if kind == 'sequence' and rest:
            try:
                fraction = float(rest)
            except ValueError:
                return cls(kind, 0.0, tuple(n.strip() for n in rest.split(',') if n.strip()))
            if not 0 < fraction < 1:
                raise PairSetError(f'--split {text}: the fraction must lie between 0 and 1')
            return cls(kind, fraction)
        name, equals, value = rest.partition('=')
        if kind == 'tag' and name and equals and value:
            return cls(kind, 0.0, (), (name, value))
        raise PairSetError(
            f'--split {text} is none of time, sequence:FRACTION, sequence:NAME,NAME, '
            'tag:NAME=VALUE'
        )

    def assign(self, rows: list[dict[str, Any]], drives: Mapping[str, str]) -> None:
        """Set `split` of every row.

        Args:
            rows: Of the index, any order.
            drives: Sequence: the drive it belongs to; sequences of one drive stay together.

        Raises:
            PairSetError: A name or tag that does not occur, or nothing left to train on.
        """
        if self.kind == 'time':
            self._by_time(rows)
            return
        if self.kind == 'sequence':
            chosen = self._chosen_drives(rows, drives)
            held_out = [drives.get(r['sequence'], r['sequence']) in chosen for r in rows]
        else:
            held_out = self._tagged(rows)
        for row, is_val in zip(rows, held_out, strict=True):
            row['split'] = 'val' if is_val else 'train'
        if all(held_out):
            raise PairSetError('the split leaves nothing to train on')

    def _by_time(self, rows: list[dict[str, Any]]) -> None:
        sequences: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            sequences.setdefault(row['sequence'], []).append(row)
        for own in sequences.values():
            own.sort(key=lambda row: (row['camera_stamp_ns'], row['key']))
            held_out = validation_count(len(own), self.fraction)
            for position, row in enumerate(own):
                row['split'] = 'val' if position >= len(own) - held_out else 'train'

    def _chosen_drives(self, rows: list[dict[str, Any]], drives: Mapping[str, str]) -> set[str]:
        pairs: dict[str, int] = {}
        for row in rows:
            drive = drives.get(row['sequence'], row['sequence'])
            pairs[drive] = pairs.get(drive, 0) + 1
        if self.names:
            # A sequence stands for its drive: another camera's view of it must not be trained on.
            chosen = {drives.get(name, name) for name in self.names}
            unknown = sorted(chosen - set(pairs))
            if unknown:
                raise PairSetError(
                    f'--split: no pairs of sequence {unknown[0]!r}; there are '
                    f'{", ".join(sorted(pairs)[:20])}'
                )
            return chosen
        if len(pairs) < 2:
            raise PairSetError('--split sequence:FRACTION needs at least two sequences')
        # By a hash of the name: adding a sequence does not move the others about.
        order = sorted(pairs, key=lambda drive: hashlib.sha256(drive.encode()).digest())
        wanted, taken = self.fraction * len(rows), 0
        chosen = set()
        for drive in order[:-1]:
            chosen.add(drive)
            taken += pairs[drive]
            if taken >= wanted:
                break
        return chosen

    def _tagged(self, rows: list[dict[str, Any]]) -> list[bool]:
        name, value = self.tag
        values = [json.loads(row['tags']).get(name) for row in rows]
        if value not in values:
            known = sorted({str(v) for v in values if v is not None})
            there = f'its values are {", ".join(known[:20])}' if known else 'no pair has that tag'
            raise PairSetError(f'--split tag:{name}={value} chooses nothing: {there}')
        return [v == value for v in values]


def validation_count(pairs: int, val_fraction: float) -> int:
    """How many of a sequence's last pairs are for validation: at least one where there are two."""
    if val_fraction <= 0 or pairs < 2:
        return 0
    return min(max(1, int(pairs * val_fraction)), pairs - 1)
