"""``package.json``: everything that a model package says of its model. Public.

It names every other member with its hash, and is what the coordinator signs.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field

from common.figures.intervals import Estimate
from common.scores.adjustment import Adjustment
from common.scores.operating import OperatingPoint
from common.scores.scaling import Scaling
from common.settings import Section
from common.study.study_file import Patients
from common.text import Digest, Slug, Words
from common.visible import is_steering

FORMAT: Final = 1
MOST_SITES: Final = 10_000
MOST_POINTS: Final = 100_000
"""A hundred classes with a thousand thresholds each."""


def _note(text: str) -> str:
    if not 1 <= len(text) <= MOST_NOTE or any(map(is_steering, text)):
        raise ValueError(f"should be one line of 1 to {MOST_NOTE} characters")
    return text


MOST_NOTES: Final = 1000
MOST_NOTE: Final = 10_000
Note = Annotated[str, AfterValidator(_note)]
"""A line that is shown as it is written."""


class Figure(Section):
    """A number with its 95 % interval; None where it is not defined.

    Attributes:
        value: the figure.
        low: lower end of the interval.
        high: upper end of the interval.
        meaningful: False where noise or a lack of patients makes the figure useless.
        why: why it is, in plain words.
    """

    value: float | None
    low: float
    high: float
    meaningful: bool = True
    why: Note | None = None

    @classmethod
    def of(cls, estimate: Estimate) -> Figure:
        """A figure as a document keeps it."""
        return cls.model_validate(asdict(estimate))

    @property
    def estimate(self) -> Estimate:
        """The figure to compute with."""
        return Estimate(**self.model_dump())


class FigureSet(Section):
    """How good the model is on some patients.

    Attributes:
        on: ``hospitals``: their validation patients, from noised counts; ``test set``: patients
            whom no hospital has, of a simulation.
        patients: how many; noised where they are hospitals'.
        headline: the name of the figure that sums it up.
        figures: by name.
        of: by name, one for each class.
    """

    on: Literal["hospitals", "test set"]
    patients: float
    headline: Words
    figures: dict[str, Figure]
    of: dict[str, tuple[Figure, ...]] = Field(default_factory=dict)


class Point(Section):
    """An operating point: from which score on a finding counts as present.

    Attributes:
        name: the rule by which it was chosen.
        positive: index of the class.
        threshold: smallest score that counts as present.
        sensitivity: share of patients with the finding in whom it counts as present.
        specificity: share of patients without it in whom it does not.
    """

    name: Words
    positive: int = Field(ge=0)
    threshold: float = Field(ge=0, le=1)
    sensitivity: Figure
    specificity: Figure

    @classmethod
    def of(cls, point: OperatingPoint) -> Point:
        """A point as a document keeps it."""
        return cls.model_validate(asdict(point))

    @property
    def known(self) -> OperatingPoint:
        """The point to compute with."""
        return OperatingPoint(
            self.name,
            self.positive,
            self.threshold,
            self.sensitivity.estimate,
            self.specificity.estimate,
        )


class Calibration(Section):
    """Platt's or temperature scaling of the scores (:mod:`common.scores.scaling`).

    Attributes:
        slope: factor of the logit.
        offset: added to it.
        why: why there is none better, where the scores stay as they are.
    """

    slope: float = Field(default=1.0, gt=0, le=1e3)
    offset: float = Field(default=0.0, ge=-1e3, le=1e3)
    why: Note | None = None


class SitePart(Section):
    """One hospital's public part.

    Attributes:
        declared_patients: its public number of training patients.
        plan: SHA-256 of the plan that it approved.
        epsilon: the most that a patient of it can lose; None without privacy.
    """

    declared_patients: Patients
    plan: Digest
    epsilon: float | None


class Statement(Section):
    """``package.json``.

    Attributes:
        format: of the package.
        name: of the study.
        title: of the study.
        study: SHA-256 of the study.
        weights: SHA-256 of the flat little-endian float32 weights.
        rounds: that it was trained for.
        warnings: what must be said before anything else.
        doubts: what a reader must know first of the model itself.
        delta: of the privacy statement; None without privacy.
        sites: by name.
        figures: how good it is, on whom.
        calibration: of its scores, from what sites released.
        points: operating points, from what sites released.
        edges: every threshold of which sites released something.
        signed_by: the coordinator's public key, hexadecimal.
        finished: the day on which the study ended, ISO 8601; empty for a simulation, which is
            repeatable.
        versions: of the software that made it.
        members: SHA-256 of each other file of the package.
    """

    format: int = Field(default=FORMAT, ge=FORMAT, le=FORMAT)
    name: Slug
    title: Words
    study: Digest
    weights: Digest
    rounds: int = Field(ge=0)
    warnings: tuple[Note, ...] = Field(default=(), max_length=MOST_NOTES)
    doubts: tuple[Note, ...] = Field(default=(), max_length=MOST_NOTES)
    delta: float | None
    sites: dict[Slug, SitePart] = Field(max_length=MOST_SITES)
    figures: tuple[FigureSet, ...] = ()
    calibration: Calibration = Calibration()
    points: tuple[Point, ...] = Field(default=(), max_length=MOST_POINTS)
    edges: tuple[Point, ...] = Field(default=(), max_length=MOST_POINTS)
    signed_by: Digest = "0" * 64
    finished: str = Field(default="", pattern=r"^([0-9]{4}-[0-9]{2}-[0-9]{2})?$")
    versions: dict[Words, Words] = Field(default_factory=dict, max_length=100)
    members: dict[str, Digest] = Field(default_factory=dict, max_length=20)

    @property
    def epsilon(self) -> float | None:
        """The most that a patient of any site can lose; None where nothing bounds it."""
        known = [each.epsilon for each in self.sites.values()]
        found = [each for each in known if each is not None]
        return max(found) if found and len(found) == len(known) else None

    @property
    def private(self) -> bool:
        """Whether its privacy statement holds: no site's noise follows from a known key."""
        return self.epsilon is not None and not any("NOT PRIVATE" in each for each in self.warnings)

    @property
    def adjustment(self) -> Adjustment:
        """Calibration and operating points, to compute with."""
        return Adjustment(
            Scaling(**self.calibration.model_dump()),
            tuple(each.known for each in self.points),
            tuple(each.known for each in self.edges),
        )

    def adjusted(self, adjustment: Adjustment) -> Self:
        """The same, with calibration and operating points."""
        return self.model_copy(
            update={
                "calibration": Calibration.model_validate(asdict(adjustment.scaling)),
                "points": tuple(map(Point.of, adjustment.points)),
                "edges": tuple(map(Point.of, adjustment.edges)),
            }
        )
