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
        # Float64 before the softmax, one patient at a time: a vote follows from that patient alone.
        votes.append(outputs.double().softmax(dim=1).numpy().mean(axis=0))
        labels.append(int(targets[0]))
    return np.stack(votes), np.array(labels, dtype=np.int64)


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
