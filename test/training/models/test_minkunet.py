# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from clcp_ros.errors import ModelError
from training.models.minkunet import ARCHITECTURES, MinkUNet, published_shapes
from training.sparse import SparseGrid, Voxels, batch_voxels, voxelize

PASSES = 8


def cloud(seed: int, n: int = 400) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.uniform(0, [4, 4, 2, 1], (n, 4)).astype(np.float32)


def voxels(*seeds: int) -> list[Voxels]:
    return [voxelize(cloud(seed), 0.2) for seed in seeds]


def trained(architecture: str = 'minkunet_tiny') -> MinkUNet:
    """A network whose BatchNorm is not the identity, and whose features are of the order of one.

    Untrained weights let features fade from layer to layer, and comparisons would prove nothing.
    """
    return copy.deepcopy(_trained(architecture))


@functools.cache
def _trained(architecture: str) -> MinkUNet:
    torch.manual_seed(0)
    net = MinkUNet(architecture)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.3)
            module.momentum = 0.6
    batch = batch_voxels(voxels(11, 12))
    with torch.no_grad():
        for _ in range(PASSES):
            net(*batch)
    return net.eval()


def published_keys(in_channels: int = 4) -> dict[str, tuple[int, ...]]:
    """MinkUNet34-W32's tensors as MMDetection3D's torchsparse checkpoints name them."""
    keys: dict[str, tuple[int, ...]] = {}

    def norm(name: str, c: int) -> None:
        for part in ('weight', 'bias', 'running_mean', 'running_var'):
            keys[f'{name}.{part}'] = (c,)
        keys[f'{name}.num_batches_tracked'] = ()

    def conv(name: str, volume: int, c_in: int, c_out: int) -> None:
        keys[f'{name}.net.0.kernel'] = (volume, c_in, c_out)
        norm(f'{name}.net.1', c_out)

    def block(name: str, c_in: int, c_out: int) -> None:
        conv(name, 27, c_in, c_out)
        keys[f'{name}.net.3.kernel'] = (27, c_out, c_out)
        norm(f'{name}.net.4', c_out)
        if c_in != c_out:
            keys[f'{name}.downsample.0.kernel'] = (c_in, c_out)
            norm(f'{name}.downsample.1', c_out)

    conv('conv_input.0', 27, in_channels, 32)
    conv('conv_input.1', 27, 32, 32)
    for i, (c_in, c_out, blocks) in enumerate(
        [(32, 32, 2), (32, 64, 3), (64, 128, 4), (128, 256, 6)]
    ):
        conv(f'encoder.{i}.0', 8, c_in, c_in)
        for j in range(1, blocks + 1):
            block(f'encoder.{i}.{j}', c_in if j == 1 else c_out, c_out)
    for i, (c_in, c_out, lateral) in enumerate(
        [(256, 256, 128), (256, 128, 64), (128, 96, 32), (96, 96, 32)]
    ):
        conv(f'decoder.{i}.0', 8, c_in, c_out)
        block(f'decoder.{i}.1.0', c_out + lateral, c_out)
        block(f'decoder.{i}.1.1', c_out, c_out)
    return keys


def test_published_sizes() -> None:
    count = lambda m: sum(p.numel() for p in m.parameters())  # noqa: E731
    published = MinkUNet('minkunet34_w32')
    assert count(published) == 37_873_280
    assert count(published.conv_input) == 31_232
    assert [count(s) for s in published.encoder] == [119_104, 619_456, 3_361_152, 20_519_680]
    assert [count(s) for s in published.decoder] == [8_588_288, 2_278_912, 1_190_016, 1_165_440]
    assert count(MinkUNet('minkunet18_w32')) == pytest.approx(21.72e6, rel=1e-3)
    w16, w20 = MinkUNet('minkunet18_w16'), MinkUNet('minkunet18_w20')
    assert (w16.embed_dim, w16.encoder_dim) == (48, 128)
    assert (w20.embed_dim, w20.encoder_dim) == (61, 163)  # widths times 20 / 32, rounded down


