"""What a dishonest coordinator does to a hospital: the catalogue of hostile messages, and floods.

It has a study's run in hand, so whatever it sends comes as an honest one's would.
"""

from __future__ import annotations

import os
from typing import Final

from common.wire.flower import ConfigRecord, Message, RecordDict
from common.wire.messages import reply_from_record
from tests.hostile.case import Case
from tests.hostile.network import Attacker
from tests.hostile.sound import changed, sent
from tests.hostile.test_through_the_gateway import SENT, UNSENDABLE
from tests.siege.move import Move

EVERY: Final = 7
"""Each so-manieth of the catalogue is a move: those that stand together are of one kind."""
STEP: Final = 1
"""Steps of the sound script that the hospital has answered, and answers: moves have no order."""
FLOOD: Final = 80
TRACES: Final = ("message.in", "message.out", "message.silence", "message.unreadable")


def _sends(case: Case) -> Move[Attacker]:
    def send(who: Attacker) -> None:
        sound = who.advance(STEP)
        answer = who.answer(who.send(case.build(sound)))
        assert not answer.has_error(), case.name
        code = reply_from_record(answer.content).code
        assert code == case.code, f"{case.name}: {code}, wanted {case.code}"

    return Move(case.name, send, TRACES)


def _junk(who: Attacker) -> None:
    content = RecordDict({"fields": ConfigRecord({"junk": os.urandom(2**21)})})
    assert reply_from_record(who.answer(who.send(("train", content))).content).code == "malformed"


def _unknown_type(who: Attacker) -> None:
    sound = who.advance(STEP)
    who.push(Message(sent(sound.train())[1], who.node, "query.export", ttl=60.0))
    _is_there(who)


def _floods(who: Attacker) -> None:
    """Proposals that differ in a name, all at once."""
    sound = who.advance(STEP)
    names = [f"flood-{number}" for number in range(FLOOD)]
    texts = [changed(sound.plan.text, ("study.study.name", name)) for name in names]
    asked = [
        who.send(sent(sound.proposal(text, study=name)))
        for text, name in zip(texts, names, strict=True)
    ]
    for message in asked:
        who.answer(message)


def _proposes_and_takes_back(who: Attacker) -> None:
    sound = who.advance(STEP)
    text = changed(sound.plan.text, ("study.study.title", "taken back"))
    proposal = sound.proposal(text)
    who.ask(proposal)
    who.ask(sound.close(plan_hash=proposal.plan_hash))


def _large_images(who: Attacker) -> None:
    sound = who.advance(STEP)
    text = changed(sound.plan.text, ("study.data.image_size", [2048, 2048]))
    assert who.ask(sound.proposal(text)).code != "ok"


def _is_there(who: Attacker) -> None:
    """An honest question has its answer: nobody is shut out."""
    assert who.ask(who.advance(STEP).offer()).code == "ok"


def script() -> tuple[Move[Attacker], ...]:
    """The moves, each of which a site answers with one code, or not at all."""
    sendable = [case for case in SENT if case.after == STEP and case.name not in UNSENDABLE]
    return (
        *map(_sends, sendable[::EVERY]),
        Move("two megabytes of junk", _junk, TRACES),
        Move("a message of an unknown type", _unknown_type, TRACES),
        Move("eighty proposals at once", _floods, TRACES),
        Move("proposes and takes back", _proposes_and_takes_back, TRACES),
        Move("images that fit into no memory", _large_images, TRACES),
        Move("asks what anybody may", _is_there, TRACES),
    )
