# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Single frames scored by pytorch-ood: its detectors on the same features and logits."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.shift_baselines import run_library
from benchmarks.shift_events import Event, Streams
from benchmarks.shift_evidence import Describer, segmenter_of
from benchmarks.shift_metrics import auroc, fpr_at_tpr
from benchmarks.shift_plan import MIDDLE
from benchmarks.shift_rows import Row
from benchmarks.shift_streams import CLEAR, Piece, read_frames
from training.cli import atomic_path

_FIT, _NEGATIVES, _POSITIVES = 2000, 2000, 100
_LOGITS_NEGATIVES, _LOGITS_POSITIVES = 100, 20
SECTION = 'frames against unseen drives, pytorch-ood'


def library_rows(
    streams: Streams, events: Sequence[Event], root: Path, bundle: Path, python: Path, out: Path
) -> list[Row]:
    """AUROC and FPR95 of pytorch-ood's detectors on frames of middle severity.

    Features are the last block's; logits are those of a few frames, whose cells' scores are
    averaged.

    Args:
        streams: The described streams.
        events: What happens.
        root: Folder of the size, with `streams`.
        bundle: Of the network.
        python: Of pytorch-ood's environment.
        out: Folder of what is kept.
    """
    arrays, found = out / 'ood.npz', out / 'ood.json'
    if not arrays.is_file():
        _export(streams, events, root, bundle, arrays)
    if not found.is_file():
        run_library(python, 'score', str(arrays), str(found))
    scores = json.loads(found.read_text())['scores']
    with np.load(arrays, allow_pickle=False) as stored:
        labels = {kind: stored[f'{kind}_of'] for kind in ('features', 'logits')}
    rows = []
    for detector, values in scores.items():
        kind, _, name = detector.partition(': ')
        condition, value = labels[kind], np.array(values)
        nominal = value[condition == CLEAR]
        for one in sorted(set(condition.tolist()) - {CLEAR}):
            own = value[condition == one]
            what = f'{one} {MIDDLE}, {name}'
            rows.append(Row(SECTION, what, 'AUROC', auroc(nominal, own), len(own)))
            rows.append(Row(SECTION, what, 'FPR95', fpr_at_tpr(nominal, own), len(own)))
    return rows


def _export(
    streams: Streams, events: Sequence[Event], root: Path, bundle: Path, path: Path
) -> None:
    fit = np.concatenate([d.deep for _, d in streams.drives('fit')])
    nominal = np.concatenate([d.deep for _, d in streams.drives('test')])
    features, of = [_thinned(nominal, _NEGATIVES)], [CLEAR] * min(len(nominal), _NEGATIVES)
    chosen = [e for e in events if e.case.severity == MIDDLE and not e.case.ramp_s]
    for condition in sorted({e.case.condition for e in chosen}):
        own = np.concatenate([e.frames.deep for e in chosen if e.case.condition == condition])
        features.append(_thinned(own, _POSITIVES))
        of += [condition] * len(features[-1])
    logits, logits_of = _logits(streams, chosen, root, bundle)
    with atomic_path(path) as partial, partial.open('wb') as file:
        np.savez_compressed(
            file, allow_pickle=False, fit=_thinned(fit, _FIT), features=np.concatenate(features),
            features_of=np.array(of), logits=logits.astype(np.float16), logits_of=logits_of,
        )  # fmt: skip


def _thinned(rows: np.ndarray, most: int) -> np.ndarray:
    chosen = np.linspace(0, len(rows) - 1, min(len(rows), most)).round().astype(int)
    return np.asarray(rows[chosen])


def _logits(
    streams: Streams, events: Sequence[Event], root: Path, bundle: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Logits of a few frames, clear ones first, and what they show."""
    describer = Describer(segmenter_of(bundle))
    drives = streams.size.drives_of('test')
    each = max(1, _LOGITS_NEGATIVES // len(drives))
    found, of = [], []
    for drive in drives:
        path = Piece(drive, 0).stream(root)
        for image in _images(path, CLEAR, each):
            found.append(describer.predict(image)[0].logits)
            of.append(CLEAR)
    counts: dict[str, int] = {}
    for event in events:
        condition = event.case.condition
        left = _LOGITS_POSITIVES - counts.get(condition, 0)
        path = Piece(event.stop.drive, stop=event.stop).stream(root)
        for image in _images(path, event.case.name, min(left, 4)) if left > 0 else ():
            found.append(describer.predict(image)[0].logits)
            of.append(condition)
            counts[condition] = counts.get(condition, 0) + 1
    return np.stack(found), np.array(of)


def _images(path: Path, case: str, most: int) -> Iterator[np.ndarray]:
    """Frames of a case, evenly."""
    own = [frame for frame in read_frames(path) if frame.case == case]
    for k in np.unique(np.linspace(0, len(own) - 1, min(len(own), most)).round().astype(int)):
        yield own[int(k)].image
