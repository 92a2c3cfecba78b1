"""Finished runs in other programs' form: MLflow and TensorBoard.

Neither is installed with the rest: ``pip install consilium[trackers]``.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from common.documents import read_json
from common.errors import StudyError
from simulations.sweeps.records import Record, result_of

_INSTALL: Final = "install it: pip install 'consilium[trackers]'"


def to_mlflow(folder: Path, records: Iterable[Record], store: str) -> int:
    """Write the runs of a sweep to MLflow, each once; gives how many were new.

    Args:
        folder: of the sweep.
        records: its runs.
        store: MLflow's tracking URI, or a folder for a database of its own.

    Raises:
        StudyError: MLflow is not installed.
    """
    try:
        from mlflow.tracking import MlflowClient
    except ImportError as error:
        raise _missing("MLflow", "--mlflow", error) from error
    uri = store
    if "://" not in store:
        Path(store).mkdir(parents=True, exist_ok=True)
        uri = f"sqlite:///{Path(store).absolute() / 'mlflow.db'}"
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(folder.name)
    experiment = found.experiment_id if found else client.create_experiment(folder.name)
    there = {each.info.run_name for each in client.search_runs([experiment])}
    new = [each for each in records if each.name not in there]
    for record in new:
        run = client.create_run(experiment, run_name=record.name).info.run_id
        for key, value in read_json(record.settings).items():
            client.log_param(run, key, value)
        client.log_param(run, "seed", record.seed)
        for name, value in read_json(record.values).items():
            if value is not None:
                client.log_metric(run, name, value)
        for number, value in _curve(folder, record):
            client.log_metric(run, f"{record.headline} by round", value, step=number)
        client.set_tag(run, "weights_sha256", record.weights_sha256)
        client.set_terminated(run)
    return len(new)


def to_tensorboard(folder: Path, records: Iterable[Record], logs: Path) -> int:
    """Write the runs of a sweep as TensorBoard's event files, a folder each; gives how many.

    Raises:
        StudyError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise _missing("TensorBoard", "--tensorboard", error) from error
    count = 0
    for record in records:
        with SummaryWriter(logs / folder.name / record.name) as writer:
            for number, value in _curve(folder, record):
                writer.add_scalar(f"{record.headline} by round", value, number)
            values = {k: v for k, v in read_json(record.values).items() if v is not None}
            for name, value in values.items():
                writer.add_scalar(name, value)
            said = "\n".join(f"- {key}: {value}" for key, value in _settings(record).items())
            writer.add_text("settings", said)
        count += 1
    return count


def _settings(record: Record) -> dict[str, object]:
    return {**read_json(record.settings), "seed": record.seed}


def _curve(folder: Path, record: Record) -> list[tuple[int, float]]:
    """The headline figure by round."""
    points = result_of(folder, record).shared.curve
    return [(each.round, each.value) for each in points if each.value is not None]


def _missing(what: str, option: str, error: ImportError) -> StudyError:
    return StudyError(f"{what} is not installed", where=option, found=str(error), remedy=_INSTALL)