def test_the_exact_key_list_of_published_checkpoints_loads_strictly(tmp_path: Path) -> None:
    torch.manual_seed(0)
    keys = published_keys()
    assert {k: tuple(v) for k, v in published_shapes('minkunet34_w32').items()} == keys
    state = {f'backbone.{k}': torch.rand(s) if s else torch.tensor(7) for k, s in keys.items()}
    state['decode_head.conv_seg.weight'] = torch.zeros(19, 96)
    state['decode_head.conv_seg.bias'] = torch.zeros(19)
    torch.save({'meta': {'epoch': 36}, 'state_dict': state}, tmp_path / 'm.pth')
    own = MinkUNet('minkunet34_w32', weights=tmp_path / 'm.pth').state_dict()
    assert all(torch.equal(own[k], state[f'backbone.{k}']) for k in keys)
    del state['backbone.encoder.2.3.net.4.bias']
    state['backbone.encoder.9.bias'] = torch.zeros(1)
    state['backbone.conv_input.1.net.0.kernel'] = torch.zeros(27, 32, 31)
    save_file(state, tmp_path / 'm.safetensors')
    with pytest.raises(ModelError) as caught:
        MinkUNet('minkunet34_w32', weights=tmp_path / 'm.safetensors')
    for part in (
        '1 missing (encoder.2.3.net.4.bias)',
        '1 unexpected (encoder.9.bias)',
        'conv_input.1.net.0.kernel (27, 32, 31) instead of (27, 32, 32)',
    ):
        assert part in str(caught.value)


def test_weights_of_another_size_are_named(tmp_path: Path) -> None:
    net = MinkUNet('minkunet_tiny')
    save_file(
        {f'backbone.{k}': v for k, v in net.state_dict().items()}, tmp_path / 'm.safetensors'
    )
    again = MinkUNet('minkunet_tiny', weights=tmp_path / 'm.safetensors')
    assert torch.equal(again.encoder[0][0].net[0].kernel, net.encoder[0][0].net[0].kernel)
    with pytest.raises(ModelError, match=r'does not fit minkunet18_w32.*are of minkunet_tiny'):
        MinkUNet('minkunet18_w32', weights=tmp_path / 'm.safetensors')
    with pytest.raises(ModelError, match='no such file'):
        MinkUNet(weights=tmp_path / 'none.safetensors')
    save_file({'a': torch.zeros(1)}, tmp_path / 'a.safetensors')
    with pytest.raises(ModelError, match='holds no MinkUNet'):
        MinkUNet(weights=tmp_path / 'a.safetensors')


def dense_minkunet(net: MinkUNet, coords: Tensor, features: Tensor) -> Tensor:
    """The same network on a dense volume: what MMDetection3D's modules compute, layer by layer."""
    state = net.state_dict()

    def norm(name: str, x: Tensor, mask: Tensor) -> Tensor:
        p = {k: state[f'{name}.{k}'] for k in ('running_mean', 'running_var', 'weight', 'bias')}
        return F.batch_norm(x, **p, eps=1e-5) * mask

    def conv3(name: str, x: Tensor) -> Tensor:
        kernel = state[f'{name}.kernel']
        weight = kernel.view(3, 3, 3, *kernel.shape[1:]).permute(4, 3, 2, 1, 0)
        return F.conv3d(x, weight, padding=1)

    def conv2(name: str, x: Tensor, transposed: bool) -> Tensor:
        kernel = state[f'{name}.kernel']
        weight = kernel.view(2, 2, 2, *kernel.shape[1:])
        if transposed:
            return F.conv_transpose3d(x, weight.permute(3, 4, 0, 1, 2), stride=2)
        return F.conv3d(x, weight.permute(4, 3, 0, 1, 2), stride=2)

    def block(name: str, x: Tensor, mask: Tensor) -> Tensor:
        y = norm(f'{name}.net.1', conv3(f'{name}.net.0', x), mask).relu()
        y = norm(f'{name}.net.4', conv3(f'{name}.net.3', y), mask)
        if f'{name}.downsample.0.kernel' in state:
            kernel = state[f'{name}.downsample.0.kernel']
            x = norm(f'{name}.downsample.1', torch.einsum('bixyz,io->boxyz', x, kernel), mask)
        return (y + x).relu()

    b, *xyz = coords.T
    x = torch.zeros(int(b.max()) + 1, features.shape[1], 32, 32, 32)
    x[b, :, xyz[0], xyz[1], xyz[2]] = features
    masks = [torch.zeros(len(x), 1, 32, 32, 32)]
    masks[0][b, :, xyz[0], xyz[1], xyz[2]] = 1
    for i in range(2):
        name = f'conv_input.{i}.net'
        x = norm(f'{name}.1', conv3(f'{name}.0', x), masks[0]).relu()
    laterals = [x]
    for i, stage in enumerate(net.encoder):
        masks.append(F.max_pool3d(masks[-1], 2))
        name = f'encoder.{i}.0.net'
        x = norm(f'{name}.1', conv2(f'{name}.0', x, False), masks[-1]).relu()
        for j in range(1, len(stage)):
            x = block(f'encoder.{i}.{j}', x, masks[-1])
        laterals.append(x)
    for i, stage in enumerate(net.decoder):
        name, mask = f'decoder.{i}.0.net', masks[3 - i]
        x = norm(f'{name}.1', conv2(f'{name}.0', x, True), mask).relu()
        x = torch.cat([x, laterals[3 - i]], dim=1)
        for j in range(len(stage[1])):
            x = block(f'decoder.{i}.1.{j}', x, mask)
    return x[b, :, xyz[0], xyz[1], xyz[2]]


