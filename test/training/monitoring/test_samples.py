# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from clcp_ros.bundle import load_bundle
from clcp_ros.errors import ModelError
from clcp_ros.inference import Segmenter
from clcp_ros.monitor import image_statistics
from training.monitoring.samples import Item, Samples, collect


@pytest.fixture(scope='module')
def items(daylight_image: Callable[..., np.ndarray]) -> list[Item]:
    images = [daylight_image(i) for i in range(4)]
    label = np.full(images[0].shape[:2], 1, np.uint8)
    return [
        Item(image, label if i < 2 else None, f'd{i % 2}', i * 10**9, 'clear')
        for i, image in enumerate(images)
    ]


@pytest.fixture(scope='module')
def samples(tiny_bundle: Path, items: list[Item]) -> Samples:
    return collect(Segmenter(load_bundle(tiny_bundle)), items)


def test_a_row_is_what_the_network_says(
    tiny_bundle: Path, items: list[Item], samples: Samples
) -> None:
    prediction = Segmenter(load_bundle(tiny_bundle)).predict(items[2].image)
    np.testing.assert_array_equal(samples.low[2], image_statistics(items[2].image))
    np.testing.assert_array_equal(samples.features(2)['deep'], prediction.features['deep'])
    assert samples.logits is not None
    np.testing.assert_allclose(samples.logits[2], prediction.logits, rtol=1e-3, atol=1e-3)
    assert samples.drives == ['d0', 'd1']
    assert samples.stamp_ns.tolist() == [0, 10**9, 2 * 10**9, 3 * 10**9]
    np.testing.assert_allclose(samples.scene.sum(axis=1), 1)


def test_only_labelled_frames_have_a_confusion(items: list[Item], samples: Samples) -> None:
    assert samples.labelled.tolist() == [True, True, False, False]
    assert samples.confusion is not None
    assert samples.confusion[0].sum() == items[0].image[..., 0].size
    assert samples.confusion[0][1].sum() == items[0].image[..., 0].size


def test_taking_and_joining_give_the_rows_back(samples: Samples) -> None:
    first, rest = samples.take(samples.drive == 'd0'), samples.take([1, 3])
    joined = Samples.concat([first, rest])
    order = [0, 2, 1, 3]
    np.testing.assert_array_equal(joined.deep, samples.deep[order])
    np.testing.assert_array_equal(joined.confusion, samples.confusion[order])  # type: ignore[index]
    assert len(samples.take([])) == 0


def test_parts_without_labels_or_logits_join(tiny_bundle: Path, items: list[Item]) -> None:
    segmenter = Segmenter(load_bundle(tiny_bundle))
    plain = collect(segmenter, items[2:], logits=False)
    assert plain.confusion is None
    assert plain.logits is None
    joined = Samples.concat([plain, collect(segmenter, items[:2])])
    assert joined.logits is None
    assert joined.labelled.tolist() == [False, False, True, True]


def test_samples_survive_the_disk(samples: Samples, tmp_path: Path) -> None:
    samples.save(tmp_path / 's.npz')
    again = Samples.load(tmp_path / 's.npz')
    for name in ('drive', 'stamp_ns', 'tag', 'low', 'early', 'deep', 'scene', 'logits'):
        np.testing.assert_array_equal(getattr(again, name), getattr(samples, name))
    (tmp_path / 's.npz').write_bytes((tmp_path / 's.npz').read_bytes()[:900])
    with pytest.raises(ModelError, match='no samples of the monitor'):
        Samples.load(tmp_path / 's.npz')


def test_nothing_to_describe_is_an_error(tiny_bundle: Path) -> None:
    with pytest.raises(ModelError, match='there are no frames'):
        collect(Segmenter(load_bundle(tiny_bundle)), [], 'fit frames')


def test_rows_must_match(samples: Samples) -> None:
    with pytest.raises(ValueError, match='3 rows of low for 4 frames'):
        Samples(**{**vars(samples), 'low': samples.low[:3]})
