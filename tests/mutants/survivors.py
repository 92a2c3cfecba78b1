"""The mutants that no test kills, each with why none should: ``survivors.toml``."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Final

FILE: Final = Path(__file__).with_name("survivors.toml")


def explained() -> dict[tuple[str, str, str, str], str]:
    """Why a mutant may live, by module, place, line before and line after."""
    listed = tomllib.loads(FILE.read_text(encoding="utf-8"))
    return {
        (module, one["where"], one["before"], one["after"]): one["why"]
        for module, ones in listed.items()
        for one in ones
    }
