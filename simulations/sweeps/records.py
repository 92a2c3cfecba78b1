"""What the runs of a sweep reached: a table in SQLite, and the same as Parquet."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from common.documents import read_json
from common.errors import CheckpointError
from common.files import write_atomic
from simulations.reports.result import Result, read_result
from simulations.sweeps.cells import Cell

FILE = "sweep.sqlite"
PARQUET = "sweep.parquet"


@dataclass(frozen=True)
class Record:
    """A finished run.

    Attributes:
        name: of the run.
        settings: what was set, JSON.
        seed: of the run.
        headline: the name of the figure that the study is judged by.
        values: its exact figures on the test set, JSON by name.
        sites: the headline at each hospital's own validation patients, JSON by name.
        epsilon: the most that a patient paid; None where nothing bounds it.
        weights_sha256: of the final weights.
        seconds: that the run took, but for what an earlier start of it took.
    """

    name: str
    settings: str
    seed: int
    headline: str
    values: str
    sites: str
    epsilon: float | None
    weights_sha256: str
    seconds: float

    @classmethod
    def of(cls, cell: Cell, result: Result) -> Record:
        """What a run's result says."""
        values = {name: each.value for name, each in result.metrics.figures.items()}
        sites = {name: each.figure.value for name, each in result.at_sites.items()}
        paid = [each for each in result.epsilon.values() if each is not None]
        return cls(
            name=cell.name,
            settings=json.dumps(dict(cell.settings), sort_keys=True),
            seed=cell.seed,
            headline=result.metrics.headline,
            values=json.dumps(values, sort_keys=True),
            sites=json.dumps(sites, sort_keys=True),
            epsilon=max(paid) if len(paid) == len(result.epsilon) and paid else None,
            weights_sha256=result.final_weights_sha256,
            seconds=sum(result.seconds.values()),
        )

    @property
    def reached(self) -> float:
        """The headline figure; NaN where it is not defined."""
        found = read_json(self.values)[self.headline]
        return float("nan") if found is None else float(found)

    @property
    def at_sites(self) -> list[float]:
        """The headline at each hospital where it is defined, by the hospital's name."""
        return [float(each) for each in read_json(self.sites).values() if each is not None]


def result_of(folder: Path, record: Record) -> Result:
    """The whole result of a run of a sweep.

    Raises:
        CheckpointError: it is not there.
    """
    return read_result(folder / "results" / record.name)


def require_sweep(folder: Path) -> None:
    """Refuse a folder that holds no sweep.

    Raises:
        CheckpointError: it does not.
    """
    if not (folder / FILE).is_file():
        raise CheckpointError(
            "this folder does not hold a sweep",
            where=folder,
            wanted=f"a folder with {FILE}",
            remedy="give the --out of consilium-sim sweep",
        )


class Records:
    """The table of a sweep.

    Args:
        folder: of the sweep; made if absent.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        with self._opened() as store:
            store.execute(
                "CREATE TABLE IF NOT EXISTS runs (name TEXT PRIMARY KEY, settings TEXT NOT NULL,"
                ' seed INTEGER NOT NULL, headline TEXT NOT NULL, "values" TEXT NOT NULL,'
                " sites TEXT NOT NULL,"
                " epsilon REAL, weights_sha256 TEXT NOT NULL, seconds REAL NOT NULL)"
            )
            held = {row[1] for row in store.execute("PRAGMA table_info(runs)")}
            if held != {each.name for each in fields(Record)}:
                raise sqlite3.DatabaseError("another version of Consilium made it")

    def add(self, record: Record) -> None:
        """Keep a finished run, durably."""
        with self._opened() as store:
            store.execute(
                "INSERT OR REPLACE INTO runs VALUES (:name, :settings, :seed, :headline, :values,"
                " :sites, :epsilon, :weights_sha256, :seconds)",
                asdict(record),
            )

    def all(self) -> tuple[Record, ...]:
        """Every finished run, by settings and seed."""
        with self._opened() as store:
            store.row_factory = sqlite3.Row
            rows = store.execute("SELECT * FROM runs ORDER BY settings, seed, name").fetchall()
        return tuple(Record(**dict(row)) for row in rows)

    def export(self) -> Path:
        """Write the table as Parquet: a column for each setting and figure."""
        rows = [_flat(each) for each in self.all()]
        names = dict.fromkeys(name for row in rows for name in row)
        table = pa.table({name: _column([row.get(name) for row in rows]) for name in names})
        sink = pa.BufferOutputStream()
        pyarrow.parquet.write_table(table, sink)
        path = self._folder / PARQUET
        write_atomic(path, sink.getvalue().to_pybytes())
        return path

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self._folder / FILE)) as store, store:
                yield store
        except sqlite3.DatabaseError as error:
            raise CheckpointError(
                "the table of the sweep cannot be used",
                where=self._folder / FILE,
                found=str(error),
                remedy="delete the file: finished runs are read again from their folders",
            ) from error


def _flat(record: Record) -> dict[str, Any]:
    own = asdict(record)
    settings, values = read_json(own.pop("settings")), read_json(own.pop("values"))
    own.pop("sites")
    worst = {"worst_hospital": min(record.at_sites)} if record.at_sites else {}
    return {**settings, **own, **values, **worst}


def _column(values: list[Any]) -> list[Any]:
    """A setting may be a number in one run and a word or a table in another."""
    kinds = {type(each) for each in values if each is not None}
    if kinds <= {int, float} or (len(kinds) == 1 and kinds <= {bool, str}):
        return [
            float(each) if kinds == {int, float} and each is not None else each for each in values
        ]
    return [None if each is None else json.dumps(each) for each in values]
