# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from clcp_ros.classes import CAMVID
from clcp_ros.errors import LabelError, ModelError
from clcp_ros.inference import preprocess
from training.cli import run_command
from training.evaluate import SUBCOMMANDS, evaluate
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
    assert figures['boundary_miou'] == round(100 * result.boundary['clear'], 2)
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
