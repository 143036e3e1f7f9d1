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
from lightning.pytorch.utilities import rank_zero_only

from clcp_ros.errors import ModelError

MLFLOW_RUN = 'mlflow_run.json'


def check_loggers(names: str) -> list[str]:
    """The loggers that are asked for and there.

    Args:
        names: `tensorboard`, `wandb`, `mlflow`, several with commas; `none` or empty for none.

    Returns:
        Names. TensorBoard is left out, with a word on it, where it is not installed.

    Raises:
        ModelError: An unknown name, or one that is asked for and not installed.
    """
    chosen = [n.strip() for n in names.split(',') if n.strip()]
    if chosen == ['none']:
        return []
    there = []
    for name in dict.fromkeys(chosen):
        if name not in _MAKERS:
            similar = difflib.get_close_matches(name, _MAKERS, 1)
            meant = f' (is it {similar[0]}?)' if similar else ''
            raise ModelError(
                f'no logger {name!r}{meant}; there are {", ".join(_MAKERS)}, or none '
                '(metrics.csv is always written)'
            )
        try:
            importlib.import_module(name)
        except ImportError:
            if name != 'tensorboard':
                raise ModelError(f'--loggers {name} needs: pip install {name}') from None
            print('no TensorBoard files, only metrics.csv: pip install tensorboard')
            continue
        there.append(name)
    return there


def make_loggers(names: str, out: Path, new: bool = False) -> list[Logger]:
    """Make loggers by name, and reach the services behind them.

    Nothing of a run that is in the folder is touched: `start_loggers` follows when the folder is
    ready.

    Args:
        names: See `check_loggers`.
        out: Folder of the run.
        new: Whether the run begins, whatever is in the folder.

    Returns:
        The loggers.

    Raises:
        ModelError: See `check_loggers`; or a service does not answer.
    """
    loggers = []
    for name in check_loggers(names):
        try:
            loggers.append(_MAKERS[name](out, new))
        except Exception as error:  # each service has its own, for no key or no network
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ModelError(f'--loggers {name} cannot be used: {first}') from error
    return loggers


def start_loggers(loggers: list[Logger], out: Path, settings: dict[str, Any]) -> None:
    """Let loggers write what they begin with.

    Args:
        loggers: From `make_loggers`.
        out: Folder of the run, as it is to be.
        settings: Of the run, shown with its metrics.
    """
    for logger in loggers:
        if hasattr(logger, 'run_id'):
            _remember(out, logger)
        logger.log_hyperparams(settings)


def _tensorboard(out: Path, new: bool) -> Logger:
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(out, name='tensorboard', version='', default_hp_metric=False)


def _wandb(out: Path, new: bool) -> Logger:
    from lightning.pytorch.loggers import WandbLogger

    out.mkdir(parents=True, exist_ok=True)
    # The folder is the run: resumed, it goes on in the same one.
    run_id = hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:16]
    logger = WandbLogger(
        project='clcp_ros', name=out.name, save_dir=out, id=run_id, resume='allow'
    )
    _ = logger.experiment  # connects
    return logger


def _mlflow(out: Path, new: bool) -> Logger:
    from lightning.pytorch.loggers import MLFlowLogger

    where = _mlflow_server(out)
    before = {} if new else _remembered(out)
    run_id = before.get('run_id') if before.get('where') == where else None
    logger = MLFlowLogger('clcp_ros', out.name, tracking_uri=where, run_id=run_id)
    _ = logger.run_id  # connects
    return logger


def _mlflow_server(out: Path) -> str:
    """MLFLOW_TRACKING_URI, or a data base beside the folder of the run."""
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = f'sqlite:///{(out.parent / "mlflow.db").resolve()}'
    return os.environ.get('MLFLOW_TRACKING_URI') or beside


def _remembered(out: Path) -> dict[str, Any]:
    """MLflow's run of a folder; nothing where the file is damaged: then it is a new one."""
    try:
        content = json.loads((out / MLFLOW_RUN).read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


@rank_zero_only
def _remember(out: Path, logger: Any) -> None:
    content = {'where': _mlflow_server(out), 'run_id': logger.run_id}
    (out / MLFLOW_RUN).write_text(json.dumps(content))


_MAKERS: dict[str, Callable[[Path, bool], Logger]] = {
    'tensorboard': _tensorboard,
    'wandb': _wandb,
    'mlflow': _mlflow,
}
