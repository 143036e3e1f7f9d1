# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Check a pair set against its index, and show samples of it.

Compares every sample with its hash, its description with the index, and the shards with what the
index says of them. One line for each problem; the exit code is 1 when there is one.
"""

from __future__ import annotations

if __package__ in (None, ''):
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import training  # noqa: F401  # first: it sets how torch's threads wait

import sys
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from clcp_ros import image_codec
from clcp_ros.errors import ImageError, PairSetError
from training.cli import atomic_path, run_command
from training.pairs.pair import Pair
from training.pairs.pair_set import PairSet
from training.pairs.preview import draw_points, scale_bar
from training.pairs.verify import check_index, check_sample, check_shards


def check_pairs(
    pairs: str,
    show: str | None = None,
    out: Path = Path('samples'),
    width: int = 0,
    hashes: bool = True,
) -> None:
    """Check a pair set, and write pictures of some of its samples.

    Args:
        pairs: Folder or URL of the set.
        show: Samples to draw, by key or by position (negative from the end), several with commas;
            first, middle and last when not given, none for 'none'.
        out: Folder of the pictures.
        width: Of the pictures, pixels; 0 keeps the images' size.
        hashes: Read every sample and compare it with its hash.
    """
    pair_set = PairSet(pairs, check='always')
    problems = check_index(pair_set)
    problems += check_shards(pair_set)
    positions = range(len(pair_set)) if hashes else range(0)
    for position in tqdm(positions, unit='pair', disable=not hashes):
        problems += check_sample(pair_set, position)
    for line in problems:
        print(line)
    splits = pair_set.column('split').tolist()
    print(
        f'{pairs}: {len(pair_set):,} pairs, sequences: {len(pair_set.sequences):,}, '
        f'{splits.count("train"):,} for training, {splits.count("val"):,} for validation; '
        f'{len(problems) or "no"} problem{"" if len(problems) == 1 else "s"}'
        f'{"" if hashes else " (samples were not read)"}'
    )
    for position in _chosen(pair_set, show):
        try:
            _draw(pair_set, position, out, width)
        except PairSetError as error:
            print(error)
            problems.append(str(error))
    if problems:
        sys.exit(1)


def _chosen(pairs: PairSet, show: str | None) -> list[int]:
    count = len(pairs)
    if show is None:
        return sorted({0, count // 2, count - 1} & set(range(count)))
    if show == 'none':
        return []
    keys = {key: position for position, key in enumerate(pairs.column('key').tolist())}
    found = []
    for wanted in filter(None, show.split(',')):
        if wanted in keys:
            found.append(keys[wanted])
            continue
        try:
            position = int(wanted)
        except ValueError:
            raise PairSetError(
                f'no pair {wanted!r}; keys are like {pairs.column("key")[0]}'
            ) from None
        if not -count <= position < count:
            raise PairSetError(f'no pair {position}: there are {count}')
        found.append(position % count)
    return found


def _draw(pairs: PairSet, position: int, out: Path, width: int) -> None:
    try:
        pair = pairs[position]
    except ImageError as error:
        raise PairSetError(str(error)) from None
    drawing, seen = draw_points(pair, width or pair.pixels().shape[1])
    picture = np.vstack([drawing, scale_bar(drawing.shape[1])])
    path = out / f'{pair.key.replace("/", "__")}.png'
    with atomic_path(path) as partial:
        partial.write_bytes(image_codec.encode_png(picture))
    print(f'{path}: {_describe(pair)}, {seen:,} of them on the image')


def _describe(pair: Pair) -> str:
    gap = (pair.lidar_stamp_ns - pair.camera_stamp_ns) / 1e6
    height, width = pair.pixels().shape[:2]
    distance = np.linalg.norm(pair.xyz, axis=1)
    tags = ''.join(f', {name} {value}' for name, value in pair.tags.items())
    return (
        f'{pair.camera} {width} x {height}, scan {gap:+.1f} ms later, columns '
        f'{" ".join(pair.columns)}{tags}, {len(pair.points):,} points up to {distance.max():.1f} m'
    )


if __name__ == '__main__':
    cv2.setNumThreads(1)
    run_command(check_pairs)
