# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Site calibration: what is ordinary here, within limits.

A camera behind another windscreen, or a town that is greener than the training's, shifts every
score by the same small amount. Nominal frames of the site may move location and scale of the
scores so far, and no farther: a monitor that could be calibrated on fog would never see fog. The
reference itself, which says what was trained on, and the thresholds stay.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from clcp_ros.errors import ModelError
from clcp_ros.monitor.knowledge import Knowledge
from clcp_ros.monitor.reference import TAPS, TapReference
from training.monitoring.drives import PERIOD_S, count_alarms, drives_of
from training.monitoring.novelty import Series, novelty_of
from training.monitoring.samples import Samples

MOST_MOVED = 2.0
"""Standard deviations by which the location of a score may move."""

SCALES = (0.5, 2.0)
"""Factors within which the scale of a score may change."""

MIN_FRAMES = 60
"""Fewest frames; they should be of ten minutes at least."""

_WANTED_H = 1 / 6


def calibrate_site(
    knowledge: Knowledge, samples: Samples, origin: str
) -> tuple[Knowledge, dict[str, Any]]:
    """Move location and scale of the scores towards a site's.

    Args:
        knowledge: Of the bundle, not calibrated on a site before.
        samples: Nominal frames of the site.
        origin: Where they come from, for the card.

    Returns:
        The knowledge, and figures for the card.

    Raises:
        ModelError: There are too few frames, or the bundle is of a site already.
    """
    if knowledge.facts.site:
        raise ModelError(
            f'the bundle is calibrated on a site already ({knowledge.facts.site}); begin with the '
            'bundle that export wrote'
        )
    if len(samples) < MIN_FRAMES:
        raise ModelError(
            f'{len(samples)} frames are too few for a site; it takes {MIN_FRAMES} at least, '
            'better ten minutes of driving'
        )
    measures: list[dict[str, Any]] = []
    taps: dict[str, Any] = {}
    for tap in TAPS:
        own: TapReference = getattr(knowledge.novelty, tap)
        distances = np.array([
            [m.log_distance(row) for m in own.measures] for row in getattr(samples, tap)
        ])  # fmt: skip
        middle = np.median(distances, axis=0)
        spread = 1.4826 * np.median(np.abs(distances - middle), axis=0)
        wanted = (middle - own.location) / own.spread
        moved = np.clip(wanted, -MOST_MOVED, MOST_MOVED)
        scaled = np.clip(spread / own.spread, *SCALES)
        measures += [
            {'tap': tap, 'wanted': float(w), 'moved': float(m), 'scaled': float(s)}
            for w, m, s in zip(wanted, moved, scaled, strict=True)
        ]
        taps[tap] = replace(
            own, location=own.location + moved * own.spread, spread=own.spread * scaled
        )
    novelty = replace(knowledge.novelty, **taps)
    scores = novelty_of(novelty, samples)
    if not np.isfinite([*scores, *(m['wanted'] for m in measures)]).all():
        raise ModelError(
            'the monitor of the bundle gives no finite scores on these frames; fit it anew, '
            'without --site'
        )
    drives = drives_of([
        Series(d, samples.stamp_ns[samples.drive == d], scores[samples.drive == d])
        for d in samples.drives
    ])  # fmt: skip
    hours = sum(d.samples.size for d in drives) * PERIOD_S / 3600
    alarms = sum(count_alarms(knowledge.sequential, d.pieces) for d in drives)
    text = f'{origin}: {len(samples)} frames, {hours:.2g} h'
    figures = {
        'from': origin,
        'frames': len(samples),
        'drives': samples.drives,
        'hours': hours,
        'measures': measures,
        'mean_novelty': float(scores.mean()),
        'sd_novelty': float(scores.std()),
        'alarms_on_these_frames': alarms,
        'limits': {'moved_sd': MOST_MOVED, 'scale': list(SCALES)},
        'warnings': _warnings(measures, hours, alarms),
    }
    facts = replace(knowledge.facts, site=text)
    return replace(knowledge, novelty=novelty, facts=facts), figures


def _warnings(measures: list[dict[str, Any]], hours: float, alarms: int) -> list[str]:
    found = []
    if far := sorted({m['tap'] for m in measures if abs(m['wanted']) > MOST_MOVED}):
        found.append(
            f'the site is farther from the training domain than may be calibrated away '
            f'({", ".join(far)}): expect warnings, and check the masks before you trust them'
        )
    if hours < _WANTED_H:
        found.append(
            f'{60 * hours:.2g} min of driving are little: ten minutes in all of the site would '
            'tell more'
        )
    if alarms:
        found.append(
            f'with this calibration the monitor still alarms {alarms} times on these very frames'
        )
    return found
