"""The time slot (tick) of a round and of an evaluation, measured on made-up patients.

A tick follows from public things alone: the study, a data set's public numbers, and how fast this
machine is on random input. Some tiles of the largest batch and of the largest evaluation go through
the functions that a round uses, and the rest is multiplied. Work for each patient and file besides
is allowed for. The sum is multiplied by :data:`SAFETY` and rounded up to :data:`STEP`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy.typing as npt
from pydantic import Field, TypeAdapter

from client.training.local import require_probed
from client.training.rehearsal import MadeUp, mechanism_of
from client.training.sampling import RoundStreams, draw
from client.training.tuning import images_of, network_of, remembered
from common import numerics
from common.files import sha256, write_atomic
from common.models.networks import split
from common.numerics import LONGEST_TICK, NumericsRecord, Ticks
from common.privacy.mechanisms import most_sampled
from common.settings import Section
from common.study.study_file import PatientPrivacy, Study

SAFETY: Final = 1.5
"""How much longer a tick is than what was measured: a machine is sometimes slower."""
STEP: Final = 100
"""Milliseconds of which a tick is a multiple."""
REPEATS: Final = 3
"""How often each thing is timed; the longest time counts."""
LONG: Final = 3.0
"""Seconds after which nothing is timed again."""
TILES: Final = 2
"""Tiles that are timed; a step's others take as long."""
STEPS: Final = 3
"""Steps that are timed."""
COINS: Final = 1000
"""Patients who toss a coin while it is timed."""
WRITES: Final = 3
"""How often something is made durable: the charge, the reply, what is noted."""
BESIDE: Final = 5e-5
"""Seconds for each patient that there may be: to look at the entries of some files and at the
cohort."""
MACHINE: Final = {"threads", "choice", "cpu_capability"}
"""Fields of a numerics record that speed follows from. Not versions: a plan that is approved again
after an update must find the ticks that it has."""


class DataSetSize(NamedTuple):
    """Public numbers of a data set.

    Attributes:
        declared: patients in training, rounded down.
        most: patients in training, at most.
        validated: patients in validation, at most.
    """

    declared: int
    most: int
    validated: int


def largest_sample(study: Study, size: DataSetSize) -> int:
    """The most patients whom a step works on: the plan's own cap."""
    return most_sampled(study, size.declared, size.most)


def largest_evaluation(study: Study, size: DataSetSize) -> int:
    """The most images that an evaluation looks at."""
    return size.validated * study.evaluation.images_per_patient


class Speeds(Section):
    """What was measured for a shape of study, in seconds.

    Attributes:
        round: of a round without patients, of one step.
        step: one step more.
        tile: one tile of patients more, in a step.
        coin: whether a patient is drawn.
        evaluation: of an evaluation without patients.
        images: one tile of images more, in an evaluation.
        seal: a reply is encoded, and all that is kept of it made durable.
    """

    round: float = Field(ge=0)
    step: float = Field(ge=0)
    tile: float = Field(ge=0)
    coin: float = Field(ge=0)
    evaluation: float = Field(ge=0)
    images: float = Field(ge=0)
    seal: float = Field(ge=0)

    def ticks(self, study: Study, size: DataSetSize, tile: int) -> Ticks:
        """The ticks of a study of this shape.

        Args:
            study: its steps and its batch are counted.
            size: how many patients there may be.
            tile: patients of a tile.
        """
        tiles = math.ceil(largest_sample(study, size) / tile)
        steps = study.training.local_steps
        train = self.round + steps * (self.step + tiles * self.tile + size.most * self.coin)
        images = math.ceil(largest_evaluation(study, size) / (tile * images_of(study)))
        evaluate = self.evaluation + images * self.images
        beside = self.seal + size.most * BESIDE
        return Ticks(train=rounded(train + beside), evaluate=rounded(evaluate + beside))


def rounded(seconds: float) -> int:
    """A tick, in milliseconds, for what was measured to take so long."""
    return min(LONGEST_TICK, STEP * math.ceil(SAFETY * seconds * 1000 / STEP))


_KEPT: Final = TypeAdapter(dict[str, Speeds])


