# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Fits all that the monitor of a bundle knows and writes down how far it can be believed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import roc_auc_score

from clcp_ros.errors import ClcpError, ModelError
from clcp_ros.inference import Segmenter
from clcp_ros.monitor.close import CloseReference
from clcp_ros.monitor.config import MonitorConfig
from clcp_ros.monitor.knowledge import Facts, Knowledge
from clcp_ros.monitor.reference import ShiftReference
from clcp_ros.replay_scores import mean_iou
from training.monitoring.alignment import fit_alignment_on_pairs
from training.monitoring.corruptions import FAMILIES
from training.monitoring.degraded import SEVERITIES, describe_degraded
from training.monitoring.domain import Domain, drive_of, thirds
from training.monitoring.harm import fit_harm, fit_temperature
from training.monitoring.kinds import describe, fit_described, kind_figures
from training.monitoring.nominal import (
    SHARE,
    Nominal,
    judged_series,
    nominal_drives,
    nominal_of,
)
from training.monitoring.novelty import MIN_FRAMES, NoveltyFit, Series, fit_novelty, novelty_of
from training.monitoring.reader import Reader
from training.monitoring.run_length import RunLength, solve
from training.monitoring.samples import Samples
from training.monitoring.verdicts import verdict_figures

TOLERATED_DROP = 0.05
"""Loss of mIoU that is not worth an alarm."""

HARMFUL_DROP = 0.10
"""Loss of mIoU that has to be found."""


@dataclass(frozen=True)
class FitOptions:
    """What is asked of a fit.

    Attributes:
        false_alarm_interval_h: Hours of normal driving between two false alarms of one camera.
        corruptions: `all`, `none`, or names of families with commas: what the estimate of harm and
            the kinds are learned from.
        degraded_frames: About how many frames are degraded for that.
        seed: Of whatever is drawn.
    """

    false_alarm_interval_h: float = 8.0
    corruptions: str = 'all'
    degraded_frames: int = 2640
    seed: int = 0

    @property
    def families(self) -> tuple[str, ...]:
        """Families of corruptions.

        Raises:
            ModelError: There is no such family, or the interval is not positive.
        """
        if not (self.false_alarm_interval_h > 0 and math.isfinite(self.false_alarm_interval_h)):
            raise ModelError('the interval between false alarms must be positive, in hours')
        if self.corruptions in ('all', 'none'):
            return tuple(FAMILIES) if self.corruptions == 'all' else ()
        chosen = tuple(f.strip() for f in self.corruptions.split(',') if f.strip())
        if unknown := [f for f in chosen if f not in FAMILIES]:
            raise ModelError(f'no corruption {unknown[0]!r}; there are {", ".join(FAMILIES)}')
        return chosen


@dataclass(frozen=True)
class MonitorFit:
    """What the monitor of a bundle is to know.

    Attributes:
        knowledge: For the bundle.
        card: How it came to be and how far it can be believed; JSON values.
    """

    knowledge: Knowledge
    card: dict[str, Any]


