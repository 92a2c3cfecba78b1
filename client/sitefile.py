"""The site file: the hospital's half of every study, written by its administrator."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from client.data.cohort import Split
from client.data.dicom import Derived
from client.data.labels import Key, LabelFile
from client.data.masks.sources import MaskFolder
from client.data.pseudonyms import Difference
from client.records.accounts import PrivacyLimits
from common.devices.device import DeviceName, Precision
from common.errors import Refusal, RefusalCode, SiteError
from common.plan import require_bound_covers_declared
from common.privacy.cap import MOST_EPSILON
from common.settings import Section, load_toml
from common.study.bounds import bound, range_of
from common.study.study_file import FIRST_TASK, Patients, Study
from common.text import Digest, Slug
from common.wire.enrolment import COORDINATOR_CARD, CoordinatorCard, Listen, read_coordinator_card


def _none_or_some(share: float) -> float:
    if 0 < share < LEAST_SHARE:
        raise ValueError(
            f"should be 0 or {LEAST_SHARE:g} to 1: less than one patient in a thousand is nobody"
        )
    return share


LEAST_MEMORY_MIB: Final = 16
"""The least that ``[device] memory_mib`` may say."""
LEAST_SHARE: Final = 1e-3
ShareOfPatients = Annotated[float, Field(ge=0, le=1), AfterValidator(_none_or_some)]
_DELTA_TIMES_PATIENTS: Final = 0.1
"""Delta is at most this divided by the patients: with 1 / patients, publishing one patient's whole
record would count as private."""
_ROOM: Final = 2
"""Default of ``most_patients``, as a multiple of the declared patients."""


def _hours(text: str) -> str:
    if re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d", text) is None:
        raise ValueError('should be two times of day, for example "20:00-06:00"')
    if text[:5] == text[6:]:
        raise ValueError("should begin and end at different times; leave it out to allow any time")
    return text


Hours = Annotated[str, AfterValidator(_hours)]
"""Start and end, in the machine's local time; may pass midnight."""


class SiteName(Section):
    """``[site]``: the site's name, and where it keeps its state.

    Attributes:
        name: its name in every study.
        state: the state folder, relative to the site file.
        same_person: text file that lists the PatientIDs of one person, one person per line;
            relative to the site file.
        ignore_in_patient_ids: PatientIDs that differ in nothing but this are one person's.
        cache_gib: disk space for all decoded images, GiB; they are deleted with the last study
            that uses them.
    """

    name: Slug
    state: Path = Path("state")
    same_person: Path | None = None
    ignore_in_patient_ids: frozenset[Difference] = frozenset()
    cache_gib: float = Field(default=64.0, gt=0, le=1_000_000)

    @property
    def cache_bytes(self) -> int:
        """The same in bytes."""
        return int(self.cache_gib * 2**30)


class DataSet(Section):
    """``[data.NAME]``: one data set that the site offers, with labels, with masks, or with both.

    Attributes:
        images: folder of DICOM files, relative to the site file.
        labels: label file, relative to the site file.
        key: what a row of the label file is about.
        key_column: the column that holds it.
        label_column: the column that holds the class.
        file_prefix: folders above ``images`` that the file names in the label file begin with.
        declared_patients: patients in training, rounded down; this number is public.
        most_patients: training and validation each have at most this many; this number is public
            too. Default: twice the declared patients.
        split: shares of train, validation and test.
        derived: whether derived images and localisers are used.
        opt_out: text file of patients who opted out, one PatientID per line, relative to the
            site file.
        masks: folder of masks of the images, for studies that learn from masks; relative to the
            site file.
        mask_classes: the class of a pixel value or of a segment's label in these masks, where they
            differ from the study's; ``background`` for one that is no class.
    """

    images: Path
    labels: Path | None = None
    key: Key | None = None
    key_column: str | None = None
    label_column: str = "label"
    file_prefix: str = ""
    declared_patients: Patients
    most_patients: Patients = Field(
        default_factory=lambda data: min(_ROOM * data.get("declared_patients", 1), 10**9)
    )
    split: tuple[ShareOfPatients, ShareOfPatients, ShareOfPatients] = (0.8, 0.2, 0.0)
    derived: Derived = Derived.REJECT
    opt_out: Path | None = None
    masks: Path | None = None
    mask_classes: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _something_is_learned(self) -> Self:
        if self.labels is None and self.masks is None:
            raise ValueError("should name a label file (labels), a folder of masks (masks) or both")
        if self.labels is not None and (self.key is None or self.key_column is None):
            raise ValueError("should have key and key_column beside labels")
        if self.masks is None and self.mask_classes:
            raise ValueError("has mask_classes, but no masks")
        return self

    @model_validator(mode="after")
    def _split_is_whole(self) -> Self:
        # pydantic collects ValueErrors and names their key; a SiteError would pass through it.
        try:
            Split(*self.split)
        except SiteError as error:
            raise ValueError(f"split: {error.what}; they must sum to 1") from error
        return self

    @model_validator(mode="after")
    def _no_more_than_most(self) -> Self:
        require_bound_covers_declared(self.declared_patients, self.most_patients)
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
            f"should be at most {MOST_EPSILON:g}: a larger total protects no patient, and the "
            "accounting over all studies is not proven for it"
        )
    return total


