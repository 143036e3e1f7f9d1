# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""One integer per voxel: the sample, then the bits of x, y and z interleaved (Morton order).

Voxels that are close in space are close in this order, the key of a voxel's parent is the key
shifted by three bits, and the three bits that fall off are its octant, `4*dx + 2*dy + dz`: the
number that kernels of 2 x 2 x 2 give it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clcp_ros.errors import ModelError

# Origins are multiples of 2**MAX_HALVINGS, so that halving a coordinate and shifting its key agree
# that often, for negative coordinates as well.
MAX_HALVINGS = 10
_MAX_BITS = 21  # what `_spread` handles
_MAX_COORDINATE = 2**60
_MASKS = (
    (32, 0x001F00000000FFFF), (16, 0x001F0000FF0000FF), (8, 0x100F00F00F00F00F),
    (4, 0x10C30C30C30C30C3), (2, 0x1249249249249249),
)  # fmt: skip


@dataclass(frozen=True)
class KeySpace:
    """How coordinates of one grid become keys.

    Attributes:
        origin: x, y, z that are subtracted.
        bits: Bits of each axis.
        batch_size: Number of samples.
    """

    origin: tuple[int, int, int]
    bits: int
    batch_size: int

    @staticmethod
    def around(coords: Tensor, batch_size: int) -> KeySpace:
        """The keys that these coordinates need.

        Args:
            coords: (N, 4) int64: sample, x, y, z.
            batch_size: Number of samples.

        Raises:
            ModelError: The extent does not fit 63 bits, or a sample is out of range.
        """
        if len(coords) == 0:
            return KeySpace((0, 0, 0), MAX_HALVINGS, batch_size)
        low, high = (x.tolist() for x in torch.aminmax(coords, dim=0))
        if low[0] < 0 or high[0] >= batch_size:
            raise ModelError(
                f'voxels of samples {low[0]} to {high[0]} in a batch of {batch_size}; '
                'the first column of the coordinates is the sample, from 0'
            )
        # Python's integers: differences of huge coordinates overflow int64.
        if min(low) < -_MAX_COORDINATE or max(high) > _MAX_COORDINATE:
            raise ModelError('voxel coordinates beyond 2**60; remove the outliers')
        step = 2**MAX_HALVINGS
        x, y, z = (v // step * step for v in low[1:])
        extent = max(h - o + 1 for h, o in zip(high[1:], (x, y, z), strict=True))
        bits = max((extent - 1).bit_length(), MAX_HALVINGS)
        if bits > _MAX_BITS or 3 * bits + (batch_size - 1).bit_length() > 63:
            raise ModelError(
                f'a voxel grid {extent} voxels wide is too large for the keys of {batch_size} '
                'samples; remove far outliers or use larger voxels'
            )
        return KeySpace((x, y, z), bits, batch_size)

    @property
    def halved(self) -> KeySpace:
        """The keys of the parents; the keys themselves are `key >> 3`."""
        x, y, z = (v // 2 for v in self.origin)
        return KeySpace((x, y, z), self.bits - 1, self.batch_size)

    def encode(self, coords: Tensor) -> tuple[Tensor, Tensor]:
        """Keys of coordinates.

        Args:
            coords: (M, 4) int64, anywhere.

        Returns:
            (M,) int64 keys, and (M,) bool whether the coordinates lie in this space; the key of
            others is -1.
        """
        top = 2**self.bits - 1
        low = coords.new_tensor(self.origin)
        # Compared before subtracting, which could overflow.
        inside = ((coords[:, 1:] >= low) & (coords[:, 1:] <= low + top)).all(dim=1)
        inside &= (coords[:, 0] >= 0) & (coords[:, 0] < self.batch_size)
        c = (coords[:, 1:] - low).bitwise_and_(top)
        key = (_spread(c[:, 0]) << 2) | (_spread(c[:, 1]) << 1) | _spread(c[:, 2])
        key |= coords[:, 0] << (3 * self.bits)
        return torch.where(inside, key, -1), inside

    def decode(self, keys: Tensor) -> Tensor:
        """The (N, 4) int64 coordinates of keys of this space."""
        code = keys & ((1 << (3 * self.bits)) - 1)
        columns = [keys >> (3 * self.bits)]
        columns += [
            _gather(code >> shift) + low for shift, low in zip((2, 1, 0), self.origin, strict=True)
        ]
        return torch.stack(columns, dim=1)


def _spread(x: Tensor) -> Tensor:
    """Put two zero bits between the bits of a number of at most 21 bits."""
    for shift, mask in _MASKS:
        x = (x | (x << shift)) & mask
    return x


def _gather(x: Tensor) -> Tensor:
    """Undo `_spread`, ignoring the bits between."""
    x = x & _MASKS[-1][1]
    masks = [mask for _, mask in _MASKS[-2::-1]] + [0x1FFFFF]
    for (shift, _), mask in zip(reversed(_MASKS), masks, strict=True):
        x = (x | (x >> shift)) & mask
    return x