def test_equals_the_dense_network() -> None:
    net = trained()
    grid, features = batch_voxels(voxels(0, 1))
    with torch.no_grad():
        sparse, dense = net(grid, features), dense_minkunet(net, grid.coords, features)
    assert sparse.shape == (len(grid), 48)
    assert sparse.std() > 0.1
    torch.testing.assert_close(sparse, dense, atol=1e-4, rtol=1e-4)


def test_order_of_points_does_not_matter() -> None:
    net = trained()
    first = voxels(0)[0]
    rows = first.features[np.random.default_rng(1).permutation(len(first.features))]
    outputs = []
    for points in (first.features, rows):
        v = voxelize(points, 0.2)
        with torch.no_grad():
            outputs.append(net(*batch_voxels([v]))[v.point_to_voxel])
    order = np.lexsort(rows.T), np.lexsort(first.features.T)
    torch.testing.assert_close(outputs[1][order[0]], outputs[0][order[1]], atol=1e-5, rtol=1e-4)


def assert_each_alone_gives_the_same(net: MinkUNet) -> None:
    samples = [*voxels(0, 1), Voxels(np.zeros((0, 3), np.int64), np.zeros((0, 4), np.float32),
                                     np.zeros(0, np.int64)), *voxels(2)]  # fmt: skip
    grid, features = batch_voxels(samples)
    with torch.no_grad():
        together = net(grid, features)
        coarse, deep = net.forward_encoder(grid, features)
    pooled, deep_pooled = grid.mean_per_sample(together), coarse.mean_per_sample(deep)
    assert pooled.shape == (4, net.embed_dim)
    assert deep_pooled.shape == (4, net.encoder_dim)
    for i, sample in enumerate(samples):
        one, x = batch_voxels([sample])
        with torch.no_grad():
            alone = net(one, x)
            one_coarse, alone_deep = net.forward_encoder(one, x)
        close = {'atol': 1e-5, 'rtol': 1e-4}
        torch.testing.assert_close(together[grid.samples == i], alone, **close)
        mine = coarse.samples == i
        assert torch.equal(coarse.coords[mine][:, 1:], one_coarse.coords[:, 1:])
        torch.testing.assert_close(deep[mine], alone_deep, **close)
        mean = alone_deep.mean(0) if len(alone_deep) else torch.zeros(net.encoder_dim)
        torch.testing.assert_close(deep_pooled[i], mean, **close)
        mean = alone.mean(0) if len(alone) else torch.zeros(net.embed_dim)
        torch.testing.assert_close(pooled[i], mean, **close)


def test_a_batch_is_its_samples() -> None:
    net = trained()
    assert_each_alone_gives_the_same(net)
    assert_each_alone_gives_the_same(copy.deepcopy(net).freeze())


