"""The hospital's own labelled patients, to see a model at work on: read, and nothing is sent.

A site's patients keep the parts that its studies gave them: those of training helped to make the
shared model, so it is judged on the others. A folder with a label file and no site has no parts.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from client.data.archive import scan
from client.data.cohort import Cohort, Patient, Split, load_cohort
from client.data.dicom import Derived
from client.data.labels import LabelFile
from client.data.masks.sources import MaskFolder
from client.data.persons import Persons
from client.data.pseudonyms import Pseudonyms
from client.records.opt_out import OptOuts
from client.sitefile import load_site_file
from common.errors import DataError, SiteError
from common.privacy.randomness import KEY_BYTES
from common.process.progress import Progress
from common.study.study_file import Study


@dataclass(frozen=True)
class OwnSources:
    """Where the patients are. Sensitive.

    Attributes:
        images: folder of DICOM files.
        targets: the label file, or the folder of masks.
        split: how a site cuts its patients into parts; None where there is no site.
        pseudonyms: under the site's key, or under one that is forgotten.
        derived: whether derived images are used.
        without: pseudonyms of who opted out.
        persons: which identifiers are one person's.
        new: whether somebody says that none of them was in training, where there is no site.
    """

    images: Path
    targets: LabelFile | MaskFolder
    split: Split | None
    pseudonyms: Pseudonyms = field(repr=False)
    derived: Derived = Derived.REJECT
    without: frozenset[str] = field(default=frozenset(), repr=False)
    persons: Mapping[str, str] = field(default_factory=dict, repr=False)
    new: bool = False


@dataclass(frozen=True, eq=False)
class OwnPatients:
    """Who is looked at, and who may be trained on. Sensitive.

    Attributes:
        cohort: decoded images, labels and masks.
        judged: the patients on whom models are compared.
        train: the patients that a model of the hospital's own may be trained on; may be none.
        held_out: whether the judged ones were not in training, by today's split.
    """

    cohort: Cohort = field(repr=False)
    judged: tuple[Patient, ...] = field(repr=False)
    train: tuple[Patient, ...] = field(repr=False)
    held_out: bool


class Named(NamedTuple):
    """A patient as the hospital knows it. Sensitive."""

    identifier: str
    files: list[str]


def of_site(path: Path, study: Study, state: Path | None = None) -> OwnSources:
    """What a site file names for a study.

    Args:
        path: the site file.
        study: whose data set is meant.
        state: the state folder; by default as the site file says.

    Raises:
        SiteError: the site file cannot be used, or the site has no key yet.
        Refusal: the site has no such data set.
    """
    file, folder = load_site_file(path), path.absolute().parent
    data, state = file.dataset(study), folder / file.site.state if state is None else state
    ignored = file.site.ignore_in_patient_ids
    pseudonyms = Pseudonyms(_key(state)).ignoring(ignored)
    named = file.site.same_person
    persons = Persons(folder / named if named else None, pseudonyms)
    lists = (folder / each.opt_out for each in file.data.values() if each.opt_out)
    absent = OptOuts(lists, state, pseudonyms, persons).read()
    return OwnSources(
        images=folder / data.images,
        targets=file.targets(study, folder),
        split=data.parts,
        pseudonyms=pseudonyms,
        derived=data.derived,
        without=absent.pseudonyms,
        persons=persons.read().persons,
    )


def of_folders(images: Path, targets: LabelFile | MaskFolder, *, new: bool = False) -> OwnSources:
    """A folder and what is known of it, without a site."""
    key = secrets.token_bytes(KEY_BYTES)
    return OwnSources(images, targets, None, Pseudonyms(key), new=new)


def read(
    sources: OwnSources, study: Study, *, everyone: bool, cache: Path, progress: Progress
) -> OwnPatients:
    """Read and decode them.

    Args:
        sources: where they are.
        study: what images and targets are prepared for.
        everyone: judge also on patients of training.
        cache: folder for decoded images.
        progress: told of every file.

    Raises:
        DataError: no patient can be judged on, or the files cannot be read.
        LabelError: the label file cannot be used.
    """
    cohort = _cohort(sources, study, cache, progress)
    parts = sources.split is not None
    train = cohort.part("train") if parts else ()
    judged = cohort.patients
    if parts and not everyone:
        judged = (*cohort.part("validation"), *cohort.part("test"))
    if not judged:
        raise DataError(
            "there is no patient to judge the model on",
            where=sources.images,
            found=f"{len(cohort.patients)} patients with an image and a label, all in training"
            if cohort.patients
            else "no patient with an image and a label",
            wanted="patients of validation or test, on whom no model was trained",
            remedy="a site whose split has shares of validation or test has such patients; or "
            "--everyone, which also judges on patients of training and flatters the shared model",
        )
    return OwnPatients(cohort, judged, train, sources.new or (parts and not everyone))


def second_reader(
    sources: OwnSources, study: Study, column: str, *, cache: Path, progress: Progress
) -> dict[str, int | float]:
    """What another column of the label file says, by pseudonym.

    Raises:
        LabelError: there is no such column.
        SiteError: masks have no columns.
    """
    if not isinstance(sources.targets, LabelFile):
        raise SiteError(
            "a second reader is a column of a label file, and this model learned from masks",
            where="--reader",
            found=column,
            remedy="leave --reader out",
        )
    other = replace(sources, targets=replace(sources.targets, label_column=column))
    cohort = _cohort(other, study, cache, progress)
    return {each.pseudonym: each.label for each in cohort.patients}


def named(sources: OwnSources, progress: Progress) -> dict[str, Named]:
    """Of each pseudonym the PatientID and the files, for lists that a person goes through."""
    found: dict[str, Named] = {}
    scanned = scan(sources.images, decode=False, workers=_workers(), progress=progress)
    for each in scanned.found:
        if each.header.patient:
            pseudonym = sources.pseudonyms.of(each.header.patient)
            pseudonym = sources.persons.get(pseudonym, pseudonym)
            found.setdefault(pseudonym, Named(each.header.patient, [])).files.append(each.path)
    return found


def _cohort(sources: OwnSources, study: Study, cache: Path, progress: Progress) -> Cohort:
    return load_cohort(
        sources.images,
        sources.targets,
        pseudonyms=sources.pseudonyms,
        classes=study.task.classes,
        modalities=study.data.modalities,
        image_size=study.data.image_size,
        channels=study.data.channels,
        spacing=study.data.spacing,
        split=sources.split or Split(0.0, 0.0, 1.0),
        cache=cache,
        workers=_workers(),
        progress=progress,
        derived=sources.derived,
        without=sources.without,
        persons=sources.persons,
    )


def _workers() -> int:
    # Not os.cpu_count: a container may allow this process fewer cores.
    return len(os.sched_getaffinity(0))


def _key(state: Path) -> bytes:
    path = state / "patients.key"
    try:
        return path.read_bytes()
    except FileNotFoundError as cause:
        raise SiteError(
            "the site has no key for its patients yet, so nobody is in a part of its data",
            where=path,
            remedy="name the site's state folder with --state; or name --images and --labels",
        ) from cause
