# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which way each metric of pretraining is better: what a search and an early stop go by."""

from __future__ import annotations

from clcp_ros.errors import ModelError

_WAYS = ('', 'image_to_lidar_', 'lidar_to_image_')

SMALLER_IS_BETTER = {
    'loss': True,
    'contrast': True,
    'alignment': True,
    'uniformity_image': True,
    'uniformity_lidar': True,
    'image_rank': False,
    'lidar_rank': False,
    'patch_cosine': False,
    'patch_cosine_p05': False,
    'patch_cka': False,
    'patch_rank': False,
    'patch_similarity': True,
    'probe_miou': False,
    'skipped': True,
    'pairs_per_s': False,
    'step_s': True,
    'waited': True,
    'watch_s': True,
    **{f'{way}rank': True for way in _WAYS},
    **{f'{way}r{k}': False for way in _WAYS for k in (1, 5, 10)},
}
"""By a metric's name without `val_`. Terms of the loss (`term_...`) are smaller for better, too;
`rank` is where the partner was found, all other ranks are numbers of directions."""


def smaller_is_better(metric: str) -> bool:
    """Whether the smaller value of a metric is the better one.

    Args:
        metric: Its name in metrics.csv.

    Raises:
        ModelError: It has no direction (`lr`, `grad_norm`), or there is none of that name.
    """
    name = metric.removeprefix('val_')
    if name.startswith('term_'):
        return True
    if name not in SMALLER_IS_BETTER:
        raise ModelError(
            f'{metric} is no metric of which more or less is better; take val_loss, val_r1, '
            'val_probe_miou or another of docs/pretraining.md'
        )
    return SMALLER_IS_BETTER[name]