Range = tuple[float, float]
"""The smallest and the largest allowed number; a duration is in seconds."""


class Policy(Section):
    """``[policy]``: what the hospital allows, whatever a coordinator proposes.

    Attributes:
        max_epsilon_per_study: maximum privacy cost of one study for a patient (epsilon).
        max_epsilon_total: maximum privacy cost of all studies together, at most 20.
        delta: the failure probability of both.
        spent_before: epsilon that these patients have already spent under a state folder that was
            lost; only the rest of ``max_epsilon_total`` can be spent here.
        min_sites: minimum number of hospitals combined in one result.
        approval: ``ask`` waits for a person; ``automatic`` approves what the policy allows.
        approval_days: how long an approval is valid.
        max_open_studies: how many approved studies may run at once; each reserves the privacy
            budget that it may still need, so that other studies cannot use it.
        hours: when the site works on studies; default: any time.
        allow_known_key: allow randomness from a known seed: not private.
        allow_no_privacy: take part in studies with ``mode = "none"``.
        own_weights: SHA-256 of files of starting weights that were trained on this hospital's own
            patients without privacy: a private study that begins with them is refused.
        tasks: kinds of task that the site takes part in.
        ranges: by the keys of :mod:`common.study.bounds`, the allowed range of a study's or a
            plan's number; a key that is not listed allows any number.
    """

    max_epsilon_per_study: Annotated[float, bound("privacy.epsilon")]
    max_epsilon_total: Annotated[float, AfterValidator(_protecting)] = Field(ge=1e-3)
    delta: Annotated[float, bound("privacy.delta")]
    spent_before: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    min_sites: Annotated[int, bound("aggregation.min_sites")] = 2
    approval: Literal["ask", "automatic"] = "ask"
    approval_days: int = Field(default=180, ge=1, le=3650)
    max_open_studies: int = Field(default=16, ge=1, le=1000)
    hours: Hours | None = None
    allow_known_key: bool = False
    allow_no_privacy: bool = False
    own_weights: tuple[Digest, ...] = Field(default=(), max_length=1000)
    tasks: tuple[str, ...] = (FIRST_TASK,)
    ranges: Annotated[dict[str, Range], AfterValidator(_narrower)] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _something_is_left(self) -> Self:
        if self.spent_before >= self.max_epsilon_total:
            raise ValueError(
                f"spent_before {self.spent_before:g} uses up max_epsilon_total "
                f"{self.max_epsilon_total:g}: these patients cannot take part in any more studies"
            )
        return self

    @property
    def limits(self) -> PrivacyLimits:
        """What patients may still pay, which decides who is in a study.

        What was spent before and what is spent here compose: their epsilons add up, and so do
        their deltas, also if later studies were chosen after seeing earlier results.
        """
        left = self.max_epsilon_total - self.spent_before
        return PrivacyLimits(self.max_epsilon_per_study, left, self.delta)


def _uuid(text: str) -> str:
    if re.fullmatch(r"(GPU|MIG)-[0-9A-Za-z][0-9A-Za-z/-]{3,79}", text) is None:
        raise ValueError(
            "should be a card's number, such as 0, or its UUID, such as "
            '"GPU-8932f937-d72c-4106-c12f-20bd9faed9f6": nvidia-smi -L lists both'
        )
    return text


Gpu = Annotated[int, Field(ge=0, le=1023)] | Annotated[str, AfterValidator(_uuid)]
"""A graphics card, as ``CUDA_VISIBLE_DEVICES`` names it."""


