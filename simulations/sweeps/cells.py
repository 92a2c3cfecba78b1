"""The runs of a sweep, each named by all that its result follows from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from common.checkpoint import study_hash
from common.errors import StudyError
from common.files import canonical_json, sha256, write_atomic
from common.numerics import ARITHMETIC
from common.settings import checked, load_document
from common.study.study_file import Study, study_of
from simulations.archives.manifest import Hospitals
from simulations.grids.participation import Participation
from simulations.sweeps.sweep_file import Overrides, SweepFile

DIGITS = 16
"""Of a run's name."""
_PARTICIPATION = "participation."


@dataclass(frozen=True)
class Cell:
    """One run.

    Attributes:
        name: a hash of all that its result follows from: study, hospitals, seed, threads and the
            version of the arithmetic.
        settings: what is other than in the study file.
        seed: of the run.
        document: the whole study.
        initial: the file of starting weights that it names, if it does.
        participation: who takes part in a round, where that is set.
    """

    name: str
    settings: Overrides
    seed: int
    document: Mapping[str, Any]
    initial: Path | None = None
    participation: Participation | None = None

    def write(self, folder: Path) -> Path:
        """Its study file, in a folder, with its starting weights beside it."""
        path = folder / "studies" / self.name / "study.toml"
        if self.initial is not None:
            write_atomic(path.with_name(self.initial.name), self.initial.read_bytes())
        write_atomic(path, tomli_w.dumps(self.document).encode())
        return path


@dataclass(frozen=True)
class SweepCells:
    """What makes the runs of a sweep.

    Attributes:
        sweep: the file.
        study: path of the study that it names.
        hospitals: that it names.
        document: the study's file as it is.
    """

    sweep: SweepFile
    study: Path
    hospitals: Hospitals
    document: Mapping[str, Any]

    @classmethod
    def of(cls, sweep: SweepFile, study: Path, hospitals: Hospitals) -> SweepCells:
        """Those of a sweep.

        Raises:
            StudyError: the study cannot be read.
        """
        return cls(sweep, study, hospitals, load_document(study, StudyError))

    def all(self) -> tuple[Cell, ...]:
        """Every run of a sweep whose settings are known beforehand.

        Raises:
            StudyError: a study with other settings is none.
        """
        return tuple(cell for settings in self.sweep.each() for cell in self.at(settings))

    def at(self, settings: Overrides) -> tuple[Cell, ...]:
        """The runs of one setting: one with each seed.

        Raises:
            StudyError: the study with these settings is none.
        """
        of_study = tuple(each for each in settings if not each[0].startswith(_PARTICIPATION))
        changed = changed_by(self.document, of_study)
        whole = _checked(changed, settings, self.study)
        named, part = whole.model.initial, _participation(settings)
        more = [] if part is None else [part.model_dump(mode="json")]
        found = []
        for seed in self.sweep.sweep.seeds:
            threads = self.sweep.sweep.threads
            facts = [study_hash(whole), self.hospitals.sha256, seed, threads, ARITHMETIC, *more]
            found.append(
                Cell(
                    name=sha256(canonical_json(facts))[:DIGITS],
                    settings=settings,
                    seed=seed,
                    document=changed,
                    initial=None if named is None else self.study.with_name(named.file),
                    participation=part,
                )
            )
        return tuple(found)


def _participation(settings: Overrides) -> Participation | None:
    given = {
        key.removeprefix(_PARTICIPATION): value
        for key, value in settings
        if key.startswith(_PARTICIPATION)
    }
    return checked(given, Path("[settings]"), Participation, StudyError) if given else None


def changed_by(document: Mapping[str, Any], settings: Overrides) -> dict[str, Any]:
    """A study's document with some of its keys set; a table takes the place of a whole section."""
    found = {
        name: dict(each) if isinstance(each, dict) else each for name, each in document.items()
    }
    for key, value in settings:
        *sections, last = key.split(".")
        place: dict[str, Any] = found
        for name in sections:
            place[name] = dict(place.get(name, {}))
            place = place[name]
        place[last] = value
    return found


def _checked(document: dict[str, Any], settings: Overrides, study: Path) -> Study:
    try:
        return study_of(document, study, lambda name: study.with_name(name).read_bytes())
    except StudyError as error:
        said = ", ".join(f"{key} = {value}" for key, value in settings) or "as it is"
        raise StudyError(
            "a study with the settings of this sweep cannot be run",
            where=f"[settings] of the sweep: {said}",
            found=error.details.get("found", error.what),
            wanted=error.details.get("wanted"),
            remedy="correct the key or the value, or set what goes with it too: a table takes "
            "the place of a whole section",
        ) from error
