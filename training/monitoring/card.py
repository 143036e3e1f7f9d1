# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The monitor card: what a monitor was fitted on, and how far it can be believed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clcp_ros import bundle as bundle_files
from clcp_ros.bundle import Bundle
from clcp_ros.errors import BundleError
from clcp_ros.monitor.knowledge import Knowledge

VERSION = 1
"""Of `monitor_card.json`."""


def write_monitor(folder: Path, knowledge: Knowledge, card: dict[str, Any]) -> None:
    """Write the monitor's files of a bundle.

    Args:
        folder: The bundle's folder, before its description is written.
        knowledge: What the monitor knows.
        card: How it came to be; JSON values.
    """
    knowledge.save(folder / bundle_files.REFERENCE)
    text = json.dumps({'version': VERSION, **card}, indent=1, allow_nan=False)
    (folder / bundle_files.CARD).write_text(text + '\n')
    (folder / bundle_files.CARD_TEXT).write_text(render(card))


def read_card(bundle: Bundle) -> dict[str, Any]:
    """The card of a bundle; empty without one.

    Raises:
        BundleError: It is of another version.
    """
    if bundle.card_path is None:
        return {}
    card = json.loads(bundle.card_path.read_text())
    if card.pop('version', None) != VERSION:
        raise BundleError(f'{bundle.card_path}: not a card of this release; export again')
    return card


def render(card: dict[str, Any]) -> str:
    """The card for people, as Markdown.

    Args:
        card: As `write_monitor` takes it.
    """
    parts = [
        ['# Monitor card', '', f'Of the model {card["model_sha256"][:12]}.', ''],
        _data(card['data']),
        _alarms(card['false_alarms']),
        _ladder(card['ladder']),
        _harm(card['harm'], card['ladder']),
        _nominal(card.get('nominal')) if card['harm'] else [],
        _kinds(card['kinds']),
        _alignment(card['alignment']),
        _site(card['site']),
        _list('What was not fitted', card['not_fitted']),
        _list('What is to be known', card['notes']),
    ]
    return '\n'.join(line for part in parts for line in part)


def summary(card: dict[str, Any]) -> list[str]:
    """The card in a few lines."""
    alarms = card['false_alarms']
    lines = [
        f'false alarms of novelty: asked for one in {_n(alarms["asked_interval_h"])} h of one '
        'camera; '
        + (
            f'{_n(alarms["hours"])} h of {alarms["drives"]} drives with {alarms["alarms"]} alarms '
            f'support one in {_n(alarms["supported_interval_h"])} h'
            if alarms['supported_interval_h'] is not None
            else 'no drives were left out that could support it'
        )
    ]
    whole = alarms.get('whole_monitor')
    if whole and whole['drives'] and whole['expected_miou']:
        lines.append(
            f'false alarms of all, expected mIoU included: {whole["alarms"]} in '
            f'{_n(whole["hours"])} h of these drives'
        )
    if auroc := card['ladder'].get('auroc'):
        found = ', '.join(f'{_n(v)} at severity {k}' for k, v in auroc.items())
        lines.append(f'corruptions told from held-out drives, AUROC of one frame: {found}')
    if (harm := card['harm']) and (last := _largest_window(harm)):
        lines.append(
            f'expected mIoU: off by {_n(last["mae"])} on average over {last["frames"]} frames of '
            'corruptions that it was not fitted on'
        )
    if kinds := card['kinds']:
        lines.append(f'kinds: right in {_accuracies(kinds)}')
    return lines + [f'not fitted: {text}' for text in card['not_fitted']]


def _data(data: dict[str, Any]) -> list[str]:
    rows = [
        f'| {what} | {entry["frames"]} | {len(entry["drives"])} | {_few(entry["drives"])} |'
        for what, entry in (
            ('fit of the training domain', data['fit']),
            ('scale and thresholds', data['calibration']),
            ('labelled, for the expected mIoU', data['labelled']),
        )
        if entry['frames']
    ]
    corruptions = data['corruptions']
    return [
        '## Frames', '', '| for | frames | drives | which |', '|---|---|---|---|', *rows, '',
        f'Scale and thresholds: {data["scale_and_thresholds"]}. '
        f'{corruptions["frames"]} frames were degraded by {len(corruptions["families"])} families '
        f'of corruptions ({", ".join(corruptions["families"]) or "none"}).', '',
    ]  # fmt: skip


