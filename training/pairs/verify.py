# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Whether a pair set is what docs/formats.md says: one line for each thing that is not."""

from __future__ import annotations

import tarfile
from typing import Any

import numpy as np

from clcp_ros import image_codec
from clcp_ros.errors import ClcpError
from training.pairs.geometry import check_intrinsics, check_transform
from training.pairs.pair import Pair
from training.pairs.pair_set import PairSet

_KINDS = ('image', 'points', 'json')


def check_index(pairs: PairSet) -> list[str]:
    """Check the index in itself, and against the report.

    Args:
        pairs: The set.
    """
    problems = []
    if not len(pairs):
        return ['index.parquet: no pairs']
    keys = pairs.column('key')
    sequences, stamps = pairs.column('sequence'), pairs.column('camera_stamp_ns')
    names, counts = np.unique(keys.astype(str), return_counts=True)
    problems += [
        f'index.parquet: {key} is there {count} times'
        for key, count in zip(names, counts, strict=True)
        if count > 1
    ]
    for key, sequence in zip(keys, sequences, strict=True):
        if not key.startswith(f'{sequence}/'):
            problems.append(f'index.parquet: {key} is not of {sequence}')
    for position in range(1, len(pairs)):
        before, now = ((sequences[p], int(stamps[p]), keys[p]) for p in (position - 1, position))
        if before > now:
            problems.append(f'index.parquet: {keys[position]} is not in the order of time')
    for sequence in sorted({s for s in sequences if '__' in s or not _is_safe(s)}):
        problems.append(f'index.parquet: sequence {sequence!r} is not a plain name')
    return problems + _against_report(pairs)


def _is_safe(name: str) -> bool:
    return bool(name) and all(c.isascii() and (c.isalnum() or c in '_-') for c in name)


def _against_report(pairs: PairSet) -> list[str]:
    try:
        report = pairs.report
    except ClcpError as error:
        return [str(error)]
    if not report:
        return ['report.json is missing']
    problems = []
    splits = pairs.column('split').tolist()
    counted = {
        'pairs': len(pairs),
        'points': int(pairs.column('points').sum()),
        'splits': {name: splits.count(name) for name in ('train', 'val')},
    }
    for name, value in counted.items():
        if report.get(name, value) != value:
            problems.append(f'report.json: {name} {report[name]}, the index has {value}')
    if report.get('index_sha256', pairs.index_sha256) != pairs.index_sha256:
        problems.append('index.parquet: differs from its hash in report.json')
    per_sequence: dict[str, int] = {}
    for sequence in pairs.column('sequence').tolist():
        per_sequence[sequence] = per_sequence.get(sequence, 0) + 1
    for recording in report.get('recordings', []):
        found = per_sequence.pop(recording['sequence'], 0)
        if found != recording['pairs']:
            problems.append(
                f'report.json: {recording["pairs"]} pairs of {recording["sequence"]}, the index '
                f'has {found}'
            )
    if 'recordings' in report:
        problems += [f'report.json: nothing of {sequence}' for sequence in sorted(per_sequence)]
    return problems


def check_shards(pairs: PairSet) -> list[str]:
    """Check that the shards are archives whose members are where the index says, and no others.

    Args:
        pairs: The set.
    """
    problems = []
    rows = pairs.index.select(
        ['key', 'shard', 'image_format', *(f'{k}_{w}' for k in _KINDS for w in ('offset', 'size'))]
    ).to_pylist()
    wanted: dict[str, dict[str, tuple[int, int]]] = {}
    for row in rows:
        members = wanted.setdefault(row['shard'], {})
        stem = row['key'].replace('/', '__')
        endings = (row['image_format'], 'points.npy', 'json')
        for kind, ending in zip(_KINDS, endings, strict=True):
            members[f'{stem}.{ending}'] = (row[f'{kind}_offset'], row[f'{kind}_size'])
    there = set(pairs.shard_names())
    problems += [f'shards/{name}: not in the index' for name in sorted(there - set(wanted))]
    for shard, members in sorted(wanted.items()):
        if shard not in there:
            problems.append(f'shards/{shard}: missing')
            continue
        try:
            found = _members(pairs, shard)
        except (tarfile.TarError, ClcpError, OSError, ValueError) as error:
            problems.append(f'shards/{shard}: no whole archive: {error}')
            continue
        for name in sorted(set(found) | set(members)):
            if found.get(name) != members.get(name):
                problems.append(f'shards/{shard}: {name} is not where the index has it')
    return problems


def _members(pairs: PairSet, shard: str) -> dict[str, tuple[int, int]]:
    """Offset and size of each member; the archive must end as archives do."""
    found: dict[str, tuple[int, int]] = {}
    with pairs.open_shard(shard) as file:
        with tarfile.open(fileobj=file, mode='r:') as archive:
            for member in archive:
                if not member.isreg() or member.name in found:
                    raise ValueError(f'unexpected member {member.name!r}')
                found[member.name] = (member.offset_data, member.size)
                file.seek(member.offset_data + member.size)
                if any(file.read(-member.size % tarfile.BLOCKSIZE)):
                    raise ValueError(f'something lies behind {member.name!r}')
        last = max((o + s for o, s in found.values()), default=0)
        file.seek(-(-last // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE)
        if file.read() != bytes(2 * tarfile.BLOCKSIZE):
            raise ValueError('it does not end with two empty blocks')
    return found


def check_sample(pairs: PairSet, position: int) -> list[str]:
    """Check a sample: hash, description, image and points.

    Args:
        pairs: The set; opened with check='always'.
        position: Which pair.
    """
    row = pairs.row(position)
    where = f'shards/{row["shard"]}, {row["key"]}'
    try:
        pair = pairs[position]
        meta = pairs.meta(position)
    except (ClcpError, ValueError) as error:
        return [str(error)]
    problems = [
        f'{where}: {name} {stated!r}, the index has {row[name]!r}'
        for name, stated in _stated(pair, meta).items()
        if stated != row[name]
    ]
    size = pair.pixels().shape[1], pair.pixels().shape[0]
    if size != (row['width'], row['height']):
        problems.append(f'{where}: the image is {size[0]} x {size[1]}')
    if not np.isfinite(pair.points).all():
        problems.append(f'{where}: points that are not finite')
    elif len(pair.points) and not (pair.intensity.min() >= 0 and pair.intensity.max() <= 1):
        problems.append(f'{where}: intensity outside of [0, 1]')
    try:
        check_intrinsics(pair.K, where)
        check_transform(pair.T_camera_lidar, where)
    except ClcpError as error:
        problems.append(str(error))
    return problems


def _stated(pair: Pair, meta: dict[str, Any]) -> dict[str, Any]:
    """What a sample says of itself, under the index's names."""
    assert pair.encoded is not None
    return {
        'sequence': pair.sequence,
        'camera': pair.camera,
        'lidar': pair.lidar,
        'camera_stamp_ns': pair.camera_stamp_ns,
        'lidar_stamp_ns': pair.lidar_stamp_ns,
        'width': meta.get('width'),
        'height': meta.get('height'),
        'points': len(pair.points),
        'image_format': image_codec.image_format(bytes(pair.encoded[:16])),
        'tags': pair.tags,
    }
