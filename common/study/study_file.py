"""The study file: what a coordinator proposes, parsed into frozen models.

What changes privacy is in ``[privacy]``, ``[training]`` (rounds, local steps, batch
size) and ``[evaluation]``; the rest changes only what is learned. Everything here is
public. Unknown keys are errors, and so is a number out of range: :mod:`common.study.bounds`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, model_validator

from common.documents import read_toml
from common.errors import StudyError, of_system
from common.files import sha256
from common.models.initial import (
    LARGEST,
    Arrays,
    arrays_of,
    named_file,
    with_initial,
    without_initial,
)
from common.models.models import AnyModel
from common.models.scattering import ScatteringSpec
from common.models.spec import Shape
from common.settings import Section, checked, load_document, unreadable
from common.study.aggregation import AggregationSettings
from common.study.bounds import bound, require_combined
from common.study.fixed_point import FixedPoint
from common.study.one_shot import require_agreed, with_settings
from common.tasks.task import Heads
from common.tasks.tasks import FIRST, AnyTask
from common.text import Slug, StudyName, Words

FIRST_TASK: Final = FIRST
"""The kind of task of a study that names none."""
# Beyond 2^1024 a whole number has no float, and the arithmetic of a plan would raise.
Patients = Annotated[int, Field(ge=1, le=10**9)]
"""A number of patients; a larger one is nobody's, and some have no float."""


Side = Annotated[int, bound("data.image_size")]
Millimetres = Annotated[float, bound("data.spacing")]


class StudyInfo(Section):
    """``[study]``: the name and title of the study."""

    name: StudyName
    title: Words


class DataNeeds(Section):
    """``[data]``: what a site must be able to offer, and how an image enters the model.

    Attributes:
        dataset: name of the data set in each site's own file.
        modalities: DICOM modalities (0008,0060) that are used.
        min_patients: smallest number of declared training patients of a site.
        image_size: height and width in pixels.
        channels: 1 for grey values, 3 for colour.
        mean: public constant subtracted from intensities in [0, 1].
        std: public constant that they are divided by.
        spacing: millimetres from row to row and from column to column: images are scaled to it,
            then cropped or padded to ``image_size``. Left out, they are scaled to fit.
    """

    dataset: Slug
    modalities: tuple[Words, ...] = Field(min_length=1)
    min_patients: Annotated[int, bound("data.min_patients")] = 1
    image_size: tuple[Side, Side]
    channels: Literal[1, 3] = 1
    mean: Annotated[float, bound("data.mean")] = 0.5
    std: Annotated[float, bound("data.std")] = 0.25
    spacing: tuple[Millimetres, Millimetres] | None = None


class Augmentation(Section):
    """``[training.augmentation]``: random changes of one image at a time.

    Attributes:
        flip: mirror left and right half of the time.
        rotate: largest rotation, degrees.
        crop: largest shift of the cropping window, as a share of the image's side.
        zoom: largest change of the window's size, as a share of it.
        intensity: largest relative change of contrast, and change of brightness.
        copies: augmented copies of an image in a step, averaged before the one clip.
    """

    flip: bool = False
    rotate: Annotated[float, bound("training.augmentation.rotate")] = 0.0
    crop: Annotated[float, bound("training.augmentation.crop")] = 0.0
    zoom: Annotated[float, bound("training.augmentation.zoom")] = 0.0
    intensity: Annotated[float, bound("training.augmentation.intensity")] = 0.0
    copies: Annotated[int, bound("training.augmentation.copies")] = 1

    @property
    def active(self) -> bool:
        """Whether any random change is asked for."""
        return self.moves or self.intensity > 0

    @property
    def moves(self) -> bool:
        """Whether pixels change place."""
        return self.flip or bool(self.rotate or self.crop or self.zoom)


Method = Literal["rounds", "one-shot"]
"""How a study is trained."""


