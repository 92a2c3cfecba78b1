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
