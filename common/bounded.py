"""A number that is bounded on both sides, as a type: what :mod:`common.study.bounds` lists.

A :class:`Bound` in an annotation refuses, when a section is read, what lies beyond its ends:
``clip_norm: Annotated[float, bound("privacy.clip_norm")]``. Ends belong to what is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from pydantic import AfterValidator, GetCoreSchemaHandler

UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_WHOLE: Final = 10**9


@dataclass(frozen=True)
class Bound:
    """What one number of a study, or of a plan's mechanism, may be.

    Attributes:
        place: where it is in the study or the mechanism, as in ``privacy.clip_norm``; of a
            number that is computed from others, how.
        key: its name in a policy's ``[policy.ranges]``.
        name: its name for a reader.
        least: the smallest that is allowed.
        most: the largest that is allowed.
        usual: smallest and largest that are not marked as unusual.
        why: why nobody honestly wants less or more.
        zero: whether 0, below ``least``, is allowed too: it leaves something out.
        unit: ``s`` for a duration, which is written ``30m`` and compared in seconds.
        of: computes it; None where the study says it.
    """

    place: str
    key: str
    name: str
    least: float
    most: float
    usual: tuple[float, float]
    why: str
    zero: bool = False
    unit: str = ""
    of: Callable[[Any], float | None] | None = None

    def allows(self, number: float) -> bool:
        """Whether a study may say this number; never for one that is not a number."""
        return self.least <= number <= self.most or (self.zero and number == 0)

    def is_usual(self, number: float) -> bool:
        """Whether the number needs no second look."""
        return self.usual[0] <= number <= self.usual[1] or (self.zero and number == 0)

    @property
    def allowed(self) -> str:
        """What is allowed, in words."""
        return ("0, or " if self.zero else "") + self.span(self.least, self.most)

    def span(self, low: float, high: float) -> str:
        """Two ends, in words."""
        return f"{self.say(low)} to {self.say(high)}"

    def say(self, number: float) -> str:
        """A number as a person writes it."""
        if self.unit != "s":
            return plain(number)
        unit = max(
            (unit for unit, long in UNITS.items() if number >= long and number % long == 0),
            key=UNITS.__getitem__,
            default="s",
        )
        return plain(number / UNITS[unit]) + unit

    def measure(self, value: float | str) -> float:
        """The number that is compared: a duration's in seconds."""
        return seconds(value) if isinstance(value, str) else value

    def check(self, value: Any) -> Any:  # noqa: ANN401 - an int, a float or a duration, as it came
        """Give back a value that is allowed.

        Raises:
            ValueError: it is not; the message says what would be, and why.
        """
        if not self.allows(self.measure(value)):
            raise ValueError(f"should be {self.allowed}: {self.why}")
        # One zero: -0.0 is the same study, and would have another hash.
        return value if isinstance(value, str) else value + 0

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> Any:  # noqa: ANN401 - as pydantic's own
        """Check what the annotated type itself has accepted."""
        return AfterValidator(self.check).__get_pydantic_core_schema__(source, handler)


def plain(number: float) -> str:
    """A number in six digits; a whole one, if it is not too long, in all of its own."""
    whole = abs(number) < _WHOLE and number == int(number)
    # Python writes 1e-06 for 1e-6.
    return str(int(number)) if whole else f"{number:g}".replace("e-0", "e-")


def seconds(duration: str) -> float:
    """The length of ``90s``, ``30m``, ``12h`` or ``2d`` in seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", duration)
    if match is None:
        raise ValueError(f"not a duration: {duration}")
    return float(match[1]) * UNITS[match[2]]
