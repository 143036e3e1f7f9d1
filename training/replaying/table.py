# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A replay as a table: one row per frame."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clcp_ros.monitor import Level
from clcp_ros.monitor.state import TEXTS
from clcp_ros.replay import FrameRecord, ReplayResult
from clcp_ros.replay_bag import FrameKey
from clcp_ros.replay_records import SCORES

VERDICT = (
    'novelty_z', 'novelty_cusum', 'cusum_threshold', 'innovation', 'low_z', 'early_z', 'deep_z',
    'miou_est', 'miou_lo', 'miou_hi', 'miou_drop', 'drop_threshold', 'kind', 'kind_prob',
    'top_stats', 'top_classes', 'scope', 'alignment_z', 'alignment_pairs', 'alignment_yaw_deg',
    'alignment_yaw_z', 'alignment_pitch_deg', 'alignment_pitch_z', 'samples', 'window_s',
)  # fmt: skip
"""What the monitor says of a frame, by the names that it is published under."""

COLUMNS = ('stamp_ns', 'time_s', 'level', *VERDICT, 'reason', 'condition', 'miou')
"""Of scores.csv; with several cameras `camera` follows."""

Extras = Mapping[FrameKey, Mapping[str, float]]
"""More figures of a frame, by its key."""

_TEXTS = ('camera', 'level', 'reason', 'condition', *TEXTS)
_NUMBERS = (*SCORES, 'confidence', 'miou')
_ROWS = 10_000


def write_scores(path: Path, records: Sequence[FrameRecord]) -> None:
    """Write one row per frame; figures have six decimals, so that equal scores are equal text.

    Args:
        path: A `.csv` file.
        records: The frames.
    """
    columns: tuple[str, ...] = COLUMNS
    if len({record.camera for record in records}) > 1:
        columns += ('camera',)
    with path.open('w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(columns)
        writer.writerows([text(getattr(record, name)) for name in columns] for record in records)


def text(value: Any) -> str:
    """A cell of scores.csv."""
    if isinstance(value, Level):
        return value.name
    return f'{value:.6f}' if isinstance(value, float) else str(value)


def write_table(
    path: Path, result: ReplayResult, extras: Extras | None = None, timing: bool = False
) -> None:
    """Write frames.parquet, in pieces: a drive has a row per image.

    Args:
        path: A `.parquet` file.
        result: The replay.
        extras: Further figures.
        timing: Also the time that each stage took, which is never twice the same.
    """
    extras = extras or {}
    more = list(dict.fromkeys(name for row in extras.values() for name in row))
    stages = list(dict.fromkeys(s for r in result.records for s in r.seconds)) if timing else []
    other_stages = (
        list(dict.fromkeys(s for r in result.records if r.versus for s in r.versus.seconds))
        if timing
        else []
    )
    schema = _schema(result, more, stages, other_stages)
    with pq.ParquetWriter(path, schema, compression='zstd') as writer:
        for first in range(0, len(result.records), _ROWS):
            rows = [
                _row(record, result, extras, more, stages, other_stages)
                for record in result.records[first : first + _ROWS]
            ]
            columns = list(zip(*rows, strict=True))
            arrays = [
                pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _schema(
    result: ReplayResult, more: list[str], stages: list[str], other_stages: list[str]
) -> pa.Schema:
    numbers: list[str] = [*_NUMBERS, *_share_names(result.bundle.classes.names, 'share')]
    texts = list(_TEXTS)
    if result.versus:
        texts.append('versus_level')
        numbers += ['agreement', 'versus_novelty_z', 'versus_miou_est', 'versus_miou']
        numbers += ['miou_difference']
        numbers += _share_names(result.versus.bundle.classes.names, 'versus_share')
    numbers += more
    numbers += [f'ms_{name}' for name in stages] + [f'versus_ms_{name}' for name in other_stages]
    metadata: dict[bytes | str, bytes | str] = {
        'bundle': f'{result.bundle.name} ({result.bundle.id})',
        'classes': json.dumps(result.bundle.classes.names),
        'cameras': json.dumps({camera.name: camera.topic for camera in result.cameras}),
        'simulated': json.dumps(result.simulated),
    }
    if result.versus:
        metadata['versus'] = f'{result.versus.bundle.name} ({result.versus.bundle.id})'
    columns: list[tuple[str, pa.DataType]] = [
        ('stamp_ns', pa.int64()),
        ('time_ns', pa.int64()),
        ('time_s', pa.float64()),
        ('repeat', pa.int64()),
        ('monitored', pa.bool_()),
        ('samples', pa.int64()),
        *((name, pa.string()) for name in texts),
        *((name, pa.float64()) for name in numbers),
    ]
    return pa.schema(columns, metadata=metadata)


def _share_names(names: Iterable[str], prefix: str) -> list[str]:
    return [f'{prefix}_{name.replace(" ", "_")}' for name in (*names, 'unlabelled')]


def _row(
    record: FrameRecord,
    result: ReplayResult,
    extras: Extras,
    more: list[str],
    stages: list[str],
    other_stages: list[str],
) -> list[Any]:
    texts: list[str | None] = [
        record.level.name if name == 'level' else getattr(record, name) for name in _TEXTS
    ]
    numbers = [getattr(record, name) for name in _NUMBERS] + _shares(
        record.shares, len(result.bundle.classes)
    )
    other = record.versus
    if result.versus:
        texts.append(other.level.name if other else None)
        values = (
            [math.nan] * 4
            if other is None
            else [other.agreement, other.novelty_z, other.miou_est, other.miou]
        )
        numbers += [*values, values[3] - record.miou]
        numbers += _shares(other.shares if other else (), len(result.versus.bundle.classes))
    found = extras.get(record.key, {})
    numbers += [found.get(name, math.nan) for name in more]
    numbers += [record.seconds.get(name, math.nan) * 1e3 for name in stages]
    spent = other.seconds if other else {}
    numbers += [spent.get(name, math.nan) * 1e3 for name in other_stages]
    return [
        record.stamp_ns,
        record.time_ns,
        record.time_s,
        record.repeat,
        record.monitored,
        record.samples,
        *texts,
        *(None if math.isnan(value) else value for value in numbers),
    ]


def _shares(shares: Sequence[float], classes: int) -> list[float]:
    return list(shares) or [math.nan] * (classes + 1)
