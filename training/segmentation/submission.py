# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Files for the test servers of Cityscapes and ACDC, whose labels are not public."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from clcp_ros.classes import CITYSCAPES
from clcp_ros.errors import LabelError
from clcp_ros.image_codec import encode_png
from training.segmentation.labels import ID_TABLES
from training.segmentation.listing import Frame

SERVERS = ('cityscapes', 'acdc')
SIZES = {'cityscapes': (1024, 2048), 'acdc': (1080, 1920)}
"""(height, width) of the servers' ground truth."""


def write_submission(
    path: Path, server: str, predictions: Iterable[tuple[Frame, np.ndarray]]
) -> int:
    """Write the zip that a server takes.

    Cityscapes wants its label ids at 2048 x 1024, ACDC train ids at 1920 x 1080; both under the
    image's own name.

    Args:
        path: The zip; it appears whole.
        server: `cityscapes` or `acdc`.
        predictions: Frame and (H, W) uint8 train ids, at the image's size.

    Returns:
        Number of predictions.

    Raises:
        LabelError: Unknown server, a prediction of another size, or a name twice.
    """
    if server not in SERVERS:
        raise LabelError(f'no server {server!r}; there are {", ".join(SERVERS)}')
    temporary = path.with_name(f'.{path.name}.partial')
    try:
        with zipfile.ZipFile(temporary, 'w', zipfile.ZIP_STORED) as archive:
            count = 0
            for name, data in _members(server, predictions):
                archive.writestr(zipfile.ZipInfo(name), data)
                count += 1
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _members(
    server: str, predictions: Iterable[tuple[Frame, np.ndarray]]
) -> Iterator[tuple[str, bytes]]:
    seen = set()
    for frame, mask in predictions:
        if mask.shape != SIZES[server]:
            raise LabelError(
                f'{frame.image}: the {server} server wants predictions of {SIZES[server][1]} x '
                f'{SIZES[server][0]}, this one is {mask.shape[1]} x {mask.shape[0]}'
            )
        name = f'{frame.image.stem}.png'
        if name in seen:
            raise LabelError(f'{frame.image}: two images of that name')
        seen.add(name)
        yield name, encode_png(to_label_ids(mask) if server == 'cityscapes' else mask)


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
