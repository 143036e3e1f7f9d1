# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clcp_ros.bundle import load_bundle
from training.evaluate import evaluate
from training.export import export
from training.finetune import finetune
from training.models.image_encoder import read_weights
from training.segmentation.frames import open_frames
from training.segmentation.task import OptimizerConfig
from training.segmentation.transforms import AugmentationConfig

pytestmark = pytest.mark.sample_data


def test_camvid_keeps_dusk_and_validation_apart(sample_data: Path) -> None:
    train = open_frames(sample_data / 'camvid', 'train').only(['day'])
    assert len(train) == 203
    assert train.drives == ['0006R0', '0016E5']
    held = open_frames(sample_data / 'camvid', 'val,train:dusk')
    assert (len(held.only(['day'])), len(held.only(['dusk']))) == (33, 62)
    images = {f.image for f in train.frames}
    assert not images & {f.image for f in held.frames}
    label = held.read(held.frames[0])[1]
    assert set(np.unique(label)) <= {*range(11), 255}
    for frame in held.frames[::20]:
        held.read(frame)
    assert held.labels.report(held.classes) is None


def test_cityscapes_label_ids(sample_data: Path) -> None:
    frames = open_frames(sample_data / 'cityscapes', 'train')
    assert frames.drives == ['aachen']
    image, label = frames.read(frames.frames[0])
    assert image.shape == (1024, 2048, 3)
    assert set(np.unique(label)) <= {*range(19), 255}
    assert (label == 0).mean() > 0.2  # road
    assert frames.labels.report(frames.classes) is None


def test_cityscapes_label_ids_give_the_devkits_train_ids(sample_data: Path) -> None:
    frames = open_frames(sample_data / 'cityscapes_tiny', 'all')
    frame = frames.frames[0]
    assert (frame.label_ids, frame.drive) == ('cityscapes_label_ids', 'frankfurt')
    prepared = frame.label.with_name(frame.label.name.replace('labelIds', 'labelTrainIds'))
    expected = np.asarray(Image.open(prepared))
    # The two files were resized apart from each other.
    assert (frames.read(frame)[1] == expected).mean() > 0.997


def test_resized_acdc_labels_are_reported_and_ignored(sample_data: Path) -> None:
    frames = open_frames(sample_data / 'acdc_halfres', 'train')
    assert frames.conditions == ['fog', 'rain']
    for frame in frames.frames:
        image, label = frames.read(frame)
        assert image.shape[:2] == label.shape == (512, 1024)
        assert set(np.unique(label)) <= {*range(19), 255}
    message = frames.labels.report(frames.classes)
    assert message is not None
    assert 'in 2 label images' in message


def test_imagenet_weights_to_a_camvid_bundle(sample_data: Path, tmp_path: Path) -> None:
    weights = sample_data / 'weights' / 'mobilenet_v2-b0353104.pth'
    model = finetune(
        sample_data / 'camvid', 'mobilenetv2_100', tmp_path / 'run', weights=weights,
        conditions='day', input_size=(64, 96), augmentation=AugmentationConfig(crop=(64, 96)),
        max_steps=4, batch_size=2, optimizer=OptimizerConfig(warmup=0),
    )  # fmt: skip
    # ImageNet's filters, a few steps on.
    stem = read_weights(model)[0]['encoder.conv_stem.weight']
    given = read_weights(weights)[0]['features.0.0.weight']
    assert (stem - given).abs().mean() < 0.1 * given.abs().mean()
    result = evaluate(model, sample_data / 'camvid', split='val,train:dusk', pictures=0)
    assert result.source == 'day'
    assert result.frames == {'day': 33, 'dusk': 62}
    bundle = load_bundle(export(model, sample_data / 'camvid', tmp_path / 'b', max_frames=20))
    assert bundle.classes.name == 'camvid'
    assert bundle.input.mean == pytest.approx((0.485, 0.456, 0.406))
    assert bundle.provenance['metrics']['miou'].keys() == {'day', 'dusk'}