class DeviceSettings(Section):
    """``[device]``: what the site computes with; part of the numerics record.

    Attributes:
        threads: torch threads within one operation.
        memory_mib: memory for a model with the activations and gradients of a tile of patients,
            MiB.
        kernels: ``measured`` times the ways to form gradients once for each shape of study;
            ``modelled`` chooses by the shape alone, so that two machines agree.
        nice: CPU priority of the worker: 0 normal, 19 lowest.
        memory_limit_mib: memory limit of the whole worker process, MiB; default: none.
        gpu: graphics card (GPU) that computes: its number or its UUID, as ``nvidia-smi -L`` lists
            them, or the UUID of a slice of a card (MIG); default: none, the processor computes.
            With a card, ``memory_mib`` is its memory, which the worker takes when it starts.
        precision: of activations on a graphics card: ``bfloat16`` is for its tensor cores, and
            rounds more.
    """

    threads: int = Field(default=1, ge=1, le=1024)
    memory_mib: int = Field(default=1024, ge=LEAST_MEMORY_MIB, le=2**30)
    kernels: Literal["measured", "modelled"] = "measured"
    nice: int = Field(default=10, ge=0, le=19)
    memory_limit_mib: int | None = Field(default=None, ge=256, le=2**30)
    gpu: Gpu | None = None
    precision: Precision = "float32"

    @model_validator(mode="after")
    def _precision_needs_a_card(self) -> Self:
        if self.precision != "float32" and self.gpu is None:
            raise ValueError(
                f'precision = "{self.precision}" is for a graphics card: name one with gpu, or '
                "remove precision"
            )
        return self

    @property
    def name(self) -> DeviceName:
        """What computes, as a plan names it."""
        return "cpu" if self.gpu is None else "cuda"

    @property
    def memory(self) -> int:
        """``memory_mib`` in bytes."""
        return self.memory_mib * 2**20


class MetricsSettings(Section):
    """``[metrics]``: where the daemon serves its own metrics; none is computed from patients.

    Attributes:
        listen: ``host:port``; default: not served.
    """

    listen: Listen | None = None


class SiteFile(Section):
    """A whole site file."""

    site: SiteName
    data: dict[Slug, DataSet] = Field(min_length=1)
    policy: Policy
    device: DeviceSettings = DeviceSettings()
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
        """Where the labels of a data set are and how to read them.

        Raises:
            SiteError: it has none.
        """
        data = self.data[dataset]
        if data.labels is None or data.key is None or data.key_column is None:
            raise SiteError(
                "the data set has no labels",
                where=f"[data.{dataset}]",
                wanted="labels, key and key_column",
                remedy="add them to the site file, or use the data set for studies with masks",
            )
        return LabelFile(
            path=folder / data.labels,
            key=data.key,
            key_column=data.key_column,
            label_column=data.label_column,
            prefix=data.file_prefix,
            ignored=self.site.ignore_in_patient_ids,
        )

    def mask_folder(self, dataset: str, folder: Path) -> MaskFolder | None:
        """Where the masks of a data set are and what they say; None where it has none."""
        data = self.data[dataset]
        return MaskFolder(folder / data.masks, data.mask_classes) if data.masks else None

    def targets(self, study: Study, folder: Path) -> LabelFile | MaskFolder:
        """What a study learns from: the labels of its data set, or the masks.

        Raises:
            Refusal: as :meth:`dataset`.
        """
        self.dataset(study)
        masks = self.mask_folder(study.data.dataset, folder)
        if masks is not None and study.task.target == "mask":
            return masks
        return self.label_file(study.data.dataset, folder)

    def dataset(self, study: Study) -> DataSet:
        """The data set that a study asks for.

        Raises:
            Refusal: ``data-unavailable``: the site has none of that name, or it lacks what the
                study learns from.
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
        wanted = "masks" if study.task.target == "mask" else "labels"
        if getattr(found, wanted) is None:
            raise Refusal.of_public(
                RefusalCode.DATA_UNAVAILABLE,
                f"the study needs {wanted}, and the data set has none",
                where=f"site {self.site.name}: [data.{study.data.dataset}]",
                found="none",
                wanted=wanted,
                remedy=f"add {wanted} to this section of the site file, if you have some",
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
    """The error for a site file that does not exist."""
    return SiteError(
        "the site file does not exist",
        where=path.absolute(),
        remedy="give its path with consilium-site --site FILE or the environment variable "
        "CONSILIUM_SITE, or create one with consilium-site init",
    )


@dataclass(frozen=True)
class ServedSite:
    """The site that a daemon serves.

    Attributes:
        path: the site file.
        file: its content.
        state: the state folder.
        known_seed: the seed from which the site's keys follow; None for secret keys.
        card: of the coordinator; None if the site has joined none.
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
    """Read the site file and the coordinator's card.

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
