# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Whole runs: killed, divided among processes, ended early, fed with bad input."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import training.loggers
from clcp_ros.errors import ClcpError, ModelError, PairSetError
from training.checkpoints import Best, read_checkpoint, write_atomically
from training.cli import run_command
from training.hardware import HardwareConfig
from training.loop import CHECKPOINT, prepare_run, read_metrics
from training.methods import load_method
from training.methods.clcp import Clcp, ClcpConfig
from training.methods.clcp_anchored import AnchoredConfig
from training.methods.config import ModelConfig, OptimizerConfig
from training.pairs.contrastive import ViewConfig
from training.pairs.pair import Pair
from training.pairs.pair_set import PairSet
from training.pairs.writer import PairSetWriter
from training.pretrain import chosen_pairs, pretrain, summary
from training.watch.watch import WatchConfig

K = np.array([[60.0, 0, 47.5], [0, 60, 31.5], [0, 0, 1]])
T_CAMERA_LIDAR = np.array([[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])
VIEWS = ViewConfig(image_size=32, voxel_size_m=0.6, min_points=5, crop_fraction=[0.8, 1.0])
VIT = ModelConfig(image_encoder='vit_tiny_patch16_224', freeze_lidar=True, lidar_head='linear')
QUICK: dict[str, Any] = {
    'views': VIEWS, 'batch_size': 8, 'batch_gap': 0, 'workers': 0, 'loggers': '',
    'watch': WatchConfig(images=4),
}  # fmt: skip


def make_pair(i: int, tag: str) -> Pair:
    rng = np.random.default_rng(i)
    points = rng.uniform([3, -3, -1, 0], [9, 3, 1, 1], (120, 4)).astype(np.float32)
    image = rng.integers(0, 255, (64, 96, 3)).astype(np.uint8)
    return Pair(
        f's/{i:06d}', 's', 'front', 'top', i * 10**9, i * 10**9, image, points, K, T_CAMERA_LIDAR,
        tags={'condition': tag},
    )  # fmt: skip


@pytest.fixture(scope='module')
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('pairs')
    writer = PairSetWriter(folder)
    writer.write_sequence('s', (make_pair(i, ('clear', 'fog')[i % 2]) for i in range(48)))
    writer.finish(['s'], {}, 0.25)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    files = ('image_encoder', 'lidar_encoder', 'embedding')
    return {
        f'{f}.{k}': v for f in files for k, v in load_file(folder / f'{f}.safetensors').items()
    }


def command(pairs: Path, out: Path, root: Path, *more: str) -> list[str]:
    return [
        sys.executable, str(root / 'training' / 'pretrain.py'), '--pairs', str(pairs),
        '--out', str(out), '--views.image_size', '32', '--views.voxel_size_m', '0.6',
        '--views.min_points', '5', '--views.crop_fraction', '[0.8, 1.0]',
        '--model.image_encoder', 'vit_tiny_patch16_224',
        '--model.freeze_lidar', '--model.lidar_head', 'linear', '--batch_size', '8',
        '--batch_gap', '0', '--validate_every', '3', '--checkpoint_every', '2',
        '--watch.images', '4', '--accelerator', 'cpu', *more,
    ]  # fmt: skip


@pytest.mark.slow
def test_killed_in_mid_epoch_and_resumed_gives_the_same_weights(
    pairs: Path, tmp_path: Path, root: Path
) -> None:
    """kill -9, with a worker that reads ahead."""
    out = tmp_path / 'killed'
    killed = False
    process = subprocess.Popen(
        command(pairs, out, root, '--max_steps', '14', '--workers', '1', '--loggers', ''),
        env={**os.environ, 'OMP_NUM_THREADS': '1'}, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while process.poll() is None and not killed:
        if (out / CHECKPOINT).is_file() and read_checkpoint(out / CHECKPOINT)['global_step'] >= 4:
            process.kill()
            killed = True
        time.sleep(0.02)
    process.wait(timeout=60)
    assert killed
    assert not (out / 'image_encoder.safetensors').exists()
    for folder in (out, tmp_path / 'whole'):
        pretrain(
            pairs, folder, max_steps=14, validate_every=3, checkpoint_every=2, model=VIT, **QUICK
        )
    whole, parts = weights(tmp_path / 'whole'), weights(out)
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[k], parts[k]) for k in whole)
    rows = {k: read_metrics(tmp_path / k / 'metrics.csv') for k in ('whole', 'killed')}
    for name in ('loss', 'val_loss', 'val_patch_cosine', 'grad_norm'):
        values = [[(s, v) for s, n, v in rows[k] if n == name] for k in ('whole', 'killed')]
        assert values[0] == values[1], name
    assert [s for s, n, _ in rows['killed'] if n == 'loss'] == list(range(1, 15))


