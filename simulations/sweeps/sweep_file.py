"""The file of a sweep: a study, hospitals, seeds, and the settings that are tried.

::

    [sweep]
    study = "pneumonia"              # a shipped study, or a file beside this one
    hospitals = "hospitals"          # a folder that consilium-sim hospitals made
    seeds = [0, 1, 2]

    [settings]
    "privacy.epsilon" = [1.0, 3.0, 8.0]
    "aggregation.strategy" = ["fedavg", "fedmedian"]

Keys that begin with ``participation.`` say who takes part in a round, as in
:mod:`simulations.grids.participation`. With ``method = "random"`` and ``runs = 20``, a setting may
also be a range, ``{ least = 0.1, most = 4.0, scale = "log" }``, and so many settings are drawn.
``method = "optuna"`` draws each next setting where the earlier ones did best (a tree-structured
Parzen estimator, Bergstra et al. 2011).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from common.errors import StudyError
from common.settings import Section, load_toml

MOST_RUNS: Final = 10_000
_KEY: Final = r"^[a-z_]+(\.[a-z_]+){0,2}$"


class Between(Section):
    """A range that is drawn from.

    Attributes:
        least: of a value.
        most: of a value.
        scale: on which values are spread evenly.
        whole: whether values are whole numbers.
    """

    least: float
    most: float
    scale: Literal["linear", "log"] = "linear"
    whole: bool = False

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.least < self.most or (self.scale == "log" and self.least <= 0):
            raise ValueError("least must be below most, and above 0 on a log scale")
        return self

    def draw(self, generator: np.random.Generator) -> float | int:
        """One value."""
        if self.scale == "log":
            found = math.exp(generator.uniform(math.log(self.least), math.log(self.most)))
        else:
            found = float(generator.uniform(self.least, self.most))
        return round(found) if self.whole else float(f"{found:.4g}")


Setting = Annotated[list[Any] | Between, Field(union_mode="left_to_right")]
Overrides = tuple[tuple[str, Any], ...]
"""Keys of a study, such as ``privacy.epsilon``, and what they are set to."""


class Runs(Section):
    """``[sweep]``.

    Attributes:
        study: the name of a shipped study, or a file.
        hospitals: a folder of hospitals.
        seeds: with each of which every setting is run.
        method: all combinations, some that are drawn, or some that are looked for.
        runs: how many settings are drawn.
        draw_seed: of those draws.
        threads: torch threads of each site; results depend on it in their last bits.
        memory_gib: that one run takes; bounds how many are made at a time.
        gpus: graphics cards that one run takes; likewise. Less than 1 shares one.
    """

    study: str
    hospitals: str
    seeds: tuple[Annotated[int, Field(ge=0, le=2**63 - 1)], ...] = Field(
        default=(0,), min_length=1, max_length=1000
    )
    method: Literal["grid", "random", "optuna"] = "grid"
    runs: int = Field(default=10, ge=1, le=MOST_RUNS)
    draw_seed: int = Field(default=0, ge=0)
    threads: int = Field(default=1, ge=1, le=1024)
    memory_gib: float = Field(default=0.0, ge=0, le=1e6)
    gpus: float = Field(default=0.0, ge=0, le=1024)


class SweepFile(Section):
    """A whole file."""

    sweep: Runs
    settings: dict[Annotated[str, Field(pattern=_KEY)], Setting] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        for key, values in self.settings.items():
            if isinstance(values, list) and not values:
                raise ValueError(f"settings.{key} has no value")
            if isinstance(values, Between) and self.sweep.method == "grid":
                raise ValueError(
                    f'settings.{key} is a range, which method = "grid" cannot try whole; list '
                    'values, or write method = "random"'
                )
        count = math.prod(len(each) for each in self.settings.values() if isinstance(each, list))
        count = count if self.sweep.method == "grid" else self.sweep.runs
        if count * len(self.sweep.seeds) > MOST_RUNS:
            raise ValueError(
                f"these are {count * len(self.sweep.seeds)} runs, more than {MOST_RUNS}"
            )
        return self

    def each(self) -> Iterator[Overrides]:
        """The settings to run, each once; a search asks for its own."""
        if self.sweep.method == "grid":
            for values in itertools.product(*self.settings.values()):
                yield tuple(zip(self.settings, values, strict=True))
            return
        generator, seen = np.random.default_rng(self.sweep.draw_seed), set[str]()
        for _ in range(self.sweep.runs):
            drawn = tuple((key, _draw(values, generator)) for key, values in self.settings.items())
            if repr(drawn) not in seen:
                seen.add(repr(drawn))
                yield drawn


def _draw(values: list[Any] | Between, generator: np.random.Generator) -> Any:  # noqa: ANN401 - a setting
    if isinstance(values, Between):
        return values.draw(generator)
    return values[int(generator.integers(len(values)))]


def load_sweep(path: Path) -> SweepFile:
    """Read and check the file of a sweep.

    Raises:
        StudyError: it is missing, is not TOML, or a key has no acceptable value.
    """
    return load_toml(path, SweepFile, StudyError)
