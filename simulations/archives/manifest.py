"""The hospitals of a simulation: a folder with a manifest, one folder a site, and a test set.

``hospitals.json`` says where they came from. The test set is kept apart from every
hospital; only a simulation has one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

from client.data.labels import LabelFile, guess_key
from client.data.masks.sources import MaskFolder
from client.sitefile import SiteFile, load_site_file
from common.documents import read_json
from common.errors import DataError
from common.files import sha256
from common.tasks.task import TargetForm
from simulations.archives.arrays import ArrayRows, Rows

MANIFEST: Final = "hospitals.json"
SITE_FILE: Final = "site.toml"
LABEL_COLUMN: Final = "label"
MASKS: Final = "masks"
TEST: Final = "test"
PICTURE: Final = "hospitals.png"
FACTS: Final = {
    "synth": "The images were drawn by a program: they show no real patient and have no clinical "
    "value.",
    "npz": "The file that these hospitals were made from has no patient ids: each image counts as "
    "one patient.",
    "arrays": "The hospitals are decoded arrays: nothing of reading their files is part of a run.",
    "pictures": "The hospitals were made from pictures, not from DICOM files.",
    "masked-npz": "The hospitals are the institutions that the file names for its patients.",
}
"""What must be said beside every figure, by kind of hospitals."""


@dataclass(frozen=True)
class Hospitals:
    """Where a simulation's hospitals lie, and where they came from.

    Attributes:
        folder: that holds the manifest.
        kind: one of :data:`FACTS`.
        seed: they were drawn from.
        sites: their names, sorted.
        redraws: how often a partition was drawn again.
        sha256: of the manifest.
        notes: what else must be said of how they were made.
        rows: of each hospital and of the test set, where all are arrays
            (:mod:`simulations.archives.arrays`); empty where they are DICOM files.
    """

    folder: Path
    kind: str
    seed: int
    sites: tuple[str, ...]
    redraws: int
    sha256: str
    notes: tuple[str, ...] = ()
    rows: Mapping[str, Rows] = field(default_factory=dict)

    @cached_property
    def files(self) -> dict[str, SiteFile]:
        """The hospitals' site files, read once.

        Raises:
            SiteError: one cannot be used.
        """
        return {name: load_site_file(self.site_file(name)) for name in self.sites}

    @property
    def are_arrays(self) -> bool:
        """Whether they are decoded arrays, and no files of DICOM."""
        return bool(self.rows)

    def part(self, name: str) -> ArrayRows | None:
        """The rows of a hospital, or of the test set, where they are arrays."""
        return ArrayRows(self.folder.absolute(), name, self.rows[name]) if self.are_arrays else None

    @property
    def facts(self) -> tuple[str, ...]:
        """Lines to be said beside every figure."""
        return (*([FACTS[self.kind]] if self.kind in FACTS else []), *self.notes)

    def site_file(self, site: str) -> Path:
        """The site file of one hospital."""
        return self.folder / site / SITE_FILE

    @property
    def test_images(self) -> Path:
        """The folder of the held-out test set."""
        return self.folder / TEST / "images"

    @property
    def test_masks(self) -> Path | None:
        """Its folder of masks; None where labels say what its images show."""
        masks = self.folder / TEST / MASKS
        return masks if masks.is_dir() else None

    def test_targets(self, form: TargetForm) -> LabelFile | MaskFolder:
        """What its images show: labels, or masks where the study learns from these.

        Raises:
            LabelError: the label file is missing, or no column says which image a row is about.
            DataError: there are no masks.
        """
        if form == "mask":
            if self.test_masks is None:
                raise DataError(
                    "these hospitals have no masks, and the study learns from some",
                    where=self.folder / TEST / MASKS,
                    wanted="a folder of masks",
                    remedy="make hospitals with masks: see consilium-sim hospitals --help",
                )
            return MaskFolder(self.test_masks)
        path = self.folder / TEST / "labels.csv"
        key, column = guess_key(path, LABEL_COLUMN)
        return LabelFile(path, key, column, LABEL_COLUMN)


def read_hospitals(folder: Path) -> Hospitals:
    """Read the manifest of a folder of hospitals.

    Raises:
        DataError: there is none, it cannot be read, or a hospital that it names is missing.
    """
    path = folder / MANIFEST
    try:
        data = path.read_bytes()
        document = read_json(data)
        hospitals = Hospitals(
            folder=folder,
            kind=str(document["kind"]),
            seed=int(document["seed"]),
            sites=tuple(sorted(str(name) for name in document["sites"])),
            redraws=int(document.get("redraws", 0)),
            sha256=sha256(data),
            notes=tuple(str(note) for note in document.get("notes", ())),
            rows={
                str(name): (int(first), int(last))
                for name, (first, last) in document.get("rows", {}).items()
            },
        )
    except FileNotFoundError as cause:
        raise DataError(
            "this is not a folder of hospitals",
            where=folder,
            wanted=f"a folder with {MANIFEST}",
            remedy="make one with consilium-sim hospitals synth --out DIR, from-npz or from-masks",
        ) from cause
    except (ValueError, KeyError, TypeError) as cause:
        raise DataError(
            "the manifest of the hospitals cannot be read", where=path, found=repr(cause)
        ) from cause
    for site in hospitals.sites:
        if not hospitals.site_file(site).is_file():
            raise DataError(
                "a hospital that the manifest names has no site file",
                where=hospitals.site_file(site),
                remedy="make the hospitals again into an empty folder",
            )
    return hospitals
