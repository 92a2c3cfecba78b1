"""The catalogue from a malicious coordinator, through a real gateway, to a site's daemon.

One daemon for all cases, in the order of the catalogue. What happens at the site is read at the
site: from its ledger, its audit log and the log of its worker.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from common.errors import LinkError
from common.files import sha256
from common.wire.bundle import PROJECT, PYPROJECT
from common.wire.flower import ConfigRecord, Error, Message, RecordDict
from server.superlink import superlink
from tests.hostile.case import Case
from tests.hostile.catalogue import CASES
from tests.hostile.network import Attacker, attack
from tests.hostile.sound import sent
from tests.hostile.standing import STEPS, remembered
from tests.hostile.test_catalogue import require_a_code_alone
from tests.waiting import until

# isort: split
# Only after common.wire.flower, which tells Flower to stay off the network.
from flwr.app.message import make_message
from flwr.cli.build import build_fab_from_files
from flwr.proto.fab_pb2 import Fab

SENT: Final = tuple(case for case in CASES if case.hospital is None and not case.lasts)
UNSENDABLE: Final = {"a document with half a character": LinkError}
"""Content that even Flower's wire format cannot carry."""
FEWEST: Final = 40


@pytest.fixture(scope="module")
def attacker(quick: Path) -> Iterator[Attacker]:
    with attack(quick / "network") as attacking:
        yield attacking


def test_enough_is_sent() -> None:
    assert len(SENT) - len(UNSENDABLE) >= FEWEST


@pytest.mark.matrix(case=lambda case: (case.code, case.after))
@pytest.mark.parametrize("case", SENT, ids=lambda case: case.name)
def test_is_refused_with_its_code_alone_and_costs_nothing(attacker: Attacker, case: Case) -> None:
    sound = attacker.advance(case.after)
    daemon = attacker.daemon
    before, audited = remembered(daemon.hospital), len(daemon.audited)
    if case.name in UNSENDABLE:
        with pytest.raises(UNSENDABLE[case.name]):
            attacker.send(case.build(sound))
        return
    answer = attacker.answer(attacker.send(case.build(sound)))
    assert not answer.has_error()
    require_a_code_alone(answer.content, case.code, sound.ledger, attacker.key)
    assert remembered(daemon.hospital) == before
    came, *others, gone = daemon.audited[audited:]
    assert (came["event"], others) == ("message.in", [])
    assert (gone["event"], gone["code"], gone["why"] != "") == ("message.out", case.code, True)
    assert "epsilon" not in gone


def test_a_message_of_an_unknown_type_is_noted_and_gets_silence(attacker: Attacker) -> None:
    sound = attacker.advance(1)
    before, audited = remembered(attacker.daemon.hospital), len(attacker.daemon.audited)
    content = sent(sound.train())[1]
    kinds = ("query.export", "train.everything", "query")
    pushed = [attacker.push(Message(content, attacker.node, kind, ttl=3600.0)) for kind in kinds]
    assert attacker.ask(sound.offer()).code == "ok"
    assert attacker.grid.pull_messages(pushed) == []
    assert remembered(attacker.daemon.hospital) == before
    noted = [each["event"] for each in attacker.daemon.audited[audited:]]
    assert noted[: 2 * len(kinds)] == ["message.in", "message.silence"] * len(kinds)


def test_four_megabytes_of_junk_are_refused_as_any_other_junk(attacker: Attacker) -> None:
    sound = attacker.advance(1)
    content = RecordDict({"fields": ConfigRecord({"junk": os.urandom(4 * 2**20)})})
    answer = attacker.answer(attacker.send(("train", content)))
    require_a_code_alone(answer.content, "malformed", sound.ledger, attacker.key)


def test_what_is_larger_than_any_honest_part_is_not_read_and_ends_nothing(
    attacker: Attacker,
) -> None:
    sound = attacker.advance(1)
    content = RecordDict({"fields": ConfigRecord({"junk": os.urandom(10 * 2**20)})})
    pushed = attacker.send(("train", content))
    assert attacker.ask(sound.offer()).code == "ok"
    assert attacker.grid.pull_messages([pushed]) == []


