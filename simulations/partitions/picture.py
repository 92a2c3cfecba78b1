"""A picture of a division: how many patients of each class every hospital has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure

from simulations.archives.manifest import PICTURE

_MOST_NAMED: Final = 40
"""Hospitals whose names are written; of more, only their number is."""


def draw_hospitals(folder: Path, manifest: Mapping[str, Any]) -> Path:
    """Draw the hospitals of a manifest into their folder; gives the picture's path."""
    sites, classes = list(manifest["per_site"]), list(manifest["classes"])
    wide = min(24.0, max(6.0, 0.3 * len(sites)))
    figure = Figure(figsize=(wide, 4.0), layout="constrained")
    axes = figure.add_subplot()
    below = [0] * len(sites)
    for name in classes:
        counts = [int(manifest["per_site"][site]["labels"].get(name, 0)) for site in sites]
        axes.bar(range(len(sites)), counts, bottom=below, label=name, width=0.9)
        below = [one + other for one, other in zip(below, counts, strict=True)]
    axes.set_ylabel("patients")
    axes.margins(x=0.01)
    if len(sites) <= _MOST_NAMED:
        axes.set_xticks(range(len(sites)), sites, rotation=45 if len(sites) > 6 else 0)
    else:
        axes.set_xlabel(f"{len(sites)} hospitals")
        axes.set_xticks([])
    axes.legend(title="class", frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    axes.spines[["top", "right"]].set_visible(False)
    path = folder / PICTURE
    figure.savefig(path, dpi=120)
    return path
