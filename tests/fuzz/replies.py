"""What a site sends a coordinator: replies to a round, and offers, signed by the site itself."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from common.errors import RoundError, StudyError
from common.files import canonical_json
from common.models.networks import weights_count
from common.plan import write_plan
from common.wire.flower import ClientApp, Context, Message, RecordDict, context
from common.wire.messages import (
    LedgerHead,
    Reply,
    Request,
    reply_from_record,
    reply_to_record,
    request_from_record,
)
from common.wire.signing import SigningKey
from server.study.collect import Absence, collect
from server.study.context import StudyContext
from server.study.round_zero import make_plans
from server.study.verify import NOTHING, OFFER, ReplyShape, counts_shape, update_shape
from simulations.grids.in_process import LocalGrid
from tests.common.studies import small_study
from tests.fuzz.messages import record_bytes
from tests.fuzz.mutation import Draw, bytes_of, proto_of, tree_of
from tests.fuzz.studies import OFFER as SOUND
from tests.fuzz.target import Target, require_help

# isort: split
# Only after common.wire.flower, which tells Flower to stay off the network.
from flwr.common.serde import recorddict_from_proto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto

KEY: Final = SigningKey(bytes(range(32)))
STUDY: Final = small_study(aggregation={"min_sites": 1, "round_timeout": "5s"})


class _Coordinator(Target):
    """One that asks one site, which answers with what it is told to."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        app = ClientApp()
        for question in ("offer", "propose", "amend", "close"):
            app.query(question)(self._answer)
        app.train()(self._answer)
        app.evaluate()(self._answer)
        self.told: list[str] = []
        self.content: Any = None
        self.context = StudyContext(
            LocalGrid(app, {1: ("north", context(1, 1, node={}, run={}))}),
            {"north": KEY.public},
            timeout="5s",
            observer=lambda event, _: self.told.append(event),
        )
        self.offer = SOUND.model_copy(update={"public_key": KEY.public})
        self.plan = write_plan(STUDY, self.offer, weights_count(STUDY))

    def _answer(self, message: Message, _context: Context) -> Message:
        request = request_from_record(message.content)
        return Message(self.content(request), reply_to=message)


class Replies(_Coordinator):
    """A reply to any request, with fields and arrays that say anything, signed or not."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        study, plan = STUDY.study.name, self.plan.hash
        weights = np.zeros(self.plan.weights, dtype=np.float32)
        self.asked: tuple[tuple[Request, ReplyShape], ...] = (
            (Request(study, plan, 1, "train", arrays=weights), update_shape(self.plan)),
            (
                Request(study, plan, 3, "evaluate", arrays=weights),
                counts_shape(self.plan),
            ),
            (Request(study, plan, 0, "propose", document=self.plan.text), NOTHING),
            (Request(study, "", 0, "offer", document="{}"), OFFER),
        )

    def samples(self) -> Sequence[bytes]:
        return list(self._sound())

    def _sound(self) -> Iterator[bytes]:
        for number, (request, shape) in enumerate(self.asked):
            arrays = np.ones(shape.length, dtype=shape.dtype) if shape.length else None
            reply = Reply(
                site="north",
                request=request.identity,
                study=request.study,
                plan_hash=request.plan_hash,
                round=request.round,
                purpose=request.purpose,
                arrays=arrays,
                document="{}" if shape.document else "",
                ledger=LedgerHead(6, "b" * 64),
            )
            for code in ("ok", "pending", "policy", "unknown"):
                coded = (
                    replace(reply, code=code)
                    if code == "ok"
                    else replace(reply, code=code, arrays=None, document="")
                )
                yield bytes([number]) + record_bytes(reply_to_record(_signed(coded)))

    def spoil(self, draw: Draw, data: bytes) -> bytes:
        if draw.random() < 0.1:
            return data[:1] + bytes_of(draw, data[1:])
        proto = RecordDictProto.FromString(data[1:])
        proto_of(draw, proto)
        return data[:1] + proto.SerializeToString()

    def take(self, data: bytes) -> str:
        request, shape = self.asked[data[0] % len(self.asked)]
        try:
            content = recorddict_from_proto(RecordDictProto.FromString(data[1:]))
        except Exception:  # noqa: BLE001 - Flower's own reader
            return "no record"
        said = []
        for sent in (content, _resigned(content)):
            self.content = lambda _, sent=sent: sent
            ((site, answer),) = collect(self.context, {"north": request}, {"north": shape})
            assert site == "north"
            assert not isinstance(answer, Absence) or answer.reason, "an absence without a reason"
            said.append("absent" if isinstance(answer, Absence) else "taken")
        return " and ".join(said)


def _resigned(content: RecordDict) -> RecordDict:
    """The same, signed by the site, where it can be read as a reply."""
    try:
        return reply_to_record(_signed(reply_from_record(content)))
    except Exception:  # noqa: BLE001 - nothing to sign
        return content


def _signed(reply: Reply) -> Reply:
    return reply.with_signature(KEY.sign(reply.signed_bytes))


class Offers(_Coordinator):
    """An offer that says anything, of which a plan would be written."""

    errors = (RoundError, StudyError)

    def samples(self) -> Sequence[bytes]:
        return [canonical_json(self.offer.model_dump(mode="json"))]

    def spoil(self, draw: Draw, data: bytes) -> bytes:
        tree = tree_of(draw, json.loads(data))
        return json.dumps(tree).encode("utf-8", "replace")

    def take(self, data: bytes) -> str:
        document = data.decode("utf-8", "replace") or "{}"

        def answered(request: Request) -> RecordDict:
            reply = Reply(
                "north", request.identity, request.study, request.plan_hash, 0, "offer",
                document=document,
            )  # fmt: skip
            return reply_to_record(_signed(reply))

        self.content = answered
        try:
            plans, absences = make_plans(self.context, STUDY, self.plan.weights, {"north": 10**9})
        except RoundError as error:
            require_help(error)
            return "too few"
        assert plans or absences
        return "planned"
