"""The runs of sweeps side by side: means and intervals over seeds, and paired tests.

Runs that differ in the seed alone are one row. An interval is Student's, over seeds; a difference
is that to the first row, on the same seeds, so that what hospitals and first weights do to both is
taken out.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Final

import numpy as np
from scipy import stats

from common.documents import read_json
from common.errors import StudyError
from simulations.sweeps.records import Record

LEVEL: Final = 0.95
_COLUMNS: Final = (
    *("seeds", "mean", "mean_low", "mean_high", "worst_hospital"),
    *("ahead", "ahead_low", "ahead_high", "p", "epsilon_paid"),
)
_KINDS: Final = ("strategy", "name", "mode", "method")
"""Keys of a table whose value says what it is."""
_REACHED: Final = (
    *("seeds", "mean", "95 % interval", "worst hospital"),
    *("ahead of the first", "95 % interval", "p"),
)
CHOSEN: Final = (
    "To choose settings by what patients' data gave is to look at these patients once more: "
    "on real data each run costs its epsilon, and choosing among runs costs the sum."
)


@dataclass(frozen=True)
class Interval:
    """A mean over seeds.

    Attributes:
        mean: of them; NaN where a run has no such figure.
        low: lower end of the interval; NaN with one seed.
        high: upper end.
    """

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval:
        """Student's interval of the mean of some values."""
        mean = float(np.mean(values))
        if len(values) < 2:
            return cls(mean, math.nan, math.nan)
        half = stats.t.ppf((1 + LEVEL) / 2, len(values) - 1)
        half *= float(np.std(values, ddof=1)) / math.sqrt(len(values))
        return cls(mean, mean - half, mean + half)


@dataclass(frozen=True)
class Compared:
    """The runs of one setting.

    Attributes:
        settings: what was set.
        seeds: of the runs.
        reached: the headline figure.
        worst: the same at the hospital where it is least; None where no run has it.
        ahead: of the first row, on the seeds that both have; None for the first.
        chance: p of a paired t-test of that difference; None where there is none.
        epsilon: the most that a patient paid in any of them.
    """

    settings: Mapping[str, Any]
    seeds: tuple[int, ...]
    reached: Interval
    worst: Interval | None
    ahead: Interval | None
    chance: float | None
    epsilon: float | None


def compare(records: Iterable[Record]) -> tuple[Compared, ...]:
    """A row for each setting, in the order in which they are first met.

    Raises:
        StudyError: there are no runs, or their studies are judged by different figures.
    """
    groups: defaultdict[str, dict[int, Record]] = defaultdict(dict)
    names = set()
    for each in records:
        groups[each.settings][each.seed] = each
        names.add(each.headline)
    if len(names) != 1:
        raise StudyError(
            "these runs cannot be compared",
            found=f"figures {', '.join(sorted(names))}" if names else "no finished run",
            wanted="finished runs that are judged by one figure",
            remedy="run the sweep first, and compare studies of one kind of task",
        )
    first = next(iter(groups.values()))
    return tuple(_row(text, runs, first) for text, runs in groups.items())


def _row(text: str, runs: Mapping[int, Record], first: Mapping[int, Record]) -> Compared:
    ahead, chance = None, None
    if runs is not first:
        both = [seed for seed in runs if seed in first]
        apart = [runs[seed].reached - first[seed].reached for seed in both]
        if apart:
            ahead = Interval.of(apart)
        if len(apart) > 1 and np.std(apart):
            chance = float(stats.ttest_1samp(apart, 0.0).pvalue)
    paid = [each.epsilon for each in runs.values()]
    least = [min(each.at_sites) for each in runs.values() if each.at_sites]
    return Compared(
        settings=read_json(text),
        seeds=tuple(runs),
        reached=Interval.of([each.reached for each in runs.values()]),
        worst=Interval.of(least) if least else None,
        ahead=ahead,
        chance=chance,
        epsilon=None if None in paid else max(each for each in paid if each is not None),
    )


