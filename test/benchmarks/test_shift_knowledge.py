# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.shift_evidence import describe_pieces, segmenter_of
from benchmarks.shift_knowledge import (
    cache_of,
    clip_sources,
    fit_monitor,
    items_of,
    keep_drives,
    temperature_of,
)
from benchmarks.shift_plan import SIZES, Clip, Size
from benchmarks.shift_streams import CLEAR, Piece, drive_pieces, stamp_of
from clcp_ros.bundle import MODEL, load_bundle
from clcp_ros.image_codec import encode_jpeg, encode_png
from training.monitoring.domain import Source
from training.monitoring.reader import EVERY, Reader
from training.monitoring.samples import Item, collect

SIZE = replace(
    SIZES['tiny'], drives=((2, 20), (2, 20), (1, 20)), clips=(2, 1), clip=10, families=('night',)
)


@pytest.fixture(scope='module')
def root(
    tmp_path_factory: pytest.TempPathFactory, daylight_image: Callable[..., np.ndarray]
) -> Path:
    """Drives of daylight; what is bright is labelled so."""
    root = tmp_path_factory.mktemp('day')
    for drive in SIZE.all_drives:
        (piece,) = drive_pieces(drive)
        images = [daylight_image(1000 * drive.town + k) for k in range(drive.seconds)]
        path = root / 'streams' / f'{piece.name}.parquet'
        path.parent.mkdir(parents=True)
        columns = {
            'case': [CLEAR] * len(images),
            'stamp_ns': [stamp_of(drive, k) for k in range(len(images))],
            'severity': np.zeros(len(images), np.float32),
            'image': [bytes(encode_jpeg(image, 95)) for image in images],
            'label': [bytes(encode_png(_label(image))) for image in images],
        }
        pq.write_table(pa.table(columns), path)
    return root


def _label(image: np.ndarray) -> np.ndarray:
    smooth = cv2.blur(image, (9, 9)).mean(axis=-1)
    return np.asarray(smooth > 128, np.uint8) + np.uint8(1)


def test_the_fit_takes_what_was_described_for_what_it_would_describe(
    root: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    described, out = tmp_path / 'described', tmp_path / 'fit'
    temperature = temperature_of(SIZE, root, tiny_bundle, out)
    pieces = [Piece(d, 0) for part in ('fit', 'calibration') for d in SIZE.drives_of(part)]
    describe_pieces(root, described, tiny_bundle, pieces, temperature, 1, 'describe')
    keep_drives(SIZE, root, described, tiny_bundle, out, temperature, 1)
    segmenter = segmenter_of(tiny_bundle)
    reader = Reader(segmenter, load_bundle(tiny_bundle).sha256[MODEL], cache_of(out))
    for part, asked in (('fit', None), ('calibration', temperature)):
        for drive in SIZE.drives_of(part):
            items = list(items_of(root, Clip('drive', 0, drive, 0, drive.seconds)))
            fresh = collect(segmenter, items, logits=False, temperature=asked)
            source = Source(drive.name, drive.name, None, _unread)
            kept = reader.all((source,), '', temperature=asked)
            assert kept is not None
            assert fresh.columns.keys() == kept.columns.keys()
            for name, array in fresh.columns.items():
                assert np.array_equal(kept.columns[name], array), name
            small = [cv2.resize(i.image, (160, 120), interpolation=cv2.INTER_AREA) for i in items]
            assert np.array_equal(reader._thumbnails[source.key], small[::EVERY])


def _unread() -> Iterator[Item]:
    raise AssertionError('the drive was described again')


def test_the_temperature_is_that_of_the_fit(root: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    enough: Size = replace(SIZE, clips=(4, 1), clip=20)
    temperature = temperature_of(enough, root, tiny_bundle, tmp_path)
    knowledge = fit_monitor(enough, root, tiny_bundle, 8.0, tmp_path)
    assert knowledge.harm is not None
    assert float(knowledge.harm.temperature) == pytest.approx(temperature, rel=1e-12)
    assert temperature != 1.0
    assert len(clip_sources(root, enough)) == 4
