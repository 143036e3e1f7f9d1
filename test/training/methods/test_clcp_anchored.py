# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Each term by itself: what it costs, whom it teaches and whom not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import lightning as L
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from clcp_ros.errors import ModelError
from training.loop import read_metrics
from training.methods import load_method
from training.methods.base import Setup
from training.methods.clcp_anchored import AnchoredConfig, ClcpAnchored
from training.methods.config import ModelConfig
from training.methods.dense import NegativeRules
from training.models.image_encoder import ImageEncoder
from training.pairs.contrastive import Extras, ViewConfig
from training.pretrain import pretrain
from training.watch.quantities import patch_cosines
from training.watch.watch import Watch, WatchConfig, tokens_of

SIZE, PAIRS, POINTS = 64, 3, 400
OFF: dict[str, Any] = {'cls': 0.0, 'point': 0.0, 'nce': 0.0, 'geometry': 0.0}
ALL: dict[str, Any] = {
    'cls': 0.2, 'point': 0.3, 'nce': 0.4, 'geometry': 0.5, 'returns': 0.9, 'anchor': 0.6,
    'gram': 0.7, 'consistency': 0.8, 'ema': 0.9,
}  # fmt: skip


@pytest.fixture(scope='module')
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files of initial weights, by architecture."""
    folder = tmp_path_factory.mktemp('weights')
    files = {}
    for name in ('test_efficientnet', 'test_vit'):
        torch.manual_seed(1)
        files[name] = str(folder / f'{name}.safetensors')
        ImageEncoder(name).save(Path(files[name]), (SIZE, SIZE), {})
    return files


def make(
    weights: dict[str, str] | None,
    network: str = 'test_efficientnet',
    freeze_lidar: bool = False,
    **options: Any,
) -> ClcpAnchored:
    torch.manual_seed(0)
    model = ModelConfig(
        network, None if weights is None else weights[network], lidar_encoder='minkunet_tiny',
        embed_dim=16, freeze_lidar=freeze_lidar,
    )  # fmt: skip
    views = ViewConfig(image_size=SIZE, voxel_size_m=0.5)
    config = AnchoredConfig(**{**OFF, 'width': 16, **options})
    return ClcpAnchored(Setup(model, views=views, max_steps=10, options=config)).train()


def make_batch(method: ClcpAnchored) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    preparation = method.lidar_encoder.preparation
    clouds = rng.uniform([2, -5, -2, 0], [20, 5, 3, 1], (PAIRS, POINTS, 4)).astype(np.float32)
    total = PAIRS * POINTS
    generator = torch.Generator().manual_seed(0)
    geometry = torch.rand(total, 6, generator=generator)
    return {
        'image': torch.randn(PAIRS, 3, SIZE, SIZE, generator=generator),
        'clean': torch.randn(PAIRS, 3, SIZE, SIZE, generator=generator),
        'lidar': preparation.collate([preparation(c) for c in clouds]),
        'uv': torch.rand(total, 2, generator=generator),
        'visible': torch.rand(total, generator=generator) < 0.8,
        'geometry': geometry,
        'reach': torch.full((PAIRS,), 0.2),
        'sequence': torch.arange(PAIRS),
        'time_s': torch.zeros(PAIRS, dtype=torch.float64),
    }


def touched(module: torch.nn.Module) -> bool:
    return any(p.grad is not None and bool(p.grad.any()) for p in module.parameters())


TERMS: dict[str, dict[str, Any]] = {
    'cls': {'cls': 1.0},
    'point': {'point': 1.0},
    'nce': {'nce': 1.0},
    'geometry': {'geometry': 1.0},
    'returns': {'returns': 1.0},
    'anchor': {'anchor': 1.0},
    'gram': {'gram': 1.0},
    'consistency': {'consistency': 1.0, 'ema': 0.9},
}


@pytest.mark.parametrize('term', TERMS)
def test_whom_a_term_teaches(term: str, weights: dict[str, str]) -> None:
    method = make(weights, **TERMS[term])
    batch = make_batch(method)
    loss, facts = method.loss_of([batch])
    loss.backward()
    assert torch.isfinite(loss)
    assert touched(method.image_encoder)
    assert touched(method.lidar_encoder) == (term in ('cls', 'nce'))
    for copied in [*method._initial, *([method.teacher] if method.teacher else [])]:
        assert all(p.grad is None and not p.requires_grad for p in copied.parameters())
    # What nothing teaches is frozen: DDP would wait for its gradients.
    waiting = [n for n, p in method.named_parameters() if p.requires_grad and p.grad is None]
    assert not waiting
    expected = {'contrast'} if term == 'cls' else {f'term_{term}'}
    assert {k for k in facts if k.startswith(('term', 'contrast'))} == expected


@pytest.mark.parametrize('term', TERMS)
def test_a_term_without_weight_costs_nothing(term: str, weights: dict[str, str]) -> None:
    """Neither parameters, nor data, nor a pass through another network."""
    others = {k: v for k, v in ALL.items() if k != term and (k, term) != ('ema', 'consistency')}
    whole, less = make(weights, **ALL), make(weights, **others)
    passes = {'whole': 0, 'less': 0}
    for name, method in (('whole', whole), ('less', less)):
        networks = [method.lidar_encoder, *method._initial]
        networks += [method.teacher] if method.teacher else []
        for network in networks:
            network.register_forward_hook(
                lambda *_, name=name: passes.update({name: passes[name] + 1})
            )
        method.loss_of([make_batch(method)])
    assert f'term_{term}' not in less.loss_of([make_batch(less)])[1]
    if term == 'consistency':
        assert passes['less'] < passes['whole'] * 2
        assert less.teacher is None
    if term in ('cls', 'geometry', 'returns', 'consistency'):
        assert len(less.state_dict()) < len(whole.state_dict())


def test_validation_without_a_joint_embedding_computes_nothing(weights: dict[str, str]) -> None:
    method = make(weights, geometry=1.0).eval()
    ran = []
    method.image_encoder.register_forward_hook(lambda *_: ran.append(1))
    assert method.embed(make_batch(method)).image is None
    assert not ran
    method.train().embed(make_batch(method))
    assert ran


@pytest.mark.parametrize('head', ['linear', 'mlp'])
def test_a_scan_without_points_has_no_embedding(head: Literal['linear', 'mlp']) -> None:
    torch.manual_seed(0)
    method = ClcpAnchored(
        Setup(
            ModelConfig('test_efficientnet', lidar_head=head, embed_dim=16),
            views=ViewConfig(image_size=SIZE, voxel_size_m=0.5),
            options=AnchoredConfig(**{**OFF, 'cls': 1.0}),
        )
    ).eval()
    batch = make_batch(method)
    preparation = method.lidar_encoder.preparation
    clouds = [np.zeros((0, 4), np.float32), np.ones((5, 4), np.float32)]
    batch['lidar'] = preparation.collate([preparation(c) for c in clouds])
    batch['image'] = batch['image'][:2]
    embedded = method.embed(batch)
    assert embedded.visible is not None
    assert embedded.visible.tolist() == [False, True]
    assert embedded.lidar is not None
    assert embedded.lidar.norm(dim=1).tolist() == pytest.approx([0, 1])


def test_nothing_of_the_lidar_encoder_for_geometry_alone(weights: dict[str, str]) -> None:
    method = make(None, geometry=1.0)
    ran = []
    method.lidar_encoder.register_forward_hook(lambda *_: ran.append(1))
    loss, facts = method.loss_of([make_batch(method)])
    loss.backward()
    assert not ran
    assert not any(p.requires_grad for p in method.lidar_encoder.parameters())
    assert method.teacher is None
    assert not method._initial
    assert float(loss) == pytest.approx(float(facts['term_geometry']))
    assert method.extras == Extras(points=True, geometry=True)
    assert make(None, cls=1.0).extras == Extras()
    rules = NegativeRules(same_shape=False)
    assert make(None, nce=1.0, negatives=rules).extras == Extras(points=True)
    assert make(None, returns=1.0).extras == Extras(points=True, reach=True)
    assert make(weights, anchor=1.0).extras == Extras(clean=True)


def test_the_loss_is_the_weighted_sum(weights: dict[str, str]) -> None:
    method = make(weights, **ALL)
    loss, facts = method.loss_of([make_batch(method)])
    total = sum(ALL[k.removeprefix('term_')] * v for k, v in facts.items() if k.startswith('term'))
    total = total + ALL['cls'] * facts['contrast']
    assert float(loss) == pytest.approx(float(total), rel=1e-5)


def test_the_average_follows_and_the_first_stays(weights: dict[str, str]) -> None:
    method = make(weights, **ALL)
    assert method.teacher is not None
    first = copy.deepcopy(method._initial[0].state_dict())
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], 0.05)
    batch = make_batch(method)
    wanted = {k: v.clone() for k, v in method.teacher.named_parameters()}
    for step in range(3):
        optimizer.zero_grad()
        method.loss_of([batch])[0].backward()
        optimizer.step()
        with torch.no_grad():
            method.after_step()
        decay = min(0.9, (step + 2) / (step + 11))
        student = dict(method.image_encoder.named_parameters())
        wanted = {k: decay * v + (1 - decay) * student[k] for k, v in wanted.items()}
    for name, value in method.teacher.named_parameters():
        torch.testing.assert_close(value, wanted[name].detach(), rtol=1e-5, atol=1e-6)
    assert not method.teacher.training
    assert method.image_encoder.training
    for name, value in method._initial[0].state_dict().items():
        assert torch.equal(value, first[name]), name
    assert 'steps' in method.state_dict()
    assert not any(k.startswith('_initial') for k in method.state_dict())


def trained(method: ClcpAnchored) -> ClcpAnchored:
    with torch.no_grad():
        for p in method.parameters():
            if p.requires_grad:
                p.add_(0.05 * torch.randn_like(p))
    return method


def test_what_is_exported(weights: dict[str, str]) -> None:
    first = load_file(weights['test_efficientnet'])

    def exported(**options: Any) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        method = trained(make(weights, geometry=1.0, **options))
        state = method.exported_encoder().model.state_dict()
        return state, method.image_encoder.model.state_dict()

    for share in (0.0, 0.4, 1.0):
        saved, student = exported(wise_ft=share)
        for key, value in saved.items():
            if value.is_floating_point():
                mixed = share * student[key] + (1 - share) * first[key]
                torch.testing.assert_close(value, mixed)
    saved, student = exported(ema=0.9)
    assert all(torch.equal(v, first[k]) for k, v in saved.items())
    saved, student = exported(ema=0.9, export_ema=False)
    assert all(torch.equal(v, student[k]) for k, v in saved.items())


@pytest.mark.parametrize(
    'options',
    [
        {},
        {'ema': 0.9},
        {'ema': 0.9, 'export_ema': False},
        {'wise_ft': 0.3},
        {'ema': 0.9, 'wise_ft': 0.3, 'anchor': 1.0},
    ],
)
def test_what_would_be_saved_is_watched(options: dict[str, Any], weights: dict[str, str]) -> None:
    method = trained(make(weights, geometry=1.0, **options)).eval()
    images = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        watched = method.watched()(images).grid
        torch.testing.assert_close(watched, method.exported_encoder().eval()(images).grid)
        student = method.encode_image(images).grid
    of_the_student = not options or options.get('export_ema') is False
    assert torch.equal(watched, student) == of_the_student
    watch = Watch(WatchConfig(images=2), _initial(method), images, SIZE, 10, True)
    with torch.no_grad():
        cosines = patch_cosines(tokens_of(watched), tokens_of(_initial(method)(images).grid))
    measured = watch.measure(method, None)['patch_cosine']
    assert measured == pytest.approx(float(cosines.mean()), abs=1e-5)


def _initial(method: ClcpAnchored) -> ImageEncoder:
    encoder = copy.deepcopy(method.image_encoder)
    assert method.setup_.model.image_weights is not None
    encoder.model.load_state_dict(load_file(method.setup_.model.image_weights))
    return encoder.eval().requires_grad_(False)


def test_low_rank_changes_are_merged_on_export(weights: dict[str, str]) -> None:
    method = trained(make(weights, 'test_vit', geometry=1.0, lora_rank=2, ema=0.9))
    images = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        wanted = method.eval().encode_image(images).grid
        method.setup_.options.export_ema = False
        encoder = method.exported_encoder().eval()
        torch.testing.assert_close(encoder(images).grid, wanted, rtol=1e-4, atol=1e-5)
    assert encoder.model.state_dict().keys() == load_file(weights['test_vit']).keys()
    names = [n for n, p in method.image_encoder.named_parameters() if p.requires_grad]
    assert names
    assert all('parametrizations' in name for name in names)
    assert method.train().loss_of([make_batch(method)])[0].requires_grad


def test_a_finished_run_is_read_again(weights: dict[str, str], tmp_path: Path) -> None:
    method = trained(make(weights, 'test_vit', **{**ALL, 'lora_rank': 2})).eval()
    method.save(tmp_path, 'clcp_anchored', {})
    again = load_method(tmp_path)
    batch = make_batch(method)
    assert method.teacher is not None
    with torch.no_grad():
        a, b = method.embed(batch), again.embed(batch)
    assert a.own == b.own == {}
    torch.testing.assert_close(a.lidar, b.lidar)
    assert isinstance(again, ClcpAnchored)
    assert again.options == method.options
    assert again.extras == method.extras
    # The average is what was saved, and what embeds from then on.
    with torch.no_grad():
        torch.testing.assert_close(
            again.encode_image(batch['image']).grid, method.teacher(batch['image']).grid,
            rtol=1e-4, atol=1e-5,
        )  # fmt: skip


def part_of(method: ClcpAnchored, batch: dict[str, Any], pairs: slice) -> dict[str, Any]:
    preparation = method.lidar_encoder.preparation
    rng = np.random.default_rng(0)
    clouds = rng.uniform([2, -5, -2, 0], [20, 5, 3, 1], (PAIRS, POINTS, 4)).astype(np.float32)
    rows = slice(pairs.start * POINTS, pairs.stop * POINTS)
    part = {k: batch[k][pairs] for k in ('image', 'clean', 'sequence', 'time_s', 'reach')}
    part |= {k: batch[k][rows] for k in ('uv', 'visible', 'geometry')}
    part['lidar'] = preparation.collate([preparation(c) for c in clouds[pairs]])
    return part


def in_chunks(method: ClcpAnchored, batch: dict[str, Any]) -> list[dict[str, Any]]:
    return [part_of(method, batch, pairs) for pairs in (slice(0, 2), slice(2, 3))]


@pytest.mark.parametrize('limits', [(0, 0), (9, 100)])
def test_chunks_give_the_gradient_of_the_whole(
    limits: tuple[int, int], weights: dict[str, str]
) -> None:
    """Means over all values, negatives and random choices are those of the whole batch."""
    method = make(
        weights, 'test_vit', freeze_lidar=True, max_groups=limits[0], max_points=limits[1],
        **{**ALL, 'temperature': 0.5},
    )  # fmt: skip
    batch = make_batch(method)
    losses, gradients = [], []
    for parts in ([batch], in_chunks(method, batch)):
        method.zero_grad()
        torch.manual_seed(1)
        loss, facts = method.loss_of(parts)
        loss.backward()
        losses.append({k: float(v) for k, v in facts.items()} | {'loss': float(loss.detach())})
        gradients.append([p.grad.clone() for p in method.parameters() if p.grad is not None])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0]['term_nce'] > 0
    assert len(gradients[0]) == len(gradients[1]) > 10
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def of_two_processes(weights: dict[str, str] | None) -> ClcpAnchored:
    return make(
        weights, 'test_vit', freeze_lidar=True, max_groups=9, max_points=0, cls=1.0, nce=1.0,
        point=1.0, geometry=1.0, returns=1.0,
    )  # fmt: skip


PROCESS = """
    import importlib.util, sys
    import torch.distributed as dist
    from safetensors.torch import save_file

    spec = importlib.util.spec_from_file_location('anchored', sys.argv[1])
    tests = importlib.util.module_from_spec(spec); sys.modules['anchored'] = tests
    spec.loader.exec_module(tests)
    folder, rank = sys.argv[2], int(sys.argv[3])
    dist.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    method = tests.of_two_processes(None)
    batch = tests.make_batch(method)
    method.loss_of([tests.part_of(method, batch, slice(rank, rank + 1))])[0].backward()
    gradients = {}
    for name, parameter in method.named_parameters():
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            gradients[name] = (parameter.grad / 2).contiguous()
    if rank == 0:
        save_file(gradients, f'{folder}/gradients.safetensors')
    dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_give_the_gradient_of_one(
    tmp_path: Path, in_two_processes: Callable[..., None]
) -> None:
    in_two_processes(PROCESS, __file__, tmp_path)
    method = of_two_processes(None)
    loss, facts = method.loss_of([part_of(method, make_batch(method), slice(0, 2))])
    loss.backward()
    assert facts['term_nce'] > 0
    found = load_file(tmp_path / 'gradients.safetensors')
    wanted = {n: p.grad for n, p in method.named_parameters() if p.grad is not None}
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5)


