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
    apart = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    apart = apart[np.isfinite(apart)]
    if len(apart) < _FEWEST:
        return None
    middle, spread = float(apart.mean()), float(apart.std(ddof=1))
    factor = float(stats.t.ppf((1.0 + _CONFIDENCE) / 2.0, len(apart) - 1))
    reach = factor * spread / len(apart) ** 0.5
    return Estimate(middle, middle - reach, middle + reach)
