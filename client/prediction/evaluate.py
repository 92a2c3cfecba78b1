"""``consilium-site evaluate``: how a package's model does on the hospital's own patients.

Exact, and for the hospital alone: nothing of it is noised, nothing leaves. Beside it is a model
that the hospital trains alone, and a second reader where the label file has one: did joining help
*us*?
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from client.data.cohort import Patient
from client.prediction import own, reader
from client.prediction.alone import train_alone
from client.prediction.limits import Profile, profile, scanners
from client.prediction.own import Named, OwnPatients, OwnSources
from client.prediction.scoring import choice_for
from client.training.evaluation import outputs_of
from common.errors import DataError, PackageError
from common.figures.figures import Figures
from common.figures.intervals import Estimate, share
from common.figures.paired import paired
from common.numerics import EngineChoice
from common.package.package import Package
from common.process.denormals import flushed
from common.process.progress import Progress

Flat = NDArray[np.float32]
NOT_HELD_OUT: Final = "these patients may have been in training; --new-patients says they were not"
RESAMPLES: Final = 400
"""Of the patients, for the interval of a difference."""
FEWEST: Final = 10
"""Patients of training without whom no model is trained alone."""


@dataclass(frozen=True, eq=False)
class JudgedModel:
    """What a model says of each judged patient. Sensitive.

    Attributes:
        figures: exact.
        numbers: (patients, columns).
        truths: (patients,).
        apart: (patients,), how far the model is from what is known.
        outputs: of each patient with its targets; none for a dense task: too many.
    """

    figures: Figures
    numbers: NDArray[np.float64]
    truths: NDArray[np.float64]
    apart: NDArray[np.float64]
    outputs: list[tuple[torch.Tensor, torch.Tensor]] = field(repr=False)


@dataclass(frozen=True)
class Decided:
    """How often the shared model finds what is there, at one of its thresholds.

    Attributes:
        rule: name of the operating point.
        sensitivity: share of patients with the finding in whom it counts as present.
        specificity: share of patients without it in whom it does not.
    """

    rule: str
    sensitivity: Estimate
    specificity: Estimate


@dataclass(frozen=True, eq=False)
class OwnEvaluation:
    """What was found. Sensitive: it stays at the hospital.

    Attributes:
        patients: who was judged, in the order of all arrays.
        held_out: whether they were not in training.
        shared: the package's model.
        alone: the hospital's own; None where none was trained.
        ahead: by how much the shared model's headline figure is above the own one's, on the same
            patients; None where it cannot be told.
        said: of each patient the class that the shared model names where `predict` decides; None
            where it names none.
        decided: at each operating point, first where `predict` decides; none for other tasks than
            two classes.
        said_new: whether it is somebody's word alone that they were not in training.
        reading: a second reader beside the shared model; None where there is none.
        named: of each pseudonym the PatientID and the files.
        opinions: by pseudonym, what the reader says.
        suspects: (patients,), whose label or mask is probably wrong.
        threshold: of conformal sets; None where there are none.
        why: why there are none.
        profile: what the hospital's images are like.
        notes: what else must be said.
    """

    patients: tuple[Patient, ...] = field(repr=False)
    held_out: bool
    shared: JudgedModel
    alone: JudgedModel | None
    ahead: Estimate | None
    said: Sequence[int | None] = field(repr=False)
    decided: tuple[Decided, ...]
    said_new: bool
    reading: reader.Reading | None
    named: dict[str, Named] = field(repr=False)
    opinions: dict[str, int | float] = field(repr=False)
    suspects: NDArray[np.bool_] = field(repr=False)
    threshold: float | None
    why: str
    profile: Profile
    notes: tuple[str, ...] = ()


def evaluate(
    package: Package,
    sources: OwnSources,
    *,
    cache: Path,
    progress: Progress,
    everyone: bool = False,
    alone: bool = True,
    column: str = "",
    rule: str = "",
    alpha: float = 0.1,
) -> OwnEvaluation:
    """Judge a package's model on the hospital's own patients.

    Args:
        package: the model.
        sources: where the patients are.
        cache: folder for decoded images.
        progress: told of every file and round.
        everyone: judge also on patients of training.
        alone: train a model on the hospital's training patients, to compare with.
        column: of the label file, with a second reader's opinion; empty for none.
        rule: the operating point that decides; empty for the usual one.
        alpha: share of patients whose conformal set may miss the truth.

    Raises:
        DataError: as :func:`client.prediction.own.read`.
        LabelError: as there.
        PackageError: a second reader is asked for, and the task names no classes; or the model
            needs more memory than there is.
    """
    # First: a model that is too large must not cost the reading of a folder.
    study, choice = package.study, choice_for(package)
    opinions = dict[str, int | float]()
    if column:  # first: a mistake must not cost the hours of a training
        if not study.task.classes or study.heads.dense:
            raise PackageError(
                "a second reader can be compared with a model that classifies",
                where="--reader",
                found=", ".join(study.task.words()),
                wanted="a model that gives each patient a class",
                remedy="leave --reader out",
            )
        opinions = own.second_reader(sources, study, column, cache=cache, progress=progress)
    found = own.read(sources, study, everyone=everyone, cache=cache, progress=progress)
    shared = _look(package, package.weights, found, choice)
    notes = []
    mine, ahead = None, None
    if alone and len(found.train) >= FEWEST:
        try:
            mine = _look(
                package, train_alone(study, package.weights, found, progress), found, choice
            )
            ahead = _ahead(package, shared, mine)
        except KeyboardInterrupt:
            # What is known of the shared model took long too, and is what was asked for first.
            mine, ahead = None, None
            notes.append("The training alone was stopped, so nothing is said of it")
    elif alone:
        notes.append(
            f"No model was trained alone: {len(found.train)} patients of training are known here, "
            f"and at least {FEWEST} are needed"
        )
    threshold, why = _conform(package, shared, alpha) if found.held_out else (None, NOT_HELD_OUT)
    said = [study.task.named(each, package.statement.adjustment, rule) for each in shared.numbers]
    named = own.named(sources, progress)
    return OwnEvaluation(
        patients=found.judged,
        held_out=found.held_out,
        shared=shared,
        alone=mine,
        ahead=ahead,
        said=said,
        decided=_decided(package, shared, rule),
        said_new=sources.new,
        reading=_reading(found, shared, opinions, said) if column else None,
        opinions=opinions,
        suspects=study.task.suspects(shared.numbers, shared.truths, shared.apart),
        threshold=threshold,
        why=why,
        named=named,
        profile=profile(_images(found), scanners(_first_files(sources, found, named))),
        notes=tuple(notes),
    )


@flushed()
def _look(package: Package, weights: Flat, found: OwnPatients, choice: EngineChoice) -> JudgedModel:
    """One pass over the judged patients: figures, and each patient's numbers."""
    study = package.study
    rows = list[tuple[NDArray[np.float64], float, float]]()
    kept_outputs = list[tuple[torch.Tensor, torch.Tensor]]()
    most = max(len(each.images) for each in found.judged)

    def kept() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        given = outputs_of(
            study,
            weights,
            found.cohort.images,
            found.judged,
            choice=choice,
            masks=found.cohort.masks,
            most=most,
        )
        for outputs, targets in given:
            task = study.task
            rows.append((task.numbers(outputs), task.truth(targets), task.apart(outputs, targets)))
            if not study.heads.dense:
                kept_outputs.append((outputs, targets))
            yield outputs, targets

    figures = study.task.exact(kept())
    numbers, truths, apart = zip(*rows, strict=True)
    return JudgedModel(figures, np.stack(numbers), np.array(truths), np.array(apart), kept_outputs)


