"""The kept-apart test set of a simulation, and a model's exact figures on it.

No hospital could compute these: they need every test patient's score in one place.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from client.data.archive import summary
from client.data.cohort import Patient, Split, load_cohort
from client.data.pseudonyms import Pseudonyms
from client.training.evaluation import outputs_of
from common.errors import DataError
from common.figures.figures import Figures
from common.files import sha256
from common.numerics import EngineChoice
from common.privacy.randomness import known_secret
from common.process.progress import Progress
from common.study.study_file import Study
from simulations.hospitals.archives import Hospitals
from simulations.reports.result import CurvePoint, Figure, Kind, Line, Outcome, ResultMetrics

_CHOICE: Final = EngineChoice(tile=16)
"""How many images go through the model at once; no hospital computes like this."""


@dataclass(frozen=True)
class Mapped:
    """Decoded images as another process opens them: nothing is copied.

    Attributes:
        path: of the memory-mapped file.
        shape: (images, channels, height, width).
        offset: of the first value, bytes.
    """

    path: str
    shape: tuple[int, ...]
    offset: int

    @classmethod
    def of(cls, images: npt.NDArray[np.float16]) -> Mapped:
        """Where a cohort's images are mapped from."""
        assert isinstance(images, np.memmap)
        return cls(str(images.filename), images.shape, images.offset)

    def open(self) -> npt.NDArray[np.float16]:
        """The images, float16, read-only."""
        return np.memmap(self.path, np.float16, "r", self.offset, self.shape)


@dataclass(frozen=True)
class TestSet:
    """Decoded images and patients of the kept-apart test set."""

    __test__ = False  # pytest collects classes by this name

    images: Mapped
    patients: tuple[Patient, ...]
    masks: Mapped | None = None


def load_test_set(
    study: Study, hospitals: Hospitals, *, seed: int, cache: Path, workers: int, progress: Progress
) -> TestSet:
    """Read and decode the test set; every patient of the folder is in it.

    Raises:
        DataError: the images cannot be used.
        LabelError: the labels cannot be used.
    """
    cohort = load_cohort(
        hospitals.test_images,
        hospitals.test_labels,
        pseudonyms=Pseudonyms(known_secret(seed, "test", "patients")),
        classes=study.task.classes,
        modalities=study.data.modalities,
        image_size=study.data.image_size,
        channels=study.data.channels,
        split=Split(0.0, 0.0, 1.0),  # every patient is in the test part
        cache=cache,
        workers=workers,
        progress=progress,
    )
    if not cohort.patients:
        raise DataError(
            "no image of the test set can be used in this study",
            where=hospitals.test_images,
            found=summary(cohort.rejected),
            wanted="DICOM images of the study's modalities, each with a PatientID and a label",
            remedy="run consilium-site check: it explains each reason and what to do",
        )
    return TestSet(Mapped.of(cohort.images), cohort.part("test"))


def curve_point(
    study: Study, weights: npt.NDArray[np.float32], test: TestSet, round_number: int
) -> CurvePoint:
    """The headline figure of the weights after a round."""
    found = exact(study, weights, test)
    return CurvePoint(round=round_number, value=found.values[study.task.headline].value)


def outcome(
    kind: Kind,
    study: Study,
    weights: npt.NDArray[np.float32],
    test: TestSet,
    *,
    epsilon: float | None,
) -> Outcome:
    """Everything that is said about one trained model on the test set."""
    found = exact(study, weights, test)
    return Outcome(
        kind=kind,
        learning_rate=study.training.learning_rate,
        epsilon=epsilon,
        weights_sha256=sha256(weights.astype("<f4").tobytes()),
        metrics=ResultMetrics(
            patients=len(test.patients),
            headline=study.task.headline,
            figures={name: Figure.of(each) for name, each in found.values.items()},
        ),
        doubts=study.task.doubts(found),
        series={
            name: tuple(Line.model_validate(asdict(each)) for each in lines)
            for name, lines in found.series.items()
        },
    )


def exact(study: Study, weights: npt.NDArray[np.float32], test: TestSet) -> Figures:
    """The exact figures of a model on the test set."""
    masks = None if test.masks is None else test.masks.open()
    images, patients = test.images.open(), test.patients
    each = outputs_of(study, weights, images, patients, choice=_CHOICE, masks=masks)
    outputs, targets = zip(*each, strict=True)
    return study.task.exact(outputs, targets)
