"""The kept-apart test set of a simulation, and a model's exact figures on it.

No hospital could compute these: they need every test patient's score in one place.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from client.data.archive import summary
from client.data.cohort import Cohort, Part, Patient, Split, load_cohort
from client.data.pseudonyms import Pseudonyms
from client.site import Site
from client.training.evaluation import outputs_of
from common.errors import DataError
from common.files import sha256
from common.numerics import EngineChoice
from common.package.statement import Figure
from common.privacy.randomness import known_secret
from common.process.progress import Progress
from common.study.study_file import Study
from simulations.archives.decoded import DecodedFolder
from simulations.archives.manifest import TEST, Hospitals
from simulations.reports.result import CurvePoint, Kind, Line, Outcome, ResultMetrics, SiteFigure

_CHOICE: Final = EngineChoice(tile=16)
"""How many images go through the model at once; no hospital computes like this."""

Scored = Iterator[tuple[torch.Tensor, torch.Tensor]]
"""Of each patient the outputs and the targets, (images, ...)."""


@dataclass(frozen=True)
class Mapped:
    """Decoded images or masks as another process opens them: nothing is copied.

    Attributes:
        path: of the memory-mapped file.
        shape: of all images or masks.
        offset: of the first value, bytes.
        dtype: of a value, as NumPy spells it.
    """

    path: str
    shape: tuple[int, ...]
    offset: int
    dtype: str

    @classmethod
    def of(cls, array: npt.NDArray[Any]) -> Mapped:
        """Where a cohort's images or masks are mapped from."""
        assert isinstance(array, np.memmap)
        return cls(str(array.filename), array.shape, array.offset, array.dtype.str)

    def open(self) -> npt.NDArray[Any]:
        """The images, float16, or masks, uint8; read-only."""
        return np.memmap(self.path, np.dtype(self.dtype), "r", self.offset, self.shape)


def mapped_masks(cohort: Cohort) -> Mapped | None:
    """Where a cohort's masks are mapped from, if it has any."""
    return None if cohort.masks is None else Mapped.of(cohort.masks)


@dataclass(frozen=True)
class TestSet:
    """Decoded images and patients of the kept-apart test set."""

    __test__ = False  # pytest collects classes by this name

    images: Mapped
    patients: tuple[Patient, ...]
    masks: Mapped | None = None

    @classmethod
    def of_part(cls, cohort: Cohort, part: Part) -> TestSet:
        """One part of a cohort."""
        return cls(Mapped.of(cohort.images), cohort.part(part), mapped_masks(cohort))


def load_test_set(
    study: Study,
    hospitals: Hospitals,
    *,
    seed: int,
    decoded: Path,
    workers: int,
    progress: Progress,
) -> TestSet:
    """Read and decode the test set; every patient of the folder is in it.

    Raises:
        DataError: the images cannot be used.
        LabelError: the labels cannot be used.
    """
    kept = DecodedFolder.of(decoded, TEST)
    cohort = load_cohort(
        hospitals.test_images,
        hospitals.test_targets(study.task.target),
        pseudonyms=Pseudonyms(known_secret(seed, TEST, "patients")),
        classes=study.task.classes,
        modalities=study.data.modalities,
        image_size=study.data.image_size,
        channels=study.data.channels,
        spacing=study.data.spacing,
        split=Split(0.0, 0.0, 1.0),  # every patient is in the test part
        cache=kept.cache,
        workers=workers,
        progress=progress,
        reading=kept.reading,
    )
    if not cohort.patients:
        raise DataError(
            "no image of the test set can be used in this study",
            where=hospitals.test_images,
            found=summary(cohort.rejected),
            wanted="DICOM images of the study's modalities, each with a PatientID and a target",
            remedy="run consilium-site check: it explains each reason and what to do",
        )
    return TestSet.of_part(cohort, "test")


def array_test_set(study: Study, hospitals: Hospitals, seed: int) -> TestSet:
    """The test set of hospitals that are arrays.

    Raises:
        StudyError: the arrays are of other images, or show something else.
        DataError: they cannot be read.
    """
    part = hospitals.part(TEST)
    assert part is not None
    whole = Split(0.0, 0.0, 1.0)  # every patient is in the test part
    cohort = part.cohort(study, Pseudonyms(known_secret(seed, TEST, "patients")), whole)
    return TestSet(Mapped.of(cohort.images), cohort.patients, mapped_masks(cohort))


def curve_point(
    study: Study, weights: npt.NDArray[np.float32], test: TestSet, round_number: int
) -> CurvePoint:
    """The headline figure of the weights after a round."""
    found = study.task.exact(scored(study, weights, test))
    return CurvePoint(round=round_number, value=found.values[study.task.headline].value)


def figure_at(study: Study, weights: npt.NDArray[np.float32], site: Site) -> SiteFigure | None:
    """The headline at one hospital, exact; None where it has no validation patient.

    A hospital sends no such figure without noise, so only a simulation has it.

    Args:
        study: what was learned.
        weights: flat float32.
        site: the hospital.
    """
    cohort = site.cohorts.read(study)
    if not cohort.part("validation"):
        return None
    held = TestSet.of_part(cohort, "validation")
    value = study.task.exact(scored(study, weights, held)).values[study.task.headline]
    return SiteFigure(patients=len(held.patients), figure=Figure.of(value))


def outcome(
    kind: Kind,
    study: Study,
    weights: npt.NDArray[np.float32],
    test: TestSet,
    *,
    epsilon: float | None,
    given: Scored | None = None,
) -> Outcome:
    """Everything that is said about one trained model on the test set.

    Args:
        kind: what the model stands for.
        study: what was learned.
        weights: flat float32.
        test: the test set.
        epsilon: what it cost a patient; None where nothing bounds it.
        given: what the model gives on the test set, where somebody else looks at it too.
    """
    found = study.task.exact(given or scored(study, weights, test))
    return Outcome(
        kind=kind,
        learning_rate=study.training.learning_rate,
        epsilon=epsilon,
        weights_sha256=sha256(weights.astype("<f4").tobytes()),
        metrics=ResultMetrics(
            patients=len(test.patients),
            headline=study.task.headline,
            figures={name: Figure.of(each) for name, each in found.values.items()},
            of={name: tuple(map(Figure.of, each)) for name, each in found.of.items()},
        ),
        each={
            name: tuple(
                tuple(value if isfinite(value) else None for value in values) for values in rows
            )
            for name, rows in found.each.items()
        },
        doubts=study.task.doubts(found),
        series={
            name: tuple(Line.model_validate(asdict(each)) for each in lines)
            for name, lines in found.series.items()
        },
    )


def scored(study: Study, weights: npt.NDArray[np.float32], test: TestSet) -> Scored:
    """What a model gives for all images of each test patient in turn, and the targets."""
    masks = None if test.masks is None else test.masks.open()
    images, patients = test.images.open(), test.patients
    # Nothing leaves and nothing is charged here, so no patient is cut short as at a site.
    most = max(len(patient.images) for patient in patients)
    return outputs_of(study, weights, images, patients, choice=_CHOICE, masks=masks, most=most)
