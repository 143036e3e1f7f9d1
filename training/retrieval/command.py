# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Retrieval across camera and lidar: find the place of an image among scans, and the other way.

Embeds the pairs of a set with a pretraining run, or takes embeddings from a file, and reports how
often the right place comes first: by a strict protocol, or by LIP-Loc's published one.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np

from clcp_ros.errors import PairSetError
from training.cli import atomic_path, git_commit
from training.defaults import PAIRS, ensure_pairs
from training.pairs.pair_set import PairSet
from training.retrieval.embeddings import Embeddings, embed_pairs
from training.retrieval.places import (
    Poses,
    places_of,
    published_positions,
    read_poses,
    read_positions,
)
from training.retrieval.protocols import (
    LIP_LOC_RADIUS_M,
    Places,
    StrictRecall,
    answerable,
    lip_loc_recall,
    strict,
)

Protocol = Literal['strict', 'lip-loc']
DIRECTIONS = {'image_to_lidar': 'image -> lidar', 'lidar_to_image': 'lidar -> image'}
_SHOWN = ('1', '5', '10', '1%')
_WINDOWS_S = (30.0, 10.0, 3.0, 1.0, 0.0)


def retrieval(
    run: Path = Path('runs/pretrain'),
    pairs: Path = PAIRS,
    protocol: Protocol = 'strict',
    split: Literal['all', 'train', 'val'] = 'all',
    sequence: str | None = None,
    exclude_s: float | None = None,
    cross_sequence: bool = False,
    radius_m: float = LIP_LOC_RADIUS_M,
    poses: Path | None = None,
    embeddings: Path | None = None,
    out: Path | None = None,
    batch_size: int = 32,
) -> dict[str, Any]:
    """Measure retrieval across camera and lidar.

    Args:
        run: Folder of a finished pretraining run.
        pairs: Pair set with poses; the default one is made from the simulated drive.
        protocol: strict, or lip-loc: as published, with the own frame in the data base and the
            distance in two axes, of which one is vertical.
        split: Which pairs.
        sequence: Only this sequence.
        exclude_s: strict: entries of the query's sequence within so many seconds do not count; by
            default 30, or less where few places were seen twice with so much time between.
        cross_sequence: strict: search in other sequences only, whose positions share one world.
        radius_m: lip-loc: an answer nearer than this is right.
        poses: lip-loc: the data set's own file of poses (poses.txt), for its exact positions.
        embeddings: An .npz file with keys, image (N, D) and lidar (N, D) instead of a run.
        out: Folder for retrieval.json, retrieval.md and embeddings.npz; by default the run's, or
            the file's.
        batch_size: Pairs embedded at once.

    Returns:
        The figures, as in retrieval.json.

    Raises:
        ModelError: No finished run.
        PairSetError: Too few pairs, or pairs without poses.
    """
    if pairs == PAIRS:
        ensure_pairs(pairs)
    pair_set = PairSet(pairs)
    rows = pair_set.rows(split=None if split == 'all' else split, sequence=sequence)
    # Places first: what cannot be measured is refused before anything is embedded.
    positions: np.ndarray | None = None
    places: Places | None = None
    if protocol == 'lip-loc' and poses is not None:
        _enough(pair_set, len(rows), len(rows))
        _check_single(pair_set, rows)
        positions = read_positions(poses, pair_set, rows)
    else:
        rows, known = _with_pose(pair_set, rows)
        if protocol == 'lip-loc':
            _check_single(pair_set, rows)
            positions = published_positions(pair_set, known)
        else:
            places = places_of(pair_set, rows, known)
            exclude_s = _window(places, exclude_s, cross_sequence)
    keys = np.asarray(pair_set.column('key'))[rows]
    folder = out or (embeddings.parent if embeddings else run)
    if embeddings:
        found = Embeddings.load(embeddings).of(keys)
    else:
        found = embed_pairs(run, pair_set, rows, batch_size)
        found.save(folder / 'embeddings.npz')
    seen = _seen(pair_set, found)
    found = found.of(keys[seen])
    about = {
        'protocol': protocol, 'pairs': str(pairs), 'count': len(found.keys), 'split': split,
        'sequence': sequence, 'model': str(embeddings or run), 'commit': git_commit(),
    }  # fmt: skip
    if positions is not None:
        recall = lip_loc_recall(found.image, found.lidar, positions[seen], radius_m)
        result = {**about, 'radius_m': radius_m, 'recall_at_1': recall}
        text = _published_text(result)
    else:
        assert places is not None
        assert exclude_s is not None
        figures = _strict(found, places.of(seen), exclude_s, cross_sequence)
        result = {
            **about, 'exclude_s': exclude_s, 'cross_sequence': cross_sequence,
            **{d: [dataclasses.asdict(r) for r in results] for d, results in figures.items()},
        }  # fmt: skip
        text = strict_table(figures)
    _write(folder, result, text)
    print(f'\n{text}\nwrote {folder / "retrieval.json"}, retrieval.md')
    return result


