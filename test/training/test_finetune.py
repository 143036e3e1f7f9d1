# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import inspect
import json
import logging
import math
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch._dynamo.utils import counters

from clcp_ros.decision import decide
from clcp_ros.errors import ClcpError, LabelError, ModelError
from training.cli import run_command
from training.finetune import HeadConfig, build_model, finetune
from training.hardware import HardwareConfig
from training.loop import CHECKPOINT, METRICS, read_metrics
from training.models.image_encoder import ImageEncoder
from training.segmentation.frames import open_frames
from training.segmentation.keeping import KeepConfig
from training.segmentation.metrics import ConfusionMatrix
from training.segmentation.predictors import open_predictor
from training.segmentation.task import OptimizerConfig, SegmentationTask, polynomial
from training.segmentation.transforms import AugmentationConfig

OPTIMIZER = [f for f in dataclasses.fields(OptimizerConfig) if f.name != 'name']


def run(data: Path, out: Path, **options) -> Path:
    settings = {
        'encoder': 'test_efficientnet', 'conditions': 'clear', 'input_size': (48, 80),
        'augmentation': AugmentationConfig(crop=None), 'max_steps': 8, 'batch_size': 2,
        'checkpoint_every': 3,
    }  # fmt: skip
    return finetune(data, out=out, **(settings | options))


def test_the_loss_falls(toy_model: Path) -> None:
    rows = read_metrics(toy_model.parent / METRICS)
    losses = [v for _, name, v in rows if name == 'train_loss']
    assert len(losses) == 60
    assert np.mean(losses[-5:]) < 0.4 * np.mean(losses[:3])
    rates = [v for _, name, v in rows if name == 'lr']
    assert max(rates) == pytest.approx(3e-3, rel=0.05)
    assert rates[-1] < 0.1 * max(rates)


def test_the_file_has_published_names_and_describes_itself(toy_model: Path) -> None:
    with safe_open(toy_model, 'pt') as file:
        names, metadata = set(file.keys()), file.metadata()
    assert {n.split('.')[0] for n in names} == {'encoder', 'decoder'}
    own = ImageEncoder('test_efficientnet').model.state_dict()
    assert {n.removeprefix('encoder.') for n in names if n.startswith('encoder')} == set(own)
    assert metadata['architecture'] == 'test_efficientnet'
    assert metadata['input_size'] == '[64, 96]'
    assert '"conditions": ["clear"]' in metadata['provenance']


AVERAGED = {
    'optimizer': OptimizerConfig(ema=0.7, layer_decay=0.8, head_warmup=2), 'drop_path': 0.1,
    'validate_every': 4, 'balance': 0.5,
}  # fmt: skip


@pytest.mark.parametrize('options', [{}, AVERAGED], ids=['plain', 'averaged'])
def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(
    toy_cityscapes: Path, tmp_path: Path, power_cut: Callable[..., None], options: dict
) -> None:
    whole = run(toy_cityscapes, tmp_path / 'whole', **options)
    # In step 5 of 8: the last checkpoint is of step 3.
    power_cut(2 * 5, lambda: run(toy_cityscapes, tmp_path / 'parts', **options))
    assert (tmp_path / 'parts' / CHECKPOINT).is_file()
    assert not (tmp_path / 'parts' / 'model.safetensors').exists()
    resumed = run(toy_cityscapes, tmp_path / 'parts', **options)
    expected, found = load_file(whole), load_file(resumed)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name
    assert read_metrics(resumed.parent / METRICS) == read_metrics(whole.parent / METRICS)


def test_a_finished_run_is_reused_and_another_one_is_refused(
    toy_cityscapes: Path, tmp_path: Path
) -> None:
    model = run(toy_cityscapes, tmp_path, max_steps=2)
    written = model.stat().st_mtime_ns
    assert run(toy_cityscapes, tmp_path, max_steps=2) == model
    assert model.stat().st_mtime_ns == written
    with pytest.raises(ModelError, match='max_steps differ'):
        run(toy_cityscapes, tmp_path, max_steps=3)
    run(toy_cityscapes, tmp_path, max_steps=3, overwrite=True)
    assert model.stat().st_mtime_ns != written


