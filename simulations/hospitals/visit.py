"""Names of made-up patients and their images: identifiers, dates, places in an archive."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Final

from client.data.labels import Key
from simulations.hospitals.dicom_writer import Instance, Plane, uid

_FIRST_DAY: Final = datetime.date(2024, 1, 1)
_DAYS: Final = 700
# Has no divisor in common with _DAYS, so that dates spread over all days.
_STRIDE: Final = 37
_FOLLOW_UP: Final = 30

FIELD: Final = 360.0
"""Width of a slice, mm."""
GAP: Final = 28.8
"""Between two slices, mm."""
THICKNESS: Final = 8.0
"""Of a slice, mm."""


@dataclass(frozen=True)
class Visit:
    """One image of one patient of one archive.

    Attributes:
        archive: a site's name, or ``test``.
        seed: of the hospitals.
        serial: the patient's number in the archive, from 1.
        number: the image's number among the patient's, from 1.
    """

    archive: str
    seed: int
    serial: int
    number: int = 1

    @property
    def patient(self) -> str:
        """The Patient ID: of one archive alone."""
        return f"{self.archive.upper()}-{self.serial:05d}"

    @property
    def visit(self) -> int:
        """Which visit: two images are taken at the first, the third at another."""
        return (self.number + 1) // 2

    @property
    def date(self) -> datetime.date:
        """When the image was taken."""
        days = self.serial * _STRIDE % _DAYS + _FOLLOW_UP * (self.visit - 1)
        return _FIRST_DAY + datetime.timedelta(days=days)

    @property
    def study(self) -> str:
        """The Study Instance UID."""
        return self.uid("study", self.visit)

    @property
    def instance(self) -> str:
        """The SOP Instance UID."""
        return self.uid("image", self.number)

    def describe(self, site: str, **changes: object) -> Instance:
        """What the file says about itself, but for ``changes``."""
        facts: dict[str, object] = {
            "patient": self.patient,
            "study": self.study,
            "series": self.uid("series", self.visit),
            "instance": self.instance,
            "date": f"{self.date:%Y%m%d}",
            "number": self.number,
            "site": site,
        }
        return Instance(**{**facts, **changes})  # type: ignore[arg-type]  # keywords by name

    def path(self, pattern: str) -> str:
        """Where an archive keeps the file, below its folder of images.

        Args:
            pattern: a format string with patient, study, instance, serial, visit, number,
                year and month.
        """
        return pattern.format(
            patient=self.patient,
            study=self.study,
            instance=self.instance,
            serial=self.serial,
            visit=self.visit,
            number=self.number,
            year=self.date.year,
            month=self.date.month,
        )

    def key(self, kind: Key, pattern: str) -> str:
        """What a label file calls the image."""
        return {
            "SOPInstanceUID": self.instance,
            "StudyInstanceUID": self.study,
            "PatientID": self.patient,
            "filename": self.path(pattern),
        }[kind]

    def uid(self, kind: str, number: int) -> str:
        """A UID of the patient's own."""
        return uid(self.seed, self.archive, self.serial, kind, number)


@dataclass(frozen=True)
class Stacked(Visit):
    """One image of a stack: all are of one examination, hence of one study and one series."""

    @property
    def visit(self) -> int:
        """The first."""
        return 1


@dataclass(frozen=True, kw_only=True)
class Slice(Stacked):
    """One axial slice of a stack.

    Attributes:
        shape: rows and columns.
    """

    shape: tuple[int, int]

    @property
    def plane(self) -> Plane:
        """Where it lies: :data:`FIELD` wide, the patient in the middle."""
        rows, columns = self.shape
        side = FIELD / columns
        middle = (side * (1 - columns) / 2, side * (1 - rows) / 2, GAP * (self.number - 1))
        return Plane((side, side), middle, THICKNESS, self.uid("frame", 1))

    def describe(self, site: str, **changes: object) -> Instance:
        """As of every image, with its plane."""
        return super().describe(site, **{"plane": self.plane, **changes})
