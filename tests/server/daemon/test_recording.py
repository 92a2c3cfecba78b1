"""What a study's process writes to the store, and what it never does."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from client.node_key import public_node_key
from common.errors import RoundError, StudyError
from common.files import sha256
from common.wire.enrolment import SiteCard
from common.wire.messages import SEAL_DIGITS, LedgerHead
from server.daemon.recording import Recorder, StudyStopped, plain
from server.daemon.study_process import fail
from server.store import CoordinatorStore, open_store

PLAN = sha256(b"plan")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[CoordinatorStore]:
    with open_store(f"sqlite:///{tmp_path / 'store.sqlite'}") as opened:
        for number, name in enumerate(("north", "south")):
            key = public_node_key(ec.generate_private_key(ec.SECP384R1()))
            opened.admit(SiteCard(name=name, node_key=key, signing_key=f"{number:064x}"))
        opened.add_study("small", "", 0, ["north", "south"])
        yield opened


@pytest.fixture
def recorder(store: CoordinatorStore) -> Recorder:
    return Recorder(store, "small")


def completed(number: int) -> dict[str, object]:
    return {
        "round": number,
        "seconds": 1.5,
        "sites": ["north"],
        "absences": {"south": "offline"},
        "weights": np.zeros(1000, dtype=np.float32),
    }


def test_a_round_is_written_without_its_weights(
    store: CoordinatorStore, recorder: Recorder
) -> None:
    recorder("round.completed", completed(1))
    (found,) = store.rounds("small")
    assert (found.number, found.sites, found.absences) == (1, ("north",), {"south": "offline"})
    (event,) = store.events("small")
    assert event.round == 1
    assert event.fields == {"seconds": 1.5, "sites": ["north"], "absences": {"south": "offline"}}


def test_a_round_that_is_repeated_is_written_once(
    store: CoordinatorStore, recorder: Recorder
) -> None:
    recorder("round.completed", completed(1))
    recorder("round.completed", completed(1))
    assert len(store.rounds("small")) == 1


def test_figures_are_written_and_what_is_no_number_is_null(
    store: CoordinatorStore, recorder: Recorder
) -> None:
    metrics = {"auc": {"value": 0.5, "low": math.nan, "high": np.float64(1.0)}}
    recorder("evaluation.completed", completed(2) | {"metrics": metrics, "histogram": [[1]]})
    (found,) = store.metrics("small")
    assert found.figures == {"auc": {"value": 0.5, "low": None, "high": 1.0}}
    assert "histogram" not in store.events("small")[0].fields


def test_a_study_waits_then_runs(store: CoordinatorStore, recorder: Recorder) -> None:
    recorder("study.started", {"sites": ["north"], "round": 0, "warnings": []})
    assert store.study("small").state == "waiting"
    recorder("round.started", {"round": 1, "rounds": 2, "sites": 1})
    assert store.study("small").state == "running"


def test_a_study_that_was_stopped_does_not_begin_again(
    store: CoordinatorStore, recorder: Recorder
) -> None:
    store.set_state("small", "stopped")
    with pytest.raises(StudyStopped):
        recorder("round.started", {"round": 1, "rounds": 2, "sites": 1})
    assert store.study("small").state == "stopped"


def test_approvals_are_written_as_they_change(store: CoordinatorStore, recorder: Recorder) -> None:
    recorder("approval.waiting", {"site": "north", "plan": PLAN})
    assert [each.state for each in store.approvals("small")] == ["pending"]
    recorder("approval.given", {"site": "north", "plan": PLAN})
    denied = {"code": "denied", "reason": "refused: denied the plan (denied)"}
    recorder("approval.refused", {"site": "south", "plan": PLAN, **denied})
    said = {each.site: (each.state, each.why) for each in store.approvals("small")}
    assert said == {"north": ("approved", ""), "south": ("denied", denied["reason"])}


def test_of_each_site_the_newest_receipt_is_written(
    store: CoordinatorStore, recorder: Recorder
) -> None:
    for length in (1, 2):
        recorder(
            "receipt.signed",
            {
                "site": "north",
                "ledger": LedgerHead(length, sha256(b"l")),
                "seal": f"{length:0{SEAL_DIGITS}}",
                "signature": bytes(64),
            },
        )
    assert store.newest_receipt("north") is None
    recorder("round.completed", completed(1))
    newest = store.newest_receipt("north")
    assert newest is not None
    assert newest.ledger.length == 2
    assert newest.seal.endswith("2")
    assert len(store.receipts("north")) == 1


def test_replies_of_a_quick_round_are_not_worth_an_event(
    store: CoordinatorStore, recorder: Recorder
) -> None:
    recorder("round.started", {"round": 1, "rounds": 2, "sites": 1})
    recorder("reply.folded", {"round": 1, "site": "north"})
    assert [event.kind for event in store.events("small")] == ["round.started"]


def test_a_failure_says_what_to_do(store: CoordinatorStore) -> None:
    fail(store, "small", RoundError("too few", found="1", wanted="2", remedy="see to the sites"))
    assert store.study("small").state == "failed"
    assert store.events("small")[-1].fields["do"] == "see to the sites"


def test_a_study_file_at_fault_is_mended_and_started_anew(store: CoordinatorStore) -> None:
    """The study that failed is what its file said: going on with it would fail again."""
    fail(store, "small", StudyError("the sum could overflow", remedy="take int64"))
    said = "take int64; then correct the study file and start it under another name"
    assert store.events("small")[-1].fields["do"] == said


def test_whatever_an_event_holds_becomes_json() -> None:
    assert plain({"a": (1, np.int64(2)), "b": math.inf, "c": None, "d": Path("x")}) == {
        "a": [1, 2],
        "b": None,
        "c": None,
        "d": "x",
    }
