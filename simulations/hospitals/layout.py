"""How the folder of a simulation's hospitals is laid out, and how it comes to be whole.

::

    DIR/hospitals.json                  where everything came from
    DIR/README.md                       the same, to read
    DIR/<site>/site.toml                the hospital's half of every study
    DIR/<site>/images/**, labels.csv    its archive
    DIR/test/images/**, labels.csv      the test set, kept apart from every hospital

Everything is written into a neighbour of DIR, which takes the name at the end.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from client.data.labels import Key
from common.documents import read_json
from common.errors import DataError
from common.process.progress import Tracker
from simulations.hospitals.archives import FACTS, LABEL_COLUMN, MANIFEST, SITE_FILE

README: Final = "README.md"
TEST: Final = "test"

_SITE_TOML: Final = """\
# A made-up hospital. Its policy suits a simulation and nothing else.
[site]
name = {name}

[data.{dataset}]
images = "images"
labels = "labels.csv"
key = {key}
key_column = {key}
label_column = {label_column}
declared_patients = {declared}     # in training, rounded down; public
most_patients = {most}         # never more in training, nor in validation; public
split = {split}

[policy]
max_epsilon_per_study = 8.0
max_epsilon_total = 20.0
delta = 1e-5
min_sites = 2
approval = "automatic"
allow_known_key = true      # a simulation's keys follow from its seed
allow_no_privacy = true     # so that the baselines without privacy are studies too
tasks = ["classification"]

[device]
threads = 1
kernels = "modelled"        # not timed, so that a run comes out the same wherever it is repeated
"""


@dataclass(frozen=True)
class File:
    """One file of an archive.

    Attributes:
        path: below the folder of images.
        data: its content.
        row: key and label of its row in the label file, if it has one.
        patient: whose usable image it is; None for a file that cannot be used.
        spoilt: why it cannot be used, if so.
    """

    path: str
    data: bytes
    row: tuple[str, str] | None
    patient: str | None
    spoilt: str | None = None


@dataclass(frozen=True)
class Archive:
    """One folder of images as it was written: a site's, or the test set.

    Attributes:
        key: what a row of the label file is about.
        patients: label by patient, of those whose images can be used.
        images: number of images that can be used.
        spoilt: number of files of each kind that cannot be used.
    """

    key: Key
    patients: Mapping[str, str]
    images: int
    spoilt: Mapping[str, int]

    def facts(self) -> dict[str, Any]:
        """What the manifest says of it: counts."""
        return {
            "patients": len(self.patients),
            "images": self.images,
            "labels": dict(sorted(Counter(self.patients.values()).items())),
            "unusable": dict(sorted(self.spoilt.items())),
        }


def declared_patients(patients: int, train: float) -> int:
    """The public number of patients in training: rounded down to a multiple of ten."""
    # A product may come out just below a whole number; int() would then cost ten patients.
    return int(patients * train + 1e-9) // 10 * 10


def most_patients(declared: int) -> int:
    """The public bound on the patients of a part; the rounding of few has room in it."""
    return 2 * declared + 20


def write_archive(folder: Path, key: Key, files: Iterable[File], job: Tracker) -> Archive:
    """Write files below ``folder/images``, and their label file."""
    rows: dict[str, str] = {}
    patients: dict[str, str] = {}
    spoilt: Counter[str] = Counter()
    images = 0
    for file in files:
        path = folder / "images" / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.data)
        if file.row:
            rows[file.row[0]] = file.row[1]
        if file.spoilt:
            spoilt[file.spoilt] += 1
        elif file.patient and file.row:
            patients[file.patient] = file.row[1]
            images += 1
        job.advance()
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as labels:
        writer = csv.writer(labels, lineterminator="\n")
        writer.writerow([key, LABEL_COLUMN])
        writer.writerows(rows.items())
    return Archive(key, patients, images, spoilt)


def write_site(
    folder: Path, name: str, archive: Archive, dataset: str, split: tuple[float, float, float]
) -> dict[str, Any]:
    """Write the site file of an archive.

    Returns:
        What the manifest says of the site.
    """
    declared = declared_patients(len(archive.patients), split[0])
    text = _SITE_TOML.format(
        name=json.dumps(name),
        dataset=dataset,
        key=json.dumps(archive.key),
        label_column=json.dumps(LABEL_COLUMN),
        declared=declared,
        most=most_patients(declared),
        split=list(split),
    )
    (folder / SITE_FILE).write_text(text, encoding="utf-8")
    return {**archive.facts(), "declared_patients": declared, "split": list(split)}


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write ``hospitals.json``, and a page that says the same in words."""
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    sites = ", ".join(manifest["sites"])
    text = (
        f"# Hospitals of a simulation\n\n{FACTS[manifest['kind']]}\n\n"
        f"Sites: {sites}. Data set: {manifest['dataset']}. Seed: {manifest['seed']}.\n"
        f"`{TEST}/` is kept apart from every site; `{MANIFEST}` says where everything came from.\n"
    )
    (folder / README).write_text(text, encoding="utf-8")


@contextmanager
def fresh(out: Path) -> Iterator[Path]:
    """A folder to write hospitals into, which becomes ``out`` if nothing fails.

    Hospitals that were made before are replaced at the end; anything else is left alone.

    Raises:
        DataError: ``out`` holds something that is not ours, or cannot be written.
    """
    out = out.absolute()
    _require_ours(out)
    # Beside ``out``, hence on the same file system: there a rename cannot leave half a folder.
    neighbour = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        neighbour.mkdir(parents=True)
        yield neighbour
        _swap(neighbour, out)
    except OSError as error:
        raise DataError(
            "the hospitals cannot be written",
            where=error.filename or out,
            found=error.strerror,
            remedy="free some disk space, or choose another --out",
        ) from error
    finally:
        # After a rename there is nothing left to remove.
        shutil.rmtree(neighbour, ignore_errors=True)


def _swap(neighbour: Path, out: Path) -> None:
    old = out.with_name(f".{out.name}.{os.getpid()}.old")
    # Two renames, because a rename cannot replace a folder that is not empty.
    if out.exists():
        out.rename(old)
    neighbour.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def _require_ours(out: Path) -> None:
    """Hold that ``out`` is absent, empty, or hospitals of ours and nothing besides."""
    if not out.exists():
        return
    if out.is_dir():
        # A mistyped --out must not delete anyone's files.
        strangers = sorted({path.name for path in out.iterdir()} - _known(out))
        found = ", ".join(strangers[:5])
    else:
        strangers, found = [out.name], "a file"
    if strangers:
        raise DataError(
            "the folder for the hospitals holds other files",
            where=out,
            found=found,
            wanted="a new or empty folder, or hospitals from an earlier call",
            remedy="choose another --out",
        )


def _known(out: Path) -> set[str]:
    """Names that hospitals made before have in ``out``; none if its manifest is not ours."""
    try:
        manifest = read_json((out / MANIFEST).read_text(encoding="utf-8"))
        if manifest["kind"] in FACTS:
            return {MANIFEST, README, TEST, *map(str, manifest["sites"])}
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return set()
