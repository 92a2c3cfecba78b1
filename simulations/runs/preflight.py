"""What can be found wrong before a run: checked before anything is written."""

from __future__ import annotations

from pathlib import Path

from client.consent.policy import require_bounds
from client.data.archive import FOREIGN, Found, examine, require_dicom, scan, walk
from client.data.labels import LabelFile, read_labels
from client.data.masks.sources import MaskFolder
from client.sitefile import DataSet, SiteFile
from common.errors import Refusal, SiteError, StudyError
from common.models.networks import build_model
from common.privacy.mechanisms import mechanism
from common.study.study_file import Study
from simulations.archives.manifest import Hospitals


def check_study(study: Study, hospitals: Hospitals) -> None:
    """Refuse a study that these hospitals could not finish.

    Raises:
        StudyError: too few hospitals, or one with too few patients.
        ModelError: the model cannot take the images.
        SiteError: a hospital lacks the data set, or its policy forbids the study.
        PrivacyError: the study's epsilon cannot be reached; the message says what could.
        LabelError: a label file is missing or holds a label outside the classes.
        DataError: a folder holds no DICOM file.
    """
    # First, because it reads no file: does the model take images of this size?
    build_model(study)
    if len(hospitals.sites) < study.aggregation.min_sites:
        raise StudyError(
            "there are fewer hospitals than the study requires",
            where=hospitals.folder,
            found=len(hospitals.sites),
            wanted=f"at least {study.aggregation.min_sites} ([aggregation] min_sites)",
            remedy="make more hospitals, or lower min_sites",
        )
    for name in hospitals.sites:
        _check_site(study, hospitals, name)
    if hospitals.are_arrays:
        return
    _check_images(study, hospitals.test_images, hospitals.test_targets(study.task.target))


def _check_site(study: Study, hospitals: Hospitals, name: str) -> None:
    site, path = hospitals.files[name], hospitals.site_file(name)
    data = _dataset(study, site, path)
    if data.declared_patients < study.data.min_patients:
        raise StudyError(
            "a hospital has fewer patients than the study requires",
            where=f"{path}: [data.{study.data.dataset}] declared_patients",
            found=data.declared_patients,
            wanted=f"at least {study.data.min_patients} ([data] min_patients)",
            remedy="leave the hospital out of the study, or lower min_patients",
        )
    # A site would refuse its plan, too, but only after every image was decoded.
    _check_policy(study, site, data, path)
    if not hospitals.are_arrays:
        folder = path.parent
        _check_images(study, folder / data.images, site.targets(study, folder))


def _dataset(study: Study, site: SiteFile, path: Path) -> DataSet:
    data = site.data.get(study.data.dataset)
    if data is None:
        raise SiteError(
            "a hospital does not have the data set that the study names",
            where=path,
            found=", ".join(sorted(site.data)),
            wanted=f"{study.data.dataset} ([data] dataset)",
            remedy="use the same data set name in the study and in the site files",
        )
    return data


def _check_policy(study: Study, site: SiteFile, data: DataSet, path: Path) -> None:
    planned = mechanism(study, data.declared_patients, data.most_patients)
    if not site.policy.allow_known_key:
        raise _forbidden(
            f"{path}: [policy] allow_known_key",
            "false",
            "true, because a simulation's keys are known",
        )
    # The site's own check, not a copy of it: a copy missed [policy.ranges].
    try:
        require_bounds(study, planned, site.policy)
    except Refusal as refusal:
        told = refusal.details
        raise _forbidden(f"{path}: {told['where']}", told["found"], told["wanted"]) from refusal


def _forbidden(where: str, found: str, wanted: str) -> SiteError:
    return SiteError(
        "a hospital's policy forbids the study",
        where=where,
        found=found,
        wanted=wanted,
        remedy="change the study to fit the policy, or change the hospital's policy",
    )


def _check_images(study: Study, images: Path, targets: LabelFile | MaskFolder) -> None:
    if isinstance(targets, LabelFile):
        read_labels(targets, study.task.classes).require_sound()
    # One DICOM file is enough here. Which images can be used shows when they are decoded.
    for path in walk(images):
        verdict = examine(images, path, decode=False)
        if isinstance(verdict, Found) or verdict.reason not in FOREIGN:
            return
    require_dicom(images, scan(images, decode=False))
