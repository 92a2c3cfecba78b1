"""The site file: the hospital's half of every study, written by its administrator."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from client.data.cohort import LabelFile, Split
from client.data.dicom import Derived
from client.data.labels import Key
from client.records.accounts import PrivacyLimits
from common.errors import Refusal, RefusalCode, SiteError
from common.plan import require_room
from common.privacy.cap import MOST_EPSILON
from common.settings import Section, load_toml
from common.study.bounds import range_of
from common.study.study_file import Patients, Slug, Study
from common.wire.enrolment import COORDINATOR_CARD, CoordinatorCard, read_coordinator_card

ShareOfPatients = Annotated[float, Field(ge=0, le=1)]
_DELTA_TIMES_PATIENTS: Final = 0.1
_ROOM: Final = 2
"""Patients that a part may hold, over those declared, where the site file does not say."""


def _hours(text: str) -> str:
    if re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d", text) is None:
        raise ValueError('should be two times of the day, as in "20:00-06:00"')
    if text[:5] == text[6:]:
        raise ValueError("should begin and end at different times; leave it out to allow any")
    return text


Hours = Annotated[str, AfterValidator(_hours)]
"""From when to when, in the machine's own time; may pass midnight."""


class SiteName(Section):
    """``[site]``: what the site is called, and where it keeps what must last.

    Attributes:
        name: its name in every study.
        state: the state folder, relative to the site file.
        same_person: text file of PatientIDs that are one person, a person a line, relative to
            the site file.
        cache_gib: that decoded images may take on disk in all, GiB; they are deleted with the
            last study that uses them.
    """

    name: Slug
    state: Path = Path("state")
    same_person: Path | None = None
    cache_gib: float = Field(default=64.0, gt=0, le=1_000_000)

    @property
    def cache_bytes(self) -> int:
        """The same in bytes."""
        return int(self.cache_gib * 2**30)


class DataSet(Section):
    """``[data.NAME]``: one data set that the site offers.

    Attributes:
        images: folder of DICOM files, relative to the site file.
        labels: label file, relative to the site file.
        key: what a row of the label file is about.
        key_column: the column that holds it.
        label_column: the column that holds the class.
        declared_patients: patients in training, rounded down; this number is public.
        most_patients: neither training nor validation ever has more; this number is public too.
            Left out, twice what is declared.
        split: shares of train, validation and test.
        derived: whether derived images and localisers are used.
        opt_out: text file of patients who take no part, a PatientID a line, relative to the
            site file.
    """

    images: Path
    labels: Path
    key: Key
    key_column: str
    label_column: str = "label"
    declared_patients: Patients
    most_patients: Patients = Field(
        default_factory=lambda data: min(_ROOM * data.get("declared_patients", 1), 10**9)
    )
    split: tuple[ShareOfPatients, ShareOfPatients, ShareOfPatients] = (0.8, 0.2, 0.0)
    derived: Derived = Derived.REJECT
    opt_out: Path | None = None

    @model_validator(mode="after")
    def _split_is_whole(self) -> Self:
        try:
            Split(*self.split)
        except SiteError as error:
            raise ValueError(f"split: {error.what}; they must sum to 1") from error
        return self

    @model_validator(mode="after")
    def _no_more_than_most(self) -> Self:
        require_room(self.declared_patients, self.most_patients)
        return self

    @property
    def most_validated(self) -> int:
        """Patients in validation, at most: as many for each in training as the shares say."""
        train, validation, _ = self.split
        share = validation / train if train else 1.0
        return max(1, min(self.most_patients, math.ceil(self.most_patients * share)))

    @property
    def parts(self) -> Split:
        """The shares as thresholds on each patient's own place."""
        return Split(*self.split)


def _narrower(ranges: dict[str, Range]) -> dict[str, Range]:
    return {key: range_of(key, ends) for key, ends in ranges.items()}


def _protecting(total: float) -> float:
    if not total <= MOST_EPSILON:
        raise ValueError(
            f"should be at most {MOST_EPSILON:g}: a larger total protects nobody, and the account "
            "over all studies is not proven for it"
        )
    return total


Range = tuple[float, float]
"""The smallest and the largest number that is allowed; seconds for a duration."""


class Policy(Section):
    """``[policy]``: what the hospital allows, whatever a coordinator proposes.

    Attributes:
        max_epsilon_per_study: the most that a study may cost a patient.
        max_epsilon_total: the most over all studies, at most 20.
        delta: the failure probability of both.
        spent_before: epsilon that these patients have spent already under a state folder that is
            lost; of ``max_epsilon_total``, what is left beyond it may be spent here.
        min_sites: the smallest aggregate that the site joins.
        approval: ``ask`` waits for a person; ``automatic`` approves what the policy allows.
        approval_days: how long an approval holds.
        max_open_studies: how many approved studies may run at once; each sets aside what it may
            still cost its patients, so that others cannot use it.
        hours: when the site works on studies; left out, at any time.
        allow_known_key: take randomness that follows from a known seed: not private.
        allow_no_privacy: take part in studies with ``mode = "none"``.
        tasks: kinds of task that the site takes part in.
        ranges: by the keys of :mod:`common.study.bounds`, what a number of a study or a plan may
        be;
            of one that is left out, whatever a study may say.
    """

    max_epsilon_per_study: float = Field(gt=0)
    max_epsilon_total: Annotated[float, AfterValidator(_protecting)] = Field(gt=0)
    delta: float = Field(gt=0, lt=1)
    spent_before: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    min_sites: int = Field(default=2, ge=1)
    approval: Literal["ask", "automatic"] = "ask"
    approval_days: int = Field(default=180, ge=1, le=3650)
    max_open_studies: int = Field(default=16, ge=1, le=1000)
    hours: Hours | None = None
    allow_known_key: bool = False
    allow_no_privacy: bool = False
    tasks: tuple[str, ...] = ("classification",)
    ranges: Annotated[dict[str, Range], AfterValidator(_narrower)] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _something_is_left(self) -> Self:
        if self.spent_before >= self.max_epsilon_total:
            raise ValueError(
                f"spent_before {self.spent_before:g} leaves nothing of max_epsilon_total "
                f"{self.max_epsilon_total:g}: these patients can take part in no more studies"
            )
        return self

    @property
    def limits(self) -> PrivacyLimits:
        """What patients may pay from here on, which decides who stands in a study.

        What was spent before and what is spent here compose: their epsilons add up, and so do
        their deltas, whatever was chosen after seeing the results.
        """
        left = self.max_epsilon_total - self.spent_before
        return PrivacyLimits(self.max_epsilon_per_study, left, self.delta)