def header(rows: Sequence[Compared]) -> tuple[str, ...]:
    """Of a table of these rows."""
    keys = dict.fromkeys(key for row in rows for key in row.settings)
    return (*keys, *_REACHED)


def cells(row: Compared, keys: Sequence[str]) -> tuple[str, ...]:
    """Of one row, under :func:`header`."""
    ahead = (
        ("(the first)", "") if row.ahead is None else (f"{row.ahead.mean:+.3f}", _ends(row.ahead))
    )
    return (
        *(_said(row.settings.get(key)) for key in keys),
        str(len(row.seeds)),
        f"{row.reached.mean:.3f}",
        _ends(row.reached),
        "" if row.worst is None else f"{row.worst.mean:.3f}",
        *ahead,
        "" if row.chance is None else f"{row.chance:.3f}",
    )


def settings_said(settings: Mapping[str, Any]) -> str:
    """Some settings in words, for a legend: ``epsilon 1, fedadam (eta 0.03)``."""
    found = []
    for key, value in settings.items():
        # A table begins with its kind, and a name needs no key.
        alone = isinstance(value, dict | str)
        found.append(_said(value) if alone else f"{key.split('.')[-1]} {_said(value)}")
    return ", ".join(found)


def _ends(found: Interval) -> str:
    return "" if math.isnan(found.low) else f"{found.low:.3f} to {found.high:.3f}"


def _said(value: Any) -> str:  # noqa: ANN401 - a setting
    if isinstance(value, dict):
        kind = next((name for name in _KINDS if isinstance(value.get(name), str)), None)
        told = ", ".join(_pair(name, each) for name, each in value.items() if name != kind)
        return told if kind is None else f"{value[kind]} ({told})" if told else str(value[kind])
    if isinstance(value, float):
        return f"{value:.12g}"  # settings that differ are told apart: pictures go by the words
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)


def _pair(name: str, value: Any) -> str:  # noqa: ANN401 - a setting
    return _said(value) if isinstance(value, dict) else f"{name} {_said(value)}"


def table(rows: Sequence[Compared]) -> tuple[tuple[str, ...], ...]:
    """The header and all rows."""
    head = header(rows)
    return (head, *(cells(row, head[: -len(_REACHED)]) for row in rows))


def as_csv(rows: Sequence[Compared]) -> str:
    """The rows as comma-separated values (RFC 4180), a number in each column."""
    keys = header(rows)[: -len(_REACHED)]
    found = io.StringIO()
    writer = csv.writer(found)
    writer.writerow([*keys, *_COLUMNS])
    for row in rows:
        ends = (row.reached, row.ahead)
        reached, ahead = ((None,) * 3 if each is None else astuple(each) for each in ends)
        settings = (row.settings.get(key) for key in keys)
        figures = (
            *(len(row.seeds), *reached, None if row.worst is None else row.worst.mean),
            *(*ahead, row.chance, row.epsilon),
        )
        said = ("" if each is None or math.isnan(each) else each for each in figures)
        writer.writerow(
            [*(json.dumps(each) if isinstance(each, dict) else each for each in settings), *said]
        )
    return found.getvalue()


def as_latex(rows: Sequence[Compared]) -> str:
    """The table as LaTeX's ``tabular``."""
    head, *body = table(rows)
    lines = [
        r"\begin{tabular}{" + "l" * (len(head) - len(_REACHED)) + "r" * len(_REACHED) + "}",
        r"\hline",
    ]
    lines += [" & ".join(map(_escaped, head)) + r" \\", r"\hline"]
    lines += [" & ".join(map(_escaped, each)) + r" \\" for each in body]
    lines += [r"\hline", r"\end{tabular}", f"% {CHOSEN}"]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    for sign in "\\&%$#_{}~^":
        text = text.replace(sign, f"\\{sign}" if sign not in "\\~^" else " ")
    return text
