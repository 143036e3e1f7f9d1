# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Write image files as a rosbag2, so that data sets without bags can be replayed.

Each argument is a folder of images or a pattern such as 'train/0001TP_*.png'; they follow one
another in time. JPEG and PNG files are taken over byte for byte.
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

import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from tqdm import tqdm

from clcp_ros.errors import RecordingError
from clcp_ros.image_codec import check_bytes, image_format
from clcp_ros.replay import CONDITION_TOPIC
from training.cli import next_step, run_command

_START_NS = 1_700_000_000_000_000_000


def frames_to_bag(
    images: list[str],
    out: Path = Path('frames_bag'),
    rate_hz: float = 10.0,
    topic: str = '/camera/image',
    frame_id: str = 'camera_optical',
    conditions: str = '',
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

    Returns:
        The bag.

    Raises:
        RecordingError: No images, or another number of conditions.
        ImageError: An image is damaged.
    """
    parts = [_files(pattern) for pattern in images]
    names = conditions.split(',') if conditions else [''] * len(parts)
    if len(names) != len(parts):
        raise RecordingError(
            f'{len(names)} conditions for {len(parts)} folders or patterns; give one each'
        )
    if out.exists() and not (out / 'metadata.yaml').is_file():
        raise RecordingError(f'{out} exists and is no bag: not replaced; choose another --out')
    frames = [(file, name) for files, name in zip(parts, names, strict=True) for file in files]
    out.parent.mkdir(parents=True, exist_ok=True)
    # Inside another folder, because the bag's file is named after the bag.
    with tempfile.TemporaryDirectory(prefix='.bag-', dir=out.parent) as beside:
        _write(Path(beside) / out.name, frames, rate_hz, topic, frame_id)
        shutil.rmtree(out, ignore_errors=True)
        (Path(beside) / out.name).replace(out)
    print(f'{out}: {len(frames)} images on {topic}/compressed, {len(frames) / rate_hz:.1f} s')
    next_step(f'python training/replay.py {out}')
    return out


def _write(
    bag: Path, frames: list[tuple[Path, str]], rate_hz: float, topic: str, frame_id: str
) -> None:
    store = get_typestore(Stores.ROS2_JAZZY)
    header, time = store.types['std_msgs/msg/Header'], store.types['builtin_interfaces/msg/Time']
    image, text = 'sensor_msgs/msg/CompressedImage', 'std_msgs/msg/String'
    with Writer(bag, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        channel = writer.add_connection(f'{topic}/compressed', image, typestore=store)
        tags = None
        if any(name for _, name in frames):
            tags = writer.add_connection(CONDITION_TOPIC, text, typestore=store)
        for i, (file, name) in enumerate(tqdm(frames, unit='frame', desc='write')):
            stamp_ns = _START_NS + round(i * 1e9 / rate_hz)
            data = file.read_bytes()
            check_bytes(data)
            if tags:
                message = store.types[text](data=name)
                writer.write(tags, stamp_ns, store.serialize_cdr(message, text))
            kind = 'png' if image_format(data) == 'png' else 'jpeg'
            message = store.types[image](
                header=header(time(*divmod(stamp_ns, 1_000_000_000)), frame_id),
                format=f'rgb8; {kind} compressed bgr8',
                data=np.frombuffer(data, np.uint8),
            )
            writer.write(channel, stamp_ns, store.serialize_cdr(message, image))


def _files(pattern: str) -> list[Path]:
    path = Path(pattern)
    found = path.iterdir() if path.is_dir() else map(Path, glob.glob(pattern))  # noqa: PTH207  # absolute patterns, too
    files = sorted(f for f in found if f.suffix.lower() in ('.png', '.jpg', '.jpeg'))
    if not files:
        raise RecordingError(f'{pattern}: no .png or .jpg files there')
    return files


if __name__ == '__main__':
    run_command(frames_to_bag)
