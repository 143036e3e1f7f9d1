# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Where metrics go beside the CSV file of a run."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from clcp_ros.errors import ModelError

MLFLOW_RUN = 'mlflow_run.json'


def make_loggers(names: str, out: Path, settings: dict[str, Any]) -> list[Logger]:
    """Make loggers by name.

    Args:
        names: `tensorboard`, `wandb`, `mlflow`, several with commas; empty for none.
        out: Folder of the run.
        settings: Of the run, shown with its metrics.

    Returns:
        The loggers. TensorBoard is left out, with a word on it, where it is not installed.

    Raises:
        ModelError: An unknown name, or one that is asked for and not installed.
    """
    chosen = [n.strip() for n in names.split(',') if n.strip()]
    loggers = []
    for name in chosen:
        if name not in _MAKERS:
            similar = difflib.get_close_matches(name, _MAKERS, 1) or list(_MAKERS)
            raise ModelError(f'no logger {name!r}; there are {", ".join(similar)} (csv is always)')
        try:
            importlib.import_module(name)
            logger = _MAKERS[name](out)
        except ImportError:
            if name != 'tensorboard':
                raise ModelError(f'--loggers {name} needs: pip install {name}') from None
            print('no TensorBoard files, only metrics.csv: pip install tensorboard')
            continue
        logger.log_hyperparams(settings)
        loggers.append(logger)
    return loggers


def _tensorboard(out: Path) -> Logger:
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(out, name='tensorboard', version='', default_hp_metric=False)


def _wandb(out: Path) -> Logger:
    from lightning.pytorch.loggers import WandbLogger

    out.mkdir(parents=True, exist_ok=True)
    # The folder is the run: resumed, it goes on in the same one.
    run_id = hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:16]
    return WandbLogger(project='clcp_ros', name=out.name, save_dir=out, id=run_id, resume='allow')


def _mlflow(out: Path) -> Logger:
    from lightning.pytorch.loggers import MLFlowLogger

    out.mkdir(parents=True, exist_ok=True)
    # MLFLOW_TRACKING_URI says where to; a data base beside the folder of the run otherwise.
    beside = f'sqlite:///{(out.parent / "mlflow.db").resolve()}'
    where = os.environ.get('MLFLOW_TRACKING_URI') or beside
    known = out / MLFLOW_RUN
    before = json.loads(known.read_text()) if known.is_file() else {}
    run_id = before.get('run_id') if before.get('where') == where else None
    logger = MLFlowLogger('clcp_ros', out.name, tracking_uri=where, run_id=run_id)
    known.write_text(json.dumps({'where': where, 'run_id': logger.run_id}))
    return logger


_MAKERS: dict[str, Callable[[Path], Logger]] = {
    'tensorboard': _tensorboard,
    'wandb': _wandb,
    'mlflow': _mlflow,
}
