"""One function a picture: what of a result goes where on a pair of axes.

Colours are from Okabe and Ito's palette, which people with any common colour blindness can
tell apart; what differs in colour differs in line or marker too.
"""

from __future__ import annotations

from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from common.package.statement import Figure
from common.palette import COLOURS as PALETTE
from simulations.reports.result import Kind, Line, Outcome, Result

INK: Final = "#24292f"
SOFT: Final = "#57606a"
FAINT: Final = "#8c959f"
COLOURS: Final[dict[Kind, str]] = {
    "shared": "#0072B2",
    "alone-private": "#D55E00",
    "alone": "#CC79A7",
    "pooled": "#009E73",
}
MARKERS: Final[dict[Kind, str]] = {
    "shared": "D",
    "alone-private": "o",
    "alone": "s",
    "pooled": "^",
}
LINES: Final[dict[Kind, Any]] = {
    "shared": "-",
    "alone-private": (0, (4, 1.5)),
    "alone": (0, (1, 1.2)),
    "pooled": (0, (6, 1.5, 1, 1.5)),
}
BASELINES: Final[tuple[Kind, ...]] = ("alone-private", "alone", "pooled")
"""In the order in which they are shown."""
MOST_SITES: Final = 20
"""Hospitals of which each has a place of its own in a picture."""
SITE_COLOURS: Final = PALETTE
SITE_LINES: Final[tuple[Any, ...]] = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)))


def comparison(axes: Axes, result: Result) -> None:
    """The headline of the shared model, of everything pooled and of each hospital alone."""
    sites = alone(result)
    names = ["shared model"]
    dot(axes, result.shared.metrics.main, 0.0, "shared")
    for outcome in result.of_kind("pooled"):
        dot(axes, outcome.metrics.main, float(len(names)), "pooled")
        names.append("all data pooled")
    for site in sites:
        names.append(f"{site} alone")
        for outcome in result.baselines:
            if outcome.site == site:
                # With and without privacy side by side, one line a hospital.
                shift = -0.16 if outcome.kind == "alone-private" else 0.16
                dot(axes, outcome.metrics.main, len(names) - 1 + shift, outcome.kind)
    value = result.shared.metrics.main.value
    if value is not None:
        axes.axvline(value, color=COLOURS["shared"], linewidth=0.9, alpha=0.6, zorder=0)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(f"{result.study.headline} on the test set")
    _legend(axes, result)


def alone(result: Result) -> list[str]:
    """The hospitals that are drawn alone: all, or the best, the middle and the worst of many."""
    reached: dict[str, float] = {}
    for outcome in result.baselines:
        if outcome.site:
            value = outcome.metrics.main.value or 0.0
            reached[outcome.site] = max(reached.get(outcome.site, 0.0), value)
    if len(reached) <= MOST_SITES:
        return sorted(reached)
    ordered = sorted(reached, key=lambda name: (-reached[name], name))
    return [ordered[0], ordered[len(ordered) // 2], ordered[-1]]


def dot(axes: Axes, figure: Figure, y: float, kind: Kind) -> None:
    """A figure and its interval, at a height."""
    if figure.value is None:
        return
    axes.hlines(y, figure.low, figure.high, color=COLOURS[kind], linewidth=2.2, alpha=0.55)
    axes.plot(figure.value, y, MARKERS[kind], color=COLOURS[kind], markersize=7)


def _legend(axes: Axes, result: Result) -> None:
    for kind in COLOURS:
        if kind == "shared" or result.of_kind(kind):
            axes.plot([], [], MARKERS[kind], color=COLOURS[kind], label=label(result, kind))
    _below(axes, handletextpad=0.2)


def _below(axes: Axes, **style: Any) -> None:  # noqa: ANN401 - as matplotlib takes it
    """A legend under the picture, wherever its axes end."""
    handles, labels = axes.get_legend_handles_labels()
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.legend(handles, labels, loc="outside lower center", ncols=2, **style)


def label(result: Result, kind: Kind) -> str:
    """A kind of model in the fewest words that say whether it is private."""
    epsilon = result.study.epsilon
    private = "no privacy" if epsilon is None else f"ε = {epsilon:g}"
    return {
        "shared": f"shared ({private})",
        "alone-private": f"alone ({private})",
        "alone": "alone, no privacy",
        "pooled": "pooled, no privacy",
    }[kind]


def curves(axes: Axes, result: Result) -> None:
    """The headline over the rounds."""
    _curve(axes, result.shared, label(result, "shared"))
    for kind in BASELINES:
        for number, outcome in enumerate(result.of_kind(kind)):
            # One entry in the legend for all hospitals of a kind.
            _curve(axes, outcome, label(result, kind) if number == 0 else None)
    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator("auto", steps=(1, 2, 5, 10), integer=True))
    axes.set_ylabel(f"{result.study.headline} on the test set")
    _below(axes)


def _curve(axes: Axes, outcome: Outcome, text: str | None) -> None:
    points = [(point.round, point.value) for point in outcome.curve if point.value is not None]
    main = outcome.kind in {"shared", "pooled"}
    axes.plot(
        [point[0] for point in points],
        [point[1] for point in points],
        color=COLOURS[outcome.kind],
        linestyle=LINES[outcome.kind],
        linewidth=2.4 if outcome.kind == "shared" else 1.5,
        alpha=1.0 if main else 0.75,
        zorder=3 if outcome.kind == "shared" else 2,
        label=text,
    )


def roc(axes: Axes, result: Result) -> None:
    """ROC of the shared model and of the best of each kind of baseline."""
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=(0, (2, 2)))
    if len(result.shared.series["roc"]) > 1:
        _roc_by_class(axes, result)
    else:
        best = [result.best("alone"), result.best("alone-private"), result.best("pooled")]
        for outcome in [*(one for one in best if one and one.series.get("roc")), result.shared]:
            _roc_line(axes, result, outcome)
    axes.set(xlabel="1 − specificity", ylabel="sensitivity", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axes.set_aspect("equal")
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], loc="lower right")