def test_an_error_in_the_place_of_content_is_noted_and_gets_silence(attacker: Attacker) -> None:
    sound = attacker.advance(1)
    before, audited = remembered(attacker.daemon.hospital), len(attacker.daemon.audited)
    message = Message(sent(sound.train())[1], attacker.node, "train", ttl=3600.0)
    message_id = attacker.push(
        make_message(metadata=message.metadata, error=Error(99, "do as I say"))
    )
    assert attacker.ask(sound.offer()).code == "ok"
    assert attacker.grid.pull_messages([message_id]) == []
    assert remembered(attacker.daemon.hospital) == before
    noted = [each["event"] for each in attacker.daemon.audited[audited:]]
    assert noted[:2] == ["message.in", "message.silence"]


def test_a_message_for_another_node_reaches_nobody(attacker: Attacker) -> None:
    sound = attacker.advance(1)
    audited = len(attacker.daemon.audited)
    content = sent(sound.train())[1]
    assert not attacker.push(Message(content, attacker.node + 1, "train", ttl=3600.0))
    assert len(attacker.daemon.audited) == audited


def test_all_that_was_computed_is_what_was_approved(attacker: Attacker) -> None:
    """Releases, charges and noise are those of a site that was never attacked."""
    sound = attacker.advance(STEPS)
    daemon = attacker.daemon
    twin = attacker.undisturbed()
    for disturbed, undisturbed in zip(attacker.replies, twin, strict=True):
        assert disturbed.arrays is not None
        assert undisturbed.arrays is not None
        assert disturbed.arrays.tobytes() == undisturbed.arrays.tobytes()
        assert disturbed.ledger == undisturbed.ledger
    assert len(daemon.hospital.rows("charges")) == STEPS
    answered = [each for each in daemon.events if each["event"] == "request.answered"]
    computed = [each for each in answered if each["purpose"] in ("train", "evaluate")]
    assert len(computed) == STEPS
    released = [each for each in daemon.audited if "epsilon" in each]
    assert [(each["purpose"], each["round"]) for each in released] == [
        (sound.step(number).purpose, sound.step(number).round) for number in range(STEPS)
    ]
    assert not any(patient in daemon.log.read_text() for patient in daemon.hospital.patients)


def test_a_stopped_study_is_silent_while_the_site_answers_others(attacker: Attacker) -> None:
    """A request that is sent later gets an answer; requests of the stopped study get none."""
    sound = attacker.advance(1)
    attacker.daemon.command("stop", sound.plan.study.study.name)
    asked = [attacker.send(sent(request)) for request in (sound.step(0), sound.train())]
    assert attacker.ask(sound.offer()).code == "ok"
    assert attacker.grid.pull_messages(asked) == []
    events = [each["event"] for each in attacker.daemon.audited[-6:]]
    assert events.count("message.silence") == len(asked)
    assert "study.stopped" in [each["event"] for each in attacker.daemon.audited]


def test_a_run_that_brings_code_reaches_no_worker(
    attacker: Attacker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes last: a process serves one run, and this is the attacker's second run."""
    sound = attacker.advance(1)
    audited = len(attacker.daemon.audited)
    content = build_fab_from_files({PROJECT: PYPROJECT.encode(), "evil.py": b"import os"})[0]
    evil = Fab(hash_str=sha256(content), content=content)
    monkeypatch.setattr(superlink, "bundle", lambda: evil)
    served = attacker.served
    line = served.line()
    grid = served.superlink.open_grid(served.superlink.start_run("evil"), line)
    try:
        grid.push_messages([Message(sent(sound.train())[1], attacker.node, "train", ttl=3600.0)])
        until(lambda: len(attacker.daemon.audited) > audited)
        (refused,) = attacker.daemon.audited[audited:]
        assert (refused["event"], "evil.py" in refused["found"]) == ("bundle.refused", True)
    finally:
        grid.close()
        line.close()
