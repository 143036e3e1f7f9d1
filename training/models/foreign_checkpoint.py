# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Tensors of other frameworks' checkpoints, without running anything that is in them.

A `.pth` file of torch is a zip archive with one pickle, which names functions and classes to call,
and the raw bytes of its tensors. `torch.load(weights_only=True)` refuses checkpoints that hold
anything else than tensors, as mmengine's do (its message hub, its optimizer's state). Here every
name of the pickle that is not among the few that describe tensors becomes an inert placeholder:
nothing is imported and nothing is called, and what was kept of other objects is thrown away.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clcp_ros.errors import ModelError

# Names under which frameworks keep the weights beside other things, in the order of preference.
_STATE_NAMES = ('state_dict', 'model_state_dict', 'model')
_DTYPES = {
    'DoubleStorage': torch.float64,
    'FloatStorage': torch.float32,
    'HalfStorage': torch.float16,
    'BFloat16Storage': torch.bfloat16,
    'LongStorage': torch.int64,
    'IntStorage': torch.int32,
    'ShortStorage': torch.int16,
    'CharStorage': torch.int8,
    'ByteStorage': torch.uint8,
    'BoolStorage': torch.bool,
}


def read_foreign_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the state dict of a torch checkpoint that may hold objects of unknown classes.

    Args:
        path: A zip archive as `torch.save` writes since torch 1.6, of a state dict or of a dict
            with one under `state_dict`, `model_state_dict` or `model`.

    Returns:
        Tensors by name, on the CPU, each with a storage of its own.

    Raises:
        ModelError: The file is missing, damaged, of the format before torch 1.6, or holds no state
            dict of plain tensors.
    """
    if not path.is_file():
        raise ModelError(f'{path}: no such file of weights')
    if not zipfile.is_zipfile(path):
        raise ModelError(f'{path}: {_not_a_zip(path)}')
    try:
        with zipfile.ZipFile(path) as archive:
            return _read_archive(path, archive)
    except ModelError:
        raise
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise ModelError(f'{path} is damaged ({error}); download it again') from None
    except Exception as error:
        # A pickle can fail in any way; whatever is wrong with it, it is no checkpoint.
        words = ''.join(c if c.isprintable() else ' ' for c in f'{type(error).__name__}: {error}')
        raise ModelError(f'{path}: its list of tensors cannot be read ({words[:200]})') from None


class _Storage(NamedTuple):
    dtype: torch.dtype
    key: str
    numel: int


class _StoredTensor:
    """Where a tensor lies in the archive; read only when it is wanted."""

    __slots__ = ('offset', 'shape', 'storage', 'strides')

    def __init__(self, storage: _Storage, offset: int, shape: Any, strides: Any) -> None:
        self.storage, self.offset = storage, offset
        self.shape, self.strides = tuple(shape), tuple(strides)

    def __setstate__(self, state: object) -> None:
        """Attributes of a tensor are of no interest."""


class _Mapping(dict[Any, Any]):
    """Stands for OrderedDict, whose attributes (`_metadata`) are of no interest."""

    def __setstate__(self, state: object) -> None:
        """Forget."""


class _Inert:
    """Stands for any other class or function; swallows whatever the pickle does with it."""

    def __new__(cls, *_: object, **__: object) -> _Inert:  # no subtypes exist
        return object.__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        """Forget."""

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def append(self, item: object) -> None:
        """Forget."""

    def extend(self, items: object) -> None:
        """Forget."""

    def add(self, item: object) -> None:
        """Forget."""


class _RebuildTensor:
    """Stands for `torch._utils._rebuild_tensor_v2`."""

    __slots__ = ()

    def __call__(
        self, storage: _Storage, offset: int, shape: Any, strides: Any, *_: object
    ) -> _StoredTensor:
        return _StoredTensor(storage, offset, shape, strides)

    def __setstate__(self, state: object) -> None:
        """Forget."""


class _RebuildParameter:
    """Stands for `torch._utils._rebuild_parameter`."""

    __slots__ = ()

    def __call__(self, data: object, *_: object) -> object:
        return data

    def __setstate__(self, state: object) -> None:
        """Forget."""


class _Reader(pickle.Unpickler):
    """An unpickler for which only the description of tensors exists."""

    def find_class(self, module: str, name: str) -> Any:
        """The only place where a pickle gets at anything that is not in the file.

        Fresh objects each time: a pickle cannot change what another one will get.
        """
        match module, name:
            case 'torch', _ if name in _DTYPES:
                return _DTYPES[name]
            case 'collections', 'OrderedDict':
                return type('_Mapping', (_Mapping,), {})
            case 'torch._utils', '_rebuild_tensor_v2' | '_rebuild_tensor':
                return _RebuildTensor()
            case 'torch._utils', '_rebuild_parameter':
                return _RebuildParameter()
        return type('_Inert', (_Inert,), {})

    def persistent_load(self, pid: Any) -> _Storage:
        """A reference to the bytes of a storage: ('storage', type, key, device, count)."""
        kind, dtype, key, _, count = pid
        if kind != 'storage' or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f'unknown kind of storage {dtype}')
        return _Storage(dtype, str(key), int(count))


def _read_archive(path: Path, archive: zipfile.ZipFile) -> dict[str, Tensor]:
    names = set(archive.namelist())
    pickles = [n for n in names if n.endswith('/data.pkl')]
    if len(pickles) != 1:
        raise ModelError(f'{path} is a zip archive, but not one that torch.save wrote')
    root = pickles[0].removesuffix('data.pkl')
    if f'{root}constants.pkl' in names:
        raise ModelError(f'{path} is a TorchScript program; a state dict is needed')
    if f'{root}byteorder' in names and archive.read(f'{root}byteorder') != b'little':
        raise ModelError(f'{path} was written on a big-endian machine; save it again on this one')
    data = _read_stored(path, archive, pickles[0])
    _check_opcodes(data)
    state = _state_dict(path, _Reader(io.BytesIO(data)).load())
    return {key: _materialize(path, archive, root, key, ref) for key, ref in state.items()}


def _check_opcodes(data: bytes) -> None:
    """Refuse what would make the unpickler reserve memory that the file has no content for."""
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name.startswith('EXT') or opcode.name.endswith('BUFFER'):
            raise pickle.UnpicklingError(f'{opcode.name} in a checkpoint')
        if opcode.name.endswith('PUT') and not 0 <= int(argument or 0) <= len(data):
            raise pickle.UnpicklingError(f'{opcode.name} {argument} is out of range')


def _state_dict(path: Path, top: object) -> dict[str, _StoredTensor]:
    state = top
    if isinstance(top, dict):
        state = next((top[n] for n in _STATE_NAMES if isinstance(top.get(n), dict)), top)
    if not isinstance(state, dict) or not state:
        raise ModelError(f'{path} holds no state dict')
    others = [k for k, v in state.items() if not isinstance(v, _StoredTensor)]
    if others or not all(isinstance(k, str) for k in state):
        raise ModelError(
            f'{path}: expected a state dict of tensors; {others[0] if others else "a name"!r} is '
            'something else'
        )
    return state


def _materialize(
    path: Path, archive: zipfile.ZipFile, root: str, key: str, ref: _StoredTensor
) -> Tensor:
    storage = ref.storage
    count = 1
    for n in ref.shape:
        count *= n
    last = ref.offset + sum((n - 1) * s for n, s in zip(ref.shape, ref.strides, strict=True))
    inside = ref.offset >= 0 and (count == 0 or last < storage.numel) and count <= storage.numel
    if not inside or min((*ref.shape, *ref.strides, 0)) < 0:
        raise ModelError(f'{path} is damaged: {key} reaches beyond its bytes')
    name = f'{root}data/{storage.key}'
    info = archive.getinfo(name)
    if info.file_size != storage.numel * storage.dtype.itemsize:
        raise ModelError(f'{path} is damaged: {key} has {info.file_size} bytes')
    if count == 0:
        return torch.empty(ref.shape, dtype=storage.dtype)
    flat = torch.frombuffer(bytearray(_read_stored(path, archive, name)), dtype=storage.dtype)
    return flat.as_strided(ref.shape, ref.strides, ref.offset).clone(
        memory_format=torch.contiguous_format
    )


def _read_stored(path: Path, archive: zipfile.ZipFile, name: str) -> bytes:
    # torch stores its files as they are; a compressed one could be of any size once unpacked.
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ModelError(f'{path}: {name} is compressed, which torch.save does not do')
    return archive.read(name)


def _not_a_zip(path: Path) -> str:
    with path.open('rb') as file:
        head = file.read(64)
    if head.startswith(b'PK'):
        return 'incomplete; download it again'
    if head.lstrip().lower().startswith((b'<!doctype', b'<html')):
        return 'a web page, not a checkpoint; download the file itself'
    # The magic number with which torch.save began before 1.6, as a pickle.
    if head.startswith(b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19'):
        return (
            "in torch's format from before 1.6, which is not read here; where it comes from, save "
            'its state dict again with a newer torch, or as .safetensors'
        )
    return 'not a checkpoint of torch (a zip archive)'
