"""``report.html``: a run for a reader, in one file that loads nothing from elsewhere.

Pictures are inlined, there is no script, and the page's own policy forbids the browser to
load anything, so that the file can be mailed, archived and printed.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from common.files import write_atomic
from common.package.statement import Figure
from simulations.reports.charts import BASELINES, label
from simulations.reports.overlays import FILE as EXAMPLES
from simulations.reports.overlays import Examples, overlays
from simulations.reports.plots import Plot, draw_all, write_figures
from simulations.reports.result import Outcome, Result

FILE: Final = "report.html"
FIGURES_FOLDER: Final = "figures"
TEMPLATES: Final = Path(__file__).resolve().parents[1] / "templates"
MOST_ROWS: Final = 20
"""Hospitals of which each is a row at first sight."""
MOST_COLUMNS: Final = 6
"""Figures of a model in the table of models."""
SMALL: Final = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven"}


def write_report(run: Path, result: Result) -> Path:
    """Draw the pictures and write the report and ``figures/*.png`` into the run's folder."""
    plots = list(draw_all(result))
    if (examples := Examples.load(run / EXAMPLES)) is not None:
        plots.append(overlays(examples, result))
    write_figures(run / FIGURES_FOLDER, plots)
    path = run / FILE
    write_atomic(path, render(result, plots).encode())
    return path


def render(result: Result, plots: Sequence[Plot]) -> str:
    """The report's HTML; the same result gives the same bytes."""
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            result=result,
            plots={plot.name: plot for plot in plots},
            rows=rows(result),
            by_class=by_class(result),
            ahead=ahead(result),
            columns=result.study.figures[:MOST_COLUMNS],
            factor=None if result.study.epsilon is None else worst_odds(result.study.epsilon),
            declared=sum(site.declared_patients for site in result.per_site.values()),
            cells=agreement(result),
            most_rows=MOST_ROWS,
            records=len({record.model_dump_json() for record in result.numerics.values()}),
        )
    )


def environment() -> Environment:
    """What pages are rendered in: their templates, and the forms that numbers take."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        # Titles and names come from other people's files.
        autoescape=True,
        # A misspelt name in a template is an error, not an empty place.
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        figure=figure,
        interval=interval,
        epsilon=epsilon,
        power=power,
        inline=inline,
        number=SMALL.get,
        signed=signed,
    )
    return made


def figure(value: float | None) -> str:
    """Three decimals, or a dash."""
    return "–" if value is None else f"{value:.3f}"


def interval(estimate: Figure) -> str:
    """The two ends of a 95 % interval."""
    return f"{estimate.low:.3f} – {estimate.high:.3f}"


def signed(value: float) -> str:
    """A difference: three decimals, and which way it goes."""
    return f"{value:+.3f}".replace("-", "−")


def epsilon(value: float | None) -> str:
    """Epsilon rounded up, so that no more was spent than is said; infinity without privacy."""
    return "∞" if value is None else f"{math.ceil(value * 1000) / 1000:.3f}"


def power(value: float) -> Markup:
    """A small number as a power of ten."""
    digits, exponent = f"{value:e}".split("e")
    factor = f"{float(digits):g}"
    shown = "" if factor == "1" else f"{factor} × "
    return Markup("{}10<sup>{}</sup>").format(shown, f"{int(exponent)}".replace("-", "−"))


def inline(plot: Plot) -> Markup:
    """A picture as part of the page."""
    data = base64.b64encode(plot.svg).decode()
    return Markup('<img src="data:image/svg+xml;base64,{}" alt="{}">').format(
        Markup(data),  # noqa: S704 - base64 of our own picture
        f"{plot.title}. {plot.text}",
    )


def worst_odds(value: float) -> str:
    """The factor by which taking part can change anyone's odds about a patient."""
    factor = math.exp(value)
    return f"{factor:,.1f}" if factor < 100 else f"{factor:,.0f}"


def rows(result: Result) -> list[tuple[str, str, Outcome]]:
    """What is compared: a name, whether it is private, and the outcome; the shared one first."""
    table = [("Shared model", _privacy(result, result.shared), result.shared)]
    for kind in BASELINES:
        for outcome in result.of_kind(kind):
            name = "All data pooled" if outcome.site is None else f"{outcome.site} alone"
            table.append((name, _privacy(result, outcome), outcome))
    return table


def ahead(result: Result) -> list[tuple[str, str, str, Figure]]:
    """How far the shared model is ahead of each other one: name, privacy, class, and how far."""
    return [
        (name, privacy, of, found)
        for name, privacy, outcome in rows(result)[1:]
        for of, found in zip(result.study.classes, result.ahead_of(outcome), strict=False)
        if found is not None
    ]


def _privacy(result: Result, outcome: Outcome) -> str:
    return label(result, outcome.kind).removeprefix(outcome.kind.split("-")[0]).strip(" ,()")


def by_class(result: Result) -> list[tuple[str, list[Figure]]]:
    """The shared model's figures of each class; none where the classes' headlines are one."""
    of, classes = result.metrics.of, result.study.classes
    if len({each.value for each in of.get(result.metrics.headline, ())}) < 2:
        return []
    names = [name for name, _ in result.study.figures[:MOST_COLUMNS] if name in of]
    return [(each, [of[name][place] for name in names]) for place, each in enumerate(classes)]


def agreement(result: Result) -> list[tuple[str, Figure, Figure]]:
    """Each figure of the last federated evaluation beside the exact one on the test set."""
    if not result.federated_evaluation:
        return []
    noisy = result.federated_evaluation[-1].figures
    exact = result.metrics.figures
    named = result.study.figures
    return [(words, exact[name], noisy[name]) for name, words in named if name in noisy]