@pytest.mark.slow
@pytest.mark.parametrize('strategy', ['ddp', 'fsdp'])
def test_two_processes_train_as_one(
    strategy: str, pairs: Path, tmp_path: Path, root: Path
) -> None:
    """Whole weights or sharded ones over gloo; the same weights as of one but rounding."""
    subprocess.run(
        command(
            pairs, tmp_path / 'two', root, '--max_steps', '4', '--workers', '0', '--devices', '2',
            '--strategy', strategy, '--chunk', '2',
        ),
        env={**os.environ, 'OMP_NUM_THREADS': '1'}, check=True, capture_output=True, timeout=280,
    )  # fmt: skip
    pretrain(
        pairs, tmp_path / 'one', max_steps=4, validate_every=3, checkpoint_every=2, chunk=2,
        model=VIT, **QUICK,
    )  # fmt: skip
    one, two = weights(tmp_path / 'one'), weights(tmp_path / 'two')
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=2e-3, rtol=1e-2, msg=name)
    for name in ('loss', 'val_loss', 'val_r5', 'val_pairs', 'val_uniformity_image'):
        values = [
            [v for _, n, v in read_metrics(tmp_path / k / 'metrics.csv') if n == name]
            for k in ('one', 'two')
        ]
        assert values[1] == pytest.approx(values[0], rel=1e-2, abs=1e-3), name


