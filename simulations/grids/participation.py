"""Which hospitals take part in a round: a share of them, by a schedule, with dropouts.

A hospital that takes no part looks offline, as in a deployment. The stated epsilon counts every
round for every hospital, whether it took part or not: no privacy is gained by staying away.

A file of TOML::

    share = 0.5         # of the hospitals that are there, drawn in each round
    dropout = 0.1       # probability that one of them does not answer

    [schedule]          # rounds in which a hospital is there; one that is not named always is
    north = ["1-10", "15"]
"""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Final, Self

import numpy as np
from pydantic import Field, model_validator

from common.errors import StudyError
from common.settings import Section, load_toml
from common.text import Slug
from common.wire.flower import Error, ErrorCode, Message
from simulations.grids.nodes import PassingGrid

# isort: split
# Only after common.wire.flower, which tells Flower to stay off the network.
from flwr.serverapp import Grid

_ROUNDS: Final = r"^[0-9]{1,6}(-[0-9]{1,6})?$"
_STREAM: Final = 0x5A17
"""Sets these draws apart from all others of a seed."""


class Participation(Section):
    """Who takes part.

    Attributes:
        share: of the hospitals that are there, rounded up; drawn in each round.
        dropout: probability that a hospital that was drawn does not answer.
        schedule: by hospital, the rounds in which it is there, as "3" or "1-10".
    """

    share: float = Field(default=1.0, gt=0, le=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    schedule: dict[Slug, tuple[Annotated[str, Field(pattern=_ROUNDS)], ...]] = Field(
        default_factory=dict
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        for name, spans in self.schedule.items():
            for span in spans:
                first, last = _span(span)
                if first > last:
                    raise ValueError(f"schedule.{name}: {span} ends before it begins")
        return self

    def present(self, names: Collection[str], seed: int, round_number: int) -> frozenset[str]:
        """The hospitals that take part in a round."""
        there = sorted(each for each in names if self._is_there(each, round_number))
        rng = np.random.default_rng([_STREAM, seed, round_number])
        count = math.ceil(self.share * len(there))
        drawn = [there[at] for at in sorted(rng.permutation(len(there))[:count])]
        lost = rng.random(len(drawn)) < self.dropout
        return frozenset(name for name, away in zip(drawn, lost, strict=True) if not away)

    def require_enough(self, names: Collection[str], seed: int, rounds: int, least: int) -> None:
        """Refuse what a run could not finish: all of it is drawn already.

        Args:
            names: of the hospitals.
            seed: of the run.
            rounds: of the study.
            least: replies that each round needs.

        Raises:
            StudyError: says in which round too few take part, or whom the schedule names that
                is none of them.
        """
        if unknown := sorted(set(self.schedule) - set(names)):
            raise StudyError(
                "the participation names a hospital that there is not",
                where="[schedule]",
                found=", ".join(unknown),
                wanted=", ".join(sorted(names)),
            )
        few = [
            (number, len(there))
            for number in range(1, rounds + 1)
            if len(there := self.present(names, seed, number)) < least
        ]
        if few:
            number, there_are = few[0]
            raise StudyError(
                "too few hospitals would take part in a round",
                where=f"--participation, round {number}",
                found=f"{there_are} of {len(names)} hospitals; so or worse in {len(few)} of "
                f"{rounds} rounds",
                wanted=f"at least {least} ([aggregation] min_sites of the study)",
                remedy="raise share, lower dropout, change the schedule, or use more hospitals",
            )

    def _is_there(self, name: str, round_number: int) -> bool:
        spans = self.schedule.get(name)
        if spans is None:
            return True
        return any(first <= round_number <= last for first, last in map(_span, spans))

    @property
    def note(self) -> str:
        """What has to be said beside every figure."""
        said = [f"{self.share:.0%} of the hospitals a round"] if self.share < 1 else []
        said += [f"each missing with probability {self.dropout:g}"] if self.dropout else []
        count = len(self.schedule)
        said += [f"a schedule for {count} hospital{'s' if count > 1 else ''}"] if count else []
        return (
            f"PARTICIPATION: {', '.join(said) or 'all hospitals in every round'}; epsilon counts "
            "every round for every hospital"
        )


def load_participation(path: Path) -> Participation:
    """Read a file of TOML, or a trace: a CSV file with the columns ``site`` and ``round``.

    A trace names each round in which a hospital is there; a hospital that it does not name at all
    always is.

    Raises:
        StudyError: the file cannot be used.
    """
    if path.suffix.lower() != ".csv":
        return load_toml(path, Participation, StudyError)
    found: dict[str, list[str]] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for row in csv.DictReader(file):
                found.setdefault(row["site"], []).append(str(int(row["round"])))
    except FileNotFoundError as error:
        raise StudyError("there is no such file", where=path, wanted="a trace (CSV)") from error
    except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
        raise StudyError(
            "the trace cannot be read",
            where=path,
            found=f"{type(error).__name__}: {error}",
            wanted="columns site and round, a row for each round in which a hospital is there",
        ) from error
    return Participation(schedule={name: tuple(spans) for name, spans in found.items()})


@lru_cache(maxsize=4096)
def _span(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    return int(first), int(last or first)


class PartialGrid(PassingGrid):
    """A grid of which some nodes do not answer in some rounds.

    Args:
        grid: of all nodes.
        participation: who takes part.
        seed: of the run, which the draws follow from.
    """

    def __init__(self, grid: Grid, participation: Participation, seed: int) -> None:
        super().__init__(grid)
        self._participation, self._seed = participation, seed
        self._names = {node.node_id: node.name for node in grid.get_nodes()}
        self._absent: dict[str, Message] = {}
        self._present: tuple[int, frozenset[str]] = (-1, frozenset())

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Pass on what is for a node that takes part."""
        return [self._push(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies; of a node that takes no part, that it is offline."""
        for message_id in message_ids:
            request = self._absent.pop(message_id, None)
            if request is None:
                yield from super().pull_messages([message_id])
            else:
                yield Message(Error(ErrorCode.NODE_UNAVAILABLE, ""), reply_to=request)

    def _push(self, message: Message) -> str:
        about = message.metadata
        # Plans, their approval and the end are for everybody; rounds are not.
        if about.message_type in {"train", "evaluate"}:
            number = int(about.group_id)
            if self._present[0] != number:
                here = self._participation.present(self._names.values(), self._seed, number)
                self._present = number, here
            if self._names[about.dst_node_id] not in self._present[1]:
                message_id = f"absent-{number}-{about.message_type}-{about.dst_node_id}"
                message.metadata.__dict__["_message_id"] = message_id
                self._absent[message_id] = message
                return message_id
        (message_id,) = self._grid.push_messages([message])
        return message_id
