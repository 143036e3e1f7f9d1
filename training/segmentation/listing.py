# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the layouts share: the record of a frame, and listing image files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

CONDITIONS = ('clear', 'day', 'low_sun', 'dusk', 'night', 'fog', 'rain', 'snow')
"""Weather and light that a folder's name may state."""


@dataclass(frozen=True)
class Frame:
    """A labelled frame.

    Attributes:
        name: Unique in its data set, with the split.
        image: The image file.
        label: The label file.
        drive: Recording that it belongs to; frames of one drive look alike.
        condition: Weather or light; `all` where nothing is known.
        label_ids: How ids are to be read, a name in `labels.ID_TABLES`.
    """

    name: str
    image: Path
    label: Path
    drive: str
    condition: str
    label_ids: str

    @property
    def split(self) -> str:
        """The split, which every layout's names begin with."""
        return self.name.partition('/')[0]


def thinned(frames: Sequence[Frame], most: int) -> list[Frame]:
    """All frames, or some of them evenly spread.

    Args:
        frames: The frames.
        most: Their largest number.
    """
    if len(frames) <= most:
        return list(frames)
    return [frames[i] for i in np.linspace(0, len(frames) - 1, most).round().astype(int)]


def folders(path: Path) -> list[str]:
    """Names of the folders in a folder, sorted; none when it does not exist.

    Args:
        path: The folder.
    """
    return sorted(p.name for p in path.iterdir() if p.is_dir()) if path.is_dir() else []