class Device(Section):
    """``[device]``: what the site computes with; fixes the numerics record.

    Attributes:
        threads: of torch within an operation.
        memory_mib: that a model with the activations and gradients of a tile of patients may
            take, MiB.
        kernels: ``measured`` times how gradients are formed fastest here, once a study's
            shape; ``modelled`` derives it from the shape alone, so that two machines agree.
        nice: how far the worker stands back behind other programs, as ``nice`` counts.
        memory_limit_mib: of the whole worker process, MiB; left out, none.
        gpu: which GPU the worker sees, as CUDA counts; left out, none.
    """

    threads: int = Field(default=1, ge=1)
    memory_mib: int = Field(default=1024, ge=16)
    kernels: Literal["measured", "modelled"] = "measured"
    nice: int = Field(default=10, ge=0, le=19)
    memory_limit_mib: int | None = Field(default=None, ge=256)
    gpu: int | None = Field(default=None, ge=0)


class MetricsSettings(Section):
    """``[metrics]``: where the daemon's own figures are served; none is computed from patients.

    Attributes:
        listen: ``host:port``; left out, nowhere.
    """

    listen: str | None = Field(default=None, pattern=r"^[^\s:]+:[0-9]{1,5}$")


class SiteFile(Section):
    """A whole site file."""

    site: SiteName
    data: dict[Slug, DataSet] = Field(min_length=1)
    policy: Policy
    device: Device = Device()
    metrics: MetricsSettings = MetricsSettings()

    @model_validator(mode="after")
    def _delta_is_small(self) -> Self:
        for name, data in self.data.items():
            most = _DELTA_TIMES_PATIENTS / data.declared_patients
            if self.policy.delta > most:
                raise ValueError(
                    f"policy.delta {self.policy.delta:g} is too large for data set {name}: "
                    f"at most {_DELTA_TIMES_PATIENTS} / declared_patients = {most:.2g}"
                )
        return self

    def label_file(self, dataset: str, folder: Path) -> LabelFile:
        """Where the labels of a data set are and how to read them."""
        data = self.data[dataset]
        return LabelFile(
            path=folder / data.labels,
            key=data.key,
            key_column=data.key_column,
            label_column=data.label_column,
        )

    def dataset(self, study: Study) -> DataSet:
        """The data set that a study asks for.

        Raises:
            Refusal: ``data-unavailable``: the site has none of that name.
        """
        found = self.data.get(study.data.dataset)
        if found is None:
            raise Refusal.of_public(
                RefusalCode.DATA_UNAVAILABLE,
                "the study asks for a data set that this site does not have",
                where=f"site {self.site.name}",
                found=", ".join(sorted(self.data)),
                wanted=study.data.dataset,
                remedy="name a [data.…] section of the site file after the study's data set",
            )
        return found


def load_site_file(path: Path) -> SiteFile:
    """Read and check a site file.

    Raises:
        SiteError: the file is missing, is not TOML, or a key has no acceptable value.
    """
    try:
        return load_toml(path, SiteFile, SiteError)
    except SiteError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise missing(path) from error
        raise


def missing(path: Path) -> SiteError:
    """What whoever names a site file that is not there is told."""
    return SiteError(
        "there is no such site file",
        where=path.absolute(),
        remedy="name it: consilium-site --site FILE, or CONSILIUM_SITE in the environment; "
        "consilium-site init makes one",
    )


@dataclass(frozen=True)
class ServedSite:
    """What is served.

    Attributes:
        path: the site file.
        file: its content.
        state: the state folder.
        known_seed: where the site's keys follow from a seed.
        card: of the coordinator; None where the site has joined none.
    """

    path: Path
    file: SiteFile
    state: Path
    known_seed: int | None = None
    card: CoordinatorCard | None = None


@dataclass(frozen=True)
class Programs:
    """The modules that the two processes run."""

    connection: str = "client.daemon.connection"
    worker: str = "client.daemon.worker"


def served_site(path: Path, known_seed: int | None = None) -> ServedSite:
    """What a site file says is to be served.

    Raises:
        SiteError: the site file or the coordinator's card cannot be used.
    """
    file = load_site_file(path)
    state = path.absolute().parent / file.site.state
    return ServedSite(path.absolute(), file, state, known_seed, known_coordinator(state))


def known_coordinator(state: Path) -> CoordinatorCard | None:
    """The coordinator that a site has joined."""
    path = state / COORDINATOR_CARD
    return read_coordinator_card(path) if path.exists() else None
