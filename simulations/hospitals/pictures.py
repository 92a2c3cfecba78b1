"""Pictures in folders, or in a table, become a source that can be divided among hospitals.

A folder has one folder for each class; a table (CSV) has a row for each picture: its path, its
label, and where there are such columns its patient and its institution. Every picture is brought to
one size, in grey or in colour.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from common.errors import DataError, of_system
from common.process.progress import Progress, silent
from simulations.hospitals.npz import MedMnistKind, Source, modality_of, slug

KINDS: Final = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
MOST_PIXELS: Final = 2**26
"""Of one picture: a larger one is not opened."""


@dataclass(frozen=True)
class Columns:
    """The columns of a table of pictures.

    Attributes:
        image: paths, from the table's folder on.
        label: classes.
        patient: whose it is; None where each picture is a patient.
        site: the institution; None where there is none.
    """

    image: str = "image"
    label: str = "label"
    patient: str | None = None
    site: str | None = None


@dataclass(frozen=True)
class Form:
    """What every picture is brought to.

    Attributes:
        size: side in pixels.
        colour: whether it keeps its colours.
    """

    size: int = 28
    colour: bool = False


@dataclass(frozen=True)
class _Row:
    path: Path
    label: str
    patient: str
    site: str = ""


def read_folder(
    folder: Path,
    form: Form,
    *,
    seed: int,
    test_share: float,
    dataset: str | None = None,
    modality: str = "OT",
    progress: Progress = silent,
) -> Source:
    """Read a folder of classes; each picture is a patient.

    Args:
        folder: with one folder for each class.
        form: of every picture.
        seed: that the test set is drawn from.
        test_share: of the patients.
        dataset: name that studies use; None takes the folder's.
        modality: DICOM modality.
        progress: told of every picture.

    Raises:
        DataError: there is no such folder, or a picture cannot be read.
    """
    classes = sorted(each for each in folder.iterdir() if each.is_dir()) if folder.is_dir() else []
    rows = [
        _Row(path, kind.name, str(path))
        for kind in classes
        for path in sorted(kind.rglob("*"))
        if path.suffix.lower() in KINDS
    ]
    if len(classes) < 2 or not rows:
        raise DataError(
            "this folder has no pictures in folders of classes",
            where=folder,
            found=f"{len(classes)} folders, {len(rows)} pictures",
            wanted=f"a folder for each class, with pictures ({', '.join(sorted(KINDS))})",
            remedy="check the path; for pictures that a table describes use from-csv",
        )
    about = _About(folder, dataset or folder.name, modality)
    return _source(rows, form, about, seed=seed, test_share=test_share, progress=progress)


def read_table(
    path: Path,
    columns: Columns,
    form: Form,
    *,
    seed: int,
    test_share: float,
    dataset: str | None = None,
    modality: str = "OT",
    progress: Progress = silent,
) -> Source:
    """Read a table of pictures.

    Args:
        path: of the CSV file.
        columns: of it.
        form: as for :func:`read_folder`, and so the rest.
        seed: likewise.
        test_share: likewise.
        dataset: likewise.
        modality: likewise.
        progress: likewise.

    Raises:
        DataError: the file or a column is missing, or a picture cannot be read.
    """
    named = (columns.image, columns.label, columns.patient, columns.site)
    wanted = [each for each in named if each]
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [each for each in wanted if each not in (reader.fieldnames or ())]
            if missing:
                raise DataError(
                    "columns are missing from the table",
                    where=path,
                    found=", ".join(reader.fieldnames or ()) or "no columns",
                    wanted=", ".join(wanted),
                    remedy="name them with --image-column, --label-column, --patient-column and "
                    "--site-column",
                )
            rows = [
                _Row(
                    path.parent / each[columns.image],
                    each[columns.label],
                    each[columns.patient] if columns.patient else str(number),
                    each[columns.site] if columns.site else "",
                )
                for number, each in enumerate(reader)
            ]
    except FileNotFoundError as error:
        raise DataError("there is no such file", where=path, wanted="a CSV file") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            "the table cannot be read", where=path, found=type(error).__name__, wanted="CSV, UTF-8"
        ) from error
    except OSError as error:
        raise of_system(error, DataError, "the table cannot be read", where=path) from error
    if not rows:
        raise DataError("the table has no rows", where=path, wanted="a row for each picture")
    about = _About(path, dataset or path.stem, modality)
    found = _source(rows, form, about, seed=seed, test_share=test_share, progress=progress)
    return found if columns.site else _without_institutions(found)


@dataclass(frozen=True)
class _About:
    path: Path
    dataset: str
    modality: str


def _source(
    rows: Sequence[_Row],
    form: Form,
    about: _About,
    *,
    seed: int,
    test_share: float,
    progress: Progress,
) -> Source:
    classes = sorted({each.label for each in rows})
    number = {name: at for at, name in enumerate(classes)}
    people = sorted({each.patient for each in rows})
    place = {name: at for at, name in enumerate(people)}
    images = []
    with progress("reading pictures", len(rows), unit="files") as job:
        for each in rows:
            images.append(_read(each.path, form))
            job.advance()
    pixels = np.stack(images)
    labels = np.array([number[each.label] for each in rows], dtype=np.int64)
    patients = np.array([place[each.patient] for each in rows], dtype=np.int64)
    sites = np.array([each.site for each in rows])
    # Whole patients: a test patient's other pictures are at no hospital.
    apart = np.random.default_rng(seed).permutation(len(people))
    tested = np.isin(patients, apart[: max(1, round(test_share * len(people)))])
    return Source(
        path=about.path,
        dataset=slug("--dataset", _slugged(about.dataset)),
        kind=MedMnistKind(modality_of("--modality", about.modality), "UNKNOWN", tuple(classes)),
        images={"train": pixels[~tested], "val": pixels[:0], "test": pixels[tested]},
        labels={"train": labels[~tested], "val": labels[:0], "test": labels[tested]},
        patients={"train": patients[~tested], "val": patients[:0], "test": patients[tested]},
        institutions=sites[~tested],
        origin="pictures",
    )


def _without_institutions(source: Source) -> Source:
    return replace(source, institutions=None)


def _slugged(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _read(path: Path, form: Form) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise DataError(
                    "a picture is too large",
                    where=path,
                    found=f"{picture.width} x {picture.height} pixels",
                    wanted="at most 64 million",
                    remedy="take it out, or save it smaller",
                )
            grey = picture.convert("RGB" if form.colour else "L")
            return np.asarray(grey.resize((form.size, form.size), Image.Resampling.BILINEAR))
    except FileNotFoundError as error:
        raise DataError(
            "there is no such picture",
            where=path,
            remedy="paths in the table start at the table's folder",
        ) from error
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(
            "a picture cannot be read",
            where=path,
            found=type(error).__name__,
            wanted=f"one of {', '.join(sorted(KINDS))}",
            remedy="take it out, or save it again",
        ) from error
