"""How much better one model does than another on the very same patients.

Patients differ more among themselves than models do on one of them, so the differences, patient by
patient, say what two intervals that overlap do not. The interval of their mean is Student's (1908).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from scipy import stats

from common.figures.intervals import Estimate

_CONFIDENCE: Final = 0.95
_FEWEST: Final = 2
"""Patients of whom there is a spread."""


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Estimate | None:
    """The mean of our number less theirs, with its 95 % interval; None of fewer than two patients.

    Args:
        ours: a number of each patient; not a number where there is none.
        theirs: of the same patients, in the same order.
    """
    apart = _differences(ours, theirs)
    if len(apart) < _FEWEST:
        return None
    middle, spread = float(apart.mean()), float(apart.std(ddof=1))
    factor = float(stats.t.ppf((1.0 + _CONFIDENCE) / 2.0, len(apart) - 1))
    reach = factor * spread / len(apart) ** 0.5
    return Estimate(middle, middle - reach, middle + reach)


def not_worse(ours: Sequence[float], theirs: Sequence[float], margin: float) -> float:
    """How likely our mean would look this good if it were worse by the margin: a one-sided p.

    Args:
        ours: as for :func:`paired`, at least two patients.
        theirs: as there.
        margin: what would still be called not worse, above 0.
    """
    test = stats.ttest_1samp(_differences(ours, theirs), -margin, alternative="greater")
    return float(test.pvalue)


def _differences(ours: Sequence[float], theirs: Sequence[float]) -> np.ndarray:
    apart = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    return apart[np.isfinite(apart)]