class Training(Section):
    """``[training]``: the schedule that every site follows; all of it may be left out.

    The defaults were found by search (evidence in ``docs/utility.md``): one step a round, so
    that each unit of privacy buys a gradient at the newest weights, on large batches, which
    give more signal for the same noise. They suit ``scattering`` and ``cnn``.

    Attributes:
        method: ``rounds`` of gradients, or ``one-shot``: one release of sums, from which the
            coordinator computes the head (:mod:`common.study.one_shot`).
        rounds: global steps of the study.
        local_steps: steps of private SGD at each site in a round.
        batch_size: expected number of patients of a site in a batch; a site with fewer takes
            all in every step.
        learning_rate: step of the local optimiser in the first round.
        schedule: how it falls over the rounds, to zero after the last but for ``constant``.
        momentum: of the local optimiser, within a round.
        weight_decay: decoupled, added after the noise.
        images_per_patient: images of a patient drawn in a step, averaged before the clip.
        augmentation: random changes of an image.
    """

    # Not written where it is left out: a plan's hash keys its noise, and older ones lack it.
    method: Method = Field(default="rounds", exclude_if=lambda given: given == "rounds")
    rounds: Annotated[int, bound("training.rounds")] = 100
    local_steps: Annotated[int, bound("training.local_steps")] = 1
    batch_size: Annotated[int, bound("training.batch_size")] = 512
    learning_rate: Annotated[float, bound("training.learning_rate")] = 2.0
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    momentum: Annotated[float, bound("training.momentum")] = 0.0
    weight_decay: Annotated[float, bound("training.weight_decay")] = 0.0
    images_per_patient: Annotated[int, bound("training.images_per_patient")] = 1
    augmentation: Augmentation = Augmentation()


class PatientPrivacy(Section):
    """``[privacy]`` with ``mode = "patient"``: differential privacy for each patient.

    Attributes:
        epsilon: the most that a patient of one site can lose in the whole study.
        delta: with which probability the bound may fail.
        clip_norm: largest L2 norm of a patient's gradient.
    """

    mode: Literal["patient"]
    epsilon: Annotated[float, bound("privacy.epsilon")]
    delta: Annotated[float, bound("privacy.delta")]
    clip_norm: Annotated[float, bound("privacy.clip_norm")] = 1.0


class NoPrivacy(Section):
    """``[privacy]`` with ``mode = "none"``: nothing is clipped, noised or charged."""

    mode: Literal["none"]


EvaluatedRound = Annotated[int, bound("evaluation.rounds")]


class Evaluation(Section):
    """``[evaluation]``: when sites score their validation patients, and at what cost.

    Attributes:
        rounds: ``last``, ``none``, or the rounds after which sites evaluate.
        bins: cells of a score histogram; even, so that 0.5 is an edge.
        images_per_patient: images of a patient that are scored, at most: the first in an order
            that follows from their contents.
        epsilon_share: share of the study's epsilon that evaluation may cost a validation
            patient, over all evaluations. Training patients are others and pay for training.
    """

    rounds: Literal["last", "none"] | tuple[EvaluatedRound, ...] = "last"
    bins: Annotated[int, Field(multiple_of=2), bound("evaluation.bins")] = 10
    images_per_patient: Annotated[int, bound("evaluation.images_per_patient")] = 4
    epsilon_share: Annotated[float, bound("evaluation.epsilon_share")] = 0.1


