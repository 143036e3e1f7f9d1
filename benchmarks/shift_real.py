# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Real frames: a bundle of CamVid's day, its own monitor, and CamVid's dusk.

Day frames that are not of the split that the bundle was made of are the negatives; those of CamVid
belong to a drive of which other parts were trained on, which is easier than an unseen drive.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.shift_evidence import RIVALS, Described, Describer, Sight, scores_of, segmenter_of
from benchmarks.shift_metrics import auroc, errors, fpr_at_tpr, runs
from benchmarks.shift_quality import WINDOWS, said_of
from benchmarks.shift_rows import Row
from clcp_ros.bundle import Bundle, load_bundle
from clcp_ros.monitor.harm import HarmReference, Window, tap_scores
from clcp_ros.monitor.knowledge import Knowledge
from clcp_ros.replay_scores import mean_iou
from training.monitoring.corruptions import kind_of
from training.segmentation.frames import FrameSet, open_frames

_DRIVE_NS = 10_000_000_000_000


def real_rows(bundle: Path, camvid: Path, cache: Path) -> list[Row]:
    """Judge a bundle of CamVid's day on held-out day frames and on dusk.

    Args:
        bundle: Finetuned and exported on CamVid's day.
        camvid: CamVid's folder.
        cache: Folder of what is kept.
    """
    loaded = load_bundle(bundle)
    knowledge = Knowledge.load(loaded.reference_path, loaded.sha256['model.onnx'])
    temperature = 1.0 if knowledge.harm is None else float(knowledge.harm.temperature)
    path = cache / f'camvid-{loaded.id}-{temperature:.4f}.npz'
    if not path.is_file():
        frames = open_frames(camvid, 'val')
        describer = Describer(segmenter_of(bundle), temperature)
        describer.describe(_sights(frames, loaded)).save(path)
    described = Described.load(path)
    scores = scores_of(knowledge, described)
    named = {
        name: np.array([getattr(s, name) for s in scores])
        for name in ('novelty', 'low', 'early', 'deep')
    }
    named |= {name: described.rivals[:, i] for i, name in enumerate(RIVALS)}
    condition = np.array([case.partition('/')[0] for case in described.case])
    dusk, section = condition == 'dusk', 'real, CamVid dusk'
    rows = [
        row
        for name, values in named.items()
        for row in (
            Row(section, name, 'AUROC', auroc(values[~dusk], values[dusk])),
            Row(section, name, 'FPR95', fpr_at_tpr(values[~dusk], values[dusk])),
        )
    ]
    if knowledge.harm is not None:
        taps = np.array([tap_scores(s) for s in scores])
        rows += _quality(knowledge.harm, described, taps, section)
    if knowledge.kinds is not None:
        said = list(said_of(described.take(dusk), knowledge.kinds, novel=True))
        right = float(np.mean([name == kind_of('dusk') for name in said])) if said else np.nan
        rows.append(Row(section, 'monitor', 'kind right', right))
    return rows


def _quality(
    harm: HarmReference, described: Described, taps: np.ndarray, section: str
) -> Iterator[Row]:
    for size in WINDOWS:
        for condition in ('day', 'dusk'):
            told, truth = [], []
            for rows in runs(described.case, described.stamp_ns, size):
                if described.case[rows[0]].startswith(condition):
                    soft = described.soft[rows].astype(np.float64).mean(axis=0)
                    window = Window(soft, taps[rows].mean(axis=0), size)
                    told.append(harm.estimate(window).miou)
                    truth.append(mean_iou(described.confusion[rows].sum(axis=0)))
            found = errors(told, truth)
            yield Row(section, f'monitor, {condition}, {size} frames', 'mIoU MAE', found.mae)
            yield Row(section, f'monitor, {condition}, {size} frames', 'mIoU bias', found.bias)


def _sights(frames: FrameSet, bundle: Bundle) -> Iterator[Sight]:
    """Frames a second apart, as CamVid's labelled ones are."""
    drives = sorted({frame.drive for frame in frames.frames})
    if frames.classes.names != bundle.classes.names:
        raise ValueError(f'{bundle.path} has other classes than {frames.root}')
    for k, frame in enumerate(frames.frames):
        image, label = frames.read(frame)
        stamp_ns = _DRIVE_NS * (1 + drives.index(frame.drive)) + k * 1_000_000_000
        yield Sight(f'{frame.condition}/{frame.drive}', stamp_ns, 0.0, image, label)
