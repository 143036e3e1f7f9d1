# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A Foxglove layout: images, masks, the shift score, levels and diagnostics.

`python -m training.replaying.foxglove > config/foxglove.json` writes the one that is installed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

Layout = str | dict[str, Any]

_NOVELTY = {
    'novelty_z': ('#7aa7d9', 'novelty'),
    'novelty_cusum': ('#0b3d75', 'evidence (CUSUM)'),
    'cusum_threshold': ('#b07a00', 'alarm from here'),
}
_HARM = {
    'miou_est': ('#0b3d75', 'expected mIoU'),
    'miou_lo': ('#7aa7d9', 'at least'),
    'miou_hi': ('#7aa7d9', 'at most'),
}


def foxglove_layout(
    images: Mapping[str, str], node: str = '/segment', *, overlay: str = 'overlay'
) -> dict[str, Any]:
    """The layout for a node's topics.

    Args:
        images: Topic of the images by what the camera adds to the node's topics: `front/`, or
            nothing where there is only one.
        node: The node's name.
        overlay: Name of the overlay's topic.

    Returns:
        As Foxglove imports it.
    """
    panels: dict[str, Any] = {}
    rows = []
    for number, (prefix, topic) in enumerate(images.items()):
        title = prefix.rstrip('/') or 'camera'
        shown = {
            f'Image!image{number}': (topic, title),
            f'Image!overlay{number}': (f'{node}/{prefix}{overlay}', f'{title}: mask over image'),
            f'Image!mask{number}': (f'{node}/{prefix}mask', f'{title}: mask (class ids)'),
        }
        for key, (source, name) in shown.items():
            panels[key] = {
                'foxglovePanelTitle': name,
                'cameraState': {},
                'imageMode': {'imageTopic': source},
            }
        first, second, third = shown
        rows.append(_split('row', first, _split('row', second, third, 50), 34))
    for panel, title, series in (
        ('Plot!novelty', 'Shift: standard deviations from the training domain', _NOVELTY),
        ('Plot!harm', 'Expected mIoU, without labels', _HARM),
    ):
        panels[panel] = _plot(
            title,
            [
                (f'{node}/{prefix}shift.status[0].values[:]{{key=="{key}"}}.value', color,
                 f'{prefix.rstrip("/")} {label}'.strip())
                for prefix in images
                for key, (color, label) in series.items()
            ],
        )  # fmt: skip
    panels['StateTransitions!level'] = {
        'foxglovePanelTitle': 'Level: 0 OK, 1 WARN, 2 ERROR, 3 STALE',
        'isSynced': True,
        'paths': [
            {
                'value': f'{node}/{prefix}shift.status[0].level',
                'label': prefix.rstrip('/') or 'level',
                'enabled': True,
                'timestampMethod': 'receiveTime',
            }
            for prefix in images
        ],
    }
    panels['DiagnosticSummary!diagnostics'] = {
        'foxglovePanelTitle': 'Diagnostics',
        'minLevel': 0,
        'pinnedIds': [],
        'hardwareIdFilter': '',
        'topicToRender': '/diagnostics',
        'sortByLevel': True,
    }
    plots = _split('column', 'Plot!novelty', 'Plot!harm', 55)
    figures = _split('column', plots, 'StateTransitions!level', 80)
    lower = _split('row', figures, 'DiagnosticSummary!diagnostics', 70)
    upper: Layout = rows[-1]
    for count, row in enumerate(reversed(rows[:-1]), 2):
        upper = _split('column', row, upper, 100 / count)
    return {
        'configById': panels,
        'globalVariables': {},
        'userNodes': {},
        'playbackConfig': {'speed': 1},
        'layout': _split('column', upper, lower, 60),
    }


def _split(direction: str, first: Layout, second: Layout, share: float) -> Layout:
    return {
        'direction': direction,
        'first': first,
        'second': second,
        'splitPercentage': round(share, 1),
    }


def _plot(title: str, series: list[tuple[str, str, str]]) -> dict[str, Any]:
    return {
        'foxglovePanelTitle': title,
        'paths': [
            {
                'value': path,
                'color': color,
                'label': label,
                'enabled': True,
                'timestampMethod': 'receiveTime',
            }
            for path, color, label in series
        ],
        'showLegend': True,
        'legendDisplay': 'floating',
        'showPlotValuesInLegend': False,
        'showXAxisLabels': True,
        'showYAxisLabels': True,
        'isSynced': True,
        'xAxisVal': 'timestamp',
        'sidebarDimension': 240,
    }


def write_layout() -> str:
    """The layout that is installed, for one camera on the robot."""
    return json.dumps(foxglove_layout({'': '/image'}), indent=2) + '\n'


if __name__ == '__main__':
    print(write_layout(), end='')
