"""The figures of one evaluation, whatever the task: what tables, reports and events show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from common.figures.intervals import Estimate

Place = tuple[str, int | None]
"""A figure by its name, and of which class it is, where there is one for each."""


@dataclass(frozen=True)
class Series:
    """A line of a picture.

    Attributes:
        label: what it shows, in words.
        points: (x, y), by increasing x.
        ends: lower and upper end of the interval of each y; empty where there are none.
    """

    label: str
    points: tuple[tuple[float, float], ...]
    ends: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Figures:
    """The figures of one evaluation. Public once computed from what sites released.

    Attributes:
        patients: how many patients were counted; as read, not clipped.
        values: by name, in the order in which they are shown.
        of: by name, one figure for each class, in the order of the study's classes.
        tables: by name, counts; negative ones are noise.
        series: by name, the lines of a picture; of exact figures alone.
        each: by name, for each class, a number of each patient, not a number where the patient has
            none; of exact figures alone, and as sensitive as the patients.
        noise_variance: variance of the noise in each cell of the counts.
    """

    patients: Estimate
    values: dict[str, Estimate]
    of: dict[str, tuple[Estimate, ...]] = field(default_factory=dict)
    tables: dict[str, tuple[tuple[int, ...], ...]] = field(default_factory=dict)
    series: dict[str, tuple[Series, ...]] = field(default_factory=dict)
    each: dict[str, tuple[tuple[float, ...], ...]] = field(default_factory=dict)
    noise_variance: float = 0.0

    @property
    def places(self) -> dict[Place, Estimate]:
        """Every figure but the count of patients."""
        found: dict[Place, Estimate] = {(name, None): one for name, one in self.values.items()}
        for name, each in self.of.items():
            found |= {(name, number): one for number, one in enumerate(each)}
        return found

    def changed(self, change: Callable[[Place, Estimate], Estimate]) -> Figures:
        """The figures with every one but the count of patients changed."""
        values = {name: change((name, None), one) for name, one in self.values.items()}
        of = {
            name: tuple(change((name, number), one) for number, one in enumerate(each))
            for name, each in self.of.items()
        }
        return replace(self, values=values, of=of)
