# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Our mIoU against that of the Cityscapes scripts, on the same predictions."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
import pytest

from clcp_ros.classes import CITYSCAPES
from clcp_ros.image_codec import encode_png
from training.segmentation.labels import LabelReader
from training.segmentation.metrics import ConfusionMatrix
from training.segmentation.submission import to_label_ids

pytest.importorskip(
    'cityscapesscripts', reason='the official scripts: pip install cityscapesscripts'
)


@pytest.mark.parametrize('classes', [19, 7])
def test_miou_agrees_with_the_cityscapes_scripts(
    tmp_path: Path, classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    official = import_module('cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling')
    rng = np.random.default_rng(classes)
    matrix, reader = ConfusionMatrix(19), LabelReader('cityscapes_label_ids')
    truths, guesses = [], []
    for i in range(3):
        # Blobs of all 34 ids, evaluated or not; predictions that are mostly right.
        ids = rng.integers(0, 34, (12, 16), dtype=np.uint8)
        truth = cv2.resize(ids, (128, 96), interpolation=cv2.INTER_NEAREST)
        truths.append(str(tmp_path / f'{i}_gtFine_labelIds.png'))
        Path(truths[-1]).write_bytes(encode_png(truth))
        label = reader.read(Path(truths[-1]), truth.shape)
        wrong = rng.random(truth.shape) < 0.3
        mask = np.where(wrong | (label == 255), rng.integers(0, classes, truth.shape), label)
        mask = mask.astype(np.uint8)
        guesses.append(str(tmp_path / f'{i}_pred.png'))
        Path(guesses[-1]).write_bytes(encode_png(to_label_ids(mask)))
        matrix.update(mask, label)
    monkeypatch.setattr(official.args, 'evalInstLevelScore', False)
    monkeypatch.setattr(official.args, 'quiet', True)
    monkeypatch.setattr(official.args, 'JSONOutput', False)
    result = official.evaluateImgLists(guesses, truths, official.args)
    assert matrix.miou() == pytest.approx(result['averageScoreClasses'], abs=1e-6)
    scores = [result['classScores'][n] for n in CITYSCAPES.names]
    np.testing.assert_allclose(matrix.iou(), scores, atol=1e-6)
