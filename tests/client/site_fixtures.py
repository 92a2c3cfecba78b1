"""A hospital on disk, and a coordinator that asks it by hand."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian

from client.requests.handler import answer
from client.site import Site, open_site
from common.files import canonical_json
from common.models.networks import initial_weights, split, trained_count
from common.plan import Offer, Plan, write_plan
from common.study.study_file import Study
from common.wire.messages import LedgerHead, Purpose, Reply, Request, content_hash
from tests.common.studies import toml

CLASSES = ("normal", "pneumonia")
POLICY = {
    "max_epsilon_per_study": 8.0,
    "max_epsilon_total": 20.0,
    "delta": 1e-5,
    "approval": "automatic",
    "allow_known_key": True,
}
SEED = 7


def write_image(path: Path, patient: str, number: int) -> str:
    """An 8x8 DICOM file that follows from the patient and a number; gives its SOPInstanceUID."""
    draws = np.random.default_rng([number, *patient.encode()])
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = ComputedRadiographyImageStorage
    dataset.SOPInstanceUID = f"1.2.3.{int.from_bytes(patient.encode(), 'big')}.{number}"
    dataset.StudyInstanceUID = dataset.SOPInstanceUID + ".1"
    dataset.PatientID = patient
    dataset.Modality = "DX"
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows = dataset.Columns = 8
    dataset.SamplesPerPixel = 1
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = draws.integers(0, 256, (8, 8), dtype=np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return str(dataset.SOPInstanceUID)


def write_mask(path: Path, patient: str, number: int, *, least: int = 0, most: int = 2) -> None:
    """A PNG of 8x8 values that follow from the patient and a number."""
    draws = np.random.default_rng([number, *patient.encode()])
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draws.integers(least, most + 1, (8, 8), dtype=np.uint8)).save(path)


def write_images(folder: Path, patients: Mapping[str, int]) -> None:
    """Images and ``labels.csv`` in a folder: patients and how many images each has."""
    rows = ["SOPInstanceUID,label"]
    for patient, count in patients.items():
        for number in range(count):
            instance = write_image(folder / "images" / f"{patient}-{number}.dcm", patient, number)
            rows.append(f"{instance},{CLASSES[int(patient[1:]) % 2]}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")


@dataclass
class Hospital:
    """A site's folder and state; changes to its site file hold from the next opening on.

    Attributes:
        folder: where everything is.
        patients: identifiers, and how many images each has.
        policy: changes to the policy.
        datasets: names of data sets, all in one folder of images unless ``elsewhere``.
        kernels: whether they are measured or modelled.
        seed: the known seed; None for keys of its own.
        most: patients that a part may hold; None for twice those declared.
        opt_out: the list that each data set names, relative to the folder.
        same_person: the list of PatientIDs that are one person, relative to the folder.
        ignored: differences between PatientIDs of one person.
        masks: whether each data set has a folder of them beside its images.
        memory_mib: of the device.
        device: more of the section of that name.
        cache_gib: that decoded images may take.
    """

    folder: Path
    patients: dict[str, int] = field(
        default_factory=lambda: {f"P{number:02}": 1 + number % 3 for number in range(24)}
    )
    name: str = "north"
    declared: int = 20
    most: int | None = None
    threads: int = 1
    kernels: str = "modelled"
    split: tuple[float, float, float] = (0.75, 0.25, 0.0)
    policy: dict[str, Any] = field(default_factory=dict)
    datasets: dict[str, str] = field(default_factory=lambda: {"chest-xray": "."})
    seed: int | None = SEED
    opt_out: str | None = None
    same_person: str | None = None
    ignored: tuple[str, ...] = ()
    masks: bool = False
    memory_mib: int = 1024
    device: dict[str, Any] = field(default_factory=dict)
    cache_gib: float = 64.0

    def __post_init__(self) -> None:
        for place in set(self.datasets.values()):
            write_images(self.folder / place, self.patients)

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def open(self) -> Site:
        """The site, its file written anew."""
        path = self.folder / "site.toml"
        path.write_text(toml(self.site_file()))
        return open_site(path, self.state, self.seed)

    def site_file(self) -> dict[str, Any]:
        """What the administrator writes."""
        return {
            "site": {"name": self.name, "cache_gib": self.cache_gib}
            | ({"same_person": self.same_person} if self.same_person else {})
            | ({"ignore_in_patient_ids": list(self.ignored)} if self.ignored else {}),
            "data": {
                name: {
                    "images": f"{place}/images",
                    "labels": f"{place}/labels.csv",
                    "key": "SOPInstanceUID",
                    "key_column": "SOPInstanceUID",
                    "declared_patients": self.declared,
                    "split": list(self.split),
                }
                | ({"opt_out": self.opt_out} if self.opt_out else {})
                | ({"masks": f"{place}/masks"} if self.masks else {})
                | ({"most_patients": self.most} if self.most else {})
                for name, place in self.datasets.items()
            },
            "policy": POLICY | self.policy,
            "device": {
                "threads": self.threads,
                "kernels": self.kernels,
                "memory_mib": self.memory_mib,
            }
            | self.device,
        }

    def rows(self, table: str) -> list[dict[str, Any]]:
        """What the store holds on disk, read beside whoever has it open."""
        with sqlite3.connect(f"file:{self.state}/site.sqlite?mode=ro", uri=True) as store:
            store.row_factory = sqlite3.Row
            return [dict(row) for row in store.execute(f"SELECT * FROM {table}")]


def offer_of(site: Site, study: Study) -> Offer:
    """The site's offer, as the coordinator reads it."""
    reply = answered(site, offer_request(study))
    assert reply.code == "ok"
    return Offer.model_validate_json(reply.document)