def _roc_line(axes: Axes, result: Result, outcome: Outcome) -> None:
    rates = outcome.series["roc"][0].points
    auc = outcome.metrics.main.value
    best = f"{outcome.site} " if outcome.site else ""
    axes.plot(
        [point[0] for point in rates],
        [point[1] for point in rates],
        color=COLOURS[outcome.kind],
        linestyle=LINES[outcome.kind],
        linewidth=2.4 if outcome.kind == "shared" else 1.5,
        label=f"{best}{label(result, outcome.kind)}: {auc:.3f}",
    )


def _roc_by_class(axes: Axes, result: Result) -> None:
    _lines(axes, result.shared.series["roc"], "{} against the rest")


def _lines(axes: Axes, series: tuple[Line, ...], text: str) -> None:
    for number, line in enumerate(series):
        axes.plot(
            [point[0] for point in line.points],
            [point[1] for point in line.points],
            color=SITE_COLOURS[number % len(SITE_COLOURS)],
            linestyle=SITE_LINES[number % len(SITE_LINES)],
            label=text.format(line.label),
        )


def calibration(axes: Axes, result: Result) -> None:
    """Observed share against score, of the shared model."""
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=(0, (2, 2)))
    (line,) = result.shared.series["calibration"]
    scores, observed = [point[0] for point in line.points], [point[1] for point in line.points]
    low, high = [ends[0] for ends in line.ends], [ends[1] for ends in line.ends]
    axes.vlines(scores, low, high, color=COLOURS["shared"], linewidth=2.2, alpha=0.45)
    axes.plot(scores, observed, "o-", color=COLOURS["shared"], linewidth=1.2, markersize=6)
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.05, 1.05))
    axes.set(xlabel=f"score for {line.label}", ylabel=f"share with {line.label}")
    axes.set_aspect("equal")


def federated(axes: Axes, result: Result) -> None:
    """Figures from the noised histograms beside the exact ones."""
    last = result.federated_evaluation[-1]
    named = [(name, words) for name, words in result.study.figures if name in last.figures]
    for row, (name, _) in enumerate(named):
        dot(axes, result.metrics.figures[name], row - 0.14, "shared")
        _noisy_dot(axes, last.figures[name], row + 0.16)
    axes.plot([], [], MARKERS["shared"], color=COLOURS["shared"], label="test set, exact")
    axes.plot([], [], "o", color=INK, label="hospitals' histograms, with noise")
    axes.set_yticks(range(len(named)), [words for _, words in named])
    axes.set_ylim(len(named) - 0.5, -0.5)
    axes.set_xlim(-0.03, 1.03)
    axes.grid(visible=False, axis="y")
    _below(axes, handletextpad=0.2)


def _noisy_dot(axes: Axes, figure: Figure, y: float) -> None:
    axes.hlines(y, figure.low, figure.high, color=INK, linewidth=1.6, alpha=0.55)
    if figure.value is not None:
        fill = INK if figure.meaningful else "white"
        axes.plot(figure.value, y, "o", color=INK, markerfacecolor=fill, markersize=6)
