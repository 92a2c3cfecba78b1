"""An honest coordinator, and a site that has answered it for a while.

Everything hostile is built from something sound, with one thing changed.
"""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from common.files import canonical_json, sha256
from common.models.networks import initial_weights
from common.plan import Plan
from common.wire.flower import RecordDict
from common.wire.messages import (
    LedgerHead,
    Purpose,
    Request,
    receipt_bytes,
    request_to_record,
)
from common.wire.signing import SigningKey
from tests.common.studies import small_study

STUDY = small_study()
Flat = npt.NDArray[Any]
Sent = tuple[Purpose, RecordDict]
"""A message: the purpose that its type names, and its content."""


def weights(round_number: int) -> npt.NDArray[np.float32]:
    """The global weights that the sound coordinator sends in a round."""
    return initial_weights(STUDY, round_number)


@dataclass(frozen=True)
class Sound:
    """What the coordinator holds after it has asked a site for a number of steps.

    Attributes:
        plan: approved by the site.
        done: how many steps of :meth:`script` the site has answered.
        heads: the site's ledger head after each step, the first one before any.
        seals: the site's sealed head of its audit log after each step.
        key: what the coordinator signs receipts with.
    """

    plan: Plan
    done: int
    heads: tuple[LedgerHead, ...]
    seals: tuple[str, ...]
    key: SigningKey

    @property
    def ledger(self) -> LedgerHead:
        """The newest head that the site has sent."""
        return self.heads[self.done]

    @property
    def seal(self) -> str:
        """The newest sealed head of its audit log."""
        return self.seals[self.done]

    def at(self, done: int) -> Sound:
        """The same coordinator at another step."""
        return replace(self, done=done)

    def step(self, number: int) -> Request:
        """What is asked at a step, the first of which is 0: three rounds and an evaluation."""
        purpose: Purpose = "train" if number < 3 else "evaluate"
        round_number = min(number + 1, 3)
        return Request(
            study=self.plan.study.study.name,
            plan_hash=self.plan.hash,
            round=round_number,
            purpose=purpose,
            arrays=weights(round_number),
            acknowledged=number if number > 1 else 0,
            ledger=self.heads[min(number, self.done)],
        )

    def train(self, **changes: Any) -> Request:  # noqa: ANN401 - a request's fields
        """The next round's request, changed."""
        return replace(self.step(min(self.done, 2)), **{"ledger": self.ledger} | changes)

    def evaluate(self, **changes: Any) -> Request:  # noqa: ANN401
        """The last round's evaluation, changed."""
        fields: dict[str, Any] = {"ledger": self.ledger, "acknowledged": 0}
        return replace(self.step(3), **fields | changes)

    def provide(self, **changes: Any) -> Request:  # noqa: ANN401
        """Frozen weights for the plan, which freezes none, changed."""
        name, frozen = self.plan.study.study.name, weights(1)
        return replace(Request(name, self.plan.hash, 0, "provide", frozen), **changes)

    def close(self, **changes: Any) -> Request:  # noqa: ANN401
        """The end of the study, changed."""
        sound = Request(self.plan.study.study.name, self.plan.hash, 3, "close")
        return replace(sound, **{"ledger": self.ledger} | changes)

    def proposal(self, document: str | None = None, **changes: Any) -> Request:  # noqa: ANN401
        """A plan under its own hash; the approved one if no other is given."""
        text = self.plan.text if document is None else document
        sound = Request(
            study=self.plan.study.study.name,
            plan_hash=sha256(text.encode()),
            round=0,
            purpose="propose",
            document=text,
            ledger=self.ledger,
        )
        return replace(sound, **changes)

    def receipt(
        self,
        ledger: LedgerHead,
        seal: str,
        *,
        site: str | None = None,
        key: SigningKey | None = None,
    ) -> dict[str, Any]:
        """The fields of a request that hold a receipt for two heads."""
        signed = receipt_bytes(site or self.plan.site, ledger, seal)
        signature = (key or self.key).sign(signed)
        return {"receipt": signature, "receipt_ledger": ledger, "receipt_seal": seal}

    def offer(self, document: str | None = None, **changes: Any) -> Request:  # noqa: ANN401
        """The first question about a study."""
        text = canonical(STUDY.model_dump(mode="json")) if document is None else document
        return replace(Request(STUDY.study.name, "", 0, "offer", document=text), **changes)


def sent(request: Request) -> Sent:
    """The request as it travels."""
    return request.purpose, request_to_record(request)


def canonical(document: object) -> str:
    """The canonical form of any value, valid or not."""
    return canonical_json(document).decode()


def changed(text: str, *changes: tuple[str, Any]) -> str:
    """A JSON document with values replaced at places such as ``study.training.rounds``.

    A function is given the value that it replaces.
    """
    document = json.loads(text)
    for place, value in changes:
        *path, last = place.split(".")
        section = document
        for key in path:
            section = section[key]
        # A copy: a later change may be of something inside, and cases share their values.
        section[last] = value(section[last]) if callable(value) else deepcopy(value)
    return canonical(document)
