# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import csv
import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from clcp_ros.classes import CAMVID
from clcp_ros.errors import ImageError, LabelError, ModelError
from clcp_ros.inference import preprocess
from training.cli import run_command
from training.evaluate import SUBCOMMANDS, evaluate, find_models
from training.models.segmenter import load_model, save_model
from training.segmentation.frames import open_frames
from training.segmentation.inference import InferenceConfig
from training.segmentation.metrics import ConfusionMatrix


def test_figures_per_condition(
    toy_model: Path, toy_cityscapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = evaluate(toy_model, toy_cityscapes, out=tmp_path)
    assert result.source == 'clear'
    assert result.frames == {'clear': 12, 'night': 12}
    assert result.miou('clear') > 60
    assert result.rpd('night') < 0.7
    written = json.loads((tmp_path / 'evaluation.json').read_text())
    assert written['conditions']['clear']['miou'] == round(result.miou('clear'), 2)
    assert written['mean_rpd'] == round(result.rpd('night'), 4)
    assert written['simulated'] is False
    table = (tmp_path / 'evaluation.md').read_text()
    assert f'| night | 12 | {result.miou("night"):.2f} |' in table
    assert '| night | 12 |' in capsys.readouterr().out
    pictures = sorted(p.name for p in (tmp_path / 'predictions').iterdir())
    assert pictures == ['clear-1.png', 'clear-2.png', 'night-1.png', 'night-2.png']
    assert cv2.imread(str(tmp_path / 'predictions' / pictures[0])).shape == (206, 960, 3)


def test_boundaries_calibration_and_the_page(
    toy_model: Path, toy_cityscapes: Path, tmp_path: Path
) -> None:
    result = evaluate(toy_model, toy_cityscapes, out=tmp_path)
    figures = json.loads((tmp_path / 'evaluation.json').read_text())['conditions']['clear']
    assert figures['boundary_miou'] == round(100 * result.boundary['clear'].miou(), 2)
    assert 0 < figures['boundary_miou'] < 100
    assert figures['ece'] == round(100 * result.calibration['clear'].error(), 2)
    table = (tmp_path / 'evaluation.md').read_text()
    assert '| boundary mIoU | ECE |' in table
    assert '| timm-ViT-S | 68.01 | 37.93 | 0.56 | published: CLCP thesis, table 4.1 |' in table
    assert r'timm-ViT-S$^\dagger$ & 68.01' in (tmp_path / 'evaluation.tex').read_text()
    page = (tmp_path / 'evaluation.html').read_text()
    assert page.count('data:image/jpeg') == 6  # best, median and worst of two conditions
    assert 'worst: val/' in page
    assert '<script' not in page


def test_windows_see_every_pixel(
    toy_model: Path, toy_bundle: Path, toy_cityscapes: Path, tmp_path: Path
) -> None:
    whole = evaluate(toy_model, toy_cityscapes, 'val:clear', out=tmp_path, boundary=False)
    windows = InferenceConfig('slide', window=(48, 64), stride=(24, 32))
    slid = evaluate(toy_model, toy_cityscapes, 'val:clear', out=tmp_path, inference=windows)
    assert slid.matrices['clear'].counts.sum() == whole.matrices['clear'].counts.sum()
    assert slid.miou('clear') > 0.5 * whole.miou('clear')  # windows see less around a pixel
    same = InferenceConfig('slide', resize=(64, 96))  # one window: the input itself
    for model in (toy_model, toy_bundle):
        once = evaluate(model, toy_cityscapes, 'val:clear', out=tmp_path, inference=same)
        # Upsampled in two steps, to the window and to the label.
        assert once.miou('clear') == pytest.approx(whole.miou('clear'), abs=0.5)
    with pytest.raises(ModelError, match='windows of 64 x 96 only'):
        evaluate(toy_bundle, toy_cityscapes, 'val:clear', out=tmp_path, inference=windows)


def test_agrees_with_torch_upsampling_to_the_labels_size(
    toy_model: Path, toy_cityscapes: Path, tmp_path: Path
) -> None:
    """Not through the code under test but for the model, the resize and the counting."""
    loaded = load_model(toy_model)
    frames = open_frames(toy_cityscapes, 'val:clear')
    matrix = ConfusionMatrix(19)
    for frame in frames.frames:
        image, label = frames.read(frame)
        x = torch.from_numpy(preprocess(image, loaded.input)[None])
        with torch.no_grad():
            logits = loaded.model(x).logits
        upsampled = torch.nn.functional.interpolate(
            logits, size=label.shape, mode='bilinear', align_corners=False
        )
        matrix.update(upsampled.argmax(1)[0].numpy().astype(np.uint8), label)
    result = evaluate(toy_model, toy_cityscapes, split='val:clear', out=tmp_path)
    assert result.miou('clear') == pytest.approx(100 * matrix.miou(), abs=0.1)


def test_another_data_set_adds_targets(
    toy_model: Path, toy_cityscapes: Path, tmp_path: Path
) -> None:
    result = evaluate(
        toy_model, toy_cityscapes, split='val:clear', target=toy_cityscapes,
        target_split='train:night', out=tmp_path, pictures=0,
    )  # fmt: skip
    assert result.targets == ['night']
    assert result.frames == {'clear': 12, 'night': 12}


def test_training_frames_in_the_evaluation_are_told(
    toy_model: Path, toy_cityscapes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, 'training.evaluate'):
        evaluate(toy_model, toy_cityscapes, split='train', out=tmp_path, pictures=0)
    assert '24 of 36 frames were trained on' in caplog.text


def test_bad_input_is_one_clear_error(
    toy_model: Path, toy_cityscapes: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match='no such model'):
        evaluate(tmp_path / 'model.safetensors', toy_cityscapes)
    with pytest.raises(LabelError, match=r"source condition 'fog'.*clear, night"):
        evaluate(toy_model, toy_cityscapes, source='fog', out=tmp_path / 'out')
    loaded = load_model(toy_model)
    head = torch.nn.LayerNorm(11)
    loaded.model.decoder.mask_norm = head
    loaded.model.decoder.cls_emb = torch.nn.Parameter(loaded.model.decoder.cls_emb[:, :11])
    save_model(tmp_path / 'camvid.safetensors', loaded.model, CAMVID, (64, 96), {})
    with pytest.raises(LabelError, match=r'classes of cityscapes \(19\).*camvid \(11\)'):
        evaluate(tmp_path / 'camvid.safetensors', toy_cityscapes, out=tmp_path / 'out')
    assert not (tmp_path / 'out').exists() or not any((tmp_path / 'out').iterdir())


def test_subcommands_are_shown_and_keep_their_options(root: Path, tmp_path: Path) -> None:
    def output(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, str(root / 'training' / 'evaluate.py'), *arguments],
            cwd=tmp_path, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    whole = output('--help')
    assert '--target_split' in whole
    for name in SUBCOMMANDS:
        assert f'`evaluate.py {name}`' in ' '.join(whole.split())
    assert output('--print_config') == output('segmentation', '--print_config')
    printed = output('simdg', '--size', 'tiny', '--print_config')
    assert 'size: tiny' in printed
    assert 'target_split' not in printed
    (tmp_path / 'own.yaml').write_text('seeds: 7\nsplit: val\n')
    printed = output('simdg', '--config', 'own.yaml', '--print_config')
    assert 'seeds: 7' in printed
    assert 'split: val' in printed


def test_segmentation_by_name_is_segmentation(
    toy_model: Path, toy_cityscapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [str(toy_model), str(toy_cityscapes), '--pictures', '0', '--out']
    arguments = ['--model', options[0], '--data', options[1], *options[2:]]
    for name, given in (('plain', arguments), ('named', ['segmentation', *arguments])):
        run_command(evaluate, [*given, str(tmp_path / name)], SUBCOMMANDS)
    a, b = ((tmp_path / n / 'evaluation.json').read_text() for n in ('plain', 'named'))
    assert a == b


def test_an_unknown_subcommand_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run_command(evaluate, ['retrieva', '--split', 'val'], SUBCOMMANDS)
    assert stop.value.code == 2
    assert 'retrieva' in capsys.readouterr().err


@pytest.fixture(scope='module')
def acdc(toy_cityscapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy frames as ACDC: fog and night in val, fog in test, whose labels are there here."""
    root = tmp_path_factory.mktemp('acdc') / 'ACDC'
    scenes = sorted((toy_cityscapes / 'leftImg8bit' / 'val').rglob('*.png'))
    for index, image in enumerate(scenes):
        condition, split = ('night', 'val') if 'night' in image.name else ('fog', 'val')
        if condition == 'fog' and index % 3 == 0:
            split = 'test'
        folder, stem = Path(condition, split, 'GOPR0000'), f'GOPR0000_frame_{index:06d}'
        ids = np.asarray(Image.open(str(image).replace('leftImg8bit', 'gtFine').replace(
            'gtFine.png', 'gtFine_labelIds.png')))  # fmt: skip
        for top, name, array in (
            ('rgb_anon', f'{stem}_rgb_anon.png', np.asarray(Image.open(image))),
            ('gt', f'{stem}_gt_labelTrainIds.png', TRAIN_IDS[ids]),
        ):
            (root / top / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(root / top / folder / name)
    (root / 'rgb_anon' / 'snow' / 'val').mkdir(parents=True)
    return root


TRAIN_IDS = np.full(256, 255, np.uint8)
TRAIN_IDS[[7, 11, 23, 26]] = 0, 2, 10, 13


def test_splits_are_kept_apart_and_targets_are_pooled(
    toy_model: Path, toy_cityscapes: Path, acdc: Path, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """The thesis' case: Cityscapes, then ACDC with each split and condition for itself."""
    with caplog.at_level(logging.WARNING, 'training.segmentation.frames'):
        result = evaluate(
            toy_model, toy_cityscapes, 'val:clear', target=acdc, target_split='val,test',
            out=tmp_path, name='ours',
        )  # fmt: skip
    assert 'no frame in rgb_anon/snow/val' in caplog.text
    assert result.names == ['clear', 'fog (test)', 'fog (val)', 'night']
    assert result.frames == {'clear': 12, 'fog (test)': 4, 'fog (val)': 8, 'night': 12}
    groups = {g.name: g.members for g in result.groups}
    assert groups == {
        'all targets (test)': ('fog (test)',), 'all targets (val)': ('fog (val)', 'night'),
    }  # fmt: skip
    pooled = ConfusionMatrix(19)
    pooled += result.matrices['fog (val)']
    pooled += result.matrices['night']
    figures = result.group_figures(result.groups[1])
    assert figures['miou'] == pytest.approx(100 * pooled.miou())
    assert figures['rpd'] == pytest.approx(100 * pooled.miou() / result.miou('clear'))
    # Pooling is another figure than the mean over conditions, and both are shown.
    mean = (result.miou('fog (val)') + result.miou('night')) / 2
    assert abs(mean - figures['miou']) > 0.5
    table = (tmp_path / 'evaluation.md').read_text()
    assert f'| all targets (val) | 20 | {figures["miou"]:.2f} |' in table
    assert f'| mean of targets (val) |  | {mean:.2f} |' in table
    assert '| Experiment | mIoU (Cityscapes) | mIoU (ACDC) | rPD | |' in table
    source = result.miou('clear')
    assert f'| ours (val) | {source:.2f} | {figures["miou"]:.2f} | {figures["rpd"]:.2f} |' in table
    assert f'| ours (test) | {source:.2f} | {result.miou("fog (test)"):.2f} |' in table
    assert table.count('published: CLCP thesis, table 4.3') == 13
    tex = (tmp_path / 'evaluation.tex').read_text()
    assert tex.count(r'\begin{tabular}') == 2
    written = json.loads((tmp_path / 'evaluation.json').read_text())
    assert written['conditions']['fog (test)']['split'] == 'test'
    assert written['groups']['all targets (val)']['frames'] == 20
    pictures = sorted(p.name for p in (tmp_path / 'predictions').iterdir())
    assert 'fog-test-1.png' in pictures


def test_the_source_of_a_split_is_compared_with_its_own_split(
    toy_model: Path, toy_cityscapes: Path, tmp_path: Path
) -> None:
    result = evaluate(toy_model, toy_cityscapes, 'train,val', out=tmp_path, pictures=0)
    assert result.source == 'clear (val)'
    assert result.names == ['clear (val)', 'clear (train)', 'night (train)', 'night (val)']
    ratio = result.miou('night (train)') / result.miou('clear (train)')
    assert result.rpd('night (train)') == pytest.approx(ratio)
    assert 'rpd' not in result.figures('clear (train)')


def test_conditions_of_one_name_in_two_data_sets_stay_apart(
    toy_model: Path, toy_cityscapes: Path, tmp_path: Path
) -> None:
    shutil.copytree(toy_cityscapes, tmp_path / 'other')
    result = evaluate(
        toy_model, toy_cityscapes, 'val:clear', target=tmp_path / 'other',
        target_split='val:clear', out=tmp_path / 'out', pictures=0,
    )  # fmt: skip
    assert result.names == ['clear (cityscapes)', 'clear (other)']
    assert result.rpd('clear (other)') == pytest.approx(1)
    twin = tmp_path / 'twin' / 'cityscapes'
    shutil.copytree(toy_cityscapes, twin)
    result = evaluate(
        toy_model, toy_cityscapes, 'val:clear', target=twin, target_split='val:clear',
        out=tmp_path / 'out', pictures=0,
    )  # fmt: skip
    assert result.names == [f'clear ({toy_cityscapes})', f'clear ({twin})']


def test_seeds_give_mean_and_deviation(
    toy_model: Path, toy_cityscapes: Path, tmp_path: Path
) -> None:
    loaded = load_model(toy_model)
    runs = [tmp_path / 'runs' / f'seed{i}' for i in range(3)]
    for i, folder in enumerate(runs):
        folder.mkdir(parents=True)
        with torch.no_grad():  # a little worse from one to the next
            loaded.model.decoder.mask_norm.weight[0] *= 1 - 0.15 * i
        save_model(
            folder / 'model.safetensors', loaded.model, loaded.classes,
            (loaded.input.height, loaded.input.width), loaded.provenance,
        )  # fmt: skip
    single = [
        evaluate(r / 'model.safetensors', toy_cityscapes, out=tmp_path / r.name) for r in runs
    ]
    first = evaluate(
        data=toy_cityscapes, models=str(tmp_path / 'runs' / 'seed*'), out=tmp_path / 'all',
        name='three',
    )  # fmt: skip
    values = [r.miou('night') for r in single]
    assert len(set(values)) == 3
    assert first.miou('night') == values[0]
    written = json.loads((tmp_path / 'all' / 'evaluation.json').read_text())
    assert written['models'] == [f'seed{i}/model.safetensors' for i in range(3)]
    found = written['conditions']['night']['miou']
    assert found == {'mean': round(np.mean(values), 2), 'sd': round(np.std(values, ddof=1), 2)}
    assert [r['conditions']['night']['miou'] for r in written['runs']] == [
        round(v, 2) for v in values
    ]
    spread = f'{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}'
    table = (tmp_path / 'all' / 'evaluation.md').read_text()
    assert f'| night | 12 | {spread} |' in table
    assert '| three | ' in table
    assert r' $\pm$ ' in (tmp_path / 'all' / 'evaluation.tex').read_text()
    lines = list(csv.DictReader((tmp_path / 'all' / 'evaluation.csv').open(newline='')))
    night = [row for row in lines if row['condition'] == 'night']
    assert [row['model'] for row in night] == written['models']
    assert [float(row['miou']) for row in night] == pytest.approx(values, abs=1e-4)
    assert {row['split'] for row in lines} == {'val'}
    assert night[0]['iou train'] == ''
    page = (tmp_path / 'all' / 'evaluation.html').read_text()
    assert spread in page
    assert 'seed2/model.safetensors' in page
    assert find_models(f'{runs[1]},{runs[0] / "model.safetensors"}') == [
        runs[1] / 'model.safetensors', runs[0] / 'model.safetensors',
    ]  # fmt: skip
    with pytest.raises(ModelError, match='no such model'):
        find_models(str(tmp_path / 'nothing*'))


def test_frames_without_labelled_pixels_are_told(
    toy_model: Path, acdc: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(acdc, tmp_path / 'ACDC')
    labels = sorted((tmp_path / 'ACDC' / 'gt').rglob('*.png'))
    for label in (f for f in labels if 'night' in str(f)):
        Image.fromarray(np.full((72, 112), 255, np.uint8)).save(label)
    with caplog.at_level(logging.WARNING, 'training.evaluate'):
        result = evaluate(
            toy_model, tmp_path / 'ACDC', source='fog', out=tmp_path / 'out', pictures=1
        )
    assert 'night: no labelled pixel' in caplog.text
    assert np.isnan(result.miou('night'))
    assert '| night | 12 |  |' in (tmp_path / 'out' / 'evaluation.md').read_text()
    json.loads((tmp_path / 'out' / 'evaluation.json').read_text(), parse_constant=pytest.fail)
    for label in labels:
        Image.fromarray(np.full((72, 112), 255, np.uint8)).save(label)
    with pytest.raises(LabelError, match=r'no labelled pixel .* submission'):
        evaluate(toy_model, tmp_path / 'ACDC', source='fog', out=tmp_path / 'none')
    assert not (tmp_path / 'none').exists()


def test_damage_is_one_line_that_names_the_file(
    toy_model: Path, toy_cityscapes: Path, tmp_path: Path
) -> None:
    def broken(change: str) -> tuple[Path, Path]:
        root = tmp_path / change
        shutil.copytree(toy_cityscapes, root)
        label = sorted((root / 'gtFine' / 'val' / 'd-night').iterdir())[5]
        return root, label

    root, label = broken('missing')
    label.unlink()
    with pytest.raises(LabelError, match=r'1 of 24 images have no label: val/d-night/d-night_0*5'):
        evaluate(toy_model, root, out=tmp_path / 'out')
    root, label = broken('size')
    Image.fromarray(np.zeros((70, 112), np.uint8)).save(label)
    with pytest.raises(LabelError, match=f'{label.name}: the label is 112 x 70, its image is'):
        evaluate(toy_model, root, out=tmp_path / 'out')
    root, label = broken('label')
    label.write_bytes(label.read_bytes()[:-40])
    with pytest.raises(LabelError, match=f'{label.name}: damaged label image'):
        evaluate(toy_model, root, out=tmp_path / 'out')
    root, label = broken('image')
    image = Path(str(label).replace('gtFine_labelIds', 'leftImg8bit').replace(
        'gtFine', 'leftImg8bit'))  # fmt: skip
    data = bytearray(image.read_bytes())
    data[len(data) // 2] ^= 0xFF
    image.write_bytes(data)
    with pytest.raises(ImageError, match=image.name):
        evaluate(toy_model, root, out=tmp_path / 'out')
    assert not (tmp_path / 'out').exists()
