# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import collections
import io
import os
import pickle
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clcp_ros.errors import ModelError
from training.models.foreign_checkpoint import read_foreign_checkpoint


def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(6, 5, generator=generator)
    return {
        'plain': torch.randn(3, 4, generator=generator),
        'view': whole[1:5, ::2],  # a part of a larger storage, not contiguous
        'transposed': whole.T,
        'half': torch.randn(7, generator=generator).half(),
        'bfloat16': torch.randn(7, generator=generator).bfloat16(),
        'double': torch.randn(2, dtype=torch.float64, generator=generator),
        'mask': torch.tensor([True, False]),
        'bytes': torch.arange(5, dtype=torch.uint8),
        'counter': torch.tensor(41, dtype=torch.int64),
        'empty': torch.zeros(0, 3),
        'parameter': torch.nn.Parameter(torch.randn(2, 2, generator=generator)),
    }


def assert_same(read: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert list(read) == list(wanted)
    for key, value in wanted.items():
        assert read[key].dtype == value.dtype, key
        assert torch.equal(read[key], value), key


@pytest.fixture
def mmengine(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Classes in a module that is gone once the checkpoint is written, as on any other machine."""
    history = types.ModuleType('mmengine.logging.history_buffer')
    config = types.ModuleType('mmengine.config.config')

    class HistoryBuffer:
        def __init__(self, values: list[float]) -> None:
            self._log_history = np.array(values)
            self._count_history = np.ones(len(values), np.int64)
            self._statistics_methods = {'mean': len}

    class ConfigDict(dict):
        pass

    class Slotted:
        __slots__ = ('level',)

        def __init__(self) -> None:
            self.level = 3

    for package in ('mmengine', 'mmengine.logging', 'mmengine.config'):
        monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
    for module, cls in ((history, HistoryBuffer), (config, ConfigDict), (history, Slotted)):
        cls.__module__, cls.__qualname__ = module.__name__, cls.__name__
        setattr(module, cls.__name__, cls)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return {'HistoryBuffer': HistoryBuffer, 'ConfigDict': ConfigDict, 'Slotted': Slotted}


def test_a_checkpoint_like_mmengines(
    tmp_path: Path, mmengine: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    state = collections.OrderedDict(network.state_dict())
    state._metadata = network.state_dict()._metadata  # type: ignore[attr-defined]
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    torch.save(
        {
            'meta': {
                'cfg': mmengine['ConfigDict'](model=mmengine['ConfigDict'](type='MinkUNet')),
                'dataset_meta': {'classes': ('car',), 'palette': np.arange(3, dtype=np.uint8)},
                'seed': np.int64(3),
                'path': Path('work_dirs'),
            },
            'state_dict': state,
            'message_hub': {
                'log_scalars': {'loss': mmengine['HistoryBuffer']([1.0, 0.5])},
                'slotted': mmengine['Slotted'](),
                'set': {1, 2}, 'complex': 1j, 'order': collections.defaultdict(list, a=[1]),
            },
            'optimizer': optimizer.state_dict(),
        },
        tmp_path / 'epoch_36.pth',
    )  # fmt: skip
    for name in [n for n in sys.modules if n.startswith('mmengine')]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(pickle.UnpicklingError):  # what makes this reader necessary
        torch.load(tmp_path / 'epoch_36.pth', weights_only=True)
    assert_same(read_foreign_checkpoint(tmp_path / 'epoch_36.pth'), dict(network.state_dict()))
    assert not any(n.startswith('mmengine') for n in sys.modules)


@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
def test_tensors_of_all_kinds_and_pickle_protocols(tmp_path: Path, protocol: int) -> None:
    torch.save(weights(), tmp_path / 'w.pth', pickle_protocol=protocol)
    read = read_foreign_checkpoint(tmp_path / 'w.pth')
    assert_same(read, weights())
    assert all(v.is_contiguous() for v in read.values())


class _Runs:
    """Unpickled, it would call a function."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call


def test_nothing_in_a_checkpoint_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'hostile_module.py').write_text(
        f'from pathlib import Path\nPath({str(tmp_path / "imported")!r}).touch()\n'
        'def call(*args): Path(__file__).with_name("called").touch()\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    import hostile_module

    (tmp_path / 'imported').unlink()
    attacks = {
        'system': _Runs(os.system, (f'touch {tmp_path}/system',)),
        'exec': _Runs(exec, (f'open({str(tmp_path / "exec")!r}, "w")',)),
        'module': _Runs(hostile_module.call, (1,)),
        'nested': _Runs(getattr, (_Runs(__import__, ('os',)), 'system')),
        'state': _Runs(hostile_module.call, (), {'a': 1}, iter([1]), iter([('k', 1)])),
    }
    torch.save({'state_dict': weights(), 'extra': attacks}, tmp_path / 'm.pth')
    monkeypatch.delitem(sys.modules, 'hostile_module')
    assert_same(read_foreign_checkpoint(tmp_path / 'm.pth'), weights())
    inside = {**weights(), 'exec': attacks['exec']}
    torch.save({'state_dict': inside}, tmp_path / 'inside.pth')
    with pytest.raises(ModelError, match=r"'exec' is something else"):
        read_foreign_checkpoint(tmp_path / 'inside.pth')
    assert 'hostile_module' not in sys.modules
    assert not [f for f in ('imported', 'called', 'system', 'exec') if (tmp_path / f).exists()]


# Opcodes that torch.save does not write, and those that turn on the reader's own stand-ins.
ATTACKS = {
    'inst': b"(S'touch SENTINEL'\nios\nsystem\n.",
    'obj': b"(cos\nsystem\nS'touch SENTINEL'\no.",
    'stack global': b'\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0etouch SENTINEL\x85R.',
    'extension': b'\x80\x02\x82\x01.',
    'dotted': b'\x80\x04\x8c\x08builtins\x8c\x0d__import__.x\x93.',
    'build a function': (
        b'\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x08\x00\x00\x00__code__K\x01s\x86b.'
    ),
    'build a class': b'\x80\x02ccollections\nOrderedDict\n}X\x01\x00\x00\x00aK\x01sb.',
    'build a dtype': b'\x80\x02ctorch\nFloatStorage\n}X\x01\x00\x00\x00aK\x01sb.',
    'call a dtype': b'\x80\x02ctorch\nFloatStorage\n)R.',
    'rebuild of nothing': b'\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.',
    'unknown storage': (
        b'\x80\x02(X\x07\x00\x00\x00storagecos\nsystem\n'
        b'X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ.'
    ),
    'memory': b'\x80\x02}r\xff\xff\xff\x7f.',
    'more memory': b'\x80\x05\x96\xff\xff\xff\xff\xff\x00\x00\x00.',
    'truncated': b'\x80\x02}q',
    'empty': b'',
    'no dict': b'\x80\x02K\x01.',
}  # fmt: skip


@pytest.mark.parametrize('attack', ATTACKS)
def test_hand_made_pickles_do_nothing(
    tmp_path: Path, attack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile(tmp_path / 'x.pth', 'w') as archive:
        archive.writestr('x/data.pkl', ATTACKS[attack])
    with pytest.raises(ModelError, match=r'x\.pth') as caught:
        read_foreign_checkpoint(tmp_path / 'x.pth')
    assert str(caught.value).isprintable()
    assert not (tmp_path / 'SENTINEL').exists()


def test_one_checkpoint_does_not_change_how_the_next_is_read(tmp_path: Path) -> None:
    for attack in ATTACKS.values():
        with zipfile.ZipFile(tmp_path / 'x.pth', 'w') as archive:
            archive.writestr('x/data.pkl', attack)
        with pytest.raises(ModelError):
            read_foreign_checkpoint(tmp_path / 'x.pth')
    torch.save(weights(), tmp_path / 'w.pth')
    assert_same(read_foreign_checkpoint(tmp_path / 'w.pth'), weights())


def rewrite(source: Path, target: Path, change: dict[str, bytes], compress: str = '') -> None:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, 'w') as new:
        for name in old.namelist():
            short = name.partition('/')[2]
            kind = zipfile.ZIP_DEFLATED if short == compress else zipfile.ZIP_STORED
            new.writestr(name, change.get(short, old.read(name)), kind)


def test_storages_that_are_not_what_they_say(tmp_path: Path) -> None:
    torch.save({'a': torch.arange(6.0)}, tmp_path / 'good.pth')
    rewrite(tmp_path / 'good.pth', tmp_path / 'short.pth', {'data/0': b'\0' * 20})
    with pytest.raises(ModelError, match='a has 20 bytes'):
        read_foreign_checkpoint(tmp_path / 'short.pth')
    for name in ('data/0', 'data.pkl'):
        rewrite(tmp_path / 'good.pth', tmp_path / 'bomb.pth', {}, compress=name)
        with pytest.raises(ModelError, match=f'{name} is compressed'):
            read_foreign_checkpoint(tmp_path / 'bomb.pth')
    rewrite(tmp_path / 'good.pth', tmp_path / 'big.pth', {'byteorder': b'big'})
    with pytest.raises(ModelError, match='big-endian'):
        read_foreign_checkpoint(tmp_path / 'big.pth')
    data = zipfile.ZipFile(tmp_path / 'good.pth').read('good/data.pkl')
    assert data.count(b'K\x06\x85') == 1  # its shape, (6,)
    for size in (b'K\x07', b'J\xff\xff\xff\xff'):
        wrong = data.replace(b'K\x06\x85', size + b'\x85')
        rewrite(tmp_path / 'good.pth', tmp_path / 'far.pth', {'data.pkl': wrong})
        with pytest.raises(ModelError, match='reaches beyond its bytes'):
            read_foreign_checkpoint(tmp_path / 'far.pth')


@pytest.mark.filterwarnings('ignore:.*torch.jit.*:FutureWarning')
def test_other_files_are_refused_in_one_clear_line(tmp_path: Path) -> None:
    torch.save(weights(), tmp_path / 'old.pth', _use_new_zipfile_serialization=False)
    torch.save(weights(), tmp_path / 'whole.pth')
    (tmp_path / 'half.pth').write_bytes((tmp_path / 'whole.pth').read_bytes()[:1000])
    (tmp_path / 'page.pth').write_text('<!DOCTYPE html><html>404</html>')
    (tmp_path / 'text.pth').write_text('weights')
    with zipfile.ZipFile(tmp_path / 'zip.pth', 'w') as archive:
        archive.writestr('a.txt', 'x')
    program = torch.jit.script(torch.nn.Linear(1, 1))
    torch.jit.save(program, tmp_path / 'script.pth')
    torch.save(torch.zeros(3), tmp_path / 'tensor.pth')
    for name, message in {
        'old': 'before 1.6', 'half': 'incomplete', 'page': 'web page', 'text': 'not a checkpoint',
        'zip': 'not one that torch.save wrote', 'script': 'TorchScript', 'none': 'no such file',
        'tensor': 'holds no state dict',
    }.items():  # fmt: skip
        with pytest.raises(ModelError, match=message) as caught:
            read_foreign_checkpoint(tmp_path / f'{name}.pth')
        assert '\n' not in str(caught.value)
        assert 'weights_only=False' not in str(caught.value)


def test_a_damaged_tensor_is_noticed(tmp_path: Path) -> None:
    torch.save({'a': torch.arange(1000.0)}, tmp_path / 'a.pth')
    data = bytearray((tmp_path / 'a.pth').read_bytes())
    at = data.index(np.arange(500, 510, dtype=np.float32).tobytes())
    data[at] ^= 1
    (tmp_path / 'a.pth').write_bytes(data)
    with pytest.raises(ModelError, match='damaged'):
        read_foreign_checkpoint(tmp_path / 'a.pth')


def test_a_whole_pickled_network_is_not_a_state_dict(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / 'module.pth')
    with pytest.raises(ModelError, match='holds no state dict'):
        read_foreign_checkpoint(tmp_path / 'module.pth')
    buffer = io.BytesIO()
    torch.save({'model': weights()}, buffer)
    (tmp_path / 'model.pth').write_bytes(buffer.getvalue())
    assert_same(read_foreign_checkpoint(tmp_path / 'model.pth'), weights())