class Study(Section):
    """A whole study file."""

    study: StudyInfo
    task: AnyTask
    data: DataNeeds
    model: AnyModel = ScatteringSpec()
    training: Training = Training()
    privacy: Annotated[PatientPrivacy | NoPrivacy, Field(discriminator="mode")]
    evaluation: Evaluation = Evaluation()
    aggregation: AggregationSettings = AggregationSettings()
    fixed_point: FixedPoint = FixedPoint()

    @model_validator(mode="before")
    @classmethod
    def _of_the_method(cls, given: Any) -> Any:  # noqa: ANN401 - whatever the file holds
        return with_settings(given)

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        late = [number for number in self.evaluation_rounds if number > self.training.rounds]
        if late:
            raise ValueError(
                f"evaluation.rounds names round {late[0]}, training ends after round "
                f"{self.training.rounds}"
            )
        require_combined(self)
        require_agreed(self)
        return self

    @property
    def one_shot(self) -> bool:
        """Whether sites release sums once, in place of gradients in rounds."""
        return self.training.method == "one-shot"

    @property
    def shape(self) -> Shape:
        """Of an image that enters the model."""
        return Shape(self.data.channels, *self.data.image_size)

    @property
    def heads(self) -> Heads:
        """What the model has to put out."""
        return self.task.heads()

    @property
    def evaluation_rounds(self) -> tuple[int, ...]:
        """The rounds after which sites evaluate, ascending."""
        rounds = self.evaluation.rounds
        if rounds == "last":
            return (self.training.rounds,)
        return () if rounds == "none" else tuple(sorted(set(rounds)))


def load_study(path: Path) -> Study:
    """Read and check a study file, and what the file of starting weights that it names says.

    Raises:
        StudyError: a file is missing, is not TOML, or a key has no acceptable value.
    """
    document = load_document(path, StudyError)
    return study_of(document, path, lambda name: _beside(path, name))


def study_of(document: object, path: Path, find: Callable[[str], bytes]) -> Study:
    """The study of a document.

    Args:
        document: as TOML gives it.
        path: of the study file, for errors.
        find: gives the bytes of the file of starting weights.

    Raises:
        StudyError: a key has no acceptable value, or the starting weights cannot be used.
    """
    try:
        whole = with_initial(document, find)
    except ValueError as error:
        raise StudyError(
            "the starting weights cannot be used",
            where=f"{path}: [model] initial",
            found=error,
            wanted="a file that consilium-coordinator weights has written",
            remedy="make the file with that command, or leave initial out",
        ) from error
    return checked(whole, path, Study, StudyError)


def sent_study(text: str, initial: bytes = b"") -> Study:
    """The study of a file's text that came with the file of starting weights that it names.

    Args:
        text: of the study file.
        initial: the other file's bytes; left out, it is as if the study named none.

    Raises:
        StudyError: it cannot be used; the error names every wrong key.
    """
    path = Path("study.toml")
    try:
        document = read_toml(text)
    except ValueError as cause:
        raise unreadable(path, cause, StudyError) from cause
    return study_of(document, path, lambda _: initial) if initial else plain_study(document, path)


def names_initial(text: str) -> bool:
    """Whether the text of a study file names a file of starting weights."""
    return named_file(read_toml(text)) is not None


def plain_study(document: Mapping[str, Any], path: Path) -> Study:
    """The study of a document as if it named no file of starting weights.

    Raises:
        StudyError: a key has no acceptable value.
    """
    return checked(without_initial(document), path, Study, StudyError)


def load_initial(study: Study, folder: Path) -> Arrays | None:
    """The public starting weights of a study; None where it names none.

    Args:
        study: as :func:`load_study` gave it.
        folder: of the study file.

    Raises:
        StudyError: the file is missing, was changed, or cannot be read.
    """
    named = study.model.initial
    if named is None:
        return None
    path = folder / named.file
    data = _beside(path, named.file)
    try:
        found = sha256(data)
        if found != named.sha256:
            raise ValueError(f"a file with SHA-256 {found[:16]}, not {named.sha256[:16]}")
        return arrays_of(data)
    except ValueError as error:
        raise StudyError(
            "the starting weights cannot be used",
            where=path,
            found=error,
            wanted="the file that the study was started with",
            remedy="restore the file, or start a new study",
        ) from error


def _beside(path: Path, name: str) -> bytes:
    file = path.with_name(name)
    try:
        with file.open("rb") as opened:
            data = opened.read(LARGEST + 1)
    except OSError as cause:
        raise of_system(cause, StudyError, "the starting weights cannot be read", where=file) from (
            cause
        )
    if len(data) > LARGEST:
        raise ValueError(f"more than {LARGEST >> 20} MiB")
    return data
