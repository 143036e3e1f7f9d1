# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Losses between places of an image and the lidar points seen there, and between feature maps.

A group is the visible points of one cell of the image encoder's map. Formulas are in
docs/methods.md; each function gives one value per group, patch or image, whose mean is the loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from training.models.lidar.base import mean_per_sample

# The constants of SplitMix64 as signed numbers.
_GOLDEN, _MIX_1, _MIX_2 = (
    c - 2**64 for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


@dataclass(frozen=True)
class Groups:
    """Lidar points by the cells of a map that they are seen in.

    Attributes:
        cell: (G,) int64 flat place in (B, h, w), ascending.
        shape: (B, h, w).
        points: (M,) int64 numbers of the points that belong to a group.
        member: (M,) int64 group of each of them.
    """

    cell: Tensor
    shape: tuple[int, int, int]
    points: Tensor
    member: Tensor

    def __len__(self) -> int:
        return len(self.cell)

    @property
    def sample(self) -> Tensor:
        """(G,) int64."""
        return self.cell // (self.shape[1] * self.shape[2])

    @property
    def row_column(self) -> Tensor:
        """(G, 2) int64."""
        _, height, width = self.shape
        place = self.cell % (height * width)
        return torch.stack([place // width, place % width], dim=1)

    def by_frame(self) -> Tensor:
        """Numbers of the groups, a row for each frame: (B, K) int64, -1 where there are fewer."""
        count = torch.bincount(self.sample, minlength=self.shape[0])
        place = torch.arange(int(count.max()), device=count.device)
        rows = (count.cumsum(0) - count)[:, None] + place
        return torch.where(place < count[:, None], rows, -1)

    def mean(self, values: Tensor) -> Tensor:
        """Average what points have over each group: (P, D) to (G, D)."""
        return mean_per_sample(values[self.points], self.member, len(self))

    def of_map(self, maps: Tensor) -> Tensor:
        """What a map holds at each group: (B, D, h, w) to (G, D)."""
        return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])[self.cell]


def group_points(
    uv: Tensor,
    used: Tensor,
    sample: Tensor,
    shape: tuple[int, int, int],
    min_points: int = 1,
    most: int = 0,
    seeds: Tensor | None = None,
) -> Groups:
    """Group points by the cell of the map that they fall into.

    Args:
        uv: (P, 2) column and row in [0, 1], from edge to edge of the image.
        used: (P,) bool: seen by camera and lidar encoder.
        sample: (P,) int64.
        shape: (B, h, w) of the map.
        min_points: Fewest points of a group.
        most: Most groups of a sample, chosen at random; 0 for all.
        seeds: (B,) int64 what the choice follows from, and nothing else: it is the same whatever
            other samples there are. None: zeros.

    Returns:
        The groups; there may be none.
    """
    points = (used & inside(uv)).nonzero()[:, 0]
    cell, member, count = torch.unique(
        cells_of(uv[points], sample[points], shape), return_inverse=True, return_counts=True
    )
    kept = count >= min_points
    if most:
        kept = _some_of_each(cell, kept, shape, most, seeds)
    number = kept.cumsum(0) - 1
    belongs = kept[member]
    return Groups(cell[kept], shape, points[belongs], number[member[belongs]])


def _some_of_each(
    cell: Tensor, kept: Tensor, shape: tuple[int, int, int], most: int, seeds: Tensor | None
) -> Tensor:
    """(C,) bool: at most so many of the kept cells of each sample."""
    batch, height, width = shape
    candidates = kept.nonzero()[:, 0]
    cells = height * width
    sample, place = cell[candidates] // cells, cell[candidates] % cells
    if seeds is None:
        seeds = torch.zeros(batch, dtype=torch.int64, device=cell.device)
    order = mixed(place + mixed(seeds)[sample]).argsort()
    order = order[sample[order].argsort(stable=True)]
    count = torch.bincount(sample, minlength=batch)
    before = (count.cumsum(0) - count)[sample[order]]
    few = torch.arange(len(order), device=order.device) - before < most
    result = torch.zeros_like(kept)
    result[candidates[order[few]]] = True
    return result


def mixed(x: Tensor) -> Tensor:
    """Numbers that look random, one for each number (SplitMix64, Steele et al. 2014).

    Args:
        x: int64 of any shape.

    Returns:
        int64 of the same shape.
    """
    x = x + _GOLDEN
    for shift, factor in ((30, _MIX_1), (27, _MIX_2)):
        # A shift of signed numbers draws the sign in.
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def inside(uv: Tensor) -> Tensor:
    """Which places lie in the image: (P, 2) to (P,) bool."""
    return ((uv >= 0) & (uv < 1)).all(dim=1)


def cells_of(uv: Tensor, sample: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """The cell of a map that each place falls into.

    Args:
        uv: (P, 2) column and row, inside [0, 1).
        sample: (P,) int64.
        shape: (B, h, w) of the map.

    Returns:
        (P,) int64 flat places in (B, h, w).
    """
    _, height, width = shape
    # In float32 a place just before a border is rounded into the cell behind it.
    place = uv.double()
    column = (place[:, 0] * width).long().clamp(max=width - 1)
    row = (place[:, 1] * height).long().clamp(max=height - 1)
    return (sample * height + row) * width + column


def point_values(image: Tensor, lidar: Tensor) -> Tensor:
    """Disagreement of two features of the same groups: `1 - cos`.

    Args:
        image: (G, D).
        lidar: (G, D); give it detached for the regression form.

    Returns:
        (G,) in [0, 2].
    """
    return 1 - F.cosine_similarity(image, lidar, dim=1)


def nce_values(
    image: Tensor, lidar: Tensor, scale: Tensor | float, negatives: Tensor | None = None
) -> Tensor:
    """Symmetric InfoNCE between groups (van den Oord et al. 2018) without false negatives.

    Args:
        image: (..., G, D) L2-normalised.
        lidar: (..., G, D) L2-normalised; row i belongs to row i of `image`.
        scale: Inverse temperature.
        negatives: (..., G, G) bool, whether lidar group j is a negative of image group i; all but
            the diagonal when None. The diagonal does not matter.

    Returns:
        (..., G) half the sum of both directions; 0 for a group without negatives.
    """
    logits = scale * image @ lidar.transpose(-1, -2)
    if negatives is not None:
        own = torch.eye(logits.shape[-1], dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill(~(negatives | own), -torch.inf)
    partners = logits.diagonal(dim1=-2, dim2=-1)
    return (logits.logsumexp(-1) + logits.logsumexp(-2)) / 2 - partners


@dataclass(frozen=True)
class NegativeRules:
    """Which groups may be told apart, and which look different by chance only.

    Attributes:
        scope: Negatives come from the same frame, or from the whole batch. Within a frame, light
            and weather are the same for all, so that telling them apart teaches nothing of them.
        neighbours: Cells of the same frame at most this far away, in cells, are no negatives: they
            mostly show the same surface.
        gap_s: Frames of one sequence closer than this in time are no negatives: they show the same
            places.
        same_shape: Groups at about the same range and height, with about the same normal and
            intensity are no negatives: two pieces of a road are one thing to the lidar.
        most_similar: Groups whose lidar features have a larger cosine are no negatives; 1 for no
            limit. For frozen lidar encoders: those of a new one are all alike at first.
    """

    scope: Literal['frame', 'batch'] = 'frame'
    neighbours: int = 1
    gap_s: float = 5.0
    same_shape: bool = True
    most_similar: float = 1.0


def allowed_negatives(
    groups: Groups,
    rules: NegativeRules,
    sequence: Tensor,
    time_s: Tensor,
    lidar: Tensor,
    geometry: Tensor | None = None,
    rows: Tensor | None = None,
) -> Tensor:
    """Apply the rules.

    Args:
        groups: G groups.
        rules: The rules.
        sequence: (B,) int64 sequence of each sample.
        time_s: (B,) seconds.
        lidar: (G, D) L2-normalised features.
        geometry: (G, 6) means of `training.pairs.contrastive.GEOMETRY`; None leaves out
            `same_shape`.
        rows: (B, K) as of `Groups.by_frame`: compare within its rows only. None: all with all.

    Returns:
        (G, G) bool, symmetric; (B, K, K) with `rows`.
    """
    sample, place = _in_rows(groups.sample, rows), _in_rows(groups.row_column, rows)
    same_frame = sample[..., :, None] == sample[..., None, :]
    allowed = torch.ones_like(same_frame)
    if rows is not None:
        allowed &= (rows >= 0)[:, :, None] & (rows >= 0)[:, None]
    if rules.scope == 'frame':
        allowed &= same_frame
    else:
        s, t = sequence[sample], time_s[sample]
        near = s[..., :, None] == s[..., None, :]
        near &= (t[..., :, None] - t[..., None, :]).abs() < rules.gap_s
        allowed &= same_frame | ~near
    apart = (place[..., :, None, :] - place[..., None, :, :]).abs().amax(dim=-1)
    allowed &= ~(same_frame & (apart <= rules.neighbours))
    if rules.same_shape and geometry is not None:
        allowed &= ~_same_shape(_in_rows(geometry, rows))
    if rules.most_similar < 1:
        lidar = _in_rows(lidar.detach(), rows)
        allowed &= lidar @ lidar.transpose(-1, -2) <= rules.most_similar
    return allowed


def nce_by_frame(
    image: Tensor, lidar: Tensor, scale: Tensor | float, negatives: Tensor, rows: Tensor
) -> Tensor:
    """`nce_values` of groups whose negatives are of their own frame.

    The square of a frame's groups is computed for each, not the square of all.

    Args:
        image: (G, D) L2-normalised.
        lidar: (G, D) L2-normalised.
        scale: Inverse temperature.
        negatives: (B, K, K) bool, see `allowed_negatives`.
        rows: (B, K), see `Groups.by_frame`.

    Returns:
        (G,).
    """
    values = nce_values(_in_rows(image, rows), _in_rows(lidar, rows), scale, negatives)
    return values[rows >= 0]


def _in_rows(x: Tensor, rows: Tensor | None) -> Tensor:
    return x if rows is None else x[rows.clamp(min=0)]


def _same_shape(geometry: Tensor) -> Tensor:
    limits = torch.tensor([0.2, 0.3, 0.1], device=geometry.device)
    scalars = geometry[..., [0, 1, 5]].nan_to_num(0.0)
    near = (scalars[..., :, None, :] - scalars[..., None, :, :]).abs() < limits
    normal = F.normalize(geometry[..., 2:5], dim=-1)
    return near.all(dim=-1) & (normal @ normal.transpose(-1, -2) > 0.9)


def anchor_values(student: Tensor, anchor: Tensor) -> Tensor:
    """How far tokens have turned away from a copy's: `1 - cos` per patch.

    Args:
        student: (B, D, h, w).
        anchor: (B, D, h, w), without gradients.

    Returns:
        (B * h * w,).
    """
    return (1 - F.cosine_similarity(student, anchor.detach(), dim=1)).flatten()


def gram_values(student: Tensor, anchor: Tensor) -> Tensor:
    """Change of the similarities among an image's patches (Gram anchoring, DINOv3).

    `|P P' - Q Q'|_F^2 / N^2` with the N normalised tokens of an image as rows of P and Q. Unlike
    `anchor_values` it lets tokens turn together.

    Args:
        student: (B, D, h, w).
        anchor: (B, D, h, w), without gradients.

    Returns:
        (B,).
    """
    p = F.normalize(student.flatten(2), dim=1)
    q = F.normalize(anchor.detach().flatten(2), dim=1)
    return (p.transpose(1, 2) @ p - q.transpose(1, 2) @ q).square().mean(dim=(1, 2))


def return_values(logits: Tensor, uv: Tensor, sample: Tensor, reach: Tensor) -> Tensor:
    """Whether a lidar's rays came back from a cell: not from the sky, water and black paint.

    Cross-entropy at the cells that rays reach. Cells with two points or more are hit, those with
    none are not, and one point may be a snowflake: such cells do not count.

    Args:
        logits: (B, h, w) that something was hit.
        uv: (P, 2) column and row of all points in [0, 1], also of those hidden from the camera.
        sample: (P,) int64.
        reach: (B,) the highest row in [0, 1] that rays reach; infinite for a scan without points.

    Returns:
        (M,) of the cells that count.
    """
    batch, height, width = logits.shape
    seen = inside(uv)
    cell = cells_of(uv[seen], sample[seen], (batch, height, width))
    count = torch.bincount(cell, minlength=batch * height * width).view(batch, height, width)
    rows = torch.arange(height, device=logits.device)
    counts = (rows >= (reach * height)[:, None])[:, :, None] & (count != 1)
    values = F.binary_cross_entropy_with_logits(
        logits, (count > 1).to(logits.dtype), reduction='none'
    )
    return values[counts]
