# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which rows a kernel connects, and in which order to visit them."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Kind = Literal['submanifold', 'strided', 'transposed']

# Pairs of a chunk: enough rows per offset for fast products, few enough that what is gathered and
# multiplied stays in the last cache.
CHUNK_PAIRS = 32_768


@dataclass(frozen=True)
class Chunk:
    """A range of output rows and the pairs that lead to them.

    Attributes:
        rows: The output rows.
        offsets: Kernel offsets that have pairs here.
        sizes: Per such offset, its places; somewhat more than pairs, so that few sizes occur.
        gather: (sum of sizes,) int32 input row of each place; 0 where there is no pair.
        order: (pairs,) int32 places, output row after output row.
        begins: (rows + 1,) int32 where each row's places begin in `order`.
    """

    rows: slice
    offsets: list[int]
    sizes: list[int]
    gather: Tensor
    order: Tensor
    begins: Tensor

    @cached_property
    def blank(self) -> Tensor:
        """(places without a pair,) int64."""
        free = torch.ones(len(self.gather), dtype=torch.bool, device=self.gather.device)
        free[self.order] = False
        return positions(free)

    @cached_property
    def scatter(self) -> Tensor:
        """(sum of sizes,) int32 output row of each place; the first of `rows` without a pair."""
        counts = self.begins[1:] - self.begins[:-1]
        rows = torch.arange(
            self.rows.start, self.rows.stop, dtype=torch.int32, device=self.order.device
        )
        places = torch.full_like(self.gather, self.rows.start)
        places[self.order] = rows.repeat_interleave(counts, output_size=len(self.order))
        return places


