# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Write image files as a rosbag2, so that data sets without bags can be replayed.

Each argument is a folder of images or a pattern such as 'train/0001TP_*.png'; they follow one
another in time. JPEG and PNG files are taken over byte for byte. With --labels replay.py evaluates
the masks against them.
"""

from __future__ import annotations

if __package__ in (None, ''):
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import training  # noqa: F401  # first: it sets how torch's threads wait

import glob
import shutil
import tempfile
from pathlib import Path

from rosbags.rosbag2 import StoragePlugin, Writer
from tqdm import tqdm

from clcp_ros.classes import CAMVID, CITYSCAPES, ClassSet
from clcp_ros.errors import RecordingError
from clcp_ros.image_codec import check_bytes, encode_png, image_format, image_size
from clcp_ros.replay_bag import CONDITION_TOPIC, LABEL_INFO_NAME, LABEL_INFO_TYPE, LABELS_NAME
from training.cli import next_step, run_command
from training.replaying import messages
from training.segmentation.labels import COLORS, ID_TABLES, LabelReader

_START_NS = 1_700_000_000_000_000_000


def frames_to_bag(
    images: list[str],
    out: Path = Path('frames_bag'),
    rate_hz: float = 10.0,
    topic: str = '/camera/image',
    frame_id: str = 'camera_optical',
    conditions: str = '',
    labels: str = '',
    label_ids: str = 'cityscapes_train_ids',
) -> Path:
    """Write images as a bag of sensor_msgs/CompressedImage.

    Args:
        images: Folders of images, or patterns; within each, files are sorted by name.
        out: Folder of the bag.
        rate_hz: Frames per second.
        topic: Topic of the images; `/compressed` is added to it.
        frame_id: Frame of the images.
        conditions: Names, separated by commas, one per folder or pattern: the replay report marks
            where they change.
        labels: Folders or patterns of label images, separated by commas, one per folder or pattern
            of images; sorted by name they belong to the images one by one.
        label_ids: How their ids are to be read: cityscapes_train_ids, cityscapes_label_ids, camvid
            or a2d2_colors.

    Returns:
        The bag.

    Raises:
        RecordingError: No images, or another number of conditions or labels.
        ImageError: An image is damaged.
        LabelError: A label image is damaged, or of another size than its image.
    """
    parts = [_files(pattern) for pattern in images]
    names = conditions.split(',') if conditions else [''] * len(parts)
    if len(names) != len(parts):
        raise RecordingError(
            f'{len(names)} conditions for {len(parts)} folders or patterns; give one each'
        )
    if out.exists() and not (out / 'metadata.yaml').is_file():
        raise RecordingError(f'{out} exists and is no bag: not replaced; choose another --out')
    truths = _label_files(parts, labels)
    frames = [
        (file, name, truth)
        for files, name, own in zip(parts, names, truths, strict=True)
        for file, truth in zip(files, own, strict=True)
    ]
    reader = None if not labels else _reader(label_ids)
    out.parent.mkdir(parents=True, exist_ok=True)
    # Inside another folder, because the bag's file is named after the bag.
    with tempfile.TemporaryDirectory(prefix='.bag-', dir=out.parent) as beside:
        _write(Path(beside) / out.name, frames, rate_hz, topic, frame_id, reader)
        shutil.rmtree(out, ignore_errors=True)
        (Path(beside) / out.name).replace(out)
    if reader is not None:
        reader.report(_classes(label_ids))
    print(f'{out}: {len(frames)} images on {topic}/compressed, {len(frames) / rate_hz:.1f} s')
    next_step(f'python training/replay.py {out}')
    return out


def _label_files(parts: list[list[Path]], labels: str) -> list[list[Path | None]]:
    """A label for every image, or None for each where none are given."""
    if not labels:
        return [[None] * len(files) for files in parts]
    found = [_files(pattern) for pattern in labels.split(',')]
    if [len(files) for files in found] != [len(files) for files in parts]:
        counts = [', '.join(str(len(files)) for files in group) for group in (found, parts)]
        raise RecordingError(f'{counts[0]} labels for {counts[1]} images; every image needs one')
    return [list(files) for files in found]


def _reader(label_ids: str) -> LabelReader:
    known = [*ID_TABLES, COLORS]
    if label_ids not in known:
        raise RecordingError(f'unknown kind of labels {label_ids!r}; known are {", ".join(known)}')
    return LabelReader(label_ids)


def _classes(label_ids: str) -> ClassSet:
    return CAMVID if label_ids == 'camvid' else CITYSCAPES


def _write(
    bag: Path,
    frames: list[tuple[Path, str, Path | None]],
    rate_hz: float,
    topic: str,
    frame_id: str,
    reader: LabelReader | None,
) -> None:
    store = messages.typestore()
    image, text = 'sensor_msgs/msg/CompressedImage', 'std_msgs/msg/String'
    with Writer(bag, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        channel = writer.add_connection(f'{topic}/compressed', image, typestore=store)
        tags = None
        truths = None
        if reader is not None:
            base = topic.rstrip('/')
            truths = writer.add_connection(f'{base}/{LABELS_NAME}', image, typestore=store)
            names = writer.add_connection(
                f'{base}/{LABEL_INFO_NAME}', LABEL_INFO_TYPE, typestore=store
            )
            head = messages.header(_START_NS, frame_id)
            writer.write(names, _START_NS, messages.label_info(_classes(reader.ids).names, head))
        if any(name for _, name, _ in frames):
            tags = writer.add_connection(CONDITION_TOPIC, text, typestore=store)
        for i, (file, name, truth) in enumerate(tqdm(frames, unit='frame', desc='write')):
            stamp_ns = _START_NS + round(i * 1e9 / rate_hz)
            data = file.read_bytes()
            check_bytes(data)
            if tags:
                message = store.types[text](data=name)
                writer.write(tags, stamp_ns, store.serialize_cdr(message, text))
            kind = 'png' if image_format(data) == 'png' else 'jpeg'
            head = messages.header(stamp_ns, frame_id)
            writer.write(
                channel,
                stamp_ns,
                messages.encoded_image(data, f'rgb8; {kind} compressed bgr8', head),
            )
            if reader is not None and truth is not None and truths is not None:
                width, height = image_size(data)
                png = encode_png(reader.read(truth, (height, width)))
                kind = 'mono8; png compressed mono8'
                writer.write(truths, stamp_ns, messages.encoded_image(png, kind, head))


def _files(pattern: str) -> list[Path]:
    path = Path(pattern)
    found = path.iterdir() if path.is_dir() else map(Path, glob.glob(pattern))  # noqa: PTH207  # absolute patterns, too
    files = sorted(f for f in found if f.suffix.lower() in ('.png', '.jpg', '.jpeg'))
    if not files:
        raise RecordingError(f'{pattern}: no .png or .jpg files there')
    return files


if __name__ == '__main__':
    run_command(frames_to_bag)
