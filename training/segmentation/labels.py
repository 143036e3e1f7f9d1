# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Label images: reading them, and mapping the ids of a data set to those of its class set."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from clcp_ros.classes import CAMVID, CITYSCAPES, UNLABELLED, ClassSet
from clcp_ros.errors import ImageError, LabelError
from clcp_ros.image_codec import decode_bytes

_logger = logging.getLogger(__name__)

OUTSIDE = -1
"""Marks, in an id table, an id that the data set does not define."""


def _table(known: dict[int, int]) -> np.ndarray:
    table = np.full(256, OUTSIDE, np.int16)
    table[UNLABELLED] = UNLABELLED
    for source, target in known.items():
        table[source] = target
    return table


_CITYSCAPES_EVALUATED = (
    7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33,
)  # fmt: skip

ID_TABLES: dict[str, np.ndarray] = {
    'cityscapes_train_ids': _table({i: i for i in range(len(CITYSCAPES))}),
    # 0 to 33 are defined; those without evaluation are unlabelled (Cordts et al. 2016).
    'cityscapes_label_ids': _table(
        dict.fromkeys(range(34), UNLABELLED)
        | {label: train for train, label in enumerate(_CITYSCAPES_EVALUATED)}
    ),
    'camvid': _table({i: i for i in range(len(CAMVID))} | {len(CAMVID): UNLABELLED}),
}
"""(256,) int16 by name: the id in the file -> class id, 255 (unlabelled) or `OUTSIDE`."""

COLORS = 'a2d2_colors'
"""Kind of labels that are colours: A2D2's."""


def read_image(path: Path) -> np.ndarray:
    """Read a JPEG or PNG.

    Args:
        path: The file.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ImageError: Missing, truncated or damaged; names the file.
    """
    try:
        return decode_bytes(path.read_bytes())
    except OSError as error:
        raise ImageError(f'{path}: cannot be read ({error.strerror})') from None
    except ImageError as error:
        raise ImageError(f'{path}: {error}') from None


class LabelReader:
    """Reads label images and counts ids that their data set does not define.

    Such ids become unlabelled; resized labels have them along their edges, for example. They are
    counted over the whole run and reported once.

    Args:
        ids: A name in `ID_TABLES`, or `COLORS`.
    """

    def __init__(self, ids: str) -> None:
        self.ids = ids
        self._counts: dict[str, dict[int, int]] = {}

    def read(self, path: Path, shape: tuple[int, int]) -> np.ndarray:
        """Read one label image.

        Args:
            path: The file: 8 bits a pixel, gray or palette; colours where those are the ids.
            shape: (height, width) of its image.

        Returns:
            (H, W) uint8 class ids, 255 is unlabelled.

        Raises:
            LabelError: Missing, damaged, not a map of ids, or of another size than its image.
        """
        raw, mapped = _read_colors(path) if self.ids == COLORS else _read_ids(path, self.ids)
        if raw.shape != shape:
            raise LabelError(
                f'{path}: the label is {raw.shape[1]} x {raw.shape[0]}, '
                f'its image is {shape[1]} x {shape[0]}'
            )
        outside = mapped == OUTSIDE
        if outside.any():
            ids, counts = np.unique(raw[outside], return_counts=True)
            self._counts[str(path)] = dict(zip(ids.tolist(), counts.tolist(), strict=True))
            mapped[outside] = UNLABELLED
        return mapped.astype(np.uint8)

    def take(self) -> dict[str, dict[int, int]]:
        """Hand over what was counted, and forget it.

        Returns:
            Pixels by id outside the class set, by label file; only files with such ids.
        """
        counts, self._counts = self._counts, {}
        return counts

    def add(self, counts: dict[str, dict[int, int]]) -> None:
        """Add what another reader (in a loader's process) counted.

        Args:
            counts: From its `take`; a file that was counted before is not counted again.
        """
        self._counts |= counts

    def report(self, classes: ClassSet) -> str | None:
        """Log, once, the ids outside the class set that were met.

        Args:
            classes: The class set, for its name.

        Returns:
            The message, or None when there was none.
        """
        total: Counter[int] = Counter()
        images = self.take()
        for counts in images.values():
            total.update(counts)
        if not total:
            return None
        name = '#{:06x}'.format if self.ids == COLORS else str
        shown = ', '.join(name(i) for i, _ in total.most_common(5))
        more = ', ...' if len(total) > 5 else ''
        message = (
            f'{sum(total.values())} pixels in {len(images)} label images hold ids outside the '
            f'class set {classes.name} ({shown}{more}); they are ignored'
        )
        _logger.warning(message)
        return message


def _read_ids(path: Path, table: str) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) ids as in the file, and as class ids or `OUTSIDE`."""
    ids, mode = _read_pixels(path)
    if mode not in ('L', 'P') or ids.dtype != np.uint8:
        raise LabelError(
            f'{path}: a label image holds one 8-bit id a pixel, this one is {mode}; '
            'colour images of labels are read for A2D2 alone'
        )
    return ids, ID_TABLES[table][ids]


def _read_colors(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) colours as 0xRRGGBB, and as class ids or `OUTSIDE`."""
    # The table lives with the reader of recordings, which evaluation does not need otherwise.
    from training.sources.a2d2 import color_to_train_id

    rgb, mode = _read_pixels(path)
    if mode not in ('RGB', 'RGBA') or rgb.dtype != np.uint8:
        raise LabelError(f'{path}: labels of A2D2 are RGB images, this one is {mode}')
    wide = rgb.astype(np.int32)
    colors = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    return colors, color_to_train_id(colors, OUTSIDE)


def _read_pixels(path: Path) -> tuple[np.ndarray, str]:
    if not path.is_file():
        raise LabelError(f'{path}: the label image is missing')
    try:
        with Image.open(path) as image:
            return np.asarray(image), image.mode
    except (OSError, SyntaxError, ValueError) as error:
        raise LabelError(f'{path}: damaged label image ({error})') from None