def fit_knowledge(
    segmenter: Segmenter,
    domain: Domain,
    options: FitOptions | None = None,
    *,
    model_sha256: str,
    cache: Path | None = None,
) -> MonitorFit:
    """Fit every part that the frames allow.

    Args:
        segmenter: Of the bundle.
        domain: Nominal frames.
        options: What is asked.
        model_sha256: Hash of the bundle's model.
        cache: Folder in which described frames are kept, so that an interrupted fit goes on.

    Returns:
        The knowledge and its card.

    Raises:
        ModelError: There are too few frames, or the network gives NaN.
    """
    options = options or FitOptions()
    families = options.families
    reader = Reader(segmenter, model_sha256, cache)
    labelled = reader.all(domain.labelled, 'monitor: labelled frames', logits=True)
    # What the expected mIoU reads of held-out frames, to count the warnings that it gives there.
    soft = None if labelled is None else fit_temperature(labelled.take(labelled.labelled))
    held_out_too = None if domain.calibration else soft
    fit = reader.all(domain.fit, 'monitor: training frames', temperature=held_out_too)
    if fit is None:
        raise ModelError('there are no frames of the training domain to fit the monitor on')
    calibration = reader.all(domain.calibration, 'monitor: other drives', temperature=soft)
    clean = fit if labelled is None else labelled
    degraded = list(
        describe_degraded(
            reader, domain.labelled or domain.fit, families,
            frames=options.degraded_frames, logits=bool(domain.labelled), seed=options.seed,
        )
    )  # fmt: skip
    left_out = replace(fit, drive=thirds(fit.drive)) if domain.thirds else fit
    novelty = _novelty(left_out, calibration, labelled, degraded)
    missing: list[str] = []
    # Frames that novelty was fitted on look more ordinary than any new street will. That it has
    # seen the corruptions is no harm: of its scores the map reads that of the last features, and
    # only the image statistics look where corruptions lie.
    familiar = labelled is not None and bool(set(labelled.drives) & set(fit.drives))
    nominal, scores = _unseen(novelty, fit, calibration, labelled, degraded)
    ladder = _ladder(nominal, scores, labelled, degraded)
    harm = _harm(labelled, degraded, None if familiar else novelty.reference, missing)
    held_out = left_out if calibration is None else calibration
    close = CloseReference.of(segmenter.bundle.classes.names)
    series = novelty.series if close is None else judged_series(novelty.series, held_out, close)
    run = _thresholds(series, domain, options, ladder, harm[0] is not None)
    parts = {
        'harm': harm,
        'kinds': _kinds(clean, degraded, missing),
        'alignment': _alignment(domain, segmenter, missing),
    }
    facts = Facts(
        model_sha256=model_sha256, interval_h=run.interval_h, supported_h=run.supported_h,
        hours=run.hours, drives=run.drives, alarms=run.alarms, slope_h=run.slope_h,
        slope_c=run.slope_c, hours_from=run.hours_from, static=reader.static(domain.fit),
        preprocessing_sha256=segmenter.bundle.preprocessing_sha256,
    )  # fmt: skip
    knowledge = Knowledge(
        novelty=novelty.reference,
        sequential=run.reference,
        facts=facts,
        close=close,
        **{name: part for name, (part, _) in parts.items()},
    )
    taps = novelty.reference if knowledge.harm is not None and not familiar else None
    knowledge, verdicts, usual = _with_nominal(
        knowledge, held_out, novelty, run, taps, options.false_alarm_interval_h
    )
    if domain.thirds:
        verdicts['supported_interval_h'] = math.nan
    learned = set() if labelled is None else set(labelled.drives)
    verdicts['miou_knows_drives'] = bool(learned & {drive_of(d) for d in held_out.drives})
    notes = list(domain.notes)
    if novelty.figures.get('direction'):
        notes.append(
            'the image statistics look where these families of corruptions lie, as found on other '
            'drives: other degradations may be seen later than the table says'
        )
    if domain.labelled and domain.labels_seen:
        notes.append(
            'the network was trained on the labelled frames that the expected mIoU was fitted on: '
            'what it expects is too high for new streets'
        )
    card = {
        'model_sha256': model_sha256,
        'data': {
            'scale_and_thresholds': domain.how,
            'fit': _counted(fit),
            'calibration': _counted(calibration),
            'labelled': _counted(labelled),
            'corruptions': {
                'families': list(families),
                'severities': list(SEVERITIES),
                'frames': sum(len(part) for part in degraded),
            },
        },
        'false_alarms': {**_false_alarms(run, knowledge), 'whole_monitor': verdicts},
        'nominal': usual,
        'novelty': novelty.figures,
        'ladder': ladder.figures,
        **{name: figures for name, (_, figures) in parts.items()},
        'site': None,
        'not_fitted': missing,
        'notes': notes,
    }
    return MonitorFit(knowledge, _plain(card))


def _novelty(
    fit: Samples,
    calibration: Samples | None,
    labelled: Samples | None,
    degraded: Sequence[Samples],
) -> NoveltyFit:
    if not degraded:
        return fit_novelty(fit, calibration)
    # Not where their drives are in the fit, whole or in thirds: there they are counted already.
    new = labelled is not None and not set(labelled.drives) & {drive_of(d) for d in fit.drives}
    bare = Samples.concat([replace(p, logits=None, confusion=None) for p in degraded])
    return fit_novelty(fit, calibration, degraded=bare, clean=labelled if new else None)


@dataclass(frozen=True)
class _Ladder:
    """What corruptions cost and how novel they are.

    Attributes:
        tolerated: Novelty up to which the loss of mIoU is tolerated; 0 where unknown.
        harmful: Novelty at which it is harmful; None where unknown.
        figures: For the card.
    """

    tolerated: float
    harmful: float | None
    figures: dict[str, Any]


