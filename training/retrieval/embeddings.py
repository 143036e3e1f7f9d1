# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Embeddings of a pair set, computed once and kept as arrays."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from clcp_ros.errors import ModelError
from training.cli import atomic_path
from training.methods import load_method
from training.pairs.pair_set import PairSet


@dataclass(frozen=True)
class Embeddings:
    """What a model makes of the pairs of a set.

    Attributes:
        keys: (N,) of the pairs.
        image: (N, D) float32.
        lidar: (N, D) float32; zeros for a scan without a point in sight, which is no place.
    """

    keys: np.ndarray
    image: np.ndarray
    lidar: np.ndarray

    def save(self, path: Path) -> None:
        """Write an .npz file.

        Args:
            path: The file.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as part, part.open('wb') as file:
            np.savez(file, keys=self.keys.astype(str), image=self.image, lidar=self.lidar)

    @classmethod
    def load(cls, path: Path) -> Embeddings:
        """Read what `save`, or somebody else's model, wrote.

        Args:
            path: An .npz file with the arrays keys, image and lidar.

        Returns:
            The embeddings.

        Raises:
            ModelError: Not such a file.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                found = cls(*(arrays[name] for name in ('keys', 'image', 'lidar')))
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise ModelError(
                f'{path}: no embeddings (an .npz file with keys, image and lidar): {error}'
            ) from None
        if not len(found.keys) == len(found.image) == len(found.lidar):
            raise ModelError(f'{path}: keys, image and lidar have different lengths')
        if not found.image.ndim == found.lidar.ndim == 2:
            raise ModelError(f'{path}: image and lidar must have the shape (N, D)')
        return found

    @property
    def known(self) -> np.ndarray:
        """(N,) bool: which pairs have both embeddings."""
        return np.logical_and(np.any(self.image, axis=1), np.any(self.lidar, axis=1))

    def of(self, keys: np.ndarray) -> Embeddings:
        """The embeddings of some pairs, in their order.

        Args:
            keys: (M,) of the pairs.

        Raises:
            ModelError: One is missing.
        """
        places = {str(key): i for i, key in enumerate(self.keys)}
        missing = [str(key) for key in keys if str(key) not in places]
        if missing:
            raise ModelError(f'{len(missing)} pairs have no embedding, the first is {missing[0]}')
        chosen = [places[str(key)] for key in keys]
        return Embeddings(np.asarray(keys), self.image[chosen], self.lidar[chosen])


def embed_pairs(run: Path, pairs: PairSet, rows: np.ndarray, batch_size: int = 32) -> Embeddings:
    """Embed pairs with what a pretraining run has learned, without augmentation.

    The crop is the largest square, at the same place in every call.

    Args:
        run: Folder of a finished run.
        pairs: The pair set.
        rows: (N,) positions in it.
        batch_size: Pairs at once.

    Returns:
        The embeddings.

    Raises:
        ModelError: No such run, or a method without embeddings.
    """
    # Here: it takes seconds, which embeddings from a file need not wait for.
    from lightning.fabric.utilities.apply_func import move_data_to_device

    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    method = load_method(run).to(device)
    loader = DataLoader(
        method.samples(pairs, train=False), batch_size=batch_size, collate_fn=method.collate,
        sampler=[(int(row), 0) for row in rows],
    )  # fmt: skip
    image, lidar = [], []
    with torch.inference_mode():
        for batch in tqdm(loader, desc=f'embed {pairs.folder}', unit='batch'):
            embedded = method.embed(move_data_to_device(batch, device))
            if embedded.image is None:
                raise ModelError(f'{run}: this method has no joint embedding to search in')
            scans = cast('Tensor', embedded.lidar).float()
            if embedded.visible is not None:
                # Not every method embeds an empty scan as zeros by itself.
                scans = scans.where(embedded.visible[:, None], 0.0)
            image.append(embedded.image.float().cpu().numpy())
            lidar.append(scans.cpu().numpy())
    keys = np.asarray(pairs.column('key'))[rows].astype(str)
    return Embeddings(keys, np.concatenate(image), np.concatenate(lidar))