def _alarms(alarms: dict[str, Any]) -> list[str]:
    supported = alarms['supported_interval_h']
    limits = alarms['thresholds']
    rows = [
        f'| {d["drive"]} | {_n(d["hours"])} | {_n(d["mean_novelty"])} | '
        f'{_n(d["largest_novelty"])} | {d["alarms"]} |'
        for d in alarms['by_drive']
    ]
    return [
        '## False alarms', '',
        f'Asked for: one in {_n(alarms["asked_interval_h"])} h of one camera. '
        + (
            f'Supported by the drives, with 95 % confidence: one in {_n(supported)} h '
            f'({alarms["alarms"]} false alarms in {_n(alarms["hours"])} h of {alarms["drives"]} '
            'drives, each with thresholds from the others).'
            if supported is not None
            else 'Supported by the drives: nothing, since no whole drive was left out.'
        ),
        f'Hours were counted from {alarms["hours_from"]}.', '',
        'What is supported is counted of novelty alone: a camera that is partly covered, and '
        'image and lidar that do not fit, have no such budget.'
        + _whole(alarms.get('whole_monitor')), '',
        f'Thresholds: novelty counts beyond k = {_n(limits["k"])} sd'
        + (f', by {_n(limits["limit"])} sd at most' if limits.get('limit', 1e3) < 100 else '')
        + f', the alarm comes at a sum of h = {_n(limits["h"])} sd s, or after two innovations '
        f'beyond c = {_n(limits["c"])} sd ({_n(limits["c_lasting"])} of what lasts for '
        f'{_n(limits["lasting_s"])} s). '
        f'Correlation over a second {_n(alarms["rho_1s"])} ({alarms["autocorrelation"]}); drives '
        f'differ by {_n(alarms["drive_to_drive_sd"])} sd.', '',
        '| drive | hours | mean novelty | largest | false alarms |', '|---|---|---|---|---|',
        *rows, '',
    ]  # fmt: skip


def _whole(whole: dict[str, Any] | None) -> str:
    """What the whole monitor said of the drives, as sentences."""
    if not whole:
        return ''
    if not whole['drives']:
        return ' They could not be counted: no drive was left out whose frames follow each other.'
    if not whole['expected_miou']:
        return ' The expected mIoU was not fitted, so that it warns of nothing.'
    supported = whole['supported_interval_h']
    knows = ' It was fitted on some of these drives, which flatters it.'
    return (
        f' With the expected mIoU the level rose to WARN or ERROR {whole["alarms"]} times in '
        f'{_n(whole["hours"])} h of {whole["drives"]} drives, {whole["errors"]} times to ERROR; '
        f'with novelty alone {whole["novelty_alarms"]} times'
        + (f'. That supports one in {_n(supported)} h.' if supported is not None else '.')
        + (knows if whole['miou_knows_drives'] else '')
    )


def _ladder(ladder: dict[str, Any]) -> list[str]:
    if not ladder:
        return []
    severities = sorted({t['severity'] for t in ladder['tags']})
    families = list(dict.fromkeys(t['family'] for t in ladder['tags']))
    by_tag = {(t['family'], t['severity']): t for t in ladder['tags']}
    head = ' | '.join(f'AUROC {s} | mIoU lost {s}' for s in severities)
    rows = [
        f'| {family} | '
        + ' | '.join(
            f'{_n(by_tag[family, s]["auroc"])} | {_n(by_tag[family, s]["drop"])}'
            for s in severities
        )
        + ' |'
        for family in families
    ]
    total = ' | '.join(f'{_n(ladder["auroc"][str(s)])} | ' for s in severities)
    return [
        '## Corruptions', '',
        'How well one frame is told from held-out drives of the training domain, and what the '
        'corruption costs, by severity. Corruptions are models of bad weather and bad cameras, '
        'not the things themselves.', '',
        f'| family | {head} |', '|---|' + '---|---|' * len(severities), f'| all | {total} |',
        *rows, '',
    ]  # fmt: skip


