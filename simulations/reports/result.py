"""What a run found: the schema of ``result.json``.

Everything in it is a function of the study, the hospitals' folders, the seed and the
numerics record, but for ``seconds`` and ``command``. The report is drawn from this file
alone, so that it can be drawn again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, ValidationError

from common.errors import CheckpointError
from common.figures.paired import paired
from common.files import write_atomic
from common.numerics import NumericsRecord
from common.package.statement import Figure
from common.settings import Section

FORMAT: Final = 1
FILE: Final = "result.json"

Kind = Literal["shared", "alone-private", "alone", "pooled"]
Hash = Field(pattern=r"^[0-9a-f]{64}$")


class ResultMetrics(Section):
    """How good a model is on a set of patients.

    Attributes:
        patients: how many patients were scored.
        headline: name of the figure that sums it up.
        figures: by name.
        of: by name, one for each class.
    """

    patients: int
    headline: str
    figures: dict[str, Figure]
    of: dict[str, tuple[Figure, ...]] = Field(default_factory=dict)

    @property
    def main(self) -> Figure:
        """The figure that sums it up."""
        return self.figures[self.headline]


class CurvePoint(Section):
    """The headline figure on the held-out test set after a round: no hospital could compute it."""

    round: int
    value: float | None


class Line(Section):
    """A line of a picture.

    Attributes:
        label: what it shows.
        points: (x, y), by increasing x.
        ends: the intervals of each y; empty where there are none.
    """

    label: str
    points: tuple[tuple[float, float], ...]
    ends: tuple[tuple[float, float], ...] = ()


class Outcome(Section):
    """One trained model on the pooled test set.

    Attributes:
        kind: the shared model, a hospital alone with the same privacy, alone without any,
            or everything pooled in one place.
        site: the hospital, where it is one.
        learning_rate: of the local optimiser.
        epsilon: what it cost a patient; None where nothing bounds it.
        weights_sha256: of the little-endian float32 bytes.
        metrics: on the pooled test set.
        curve: over the rounds.
        series: by name, the lines of each picture that the task draws.
        each: by name, for each class, a number of each test patient, in one order for all models;
            None where the patient has none.
        doubts: what a reader must know first of the model.
        note: what to know about this training, such as that it diverged.
    """

    kind: Kind
    site: str | None = None
    learning_rate: float
    epsilon: float | None
    weights_sha256: str = Hash
    metrics: ResultMetrics
    curve: tuple[CurvePoint, ...] = ()
    series: dict[str, tuple[Line, ...]] = Field(default_factory=dict)
    each: dict[str, tuple[tuple[float | None, ...], ...]] = Field(default_factory=dict)
    doubts: tuple[str, ...] = ()
    note: str | None = None


class FederatedEvaluation(Section):
    """What the hospitals themselves could measure: figures from noised histograms.

    Attributes:
        round: after which sites evaluated.
        figures: by the same names as in :class:`ResultMetrics`, noise included in the intervals.
    """

    round: int
    figures: dict[str, Figure]


class SiteFigure(Section):
    """The shared model on the patients of one hospital: exact, so only a simulation has it.

    Attributes:
        patients: validation patients of the hospital.
        figure: the headline.
    """

    patients: int
    figure: Figure


class SiteFacts(Section):
    """What is public about one hospital's part in the study.

    Attributes:
        declared_patients: the public number of training patients.
        weight: by which its update counted.
        share: of the average, where all answered.
        epsilon_training: cost of the training to a training patient; None without privacy.
        epsilon_evaluation: cost of the evaluations to a validation patient.
        noise_multiplier: standard deviation of a step's noise over the clip norm.
        sampling_rate: probability that a patient takes part in a step.
        spent: epsilon of the training after each of some rounds.
        plan_hash: SHA-256 of the plan it approved.
    """

    declared_patients: int
    weight: int
    share: float
    epsilon_training: float | None
    epsilon_evaluation: float | None
    noise_multiplier: float | None
    sampling_rate: float
    spent: tuple[tuple[int, float], ...] = ()
    plan_hash: str = Hash


class StudyFacts(Section):
    """What a reader must know of the study file, which lies beside the result.

    Attributes:
        figures: the names of its task's figures, each in the words in which it is shown, the
            headline first.
    """

    name: str
    title: str
    sha256: str = Hash
    task: str
    classes: tuple[str, ...]
    figures: tuple[tuple[str, str], ...]
    rounds: int
    local_steps: int
    batch_size: int
    learning_rate: float
    model: str
    weights: int
    strategy: str
    average_decay: float
    max_share: float = 1.0
    privacy: Literal["patient", "none"]
    epsilon: float | None
    clip_norm: float | None

    @property
    def headline(self) -> str:
        """The figure that sums a model up, in words."""
        return self.figures[0][1]


class HospitalsFacts(Section):
    """Where the made-up hospitals came from.

    Attributes:
        kind: ``synth``, ``npz`` or ``masked-npz``.
        seed: that they were drawn from.
        sha256: of their manifest.
        facts: lines to be said beside every figure.
        redraws: how often a partition was drawn again until every hospital had enough.
    """

    kind: str
    seed: int
    sha256: str = Hash
    facts: tuple[str, ...] = ()
    redraws: int = 0


class Seeds(Section):
    """Where the randomness came from: known to everyone, hence a simulation."""

    run: int
    hospitals: int


class Result(Section):
    """A finished run.

    Attributes:
        records: where its sites kept their ledgers: in memory none outlives the run.
        at_sites: the shared model at each hospital that has validation patients.
    """

    format: int = Field(default=FORMAT, ge=FORMAT, le=FORMAT)
    warnings: tuple[str, ...]
    study: StudyFacts
    hospitals: HospitalsFacts
    final_weights_sha256: str = Hash
    numerics: dict[str, NumericsRecord]
    metrics: ResultMetrics
    shared: Outcome
    federated_evaluation: tuple[FederatedEvaluation, ...]
    per_site: dict[str, SiteFacts]
    epsilon: dict[str, float | None]
    delta: float | None
    baselines: tuple[Outcome, ...]
    versions: dict[str, str]
    seeds: Seeds
    seconds: dict[str, float]
    command: str
    records: Literal["memory", "disk"] = "disk"
    at_sites: dict[str, SiteFigure] = Field(default_factory=dict)

    def of_kind(self, kind: Kind) -> tuple[Outcome, ...]:
        """The baselines of one kind, by site."""
        return tuple(outcome for outcome in self.baselines if outcome.kind == kind)

    def ahead_of(self, other: Outcome) -> tuple[Figure | None, ...]:
        """How far the shared model is ahead of another on the same test patients, by class.

        Of the headline; empty where the task has no such number of one patient, and None where too
        few patients have one.
        """
        name = self.metrics.headline
        ours, theirs = (one.each.get(name, ()) for one in (self.shared, other))
        pairs = zip(map(_numbers, ours), map(_numbers, theirs), strict=True)
        found = (paired(*both) for both in pairs)
        return tuple(None if each is None else Figure.of(each) for each in found)

    def best(self, kind: Kind) -> Outcome | None:
        """The baseline of one kind with the best headline figure, if there is any."""
        # A figure that is not defined comes last.
        return max(self.of_kind(kind), key=lambda one: one.metrics.main.value or 0.0, default=None)


def _numbers(values: tuple[float | None, ...]) -> list[float]:
    return [float("nan") if value is None else value for value in values]


def write_result(run: Path, result: Result) -> Path:
    """Write ``result.json``."""
    return write_readable(run / FILE, result.model_dump(mode="json"))


def write_readable(path: Path, document: dict[str, Any]) -> Path:
    """Write JSON for people and programs: indented, sorted keys, whole or not at all."""
    # No NaN: it is no JSON, and other readers would fail on it.
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_atomic(path, f"{text}\n".encode())
    return path


def read_result(run: Path) -> Result:
    """Read the result of a finished run.

    Raises:
        CheckpointError: there is none, or another version wrote it.
    """
    path = run / FILE
    try:
        return Result.model_validate_json(path.read_bytes())
    except FileNotFoundError as cause:
        raise CheckpointError(
            "this run has no result yet",
            where=run,
            remedy="finish it: consilium-sim run … --resume",
        ) from cause
    except ValidationError as cause:
        raise CheckpointError(
            "a result cannot be read; another version may have written it",
            where=path,
            remedy="run the study again into another folder",
        ) from cause
