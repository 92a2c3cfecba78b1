"""The contract of a task: the loss of one item, and the cells that one patient marks.

**A task may be wrong about utility, never about privacy.** It is shown one item at a time in
training, and one patient at a time in evaluation, so it cannot couple two patients. Code that is
the same for every task samples, averages over a patient's items, clips, adds noise, bounds the
marks, charges, and checks what leaves: no task can loosen any of it.

What is public is the section of the study, :meth:`Task.heads`, :meth:`Task.release` and the
formulas. Inputs, targets, outputs, losses and marks are sensitive and never leave a site. Only
:meth:`Task.figures` sees what left: noised counts. :meth:`Task.exact` is for simulations alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.bounded import Bound
from common.figures.figures import Figures
from common.figures.release import Release
from common.scores.adjustment import NOTHING, Adjustment
from common.scores.finding import Finding
from common.settings import Section
from common.text import Words

if TYPE_CHECKING:
    import torch  # only its types: a coordinator's command reads a study without it

TargetForm = Literal["label", "value", "mask"]
"""What a site has for each item.

``label``: int64, the patient's class. ``value``: float32, the patient's number. ``mask``: int64
(height, width), of each image: 0 is background, k the k-th class.
"""


CLASS_WEIGHT: Final = Bound(
    "task.class_weights",
    "class_weights",
    "weight of a class in the loss",
    1e-3,
    1000,
    (0.1, 50),
    "it makes rare classes count more; no class is a thousand times too rare",
)
"""The bound of a number that several tasks have."""


class Heads(NamedTuple):
    """What the network must put out for one item.

    Attributes:
        outputs: how many numbers.
        dense: whether for each pixel: (outputs, height, width) instead of (outputs,).
    """

    outputs: int
    dense: bool = False


class Task(Section, ABC):
    """``[task]``: what is learned; part of the plan's hash.

    Attributes:
        classes: what a site's labels or masks name; none where the target is a number.
    """

    target: ClassVar[TargetForm]
    """The form of its targets."""
    headline: ClassVar[str]
    """The name of the one figure that sums it up, in [0, 1] and the more the better."""
    names: ClassVar[dict[str, str]]
    """Its figures in the words in which they are shown, the most telling first."""
    bounds: ClassVar[tuple[Bound, ...]] = ()
    """Of its own numbers."""

    sums: ClassVar[bool] = False
    """Whether a head follows from sums over patients: :meth:`statistic` and :meth:`head`."""

    kind: str
    classes: tuple[Words, ...] = ()

    @property
    def largest_factor(self) -> float:
        """By how much an item may count in the loss, at most: it scales the learning rate."""
        return 1.0

    @property
    def ends(self) -> tuple[float, float]:
        """Smallest and largest number that a target may be, where it is a number."""
        return -1.0, 1.0

    @abstractmethod
    def heads(self) -> Heads:
        """What the network must put out."""

    @abstractmethod
    def release(self, bins: int) -> Release:
        """What an evaluation sends.

        Args:
            bins: cells for a score, even.
        """

    @abstractmethod
    def words(self) -> tuple[str, ...]:
        """What a hospital reads of it before it approves a plan."""

    @abstractmethod
    def loss(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss of one item, a scalar.

        It is mapped over items by ``torch.func.vmap``; that of a dense head is called for each item
        by itself. An item on which it raises has no gradient.

        Args:
            output: (outputs,) or (outputs, height, width).
            target: of the task's form, without an axis for other items.
        """

    def statistic(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Of a one-shot study, what an item adds, as a loss: linear in the output.

        With a dense head on features f, minus its gradient is what is known of the target, a vector
        of L2 norm at most 1, times f and the one beside it. As :meth:`loss`, it sees one item.

        Args:
            output: (outputs,).
            target: of the task's form, without an axis for other items.
        """
        raise NotImplementedError

    def head(self, sums: NDArray[np.float64], *, variance: float) -> NDArray[np.float64]:
        """The dense head that follows from what the patients added.

        Args:
            sums: (outputs, features + 1), over the declared number of patients: for each output
                the features, and the ones beside them, each patient's times what is known.
            variance: of the noise in each entry.

        Returns:
            (outputs, features + 1): weights, and the bias last.
        """
        raise NotImplementedError

    @abstractmethod
    def marks(self, outputs: torch.Tensor, targets: torch.Tensor, bins: int) -> NDArray[np.int64]:
        """The cells that one patient marks, (marks, axes); what does not fit is not counted.

        Args:
            outputs: of the patient's items, (items, ...).
            targets: of the patient's items, (items, ...).
            bins: as for :meth:`release`.
        """

    @abstractmethod
    def figures(self, counts: NDArray[np.int64], *, noise_variance: float) -> Figures:
        """The figures of pooled noised counts; public.

        Args:
            counts: of the release's shape, never clipped.
            noise_variance: of the noise in each cell, in counts squared; 0 for exact counts.
        """

    @abstractmethod
    def exact(self, patients: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Figures:
        """The same figures of a simulation's own test set, from outputs that no site would send.

        Args:
            patients: the outputs and the targets of each one's items, (items, ...). Looked at one
                after the other: together they may not fit in memory.
        """

    @abstractmethod
    def readable(self, outputs: torch.Tensor) -> torch.Tensor:
        """The outputs of items as a person reads them: chances, or numbers in their unit.

        It is part of the ONNX graph of a model, so of torch's functions alone.

        Args:
            outputs: (items, outputs) or (items, outputs, height, width).

        Returns:
            Of the same shape.
        """

    @abstractmethod
    def outputs(self) -> tuple[str, ...]:
        """The names of what :meth:`readable` gives, one for each output of the network."""

    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """The names of what :meth:`numbers` gives."""

    @abstractmethod
    def numbers(self, outputs: torch.Tensor) -> NDArray[np.float64]:
        """What a model says of one patient, (columns,), for a table. Sensitive.

        Of a task with masks it is the sum of what is said of each item: items of one patient are
        too large to be looked at together.

        Args:
            outputs: of the patient's items, (items, ...).
        """

    @abstractmethod
    def findings(
        self, numbers: NDArray[np.float64], adjustment: Adjustment = NOTHING, rule: str = ""
    ) -> tuple[Finding, ...]:
        """The same as findings, for a report. Sensitive.

        Args:
            numbers: as :meth:`numbers` gives them.
            adjustment: calibration of the scores, and operating points.
            rule: the name of the operating point that decides; empty for the one that fits best.
        """

    @abstractmethod
    def truth(self, targets: torch.Tensor) -> float:
        """What is known of one patient as a number; not a number where masks are. Sensitive.

        Args:
            targets: of the patient's items, (items, ...).
        """

    @abstractmethod
    def apart(self, outputs: torch.Tensor, targets: torch.Tensor) -> float:
        """How far the model is from what is known of one patient, 0 where they agree. Sensitive.

        Args:
            outputs: of the patient's items, (items, ...).
            targets: likewise.
        """

    def suspects(
        self, numbers: NDArray[np.float64], truths: NDArray[np.float64], apart: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """For which patients what is known is probably wrong, (patients,). Sensitive.

        Those who are far out (Tukey 1977): further from the upper quartile than three times the
        distance between the quartiles.

        Args:
            numbers: (patients, columns), as :meth:`numbers` gives them.
            truths: (patients,), as :meth:`truth` gives them.
            apart: (patients,), as :meth:`apart` gives them.
        """
        del numbers, truths
        low, high = np.quantile(apart, (0.25, 0.75))
        return np.asarray(apart > high + 3.0 * (high - low))

    def named(
        self, numbers: NDArray[np.float64], adjustment: Adjustment = NOTHING, rule: str = ""
    ) -> int | None:
        """The index of the class that is named; None where the task names none. Sensitive.

        Args:
            numbers: (columns,), as :meth:`numbers` gives them.
            adjustment: as for :meth:`findings`.
            rule: as there.
        """
        del numbers, adjustment, rule
        return None

    @abstractmethod
    def explained(self, numbers: NDArray[np.float64]) -> tuple[tuple[int, str], ...]:
        """Which outputs a picture of reasons is about, each with its name. Sensitive.

        Args:
            numbers: (columns,), as :meth:`numbers` gives them.
        """

    def conform(
        self, numbers: NDArray[np.float64], truths: NDArray[np.float64], alpha: float
    ) -> float | None:
        """What sets of answers are made by (:mod:`common.scores.conformal`); None: there are none.

        Args:
            numbers: as for :meth:`suspects`.
            truths: as there.
            alpha: share of patients whose set may miss the truth.

        Raises:
            DataError: too few patients.
        """
        del numbers, truths, alpha
        return None

    def answers(self, numbers: NDArray[np.float64], threshold: float) -> str:
        """The set of one patient in words; empty where there are none.

        Args:
            numbers: (columns,).
            threshold: as :meth:`conform` gives it.
        """
        del numbers, threshold
        return ""

    def masks(self, outputs: torch.Tensor) -> NDArray[np.uint8] | None:
        """For each item which class each pixel shows, (items, height, width); 0 is none.

        None where the task outlines nothing.
        """
        del outputs
        return None

    def adjustment(self, counts: NDArray[np.int64], *, noise_variance: float) -> Adjustment:
        """Calibration and operating points from what sites released.

        Args:
            counts: as for :meth:`figures`.
            noise_variance: as there.
        """
        del counts, noise_variance
        return NOTHING

    def doubts(self, figures: Figures) -> tuple[str, ...]:
        """What a reader must know first of a model that learned nothing."""
        return ()

    def span(self, figure: str) -> float:
        """Length of the range in which a figure lies: 1, unless it has a unit."""
        del figure
        return 1.0

    def groups(self, counts: NDArray[np.int64], bins: int) -> NDArray[np.float64]:
        """How many patients counts hold, by group of patients if the counts tell groups apart."""
        once = self.release(bins).once
        return np.atleast_1d(counts.sum(axis=once).mean()).astype(np.float64)