@pytest.mark.slow
def test_a_sharded_run_goes_on_sharded_or_whole(pairs: Path, tmp_path: Path, root: Path) -> None:
    """Its checkpoint is that of one process: weights, and the optimizer's averages of each."""
    arguments = ('--max_steps', '6', '--workers', '0', '--loggers', '')
    sharded = ('--devices', '2', '--strategy', 'fsdp')
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    one, parts, again = (tmp_path / n for n in ('one', 'parts', 'again'))

    def to_the_end(out: Path, *more: str) -> dict[str, torch.Tensor]:
        subprocess.run(
            command(pairs, out, root, *arguments, *more), env=environment, check=True,
            capture_output=True, timeout=280,
        )  # fmt: skip
        return weights(out)

    def stopped_at_four(out: Path, *more: str) -> None:
        process = subprocess.Popen(
            command(pairs, out, root, *arguments, *more), env=environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        while process.poll() is None:
            file = out / CHECKPOINT
            if file.is_file() and read_checkpoint(file)['global_step'] >= 4:
                os.killpg(process.pid, signal.SIGKILL)
                break
            time.sleep(0.02)
        process.wait(timeout=60)
        assert not (out / 'image_encoder.safetensors').exists()

    stopped_at_four(parts, *sharded)
    shutil.copytree(parts, again)
    shutil.copytree(parts, one)
    first, second = to_the_end(parts, *sharded), to_the_end(again, *sharded)
    assert all(torch.equal(first[k], second[k]) for k in first)
    before = read_checkpoint(one / CHECKPOINT)['state_dict']
    whole = to_the_end(one)
    for name, there in (
        ('embedding.image_head.weight', 'image_head.weight'),
        ('image_encoder.blocks.3.mlp.fc1.weight', 'image_encoder.model.blocks.3.mlp.fc1.weight'),
    ):
        # Without its averages of four steps, AdamW would go elsewhere.
        other = (first[name] - whole[name]).abs().mean()
        assert 0 < other < 0.1 * (whole[name] - before[there]).abs().mean()


def test_batches_that_cannot_be_divided_are_refused() -> None:
    from training.loop import StepBatches

    batches = StepBatches(np.arange(40), 9, 5, 0)
    with pytest.raises(ModelError, match='cannot be divided among 2 processes'):
        batches.divide(0, 2)
    batches.divide(1, 3)
    assert len(batches.batch(0)) == 3


def test_what_a_run_leaves_embeds_again(pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / 'run'
    pretrain(
        pairs, out, max_steps=3, validate_every=3, model=VIT, clcp=ClcpConfig(temperature=0.1),
        **QUICK,
    )  # fmt: skip
    assert {p.name for p in out.iterdir()} >= {
        'image_encoder.safetensors', 'lidar_encoder.safetensors', 'embedding.safetensors',
    }  # fmt: skip
    method = load_method(out)
    assert not method.training
    assert isinstance(method, Clcp)
    assert method.setup_.views == VIEWS
    pair_set = PairSet(pairs)
    samples = method.samples(pair_set, train=False)
    rows = [(int(p), 0) for p in pair_set.rows(split='val')]
    with torch.no_grad():
        embedded = method.embed(method.collate([samples[r] for r in rows]))
        loss = method.contrast(embedded.image, embedded.lidar)
    logged = [v for _, n, v in read_metrics(out / 'metrics.csv') if n == 'val_loss'][-1]
    assert float(loss) == pytest.approx(logged, rel=1e-4)
    save_file({'x': torch.zeros(1)}, out / 'lidar_encoder.safetensors')
    with pytest.raises(ModelError, match='do not belong together'):
        load_method(out)


def test_everything_promised_is_watched(
    pairs: Path, tmp_path: Path, toy_cityscapes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {**QUICK, 'watch': WatchConfig(4, toy_cityscapes, 10, 64)}
    pretrain(
        pairs, tmp_path / 'run', max_steps=2, validate_every=2,
        clcp=ClcpConfig(temperature_use='inverted'), **options,
    )  # fmt: skip
    out = capsys.readouterr().out
    floor = 'warning at step 0: at a logit scale of 0.932 the loss of 8 pairs cannot fall below'
    assert floor in out
    rows = read_metrics(tmp_path / 'run' / 'metrics.csv')
    first = {n: v for s, n, v in rows if s == 0}
    last = {n: v for s, n, v in rows if s == 2}
    for way in ('', 'image_to_lidar_', 'lidar_to_image_'):
        for what in ('r1', 'r5', 'r10', 'rank'):
            assert f'val_{way}{what}' in last
    assert last.keys() >= {
        'val_alignment', 'val_uniformity_image', 'val_uniformity_lidar', 'val_image_rank',
        'val_lidar_rank', 'val_patch_cosine', 'val_patch_cosine_p05', 'val_patch_cka',
        'val_patch_rank', 'val_patch_similarity', 'val_probe_miou', 'val_watch_s', 'waited',
        'pairs_per_s', 'grad_norm', 'skipped', 'lr', 'logit_scale',
    }  # fmt: skip
    assert first['val_patch_cosine'] == pytest.approx(1, abs=1e-4)
    assert first['val_patch_cka'] == pytest.approx(1, abs=1e-4)
    assert last['val_patch_cosine'] < 0.9999
    assert 0 < last['val_probe_miou'] < 1
    assert 'of the time waiting for the loader' in out


def test_early_stopping_and_the_best_weights(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Random pairs cannot be learned: the validation loss soon rises, and stays."""
    result = pretrain(
        pairs, tmp_path / 'run', max_steps=60, validate_every=2, patience=2, keep='best',
        model=VIT, optimizer=OptimizerConfig(lr=3e-3), **QUICK,
    )  # fmt: skip
    out = capsys.readouterr().out
    assert 'val_loss has not improved for 2 validations' in out
    rows = [
        (s, v) for s, n, v in read_metrics(tmp_path / 'run' / 'metrics.csv') if n == 'val_loss'
    ]
    after = [r for r in rows if r[0] > 0]
    assert after[-1][0] < 60
    best = min(after, key=lambda r: r[1])
    kept = read_checkpoint(tmp_path / 'run' / 'best.ckpt')
    assert kept['global_step'] == best[0] == after[-1][0] - 4
    saved = load_file(result)
    prefix = 'image_encoder.model.'
    state = {k.removeprefix(prefix): v for k, v in kept['state_dict'].items()}
    assert all(torch.equal(v, state[k]) for k, v in saved.items())
    with pytest.raises(ModelError, match='look at validations'):
        pretrain(pairs, tmp_path / 'b', validate_every=0, patience=2, **QUICK)


class Poison(L.Callback):
    """Makes weights infinite for some steps, as an overflow does."""

    def __init__(self, steps: set[int]) -> None:
        self.steps = steps

    def on_before_backward(
        self, trainer: L.Trainer, module: L.LightningModule, loss: torch.Tensor
    ) -> None:
        if trainer.global_step in self.steps:
            loss.data.fill_(float('nan'))

    def on_after_backward(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.global_step in self.steps:
            next(p for p in module.parameters() if p.grad is not None).grad.fill_(float('inf'))


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Any:
    def prepare(steps: set[int]) -> None:
        real = L.Trainer.fit

        def fit(self: L.Trainer, *args: Any, **kwargs: Any) -> None:
            self.callbacks.insert(0, Poison(steps))
            real(self, *args, **kwargs)

        monkeypatch.setattr(L.Trainer, 'fit', fit)

    return prepare


def test_steps_that_are_not_finite_are_skipped_and_counted(
    pairs: Path, tmp_path: Path, poison: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    poison({2, 4})
    result = pretrain(pairs, tmp_path / 'run', max_steps=6, validate_every=0, **QUICK)
    out = capsys.readouterr().out
    assert out.count('step skipped') == 2
    assert '2 steps skipped, not finite' in out
    assert all(torch.isfinite(v).all() for v in load_file(result).values())
    skipped = [v for _, n, v in read_metrics(tmp_path / 'run' / 'metrics.csv') if n == 'skipped']
    assert skipped == [0, 0, 1, 1, 2, 2]


def test_a_skipped_step_changes_no_weight(pairs: Path, tmp_path: Path, poison: Any) -> None:
    """One step, skipped: neither the gradient nor the decay has moved a weight."""
    poison({0})
    result = pretrain(
        pairs, tmp_path / 'a', max_steps=1, validate_every=0, model=VIT,
        optimizer=OptimizerConfig(lr=0.1, weight_decay=0.5), **QUICK,
    )  # fmt: skip
    L.seed_everything(0, verbose=False)
    from training.methods.base import Setup

    start = Clcp(Setup(VIT, OptimizerConfig(), VIEWS, 1)).image_encoder.model.state_dict()
    assert all(torch.equal(v, start[k]) for k, v in load_file(result).items())


def test_repeated_ones_end_the_run_with_one_line(pairs: Path, tmp_path: Path, poison: Any) -> None:
    poison({2, 3, 4, 5})
    with pytest.raises(ModelError, match=r'the loss is nan at step 4, as were 2 before it.*lower'):
        pretrain(pairs, tmp_path / 'run', max_steps=9, validate_every=0, tolerance=2, **QUICK)


def test_damage_that_a_loader_process_meets_is_told_in_one_line(
    pairs: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / 'pairs'
    shutil.copytree(pairs, damaged)
    for shard in (damaged / 'shards').iterdir():
        shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(ClcpError) as error:
        pretrain(
            damaged, tmp_path / 'run', max_steps=2, validate_every=0, **{**QUICK, 'workers': 1}
        )
    assert str(damaged) in str(error.value)
    assert 'Traceback' not in str(error.value)
    assert '\n' not in str(error.value)


def test_a_checkpoint_of_another_model_says_which_keys_differ(pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / 'run'
    pretrain(pairs, out, max_steps=2, checkpoint_every=2, validate_every=0, **QUICK)
    (out / 'image_encoder.safetensors').unlink()
    checkpoint = read_checkpoint(out / CHECKPOINT)
    state = checkpoint['state_dict']
    state['image_head.weight'] = torch.zeros(3, 3)
    state['other.bias'] = state.pop('image_head.bias')
    write_atomically(checkpoint, out / CHECKPOINT)
    with pytest.raises(ModelError) as error:
        pretrain(pairs, out, max_steps=2, checkpoint_every=2, validate_every=0, **QUICK)
    message = str(error.value)
    assert '1 missing (image_head.bias)' in message
    assert '1 unexpected (other.bias)' in message
    assert 'image_head.weight (3, 3)' in message


@pytest.mark.parametrize('damage', ['cut', 'pickle', 'empty'])
def test_a_damaged_checkpoint_is_one_line(pairs: Path, tmp_path: Path, damage: str) -> None:
    out = tmp_path / 'run'
    pretrain(pairs, out, max_steps=2, checkpoint_every=2, validate_every=0, **QUICK)
    (out / 'image_encoder.safetensors').unlink()
    path = out / CHECKPOINT
    if damage == 'cut':
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == 'pickle':
        torch.save({'state_dict': {}, 'x': Path('code')}, path)
    else:
        path.write_bytes(b'')
    with pytest.raises(ModelError, match=r'last\.ckpt: not a checkpoint of plain data'):
        pretrain(pairs, out, max_steps=2, checkpoint_every=2, validate_every=0, **QUICK)


@contextlib.contextmanager
def full_disk(size: int) -> Iterator[None]:
    """A full disk, in the shape of the largest file that this process may write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_an_interrupted_write_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    path = tmp_path / CHECKPOINT
    write_atomically({'state_dict': {'x': torch.ones(3)}}, path)
    with full_disk(20_000), pytest.raises(ModelError, match=r'last\.ckpt could not be written'):
        write_atomically({'state_dict': {'x': torch.zeros(100_000)}}, path)
    assert read_checkpoint(path)['state_dict']['x'].tolist() == [1, 1, 1]
    assert [p.name for p in tmp_path.iterdir()] == [CHECKPOINT]


@pytest.mark.parametrize(
    ('every', 'file'), [('1', CHECKPOINT), ('9', 'lidar_encoder.safetensors')]
)
def test_a_full_disk_is_one_line_of_the_command(
    pairs: Path, tmp_path: Path, root: Path, every: str, file: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The checkpoint or, where there is none, the result."""
    given = command(
        pairs, tmp_path, root, '--max_steps', '1', '--checkpoint_every', every, '--workers', '0',
        '--loggers', 'none',
    )[2:]  # fmt: skip
    with full_disk(3_000_000), pytest.raises(SystemExit) as ended:
        run_command(pretrain, given)
    assert ended.value.code == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if 'error' in line.lower()]
    assert len(errors) == 1
    assert errors[0].startswith(f'error: {tmp_path / file} could not be written (')
    assert not (tmp_path / 'image_encoder.safetensors').exists()
    assert not list(tmp_path.glob('.*'))


def test_pairs_of_some_conditions(pairs: Path) -> None:
    pair_set = PairSet(pairs)
    both = chosen_pairs(pair_set, 'train')
    fog = chosen_pairs(pair_set, 'train', 'fog')
    assert len(fog) == len(both) // 2
    assert len(chosen_pairs(pair_set, 'train', 'fog, clear')) == len(both)
    assert all(json.loads(pair_set.column('tags')[p])['condition'] == 'fog' for p in fog)
    with pytest.raises(PairSetError, match='no training pairs with the tag snow; there are clear'):
        chosen_pairs(pair_set, 'train', 'snow')


def test_pairs_without_a_point_in_sight_are_left_out(tmp_path: Path) -> None:
    """All of them: nothing is learned, nothing breaks."""
    writer = PairSetWriter(tmp_path / 'blind')
    away = (make_pair(i, 'clear') for i in range(12))
    writer.write_sequence(
        's', (dataclasses.replace(p, points=p.points * np.float32([-1, 1, 1, 1])) for p in away)
    )
    writer.finish(['s'], {}, 0.25)
    result = pretrain(tmp_path / 'blind', tmp_path / 'run', max_steps=2, validate_every=1, **QUICK)
    assert all(torch.isfinite(v).all() for v in load_file(result).values())
    rows = read_metrics(tmp_path / 'run' / 'metrics.csv')
    assert [v for _, n, v in rows if n == 'pairs'] == [0, 0]


def test_hardware_that_is_not_there_is_one_line() -> None:
    HardwareConfig().check()
    assert HardwareConfig().trainer_arguments()['devices'] in (1, 'auto')
    if torch.cuda.is_available():
        pytest.skip('there is a GPU')
    for config in (
        HardwareConfig(accelerator='gpu'), HardwareConfig(strategy='deepspeed'),
        HardwareConfig(sync_batchnorm=True), HardwareConfig(devices=-1),
        HardwareConfig(num_nodes=0),
    ):  # fmt: skip
        with pytest.raises(ModelError):
            config.check()


@pytest.mark.parametrize(
    'wrong',
    [
        {'max_steps': 0}, {'batch_size': 1}, {'chunk': -1}, {'patience': -1},
        {'checkpoint_every': 0}, {'loggers': 'tensorbord'}, {'method': 'clpc'},
        {'tolerance': -1}, {'workers': -2}, {'seed': -1}, {'seed': 2**32},
        {'batch_gap': float('nan')}, {'batch_gap': float('inf')}, {'batch_gap': -1.0},
        {'model': ModelConfig(embed_dim=0)}, {'views': ViewConfig(crop_fraction=[0.5])},
        {'model': ModelConfig(lidar_batchnorm_trains=True)},
        {'optimizer': OptimizerConfig(head_lr=0.0)},
        {'watch': WatchConfig(probe=Path('frames')), 'validate_every': 0},
        {'keep': 'best', 'validate_every': 0}, {'patience': 1, 'validate_every': 99},
        {
            'keep': 'best', 'method': 'clcp_anchored',
            'clcp_anchored': AnchoredConfig(cls=0.0, nce=0.0, geometry=1.0),
        },
    ],
)  # fmt: skip
def test_wrong_options_are_one_line(pairs: Path, finished: Path, wrong: dict[str, Any]) -> None:
    """And they leave what was there."""
    before = contents(finished)
    options = {**QUICK, 'max_steps': 98, 'overwrite': True, **wrong}
    with pytest.raises(ClcpError) as error:
        pretrain(pairs, finished, **options)
    assert len(str(error.value)) < 200
    assert contents(finished) == before


def test_what_is_compared_has_to_be_measured(pairs: Path, tmp_path: Path) -> None:
    """A method that has no validation loss for a reason of its own."""
    best = Best(tmp_path, keep=False, patience=1, metric='val_probe_miou')
    trainer = L.Trainer(logger=False, enable_checkpointing=False, callbacks=[best])
    with pytest.raises(ModelError, match='compare val_probe_miou, which this run does not'):
        best.on_validation_end(trainer, L.LightningModule())


def test_a_frozen_lidar_encoder_that_knows_nothing_is_warned_of(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = {**QUICK, 'max_steps': 1, 'validate_every': 0}
    pretrain(pairs, tmp_path / 'a', model=ModelConfig(image_encoder='test_vit'), **run)
    assert 'warning' not in capsys.readouterr().out
    frozen = ModelConfig(image_encoder='test_vit', freeze_lidar=True)
    pretrain(pairs, tmp_path / 'b', model=frozen, **run)
    assert 'frozen and its weights are random' in capsys.readouterr().out
    known = dataclasses.replace(
        frozen, lidar_weights=str(tmp_path / 'b' / 'lidar_encoder.safetensors')
    )
    pretrain(pairs, tmp_path / 'c', model=known, **run)
    assert 'warning' not in capsys.readouterr().out


def test_bfloat16_trains(pairs: Path, tmp_path: Path) -> None:
    """Weights stay float32; the loss is that of float32 but for rounding, and not the same."""
    losses, stored = {}, {}
    for precision in ('32-true', 'bf16-mixed'):
        out = tmp_path / precision
        result = pretrain(
            pairs, out, max_steps=3, validate_every=3, precision=precision,
            model=ModelConfig(image_encoder='test_vit'), **QUICK,
        )  # fmt: skip
        rows = read_metrics(out / 'metrics.csv')
        losses[precision] = [v for _, n, v in rows if n in ('loss', 'val_loss')]
        stored[precision] = load_file(result)
        assert [v for _, n, v in rows if n == 'skipped'] == [0, 0, 0]
    assert losses['bf16-mixed'] == pytest.approx(losses['32-true'], rel=0.05)
    assert losses['bf16-mixed'] != losses['32-true']
    assert all(v.dtype == torch.float32 for v in stored['bf16-mixed'].values())


def test_tensorboard_is_written_where_it_is_installed(pairs: Path, tmp_path: Path) -> None:
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = {**QUICK, 'loggers': 'tensorboard'}
    pretrain(pairs, tmp_path / 'run', max_steps=4, validate_every=2, **options)
    events = EventAccumulator(str(tmp_path / 'run' / 'tensorboard'))
    events.Reload()
    assert {'loss', 'val_loss', 'val_patch_cosine'} <= set(events.Tags()['scalars'])


def test_a_logger_that_is_missing_is_a_hint(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for name in ('wandb', 'mlflow', 'tensorboard'):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModelError, match='pip install wandb'):
        pretrain(pairs, tmp_path / 'a', **{**QUICK, 'loggers': 'wandb'})
    pretrain(
        pairs, tmp_path / 'b', max_steps=1, validate_every=0, **{**QUICK, 'loggers': 'tensorboard'}
    )
    assert 'pip install tensorboard' in capsys.readouterr().out


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


@pytest.fixture(scope='module')
def finished(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp('finished') / 'run'
    pretrain(pairs, out, max_steps=1, validate_every=0, **QUICK)
    return out


@pytest.mark.parametrize(
    ('wrong', 'words'),
    [
        ({'loggers': 'tensorbord'}, 'there are tensorboard, wandb, mlflow, or none'),
        ({'precision': 'foo'}, "--precision foo .*'foo' is invalid"),
        ({'hardware': HardwareConfig(accelerator='foo')}, '--accelerator foo'),
        ({'hardware': HardwareConfig(strategy='foo')}, '--strategy foo'),
    ],
)
def test_wrong_options_do_not_cost_the_run_that_was_there(
    pairs: Path, finished: Path, wrong: dict[str, Any], words: str
) -> None:
    """--overwrite removes a run when the new one can begin, not before."""
    before = contents(finished)
    assert {'image_encoder.safetensors', 'settings.json', 'metrics.csv'} <= before.keys()
    with pytest.raises(ModelError, match=words):
        pretrain(pairs, finished, max_steps=1, overwrite=True, **{**QUICK, **wrong})
    assert contents(finished) == before


def test_a_service_that_does_not_answer_costs_nothing_either(
    pairs: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(out: Path, new: bool) -> Any:
        assert new
        raise ConnectionError('nobody there')

    monkeypatch.setitem(training.loggers._MAKERS, 'tensorboard', no_network)
    before = contents(finished)
    with pytest.raises(ModelError, match='--loggers tensorboard cannot be used: nobody there'):
        pretrain(
            pairs, finished, max_steps=1, overwrite=True, **{**QUICK, 'loggers': 'tensorboard'}
        )
    assert contents(finished) == before


def test_no_loggers_can_be_asked_for(pairs: Path, tmp_path: Path) -> None:
    pretrain(
        pairs, tmp_path / 'run', max_steps=1, validate_every=0, **{**QUICK, 'loggers': 'none'}
    )
    assert not (tmp_path / 'run' / 'tensorboard').exists()


@pytest.mark.parametrize('content', ['{"pairs":', '[]', ''])
def test_damaged_settings_are_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / 'settings.json').write_text(content)
    (tmp_path / CHECKPOINT).write_bytes(b'x')
    with pytest.raises(ModelError, match=r'settings\.json is damaged'):
        prepare_run(tmp_path, {'a': 1}, 'result', overwrite=False)
    assert prepare_run(tmp_path, {'a': 1}, 'result', overwrite=True).state == 'new'


def test_what_is_left_of_damaged_metrics_is_read(tmp_path: Path) -> None:
    path = tmp_path / 'metrics.csv'
    path.write_bytes(
        b'\xff\xfename,value\n1,loss,0.5\n\0\0\0\n2,loss,0.25,\n3,lo\xffss,1\n4,loss,2'
    )
    assert [r for r in read_metrics(path) if r[1] == 'loss'] == [(1, 'loss', 0.5), (4, 'loss', 2)]
    path.write_bytes(b'')
    assert 'no metrics' in summary(tmp_path)


def test_a_run_that_had_ended_early_takes_no_step_more(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed between its last checkpoint and its result: the same command writes the same."""
    options: dict[str, Any] = {
        **QUICK, 'model': VIT, 'max_steps': 40, 'validate_every': 1, 'checkpoint_every': 1,
        'patience': 1, 'keep': 'best', 'optimizer': OptimizerConfig(lr=3e-3),
    }  # fmt: skip
    result = pretrain(pairs, tmp_path, **options)
    ended, rows = load_file(result), read_metrics(tmp_path / 'metrics.csv')
    last = max(s for s, n, _ in rows if n == 'loss')
    assert last < 40
    result.unlink()
    pretrain(pairs, tmp_path, **options)
    again = [(s, n) for s, n, _ in read_metrics(tmp_path / 'metrics.csv') if n == 'loss']
    assert again == [(s, 'loss') for s in range(1, last + 1)]
    assert all(torch.equal(v, ended[k]) for k, v in load_file(result).items())