def offer_request(study: Study) -> Request:
    """The coordinator's first question."""
    document = canonical_json(study.model_dump(mode="json")).decode()
    return Request(study.study.name, "", 0, "offer", document=document)


def proposal(plan: Plan, **changes: Any) -> Request:  # noqa: ANN401 - a request's fields
    """The request to approve a plan."""
    fields = {"study": plan.study.study.name, "plan_hash": plan.hash, "document": plan.text}
    return Request(**{**fields, "round": 0, "purpose": "propose", **changes})


def plan_for(site: Site, study: Study) -> Plan:
    """The plan that the coordinator writes for the site."""
    frozen = frozen_of(study)
    digest = content_hash(frozen) if frozen.size else ""
    return write_plan(study, offer_of(site, study), trained_count(study), digest)


def approved(site: Site, study: Study) -> Plan:
    """A plan that the site has approved."""
    plan = plan_for(site, study)
    assert answered(site, proposal(plan)).code == "ok"
    return plan


def weights_of(study: Study, seed: int = 0) -> npt.NDArray[np.float32]:
    """Some global weights: those that are trained."""
    return split(study, initial_weights(study, seed))[0]


def frozen_of(study: Study, seed: int = 0) -> npt.NDArray[np.float32]:
    """The others."""
    return split(study, initial_weights(study, seed))[1]


def asking(
    plan: Plan,
    round_number: int = 1,
    purpose: Purpose = "train",
    *,
    seed: int = 0,
    **changes: Any,  # noqa: ANN401 - a request's fields
) -> Request:
    """A request for a round of a plan, with weights that follow from a seed."""
    fields: dict[str, Any] = {
        "study": plan.study.study.name,
        "plan_hash": plan.hash,
        "round": round_number,
        "purpose": purpose,
        "arrays": weights_of(plan.study, seed),
        "ledger": LedgerHead(),
    }
    return Request(**fields | changes)


def answered(site: Site, request: Request) -> Reply:
    """What a site answers, where it is not silent."""
    reply = answer(site, request)
    assert reply is not None
    return reply


def code_of(site: Site, request: Request) -> str:
    """How a site answers: ``ok``, a code or ``silence``; a refusal must carry nothing else."""
    reply = answer(site, request)
    if reply is None:
        return "silence"
    if reply.code != "ok":
        assert reply.arrays is None
        assert reply.document == ""
    return reply.code
