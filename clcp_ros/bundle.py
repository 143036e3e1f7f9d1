# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The bundle: a folder with a model, what the monitor knows, and a description of both.

A bundle is data. Loading one executes nothing, and it is checked whole before any of it is used:
schema version, presence and SHA-256 of every file. The format is described in docs/formats.md.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from clcp_ros.classes import ClassSet
from clcp_ros.errors import BundleError, ModelError
from clcp_ros.tiling import FrameTiling, Tiling

SCHEMA_VERSION = 2
DESCRIPTION = 'bundle.json'
MODEL = 'model.onnx'
REFERENCE = 'reference.npz'
CARD = 'monitor_card.json'
CARD_TEXT = 'monitor_card.md'

_FROM_PIXELS = 'RGB, halved while twice as large, then bilinear, [0, 1], normalised by channel'
"""What clcp_ros.preprocess does, in words: a change there is another preprocessing."""


@dataclass(frozen=True)
class InputSpec:
    """Geometry and normalisation of the network's input.

    The frame is resized to `height` x `width`, scaled to [0, 1] and normalised per RGB channel.
    """

    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class Bundle:
    """A verified bundle.

    Attributes:
        path: Its folder.
        name: Name given at export.
        classes: The class set of the masks.
        input: What the network expects.
        provenance: Where it comes from: commit, data, metrics, versions.
        sha256: Hash of each file, by name.
        tiling: Windows of a frame, each of the input's size; None where the network sees it whole.
    """

    path: Path
    name: str
    classes: ClassSet
    input: InputSpec
    provenance: dict[str, Any] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)
    tiling: FrameTiling | None = None

    @property
    def frame(self) -> InputSpec:
        """What a frame is resized to: the network's input, or what is cut into windows of it."""
        if self.tiling is None:
            return self.input
        return replace(self.input, height=self.tiling.height, width=self.tiling.width)

    @property
    def windows(self) -> int:
        """Windows of a frame."""
        return 1 if self.tiling is None else len(self.tiling.corners)

    @property
    def model_path(self) -> Path:
        """The ONNX model."""
        return self.path / MODEL

    @property
    def reference_path(self) -> Path:
        """The monitor's reference."""
        return self.path / REFERENCE

    @property
    def card_path(self) -> Path | None:
        """What the monitor was fitted on and how far it can be believed; None without a card."""
        return self.path / CARD if CARD in self.sha256 else None

    @property
    def preprocessing_sha256(self) -> str:
        """Hash of how an image becomes the network's input, and of what its outputs are called."""
        tiling = self.tiling
        said = {
            'from_pixels': _FROM_PIXELS,
            'size': [self.input.height, self.input.width],
            'mean': list(self.input.mean),
            'std': list(self.input.std),
            'tiling': None
            if tiling is None
            else [tiling.height, tiling.width, *tiling.tiling.window, *tiling.tiling.stride],
            'classes': list(self.classes.names),
        }
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    @property
    def id(self) -> str:
        """Twelve hexadecimal digits that change with the model."""
        return self.sha256[MODEL][:12]


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_description(
    folder: Path,
    *,
    name: str,
    classes: ClassSet,
    input_spec: InputSpec,
    provenance: dict[str, Any],
    tiling: FrameTiling | None = None,
) -> None:
    """Write `bundle.json` for a folder that already holds the other files.

    Args:
        folder: The bundle's folder.
        name: A name for people.
        classes: Class set of the model's logits.
        input_spec: Geometry and normalisation of the model's input.
        provenance: JSON-serialisable facts on origin.
        tiling: Windows of a frame; None where the network sees it whole.
    """
    files = {
        file: {'sha256': sha256_of(folder / file), 'bytes': (folder / file).stat().st_size}
        for file in (MODEL, REFERENCE, CARD, CARD_TEXT)
        if file in (MODEL, REFERENCE) or (folder / file).is_file()
    }
    description = {
        'schema_version': SCHEMA_VERSION,
        'name': name,
        'class_set': classes.name,
        'classes': [
            {'id': i, 'name': n, 'color': list(c)}
            for i, (n, c) in enumerate(zip(classes.names, classes.colors, strict=True))
        ],
        'input': {
            'height': input_spec.height,
            'width': input_spec.width,
            'mean': list(input_spec.mean),
            'std': list(input_spec.std),
        },
        'tiling': None
        if tiling is None
        else {
            'height': tiling.height,
            'width': tiling.width,
            'window': list(tiling.tiling.window),
            'stride': list(tiling.tiling.stride),
        },
        'provenance': provenance,
        'files': files,
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + '\n')


