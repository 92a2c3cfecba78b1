"""Shipped studies with other settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from simulations.cli.studies import find_study


def changed(name: str, changes: Mapping[str, str], path: Path) -> Path:
    """Write a shipped study with some of its text replaced; gives the file's path.

    Args:
        name: of the study.
        changes: what takes the place of each piece of text, which the study must have: else the
            shipped study would be measured in place of another.
        path: of the new file.
    """
    text = find_study(name).read_text()
    for shipped, wanted in changes.items():
        assert shipped in text, f"the study {name} has no {shipped}"
        text = text.replace(shipped, wanted)
    path.write_text(text)
    return path
