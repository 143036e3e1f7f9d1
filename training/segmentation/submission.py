# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Files for the test servers of Cityscapes and ACDC, whose labels are not public."""

from __future__ import annotations

import logging
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from clcp_ros.classes import CITYSCAPES
from clcp_ros.errors import ImageError, LabelError
from clcp_ros.image_codec import encode_png, image_size
from training.cli import atomic_path
from training.defaults import MODEL
from training.segmentation.frames import FrameSet, open_frames
from training.segmentation.inference import InferenceConfig, read_ahead
from training.segmentation.labels import ID_TABLES, read_image
from training.segmentation.listing import Frame
from training.segmentation.predictors import open_predictor

_logger = logging.getLogger(__name__)

SERVERS = ('cityscapes', 'acdc')
SIZES = {'cityscapes': (1024, 2048), 'acdc': (1080, 1920)}
"""(height, width) of the servers' ground truth."""

FOLDERS = {'cityscapes': '', 'acdc': 'labelTrainIds/'}
"""Inside the zip: Cityscapes' server looks for names anywhere."""


def submit(
    data: Path,
    model: Path = MODEL,
    split: str = 'test',
    layout: str = 'auto',
    out: Path = Path('runs/submission'),
    inference: InferenceConfig = InferenceConfig(),  # noqa: B008  # never changed
) -> Path:
    """Predict a split without labels and write the zip that its test server takes.

    Cityscapes' server gets label ids, ACDC's train ids: 8-bit PNG of the image's size and name.

    Args:
        data: Folder of Cityscapes or ACDC.
        model: Weights that finetune wrote, a Segmenter checkpoint, or a bundle's folder.
        split: Split; several with commas; `test:fog` is one condition of a split.
        layout: cityscapes or acdc, which is also the server; auto guesses.
        out: Folder to write to.
        inference: Whole frames as on the robot, or sliding windows.

    Returns:
        The zip.

    Raises:
        LabelError: No such data, or data that no server judges.
        ModelError: The model is missing, damaged or of other classes.
    """
    frames = open_frames(data, split, layout, labelled=False)
    server = frames.layout
    if server not in SERVERS:
        raise LabelError(f'{data} is laid out as {server}; servers are for {", ".join(SERVERS)}')
    predictor = open_predictor(model)
    if predictor.classes.names != frames.classes.names:
        raise LabelError(
            f'the {server} server wants the classes of {frames.classes.name}, the model has those '
            f'of {predictor.classes.name} ({len(predictor.classes)})'
        )
    _warn_of_sizes(frames, server)

    def predictions() -> Iterator[tuple[Frame, np.ndarray]]:
        bar = tqdm(frames.frames, desc=f'predict {frames.root.name}', unit='frame')
        for frame, image in read_ahead(lambda f: read_image(f.image), bar):
            height, width = image.shape[:2]
            yield frame, predictor.segment(image, (height, width), inference).mask

    path = out / f'{server}_{split.replace(",", "_").replace(":", "_")}.zip'
    count = write_submission(path, server, predictions())
    print(f'wrote {path}: {count} predictions for the {server} server')
    return path


def write_submission(
    path: Path, server: str, predictions: Iterable[tuple[Frame, np.ndarray]]
) -> int:
    """Write the zip that a server takes.

    Cityscapes wants its label ids, ACDC train ids; both under the image's own name.

    Args:
        path: The zip; it appears whole.
        server: `cityscapes` or `acdc`.
        predictions: Frame and (H, W) uint8 train ids, at the image's size.

    Returns:
        Number of predictions.

    Raises:
        LabelError: Unknown server, or a name twice.
    """
    if server not in SERVERS:
        raise LabelError(f'no server {server!r}; there are {", ".join(SERVERS)}')
    count = 0
    with (
        atomic_path(path) as temporary,
        zipfile.ZipFile(temporary, 'w', zipfile.ZIP_STORED) as archive,
    ):
        for name, data in _members(server, predictions):
            archive.writestr(zipfile.ZipInfo(name), data)
            count += 1
    return count


def _members(
    server: str, predictions: Iterable[tuple[Frame, np.ndarray]]
) -> Iterator[tuple[str, bytes]]:
    seen = set()
    for frame, mask in predictions:
        name = f'{FOLDERS[server]}{frame.image.stem}.png'
        if name in seen:
            raise LabelError(f'{frame.image}: two images of that name')
        seen.add(name)
        yield name, encode_png(to_label_ids(mask) if server == 'cityscapes' else mask)


def _warn_of_sizes(frames: FrameSet, server: str) -> None:
    """Say before the work that a server will refuse what comes of images of another size."""
    sizes: Counter[tuple[int, int]] = Counter()
    for frame in frames.frames:
        try:
            with frame.image.open('rb') as file:
                sizes[image_size(file.read(1 << 16))] += 1
        except (ImageError, OSError) as error:
            raise ImageError(f'{frame.image}: {error}') from None
    height, width = SIZES[server]
    other = {s: n for s, n in sizes.items() if s != (width, height)}
    if other:
        shown = ', '.join(f'{n} of {w} x {h}' for (w, h), n in sorted(other.items())[:3])
        _logger.warning(
            'the %s server judges %d x %d; it will refuse the predictions of images of another '
            'size: %s', server, width, height, shown,
        )  # fmt: skip


def to_label_ids(mask: np.ndarray) -> np.ndarray:
    """Train ids to Cityscapes' label ids.

    Args:
        mask: (H, W) uint8 train ids 0 to 18; anything else becomes 0, unlabelled.
    """
    table = np.zeros(256, np.uint8)
    ids = ID_TABLES['cityscapes_label_ids']
    for train in range(len(CITYSCAPES)):
        table[train] = int(np.flatnonzero(ids == train)[0])
    return table[mask]
