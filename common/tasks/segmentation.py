"""Segmentation: for each pixel of an image, which of several things it shows, if any.

The loss of an image is soft Dice, as Drozdzal and others (2016) write it, with cross-entropy, as
nnU-Net adds them (Isensee and others 2021). A patient's figure is the Dice of all images together,
for each class by itself. A patient without the class has none: the class was rightly not found, or
it is a false alarm; and a patient in whom nothing of it was found is missed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from common.bounded import Bound
from common.figures.figures import Figures
from common.figures.intervals import counted, mean, share
from common.figures.overlap import Overlaps, binned, exactly
from common.figures.release import Release
from common.figures.surface import distances, lengths, mean_length
from common.scores.adjustment import NOTHING, Adjustment
from common.scores.finding import Finding
from common.tasks.task import CLASS_WEIGHT, Heads, TargetForm, Task
from common.text import Words

if TYPE_CHECKING:
    import torch

MOST_CLASSES: Final = 20
QUANTILES: Final = (10, 25, 50, 75, 90)
MISSED_BY_ALL: Final = 0.98
_EXTRA: Final = 3
"""Cells of a class beside the bins: missed, rightly not found, false alarm."""
_DICE_SHARE: Final = Bound(
    "task.dice_share",
    "dice_share",
    "share of Dice in the loss",
    1e-3,
    1,
    (0.2, 0.8),
    "the rest is cross-entropy; less has no effect, and 1 leaves cross-entropy out",
    zero=True,
)
_DICE_SMOOTH: Final = Bound(
    "task.dice_smooth",
    "dice_smooth",
    "pixels added to both sides of Dice, as a share of the image's",
    1e-4,
    1,
    (1e-3, 0.2),
    "with less, one wrong pixel of an empty image outweighs a lesion; with more, Dice is flat",
)


class Segmentation(Task):
    """``[task]`` with ``kind = "segmentation"``: pixels of each class, the rest is background.

    Attributes:
        classes: what masks show; background is not among them.
        dice_share: share of soft Dice in the loss; the rest is cross-entropy.
        dice_smooth: pixels added to both sides of the soft Dice, as a share of the image's: it is
            then defined for an empty mask. About the share that what is looked for covers.
        class_weights: factor of each class's pixels in the cross-entropy, that of background
            being 1: public numbers, never counted.
    """

    target: ClassVar[TargetForm] = "mask"
    headline: ClassVar[str] = "dice"
    names: ClassVar[dict[str, str]] = {
        "dice": "Dice",
        "dice_50": "median Dice",
        "missed": "share missed",
        "false_alarms": "share of false alarms",
        **{
            f"dice_{percent}": f"Dice, {percent} % quantile"
            for percent in QUANTILES
            if percent != 50
        },
        "surface_distance": "surface distance, pixels",
        "hausdorff_95": "95 % Hausdorff distance, pixels",
    }
    bounds: ClassVar[tuple[Bound, ...]] = (_DICE_SHARE, _DICE_SMOOTH, CLASS_WEIGHT)

    kind: Literal["segmentation"] = "segmentation"
    classes: tuple[Words, ...] = Field(min_length=1, max_length=MOST_CLASSES)
    dice_share: Annotated[float, _DICE_SHARE] = 0.5
    dice_smooth: Annotated[float, _DICE_SMOOTH] = 0.02
    class_weights: tuple[Annotated[float, CLASS_WEIGHT], ...] | None = None

    @model_validator(mode="after")
    def _classes_agree(self) -> Self:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("a class is named twice")
        weights = self.class_weights
        if weights is not None and len(weights) != len(self.classes):
            raise ValueError(
                f"task.class_weights has {len(weights)} numbers, task.classes {len(self.classes)}; "
                "background is in neither"
            )
        return self

    @property
    def largest_factor(self) -> float:
        """The largest class weight, as far as cross-entropy counts."""
        largest = max(1.0, *(self.class_weights or (1.0,)))
        return self.dice_share + (1.0 - self.dice_share) * largest

    def heads(self) -> Heads:
        """For each pixel, a logit of background and one for each class."""
        return Heads(1 + len(self.classes), dense=True)

    def release(self, bins: int) -> Release:
        """For each class: missed, a bin of Dice, rightly not found, or false alarm."""
        return Release((len(self.classes), bins + _EXTRA), once=(1,))

    def words(self) -> tuple[str, ...]:
        """The classes."""
        return (f"segmentation of {', '.join(self.classes)}",)

    def loss(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """``d (1 - Dice) + (1 - d) cross-entropy``, with d the share of Dice.

        Dice is the mean over classes of ``(2 sum p g + s) / (sum p + sum g + s)``, sums over the
        image's pixels of the probability p and of the mask g, with ``dice_smooth`` of the pixels
        as s. Cross-entropy is the mean over pixels, each weighing as its class. A label that is no
        class counts as background.
        """
        import torch

        classes, pixels = len(self.classes), target.numel()
        labels = torch.arange(classes + 1, device=output.device)[:, None, None]
        truth = torch.where((target > 0) & (target <= classes), target, 0) == labels
        # Over the last axis a pixel is computed by itself; over another, torch's softmax has other
        # bits in other places of a batch (seen with two threads at 37x53).
        pixel = output.movedim(0, -1)
        chance, mask = pixel.softmax(dim=-1).movedim(-1, 0)[1:], truth[1:]
        # Where the probability is 0 its logarithm is infinite: it is left out, not multiplied by 0.
        surprise = torch.where(truth, -pixel.log_softmax(dim=-1).movedim(-1, 0), 0.0)
        if self.class_weights is not None:
            weights = torch.tensor((1.0, *self.class_weights), device=output.device)
            surprise = surprise * weights[:, None, None]
        planes = torch.cat((torch.where(mask, chance, 0.0), chance + mask, surprise))
        # Contiguous: each row is added up by itself, in an order that follows from its length.
        sums = planes.flatten(1).contiguous().sum(dim=1)
        shared, sizes, surprises = sums[:classes], sums[classes : 2 * classes], sums[2 * classes :]
        smooth = self.dice_smooth * pixels
        dice = ((2.0 * shared + smooth) / (sizes + smooth)).mean()
        entropy = surprises.sum() / pixels
        return self.dice_share * (1.0 - dice) + (1.0 - self.dice_share) * entropy

    def marks(self, outputs: torch.Tensor, targets: torch.Tensor, bins: int) -> NDArray[np.int64]:
        """For each class, the one cell of the patient's images together."""
        return _overlap(outputs, targets, len(self.classes)).cells(bins)

    def figures(self, counts: NDArray[np.int64], *, noise_variance: float) -> Figures:
        """Mean and quantiles of the Dice, share of patients missed and of false alarms."""
        dices = [
            binned(row[: 1 - _EXTRA], noise=noise_variance, of=f"patients with {name}")
            for row, name in zip(counts, self.classes, strict=True)
        ]
        return self._figures(counts, dices, noise_variance)

    def exact(self, patients: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Figures:
        """The same from each patient's own Dice, with the distances between edges in pixels.

        A patient without a class is left out of its Dice, and one in whom no image has both the
        class and a finding of it is left out of its distances; the table counts both.
        """
        classes = len(self.classes)
        seen, distances_of = list[Overlap](), list[NDArray[np.float64]]()
        for outputs, targets in patients:
            seen.append(_overlap(outputs, targets, classes))
            distances_of.append(_apart(outputs, targets, classes))
        counts = np.zeros((classes, 1 + _EXTRA), dtype=np.int64)
        for each in seen:
            counts[tuple(each.cells(1).T)] += 1
        dices = [
            exactly(
                np.array([each.dice[k] for each in seen if each.there[k]]),
                of=f"patients with {name}",
            )
            for k, name in enumerate(self.classes)
        ]
        figures = self._figures(counts, dices, 0.0)
        apart = np.array(distances_of).reshape(-1, classes, 2)
        of = {
            name: tuple(
                lengths(apart[:, k, at], of=f"patients in whom {each} was found")
                for k, each in enumerate(self.classes)
            )
            for at, name in enumerate(("surface_distance", "hausdorff_95"))
        }
        values = {name: mean_length(each) for name, each in of.items()}
        return replace(
            figures,
            values=figures.values | values,
            of=figures.of | of,
            each={"dice": tuple(zip(*map(_where_there, seen), strict=True))},
        )

    def _figures(
        self, counts: NDArray[np.int64], dices: Sequence[Overlaps], noise: float
    ) -> Figures:
        """What exact and noised counts have in common; the mean over classes is the whole's."""
        classes, cells = counts.shape
        missed, found = counts[:, 0], counts[:, 1 : 1 - _EXTRA].sum(axis=1)
        clear, false = counts[:, 1 - _EXTRA], counts[:, 2 - _EXTRA]
        of = {"dice": tuple(each.mean() for each in dices)}
        for percent in QUANTILES:
            of[f"dice_{percent}"] = tuple(each.quantile(percent / 100.0) for each in dices)
        of["missed"] = tuple(
            share(a, b, noise=(noise, noise * (cells - _EXTRA)), of=f"patients with {name}")
            for a, b, name in zip(missed.tolist(), found.tolist(), self.classes, strict=True)
        )
        of["false_alarms"] = tuple(
            share(a, b, noise=(noise, noise), of=f"patients without {name}")
            for a, b, name in zip(false.tolist(), clear.tolist(), self.classes, strict=True)
        )
        return Figures(
            # Each class's cells count every patient once, with noise of their own.
            patients=counted(float(counts.sum()) / classes, noise * cells / classes),
            values={name: mean(each, independent=False) for name, each in of.items()},
            of=of,
            tables={
                "patients": tuple(zip(*map(_whole, (found, missed, clear, false)), strict=True))
            },
            noise_variance=float(noise),
        )

    def readable(self, outputs: torch.Tensor) -> torch.Tensor:
        """The chance of background and of each class, for each pixel."""
        return outputs.softmax(dim=1)

    def outputs(self) -> tuple[str, ...]:
        """Background and the classes."""
        return ("background", *self.classes)

    def columns(self) -> tuple[str, ...]:
        """For each class, how many pixels show it."""
        return tuple(f"{name}, pixels of the model's image" for name in self.classes)

    def numbers(self, outputs: torch.Tensor) -> NDArray[np.float64]:
        """Pixels of each class in the patient's images together, at the study's size."""
        found = self.masks(outputs)
        return np.bincount(found.ravel(), minlength=len(self.classes) + 1)[1:].astype(np.float64)

    def findings(
        self, numbers: NDArray[np.float64], adjustment: Adjustment = NOTHING, rule: str = ""
    ) -> tuple[Finding, ...]:
        """Each class, found where any pixel shows it."""
        del adjustment, rule
        return tuple(
            Finding(name, float(pixels), bool(pixels > 0), unit="pixels of the model's image")
            for name, pixels in zip(self.classes, numbers, strict=True)
        )

    def masks(self, outputs: torch.Tensor) -> NDArray[np.uint8]:
        """The class of each pixel; background where an output is not finite."""
        scores = outputs.numpy(force=True)
        known = np.isfinite(scores).all(axis=1)
        return np.where(known, scores.argmax(axis=1), 0).astype(np.uint8)

    def explained(self, numbers: NDArray[np.float64]) -> tuple[tuple[int, str], ...]:
        """Each class that was found; all of them where none was."""
        every = list(enumerate(self.classes, start=1))
        found = [each for each, pixels in zip(every, numbers, strict=True) if pixels > 0]
        return tuple(found or every)

    def truth(self, targets: torch.Tensor) -> float:
        """None: masks are no number."""
        del targets
        return float("nan")

    def apart(self, outputs: torch.Tensor, targets: torch.Tensor) -> float:
        """One less the mean Dice; a class that is neither found nor there counts as 1."""
        return 1.0 - float(_overlap(outputs, targets, len(self.classes)).dice.mean())

    def doubts(self, figures: Figures) -> tuple[str, ...]:
        """Classes that are missed in almost every patient."""
        missed = [
            name
            for name, each in zip(self.classes, figures.of["missed"], strict=True)
            if each.value is not None and each.value >= MISSED_BY_ALL
        ]
        if not missed:
            return ()
        return (
            f"FINDS NOTHING: the shared model misses {', '.join(missed)} in almost every patient",
        )


class Overlap(NamedTuple):
    """What a patient's images say of each class: pixels, int64 (classes,). Sensitive.

    Attributes:
        shared: both found and there.
        found: in the model's masks.
        there: in the true ones.
    """

    shared: NDArray[np.int64]
    found: NDArray[np.int64]
    there: NDArray[np.int64]

    @property
    def dice(self) -> NDArray[np.float64]:
        """(classes,) in [0, 1]; 1 where the class is neither found nor there."""
        both = self.found + self.there
        dice: NDArray[np.float64] = np.where(both > 0, 2 * self.shared, 1) / np.maximum(both, 1)
        return dice

    def cells(self, bins: int) -> NDArray[np.int64]:
        """(classes, 2), the cell of each class; an edge belongs to the bin above it."""
        both = self.found + self.there
        # In whole numbers: a quotient that rounds would choose the bin by its last bit.
        bin_of = np.minimum(2 * self.shared * bins // np.maximum(both, 1), bins - 1)
        cell = np.where(self.shared > 0, 1 + bin_of, 0)
        cell = np.where(self.there > 0, cell, np.where(self.found > 0, bins + 2, bins + 1))
        return np.stack([np.arange(len(cell)), cell], axis=1).astype(np.int64)


def _overlap(outputs: torch.Tensor, targets: torch.Tensor, classes: int) -> Overlap:
    """The pixels of one patient's images together."""
    sums = np.zeros((3, classes), dtype=np.int64)
    for found, there in _masks(outputs, targets, classes):
        sums += [each.sum(axis=(1, 2)) for each in (found & there, found, there)]
    return Overlap(*sums)


def _masks(
    outputs: torch.Tensor, targets: torch.Tensor, classes: int
) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """What is found and what is there in each image, (classes, height, width) by class.

    A pixel whose outputs are not all finite is wrong for every class, so that figures do not look
    better for the patients on whom the model fails. Of equal outputs the first counts.
    """
    labels = np.arange(1, classes + 1)[:, None, None]
    for output, target in zip(outputs, targets, strict=True):
        scores = output.numpy(force=True)
        there = target.numpy(force=True) == labels
        known = np.isfinite(scores).all(axis=0)
        yield np.where(known, scores.argmax(axis=0) == labels, ~there), there


def _apart(outputs: torch.Tensor, targets: torch.Tensor, classes: int) -> NDArray[np.float64]:
    """(classes, 2) distances of one patient's edges; not a number where there is none."""
    masks = list(_masks(outputs, targets, classes))
    return np.asarray(
        [distances((found[k], there[k]) for found, there in masks) for k in range(classes)]
    )


def _where_there(patient: Overlap) -> list[float]:
    """A patient's Dice of each class; not a number where the class is not there."""
    return [float(each) for each in np.where(patient.there > 0, patient.dice, np.nan)]


def _whole(counts: NDArray[np.int64]) -> list[int]:
    return [int(each) for each in counts]
