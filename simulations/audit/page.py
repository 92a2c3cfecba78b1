"""``audit.html``: an audit for a reader, on the same kind of page as a run's report."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from matplotlib.axes import Axes

from common.files import write_atomic
from simulations.audit.findings import Findings, Membership
from simulations.reports.charts import COLOURS, FAINT
from simulations.reports.plots import Plot, picture, write_figures
from simulations.reports.report import FIGURES_FOLDER, environment

FILE: Final = "audit.html"
SURVIVED: Final = "the claim survived"
BROKEN: Final = "THE CLAIM IS BROKEN"
_LEAST_RATE: Final = 1e-3


def write_page(folder: Path, findings: Findings) -> Path:
    """Draw the pictures and write the page and ``figures/*.png`` into the audit's folder."""
    plots = draw(findings)
    write_figures(folder / FIGURES_FOLDER, plots)
    path = folder / FILE
    write_atomic(path, render(findings, plots).encode())
    return path


def render(findings: Findings, plots: tuple[Plot, ...]) -> str:
    """The page's HTML; the same findings give the same bytes."""
    return (
        environment()
        .get_template("audit.html.j2")
        .render(
            found=findings,
            plots=plots,
            verdict=verdict(findings),
            worst=max(
                findings.mechanism, key=lambda one: one.empirical / one.claimed, default=None
            ),
        )
    )


def verdict(findings: Findings) -> str:
    """The verdict, in the words of both terminal and page."""
    return SURVIVED if findings.survived else BROKEN


def draw(findings: Findings) -> tuple[Plot, ...]:
    """The curve of the one-run audit; nothing where there was none."""
    if findings.one_run is None:
        return ()
    curve = findings.one_run.membership
    return (
        picture(
            "membership",
            "Telling canaries that were in from those that were out",
            "True against false positive rate of the one-run audit's adversary, both on "
            "logarithmic scales. On the dashed line, guesses are no better than chance. The left "
            "end matters most: there an attack names a few patients with certainty.",
            height=4.6,
            draw=lambda axes: _roc(axes, curve),
        ),
    )


def _roc(axes: Axes, curve: Membership) -> None:
    # Logarithmic axes have no zero: what was never seen is drawn at the edge.
    floor = min(_LEAST_RATE, 1 / max(1, curve.others))
    axes.plot([floor, 1], [floor, 1], color=FAINT, linewidth=1, linestyle=(0, (4, 2)))
    false = [max(floor, point[0]) for point in curve.points]
    true = [max(floor, point[1]) for point in curve.points]
    axes.step(false, true, where="post", color=COLOURS["shared"])
    for rate, caught in curve.caught:
        axes.plot(rate, max(floor, caught), "D", color=COLOURS["alone-private"], markersize=6)
    axes.set(xscale="log", yscale="log", xlim=(floor, 1.05), ylim=(floor, 1.05))
    axes.set_xlabel("others guessed in (false positives)")
    axes.set_ylabel("members guessed in (true positives)")
    axes.set_aspect("equal")
