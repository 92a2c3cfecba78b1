"""What is read of a simulation's hospitals once, for all runs and sweeps: headers and pixels.

Both lie beside the hospitals and follow from the files alone, not from a run's seed::

    DIR/.decoded/<site>/headers-<key>.json   what the files of the site's folder say of themselves
    DIR/.decoded/<site>/<keyed name>/        its decoded images in one shape

The folder can be deleted at any time: it is written again. A hospital keeps nothing like it: what
it has decoded is named under its own key, and goes with the study (:mod:`client.data.cache`).
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from client.cohorts import Cohorts
from client.data.archive import Scan, entries_of, require_folder, scan
from client.data.cache import decoders
from client.data.cohort import ArchiveReading
from client.data.dicom import Reason
from client.data.pseudonyms import Pseudonyms
from client.site_records import SiteRecords
from client.sitefile import SiteFile
from common.files import sha256, write_atomic
from common.privacy.randomness import known_secret
from common.process.progress import Progress, silent

FOLDER: Final = ".decoded"
_SCAN: Final[TypeAdapter[Scan]] = TypeAdapter(Scan)
_FORMAT: Final = 1


@dataclass(frozen=True)
class DecodedFolder:
    """Where the headers and pixels of one folder of images are kept.

    Attributes:
        cache: of decoded images.
        reading: that reads a folder only where it changed.
    """

    cache: Path
    reading: ArchiveReading = field(repr=False)

    @classmethod
    def of(cls, decoded: Path, name: str) -> DecodedFolder:
        """That of a hospital, or of the test set."""
        cache = decoded / name
        names = Pseudonyms(known_secret(0, name, "patients"))
        return cls(cache, ArchiveReading(_RememberedScan(cache), names))


@dataclass(frozen=True)
class _RememberedScan:
    """Reads headers where a file changed since they were read."""

    cache: Path

    def __call__(
        self, folder: Path, *, decode: bool, workers: int = 1, progress: Progress = silent
    ) -> Scan:
        """Every file below a folder; raises as :func:`client.data.archive.scan`."""
        require_folder(folder)
        # What reads them may judge otherwise after an update.
        key = sha256(f"{_FORMAT} {decode} {entries_of(folder)} {decoders()}".encode())
        path = self.cache / f"headers-{key[:32]}.json"
        try:
            return _SCAN.validate_json(path.read_bytes())
        except (OSError, ValidationError):
            found = scan(folder, decode=decode, workers=workers, progress=progress)
        passing = {Reason.UNREADABLE, Reason.UNLISTED, Reason.UNDECODABLE}
        # What may have been a moment's trouble is tried again; so is a name that is not UTF-8.
        with suppress(ValueError, OSError):
            if not passing & {each.reason for each in found.rejected}:
                data = _SCAN.dump_json(found)
                for old in self.cache.glob("headers-*.json"):
                    old.unlink(missing_ok=True)
                write_atomic(path, data, mode=0o600)
        return found


class DecodedCohorts(Cohorts):
    """What a simulated hospital reads of its patients: headers and pixels of an earlier run too."""

    def __init__(
        self,
        decoded: DecodedFolder,
        folder: Path,
        file: SiteFile,
        records: SiteRecords,
        workers: int | None = None,
    ) -> None:
        super().__init__(folder, file, records, workers)
        self._cache, self._reading = decoded.cache, decoded.reading


def decoded_beside(hospitals: Path, run: Path) -> Path:
    """Where to keep what is decoded: beside the hospitals, or in the run if that is not allowed."""
    beside = hospitals / FOLDER
    # Another user's images may lie there, which this one can neither read nor add to.
    there = [beside, *beside.iterdir()] if beside.is_dir() and _is_open(beside) else [beside]
    usable = _is_open(hospitals) and all(_is_open(each) for each in there if each.exists())
    return beside if usable else run / FOLDER


def _is_open(folder: Path) -> bool:
    return os.access(folder, os.R_OK | os.W_OK | os.X_OK)


def reader(decoded: DecodedFolder) -> partial[DecodedCohorts]:
    """What makes the reader of a site (:data:`client.site.Reader`)."""
    return partial(DecodedCohorts, decoded)