def load_bundle(path: str | Path) -> Bundle:
    """Read and verify a bundle.

    Args:
        path: The bundle's folder.

    Returns:
        The bundle, every file of which has the hash that the description states.

    Raises:
        BundleError: What is wrong, in one line.
    """
    folder = Path(path)
    description = _read_description(folder)
    version = description.get('schema_version')
    if version != SCHEMA_VERSION:
        raise BundleError(
            f'{folder}: bundle schema version {version!r} is not supported (this release reads '
            f'{SCHEMA_VERSION}); export the bundle again with a matching release'
        )
    try:
        bundle = _parse(folder, description)
    except (KeyError, TypeError, ValueError, AttributeError, ModelError) as error:
        raise BundleError(f'{folder / DESCRIPTION}: malformed ({error!r}); export again') from None
    for file in (MODEL, REFERENCE):
        if file not in bundle.sha256:
            raise BundleError(f'{folder / DESCRIPTION}: no entry for {file}; export again')
    for file in bundle.sha256:
        if Path(file).name != file or file == DESCRIPTION:
            raise BundleError(f'{folder / DESCRIPTION}: {file!r} is no file of a bundle')
        if not (folder / file).is_file():
            raise BundleError(
                f'{folder}: {file} is missing; copy the whole folder or export again'
            )
        found = sha256_of(folder / file)
        if found != bundle.sha256[file]:
            raise BundleError(
                f'{folder / file}: hash {found[:12]} is not the {bundle.sha256[file][:12]} that '
                f'{DESCRIPTION} states; the file was damaged or replaced, copy or export it again'
            )
    return bundle


def _read_description(folder: Path) -> dict[str, Any]:
    file = folder / DESCRIPTION
    if not file.is_file():
        raise BundleError(
            f'{folder} is not a bundle: no {DESCRIPTION} in it; '
            'make one with `python training/export.py`'
        )
    try:
        description = json.loads(file.read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BundleError(f'{file}: not valid JSON ({error})') from None
    if not isinstance(description, dict):
        raise BundleError(f'{file}: expected a JSON object')
    return description


def _parse(folder: Path, description: dict[str, Any]) -> Bundle:
    entries = description['classes']
    if [entry['id'] for entry in entries] != list(range(len(entries))):
        raise ValueError('class ids are not 0, 1, 2, ...')
    colors = [tuple(int(v) for v in entry['color']) for entry in entries]
    if any(len(c) != 3 or not all(0 <= v <= 255 for v in c) for c in colors):
        raise ValueError('a class colour is not an RGB triple')
    spec = description['input']
    mean, std = (tuple(float(v) for v in spec[key]) for key in ('mean', 'std'))
    height, width = int(spec['height']), int(spec['width'])
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0 or height < 1 or width < 1:
        raise ValueError('impossible input geometry or normalisation')
    return Bundle(
        path=folder,
        name=str(description['name']),
        classes=ClassSet(
            str(description['class_set']),
            tuple(str(entry['name']) for entry in entries),
            tuple((c[0], c[1], c[2]) for c in colors),
        ),
        input=InputSpec(
            height, width, (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])
        ),
        provenance=dict(description['provenance']),
        sha256={name: str(entry['sha256']) for name, entry in description['files'].items()},
        tiling=_tiling(description.get('tiling'), (height, width)),
    )  # fmt: skip


def _tiling(entry: dict[str, Any] | None, window: tuple[int, int]) -> FrameTiling | None:
    if entry is None:
        return None
    (rows, columns), (down, right) = entry['window'], entry['stride']
    if (int(rows), int(columns)) != window:
        raise ValueError(f'windows of {rows} x {columns} are not the input, {window}')
    return FrameTiling(
        int(entry['height']), int(entry['width']), Tiling(window, (int(down), int(right)))
    )
