"""Pictures of the hospitals of a run, be they four or ten thousand."""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from simulations.reports.charts import (
    COLOURS,
    INK,
    MOST_SITES,
    SITE_COLOURS,
    SITE_LINES,
    dot,
)
from simulations.reports.result import Result

MOST_NAMES: Final = 4
"""Hospitals of one line that are named; of more, their number is."""
MOST_LINES: Final = 8
"""Lines of a picture that can be told apart."""

Spent = tuple[tuple[int, float], ...]


def epsilon(axes: Axes, result: Result) -> None:
    """Epsilon of the training after each round: a line for hospitals that spend alike."""
    alike: defaultdict[Spent, list[str]] = defaultdict(list)
    for name, site in sorted(result.per_site.items()):
        alike[site.spent].append(name)
    ordered = sorted(alike, key=lambda spent: (-spent[-1][1] if spent else 0.0, alike[spent]))
    if len(ordered) > MOST_LINES:
        _between(axes, ordered, alike)
    else:
        for number, spent in enumerate(ordered):
            _line(axes, number, spent, f"{_said(alike[spent])}: {_end(spent):.3f}")
    allowed = result.study.epsilon
    if allowed is not None:
        axes.axhline(allowed, color=INK, linewidth=1)
        axes.annotate(
            f"limit of the study: {allowed:g}",
            (0, allowed),
            xytext=(2, -4),
            textcoords="offset points",
            va="top",
            fontsize=9,
        )
        axes.set_ylim(0, allowed * 1.06)
    axes.set(xlabel="round", ylabel="ε spent on training")
    axes.xaxis.set_major_locator(MaxNLocator("auto", steps=(1, 2, 5, 10), integer=True))
    axes.set_xlim(left=0)
    axes.legend(loc="lower right")


def _between(axes: Axes, ordered: list[Spent], alike: dict[Spent, list[str]]) -> None:
    """The most and the least that is spent, and what lies between."""
    most, least = ordered[0], ordered[-1]
    rounds = [number for number, _ in most]
    at_each = list(zip(*([cost for _, cost in spent] for spent in ordered), strict=False))
    rounds, highest, lowest = rounds[: len(at_each)], [*map(max, at_each)], [*map(min, at_each)]
    axes.fill_between([0, *rounds], [0.0, *lowest], [0.0, *highest], alpha=0.15, linewidth=0)
    for number, (word, spent) in enumerate((("most", most), ("least", least))):
        _line(axes, number, spent, f"{word}, {_said(alike[spent])}: {_end(spent):.3f}")


def _line(axes: Axes, number: int, spent: Spent, label: str) -> None:
    axes.plot(
        [0, *(point[0] for point in spent)],
        [0.0, *(point[1] for point in spent)],
        color=SITE_COLOURS[number % len(SITE_COLOURS)],
        linestyle=SITE_LINES[number % len(SITE_LINES)],
        label=label,
    )


def _end(spent: Spent) -> float:
    return spent[-1][1] if spent else 0.0


def _said(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= MOST_NAMES else f"{len(names)} hospitals"


def fairness(axes: Axes, result: Result) -> None:
    """The shared model at each hospital, the worst first: with its name, or as a line of many."""
    found = sorted(
        ((name, each) for name, each in result.at_sites.items() if each.figure.value is not None),
        key=lambda pair: (pair[1].figure.value or 0.0, pair[0]),
    )
    values = [each.figure.value for _, each in found if each.figure.value is not None]
    if len(found) > MOST_SITES:
        shares = [100 * (at + 1) / len(values) for at in range(len(values))]
        axes.step(shares, values, where="pre", color=COLOURS["shared"])
        axes.set_xlabel("share of the hospitals, %, that reach no more")
        axes.set_ylabel(f"{result.study.headline} at the hospital")
        return
    for place, (_, each) in enumerate(found):
        dot(axes, each.figure, place, "shared")
    axes.set_yticks(range(len(found)), [f"{name} ({each.patients})" for name, each in found])
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(f"{result.study.headline} on the hospital's own validation patients")
