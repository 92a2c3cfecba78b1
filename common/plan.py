"""The plan: everything that a study will make one site do, in canonical form, with a SHA-256.

The coordinator writes it from the study, the site's public numbers and its numerics record. The
site compares it with its own numbers, its policy sets limits, and an approval binds to its hash.
Nothing in it depends on an exact count of patients.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Final, Self, TypeVar

from pydantic import Field, ValidationError, model_validator

from common.errors import Refusal, RefusalCode
from common.figures.release import Release
from common.files import canonical_json, sha256
from common.numerics import NumericsRecord
from common.privacy.mechanisms import Mechanism, NoMechanism, mechanism
from common.settings import Section
from common.study.bounds import require_mechanism
from common.study.study_file import Patients, Study
from common.text import Slug

FORMAT: Final = 1


def require_bound_covers_declared(declared_patients: int, most_patients: int) -> None:
    """Refuse a bound on the patients of a data set that is below what is declared.

    Raises:
        ValueError: names both numbers.
    """
    # Sampling and divisor follow from what is declared, the cap and the time from most_patients.
    if most_patients < declared_patients:
        raise ValueError(
            f"most_patients is {most_patients}; should be at least declared_patients, "
            f"{declared_patients}: no part may ever hold more patients than most_patients"
        )


class Offer(Section):
    """What a site declares before there is a plan: public numbers only.

    Attributes:
        site: the site's name.
        public_key: Ed25519 key that its replies are signed with, hexadecimal.
        declared_patients: public number of training patients of the data set asked for.
        most_patients: public bound on the patients of any one part of it.
        known_key: whether the site's randomness follows from a seed that others know.
        numerics: what its arithmetic depends on.
    """

    site: Slug
    public_key: str = Field(pattern=r"^[0-9a-f]{64}$")
    declared_patients: Patients
    most_patients: Patients
    known_key: bool
    numerics: NumericsRecord

    @model_validator(mode="after")
    def _no_more_than_most(self) -> Self:
        require_bound_covers_declared(self.declared_patients, self.most_patients)
        return self


class Agreed(Section):
    """A document that both sides know by the hash of its canonical form: a plan, an amendment."""

    # Kept, since every gate of every round asks for the hash, and the fields never change.
    @cached_property
    def text(self) -> str:
        """The canonical form: what is sent, stored and hashed."""
        return canonical_json(self.model_dump(mode="json")).decode()

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the canonical form."""
        return sha256(self.text.encode())

    def __copy__(self) -> Self:
        """A copy without what was kept: it may be given other values, and has another hash then."""
        copied = super().__copy__()
        for kept in ("text", "hash"):
            copied.__dict__.pop(kept, None)
        return copied

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """As :meth:`__copy__`."""
        return super().__deepcopy__(memo).__copy__()


class Plan(Agreed):
    """What one site is asked to approve.

    Attributes:
        format: of this document.
        study: the study file as parsed.
        site: whom the plan is for.
        declared_patients: the site's public number of training patients.
        most_patients: the site's public bound on the patients of training, and of validation.
        weight: the whole number by which its update counts in the average.
        known_key: whether the noise follows from a seed that others know: not private.
        mechanism: sampling, clipping, noise and what they cost.
        numerics: what decides the last bit.
        weights: number of float32 weights that travel in a round: those that are trained.
        frozen: hash of those that are not, which come with the plan, once; empty where all are
            trained.
    """

    format: int = Field(default=FORMAT, ge=FORMAT, le=FORMAT)
    study: Study
    site: Slug
    declared_patients: Patients
    most_patients: Patients
    weight: Patients
    known_key: bool
    mechanism: Mechanism
    numerics: NumericsRecord
    weights: int = Field(ge=1)
    # Not written where it is empty: a plan's hash keys its noise, and older ones lack the key.
    frozen: str = Field(
        default="", pattern=r"^([0-9a-f]{64})?$", exclude_if=lambda given: not given
    )

    @model_validator(mode="after")
    def _mechanism_is_bounded(self) -> Self:
        require_mechanism(self.mechanism)
        return self

    @property
    def release(self) -> Release:
        """What one evaluation sends."""
        return self.study.task.release(self.study.evaluation.bins)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What every status and report of this plan begins with."""
        notes = []
        if isinstance(self.mechanism, NoMechanism):
            notes.append('NOT PRIVATE: the study says mode = "none"')
        if self.known_key:
            notes.append("NOT PRIVATE: KNOWN KEY (a simulation, or a daemon set up as one)")
        return tuple(notes)


def write_plan(study: Study, offer: Offer, weights: int, frozen: str = "") -> Plan:
    """The plan of one site.

    Args:
        study: what is proposed.
        offer: the site's public numbers.
        weights: number of weights of the study's model that are trained.
        frozen: :func:`common.wire.messages.content_hash` of the others; empty where there are none.

    Raises:
        PrivacyError: the study's epsilon cannot be reached at this site.
    """
    declared = offer.declared_patients
    return Plan(
        study=study,
        site=offer.site,
        declared_patients=declared,
        most_patients=offer.most_patients,
        weight=declared if study.aggregation.weights == "declared" else 1,
        known_key=offer.known_key,
        mechanism=mechanism(study, declared, offer.most_patients),
        numerics=offer.numerics,
        weights=weights,
        frozen=frozen,
    )


Document = TypeVar("Document", bound=Agreed)


def read_agreed(kind: type[Document], text: str) -> Document:
    """Read a plan or an amendment that was received.

    Raises:
        Refusal: ``malformed``; also for text that is not in canonical form.
    """
    name = kind.__name__.lower()
    try:
        found = kind.model_validate_json(text)
    except ValidationError as error:
        raise Refusal(RefusalCode.MALFORMED, f"the {name} cannot be read", found=error) from error
    # Two texts of one plan would have two hashes, and an approval binds to one hash.
    if found.text != text:
        raise Refusal(RefusalCode.MALFORMED, f"the {name} is not in canonical form")
    return found


def read_plan(text: str) -> Plan:
    """Read a plan that was received; raises as :func:`read_agreed`."""
    return read_agreed(Plan, text)
