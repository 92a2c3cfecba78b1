"""The pictures of a run, drawn from its result alone: the same result gives the same bytes.

Each comes scalable, for the report, and as PNG, for elsewhere.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from common.files import write_atomic
from simulations.reports import charts, site_charts
from simulations.reports.charts import FAINT, INK, MOST_SITES, SOFT, alone
from simulations.reports.result import Result

WIDTH: Final = 5.6
"""Inches; a phone shows it at about three quarters of this."""
DPI: Final = 200
STYLE: Final[Any] = {  # matplotlib types the keys as a literal of every name it knows
    "figure.dpi": 100,
    # Without a salt, matplotlib draws random ids, and the same result would give other bytes.
    "svg.hashsalt": "consilium",
    # Text as shapes: looks the same where the font is missing.
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e6ea",
    "grid.linewidth": 0.8,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
}


@dataclass(frozen=True)
class Plot:
    """One picture.

    Attributes:
        name: of its file, without ending.
        title: what it shows.
        text: what a reader should take from it and how to read it; also its description for
            those who cannot see it.
        svg: scalable, for the report.
        png: for elsewhere.
    """

    name: str
    title: str
    text: str
    svg: bytes
    png: bytes


@dataclass(frozen=True)
class _Spec:
    name: str
    title: str
    text: str
    height: float
    draw: Callable[..., None]
    wanted: Callable[[Result], bool] = lambda _: True


def draw_all(result: Result) -> tuple[Plot, ...]:
    """Every picture that the result holds numbers for."""
    return tuple(
        picture(
            spec.name,
            spec.title,
            spec.text,
            height=spec.height,
            draw=partial(spec.draw, result=result),
            facts=result.hospitals.facts,
        )
        for spec in _specs(result)
        if spec.wanted(result)
    )


def write_figures(folder: Path, plots: Sequence[Plot]) -> None:
    """Write each picture as ``folder/NAME.png``."""
    for plot in plots:
        write_atomic(folder / f"{plot.name}.png", plot.png)


def picture(
    name: str,
    title: str,
    text: str,
    *,
    height: float,
    draw: Callable[[Axes], None],
    facts: Sequence[str] = (),
) -> Plot:
    """Draw one picture in the style that all share.

    Args:
        name: of its file, without ending.
        title: what it shows.
        text: how to read it.
        height: inches.
        draw: fills the axes.
        facts: said above the picture in small letters.
    """
    with mpl.rc_context(STYLE):
        # Not by pyplot, which would keep every figure in memory.
        canvas = Canvas(figsize=(WIDTH, height), layout="constrained")
        draw(canvas.add_subplot())
        if facts:
            said = textwrap.fill(" ".join(facts), 104)
            canvas.suptitle(said, x=0.01, ha="left", fontsize=7, color=SOFT)
        # Dates and versions would change the bytes.
        svg = _save(canvas, "svg", {"Date": None, "Creator": None})
        png = _save(canvas, "png", {"Software": None})
    return Plot(name, title, text, svg, png)


def _save(canvas: Canvas, format_: str, metadata: dict[str, None]) -> bytes:
    buffer = io.BytesIO()
    canvas.savefig(buffer, format=format_, dpi=DPI, metadata=metadata)
    return buffer.getvalue()


def _specs(result: Result) -> tuple[_Spec, ...]:
    rows = 1 + len(alone(result)) * 1.35
    fared = len(result.at_sites)
    return (
        _Spec(
            "comparison",
            "Shared model, hospitals alone, everything pooled",
            f"{result.study.headline} on the same held-out test set, after the same number of "
            "rounds and steps. Lines are 95 % intervals.",
            1.3 + 0.42 * rows,
            charts.comparison,
            lambda result: bool(result.baselines),
        ),
        _Spec(
            "learning-curves",
            "Learning over the rounds",
            "On the held-out test set. Only a simulation has one: no hospital could compute this. "
            "Do not choose settings by it.",
            3.7,
            charts.curves,
            lambda result: bool(result.shared.curve),
        ),
        _Spec(
            "roc",
            "ROC on the test set",
            "Sensitivity against false alarms at every threshold; the diagonal is chance.",
            4.6,
            charts.roc,
            lambda result: "roc" in result.shared.series,
        ),
        _Spec(
            "calibration",
            "Calibration of the shared model",
            "How often patients with a given score had the finding. On the diagonal, scores can be "
            "read as probabilities. Lines are 95 % intervals: short where there are many patients.",
            4.6,
            charts.calibration,
            lambda result: "calibration" in result.shared.series,
        ),
        _Spec(
            "epsilon",
            "Privacy spent over the rounds",
            "The epsilon that training has cost a patient of each hospital after each round; "
            "hospitals that spend alike are one line. "
            "Evaluation uses other patients, who pay for evaluation only.",
            3.7,
            site_charts.epsilon,
            lambda result: any(site.spent for site in result.per_site.values()),
        ),
        _Spec(
            "fairness",
            "How the hospitals fare with the shared model",
            "On each hospital's own validation patients, whose number is beside its name. Lines "
            "are 95 % intervals: with few patients, hospitals differ by chance. Only a simulation "
            "has these figures: a hospital sends none of its own without noise.",
            3.7 if fared > MOST_SITES else 1.3 + 0.3 * fared,
            site_charts.fairness,
            lambda result: any(each.figure.value is not None for each in result.at_sites.values()),
        ),
        _Spec(
            "federated-evaluation",
            "What the hospitals could measure themselves",
            "Figures from the hospitals' histograms, with noise, beside the exact figures from the "
            "test set. Intervals are 95 %; those of the histograms include the noise. Hollow "
            "marks: the noise is too large for the figure to mean anything.",
            3.4,
            charts.federated,
            lambda result: bool(result.federated_evaluation),
        ),
    )