def test_encoder_only_is_the_bottleneck_at_stride_16() -> None:
    net = trained()
    grid, features = batch_voxels(voxels(0, 1))
    with torch.no_grad():
        coarse, deep = net.forward_encoder(grid, features)
    expected = {(b, *(v // 16 for v in xyz)) for b, *xyz in grid.coords.tolist()}
    assert {tuple(c) for c in coarse.coords.tolist()} == expected
    assert len(coarse) == len(expected)
    assert deep.shape == (len(coarse), 96)
    assert deep.std() > 0.1
    seen: list[Tensor] = []
    last = net.encoder[-1][-1]
    handle = last.register_forward_hook(lambda _, __, out: seen.append(out))
    with torch.no_grad():
        net(grid, features)
    handle.remove()
    assert torch.equal(seen[0], deep)


@pytest.mark.parametrize('frozen', [False, True])
@pytest.mark.parametrize('samples', [0, 1, 3])
def test_no_voxels_at_all(samples: int, frozen: bool) -> None:
    net = MinkUNet('minkunet_tiny', frozen=frozen)
    grid = SparseGrid(torch.zeros((0, 4), dtype=torch.int64), samples)
    assert net(grid, torch.zeros(0, 4)).shape == (0, 48)
    coarse, deep = net.forward_encoder(grid, torch.zeros(0, 4))
    assert deep.shape == (0, 96)
    assert torch.equal(coarse.mean_per_sample(deep), torch.zeros(samples, 96))


def test_single_voxel_trains() -> None:
    net = MinkUNet('minkunet_tiny')
    features = net(*batch_voxels([voxelize(np.ones((1, 4), np.float32), 0.2)]))
    assert features.shape == (1, 48)
    features.sum().backward()
    assert torch.isfinite(features).all()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


def test_frozen_means_frozen() -> None:
    torch.manual_seed(0)
    net = MinkUNet('minkunet_tiny', frozen=True)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    torch.nn.Sequential(net).train()
    net.train(True)
    assert not any(m.training for m in net.modules())
    assert not any(p.requires_grad for p in net.parameters())
    head = torch.nn.Linear(net.embed_dim, 2)
    optimizer = torch.optim.SGD([*net.parameters(), *head.parameters()], 0.1, weight_decay=0.1)
    features = net(*batch_voxels(voxels(2)))
    assert not features.requires_grad
    head(features).square().mean().backward()
    optimizer.step()
    after = net.state_dict()
    assert after.keys() == before.keys()  # the published names, no folded ones
    assert all(torch.equal(before[k], after[k]) for k in after)
    thawed = MinkUNet('minkunet_tiny')
    running = thawed.conv_input[0].net[1].running_mean.clone()
    thawed(*batch_voxels(voxels(2)))
    assert not torch.equal(running, thawed.conv_input[0].net[1].running_mean)


@pytest.mark.parametrize('architecture', ['minkunet_tiny', 'minkunet18_w20'])
def test_folding_changes_nothing(architecture: str) -> None:
    net = trained(architecture).double()  # so that the difference is of the folding, not of sums
    frozen = copy.deepcopy(net).freeze()
    grid, features = batch_voxels(voxels(0, 1))
    with torch.no_grad():
        for mine, theirs in (
            (net(grid, features.double()), frozen(grid, features.double())),
            (
                net.forward_encoder(grid, features.double())[1],
                frozen.forward_encoder(grid, features.double())[1],
            ),
        ):
            scale = mine.abs().max()
            assert scale > 0.5
            assert (mine.float() - theirs).abs().max() < 1e-5 * scale


def test_folding_in_float32_is_within_its_rounding() -> None:
    net = trained()
    frozen = copy.deepcopy(net).freeze()
    batch = batch_voxels(voxels(0, 1))
    with torch.no_grad():
        expected, folded = net(*batch), frozen(*batch)
    assert not any(isinstance(m, torch.nn.BatchNorm1d) for m in frozen._network().modules())
    assert (expected - folded).abs().max() < 1e-5 * expected.abs().max()


def test_bfloat16_is_close_and_keeps_its_weights(tmp_path: Path) -> None:
    net = trained()
    save_file(net.state_dict(), tmp_path / 'm.safetensors')
    options = {'weights': tmp_path / 'm.safetensors', 'frozen': True}
    coarse = MinkUNet('minkunet_tiny', precision='bfloat16', **options)
    batch = batch_voxels(voxels(0, 1))
    expected, features = MinkUNet('minkunet_tiny', **options)(*batch), coarse(*batch)
    assert features.dtype == torch.float32
    error = (features - expected).norm() / expected.norm()
    assert 1e-5 < error < 0.03
    state = coarse.state_dict()
    assert all(torch.equal(state[k], v) for k, v in net.state_dict().items())
    with pytest.raises(ModelError, match='bfloat16 weights are for frozen'):
        MinkUNet('minkunet_tiny', precision='bfloat16')


def test_a_frozen_network_follows_new_weights_types_and_copies() -> None:
    net, other = trained(), MinkUNet('minkunet_tiny')
    frozen = copy.deepcopy(other).freeze()
    batch = batch_voxels(voxels(0))
    old = frozen(*batch)
    frozen.load_state_dict(net.state_dict())
    with torch.no_grad():
        expected = net(*batch)
    assert not torch.allclose(old, expected, atol=1e-2)
    close = {'atol': 1e-5, 'rtol': 1e-4}
    torch.testing.assert_close(frozen(*batch), expected, **close)
    torch.testing.assert_close(copy.deepcopy(frozen)(*batch), expected, **close)
    again = pickle.loads(pickle.dumps(frozen))  # as torch does for other processes
    torch.testing.assert_close(again(*batch), expected, **close)
    holder = torch.nn.Sequential(frozen)
    holder.load_state_dict({f'0.{k}': v for k, v in other.eval().state_dict().items()})
    torch.testing.assert_close(frozen(*batch), old, **close)
    features = frozen.bfloat16()(batch[0], batch[1].bfloat16())  # weights in another type
    torch.testing.assert_close(features, old, atol=0.05, rtol=0.05)


def test_a_frozen_network_passes_gradients_to_its_input() -> None:
    frozen = trained().freeze()
    grid, features = batch_voxels(voxels(0))
    with torch.inference_mode():  # a validation before training, as Lightning does it
        frozen(grid, features)
    features.requires_grad_()
    frozen(grid, features).sum().backward()
    assert features.grad is not None
    assert features.grad.abs().sum() > 0


def test_checkpointing_computes_the_same_and_counts_statistics_once() -> None:
    plain = trained().train()
    saving = copy.deepcopy(plain)
    saving.checkpoint_activations = True
    batch = batch_voxels(voxels(0, 1))
    for net in (plain, saving):
        net(*batch).square().mean().backward()
    for (name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert a.grad is not None, name
        torch.testing.assert_close(a.grad, b.grad, atol=1e-6, rtol=1e-4, msg=name)
    for (name, a), b in zip(plain.named_buffers(), saving.buffers(), strict=True):
        assert torch.equal(a, b), name
    counter = plain.conv_input[0].net[1].num_batches_tracked
    assert int(counter) == PASSES + 1


class _Kept:
    """Bytes that autograd keeps for the backward pass."""

    def __init__(self) -> None:
        self.storages: dict[int, int] = {}

    def pack(self, x: Tensor) -> Tensor:
        self.storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x


def test_checkpointing_keeps_less() -> None:
    net = MinkUNet('minkunet_tiny')
    weights = {p.untyped_storage().data_ptr() for p in net.state_dict(keep_vars=True).values()}
    batch = batch_voxels([voxelize(cloud(0, 4000), 0.1)])
    kept = []
    for checkpointed in (False, True):
        net.checkpoint_activations = checkpointed
        count = _Kept()
        with torch.autograd.graph.saved_tensors_hooks(count.pack, lambda x: x):
            out = net(*batch)
        kept.append(sum(n for at, n in count.storages.items() if at not in weights))
        del out
    assert kept[1] < 0.4 * kept[0]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """spconv's CPU kernels race with more than one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures('one_thread')
@pytest.mark.parametrize('frozen', [False, True])
def test_the_same_weights_give_the_same_with_spconv(frozen: bool) -> None:
    pytest.importorskip('spconv.pytorch')
    net = trained()
    other = MinkUNet('minkunet_tiny', sparse_backend='spconv').eval()
    other.load_state_dict(net.state_dict())
    if frozen:
        other.freeze()
    batch = batch_voxels(voxels(0, 1))
    with torch.no_grad():
        expected, features = net(*batch), other(*batch)
    torch.testing.assert_close(features, expected, atol=1e-4, rtol=1e-3)


def test_what_cannot_be_built_is_said() -> None:
    with pytest.raises(ModelError, match='unknown lidar encoder'):
        MinkUNet('minkunet99')
    with pytest.raises(ModelError, match='unknown sparse backend'):
        MinkUNet('minkunet_tiny', sparse_backend='cudnn')
    assert set(ARCHITECTURES) >= {f'minkunet18_w{w}' for w in (16, 20, 32)} | {'minkunet34_w32'}
