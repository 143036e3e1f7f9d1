# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a method makes of a chunk of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from training.methods.gather import gather_rows


class Own(NamedTuple):
    """A term of the loss that concerns each sample, patch or point group by itself.

    Attributes:
        weight: Of the term.
        values: (n,) its values in this chunk of this rank. The term is the mean of all values of
            all chunks and ranks, each counting alike; n may be 0 and differ.
    """

    weight: float
    values: Tensor


class Embedded(NamedTuple):
    """What a method makes of a chunk of a batch.

    Attributes:
        image: (B, D) image embeddings, L2-normalised where the method's contrast wants that; None
            for a method without contrast.
        lidar: (B, D) lidar embeddings.
        own: Further terms of the loss, by name. The same names for every chunk.
        visible: (B,) bool: which pairs have points to speak of. The others are no part of the
            contrast. None: all have.
    """

    image: Tensor | None
    lidar: Tensor | None
    own: dict[str, Own] = {}  # noqa: RUF012  # never changed
    visible: Tensor | None = None


def gathered_pairs(parts: Sequence[Embedded]) -> tuple[Tensor, Tensor]:
    """The embeddings of the visible pairs of all chunks and ranks.

    Args:
        parts: This rank's, one per chunk.

    Returns:
        (N, D) of images and of scans.
    """
    image = gather_rows(torch.cat([cast('Tensor', p.image) for p in parts]))
    lidar = gather_rows(torch.cat([cast('Tensor', p.lidar) for p in parts]))
    if any(p.visible is None for p in parts):
        return image, lidar
    visible = gather_rows(torch.cat([cast('Tensor', p.visible) for p in parts]))
    return (image, lidar) if bool(visible.all()) else (image[visible], lidar[visible])
