# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Batches without neighbours: no two frames of a sequence within some seconds of each other.

To a contrastive loss all other samples of a batch are negatives. Neighbouring frames of a drive
show the same place, so they would teach it to tell alike things apart.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from clcp_ros.errors import PairSetError
from training.pairs.pair_set import PairSet


@dataclass(frozen=True)
class Spacing:
    """Which samples must not meet in a batch.

    Attributes:
        sequences: (N,) a name or number per sample.
        stamps_ns: (N,) int64.
        gap_s: Two samples of one sequence in a batch are at least this far apart, seconds.
    """

    sequences: np.ndarray
    stamps_ns: np.ndarray
    gap_s: float

    @classmethod
    def of(cls, pairs: PairSet, positions: np.ndarray, gap_s: float) -> Spacing:
        """The spacing of some pairs of a set.

        Args:
            pairs: The set.
            positions: (N,) which pairs.
            gap_s: Seconds.
        """
        _, numbers = np.unique(pairs.column('sequence')[positions], return_inverse=True)
        return cls(numbers, pairs.column('camera_stamp_ns')[positions], gap_s)

    def largest_gap(self, batch_size: int) -> float:
        """The largest gap that batches of this size can keep.

        Args:
            batch_size: Samples per batch.

        Returns:
            Seconds; infinite where no sequence has more samples than there are batches.
        """
        batches = len(self.stamps_ns) // batch_size
        gap = np.inf
        for _, own in self._by_sequence():
            stamps = self.stamps_ns[own]
            if len(stamps) > batches:
                gap = min(gap, int((stamps[batches:] - stamps[:-batches]).min()) / 1e9)
        return float(gap)

    def check(self, batch_size: int) -> None:
        """Find out whether there are such batches.

        Args:
            batch_size: Samples per batch.

        Raises:
            PairSetError: There are none; says what would be possible.
        """
        count = len(self.stamps_ns)
        batches = count // batch_size
        most, where = 0, None
        for sequence, own in self._by_sequence():
            stamps = self.stamps_ns[own]
            ends = np.searchsorted(stamps, stamps + round(self.gap_s * 1e9))
            densest = int((ends - np.arange(len(stamps))).max())
            if densest > most:
                most, where = densest, sequence
        if most <= batches:
            return
        raise PairSetError(
            f'{count} pairs make {batches} batches of {batch_size}, but {most} pairs of sequence '
            f'{where} lie within {self.gap_s:g} s and each needs a batch of its own: at most '
            f'{count // most} pairs per batch are possible, or {self.largest_gap(batch_size):.3g} '
            's between them'
        )

    def order(self, batch_size: int, rng: np.random.Generator) -> np.ndarray:
        """The samples of a pass, batch after batch.

        The samples are laid out in time, sequence after sequence, in blocks of as many as there
        are batches; each block gives every batch one sample, at random among those that it does
        not bring too close to its last. Where `check` passes there always is one: of the samples
        that may not share a batch, each block and its forerunner hold fewer than there are
        batches.

        Args:
            batch_size: Samples per batch.
            rng: Source of the randomness; the same state gives the same batches.

        Returns:
            (N // batch_size * batch_size,) int64 numbers of samples; a pass leaves out a random
            rest that does not fill a batch.

        Raises:
            PairSetError: There are no such batches.
        """
        self.check(batch_size)
        count = len(self.stamps_ns)
        batches = count // batch_size
        left_out = rng.choice(count, count - batches * batch_size, replace=False)
        kept = np.ones(count, bool)
        kept[left_out] = False
        parts = [own[kept[own]] for _, own in self._by_sequence()]
        line = np.concatenate([parts[i] for i in rng.permutation(len(parts))])
        assigned = self._assign(line, batches, rng)
        # Sorting leaves the samples of a batch in time order. They are mixed: each process of
        # a distributed run takes a part of a batch.
        table = line[np.argsort(assigned, kind='stable')].reshape(batches, batch_size)
        return rng.permuted(table, axis=1).ravel()

    def _assign(self, line: np.ndarray, batches: int, rng: np.random.Generator) -> np.ndarray:
        """The batch of each sample of the line."""
        gap = round(self.gap_s * 1e9)
        sequences, stamps = self.sequences[line].tolist(), self.stamps_ns[line].tolist()
        assigned = np.zeros(len(line), np.int64)
        recent: deque[tuple[int, int]] = deque()
        blocked: dict[int, int] = {}
        pool: deque[int] = deque()
        for i, (sequence, stamp) in enumerate(zip(sequences, stamps, strict=True)):
            if i % batches == 0:
                pool = deque(rng.permutation(batches).tolist())
            if i and sequences[i - 1] != sequence:
                recent.clear()
                blocked.clear()
            while recent and stamp - recent[0][0] >= gap:
                _, batch = recent.popleft()
                blocked[batch] -= 1
            skipped = []
            while blocked.get(pool[0], 0):
                skipped.append(pool.popleft())
            batch = pool.popleft()
            pool.extendleft(reversed(skipped))
            assigned[i] = batch
            recent.append((stamp, batch))
            blocked[batch] = blocked.get(batch, 0) + 1
        return assigned

    def _by_sequence(self) -> list[tuple[object, np.ndarray]]:
        """Each sequence and its samples in time order."""
        names = np.unique(self.sequences)
        order = np.lexsort((self.stamps_ns, self.sequences))
        edges = np.searchsorted(self.sequences[order], names)
        return list(zip(names.tolist(), np.split(order, edges[1:]), strict=True))