def _ahead(package: Package, shared: JudgedModel, mine: JudgedModel) -> Estimate | None:
    """How far the shared model's headline is above the own one's, with a 95 % interval.

    Of a figure that each patient has, the paired mean over patients and classes; of another, such
    as AUC, the bootstrap over patients, both models on the same draws (Efron and Tibshirani 1993).
    """
    task, name = package.study.task, package.study.task.headline
    if name in shared.figures.each:
        ours, theirs = (
            np.nanmean(np.array(each.figures.each[name], dtype=np.float64), axis=0)
            for each in (shared, mine)
        )
        return paired(list(ours), list(theirs))
    whole = [each.figures.values[name].value for each in (shared, mine)]
    if None in whole:
        return None
    draws, patients = np.random.default_rng(0), len(shared.outputs)
    differences = list[float]()
    for _ in range(RESAMPLES):
        chosen = draws.integers(0, patients, patients)
        pair = [
            task.exact([each.outputs[one] for one in chosen]).values[name].value
            for each in (shared, mine)
        ]
        if pair[0] is not None and pair[1] is not None:
            differences.append(pair[0] - pair[1])
    if len(differences) < RESAMPLES // 2:
        return None
    low, high = np.quantile(differences, (0.025, 0.975))
    return Estimate((whole[0] or 0.0) - (whole[1] or 0.0), float(low), float(high))


