"""Every hostile message gets its code and nothing else, costs nothing and disturbs nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import client.requests.round
import client.training.tuning
from client.requests.handler import answer_record
from common.errors import RefusalCode
from common.wire.flower import RecordDict
from common.wire.messages import NO_SEAL, LedgerHead, Reply, reply_from_record, reply_to_bytes
from common.wire.signing import verify
from tests.client.site_fixtures import Hospital
from tests.hostile.case import SILENCE, Case
from tests.hostile.catalogue import CASES
from tests.hostile.sound import Sound, canonical, changed, sent
from tests.hostile.standing import STEPS, Standing, asked, heard, remembered

FEWEST = 45


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Counts what is computed from patients; everything is computed as ever."""
    calls = counted(monkeypatch, client.requests.round, "local_change")
    return counted(monkeypatch, client.requests.round, "counted", calls)


def counted(
    monkeypatch: pytest.MonkeyPatch,
    module: Any,  # noqa: ANN401 - a module
    name: str,
    calls: list[str] | None = None,
) -> list[str]:
    """The calls of a function from here on."""
    original: Callable[..., object] = getattr(module, name)
    into = [] if calls is None else calls

    def counting(*args: object, **named: object) -> object:
        into.append(name)
        return original(*args, **named)

    monkeypatch.setattr(module, name, counting)
    return into


def test_the_catalogue_is_long_and_each_case_says_what_it_would_gain() -> None:
    assert len(CASES) >= FEWEST
    assert all(case.gain and case.name for case in CASES)
    assert {case.code for case in CASES} <= {*RefusalCode, SILENCE}


def test_the_sound_script_is_computed_and_charged(
    standing: Standing, computed: list[str], place: Path
) -> None:
    """The counter that finds nothing below does find something here."""
    nothing_wrong = Case("nothing", "nothing", lambda sound: sent(sound.train()), "ok")
    with standing.at(nothing_wrong, place) as (hospital, site, sound):
        before = len(hospital.rows("charges"))
        assert asked(site, sound.step(1)).code == "ok"
        assert len(hospital.rows("charges")) == before + 1
    assert computed == ["local_change"]


@pytest.mark.matrix(case=lambda case: (case.code, case.after, case.hospital is None))
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_is_refused_with_its_code_alone_and_changes_nothing(
    case: Case, standing: Standing, computed: list[str], place: Path
) -> None:
    with standing.at(case, place) as (hospital, site, sound):
        before, head = remembered(hospital), site.ledger.head()
        purpose, content = case.build(sound)
        answer = answer_record(site, content, purpose)
        if case.code == SILENCE:
            assert answer is None
        else:
            require_a_code_alone(answer, case.code, head, site.key.public)
        assert computed == []
        assert hospital.rows("charges") == before["charges"]
        assert remembered(hospital) == before
        if case.lasts:
            assert asked(site, sound.step(sound.done)).code == case.code
        elif case.hospital is None:
            require_undisturbed(standing, sound, lambda request: asked(site, request))


def require_a_code_alone(content: RecordDict | None, code: str, head: LedgerHead, key: str) -> None:
    """A refusal is one signed record without arrays or text, and says nothing about patients."""
    assert content is not None
    assert set(content) == {"fields"}
    reply = reply_from_record(content)
    assert reply.code == code
    assert (reply.arrays, reply.document) == (None, "")
    assert reply.ledger == head
    assert verify(key, reply.signed_bytes, reply.signature)


def require_undisturbed(standing: Standing, sound: Sound, ask: Callable[[Any], Reply]) -> None:
    """A stored reply is sent again with the same bytes, and the next step is answered as before."""
    for number in range(sound.done):
        if number >= sound.done - 1:
            again = ask(sound.step(number))
            assert reply_to_bytes(again) == reply_to_bytes(standing.replies[number])
    if sound.done < STEPS:
        assert released(ask(sound.step(sound.done))) == released(standing.replies[sound.done])


def released(reply: Reply) -> bytes:
    """All of a reply except what depends on the number of messages before it."""
    return reply_to_bytes(replace(reply, seal=NO_SEAL, signature=b""))


def test_a_flood_of_offers_leaves_nothing_behind(
    standing: Standing, computed: list[str], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is answered from public numbers; nothing is computed for it, and none blocks a study.

    Every offer has a shape that the site never saw, but it measures kernels for only one of them,
    and keeps its choice for only a few.
    """
    timed = counted(monkeypatch, client.training.tuning, "measured")
    # On a busy machine the flood may take longer than the usual rest between measurements.
    resting = partial(client.training.tuning.Choices, rest=math.inf)
    monkeypatch.setattr(client.training.tuning, "Choices", resting)
    nothing = Case(
        "a flood", "a full disk", lambda sound: sent(sound.offer()), "ok", hospital=times
    )
    with standing.at(nothing, place) as (hospital, site, sound):
        before = remembered(hospital)
        files = {path.name for path in hospital.state.iterdir()}
        study = sound.offer().document
        for number in range(100):
            other = ("study.title", f"Study {number}"), ("training.batch_size", number + 1)
            reply = heard(site, sent(sound.offer(changed(study, *other))))
            assert reply is not None
            assert reply.code == "ok"
        assert remembered(hospital) == before
        assert (computed, timed) == ([], ["measured"])
        assert {path.name for path in hospital.state.iterdir()} == files | {"kernels.json"}
        kept = json.loads((hospital.state / "kernels.json").read_bytes())
        assert len(kept) == client.training.tuning.MOST_KEPT
        require_undisturbed(standing, sound, lambda request: asked(site, request))


def times(hospital: Hospital) -> None:
    """The site file asks for measured kernels, which takes up to a minute."""
    hospital.kernels = "measured"


def test_a_hostile_document_is_no_canonical_study(standing: Standing) -> None:
    """The builder changes only what it says it changes."""
    text = standing.sound.plan.text
    assert changed(text) == text == canonical(standing.sound.plan.model_dump(mode="json"))
