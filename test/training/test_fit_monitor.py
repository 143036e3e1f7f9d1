# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clcp_ros.bundle import MODEL, load_bundle
from clcp_ros.errors import BundleError, ClcpError, LabelError, ModelError, RecordingError
from clcp_ros.inference import Segmenter
from clcp_ros.monitor.harm import FEATURES
from clcp_ros.monitor.knowledge import MOST_BYTES, Knowledge
from training.export import export
from training.fit_monitor import fit_monitor
from training.frames_to_bag import frames_to_bag
from training.monitoring import degraded, reader
from training.monitoring.card import read_card
from training.monitoring.domain import nominal_sources
from training.monitoring.samples import Item, Samples, collect
from training.monitoring.site import MOST_MOVED, calibrate_site

FEW = 'fog,night,noise'


@pytest.fixture(scope='module')
def plain_bundle(
    toy_model: Path, toy_cityscapes: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A bundle whose monitor knows novelty alone."""
    out = tmp_path_factory.mktemp('plain') / 'bundle'
    return export(toy_model, toy_cityscapes, out, corruptions='none')


@pytest.fixture(scope='module')
def bags(toy_cityscapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four nominal drives, at four frames a second, without labels."""
    folder = tmp_path_factory.mktemp('bags')
    for city in ('train/a-clear', 'train/b-clear', 'val/d-clear'):
        frames = toy_cityscapes / 'leftImg8bit' / city
        frames_to_bag([str(frames)], folder / Path(city).name, rate_hz=2.0)
    both = [str(toy_cityscapes / 'leftImg8bit/train' / c) for c in ('b-clear', 'a-clear')]
    frames_to_bag(both, folder / 'both', rate_hz=2.0)
    return folder


def knowledge_of(folder: Path) -> Knowledge:
    bundle = load_bundle(folder)
    return Knowledge.load(bundle.reference_path, bundle.sha256[MODEL])


def test_everything_is_fitted_and_the_card_says_how(
    plain_bundle: Path, toy_cityscapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = knowledge_of(plain_bundle)
    assert before.kinds is None
    out = fit_monitor(
        plain_bundle, toy_cityscapes, corruptions=FEW, false_alarm_interval_h=2,
        out=tmp_path / 'b',
    )  # fmt: skip
    known, card = knowledge_of(out), read_card(load_bundle(out))
    assert known.harm is not None
    assert known.kinds is not None
    assert known.facts.interval_h == 2
    # Two drives are too few to leave one out: nothing is claimed.
    assert math.isnan(known.facts.supported_h)
    assert card['false_alarms']['supported_interval_h'] is None
    assert 'nobody has counted' in card['false_alarms']['reservation']
    assert card['data']['corruptions']['families'] == FEW.split(',')
    assert card['ladder']['auroc']['5'] > 0.9
    assert any('alignment' in text for text in card['not_fitted'])
    assert any('trained on' in text for text in card['notes'])
    printed = capsys.readouterr().out
    assert 'the node will say at start' in printed
    text = (out / 'monitor_card.md').read_text()
    assert '| fog |' in text
    assert 'None' not in text
    assert 'nan' not in text
    assert (out / 'reference.npz').stat().st_size < MOST_BYTES
    # Nothing is left beside it, and the old bundle is as it was.
    assert sorted(p.name for p in tmp_path.iterdir()) == ['b']
    assert knowledge_of(plain_bundle).kinds is None


def test_unlabelled_bags_alone_are_enough(
    plain_bundle: Path, bags: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = fit_monitor(plain_bundle, bags=str(bags), corruptions='none', out=tmp_path / 'b')
    assert 'without labelled frames (--data) the monitor cannot' in capsys.readouterr().out
    known, card = knowledge_of(out), read_card(load_bundle(out))
    assert known.harm is None
    assert known.facts.drives == 4
    assert known.facts.hours == pytest.approx((3 * 12 + 24) * 0.5 / 3600, rel=0.05)
    assert known.facts.supported_h == pytest.approx(known.facts.hours / 3, rel=0.01)
    assert 'stamps' in known.facts.hours_from
    assert any('no labelled frames' in text for text in card['not_fitted'])
    assert any('on recordings' in text for text in card['notes'])
    whole = card['false_alarms']['whole_monitor']
    assert (whole['expected_miou'], whole['drives'], whole['alarms']) == (False, 4, 0)
    assert 'expected mIoU was not fitted' in (out / 'monitor_card.md').read_text()


def test_bags_calibrate_what_training_frames_taught(
    plain_bundle: Path, toy_cityscapes: Path, bags: Path, tmp_path: Path
) -> None:
    data = tmp_path / 'data'
    for folder in ('leftImg8bit', 'gtFine'):
        shutil.copytree(toy_cityscapes / folder / 'train/a-clear', data / folder / 'train/x-clear')
    paths = ','.join(str(bags / name) for name in ('both', 'd-clear'))
    out = fit_monitor(plain_bundle, data, bags=paths, corruptions='none', out=tmp_path / 'b')
    card = read_card(load_bundle(out))
    assert card['data']['calibration']['drives'] == ['both', 'd-clear']
    assert card['data']['fit']['drives'] == ['x-clear']
    assert card['data']['scale_and_thresholds'] == 'calibrated on 2 recorded drives'


def test_the_expected_miou_reads_the_novelty_of_drives_that_are_new_to_it(
    plain_bundle: Path, toy_cityscapes: Path, tmp_path: Path
) -> None:
    cities = {'train/a-clear': 'train/x-clear', 'train/b-clear': 'val/y-clear',
              'val/d-clear': 'val/z-clear'}  # fmt: skip
    for folder in ('leftImg8bit', 'gtFine'):
        for there, here in cities.items():
            shutil.copytree(toy_cityscapes / folder / there, tmp_path / 'data' / folder / here)
    out = fit_monitor(
        plain_bundle, tmp_path / 'data', corruptions='fog,night,noise,dirt', out=tmp_path / 'b'
    )
    card, harm = read_card(load_bundle(out)), knowledge_of(out).harm
    assert card['data']['labelled']['drives'] == ['y-clear', 'z-clear']
    # The image statistics know the corruptions; the last features, which the map reads, do not.
    assert card['novelty']['direction']
    assert harm is not None
    deep = FEATURES.index('deep')
    assert harm.highest[deep] > harm.lowest[deep]
    assert not any('distance from the training domain' in text for text in card['not_fitted'])


def test_the_card_counts_what_the_whole_monitor_says(
    plain_bundle: Path,
    toy_cityscapes: Path,
    bags: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = tmp_path / 'data'
    for folder in ('leftImg8bit', 'gtFine'):
        shutil.copytree(toy_cityscapes / folder / 'train/a-clear', data / folder / 'train/x-clear')
    paths = ','.join(str(bags / name) for name in ('both', 'd-clear'))
    out = fit_monitor(plain_bundle, data, bags=paths, corruptions=FEW, out=tmp_path / 'b')
    whole = read_card(load_bundle(out))['false_alarms']['whole_monitor']
    assert whole['expected_miou']
    assert whole['drives'] == 2
    assert whole['hours'] == pytest.approx((12 + 24) * 0.5 / 3600, rel=0.05)
    assert whole['novelty_alarms'] <= whole['alarms'] < 4
    assert not whole['miou_knows_drives']
    assert 'false alarms of all, expected mIoU included' in capsys.readouterr().out
    text = (out / 'monitor_card.md').read_text()
    assert 'What is supported is counted of novelty alone' in text
    assert 'frames of held-out drives an mIoU of' in text
    assert 'With the expected mIoU the level rose to WARN or ERROR' in text


@pytest.mark.filterwarnings('ignore:overflow')
def test_a_site_moves_location_and_scale_within_limits_and_never_the_reference(
    plain_bundle: Path, toy_cityscapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('training.monitoring.site.MIN_FRAMES', 12)
    before = knowledge_of(plain_bundle)
    sites = {}
    for city in ('a-clear', 'c-night'):
        folder = tmp_path / city
        shutil.copytree(
            toy_cityscapes / 'leftImg8bit/train' / city, folder / 'leftImg8bit/train' / city
        )
        out = fit_monitor(plain_bundle, site=str(folder), out=tmp_path / f'{city}-bundle')
        known, figures = knowledge_of(out), read_card(load_bundle(out))['site']
        assert known.sequential == before.sequential
        for tap in ('low', 'early', 'deep'):
            old, new = getattr(before.novelty, tap), getattr(known.novelty, tap)
            for a, b in zip(old.measures, new.measures, strict=True):
                for name, array in a.arrays().items():
                    np.testing.assert_array_equal(array, b.arrays()[name])
            moved = np.abs(new.location - old.location) / old.spread
            assert (moved <= MOST_MOVED + 1e-9).all()
            assert (new.spread <= 2 * old.spread + 1e-9).all()
            assert (new.spread >= old.spread / 2 - 1e-9).all()
        sites[city] = figures
    # Night cannot be calibrated away, and the user is told so.
    assert any('farther from the training domain' in w for w in sites['c-night']['warnings'])
    assert not any('farther' in w for w in sites['a-clear']['warnings'])
    assert sites['c-night']['mean_novelty'] > 4
    assert abs(sites['a-clear']['mean_novelty']) < 1
    again = tmp_path / 'c-night-bundle'
    with pytest.raises(ModelError, match='calibrated on a site already'):
        fit_monitor(again, site=str(tmp_path / 'a-clear'))
    low = replace(before.novelty.low, location=np.full_like(before.novelty.low.location, -1e300))
    low = replace(low, spread=np.full_like(low.spread, 1e-300))
    broken = replace(before, novelty=replace(before.novelty, low=low))
    frames = collect(
        Segmenter(load_bundle(plain_bundle)),
        [item for s in nominal_sources(str(tmp_path / 'a-clear'), (), None) for item in s.read()],
    )
    with pytest.raises(ModelError, match='no finite scores'):
        calibrate_site(broken, frames, 'a')


def interrupt_night(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Titles of what is described from now on; the first corruption to night is interrupted."""
    calls: list[str] = []
    collect = reader.collect

    def interrupted(
        segmenter: Segmenter, items: Iterable[Item], title: str, *options: Any
    ) -> Samples:
        calls.append(title)
        if calls.count('monitor: night') == 1 and title == 'monitor: night':
            raise KeyboardInterrupt
        return collect(segmenter, items, title, *options)

    monkeypatch.setattr(reader, 'collect', interrupted)
    return calls


def test_an_interrupted_fit_leaves_the_bundle_and_goes_on(
    plain_bundle: Path, toy_cityscapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = shutil.copytree(plain_bundle, tmp_path / 'bundle')
    written = (bundle / 'bundle.json').read_bytes()
    calls = interrupt_night(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        fit_monitor(bundle, toy_cityscapes, corruptions=FEW)
    assert (bundle / 'bundle.json').read_bytes() == written
    fit_monitor(bundle, toy_cityscapes, corruptions=FEW)
    # What was described before was not described again.
    assert len(set(calls)) == len(calls) - 1
    assert knowledge_of(bundle).kinds is not None
    assert sorted(p.name for p in tmp_path.iterdir()) == ['bundle']


def test_corruptions_that_have_changed_are_described_anew(
    plain_bundle: Path, toy_cityscapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = shutil.copytree(plain_bundle, tmp_path / 'bundle')
    calls = interrupt_night(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        fit_monitor(bundle, toy_cityscapes, corruptions=FEW)
    monkeypatch.setattr(degraded, 'VERSION', degraded.VERSION + 1)
    fit_monitor(bundle, toy_cityscapes, corruptions=FEW)
    twice = [title for title in dict.fromkeys(calls) if calls.count(title) == 2]
    assert twice == ['monitor: fog', 'monitor: night']


def test_the_same_frames_give_the_same_file(
    plain_bundle: Path, toy_cityscapes: Path, tmp_path: Path
) -> None:
    files = []
    for name in 'ab':
        out = fit_monitor(plain_bundle, toy_cityscapes, corruptions='fog', out=tmp_path / name)
        files.append([(out / f).read_bytes() for f in ('reference.npz', 'monitor_card.json')])
    assert files[0] == files[1]


def test_a_card_that_was_changed_is_refused(plain_bundle: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(plain_bundle, tmp_path / 'b')
    card = json.loads((folder / 'monitor_card.json').read_text())
    card['false_alarms']['supported_interval_h'] = 1000
    (folder / 'monitor_card.json').write_text(json.dumps(card))
    with pytest.raises(BundleError, match=r'monitor_card\.json: hash'):
        load_bundle(folder)


def test_mistakes_are_told_before_any_work(
    plain_bundle: Path, toy_cityscapes: Path, tmp_path: Path
) -> None:
    written = (plain_bundle / 'bundle.json').read_bytes()
    for error, says, arguments in (
        (ModelError, 'no corruption .sun', {'corruptions': 'sun'}),
        (ModelError, 'must be positive', {'false_alarm_interval_h': -1}),
        (RecordingError, 'neither a bag', {'bags': str(tmp_path)}),
        (ClcpError, 'say where that is with --data', {}),
        (ClcpError, 'nothing but the site', {'site': 'x', 'bags': 'y'}),
        (LabelError, 'no condition|no frames of condition', {
            'data': toy_cityscapes, 'conditions': 'fog'}),
    ):  # fmt: skip
        with pytest.raises(error, match=says):
            fit_monitor(plain_bundle, **arguments)
    assert (plain_bundle / 'bundle.json').read_bytes() == written
    assert [p.name for p in plain_bundle.parent.iterdir()] == ['bundle']
