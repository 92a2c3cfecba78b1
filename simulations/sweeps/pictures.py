"""The pictures of a comparison: by round, against epsilon, and over the hospitals."""

from __future__ import annotations

import io
import textwrap
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from common.documents import read_json
from common.errors import CheckpointError
from simulations.reports.charts import COLOURS, INK
from simulations.reports.plots import DPI, STYLE, WIDTH
from simulations.sweeps.compare import Compared, settings_said
from simulations.sweeps.records import Record, result_of

EPSILON: Final = "privacy.epsilon"
MOST_LINES: Final = 10
"""Settings whose lines are drawn: of more, none could be told from another."""


def convergence(records: Sequence[Record], sweeps: Sequence[Path]) -> bytes | None:
    """The headline figure by round, a line a setting: the mean over seeds, and all of them thin.

    None where no whole result is kept.
    """
    curves: defaultdict[str, list[dict[int, float]]] = defaultdict(list)
    for record in records:
        for place in sweeps:
            with suppress(CheckpointError):
                points = result_of(place, record).shared.curve
                found = {each.round: each.value for each in points if each.value is not None}
                said = settings_said(read_json(record.settings))
                curves[said or record.headline].append(found)
                break
    if not any(map(len, (each for lines in curves.values() for each in lines))):
        return None

    def draw(axes: Axes) -> None:
        for said, lines in list(curves.items())[:MOST_LINES]:
            rounds = sorted(set.intersection(*(set(each) for each in lines)))
            mean = [sum(each[at] for each in lines) / len(lines) for at in rounds]
            (drawn,) = axes.plot(rounds, mean, label=said)
            for each in lines:
                values = [each[at] for at in rounds]
                axes.plot(rounds, values, color=drawn.get_color(), alpha=0.25, linewidth=0.6)
        axes.set_xlabel("round")
        axes.set_ylabel(f"{records[0].headline} on the test set")
        _below(axes, len(curves))

    return _png(draw)


def against_epsilon(rows: Sequence[Compared], headline: str) -> bytes | None:
    """Mean and interval over seeds against epsilon, a line for all other settings alike.

    None where epsilon was not varied.
    """
    lines: defaultdict[str, list[Compared]] = defaultdict(list)
    for row in rows:
        if EPSILON in row.settings:
            others = {key: value for key, value in row.settings.items() if key != EPSILON}
            lines[settings_said(others) or headline].append(row)
    if not lines:
        return None

    def draw(axes: Axes) -> None:
        for said, each in lines.items():
            each.sort(key=lambda row: float(row.settings[EPSILON]))
            across = [float(row.settings[EPSILON]) for row in each]
            apart = 1 + 0.03 * len(axes.lines)  # so that no interval hides another
            at = [value * apart for value in across]
            (drawn,) = axes.plot(at, [row.reached.mean for row in each], "o-", label=said)
            low, high = ([getattr(row.reached, end) for row in each] for end in ("low", "high"))
            axes.vlines(at, low, high, color=drawn.get_color(), linewidth=2.2, alpha=0.45)
        means = [row.reached.mean for each in lines.values() for row in each]
        room = max(0.05, 2 * (max(means) - min(means)))  # two seeds have endless intervals
        bottom, top = axes.get_ylim()
        axes.set_ylim(max(bottom, min(means) - room), min(top, max(means) + room))
        axes.set_xscale("log")
        ticks = sorted({float(row.settings[EPSILON]) for row in rows if EPSILON in row.settings})
        axes.set_xticks(ticks, [f"{each:g}" for each in ticks])
        axes.minorticks_off()
        seeds = sorted({len(row.seeds) for row in rows})
        axes.set_xlabel("epsilon of a patient")
        axes.set_ylabel(f"{headline} on the test set")
        told = f"mean over {' to '.join(map(str, seeds))} seeds; lines are 95 % intervals"
        axes.set_title(told, fontsize=9, loc="left")
        _below(axes, len(lines))

    return _png(draw)


def fairness(records: Sequence[Record]) -> bytes | None:
    """What each setting reaches at each hospital, on its own validation patients, over all seeds.

    None where no run has such figures.
    """
    found: defaultdict[str, list[float]] = defaultdict(list)
    for record in records:
        said = settings_said(read_json(record.settings)) or record.headline
        found[said] += record.at_sites
    drawn = {said: values for said, values in list(found.items())[:MOST_LINES] if values}
    if not drawn:
        return None

    def draw(axes: Axes) -> None:
        axes.boxplot(
            list(drawn.values()),
            orientation="horizontal",
            tick_labels=[textwrap.fill(said, 26) for said in drawn],
            showfliers=False,
            medianprops={"color": INK},
        )
        for place, values in enumerate(drawn.values(), start=1):
            heights = [place + 0.08 * (at % 5 - 2) for at in range(len(values))]
            axes.plot(values, heights, "o", color=COLOURS["shared"], alpha=0.4, markersize=4)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", labelsize=8)
        axes.set_xlabel(f"{records[0].headline} at each hospital")

    return _png(draw, height=1.2 + 0.6 * len(drawn))


def _below(axes: Axes, lines: int) -> None:
    """A legend under the picture, where it hides nothing."""
    figure = axes.get_figure(root=True)
    if lines > 1 and figure is not None:
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=1 if lines < 5 else 2)


def _png(draw: Callable[[Axes], None], height: float = 0.6 * WIDTH) -> bytes:
    with mpl.rc_context(STYLE):
        canvas = Canvas(figsize=(WIDTH, height), layout="constrained")
        draw(canvas.add_subplot())
        found = io.BytesIO()
        canvas.savefig(found, format="png", dpi=DPI, metadata={"Software": None})
    return found.getvalue()
