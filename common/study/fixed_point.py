"""Fixed-point updates: what a site sends for a round, and why their sum is exact.

An update is the change of the flat weights, each entry a whole number of units of
``2**-fraction_bits``. Integer addition is associative, so the sum over sites depends on
no order of arrival, on no number of processes that added it, and on no masking.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import model_validator

from common.errors import StudyError
from common.settings import Section
from common.study.bounds import bound

INT64_MAX: Final = 2**63 - 1
Integers = npt.NDArray[np.int32] | npt.NDArray[np.int64]


class FixedPoint(Section):
    """How weights become whole numbers; part of the plan.

    Attributes:
        dtype: integer type on the wire.
        fraction_bits: one unit is ``2**-fraction_bits``.
    """

    dtype: Literal["int32", "int64"] = "int32"
    fraction_bits: Annotated[int, bound("fixed_point.fraction_bits")] = 24

    @model_validator(mode="after")
    def _holds_a_weight(self) -> Self:
        if self.limit * self.unit < 1:
            raise ValueError(
                f"{self.dtype} with {self.fraction_bits} fraction_bits cannot hold a change larger "
                f"than {self.limit * self.unit:.2g}; use fewer fraction_bits, or int64"
            )
        return self

    @property
    def unit(self) -> float:
        """The value of one unit."""
        return 2.0**-self.fraction_bits

    @property
    def limit(self) -> int:
        """The largest magnitude on the wire; what lies beyond saturates there.

        For int64 it leaves room for 2**15 of weight in the sum.
        """
        return 2**31 - 1 if self.dtype == "int32" else 2**47 - 1

    def encode(self, change: npt.NDArray[np.float32] | npt.NDArray[np.float64]) -> Integers:
        """Round to the nearest unit, halves to even, and saturate at the limit.

        Args:
            change: float array of any shape.

        Returns:
            The same shape in :attr:`dtype`.

        Raises:
            ValueError: an entry is NaN or infinite.
        """
        # NaN as an integer is whatever the processor makes of it.
        if not np.isfinite(change).all():
            raise ValueError("an update with a value that is not finite cannot be sent")
        units = np.rint(change.astype(np.float64) * 2.0**self.fraction_bits)
        return np.clip(units, -self.limit, self.limit).astype(self.dtype)

    def decode(self, units: Integers) -> npt.NDArray[np.float64]:
        """The values of ``units``, float64 of the same shape."""
        return units.astype(np.float64) * self.unit

    def prove_no_overflow(self, weights: tuple[int, ...]) -> None:
        """Show that the weighted int64 sum over all sites cannot overflow.

        Every partial sum is at most ``limit * sum(weights)`` in magnitude.

        Raises:
            StudyError: it could; the message says by how much the weights are too large.
        """
        total = sum(weights)
        if self.limit * total > INT64_MAX:
            raise StudyError(
                "the weighted sum of updates could overflow 64 bits",
                where="declared_patients of all sites, added up",
                found=total,
                wanted=f"at most {INT64_MAX // self.limit}",
                remedy='use aggregation weights = "equal" or the int32 fixed point',
            )