@dataclass(frozen=True)
class Clocks:
    """What was measured for each shape of study, kept so that a plan finds what its offer said.

    Attributes:
        path: a JSON file, made when there is something to keep.
    """

    path: Path

    def of(self, study: Study, size: DataSetSize, computed: NumericsRecord) -> Ticks:
        """A study's ticks on this machine; none where the study is not private.

        Args:
            study: a proposed one.
            size: how many patients there may be.
            computed: how the site would compute; this process does from now on.

        Raises:
            ModelError: the model cannot be trained privately.
        """
        if not isinstance(study.privacy, PatientPrivacy):
            return Ticks()
        shape = {
            **network_of(study),
            "images": study.training.images_per_patient,
            "augmentation": study.training.augmentation.model_dump(mode="json"),
            "encoding": study.fixed_point.model_dump(mode="json"),
            "on": computed.model_dump(mode="json", include=MACHINE),
        }

        def measured() -> Speeds:
            numerics.apply(computed)
            return _Trial(study, computed, self.path).speeds()

        speeds = remembered(self.path, _KEPT, shape, measured)
        return speeds.ticks(study, size, computed.choice.tile)


class _Trial:
    """Made-up patients of a study, and what a round does with them.

    Args:
        study: whose shape is tried.
        computed: how the site would compute.
        beside: a file of the state folder, beside which is written what a reply costs to keep.
    """

    def __init__(self, study: Study, computed: NumericsRecord, beside: Path) -> None:
        self._study, self._choice, self._beside = study, computed.choice, beside
        probed = require_probed(study, mechanism_of(study, 1.0), self._choice)
        many = TILES * self._choice.tile * images_of(study)
        self._made_up = MadeUp(probed, patients=max(many, COINS), images=min(many, COINS))

    def speeds(self) -> Speeds:
        """Time everything."""
        rows = self._choice.tile * images_of(self._study)
        none = took(partial(self._made_up.train, 1, 0))
        steps = took(partial(self._made_up.train, STEPS, 0))
        tiles = took(partial(self._made_up.train, 1, TILES * self._choice.tile))
        nobody = took(partial(self._made_up.evaluate, 0))
        images = took(partial(self._made_up.evaluate, TILES * rows))
        coins = took(self._toss)
        return Speeds(
            round=max(none),
            step=_more(steps, none, STEPS - 1),
            tile=_more(tiles, none, TILES),
            coin=max(coins) / COINS,
            evaluation=max(nobody),
            images=_more(images, nobody, TILES),
            seal=max(took(self._seal)),
        )

    def _toss(self) -> None:
        """See of many patients that none is drawn."""
        # No coin of 53 bits but 0 is below it: nobody is drawn, and only the coins take time.
        rare, given = mechanism_of(self._study, 1e-300), self._made_up
        found = draw(
            self._study,
            rare,
            given.images,
            given.patients[:COINS],
            streams=RoundStreams(bytes(32)),
            step=0,
            tile=self._choice.tile,
            masks=given.masks,
        )
        list(found)

    def _seal(self) -> None:
        trained, _ = split(self._study, self._made_up.weights)
        encoded: npt.NDArray[Any] = self._study.fixed_point.encode(trained)
        place = self._beside.with_name("trial")
        try:
            for _ in range(WRITES):
                write_atomic(place, encoded.tobytes())
                sha256(encoded.tobytes())
        finally:
            place.unlink(missing_ok=True)


def took(work: Callable[[], None]) -> list[float]:
    """Seconds that it took, several times, but for the first; fewer times where it takes long.

    Nobody has approved what is tried here, and what takes long varies by less.
    """
    times: list[float] = []
    while len(times) < 1 + REPEATS and sum(times) < LONG:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    # Not the first, in which libraries allocate and choose; unless one took so long that it is all.
    return times[1:] or times


def _more(longer: list[float], shorter: list[float], times: int) -> float:
    """What one more costs: the longest of the one over the shortest of the other."""
    # Pessimistic: a tick that is too short shows how long a round took, one too long only waits.
    return max(0.0, max(longer) - min(shorter)) / times