def test_a_frame_has_as_many_negatives_whatever_its_batch(weights: dict[str, str]) -> None:
    """The contrast of a frame is the same among few others and among many."""
    method = make(weights, nce=1.0, max_groups=6).eval()
    batch = make_batch(method)
    with torch.no_grad():
        grid = method.encode_image(batch['image']).grid
        scans = method.lidar_encoder(batch['lidar'], per_point=True)
        whole = method._dense_terms(batch, grid, scans)['nce'].values
        first = in_chunks(method, batch)[0]
        scans = method.lidar_encoder(first['lidar'], per_point=True)
        some = method._dense_terms(first, grid[:2], scans)['nce'].values
    assert len(whole) == 6 * PAIRS
    torch.testing.assert_close(some, whole[:12], rtol=1e-4, atol=1e-4)
    # Another step chooses others.
    method.steps += 1
    with torch.no_grad():
        other = method._dense_terms(first, grid[:2], scans)['nce'].values
    assert not torch.allclose(other, some, rtol=1e-4)


def test_negatives_of_a_whole_batch_are_refused_where_a_part_of_it_is_seen(
    weights: dict[str, str],
) -> None:
    method = make(weights, nce=1.0, negatives=NegativeRules(scope='batch'), max_groups=6)
    batch = make_batch(method)
    values = method.embed(batch).own['nce'].values
    assert len(values) == 6
    assert torch.isfinite(method.loss_of([batch])[0])
    with pytest.raises(ModelError, match='one chunk of one process'):
        method.loss_of(in_chunks(method, batch))


