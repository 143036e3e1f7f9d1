# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What holds for every lidar encoder, whatever is inside."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader, Dataset

import training.models.lidar as lidar
from clcp_ros.errors import ModelError
from training.models.lidar import (
    LidarBatch,
    LidarEncoder,
    LidarOptions,
    LidarSample,
    Preparation,
    create_lidar_encoder,
    lidar_families,
)
from training.models.lidar.range_image import RangeImageEncoder

SMALL_PILLARS: dict[str, Any] = {
    'range_m': (0.0, -6.4, -2.0, 12.8, 6.4, 2.0), 'pillar_size_m': 0.8, 'channels': 8,
    'layers': (1, 1, 1), 'strides': (1, 2, 2),
}  # fmt: skip
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    'voxels': ('minkunet_tiny', {'voxel_size_m': 0.4}),
    'coarse voxels': ('minkunet_tiny', {'voxel_size_m': 0.4, 'output': 'encoder'}),
    'between voxels': ('minkunet_tiny', {'voxel_size_m': 0.4, 'point': 'trilinear'}),
    'pillars': ('pointpillars', SMALL_PILLARS),
    'range image': ('range_vit_tiny_patch16_224', {'image_size': (32, 48)}),
    'range image, one channel': ('range_resnet10t', {
        'image_size': (32, 64), 'channels': 1, 'pool': 'avg',
    }),
}  # fmt: skip


def make(kind: str, **options: Any) -> LidarEncoder:
    torch.manual_seed(0)
    architecture, settings = ENCODERS[kind]
    return create_lidar_encoder(architecture, LidarOptions(**options), **settings)


def scan(seed: int, n: int = 300) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.uniform([0.5, -6, -1.5, 0], [12, 6, 0.3, 1], (n, 4)).astype(np.float32)


def batch_of(encoder: LidarEncoder, *scans: np.ndarray) -> LidarBatch:
    return encoder.preparation.collate([encoder.preparation(s) for s in scans])