def _harm(harm: dict[str, Any] | None, ladder: dict[str, Any]) -> list[str]:
    if not harm:
        return []
    rows = [
        f'| {name.partition("_")[0]} | {_n(f["mae"])} | {_n(f["bias"])} | {_n(f["correlation"])} |'
        for name, f in harm.items()
        if isinstance(f, dict) and 'mae' in f
    ]
    source = ladder.get('source_miou')
    return [
        '## Expected mIoU', '',
        f'On the labelled frames as they are, the mIoU is {_n(source)}. Error of the estimate on '
        'corruptions that it was not fitted on:', '',
        '| frames in the window | mean error | bias | correlation |', '|---|---|---|---|',
        *rows, '',
    ]  # fmt: skip


def _nominal(nominal: dict[str, Any] | None) -> list[str]:
    """What the expected mIoU says of drives on which nothing happens."""
    if not nominal:
        return ['No drive was left out whose frames follow each other, so that a drop is one '
                'against the labelled frames.', '']  # fmt: skip
    return [
        f'Of windows of {_few([_n(n) for n in nominal["frames"]])} frames of held-out drives an '
        f'mIoU of {_few([_n(v) for v in nominal["expected_miou"]])} is expected, where the labels '
        f'gave {_few([_n(v) for v in nominal["miou_of_labels"]])}: a drop is one against the '
        f'former. From {_n(nominal["drop_that_warns_by_itself"])} on it warns by itself; smaller '
        'ones come on these drives, too.', '',
    ]  # fmt: skip


def _kinds(kinds: dict[str, Any] | None) -> list[str]:
    if not kinds:
        return []
    return [
        '## Kinds', '',
        f'Right on drives that were left out: {_accuracies(kinds)} (mean over kinds).', '',
    ]  # fmt: skip


def _alignment(alignment: dict[str, Any] | None) -> list[str]:
    if not alignment:
        return []
    rows = [f'- {name}: {_n(value)}' for name, value in alignment.items()]
    return ['## Image and lidar', '', *rows, '']


def _site(site: dict[str, Any] | None) -> list[str]:
    if not site:
        return []
    return [
        '## Site', '',
        f'Calibrated on {site["frames"]} frames ({_n(site["hours"])} h, {site["from"]}); the '
        'reference did not move.', '',
        '| measure | location moved (sd) | scale times |', '|---|---|---|',
        *(f'| {m["tap"]} | {_n(m["moved"])} of {_n(m["wanted"])} | {_n(m["scaled"])} |'
          for m in site['measures']),
        '', *(f'{text}.' for text in site['warnings']), '',
    ]  # fmt: skip


def _list(title: str, texts: list[str]) -> list[str]:
    return [f'## {title}', '', *(f'- {text}' for text in texts), ''] if texts else []


def _accuracies(kinds: dict[str, Any]) -> str:
    found = kinds.get('accuracy', {})
    if not isinstance(found, dict):
        return _n(found)
    return ', '.join(f'{_n(value)} at severity {key}' for key, value in found.items())


def _largest_window(harm: dict[str, Any]) -> dict[str, Any] | None:
    sizes = [n for n in harm if n.endswith('_frames') and 'mae' in (harm[n] or {})]
    if not sizes:
        return None
    largest = max(sizes, key=lambda name: int(name.partition('_')[0]))
    return {**harm[largest], 'frames': int(largest.partition('_')[0])}


def _few(names: list[str]) -> str:
    shown = ', '.join(names[:6])
    return shown if len(names) <= 6 else f'{shown} and {len(names) - 6} more'


def _n(value: Any) -> str:
    """A figure in three digits; a dash for what is not known."""
    if value is None:
        return '-'
    return f'{value:.3g}' if isinstance(value, (int, float)) else str(value)
