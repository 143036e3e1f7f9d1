# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Two protocols of cross-modal place recognition.

`lip_loc_recall` is the published one, for comparison: it counts a frame's own scan as an answer
and leaves out one of the two horizontal axes, so it is easily satisfied. `strict` leaves out what
was recorded around the query and measures in the horizontal plane.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from clcp_ros.errors import PairSetError

RADII_M = (1.0, 5.0, 10.0, 20.0, 25.0)
LIP_LOC_RADIUS_M = 20.0
_ROWS = 512  # queries compared at once: bounds the memory of long sequences


@dataclass(frozen=True)
class Places:
    """Where and when samples were taken.

    Attributes:
        positions: (N, 3) float64, metres, z up; of one world within a sequence.
        stamps_ns: (N,) int64.
        sequences: (N,) names.
    """

    positions: np.ndarray
    stamps_ns: np.ndarray
    sequences: np.ndarray

    def __post_init__(self) -> None:
        count = len(self.positions)
        if self.positions.shape != (count, 3) or not len(self.stamps_ns) == count:
            raise PairSetError('places need (N, 3) positions and N stamps')
        if len(self.sequences) != count:
            raise PairSetError('places need N sequences')
        if not np.isfinite(self.positions).all():
            raise PairSetError('places need finite positions')

    def of(self, rows: np.ndarray) -> Places:
        """Some of the places.

        Args:
            rows: (M,) positions.
        """
        return Places(self.positions[rows], self.stamps_ns[rows], self.sequences[rows])


@dataclass(frozen=True)
class StrictRecall:
    """The strict protocol's figures at one radius, of one direction.

    Attributes:
        radius_m: An answer within it is right.
        recall: Share of the queries with a right answer among the first k, by k as text:
            1, 5, 10, 1%.
        chance: The same of a random order.
        median_rank: Of the first right answer, from 1.
        queries: Queries that have a right answer at all; others are left out.
        left_out: Queries that have none.
    """

    radius_m: float
    recall: dict[str, float]
    chance: dict[str, float]
    median_rank: float
    queries: int
    left_out: int


def lip_loc_recall(
    queries: np.ndarray,
    database: np.ndarray,
    positions: np.ndarray,
    radius_m: float = LIP_LOC_RADIUS_M,
) -> float:
    """Recall@1 as published with LIP-Loc (arXiv 2312.16648, section 4 and its evaluation code).

    Every frame is a query and, by its scan, an entry of the data base; the answer is the entry
    with the largest dot product, and right when nearer than `radius_m` by the second and third
    component of the position alone.

    Args:
        queries: (N, D) camera embeddings.
        database: (N, D) lidar embeddings of the same frames, in the same order.
        positions: (N, 3) as the data set's poses have them: of the camera in the first frame's
            camera axes for KITTI, in the world for KITTI-360.
        radius_m: Largest distance.

    Returns:
        Share of the queries answered rightly, in [0, 1].

    Raises:
        PairSetError: The shapes do not agree.
    """
    _check(queries, database, len(positions), len(positions))
    answers = np.concatenate(
        [(queries[rows] @ database.T).argmax(axis=1) for rows in _blocks(len(queries))]
    )
    offset = positions[:, 1:3] - positions[answers, 1:3]
    return float(np.mean(np.hypot(offset[:, 0], offset[:, 1]) < radius_m))


def strict(
    queries: np.ndarray,
    database: np.ndarray,
    places: Places,
    *,
    exclude_s: float = 30.0,
    cross_sequence: bool = False,
    radii_m: tuple[float, ...] = RADII_M,
) -> list[StrictRecall]:
    """Recall without the query's own neighbourhood, by distance in the horizontal plane.

    Entries of the query's sequence that were recorded less than `exclude_s` seconds before or
    after it do not take part. Entries of other sequences take part as wrong answers, for two
    sequences have no common world; with `cross_sequence` they have, and only they are searched.

    Args:
        queries: (N, D) embeddings of one modality.
        database: (N, D) of the other, of the same samples in the same order.
        places: Of the samples.
        exclude_s: Half the width of the window around the query, seconds; 0 leaves out only the
            query's own sample.
        cross_sequence: Search in other sequences only, whose positions share one world.
        radii_m: Radii to count at.

    Returns:
        One result per radius.

    Raises:
        PairSetError: The shapes do not agree, or no query has a right answer at any radius.
    """
    count = len(places.positions)
    _check(queries, database, count, count)
    first: dict[float, list[np.ndarray]] = {radius: [] for radius in radii_m}
    shares: dict[float, list[np.ndarray]] = {radius: [] for radius in radii_m}
    sizes: list[np.ndarray] = []
    for rows, allowed, distance in _searched(places, exclude_s, cross_sequence):
        similarity = np.where(allowed, queries[rows] @ database.T, -np.inf)
        order = np.argsort(-similarity, axis=1, kind='stable')
        sizes.append(allowed.sum(axis=1))
        for radius in radii_m:
            right = distance <= radius
            ordered = np.take_along_axis(right, order, axis=1)
            first[radius].append(np.where(ordered.any(axis=1), ordered.argmax(axis=1) + 1, 0))
            shares[radius].append(right.sum(axis=1))
    size = np.concatenate(sizes)
    results = [
        _summary(radius, np.concatenate(first[radius]), np.concatenate(shares[radius]), size)
        for radius in radii_m
    ]
    if not any(result.queries for result in results):
        raise PairSetError(
            f'no place was seen twice within {max(radii_m):g} m and more than {exclude_s:g} s '
            'apart: record one twice, or make exclude_s smaller'
        )
    return results


