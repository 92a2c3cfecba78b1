"""How the folder of a simulation's hospitals is laid out, and how it comes to be whole.

::

    DIR/hospitals.json                  where everything came from
    DIR/README.md                       the same, to read
    DIR/<site>/site.toml                the hospital's half of every study
    DIR/<site>/images/**, labels.csv    its archive
    DIR/<site>/images/**, masks/**      the same, where a mask says what an image shows
    DIR/test/...                        the test set, kept apart from every hospital

Everything is written into a neighbour of DIR, which takes the name at the end.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

from client.data.labels import Key
from common.documents import read_json
from common.errors import DataError
from common.process.progress import Tracker
from common.tasks.tasks import kinds
from simulations.archives import arrays as array_files
from simulations.archives.decoded import FOLDER as DECODED
from simulations.archives.manifest import (
    FACTS,
    LABEL_COLUMN,
    MANIFEST,
    MASKS,
    PICTURE,
    SITE_FILE,
    TEST,
)

README: Final = "README.md"
IMAGES: Final = "images"

_SITE_TOML: Final = """\
# A made-up hospital. Its policy suits a simulation and nothing else.
[site]
name = {name}

[data.{dataset}]
images = {images}
{targets}
declared_patients = {declared}     # in training, rounded down; public
most_patients = {most}         # never more in training, nor in validation; public
split = {split}
{mask_classes}
[policy]
max_epsilon_per_study = 8.0
max_epsilon_total = 20.0
delta = 1e-5
min_sites = 2
approval = "automatic"
allow_known_key = true      # a simulation's keys follow from its seed
allow_no_privacy = true     # so that the baselines without privacy are studies too
tasks = {tasks}

[device]
threads = 1
kernels = "modelled"        # not timed, so that a run comes out the same wherever it is repeated
"""

_LABELS: Final = """\
labels = {labels}
key = {key}
key_column = {key}
label_column = {label_column}"""


@dataclass(frozen=True)
class File:
    """One file of an archive.

    Attributes:
        path: below its folder.
        data: its content.
        row: key and label of its row in the label file, if it has one.
        patient: whose usable image it is; None for a file that cannot be used, and for a mask.
        spoilt: why it cannot be used, if so.
        shows: classes that its mask marks.
        folder: of images or of masks.
    """

    path: str
    data: bytes
    row: tuple[str, str] | None
    patient: str | None
    spoilt: str | None = None
    shows: tuple[str, ...] = ()
    folder: str = IMAGES


@dataclass(frozen=True)
class Archive:
    """One folder of images as it was written: a site's, or the test set.

    Attributes:
        key: what a row of the label file is about; None where masks say what images show.
        patients: classes by patient, of those whose images can be used: the label, or what the
            masks mark.
        images: number of images that can be used.
        spoilt: number of files of each kind that cannot be used.
    """

    key: Key | None
    patients: Mapping[str, Set[str]]
    images: int
    spoilt: Mapping[str, int]

    def facts(self) -> dict[str, Any]:
        """What the manifest says of it: counts."""
        return {
            "patients": len(self.patients),
            "images": self.images,
            "labels": dict(sorted(Counter(chain.from_iterable(self.patients.values())).items())),
            "unusable": dict(sorted(self.spoilt.items())),
        }


def declared_patients(patients: int, train: float) -> int:
    """The public number of patients in training: rounded down to a multiple of ten, if it can."""
    # A product may come out just below a whole number; int() would then cost ten patients.
    found = int(patients * train + 1e-9)
    return found // 10 * 10 or max(1, found)


def most_patients(declared: int) -> int:
    """The public bound on the patients of a part; the rounding of few has room in it."""
    return 2 * declared + 20


def write_archive(folder: Path, key: Key | None, files: Iterable[File], job: Tracker) -> Archive:
    """Write files below ``folder``, and their label file if they have one."""
    rows: dict[str, str] = {}
    patients: defaultdict[str, set[str]] = defaultdict(set)
    spoilt: Counter[str] = Counter()
    images = 0
    for file in files:
        path = folder / file.folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.data)
        if file.row:
            rows[file.row[0]] = file.row[1]
        if file.spoilt:
            spoilt[file.spoilt] += 1
        elif file.patient:
            patients[file.patient].update(file.shows)
            images += 1
        job.advance()
    if key:
        with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as labels:
            writer = csv.writer(labels, lineterminator="\n")
            writer.writerow([key, LABEL_COLUMN])
            writer.writerows(rows.items())
    return Archive(key, patients, images, spoilt)


def write_site(
    folder: Path,
    name: str,
    archive: Archive,
    dataset: str,
    split: tuple[float, float, float],
    *,
    declared: int | None = None,
    mask_classes: Mapping[str, str] | None = None,
    arrays: bool = False,
) -> dict[str, Any]:
    """Write the site file of an archive.

    Args:
        folder: of the site.
        name: of the site.
        archive: as it was written.
        dataset: name that studies use.
        split: shares of train, validation and test.
        declared: patients in training; None takes :func:`declared_patients`.
        mask_classes: the study's class by what the masks say, where that is another word.
        arrays: whether its images are rows of arrays.

    Returns:
        What the manifest says of the site.
    """
    if declared is None:
        declared = declared_patients(len(archive.patients), split[0])
    labels = _LABELS.format(
        labels=json.dumps(f"../{array_files.TARGETS}" if arrays else "labels.csv"),
        key=json.dumps(archive.key),
        label_column=json.dumps(LABEL_COLUMN),
    )
    words = "".join(
        f"{json.dumps(said)} = {json.dumps(meant)}\n"
        for said, meant in (mask_classes or {}).items()
    )
    text = _SITE_TOML.format(
        name=json.dumps(name),
        dataset=dataset,
        images=json.dumps(f"../{array_files.IMAGES}" if arrays else IMAGES),
        targets=labels if archive.key else f'masks = "{MASKS}"',
        declared=declared,
        most=most_patients(declared),
        split=list(split),
        mask_classes=f"\n[data.{dataset}.mask_classes]\n{words}" if words else "",
        tasks=json.dumps(kinds("label" if archive.key else "mask")),
    )
    (folder / SITE_FILE).write_text(text, encoding="utf-8")
    return {**archive.facts(), "declared_patients": declared, "split": list(split)}


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write ``hospitals.json``, and a page that says the same in words."""
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    sites = ", ".join(manifest["sites"])
    said = " ".join([FACTS[manifest["kind"]], *manifest.get("notes", [])])
    text = (
        f"# Hospitals of a simulation\n\n{said}\n\n"
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
            ours = {MANIFEST, README, TEST, DECODED, PICTURE, *array_files.NAMES}
            return ours | set(map(str, manifest["sites"]))
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return set()