def _decided(package: Package, shared: JudgedModel, rule: str) -> tuple[Decided, ...]:
    """Sensitivity and specificity at each operating point, the one that decides first."""
    task, adjustment = package.study.task, package.statement.adjustment
    if len(task.classes) != 2 or package.study.heads.dense:
        return ()
    points = adjustment.of(1)
    first = rule or adjustment.rule(1)
    found = []
    for name in dict.fromkeys((first, *(each.name for each in points))):
        said = np.array([task.named(each, adjustment, name) for each in shared.numbers])

        def rightly(label: int, of: str, said: NDArray[np.object_] = said) -> Estimate:
            named = said[shared.truths == label]
            return share(float((named == label).sum()), float((named == 1 - label).sum()), of=of)

        found.append(
            Decided(name, rightly(1, "patients with it"), rightly(0, "patients without it"))
        )
    return tuple(found)


def _images(found: OwnPatients) -> Iterator[NDArray[np.float16]]:
    for patient in found.judged:
        for row in patient.images:
            yield found.cohort.images[row]


def _first_files(
    sources: OwnSources, found: OwnPatients, named: dict[str, Named]
) -> Iterator[Path]:
    """The first file of each judged patient."""
    for patient in found.judged:
        if patient.pseudonym in named:
            yield sources.images / named[patient.pseudonym].files[0]


def _conform(package: Package, shared: JudgedModel, alpha: float) -> tuple[float | None, str]:
    """What sets are made by; or why there are none."""
    try:
        found = package.study.task.conform(shared.numbers, shared.truths, alpha)
    except DataError as error:  # too few patients: the figures are there all the same
        return None, "; ".join((error.what, *error.details.values()))
    return found, "" if found is not None else "there are no such sets for masks"


def _reading(
    found: OwnPatients,
    shared: JudgedModel,
    opinions: dict[str, int | float],
    said: Sequence[int | None],
) -> reader.Reading:
    """Model and reader on the judged patients of whom the reader said something."""
    both = [
        (int(truth), mine, int(opinions[patient.pseudonym]))
        for patient, truth, mine in zip(found.judged, shared.truths, said, strict=True)
        if mine is not None and patient.pseudonym in opinions
    ]
    if not both:
        raise PackageError(
            "model and second reader cannot be compared",
            where="--reader",
            found="no patient with both",
            wanted="a reader's class for patients who are judged on",
            remedy="leave --reader out, or check the column",
        )
    labels, model, other = (np.array(column, dtype=np.int64) for column in zip(*both, strict=True))
    return reader.compare(labels, model, other)