@pytest.fixture(params=ENCODERS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def test_shapes_and_bookkeeping(kind: str) -> None:
    encoder = make(kind).eval()
    scans = [scan(0), scan(1)[:0], scan(2, 77)]
    with torch.no_grad():
        features = encoder(batch_of(encoder, *scans), per_point=True)
    d = encoder.embed_dim
    assert features.pooled.shape == (3, d)
    assert features.tokens.shape == (len(features.token_sample), d)
    assert features.points is not None
    assert features.point_seen is not None
    assert features.points.shape == (377, d)
    assert torch.bincount(features.point_sample, minlength=3).tolist() == [300, 0, 77]
    assert (features.token_sample.diff() >= 0).all()
    assert not features.pooled[1].any()  # nothing was there
    assert features.pooled[0].any()
    assert not torch.equal(features.pooled[0], features.pooled[2])
    assert features.point_seen.float().mean() > 0.3
    assert not features.points[~features.point_seen].any()
    assert features.points[features.point_seen].any(dim=1).float().mean() > 0.9
    assert all(x is None or torch.isfinite(x).all() for x in features)
    without = encoder(batch_of(encoder, *scans))
    assert without.points is None
    torch.testing.assert_close(without.pooled, features.pooled)


def test_points_of_another_shape_or_without_a_place_are_refused(kind: str) -> None:
    preparation = make(kind).preparation
    with pytest.raises(ModelError, match=r'x, y, z, intensity; got \(5, 3\)'):
        preparation(np.zeros((5, 3), np.float32))
    points = scan(0)
    points[3, 2] = np.nan
    with pytest.raises(ModelError, match='NaN'):
        preparation(points)
    ring = np.column_stack([scan(0), np.arange(300)])  # further columns are not read, nor float64
    for key, value in preparation(scan(0)).items():
        assert np.array_equal(preparation(ring)[key], value), key


def test_a_batch_is_its_samples(kind: str) -> None:
    encoder = make(kind).eval()
    scans = [scan(0), scan(1)[:0], scan(2, 77)]
    with torch.no_grad():
        together = encoder(batch_of(encoder, *scans), per_point=True)
        for i, one in enumerate(scans):
            alone = encoder(batch_of(encoder, one), per_point=True)
            close = {'atol': 1e-5, 'rtol': 1e-4}
            torch.testing.assert_close(together.pooled[i], alone.pooled[0], **close)
            mine = together.token_sample == i
            torch.testing.assert_close(together.tokens[mine], alone.tokens, **close)
            mine = together.point_sample == i
            torch.testing.assert_close(together.points[mine], alone.points, **close)  # type: ignore[index]


def test_frozen_means_frozen(kind: str) -> None:
    encoder = make(kind, frozen=True)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    torch.nn.Sequential(encoder).train()
    assert not any(m.training for m in encoder.modules())
    head = torch.nn.Linear(encoder.embed_dim, 2)
    optimizer = torch.optim.SGD([*encoder.parameters(), *head.parameters()], 0.1, weight_decay=1)
    features = encoder(batch_of(encoder, scan(0), scan(1)))
    assert not features.pooled.requires_grad
    head(features.pooled).square().mean().backward()
    optimizer.step()
    after = encoder.state_dict()
    assert after.keys() == before.keys() == make(kind).state_dict().keys()
    assert all(torch.equal(before[k], after[k]) for k in after)


def test_it_trains(kind: str) -> None:
    encoder = make(kind).train()
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    optimizer = torch.optim.SGD(encoder.parameters(), 0.1)
    features = encoder(batch_of(encoder, scan(0), scan(1)), per_point=True)
    assert features.points is not None
    (features.pooled.square().mean() + features.points.square().mean()).backward()
    optimizer.step()
    changed = {k for k, v in encoder.state_dict().items() if not torch.equal(before[k], v)}
    assert len(changed) > 0.5 * len(before)


def test_it_trains_in_mixed_precision(kind: str) -> None:
    encoder = make(kind).train()
    with torch.autocast('cpu', torch.bfloat16):
        features = encoder(batch_of(encoder, scan(0), scan(1)), per_point=True)
        loss = features.pooled.float().square().mean() + features.points.float().square().mean()  # type: ignore[union-attr]
    loss.backward()
    grads = [p.grad for p in encoder.parameters() if p.grad is not None]
    assert len(grads) > 5
    assert all(torch.isfinite(g).all() for g in grads)


def test_bfloat16_is_close(kind: str) -> None:
    exact, coarse = make(kind, frozen=True), make(kind, frozen=True, precision='bfloat16')
    batch = batch_of(exact, scan(0), scan(1))
    a, b = exact(batch).pooled, coarse(batch).pooled
    assert b.dtype == torch.float32
    assert 0 < (a - b).norm() / a.norm() < 0.05
    with pytest.raises(ModelError, match='bfloat16 weights are for frozen'):
        make(kind, precision='bfloat16')


def test_activation_checkpointing_gives_the_same_gradients(kind: str) -> None:
    if kind == 'range image, one channel':
        with pytest.raises(ModelError, match='count their statistics twice'):
            make(kind, checkpoint_activations=True)
        return
    saving = make(kind, checkpoint_activations=True)
    plain = make(kind)
    for encoder in (plain, saving):
        encoder(batch_of(encoder, scan(0), scan(1))).pooled.square().mean().backward()
    for (name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, atol=1e-6, rtol=1e-3, msg=name)
    for (name, a), b in zip(plain.named_buffers(), saving.buffers(), strict=True):
        assert torch.equal(a, b), name


class Scans(Dataset[LidarSample]):
    def __init__(self, preparation: Preparation) -> None:
        self.preparation = preparation

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> LidarSample:
        return self.preparation(scan(index, 50))


def test_preparation_runs_in_workers_without_the_network(kind: str) -> None:
    encoder = make(kind)
    preparation = pickle.loads(pickle.dumps(encoder.preparation))
    assert len(pickle.dumps(preparation)) < 2000  # settings, no weights
    loader = DataLoader(Scans(preparation), 2, collate_fn=preparation.collate, num_workers=1)
    here = batch_of(encoder, scan(0, 50), scan(1, 50))
    for key, value in next(iter(loader)).items():
        assert torch.equal(value, here[key]), key


def test_weights_are_loaded_strictly(kind: str, tmp_path: Path) -> None:
    encoder = make(kind)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.uniform_(-0.1, 0.1)
    inner: Any = encoder
    for name in ('network', 'image_encoder', 'model'):
        inner = getattr(inner, name, inner)
    save_file(inner.state_dict(), tmp_path / 'w.safetensors')
    again = make(kind, weights=tmp_path / 'w.safetensors').state_dict()
    assert all(torch.equal(v, again[k]) for k, v in encoder.state_dict().items())
    state = dict(inner.state_dict())
    state.pop([k for k in state if k.endswith('.weight')][-1])
    save_file(state, tmp_path / 'less.safetensors')
    with pytest.raises(ModelError, match='missing'):
        make(kind, weights=tmp_path / 'less.safetensors')


def test_weights_of_three_channels_are_summed_for_one(tmp_path: Path) -> None:
    settings = {'image_size': (32, 32), 'pool': 'avg'}
    three = create_lidar_encoder('range_resnet10t', **settings)
    save_file(three.image_encoder.model.state_dict(), tmp_path / 'w.safetensors')  # type: ignore[union-attr]
    options = LidarOptions(weights=tmp_path / 'w.safetensors')
    one = create_lidar_encoder('range_resnet10t', options, channels=1, **settings)
    kernels = [e.image_encoder.model.conv1[0].weight for e in (three, one)]  # type: ignore[union-attr]
    assert torch.equal(kernels[0].sum(1, keepdim=True), kernels[1])


def test_pixels_of_the_range_image() -> None:
    encoder = make('range image')
    assert isinstance(encoder, RangeImageEncoder)
    encoder.eval()
    batch = batch_of(encoder, scan(0))
    with torch.no_grad():
        pixels, features = encoder.pixels(batch), encoder(batch, per_point=True)
    assert pixels.shape == (1, 192, 32, 300)
    assert features.points is not None
    columns, rows = (batch['xy'] * torch.tensor([300.0, 32.0])).long().clamp(min=0).T
    mine = pixels[0][:, rows.clamp(max=31), columns.clamp(max=299)].T[features.point_seen]
    # A point's place within its pixel makes a small difference.
    error = (mine - features.points[features.point_seen]).norm() / mine.norm()
    assert error < 0.05


def test_copies_are_independent(kind: str) -> None:
    frozen = make(kind, frozen=True)
    batch = batch_of(frozen, scan(0))
    expected = frozen(batch).pooled
    twin = copy.deepcopy(frozen)
    with torch.no_grad():
        for parameter in frozen.parameters():
            parameter.zero_()
    assert torch.equal(twin(batch).pooled, expected)


def test_names_and_settings_are_checked() -> None:
    assert {'minkunet', 'pointpillars', 'range image'} <= lidar_families().keys()
    for family in lidar_families().values():
        assert all(family.knows(name) for name in family.architectures)
    with pytest.raises(ModelError, match=r"unknown lidar encoder 'minkunet34'.*minkunet34_w32"):
        create_lidar_encoder('minkunet34')
    with pytest.raises(ModelError, match='unknown lidar encoder'):
        create_lidar_encoder('range_nonsense')
    with pytest.raises(ModelError, match='VoxelSettings has no voxel_size; there are'):
        create_lidar_encoder('minkunet_tiny', voxel_size=0.1)
    for name in ('pointpillars', 'range_resnet10t'):
        with pytest.raises(ModelError, match='means nothing'):
            create_lidar_encoder(name, LidarOptions(sparse_backend='torch'))
    with pytest.raises(ModelError, match='must be positive'):
        create_lidar_encoder('minkunet_tiny', voxel_size_m=0)


OWN = """
import numpy as np
import torch
from training.models.lidar import LidarEncoder, LidarFeatures, make_settings
from training.models.lidar.base import mean_per_sample, samples_of


class RowsOfPoints:
    def __call__(self, points):
        return {'points': points}

    def collate(self, samples):
        return {
            'points': torch.from_numpy(np.concatenate([s['points'] for s in samples])),
            'point_count': torch.tensor([len(s['points']) for s in samples]),
        }


class PointNet(LidarEncoder):
    architecture, embed_dim = 'own_pointnet', 16

    def __init__(self, options):
        super().__init__()
        self.preparation = RowsOfPoints()
        self.net = torch.nn.Linear(4, 16)
        if options.frozen:
            self.freeze()

    def encode(self, batch, per_point=False):
        x, sample = self.net(batch['points']), samples_of(batch['point_count'])
        pooled = mean_per_sample(x, sample, len(batch['point_count']))
        seen = torch.ones(len(x), dtype=torch.bool)
        return LidarFeatures(x, sample, pooled, x, sample, seen)


class Family:
    name, architectures = 'own', ('own_pointnet',)

    def knows(self, architecture):
        return architecture in self.architectures

    def create(self, architecture, options, settings):
        return PointNet(options)


FAMILY = Family()
"""


def test_ones_own_encoder_is_a_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'own.py').write_text(OWN)
    monkeypatch.setattr(lidar, '__path__', [*lidar.__path__, str(tmp_path)])
    lidar_families.cache_clear()
    try:
        encoder = create_lidar_encoder('own_pointnet', LidarOptions(frozen=True))
        features = encoder(batch_of(encoder, scan(0), scan(1)))
        assert features.pooled.shape == (2, 16)
        assert not features.pooled.requires_grad
        assert not encoder.train().training
    finally:
        lidar_families.cache_clear()
        sys.modules.pop('training.models.lidar.own', None)


@pytest.mark.parametrize('architecture', ['minkunet_tiny', 'pointpillars', 'range_resnet10t'])
def test_on_real_scans(architecture: str, sample_data: Path) -> None:
    """Geometry as published, on two frames of KITTI."""
    files = sorted((sample_data / 'kitti_raw').rglob('velodyne_points/data/*.bin'))[:2]
    scans = [np.fromfile(f, np.float32).reshape(-1, 4) for f in files]
    settings: Mapping[str, Any] = {
        'minkunet_tiny': {}, 'pointpillars': {'channels': 24}, 'range_resnet10t': {'pool': 'avg'},
    }[architecture]  # fmt: skip
    torch.manual_seed(0)
    encoder = create_lidar_encoder(architecture, LidarOptions(frozen=True), **settings)
    features = encoder(batch_of(encoder, *scans), per_point=True)
    assert features.points is not None
    assert len(features.points) == sum(map(len, scans))
    assert torch.isfinite(features.points).all()
    a, b = features.pooled
    c = encoder(batch_of(encoder, scans[0][::7])).pooled[0]
    # Consecutive frames are nearly the same scene.
    assert (a - b).norm() < (a - c).norm()
