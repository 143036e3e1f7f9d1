# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Calibrate the shift monitor of a bundle on your own drives.

Export does this once on the frames of the training. Do it again when you have more nominal drives
(the more hours, the rarer false alarms are known to be), want another interval between false
alarms, or run the bundle at a site of its own (--site). Recordings need no labels. The bundle
changes whole or not at all; an interrupted run goes on where it was.
"""

from __future__ import annotations

if __package__ in (None, ''):
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import training  # noqa: F401  # first: it sets how torch's threads wait

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from clcp_ros import bundle as bundle_files
from clcp_ros.bundle import Bundle, load_bundle, write_description
from clcp_ros.errors import ClcpError
from clcp_ros.inference import Segmenter
from clcp_ros.monitor.knowledge import Knowledge
from training.cli import atomic_path, next_step, run_command
from training.monitoring.card import read_card, summary, write_monitor
from training.monitoring.domain import MANY_DRIVES, Domain, labelled_domain, nominal_sources
from training.monitoring.fit import FitOptions, fit_knowledge
from training.monitoring.reader import read_samples
from training.monitoring.site import calibrate_site
from training.segmentation.frames import DATA


def fit_monitor(
    bundle: Path,
    data: Path | None = None,
    split: str = 'train',
    conditions: str = '',
    calibration: str = '',
    layout: str = 'auto',
    bags: str = '',
    pairs: str = '',
    site: str = '',
    image_topic: str | None = None,
    false_alarm_interval_h: float = 8.0,
    corruptions: str = 'all',
    max_frames: int = 400,
    out: Path | None = None,
    seed: int = 0,
) -> Path:
    """Fit what a bundle's monitor knows, and replace it in the bundle.

    Args:
        bundle: Folder of the bundle.
        data: Frames of the training; default: those of the simulated drive if the bundle is of
            them. Without any, the reference is fitted on the recordings.
        split: Frames that the reference is fitted on.
        conditions: Conditions that count as the training domain, as in day,clear; empty takes
            those that the model was trained on.
        calibration: Split of `data` with other drives for scale and thresholds; empty leaves each
            drive of the fitted split out in turn, unless there are recordings.
        layout: Layout of the data; auto guesses.
        bags: Nominal recordings without labels: bags, or folders of bags, with commas. Scale and
            thresholds are found on them.
        pairs: The same for pair sets, with commas; the first also teaches how image and lidar
            agree.
        site: Nominal recordings of a site (bags, pair sets or frames, with commas): only location
            and scale of the scores move, within limits; nothing else is fitted.
        image_topic: Topic of the images in bags; default: the first camera.
        false_alarm_interval_h: Hours of normal driving between two false alarms of one camera.
        corruptions: all, none, or families with commas, from which harm and kinds are learned.
        max_frames: Most frames of the data for the fit, and for the calibration.
        out: Where the bundle with the new monitor shall be; default: in the place of the old.
        seed: Of whatever is drawn.

    Returns:
        The bundle's folder.

    Raises:
        ClcpError: The bundle or the recordings cannot be read, or are too few.
    """
    options = FitOptions(false_alarm_interval_h, corruptions, seed=seed)
    _ = options.families  # a typing error shall not cost a pass over the frames
    found = load_bundle(bundle)
    segmenter = Segmenter(found, ['CPUExecutionProvider'])
    out = out or bundle
    cache = out.with_name(f'.{out.name}.monitor')
    if site:
        if data or bags or pairs or calibration:
            raise ClcpError('--site calibrates on nothing but the site; leave the others out')
        knowledge, card = _site(found, segmenter, site, image_topic, cache)
    else:
        domain = _domain(
            found, data, split, conditions, calibration, layout, bags, pairs, image_topic,
            max_frames,
        )  # fmt: skip
        fit = fit_knowledge(
            segmenter, domain, options, model_sha256=found.sha256[bundle_files.MODEL], cache=cache
        )
        knowledge, card = fit.knowledge, fit.card
    _write(found, out, knowledge, card)
    shutil.rmtree(cache, ignore_errors=True)
    print(f'wrote {out}, whose monitor is new:')
    for line in summary(card):
        print(f'  {line}')
    for text in (card['site'] or {}).get('warnings', []):
        print(f'  warning: {text}')
    if reservation := knowledge.reservation():
        print(f'the node will say at start: {reservation}')
    return out


def _domain(
    bundle: Bundle,
    data: Path | None,
    split: str,
    conditions: str,
    calibration: str,
    layout: str,
    bags: str,
    pairs: str,
    image_topic: str | None,
    most: int,
) -> Domain:
    trained: dict[str, Any] = bundle.provenance.get('data') or {}
    wanted = [c.strip() for c in conditions.split(',') if c.strip()]
    nominal = wanted or list(trained.get('conditions', []))
    paths = ','.join(p for p in (bags, pairs) if p)
    recordings = nominal_sources(paths, nominal, image_topic) if paths else ()
    drives = len({s.drive for s in recordings})
    first = Path(pairs.split(',')[0].strip()) if pairs else None
    if data is None and trained.get('name') == DATA.name and trained.get('simulated'):
        data = DATA if DATA.is_dir() or not recordings else None
    if data is None and not recordings:
        raise ClcpError(
            f'{bundle.path}: was trained on {trained.get("name", "data that it does not name")}; '
            'say where that is with --data, or give nominal recordings with --bags or --pairs'
        )
    if data is None:
        part = 'each' if drives >= MANY_DRIVES else 'each third of a drive'
        how = f'{drives} recorded drives, {part} left out in turn'
        note = 'the reference was fitted on recordings, not on frames of the training'
        print('warning: without labelled frames (--data) the monitor cannot tell an expected mIoU')
        return Domain(
            recordings, pairs=first, conditions=tuple(nominal), how=how, notes=(note,)
        )  # fmt: skip
    chosen = labelled_domain(
        data, bundle.classes, trained, split, conditions, calibration, layout, most
    ).domain
    if not recordings:
        return chosen
    if chosen.calibration:
        raise ClcpError('scale and thresholds come of --calibration or of recordings, not of both')
    how = f'calibrated on {drives} recorded drives'
    return replace(
        chosen, calibration=recordings, pairs=first, conditions=tuple(nominal), how=how
    )  # fmt: skip


def _site(
    bundle: Bundle, segmenter: Segmenter, site: str, image_topic: str | None, cache: Path
) -> tuple[Knowledge, dict[str, Any]]:
    sha256 = bundle.sha256[bundle_files.MODEL]
    before = Knowledge.of_bundle(bundle)
    card = read_card(bundle)
    if not card:
        raise ClcpError(f'{bundle.path}: its monitor has no card; fit it first, without --site')
    samples = read_samples(segmenter, nominal_sources(site, (), image_topic), sha256, cache)
    names = ', '.join(Path(p.strip()).name for p in site.split(',') if p.strip())
    knowledge, figures = calibrate_site(before, samples, names)
    return knowledge, {**card, 'site': figures}


def _write(bundle: Bundle, out: Path, knowledge: Knowledge, card: dict[str, Any]) -> None:
    with atomic_path(out) as folder:
        shutil.copytree(bundle.path, folder)
        write_monitor(folder, knowledge, card)
        provenance = {**bundle.provenance, 'monitor': card['data']['scale_and_thresholds']}
        write_description(
            folder, name=bundle.name, classes=bundle.classes, input_spec=bundle.input,
            provenance=provenance, tiling=bundle.tiling,
        )  # fmt: skip
        load_bundle(folder)


if __name__ == '__main__':
    run_command(fit_monitor)
    next_step('python training/replay.py YOUR_BAG --bundle YOUR_BUNDLE   (docs/monitor.md)')
