"""``consilium-site predict``: a folder of new images, and what a package's model says of them.

One examination after the other is read, scored and written; what is kept in memory are the rows
of the tables. Whatever ends it before all is done, what was predicted until then is there. Nothing
is sent anywhere.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from client.data.archive import Rejected
from client.data.dicom import NO_VERDICT, Reason, Rules, quiet
from client.prediction.dicom_output import DicomOutput
from client.prediction.intake import Examination, examinations, usable
from client.prediction.limits import header_of, warnings
from client.prediction.local import Local
from client.prediction.pictures_output import PicturesOutput
from client.prediction.scoring import Scores, choice_for, scored
from client.prediction.table import Cell, GrowingTable, require_free, write_tables
from common.errors import ConsiliumError, DataError
from common.files import write_atomic
from common.package.package import Package
from common.process.progress import Progress
from common.scores.finding import Finding

TABLE: Final = "predictions"
IMAGES: Final = "images"
REJECTED: Final = "not-used"
NOT_MADE: Final = "not-made"
STOPPED: Final = "STOPPED.txt"
"""Is there where a prediction did not come to its end."""
OWN: Final = frozenset(
    {"patient", "study", "images", "instance", "file", "frame", "warnings", "rule", "model", "use"}
)
"""Columns that say which image it is, and by what it was scored."""
USE: Final = "research use only"


@dataclass(frozen=True)
class Wanted:
    """What is asked for.

    Attributes:
        images: folder of DICOM files.
        out: where everything is written; empty or absent before.
        rule: operating point that decides what counts as found; empty for the usual one.
        reasons: the method that explains each image; empty for none.
        dicom: whether DICOM objects are written.
        any_image: whether images that training leaves out are predicted too: of other modalities,
            derived, or with text in them.
        most: files that are predicted; None for all.
        workers: processes that decode.
        when: the time that the DICOM objects bear.
        local: what was measured at this hospital; None where nothing was.
    """

    images: Path
    out: Path
    rule: str = ""
    reasons: str = ""
    dicom: bool = True
    any_image: bool = False
    most: int | None = None
    workers: int = 1
    when: datetime = field(default_factory=datetime.now)
    local: Local | None = None


@dataclass
class Predicted:
    """What was done. Counts, and paths of files that were written.

    Attributes:
        examinations: that were predicted.
        images: likewise.
        found: by finding, in how many examinations it counts as present.
        warnings: by warning, for how many images.
        reasons: why files were not used, by reason.
        skipped: objects and pictures that could not be made, by reason.
        not_made: the same as rows of a table, by examination.
        files: written, the most useful first.
    """

    examinations: int = 0
    images: int = 0
    found: Counter[str] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)
    reasons: Counter[Reason] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    not_made: list[dict[str, Cell]] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)

    def contain(self, one: Examination, what: str, made: Callable[[], Iterable[str]]) -> None:
        """Write of one examination; whatever a library raises at its headers, the rest goes on.

        Args:
            one: the examination.
            what: is written.
            made: writes it, and says what could not be made.
        """
        why = Counter[str]()
        try:
            with quiet():
                why.update(made())
        except (OSError, *NO_VERDICT):  # a full disk says nothing about a file
            raise
        except ConsiliumError as error:
            why[f"no {what}: {error.what}"] += 1
        except BaseException as error:  # noqa: BLE001 - the libraries' own, and a decoder's in Rust
            why[f"no {what}: {type(error).__name__}"] += 1
        self.skipped.update(why)
        self.not_made += [
            {"patient": one.patient, "study": one.study, "why": each, "objects": count}
            for each, count in why.items()
        ]


def predict(package: Package, wanted: Wanted, progress: Progress) -> Predicted:
    """Predict every examination of a folder, and write tables, objects and pictures.

    Raises:
        DataError: the folder cannot be read, nothing in it can be used, or what is written has no
            place.
        PackageError: the model needs more memory than there is.
    """
    choice = choice_for(package)
    require_free(wanted.out)
    done, rejected = Predicted(), list[Rejected]()
    rows, of_images = GrowingTable(wanted.out, TABLE), GrowingTable(wanted.out, IMAGES)
    objects = DicomOutput(package, wanted.out, wanted.when) if wanted.dicom else None
    pictures = None
    if wanted.reasons or package.study.heads.dense:
        pictures = PicturesOutput(package, wanted.out, wanted.reasons)
    files = usable(
        wanted.images,
        rules=None if wanted.any_image else Rules(package.study.data.modalities),
        most=wanted.most,
        workers=wanted.workers,
        progress=progress,
        rejected=rejected.append,
    )
    given = examinations(
        *(wanted.images, package.study, files), workers=wanted.workers, rejected=rejected.append
    )
    own = wanted.local.profile if wanted.local else None
    try:
        with progress("predicting", len(files), unit="files") as job:
            for one, scores in scored(package, given, choice=choice, rule=wanted.rule):
                sources = [
                    header_of(wanted.images / each.found.path, each.found.sha256)
                    for each in one.files
                ]
                notes = [
                    warnings(package.study, file, source, own)
                    for file, source in zip(one.files, sources, strict=True)
                ]
                rows.add([_row(package, one, scores, notes, wanted)])
                of_images.add(_image_rows(package, one, scores, notes))
                done.examinations += 1
                done.images += len(scores.each)
                done.found.update(each.name for each in scores.findings if each.present)
                done.warnings.update(note for each in notes for note in each)
                if objects is not None:
                    done.contain(one, "objects", partial(objects.write, one, scores, sources))
                if pictures is not None:
                    done.contain(
                        one, "pictures", partial(pictures.write, one, scores, sources, objects)
                    )
                job.advance(len(one.files))
    except BaseException:
        _say_stopped(wanted.out, done)
        raise
    finally:
        done.reasons.update(each.reason for each in rejected)
        if rows:
            not_used: list[dict[str, Cell]] = [
                {"file": each.path, "why": each.reason.value, "detail": each.detail}
                for each in rejected
            ]
            done.files = [*rows.write(), *of_images.write()]
            for name, table in ((REJECTED, not_used), (NOT_MADE, done.not_made)):
                done.files += write_tables(wanted.out, name, table) if table else ()
            if pictures is not None:
                done.files = [*pictures.finish(), *done.files]
            folders = (each for each in wanted.out.iterdir() if each.is_dir())
            done.files += sorted(folders)
    if not rows:
        raise _nothing(wanted, done, rejected)
    return done


def _say_stopped(out: Path, done: Predicted) -> None:
    """Mark a folder that has a part of what was asked for, or nothing."""
    text = f"Stopped. The tables have the examinations until then: {done.examinations}\n"
    write_atomic(out / STOPPED, text.encode(), mode=0o600)


def _row(
    package: Package,
    one: Examination,
    scores: Scores,
    notes: Sequence[tuple[str, ...]],
    wanted: Wanted,
) -> dict[str, Cell]:
    """Of an examination: scores, findings, how far the last rounds agree, warnings."""
    columns = _columns(package)
    row: dict[str, Cell] = {
        "patient": one.patient,
        "study": one.study,
        "images": len(scores.each),
        **_numbers(columns, scores.numbers),
    }
    for each in scores.findings:
        row |= _finding(each)
    local = wanted.local
    if local is not None and local.threshold is not None:
        name = f"set that holds the truth for {1 - local.alpha:.0%} of patients"
        row[name] = package.study.task.answers(scores.numbers, local.threshold)
    if len(scores.rounds):
        row |= _numbers([f"{name}: mean of last rounds" for name in columns], scores.rounds.mean(0))
        row |= _numbers(
            [f"{name}: spread of last rounds" for name in columns], scores.rounds.std(0)
        )
        row |= _numbers([f"{name}: of their averaged weights" for name in columns], scores.averaged)
    said = [note for each in notes for note in each]
    scored = package.study.evaluation.images_per_patient
    if package.statement.points and len(scores.each) > scored:
        said.append(
            f"more than {scored} images: thresholds and calibration are of patients with that many"
        )
    row["warnings"] = "; ".join(dict.fromkeys(said))
    return row | {"rule": _rule(package, wanted.rule), "model": package.name, "use": USE}


def _rule(package: Package, asked: str) -> str:
    """The name of the operating point that decides; empty where there is none."""
    adjustment = package.statement.adjustment
    names = {adjustment.rule(each.positive) for each in adjustment.points}
    return asked or ", ".join(sorted(names))


def _columns(package: Package) -> tuple[str, ...]:
    """The names of scores; a class that is called like a column of ours does not replace it."""
    names = package.study.task.columns()
    return tuple(f"score of {name}" if name in OWN else name for name in names)


def _finding(each: Finding) -> dict[str, Cell]:
    if each.present is None:
        return {}
    row: dict[str, Cell] = {f"{each.name}: present": each.present}
    if each.is_probability:
        row[f"{each.name}: calibrated"] = round(each.score, 6)
    if each.threshold is not None:
        row[f"{each.name}: threshold of calibrated"] = each.threshold
    return row


def _image_rows(
    package: Package, one: Examination, scores: Scores, notes: Sequence[tuple[str, ...]]
) -> list[dict[str, Cell]]:
    """Of each image: which it is, and what the model says of it alone."""
    columns, rows, place = _columns(package), list[dict[str, Cell]](), 0
    for file, said in zip(one.files, notes, strict=True):
        for frame in range(len(file.images)):
            rows.append(
                {
                    "patient": one.patient,
                    "study": one.study,
                    "instance": file.found.header.instance,
                    "file": file.found.path,
                    "frame": frame + 1,
                    **_numbers(columns, scores.each[place]),
                    "warnings": "; ".join(said),
                    "model": package.name,
                    "use": USE,
                }
            )
            place += 1
    return rows


def _numbers(names: Sequence[str], values: NDArray[np.float64]) -> dict[str, Cell]:
    """A number that is none, of an image on which the network fails, is an empty cell."""
    return {
        name: round(float(value), 6) if math.isfinite(value) else None
        for name, value in zip(names, values, strict=True)
    }


def _nothing(wanted: Wanted, done: Predicted, rejected: Sequence[Rejected]) -> DataError:
    """The error where no image can be predicted."""
    counts = ", ".join(f"{reason.value}: {count}" for reason, count in done.reasons.most_common())
    detail = next((each.detail for each in rejected if each.detail), "")
    return DataError(
        "no image in this folder can be predicted",
        where=wanted.images,
        found=f"{counts or 'no files'}{f' (the first: {detail})' if detail else ''}",
        wanted="DICOM images such as the package is for: consilium-site model-card PACKAGE",
        remedy="choose another folder; or --any-image for images that training would leave out",
    )