def test_a_frozen_encoder_is_the_one_that_was_given(toy_cityscapes: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    ImageEncoder('test_efficientnet').save(tmp_path / 'encoder.safetensors', (48, 80), {})
    given = load_file(tmp_path / 'encoder.safetensors')
    model = run(
        toy_cityscapes, tmp_path / 'run', encoder=str(tmp_path / 'encoder.safetensors'),
        freeze_encoder=True, max_steps=4,
    )  # fmt: skip
    found = load_file(model)
    assert any('running_mean' in k for k in given)
    for name, value in given.items():
        assert torch.equal(value, found[f'encoder.{name}']), name
    fresh = build_model(19, str(tmp_path / 'encoder.safetensors')).decoder.state_dict()
    assert not torch.equal(found['decoder.proj_patch'], fresh['proj_patch'])


def encoder_of(model: Path) -> dict[str, torch.Tensor]:
    state = load_file(model)
    return {k: v for k, v in state.items() if k.startswith('encoder.') and v.ndim > 1}


def test_the_head_learns_alone_at_first(toy_cityscapes: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    ImageEncoder('test_vit').save(tmp_path / 'encoder.safetensors', (48, 80), {})
    given = {
        f'encoder.{k}': v
        for k, v in load_file(tmp_path / 'encoder.safetensors').items()
        if v.ndim > 1
    }
    common = {'encoder': str(tmp_path / 'encoder.safetensors'), 'batch_size': 4}
    alone = OptimizerConfig(head_warmup=3, warmup=0)
    early = encoder_of(run(toy_cityscapes, tmp_path / 'a', max_steps=3, optimizer=alone, **common))
    late = encoder_of(run(toy_cityscapes, tmp_path / 'b', max_steps=5, optimizer=alone, **common))
    assert all(torch.equal(v, early[k]) for k, v in given.items())
    assert all(not torch.equal(v, late[k]) for k, v in given.items())


def test_layers_near_the_input_learn_more_slowly(toy_cityscapes: Path) -> None:
    model = build_model(19, 'vit_tiny_patch16_224')
    task = SegmentationTask(
        model, OptimizerConfig(lr=1.0, layer_decay=0.5, encoder_factor=0.1), 10,
        open_frames(toy_cityscapes, 'train').labels,
    )  # fmt: skip
    groups = task.configure_optimizers()['optimizer'].param_groups
    rate = {id(p): g['initial_lr'] for g in groups for p in g['params']}
    decay = {id(p): g['weight_decay'] for g in groups for p in g['params']}
    vit = model.encoder.model
    # timm counts the embedding and twelve blocks, the last with the norm behind it.
    assert rate[id(vit.norm.weight)] == pytest.approx(0.1)
    assert rate[id(vit.blocks[11].mlp.fc1.weight)] == pytest.approx(0.1)
    assert rate[id(vit.blocks[0].mlp.fc1.weight)] == pytest.approx(0.1 * 0.5**11)
    assert rate[id(vit.patch_embed.proj.weight)] == pytest.approx(0.1 * 0.5**12)
    assert rate[id(model.decoder.proj_patch)] == 1.0
    assert decay[id(vit.pos_embed)] == decay[id(vit.norm.weight)] == 0
    assert len(rate) == len(list(model.parameters()))


def test_balancing_helps_what_is_rare(toy_cityscapes: Path, tmp_path: Path) -> None:
    """Cars are a tenth of the pixels: weighed by 1 / frequency they are predicted more."""
    shares = []
    for balance in (0.0, 1.0):
        model = run(
            toy_cityscapes, tmp_path / str(balance), max_steps=20, balance=balance,
            optimizer=OptimizerConfig(lr=3e-3),
        )  # fmt: skip
        predictor, frames = open_predictor(model), open_frames(toy_cityscapes, 'val:clear')
        masks = [
            decide(predictor.predict(frames.read(f)[0]).logits, 72, 112)[0] for f in frames.frames
        ]
        shares.append(float((np.stack(masks) == 13).mean()))
    assert shares[1] > shares[0] + 0.01


def test_validation_agrees_with_evaluation(toy_cityscapes: Path, tmp_path: Path) -> None:
    model = run(
        toy_cityscapes, tmp_path / 'run', max_steps=20, validate_every=10,
        optimizer=OptimizerConfig(lr=3e-3, ema=0.5),
    )  # fmt: skip
    values = {(s, v) for s, name, v in read_metrics(tmp_path / 'run' / METRICS) if 'miou' in name}
    assert [s for s, _ in sorted(values)] == [10, 20]
    frames = open_frames(toy_cityscapes, 'val')
    matrix, predictor = ConfusionMatrix(19), open_predictor(model)
    for frame in frames.frames:
        image, label = frames.read(frame)
        matrix.update(decide(predictor.predict(image).logits, *label.shape)[0], label)
    # The averaged weights are validated, and they are what is saved.
    assert sorted(values)[-1][1] == pytest.approx(matrix.miou(), abs=2e-3)


def test_unknown_ids_are_reported_once_per_run(
    toy_cityscapes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(toy_cityscapes, tmp_path / 'data')
    write_unknown_ids(tmp_path / 'data')
    with caplog.at_level(logging.WARNING, 'training.segmentation.labels'):
        run(tmp_path / 'data', tmp_path / 'run', max_steps=30)
    messages = [r.message for r in caplog.records if r.name == 'training.segmentation.labels']
    assert len(messages) == 1
    assert '120 pixels in 24 label images' in messages[0]
    assert '(77)' in messages[0]


@pytest.mark.parametrize(
    ('options', 'reason'),
    [
        ({'conditions': 'rain'}, 'no frames of condition rain'),
        ({'input_size': (50, 80)}, 'multiples of 16'),
        ({'encoder': 'nowhere/encoder.safetensors'}, 'no such file'),
        ({'encoder': 'resnet_of_nobody'}, 'resnet_of_nobody'),
        ({'optimizer': OptimizerConfig(lr=1e30, warmup=0, clip=0)}, 'lower the learning rate'),
    ],
)
def test_bad_input_is_one_clear_error(
    toy_cityscapes: Path, tmp_path: Path, options: dict, reason: str
) -> None:
    with pytest.raises(ClcpError, match=reason):
        run(toy_cityscapes, tmp_path / 'run', **options)
    assert not (tmp_path / 'run' / 'model.safetensors').exists()


@pytest.mark.parametrize('workers', [0, 1])
def test_a_damaged_file_is_one_line_that_names_it(
    toy_cityscapes: Path, tmp_path: Path, workers: int
) -> None:
    shutil.copytree(toy_cityscapes, tmp_path / 'data')
    image = sorted((tmp_path / 'data' / 'leftImg8bit' / 'train' / 'a-clear').iterdir())[3]
    image.write_bytes(image.read_bytes()[:3000])
    with pytest.raises(ClcpError, match=f'^[^\\n]*{image.name}: truncated PNG[^\\n]*$'):
        run(tmp_path / 'data', tmp_path / 'run', max_steps=20, workers=workers)
    assert not (tmp_path / 'run' / 'model.safetensors').exists()
    label = sorted((tmp_path / 'data' / 'gtFine' / 'train' / 'a-clear').iterdir())[5]
    label.unlink()
    with pytest.raises(LabelError, match='1 of 36 images have no label: train/a-clear/a-clear_'):
        run(tmp_path / 'data', tmp_path / 'other', workers=workers)
    assert not (tmp_path / 'other').exists()


def test_missing_data_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match='no such folder'):
        run(tmp_path / 'nowhere', tmp_path / 'run')


def test_the_command_says_what_is_wrong_in_one_line(
    toy_cityscapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run_command(
            finetune,
            ['--data', str(toy_cityscapes), '--conditions', 'rain', '--out', str(tmp_path / 'r')],
        )
    assert caught.value.code == 1
    assert capsys.readouterr().err.strip().startswith('error: ')
    assert not (tmp_path / 'r').exists()


NONSENSE = """
    max_steps 0 | max_steps -1 | batch_size 0 | batch_size -2 | validate_every -1
    checkpoint_every 0 | workers -1 | seed -1 | seed 4294967296
    drop_path -0.1 | drop_path 1 | balance -1 | balance 50 | strategy fsdp
    input_size [0,0] | input_size [-16,16] | head.dim -64 | head.dim 50 | head.layers -1
    head.dropout -0.1 | head.dropout 1 | keep.weight 0 | keep.batch_size 0 | keep.pairs nowhere
    crop [0,0] | crop [-16,16] | crop [96,80] | scale [0,1] | scale [2,1] | scale [1,1e9]
    cat_max 0 | cat_max -1 | cat_max 1.1
    optimizer.lr 0 | optimizer.lr -1 | min_lr -0.1 | min_lr 0.1 | encoder_factor 0
    encoder_factor -1 | layer_decay 0 | layer_decay 1.1 | head_warmup -1 | head_warmup 9
    ema -0.1 | ema 1 | weight_decay -1 | optimizer.warmup -1 | optimizer.warmup 9
    power 0 | power -1 | clip -1
"""


@pytest.mark.parametrize('option', [o.strip() for o in re.split(r'[|\n]', NONSENSE.strip())])
def test_nonsense_is_one_line_before_any_data_are_read(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {'--input_size': '[48,80]', '--augmentation.crop': 'null', '--max_steps': '8'}
    given = {'--data': str(tmp_path / 'nowhere'), '--out': str(tmp_path / 'run'), **sizes}
    name, value = option.split()
    if name == 'crop':
        del given['--augmentation.crop']
    with pytest.raises(SystemExit) as caught:
        run_command(finetune, [w for p in (given | {f'--{name}': value}).items() for w in p])
    assert caught.value.code == 1
    line = capsys.readouterr().err.strip()
    assert re.fullmatch(rf'error: [^\n]*{name.rpartition(".")[2]}[^\n]*', line)
    assert 'nowhere: ' not in line  # of the data
    assert len(line) < 230
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    'options',
    [
        *({'optimizer': OptimizerConfig(**{f.name: math.nan})} for f in OPTIMIZER),
        {'optimizer': OptimizerConfig(lr=math.inf)},
        {'optimizer': OptimizerConfig(name='adam')},  # type: ignore[arg-type]
        {'augmentation': AugmentationConfig(crop=None, cat_max=math.nan)},
        {'augmentation': AugmentationConfig(crop=None, scale=(math.nan, 1.0))},
        {'keep': KeepConfig(weight=math.nan)}, {'head': HeadConfig(dropout=math.nan)},
        {'drop_path': math.nan}, {'balance': math.nan},
    ],
)  # fmt: skip
def test_what_is_no_number_is_refused(options: dict, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r'nan|inf|adam'):
        run(tmp_path / 'nowhere', tmp_path / 'run', **options)


def test_bounds_are_allowed(toy_cityscapes: Path, tmp_path: Path) -> None:
    """Extremes that have a meaning: no decay, an average of one step, a head without blocks."""
    optimizer = OptimizerConfig(
        min_lr=1e-3, lr=1e-3, layer_decay=1.0, ema=0.0, weight_decay=0.0, warmup=2, head_warmup=2,
        clip=0.0,
    )  # fmt: skip
    model = run(
        toy_cityscapes, tmp_path, optimizer=optimizer, max_steps=2, head=HeadConfig(layers=0),
        augmentation=AugmentationConfig(crop=(64, 112), scale=(1.4, 1.4), cat_max=1.0),
    )  # fmt: skip
    frames = open_frames(toy_cityscapes, 'val:clear')
    logits = open_predictor(model).predict(frames.read(frames.frames[0])[0]).logits
    assert np.isfinite(logits).all()


def test_a_run_that_ends_within_its_warm_up_is_warned_of(
    toy_cityscapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the default, which is for longer ones; where it was asked for it is an error."""
    run(toy_cityscapes, tmp_path / 'a', max_steps=2)
    assert 'warning: the run ends within its warm-up of 20 steps' in capsys.readouterr().out
    run(toy_cityscapes, tmp_path / 'b', max_steps=2, optimizer=OptimizerConfig(warmup=2))
    assert 'warning' not in capsys.readouterr().out


RECIPES = sorted((Path(__file__).parents[2] / 'config' / 'finetune').glob('*.yaml'))


@pytest.mark.parametrize('recipe', [r.stem for r in RECIPES])
def test_recipes_are_understood(
    recipe: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = root / 'config' / 'finetune' / f'{recipe}.yaml'
    with pytest.raises(SystemExit) as caught:
        run_command(
            finetune, ['--config', str(file), '--encoder', 'test_vit', '--data', str(tmp_path)]
        )
    assert caught.value.code == 1  # the data, not the recipe
    assert 'no known layout' in capsys.readouterr().err


def test_variants_of_a_recipe_differ_in_one_thing(root: Path) -> None:
    def recipe(name: str) -> dict:
        return yaml.safe_load((root / 'config' / 'finetune' / f'{name}.yaml').read_text())

    thesis, strong = recipe('thesis'), recipe('strong')
    assert recipe('thesis_frozen') == thesis | {'freeze_encoder': True}
    assert recipe('thesis_b64') == thesis | {'batch_size': 64}
    assert strong['augmentation']['crop'] == [512, 512]
    assert recipe('strong_768') == strong | {
        'augmentation': strong['augmentation'] | {'crop': [768, 768]}
    }
    # The published settings, from the text of the thesis.
    assert (thesis['max_steps'], thesis['batch_size']) == (80000, 8)
    assert thesis['augmentation'] == {
        'crop': [224, 224], 'scale': [0.5, 2.0], 'cat_max': 0.75, 'photometric': True,
    }  # fmt: skip
    names = 'name', 'lr', 'min_lr', 'power', 'weight_decay', 'warmup'
    assert [thesis['optimizer'][n] for n in names] == ['sgd', 0.01, 0.0001, 0.9, 0.0, 0]


def test_the_small_recipe_is_the_default(root: Path) -> None:
    recipe = yaml.safe_load((root / 'config' / 'finetune' / 'small.yaml').read_text())
    for name, parameter in inspect.signature(finetune).parameters.items():
        if name in recipe:
            default = parameter.default
            if dataclasses.is_dataclass(default):
                default = dataclasses.asdict(default)
            assert json.loads(json.dumps(default)) == recipe[name], name


def test_learning_rate_warms_up_and_falls_to_its_floor() -> None:
    factors = [polynomial(s, steps=100, warmup=10, power=0.9, floor=0.01) for s in range(101)]
    assert factors[10] == 1
    assert factors[:11] == sorted(factors[:11])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[100] == pytest.approx(0.01)
    assert factors[55] == pytest.approx(0.01 + 0.99 * 0.5**0.9)


def write_unknown_ids(root: Path) -> None:
    for label in (root / 'gtFine' / 'train').rglob('*.png'):
        ids = np.array(Image.open(label))
        ids[0, :5] = 77
        Image.fromarray(ids).save(label)


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(
    toy_cityscapes: Path, tmp_path: Path, root: Path
) -> None:
    """Over gloo; frames with unequal numbers of labels, so that a mean of means would differ."""
    shutil.copytree(toy_cityscapes, tmp_path / 'data')
    write_unknown_ids(tmp_path / 'data')
    label = sorted((tmp_path / 'data' / 'gtFine' / 'train').rglob('*.png'))[0]
    Image.fromarray(np.full((72, 112), 1, np.uint8)).save(label)
    command = [
        sys.executable, str(root / 'training' / 'finetune.py'), '--data', str(tmp_path / 'data'),
        '--encoder', 'test_vit', '--conditions', 'clear', '--input_size', '[48,80]',
        '--augmentation.crop', 'null', '--head.dropout', '0', '--max_steps', '6',
        '--batch_size', '4', '--optimizer.name', 'sgd', '--optimizer.lr', '0.05',
        '--optimizer.clip', '1', '--optimizer.warmup', '0', '--validate_every', '3',
        '--accelerator', 'cpu',
    ]  # fmt: skip
    printed = {}
    for devices in ('1', '2'):
        done = subprocess.run(
            [*command, '--devices', devices, '--out', str(tmp_path / devices)],
            cwd=tmp_path, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        printed[devices] = done
    one, two = (load_file(tmp_path / d / 'model.safetensors') for d in ('1', '2'))
    torch.manual_seed(0)  # as the command does
    start = build_model(19, 'test_vit', head=HeadConfig(dropout=0)).state_dict()
    moved = 0.0
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=2e-5, rtol=1e-4, msg=name)
        first = start[name.replace('encoder.', 'encoder.model.')]
        if first.shape == value.shape:
            moved = max(moved, float((value - first).abs().max()))
    assert moved > 1e-2
    rows = [read_metrics(tmp_path / d / METRICS) for d in ('1', '2')]
    assert [r[:2] for r in rows[0]] == [r[:2] for r in rows[1]]
    np.testing.assert_allclose(*([r[2] for r in x] for x in rows), rtol=2e-3)
    messages = [
        [line for line in p.stderr.splitlines() if 'hold ids outside' in line]
        for p in printed.values()
    ]
    assert [len(m) for m in messages] == [1, 1]
    assert messages[0] == messages[1]
    assert printed['2'].stdout.count('starting 6 steps') == 1


@pytest.mark.slow
@pytest.mark.skipif(shutil.which('g++') is None, reason='torch.compile needs a compiler')
def test_a_compiled_encoder_learns_the_same(toy_cityscapes: Path, tmp_path: Path) -> None:
    states = {}
    for compiled in (False, True):
        counters.clear()
        model = run(
            toy_cityscapes, tmp_path / str(compiled), encoder='test_vit', max_steps=1,
            optimizer=OptimizerConfig('sgd', lr=0.01, warmup=0),
            hardware=HardwareConfig('cpu', compile=compiled),
        )  # fmt: skip
        assert bool(counters['frames']['ok']) == compiled
        states[compiled] = load_file(model)
    assert states[True].keys() == states[False].keys()
    for name, value in states[False].items():
        torch.testing.assert_close(states[True][name], value, atol=2e-5, rtol=1e-4, msg=name)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_weights(
    toy_cityscapes: Path, tmp_path: Path, root: Path
) -> None:
    """Kill -9 in the middle, in half precision, with workers: the same command finishes it."""
    command = [
        sys.executable, str(root / 'training' / 'finetune.py'), '--data', str(toy_cityscapes),
        '--encoder', 'test_vit', '--conditions', 'clear', '--input_size', '[48,80]',
        '--augmentation.crop', 'null', '--max_steps', '40', '--batch_size', '2', '--workers', '1',
        '--checkpoint_every', '5', '--precision', 'bf16-mixed', '--optimizer.ema', '0.9',
        '--accelerator', 'cpu',
    ]  # fmt: skip
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    with subprocess.Popen(
        [*command, '--out', str(parts)], cwd=tmp_path, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 120
        while not (parts / CHECKPOINT).is_file() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.kill()
    assert (parts / CHECKPOINT).is_file()
    assert not (parts / 'model.safetensors').exists()
    for out in (parts, whole):
        done = subprocess.run(
            [*command, '--out', str(out)], cwd=tmp_path, capture_output=True, text=True,
            timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert ('going on with' in done.stdout) == (out == parts)
    expected, found = (load_file(f / 'model.safetensors') for f in (whole, parts))
    assert all(torch.equal(expected[k], found[k]) for k in expected)
    assert read_metrics(parts / METRICS) == read_metrics(whole / METRICS)