def test_a_batch_without_a_visible_point_is_finite(weights: dict[str, str]) -> None:
    method = make(weights, **ALL)
    batch = make_batch(method)
    batch['visible'][:] = False
    loss, facts = method.loss_of([batch])
    loss.backward()
    assert torch.isfinite(loss)
    assert facts['term_nce'] == facts['term_geometry'] == 0
    gradients = [p.grad for p in method.parameters() if p.grad is not None]
    assert all(torch.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({}, 'all terms have weight 0'),
        ({'nce': -1.0}, 'weight nce'),
        ({'geometry': float('nan')}, 'weight geometry'),
        ({'geometry': 1.0, 'ema': 1.0}, 'ema is a decay'),
        ({'geometry': 1.0, 'wise_ft': 1.2}, 'wise_ft is a share'),
        ({'consistency': 1.0}, 'needs a moving average'),
        ({'anchor': 1.0}, 'anchor holds on to the initial weights'),
        ({'geometry': 1.0, 'lora_rank': 2}, 'lora_rank holds on'),
        ({'geometry': 1.0, 'wise_ft': 0.5}, 'wise_ft holds on'),
        ({'geometry': 1.0, 'temperature': 0.0}, 'temperature must be positive'),
    ],
)
def test_options_that_mean_nothing(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        make(None, **options)


class Interrupt(L.Callback):
    """Ctrl-C in the middle of a run."""

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        if trainer.global_step == 4:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_resumed_equals_uninterrupted(
    noise_pairs: Path, weights: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Average, predictor and frozen copy included; with workers and in chunks."""
    options: dict[str, Any] = {
        'method': 'clcp_anchored', 'max_steps': 6, 'batch_size': 4, 'validate_every': 3,
        'checkpoint_every': 2, 'chunk': 2, 'batch_gap': 0, 'workers': 1,
        'clcp_anchored': AnchoredConfig(**ALL, width=16),
        'model': ModelConfig('test_vit', weights['test_vit'], embed_dim=16),
        'views': ViewConfig(
            image_size=SIZE, augment='weather', flip=True, voxel_size_m=0.5, crop_fraction=[0.8, 1]
        ),
    }  # fmt: skip
    whole = load_file(pretrain(noise_pairs, tmp_path / 'whole', **options))
    real = L.Trainer.fit

    def fit(self: L.Trainer, *args: object, **kwargs: object) -> None:
        self.callbacks.append(Interrupt())  # type: ignore[attr-defined]
        real(self, *args, **kwargs)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(L.Trainer, 'fit', fit)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            pretrain(noise_pairs, tmp_path / 'parts', **options)
    options['workers'] = 0
    parts = load_file(pretrain(noise_pairs, tmp_path / 'parts', **options))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[k], parts[k]) for k in whole)
    first = load_file(weights['test_vit'])
    assert any(not torch.equal(whole[k], first[k]) for k in whole)
    names = {name for _, name, _ in read_metrics(tmp_path / 'whole' / 'metrics.csv')}
    assert {f'term_{t}' for t in ALL if t not in ('cls', 'ema')} <= names
    assert {'contrast', 'val_loss', 'val_r1'} <= names