def _with_pose(pairs: PairSet, rows: np.ndarray) -> tuple[np.ndarray, Poses]:
    """Those of the pairs that have a pose, and their poses."""
    poses = read_poses(pairs, rows)
    known = poses.known
    _enough(pairs, len(rows), int(known.sum()))
    if not known.all():
        print(f'{(~known).sum()} of {len(rows)} pairs have no pose and are left out')
    return rows[known], poses.of(known)


def _seen(pairs: PairSet, found: Embeddings) -> np.ndarray:
    """Positions of the pairs with both embeddings; a scan without points has none."""
    known = found.known
    if not known.all():
        print(f'{(~known).sum()} of {len(known)} pairs have no point in sight and are left out')
    if known.sum() < 2:
        raise PairSetError(f'{pairs.folder}: {known.sum()} pairs have a point in sight; need two')
    return np.flatnonzero(known)


def _enough(pairs: PairSet, chosen: int, posed: int) -> None:
    if posed < 2:
        raise PairSetError(
            f'{pairs.folder}: {chosen} pairs chosen, {posed} of them with a pose; '
            f'retrieval by place needs at least two (sequences: {", ".join(pairs.sequences)})'
        )


def _check_single(pairs: PairSet, rows: np.ndarray) -> None:
    sequences = set(np.asarray(pairs.column('sequence'))[rows].tolist())
    if len(sequences) > 1:
        raise PairSetError(
            f'the published protocol is one of a single sequence, {pairs.folder} has '
            f'{len(sequences)}: choose one with --sequence ({", ".join(sorted(sequences))})'
        )


def _window(places: Places, wanted: float | None, cross_sequence: bool) -> float:
    """The time around a query that is left out: as asked, or as large as leaves right answers."""
    if wanted is not None:
        return wanted
    for seconds in _WINDOWS_S:
        if answerable(places, exclude_s=seconds, cross_sequence=cross_sequence) >= 0.25:
            break
    else:
        return _WINDOWS_S[-1]
    if seconds < _WINDOWS_S[0]:
        print(
            f'few places were seen twice with {_WINDOWS_S[0]:g} s between: only entries less '
            f'than {seconds:g} s away from a query are left out'
        )
    return seconds


def _strict(
    found: Embeddings, places: Places, exclude_s: float, cross_sequence: bool
) -> dict[str, list[StrictRecall]]:
    by = {'exclude_s': exclude_s, 'cross_sequence': cross_sequence}
    return {
        'image_to_lidar': strict(found.image, found.lidar, places, **by),  # type: ignore[arg-type]
        'lidar_to_image': strict(found.lidar, found.image, places, **by),  # type: ignore[arg-type]
    }


def strict_table(figures: dict[str, list[StrictRecall]]) -> str:
    """A Markdown table of the strict protocol's figures.

    Args:
        figures: By direction.

    Returns:
        Recall in percent, in brackets that of a random order.
    """
    lines = [
        '| direction | radius m | queries | ' + ' | '.join(f'R@{k}' for k in _SHOWN) + ' | median'
        ' rank |',
        '|---|---:|---:|' + '---:|' * (len(_SHOWN) + 1),
    ]
    for direction, results in figures.items():
        for r in results:
            if not r.queries:
                continue
            shown = ' | '.join(f'{r.recall[k]:.1%} ({r.chance[k]:.1%})' for k in _SHOWN)
            lines.append(
                f'| {DIRECTIONS[direction]} | {r.radius_m:g} | {r.queries} | {shown} | '
                f'{r.median_rank:g} |'
            )
    return '\n'.join(lines) + '\n'


def _published_text(result: dict[str, Any]) -> str:
    return (
        f"Recall@1 by LIP-Loc's protocol: {result['recall_at_1']:.1%} of {result['count']} "
        f'queries (own frame in the data base, {result["radius_m"]:g} m by the second and third '
        'coordinate; not comparable with the strict protocol)\n'
    )


def _write(folder: Path, result: dict[str, Any], text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / 'retrieval.md') as part:
        part.write_text(text)
    with atomic_path(folder / 'retrieval.json') as part:
        part.write_text(json.dumps(_plain(result), indent=1) + '\n')


def _plain(value: Any) -> Any:
    """Without NaN, which is no JSON."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value
