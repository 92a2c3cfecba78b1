"""Regression: a number for each patient, such as an age or a fraction.

The network's number for an image is read as a share of the range that the study names, counted
from its middle; a patient's prediction is the mean over the images. The loss is Huber's (1964) of
the error as a share of the range. What leaves is where
the error lies, by the third of the range in which the prediction lies, and where the true number
lies: two marks of a patient.

Large errors count as the reach, a setting: :mod:`common.figures.errors` says why. The share beyond
is a figure of its own; with a reach of 1 nothing is beyond.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from common.bounded import Bound, plain
from common.figures.errors import (
    Cells,
    explained,
    in_cells,
    in_even_cells,
    known,
    place,
    scaled,
    together,
)
from common.figures.figures import Figures
from common.figures.intervals import Estimate, counted, share
from common.figures.release import Release
from common.scores import conformal, moments
from common.scores.adjustment import NOTHING, Adjustment
from common.scores.finding import Finding
from common.tasks.task import Heads, TargetForm, Task
from common.text import Words

if TYPE_CHECKING:
    import torch

THIRDS: Final = ("lower", "middle", "upper")
NARROWEST: Final = 1000
"""A range is at least this part of its larger end: float32 tells numbers in it apart."""
OFTEN: Final = 0.05
"""A share of patients beyond the reach of which a reader must know first."""
_PATIENTS: Final = "patients"
_MOST: Final = 1e6
_REASON: Final = "no honest number is larger, and a range of less than a thousandth of it is empty"
_LOWEST: Final = Bound(
    "task.lowest",
    "lowest",
    "smallest number that is predicted",
    -_MOST,
    _MOST - _MOST / NARROWEST,
    (-1000, 1000),
    _REASON,
)
_HIGHEST: Final = Bound(
    "task.highest",
    "highest",
    "largest number that is predicted",
    -_MOST + _MOST / NARROWEST,
    _MOST,
    (-1000, 1000),
    _REASON,
)
_HUBER: Final = Bound(
    "task.huber",
    "huber",
    "error, as a share of the range, above which the loss grows straight",
    1e-3,
    1,
    (0.01, 1),
    "less is the absolute error, and 1 is the squared error",
)
_REACH: Final = Bound(
    "task.reach",
    "reach",
    "error, as a share of the range, that figures count larger errors as",
    0.01,
    1,
    (0.05, 1),
    "less calls almost every error large, and 1 is the whole range",
)


class Regression(Task):
    """``[task]`` with ``kind = "regression"``: a number for each patient.

    Attributes:
        quantity: what the number is, and in which unit: ``"age in years"``.
        lowest: lower end of the range; a smaller number counts as this one.
        highest: upper end of the range; a larger number counts as this one.
        huber: error, as a share of the range, up to which the loss is the square.
        reach: error, as a share of the range, as which larger ones count in the figures; smaller
            ones are told apart. About three times the error that is hoped for.
    """

    target: ClassVar[TargetForm] = "value"
    headline: ClassVar[str] = "r2"
    names: ClassVar[dict[str, str]] = {
        "r2": "R²",
        "mean_error": "mean absolute error",
        "median_error": "median absolute error",
        "bias": "bias, prediction less truth",
        "beyond": "share of errors beyond the reach",
        **{f"bias_{third}": f"bias, predicted in the {third} third" for third in THIRDS},
    }
    bounds: ClassVar[tuple[Bound, ...]] = (_LOWEST, _HIGHEST, _HUBER, _REACH)
    sums: ClassVar[bool] = True

    kind: Literal["regression"] = "regression"
    quantity: Words = "number"
    lowest: Annotated[float, _LOWEST] = 0.0
    highest: Annotated[float, _HIGHEST] = 1.0
    huber: Annotated[float, _HUBER] = 0.1
    reach: Annotated[float, _REACH] = 0.25

    @model_validator(mode="after")
    def _range_agrees(self) -> Self:
        if self.classes:
            raise ValueError("task.classes: a number has no classes")
        least = max(abs(self.lowest), abs(self.highest)) / NARROWEST
        if not self.highest - self.lowest >= least > 0.0:
            raise ValueError(
                f"task.highest is {plain(self.highest)}; should be above task.lowest, which is "
                f"{plain(self.lowest)}, by at least a thousandth of the larger of them"
            )
        return self

    @property
    def width(self) -> float:
        """Length of the range."""
        return self.highest - self.lowest

    @property
    def ends(self) -> tuple[float, float]:
        """The range."""
        return self.lowest, self.highest

    def heads(self) -> Heads:
        """The prediction as a share of the range, counted from its middle."""
        return Heads(1)

    def release(self, bins: int) -> Release:
        """The error by the third of the prediction; and the number, in the first row alone."""
        return Release((2, len(THIRDS), bins + 2), once=(1, 2))

    def words(self) -> tuple[str, ...]:
        """What is predicted, and its range."""
        ends = f"{plain(self.lowest)} to {plain(self.highest)}"
        return (
            f"prediction of {self.quantity}, from {ends}; numbers beyond count as the nearer end",
        )

    def loss(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Huber's loss of the error e over the width d of its square: its slope is at most 1.

        ``e^2 / 2d`` up to d, then ``|e| - d / 2``. A target that is no number is the middle.
        """
        from torch.nn import functional

        return functional.smooth_l1_loss(
            output[0] + 0.5, self._share(target), reduction="sum", beta=self.huber
        )

    def statistic(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Minus the output times the number, counted from the middle in halves of the range."""
        return (1.0 - 2.0 * self._share(target)) * output[0]

    def head(self, sums: NDArray[np.float64], *, variance: float) -> NDArray[np.float64]:
        """Least squares on features that are taken for uncorrelated, and alike in spread."""
        # In halves of the range, where an output is a share of all of it.
        return moments.least_squares(sums, variance) / 2.0

    def _share(self, target: torch.Tensor) -> torch.Tensor:
        """The number as a share of the range; one half for what is no number."""
        return ((target - self.lowest) / self.width).clamp(0.0, 1.0).nan_to_num(nan=0.5)

    def marks(self, outputs: torch.Tensor, targets: torch.Tensor, bins: int) -> NDArray[np.int64]:
        """A cell of the error and one of the number; none for a target that is no number."""
        truth = self._truth(targets)
        if truth is None:
            return np.empty((0, 3), dtype=np.int64)
        predicted = _predicted(outputs, truth)
        cell = place((predicted - truth) / self.reach, bins)
        of_truth = min(int(truth * bins), bins - 1)
        marked = [[0, _third(predicted), cell], [1, 0, of_truth]]
        return np.array(marked, dtype=np.int64)

    def figures(self, counts: NDArray[np.int64], *, noise_variance: float) -> Figures:
        """R², mean and median of the absolute error, bias by the third of the prediction."""
        bins = counts.shape[-1] - 2
        rows = [in_cells(row, noise=noise_variance) for row in counts[0]]
        numbers = in_even_cells(counts[1, 0, :bins], noise=noise_variance)
        every = together(rows)
        patients, variance = _patients(counts)
        return self._figures(
            counted(patients, noise_variance * variance),
            rows,
            numbers,
            share(
                float(every.counts[[0, -1]].sum()),
                float(every.counts[1:-1].sum()),
                noise=(2.0 * every.noise, bins * every.noise),
                of=_PATIENTS,
            ),
        )

    def exact(self, patients: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Figures:
        """The same from each patient's own error; who has no number is left out."""
        pairs = []
        for output, target in patients:
            truth = self._truth(target)
            if truth is not None:
                pairs.append((_predicted(output, truth), truth))
        predicted, truths = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
        errors = (predicted - truths) / self.reach
        beyond, count = float((np.abs(errors) > 1.0).sum()), float(len(errors))
        third = np.array([_third(each) for each in predicted], dtype=np.int64)
        return self._figures(
            counted(count, 0.0),
            [known(np.clip(errors, -1.0, 1.0), third == at) for at in range(len(THIRDS))],
            known(truths),
            share(beyond, count - beyond, of=_PATIENTS),
        )

    def readable(self, outputs: torch.Tensor) -> torch.Tensor:
        """The number, within its range."""
        return self.lowest + self.width * (outputs + 0.5).clamp(0.0, 1.0)

    def outputs(self) -> tuple[str, ...]:
        """What the number is."""
        return (self.quantity,)

    def columns(self) -> tuple[str, ...]:
        """What the number is."""
        return (self.quantity,)

    def numbers(self, outputs: torch.Tensor) -> NDArray[np.float64]:
        """The mean over the patient's images, within the range."""
        shares = outputs.double().numpy(force=True)[:, 0] + 0.5
        return np.array([self.lowest + self.width * float(np.clip(shares, 0.0, 1.0).mean())])

    def findings(
        self, numbers: NDArray[np.float64], adjustment: Adjustment = NOTHING, rule: str = ""
    ) -> tuple[Finding, ...]:
        """The number."""
        del adjustment, rule
        _, known, unit = self.quantity.rpartition(" in ")
        return (Finding(self.quantity, float(numbers[0]), unit=unit if known else ""),)

    def truth(self, targets: torch.Tensor) -> float:
        """The patient's number."""
        return float(targets[0])

    def apart(self, outputs: torch.Tensor, targets: torch.Tensor) -> float:
        """The error, as a share of the range."""
        return abs(float(self.numbers(outputs)[0]) - float(targets[0])) / self.width

    def explained(self, numbers: NDArray[np.float64]) -> tuple[tuple[int, str], ...]:
        """The number."""
        del numbers
        return ((0, self.quantity),)

    def conform(
        self, numbers: NDArray[np.float64], truths: NDArray[np.float64], alpha: float
    ) -> float | None:
        """Half the width of an interval."""
        return conformal.calibrate_values(numbers[:, 0], truths, alpha=alpha).half_width

    def answers(self, numbers: NDArray[np.float64], threshold: float) -> str:
        """The interval, within the range."""
        low, high = np.clip([numbers[0] - threshold, numbers[0] + threshold], *self.ends)
        return f"{low:.4g} to {high:.4g}"

    def doubts(self, figures: Figures) -> tuple[str, ...]:
        """Not better than the mean number for all, or many errors beyond the reach."""
        r2, beyond = figures.values["r2"], figures.values["beyond"]
        found = []
        if r2.value is None or r2.low <= 0.0:
            said = "not defined"
            if r2.value is not None:
                said = f"{r2.value:.3f} ({r2.low:.3f} to {r2.high:.3f})"
            found.append(f"NOT SHOWN TO BE BETTER THAN THE MEAN FOR ALL, which has R² 0: R² {said}")
        if beyond.value is not None and beyond.low > OFTEN:
            found.append(
                f"LARGE ERRORS: for {beyond.value:.0%} of the patients the shared model is further "
                f"from the truth than {plain(self.reach * self.width)}, and every figure but this "
                "share counts such an error as no larger"
            )
        return tuple(found)

    def groups(self, counts: NDArray[np.int64], bins: int) -> NDArray[np.float64]:
        """All patients, without the noise of cells that nobody marks."""
        del bins
        return np.array([_patients(counts)[0]])

    def span(self, figure: str) -> float:
        """Of an error's size the reach, and of a bias the reach on both sides."""
        if figure in ("r2", "beyond"):
            return 1.0
        return self.reach * self.width * (2.0 if figure.startswith("bias") else 1.0)

    def _figures(
        self, patients: Estimate, rows: Sequence[Cells], numbers: Cells, beyond: Estimate
    ) -> Figures:
        """What exact and noised counts have in common."""
        errors, most = together(rows), self.reach * self.width
        size = errors.absolute()
        values = {
            "r2": explained(errors, numbers, self.reach),
            "mean_error": scaled(size.mean(), 0.0, most),
            "median_error": scaled(size.quantile(0.5), 0.0, most),
            "bias": scaled(errors.signed(_PATIENTS).mean(), -most, most),
            "beyond": beyond,
        }
        for third, row in zip(THIRDS, rows, strict=True):
            signed = row.signed(f"patients predicted in the {third} third")
            values[f"bias_{third}"] = scaled(signed.mean(), -most, most)
        return Figures(patients=patients, values=values, noise_variance=float(numbers.noise))

    def _truth(self, targets: torch.Tensor) -> float | None:
        """The patient's number as a share of the range; None where it is no number."""
        truth = (float(targets[0]) - self.lowest) / self.width
        return None if np.isnan(truth) else float(np.clip(truth, 0.0, 1.0))


def _patients(counts: NDArray[np.int64]) -> tuple[float, float]:
    """How many there are, and the variance of that for a noise of 1 in each cell.

    Both planes count every patient: their mean, by the noise in each.
    """
    errors, numbers = counts[0], counts[1, 0, :-2]
    shares = np.array([numbers.size, errors.size]) / (errors.size + numbers.size)
    number = float(shares @ [errors.sum(), numbers.sum()])
    return number, float(shares**2 @ [errors.size, numbers.size])


def _third(predicted: float) -> int:
    return min(int(predicted * len(THIRDS)), len(THIRDS) - 1)


def _predicted(outputs: torch.Tensor, truth: float) -> float:
    """The patient's prediction as a share of the range: the mean over the images.

    An image whose output is not finite is as wrong as can be, so that figures do not look better
    for the patients on whom the model fails.
    """
    shares = outputs.double().numpy(force=True)[:, 0] + 0.5
    worst = 0.0 if truth > 0.5 else 1.0
    return float(np.where(np.isfinite(shares), np.clip(shares, 0.0, 1.0), worst).mean())
