# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest

from training.methods.clcp import ClcpConfig
from training.methods.config import ModelConfig
from training.pairs.contrastive import ViewConfig
from training.pretrain import pretrain


def test_a_resumed_run_warns_of_nothing_twice(
    noise_pairs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options: dict[str, Any] = {
        'model': ModelConfig('test_vit', embed_dim=16), 'max_steps': 4, 'batch_size': 4,
        'views': ViewConfig(image_size=64, voxel_size_m=0.5), 'batch_gap': 0, 'workers': 0,
        'clcp': ClcpConfig(temperature_use='inverted'), 'validate_every': 1,
        'checkpoint_every': 1, 'loggers': '',
    }  # fmt: skip
    real = L.Trainer.fit

    class Stop(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
            if trainer.global_step == 2:
                raise KeyboardInterrupt

    def fit(self: L.Trainer, *args: Any, **kwargs: Any) -> None:
        self.callbacks.append(Stop())
        real(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(L.Trainer, 'fit', fit)
        with pytest.raises(KeyboardInterrupt):
            pretrain(noise_pairs, tmp_path / 'run', **options)
    assert capsys.readouterr().out.count('warning at step ') == 1
    pretrain(noise_pairs, tmp_path / 'run', **options)
    assert 'warning at step ' not in capsys.readouterr().out
