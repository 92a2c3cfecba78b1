"""Classification: one class for each patient."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from common.bounded import Bound
from common.figures import histogram, metrics
from common.figures.figures import Figures
from common.figures.release import Release
from common.scores import conformal, moments, operating, scaling
from common.scores.adjustment import NOTHING, Adjustment
from common.scores.finding import Finding
from common.tasks.task import CLASS_WEIGHT, Heads, TargetForm, Task
from common.text import Words

if TYPE_CHECKING:
    import torch

MOST_CLASSES: Final = 100
CHANCE: Final = 0.5
"""AUC of a model that knows nothing."""
ONE_CLASS: Final = 0.02
"""A share of patients named rightly below which a class is as good as never named."""


class Classification(Task):
    """``[task]`` with ``kind = "classification"``. Of two classes the second is the positive one.

    A patient has one label and one vote: the mean of the class probabilities over the patient's
    images.

    Attributes:
        classes: there are, at least two.
        class_weights: factor of each class in the loss: public numbers, never counted.
    """

    target: ClassVar[TargetForm] = "label"
    headline: ClassVar[str] = "auc"
    names: ClassVar[dict[str, str]] = {
        "auc": "AUC",
        "accuracy": "accuracy",
        "sensitivity": "sensitivity",
        "specificity": "specificity",
        "f1": "F1",
        "calibration_error": "calibration error",
        "balanced_accuracy": "balanced accuracy",
        "precision": "precision",
    }
    bounds: ClassVar[tuple[Bound, ...]] = (CLASS_WEIGHT,)
    sums: ClassVar[bool] = True

    kind: Literal["classification"] = "classification"
    classes: tuple[Words, ...] = Field(min_length=2, max_length=MOST_CLASSES)
    class_weights: tuple[Annotated[float, CLASS_WEIGHT], ...] | None = None

    @model_validator(mode="after")
    def _classes_agree(self) -> Self:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("a class is named twice")
        weights = self.class_weights
        if weights is not None and len(weights) != len(self.classes):
            raise ValueError(
                f"task.class_weights has {len(weights)} numbers, task.classes {len(self.classes)}"
            )
        return self

    @property
    def largest_factor(self) -> float:
        """The largest class weight."""
        return max(self.class_weights or (1.0,))

    def heads(self) -> Heads:
        """A logit for each class."""
        return Heads(len(self.classes))

    def release(self, bins: int) -> Release:
        """A histogram of scores for each true class: (true class, plane, bin)."""
        return Release(histogram.release_shape(len(self.classes), bins), once=(0, 2))

    def words(self) -> tuple[str, ...]:
        """The classes."""
        return (f"classification into {', '.join(self.classes)}",)

    def loss(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Cross-entropy, each class weighing as the study says."""
        import torch
        from torch.nn import functional

        loss = functional.cross_entropy(output, target)
        if self.class_weights is None:
            return loss
        # Not output.new_tensor, which no device has whose arrays are shapes alone.
        weights = torch.tensor(self.class_weights, dtype=output.dtype, device=output.device)
        return loss * weights.gather(0, target.reshape(1)).squeeze(0)

    def statistic(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Minus the output of the patient's class: sums of features for each class.

        The class weights are left out: a rare class has a mean as good as its patients are many.
        """
        return -output.gather(0, target.reshape(1)).squeeze(0)

    def head(self, sums: NDArray[np.float64], *, variance: float) -> NDArray[np.float64]:
        """A linear discriminant of the classes' means."""
        return moments.discriminant(sums, variance)

    def marks(self, outputs: torch.Tensor, targets: torch.Tensor, bins: int) -> NDArray[np.int64]:
        """One bin in each plane of the patient's class."""
        marked: NDArray[np.int64] = histogram.cells(*_scored([(outputs, targets)]), bins)[0]
        return marked

    def figures(self, counts: NDArray[np.int64], *, noise_variance: float) -> Figures:
        """AUC, accuracy, calibration and what belongs to them."""
        return metrics.evaluate(counts, noise_variance=noise_variance, classes=self.classes)

    def exact(self, patients: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Figures:
        """The same from the votes themselves, with ROC and calibration curves."""
        return metrics.exact(*_scored(patients), classes=self.classes)

    def readable(self, outputs: torch.Tensor) -> torch.Tensor:
        """The chance of each class."""
        return outputs.softmax(dim=1)

    def outputs(self) -> tuple[str, ...]:
        """The classes."""
        return self.classes

    def columns(self) -> tuple[str, ...]:
        """The classes."""
        return self.classes

    def numbers(self, outputs: torch.Tensor) -> NDArray[np.float64]:
        """The patient's vote: the mean chance of each class."""
        return _vote(outputs)

    def findings(
        self, numbers: NDArray[np.float64], adjustment: Adjustment = NOTHING, rule: str = ""
    ) -> tuple[Finding, ...]:
        """The second of two classes, or each of more: found where its score reaches a threshold."""
        positives = (1,) if len(self.classes) == 2 else range(len(self.classes))
        if not np.isfinite(numbers).all():
            return tuple(Finding(self.classes[each], float("nan")) for each in positives)
        planes = histogram.plane_scores(numbers[None])[0]
        scores = adjustment.scaling.apply(numbers[None])[0]
        found = []
        for plane, positive in enumerate(positives):
            threshold = _threshold(adjustment, positive, rule)
            present = bool(planes[plane] >= threshold)
            # The score is told after calibration, and so is the threshold. Of several classes it is
            # one of another number, how far a class is before the best other one.
            told = None
            if len(positives) == 1:
                edge = np.array([[1.0 - threshold, threshold]])
                told = round(float(adjustment.scaling.apply(edge)[0, 1]), 6)
            found.append(Finding(self.classes[positive], float(scores[positive]), present, told))
        return tuple(found)

    def truth(self, targets: torch.Tensor) -> float:
        """The index of the patient's class."""
        return float(targets[0])

    def apart(self, outputs: torch.Tensor, targets: torch.Tensor) -> float:
        """Half of Brier's score (1950): with two classes, the square of what is missing to 1."""
        vote, label = _vote(outputs), int(targets[0])
        return float(((vote - np.eye(len(vote))[label]) ** 2).sum()) / 2.0

    def suspects(
        self, numbers: NDArray[np.float64], truths: NDArray[np.float64], apart: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """Confident learning (Northcutt, Jiang and Chuang 2021, arXiv:1911.00068).

        A label is probably wrong where another class has a larger chance, and one that is at least
        the mean chance of that class among its own patients.
        """
        del apart
        labels = truths.astype(np.int64)
        own = numbers[np.arange(len(labels)), labels]
        usual = [
            numbers[labels == k, k].mean() if (labels == k).any() else np.inf
            for k in range(len(self.classes))
        ]
        surer = (numbers >= np.array(usual)) & (numbers > own[:, None])
        return np.asarray(surer.any(axis=1))

    def named(
        self, numbers: NDArray[np.float64], adjustment: Adjustment = NOTHING, rule: str = ""
    ) -> int | None:
        """Of two classes the one that the threshold decides, of more the most likely."""
        if not np.isfinite(numbers).all():
            return None
        if len(self.classes) > 2:
            return int(numbers.argmax())
        return int(bool(self.findings(numbers, adjustment, rule)[0].present))

    def explained(self, numbers: NDArray[np.float64]) -> tuple[tuple[int, str], ...]:
        """The second of two classes; of more, the most likely."""
        output = 1 if len(self.classes) == 2 else int(numbers.argmax())
        return ((output, self.classes[output]),)

    def conform(
        self, numbers: NDArray[np.float64], truths: NDArray[np.float64], alpha: float
    ) -> float | None:
        """How improbable a class in a set may be."""
        return conformal.calibrate_classes(numbers, truths.astype(np.int64), alpha=alpha).threshold

    def answers(self, numbers: NDArray[np.float64], threshold: float) -> str:
        """The classes, the most likely first."""
        held = conformal.ClassSets(threshold, 0.5, 0).sets(numbers[None])[0]
        return ", ".join(self.classes[k] for k in np.argsort(-numbers) if held[k])

    def adjustment(self, counts: NDArray[np.int64], *, noise_variance: float) -> Adjustment:
        """Platt's or temperature scaling, and operating points of each class that is a finding."""
        positives = (1,) if len(self.classes) == 2 else range(len(self.classes))
        points, edges = (
            tuple(
                point
                for positive in positives
                for point in read(counts, noise_variance=noise_variance, positive=positive)
            )
            for read in (operating.points, operating.at_edges)
        )
        return Adjustment(scaling.fit(counts, noise_variance=noise_variance), points, edges)

    def doubts(self, figures: Figures) -> tuple[str, ...]:
        """Not better than chance, or always the same class."""
        return (*_chance(figures), *_one_class(figures, len(self.classes)))

    def groups(self, counts: NDArray[np.int64], bins: int) -> NDArray[np.float64]:
        """Patients of each true class, the mean of what its planes say."""
        return np.asarray(counts.sum(axis=2).mean(axis=1), dtype=np.float64)


def _scored(
    patients: Iterable[tuple[torch.Tensor, torch.Tensor]],
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(patients, classes), each one's mean probabilities over all images, and the labels."""
    votes, labels = [], []
    for outputs, targets in patients:
        votes.append(_vote(outputs))
        labels.append(int(targets[0]))
    return np.stack(votes), np.array(labels, dtype=np.int64)


def _vote(outputs: torch.Tensor) -> NDArray[np.float64]:
    """Of one patient, (classes,)."""
    # Float64 before the softmax, one patient at a time: a vote follows from that patient alone.
    vote: NDArray[np.float64] = outputs.double().softmax(dim=1).numpy().mean(axis=0)
    return vote


def _threshold(adjustment: Adjustment, positive: int, rule: str) -> float:
    """From which score on a class counts as found."""
    points = adjustment.of(positive)
    named = [each for each in points if each.name == rule]
    if named:
        return named[0].threshold
    return operating.used(points).threshold if points else 0.5


def _chance(figures: Figures) -> tuple[str, ...]:
    auc = figures.values["auc"]
    if auc.value is not None and auc.low > CHANCE:
        return ()
    said = "not defined" if auc.value is None else f"{auc.value:.3f} "
    said += "" if auc.value is None else f"({auc.low:.3f} to {auc.high:.3f})"
    return (f"NOT SHOWN TO BE BETTER THAN CHANCE, which has AUC {CHANCE}: AUC {said}",)


def _one_class(figures: Figures, classes: int) -> tuple[str, ...]:
    shares = [figures.values[name] for name in ("sensitivity", "specificity")]
    # Noise alone can take a share to either end.
    if figures.noise_variance and not all(each.meaningful for each in shares):
        return ()
    right, other = (each.value for each in shares)
    if right is None or other is None:
        return ()
    # With one class for all, the mean recall is 1 / classes, and that of the others the rest.
    same = min(right, other) <= ONE_CLASS if classes == 2 else abs(right + other - 1) < ONE_CLASS
    if not same:
        return ()
    return (
        "ONE CLASS FOR ALL: the shared model gives almost every patient the same class, so its "
        "accuracy is only the share of that class",
    )