class KernelMap:
    """Pairs of rows that each kernel offset connects.

    Args:
        table: (n_targets, offsets) int32: the input row that each offset brings to each output
            row, -1 for none.
        kind: Of the convolution.
        source_coords: (n_sources, 4) coordinates of the input, for other backends.
        target_coords: (n_targets, 4) coordinates of the output.
        batch_size: Number of samples.

    Attributes:
        centre: Offset that connects each row with itself, if there is one. It needs no gathering:
            its pairs are left out of `chunks`, `source`, `target` and `slices`.
        backend_state: What other backends keep per map.
    """

    def __init__(
        self, table: Tensor, kind: Kind, source_coords: Tensor, target_coords: Tensor,
        batch_size: int,
    ) -> None:  # fmt: skip
        self.table, self.kind, self.batch_size = table, kind, batch_size
        self.source_coords, self.target_coords = source_coords, target_coords
        self.centre = 13 if kind == 'submanifold' else None
        self.backend_state: dict[str, Any] = {}
        self._origin: weakref.ref[KernelMap] | None = None

    @property
    def n_sources(self) -> int:
        """Rows of the input."""
        return len(self.source_coords)

    @property
    def n_targets(self) -> int:
        """Rows of the output."""
        return len(self.target_coords)

    @property
    def volume(self) -> int:
        """Number of kernel offsets."""
        return self.table.shape[1]

    @cached_property
    def n_pairs(self) -> int:
        """Number of pairs, those of the centre included."""
        return int((self.table >= 0).sum())

    @cached_property
    def transposed(self) -> KernelMap:
        """The same pairs in the other direction, for a transposed convolution or a gradient."""
        origin = None if self._origin is None else self._origin()
        if origin is not None:
            return origin
        table = torch.full(
            (self.n_sources, self.volume), -1, dtype=torch.int32, device=self.table.device
        )
        place = positions(self.table.view(-1) >= 0)
        source = self.table.view(-1).index_select(0, place).long()
        target = torch.div(place, self.volume, rounding_mode='floor')
        table.view(-1)[source * self.volume + place % self.volume] = target.int()
        kind: Kind = 'transposed' if self.kind == 'strided' else 'strided'
        other = KernelMap(
            table, self.kind if self.kind == 'submanifold' else kind, self.target_coords,
            self.source_coords, self.batch_size,
        )  # fmt: skip
        other._origin = weakref.ref(self)  # a strong one would outlive the step in a cycle
        return other

    @cached_property
    def pairs(self) -> tuple[Tensor, Tensor, list[slice]]:
        """Input rows and output rows of all pairs, offset after offset, and each one's slice."""
        hit = self._hits().T
        offset, target = hit.nonzero().unbind(1)
        source = self.table[target, offset].long()
        ends = np.cumsum(hit.sum(1).tolist()).tolist()
        begins = [0, *ends[:-1]]
        return source, target, [slice(b, e) for b, e in zip(begins, ends, strict=True)]

    source = property(lambda self: self.pairs[0])
    target = property(lambda self: self.pairs[1])
    slices = property(lambda self: self.pairs[2])

    @cached_property
    def chunks(self) -> list[Chunk]:
        """All pairs but the centre's in the order in which a convolution visits them."""
        n, volume, device = self.n_targets, self.volume, self.table.device
        if n == 0:
            return []
        hit = self._hits()
        rows = self._chunk_rows(int(hit.sum()))
        n_chunks = -(-n // rows)
        padded = torch.nn.functional.pad(hit.view(torch.uint8), (0, 0, 0, n_chunks * rows - n))
        # (chunk, offset, row): a pair's number among its offset's pairs in its chunk, from 1.
        number = padded.view(n_chunks, rows, volume).transpose(1, 2).cumsum(2, dtype=torch.int32)
        counts = number[:, :, -1].cpu().numpy().astype(np.int64)
        sizes = padded_sizes(counts)
        begins = np.zeros_like(sizes)  # of each offset in its chunk
        begins[:, 1:] = np.cumsum(sizes[:, :-1], axis=1)
        ends = np.cumsum(sizes.sum(axis=1))

        # Pairs row after row, as the table has them; `place` is where its product will lie.
        pair = positions(hit.view(-1))
        row = torch.div(pair, volume, rounding_mode='floor')
        chunk = torch.div(row, rows, rounding_mode='floor')
        segment = chunk * volume + (pair - row * volume)
        place = number.view(-1).index_select(0, segment * rows + (row - chunk * rows))
        place += torch.from_numpy(begins.reshape(-1) - 1).to(device).int().index_select(0, segment)
        shift = torch.from_numpy(ends - sizes.sum(axis=1)).to(device)
        gather = torch.zeros(int(ends[-1]), dtype=torch.int32, device=device)
        gather[place + shift.index_select(0, chunk)] = self.table.view(-1).index_select(0, pair)
        per_row = torch.zeros(n + 1, dtype=torch.int32, device=device)
        torch.cumsum(hit.sum(1, dtype=torch.int32), 0, out=per_row[1:])

        result = []
        pair_ends = np.cumsum(counts.sum(axis=1))
        for i in range(n_chunks):
            first, last = i * rows, min((i + 1) * rows, n)
            begin, end = int(pair_ends[i] - counts[i].sum()), int(pair_ends[i])
            part = gather[int(ends[i] - sizes[i].sum()) : int(ends[i])]
            used = sizes[i].nonzero()[0].tolist()
            result.append(
                Chunk(
                    slice(first, last), used, sizes[i][used].tolist(), part,
                    place[begin:end], per_row[first : last + 1] - begin,
                )
            )  # fmt: skip
        return result

    def _hits(self) -> Tensor:
        hit = self.table >= 0
        if self.centre is not None:
            hit[:, self.centre] = False
        return hit

    def _chunk_rows(self, n_pairs: int) -> int:
        """Output rows of a chunk: a power of two, since few sizes of products are fast."""
        if self.table.is_cuda or n_pairs <= CHUNK_PAIRS:
            return self.n_targets
        rows = CHUNK_PAIRS * self.n_targets / n_pairs
        return min(2 ** max(round(np.log2(rows)), 8), self.n_targets)


def positions(mask: Tensor) -> Tensor:
    """(count,) int64 positions of what is true in a vector."""
    if mask.device.type == 'cpu':  # an eighth of the time of torch.nonzero
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.nonzero().view(-1)


def padded_sizes(counts: np.ndarray) -> np.ndarray:
    """Round sizes up to multiples of 16, and to four per octave or, from 512, eight.

    Preparing a product for a size never seen costs more than most of these products, and half a
    megabyte.

    Args:
        counts: Non-negative integers.

    Returns:
        The same shape; 0 stays 0.
    """
    octave = np.frexp(np.maximum(counts - 1, 1))[1] - 1
    step = np.maximum(2 ** np.maximum(np.where(octave >= 9, octave - 3, octave - 2), 0), 16)
    return -(-counts // step) * step