def _unseen(
    novelty: NoveltyFit,
    fit: Samples,
    calibration: Samples | None,
    labelled: Samples | None,
    degraded: Sequence[Samples],
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Novelty of nominal and of degraded frames by references that do not know their drives.

    Returns:
        (M,) of nominal frames, and (N,) of each part.
    """
    scores = [novelty_of(novelty.reference, part) for part in degraded]
    nominal = np.concatenate([s.novelty for s in novelty.series])
    drives = list(dict.fromkeys(drive for part in degraded for drive in part.drives))
    found = []
    # Half of the drives judge the other half: a reference for each drive would take long.
    for own in (drives[::2], drives[1::2]):
        other = [drive for drive in drives if drive not in own]
        frames = fit.take(~np.isin(fit.drive, other))
        rest = fit.take(np.isin(fit.drive, other))
        known = [part.take(np.isin(part.drive, own)) for part in degraded]
        base = None if labelled is None else labelled.take(np.isin(labelled.drive, own))
        judges = calibration if len(rest) < MIN_FRAMES else rest
        few = judges is None and len(frames.drives) < 2
        if few or min(len(frames), sum(map(len, known))) < MIN_FRAMES:
            return nominal, scores
        judge = _novelty(frames, judges, base, known)
        found += [s.novelty for s in judge.series]
        for part, values in zip(degraded, scores, strict=True):
            rows = np.isin(part.drive, other)
            values[rows] = novelty_of(judge.reference, part.take(rows))
    return (np.concatenate(found) if found else nominal), scores


def _ladder(
    nominal: np.ndarray,
    novelty: Sequence[np.ndarray],
    labelled: Samples | None,
    degraded: Sequence[Samples],
) -> _Ladder:
    if not degraded:
        return _Ladder(0.0, None, {})
    source = math.nan if labelled is None else _miou(labelled)
    rows = []
    for part, scores in zip(degraded, novelty, strict=True):
        # Each family is shown in places of its own, which are not equally easy.
        same = math.nan if labelled is None else _miou(_same_frames(labelled, part))
        for tag in dict.fromkeys(part.tag.tolist()):
            own = part.tag == tag
            family, _, severity = tag.partition(':')
            rows.append(
                {
                    'family': family,
                    'severity': int(severity),
                    'novelty': float(scores[own].mean()),
                    'auroc': _auroc(nominal, scores[own]),
                    'drop': same - _miou(part.take(own)),
                    'scores': scores[own],
                }
            )
    figures: dict[str, Any] = {
        'negatives': 'held-out drives of the training domain',
        'auroc': {
            str(severity): _auroc(
                nominal, np.concatenate([r['scores'] for r in rows if r['severity'] == severity])
            )
            for severity in SEVERITIES
        },
        'source_miou': source,
        'tags': [{k: v for k, v in r.items() if k != 'scores'} for r in rows],
    }
    levels = [_novelty_at(rows, drop) for drop in (TOLERATED_DROP, HARMFUL_DROP)]
    return _Ladder(max(levels[0] or 0.0, 0.0), levels[1], figures)


def _same_frames(clean: Samples, part: Samples) -> Samples:
    """Those clean frames that a part holds under corruptions."""
    shown = set(zip(part.drive.tolist(), part.stamp_ns.tolist(), strict=True))
    frames = zip(clean.drive.tolist(), clean.stamp_ns.tolist(), strict=True)
    return clean.take(np.array([frame in shown for frame in frames]))


def _novelty_at(rows: Sequence[dict[str, Any]], drop: float) -> float | None:
    """Novelty at which the corruptions cost so much, by a monotonous fit."""
    known = [r for r in rows if math.isfinite(r['drop'])]
    if len(known) < 3 * len(SEVERITIES):
        return None
    x = np.array([0.0, *(r['novelty'] for r in known)])
    fitted = IsotonicRegression().fit(x, np.array([0.0, *(r['drop'] for r in known)]))
    order = np.sort(x)
    reached = fitted.predict(order) >= drop
    return float(order[np.argmax(reached)]) if reached.any() else None


def _miou(samples: Samples) -> float:
    if samples.confusion is None:
        return math.nan
    return mean_iou(samples.confusion.sum(axis=0))


def _auroc(negatives: np.ndarray, positives: np.ndarray) -> float:
    truth = np.repeat([0, 1], [len(negatives), len(positives)])
    return float(roc_auc_score(truth, np.concatenate([negatives, positives])))


def _thresholds(
    judged: Sequence[Series], domain: Domain, options: FitOptions, ladder: _Ladder, harm: bool
) -> RunLength:
    series = [Series(drive_of(s.drive), s.stamp_ns, s.novelty) for s in judged]
    # An indifference zone beyond what is to be found would find nothing.
    harmful = {} if ladder.harmful is None else {'harmful': max(ladder.harmful, 3.0)}
    run = solve(
        series, options.false_alarm_interval_h, min(ladder.tolerated, 4.0), seed=options.seed,
        share=1 - SHARE if harm else 1.0, **harmful,
    )  # fmt: skip
    if domain.thirds:
        # Every drive was in the fit of its own scores: they support nothing.
        run = replace(run, supported_h=math.nan)
    return run


def _harm(
    labelled: Samples | None,
    degraded: Sequence[Samples],
    novelty: ShiftReference | None,
    missing: list[str],
) -> tuple[Any, dict[str, Any] | None]:
    if labelled is None:
        missing.append('the expected mIoU: there are no labelled frames')
        return None, None
    try:
        found = fit_harm(labelled, degraded, novelty)
    except ModelError as error:
        missing.append(f'the expected mIoU: {error}')
        return None, None
    missing += [f'of the expected mIoU: {text}' for text in found.missing]
    return found.reference, dict(found.figures)


def _with_nominal(
    knowledge: Knowledge,
    samples: Samples,
    novelty: NoveltyFit,
    run: RunLength,
    taps: ShiftReference | None,
    interval_h: float,
) -> tuple[Knowledge, dict[str, Any], dict[str, Any] | None]:
    """Let drives that were left out say what a drop is, and what the monitor says of them.

    Returns:
        The knowledge, what was counted, and what was found of the expected mIoU.
    """
    drives = nominal_drives(knowledge, samples, novelty.series, run.left_out, taps)

    def found(without: str = '') -> Nominal:
        others = [drive for drive in drives if drive.name != without]
        if knowledge.harm is None or not others:
            return Nominal()
        return nominal_of(others, knowledge.harm, interval_h, MonitorConfig().warn_drop)

    each = {drive.name: found(without=drive.name) for drive in drives}
    verdicts = verdict_figures(knowledge, samples, novelty.series, run.left_out, taps, each)
    whole = found()
    figures = None
    if knowledge.harm is not None and whole.source is not None:
        figures = {
            'frames': knowledge.harm.sizes,
            'miou_of_labels': knowledge.harm.source,
            'expected_miou': whole.source,
            'drop_that_warns_by_itself': whole.drop,
            'drop_for_each_e_fold': whole.slope,
        }
    return whole.applied(knowledge), verdicts, figures


def _kinds(
    clean: Samples | None, degraded: Sequence[Samples], missing: list[str]
) -> tuple[Any, dict[str, Any] | None]:
    if clean is None or not degraded:
        missing.append('the kinds of degradation: there are no corruptions to learn them from')
        return None, None
    described = describe(clean, degraded)
    try:
        return fit_described(described), kind_figures(described)
    except ModelError as error:
        missing.append(f'the kinds of degradation: {error}')
        return None, None


def _alignment(
    domain: Domain, segmenter: Segmenter, missing: list[str]
) -> tuple[Any, dict[str, Any] | None]:
    if domain.pairs is None:
        missing.append('alignment of image and lidar: no pair set with scans was given')
        return None, None
    conditions = domain.conditions or ('clear', 'day')
    try:
        reference = fit_alignment_on_pairs(domain.pairs, segmenter, (*conditions, ''))
    except ClcpError as error:
        missing.append(f'alignment of image and lidar: {error}')
        return None, None
    return reference, {'pairs': domain.pairs.name}


def _counted(samples: Samples | None) -> dict[str, Any]:
    if samples is None:
        return {'drives': [], 'frames': 0}
    return {'drives': samples.drives, 'frames': len(samples)}


def _false_alarms(run: RunLength, knowledge: Knowledge) -> dict[str, Any]:
    supported = run.supported_h if math.isfinite(run.supported_h) else None
    return {
        'asked_interval_h': run.interval_h,
        'supported_interval_h': supported,
        'confidence': 0.95,
        'hours': run.hours,
        'hours_from': run.hours_from,
        'drives': run.drives,
        'alarms': run.alarms,
        'reservation': knowledge.reservation(),
        'thresholds': {
            name: float(value) for name, value in run.reference.arrays().items()
        },
        **run.figures,
    }  # fmt: skip


def _plain(value: Any) -> Any:
    """JSON types; a number that is not finite becomes null."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return round(value, 5) if math.isfinite(value) else None
    return value
