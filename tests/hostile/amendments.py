"""Hostile amendments: what a coordinator might add when a site's numerics really changed."""

from __future__ import annotations

from typing import Any, Final

from common.amendment import Amendment
from common.numerics import EngineChoice, Ticks
from common.wire.messages import LedgerHead, Request
from tests.client.site_fixtures import Hospital
from tests.hostile.case import Case
from tests.hostile.sound import Sound, sent

BESIDE: Final = frozenset({"study", "ledger", "document", "record"})
"""Changes that concern no field of the amendment itself."""


def compute_with_two_threads(hospital: Hospital) -> None:
    """The site's numerics change from now on."""
    hospital.threads = 2


def amending(name: str, code: str, gain: str, **changes: Any) -> Case:  # noqa: ANN401 - a field's value
    """The amendment that an honest coordinator would propose, with one thing changed."""

    def build(sound: Sound) -> Any:  # noqa: ANN401 - a message
        plan = sound.plan
        amendment = Amendment(
            plan=plan.hash,
            number=1,
            before=plan.hash,
            after=1,
            numerics=plan.numerics.model_copy(update={"threads": 2} | changes.get("record", {})),
        ).model_copy(update={key: changes[key] for key in changes if key not in BESIDE})
        document = changes.get("document", lambda text: text)(amendment.text)
        return sent(
            Request(
                changes.get("study", plan.study.study.name),
                plan.hash,
                0,
                "amend",
                document=document,
                ledger=changes.get("ledger", sound.ledger),
            )
        )

    return Case(name, gain, build, code, hospital=compute_with_two_threads)


AMENDMENTS: Final = (
    amending(
        "an amendment of another plan",
        "wrong-plan",
        "other bits for a study that was not amended",
        plan="00" * 32,
    ),
    amending(
        "an amendment under another study's name",
        "wrong-plan",
        "a false name in the log",
        study="other",
    ),
    amending(
        "an amendment that has seen a longer ledger",
        "ledger-behind",
        "rounds on a ledger that lost entries",
        ledger=LedgerHead(9, "00" * 32),
    ),
    amending(
        "an amendment out of its turn",
        "wrong-plan",
        "noise whose key two amendments share",
        number=2,
    ),
    amending(
        "an amendment on what was never agreed on",
        "wrong-plan",
        "a chain that the site does not know",
        before="00" * 32,
    ),
    amending(
        "an amendment that changes nothing",
        "wrong-plan",
        "new noise for the same round, any number of times",
        record={"threads": 1},
    ),
    amending(
        "no amendment",
        "malformed",
        "anything that a site reads into it",
        document=lambda _text: "{}",
    ),
    amending(
        "an amendment that is not in canonical form",
        "malformed",
        "two hashes for one amendment",
        document=lambda text: text + "\n",
    ),
    amending(
        "an amendment to another tick",
        "numerics",
        "how long a round takes",
        record={"ticks": Ticks(train=1, evaluate=1)},
    ),
    amending(
        "an amendment to what the site does not compute with",
        "numerics",
        "a person's consent to something impossible",
        record={"threads": 3},
    ),
    amending(
        "an amendment to a tick that the site has not measured",
        "numerics",
        "replies that leave as soon as they are done, or a site that sleeps for a day",
        record={"ticks": Ticks(train=86_400_000, evaluate=1)},
    ),
    amending(
        "an amendment to a way of forming gradients that the site has not chosen",
        "numerics",
        "memory beyond what the site gives, and rounds that overrun their tick",
        record={"choice": EngineChoice(tile=64)},
    ),
)