def answerable(
    places: Places,
    *,
    exclude_s: float,
    cross_sequence: bool = False,
    radius_m: float = RADII_M[-1],
) -> float:
    """Share of the queries that `strict` finds a right answer for in the data base.

    Args:
        places: Of the samples.
        exclude_s: As of `strict`.
        cross_sequence: As of `strict`.
        radius_m: An answer within it is right.
    """
    searched = _searched(places, exclude_s, cross_sequence)
    found = [(distance <= radius_m).any(axis=1) for _, _, distance in searched]
    return float(np.concatenate(found).mean())


def _searched(
    places: Places, exclude_s: float, cross_sequence: bool
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """For blocks of queries: which entries take part, and how far they are.

    Yields:
        The queries; (B, N) bool; (B, N) metres in the plane, infinite for what takes no part or
        has no common world with the query.
    """
    count = len(places.positions)
    sequence = np.unique(places.sequences, return_inverse=True)[1]
    plane, stamps = places.positions[:, :2], places.stamps_ns
    for rows in _blocks(count):
        own = sequence[rows, None] == sequence[None]
        near = np.abs(stamps[rows, None] - stamps[None]) < max(exclude_s * 1e9, 1)
        allowed = ~own if cross_sequence else ~(own & near)
        allowed[np.arange(len(allowed)), np.arange(count)[rows]] = False
        distance = np.linalg.norm(plane[rows, None] - plane[None], axis=2)
        comparable = allowed if cross_sequence else allowed & own
        yield rows, allowed, np.where(comparable, distance, np.inf)


def _summary(radius: float, rank: np.ndarray, right: np.ndarray, size: np.ndarray) -> StrictRecall:
    asked = rank > 0
    rank, right, size = rank[asked], right[asked], size[asked]
    limits: dict[str, np.ndarray] = {str(k): np.full(len(size), k) for k in (1, 5, 10)}
    limits['1%'] = np.ceil(0.01 * size).astype(int)
    if not len(rank):
        nothing = dict.fromkeys(limits, math.nan)
        return StrictRecall(radius, nothing, nothing, math.nan, 0, int((~asked).sum()))
    return StrictRecall(
        radius_m=radius,
        recall={name: float(np.mean(rank <= k)) for name, k in limits.items()},
        chance={
            name: float(np.mean([_chance(*x) for x in zip(right, size, k, strict=True)]))
            for name, k in limits.items()
        },
        median_rank=float(np.median(rank)),
        queries=len(rank),
        left_out=int((~asked).sum()),
    )


def _chance(right: int, size: int, k: int) -> float:
    """Probability that k of `size` entries in random order hold one of the `right` ones."""
    if k >= size - right + 1:
        return 1.0
    return 1 - math.exp(
        math.lgamma(size - right + 1)
        - math.lgamma(size - right - k + 1)
        + math.lgamma(size - k + 1)
        - math.lgamma(size + 1)
    )


def _blocks(count: int) -> list[slice]:
    return [slice(start, min(start + _ROWS, count)) for start in range(0, count, _ROWS)]


def _check(queries: np.ndarray, database: np.ndarray, n: int, m: int) -> None:
    if queries.ndim != 2 or database.ndim != 2 or queries.shape[1] != database.shape[1]:
        raise PairSetError(
            f'embeddings of shapes {queries.shape} and {database.shape} cannot be compared'
        )
    if len(queries) != n or len(database) != m:
        raise PairSetError(f'{len(queries)} queries and {len(database)} entries for {n} places')
    if not (np.isfinite(queries).all() and np.isfinite(database).all()):
        raise PairSetError('embeddings are not finite')
