"""The ``ClientApp``: whatever comes in, a reply or a bare code goes out, and never an exception."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import client.app
from client.administration.service import stop
from client.app import build
from client.records import audit_log
from client.site import Site
from common.wire.flower import (
    Array,
    ArrayRecord,
    ClientApp,
    ConfigRecord,
    Context,
    ErrorCode,
    Message,
    RecordDict,
    context,
    identify,
)
from common.wire.messages import Reply, Request, reply_from_record, request_to_record
from tests.client.site_fixtures import (
    Hospital,
    approved,
    asking,
    offer_request,
    plan_for,
    proposal,
)
from tests.common.studies import small_study

# isort: split
# Only after common.wire.flower, which tells Flower to stay off the network.
from flwr.app import MetricRecord

STUDY = small_study()
TYPES = ("query.offer", "query.propose", "query.amend", "query.close", "train", "evaluate")


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    made = Hospital(tmp_path_factory.mktemp("hospital"))
    made.open().close()
    return made


@pytest.fixture(scope="module", autouse=True)
def this_process_is_a_node() -> None:
    identify(run_id=1, node_id=1)


def node(hospital: Hospital, **changes: str) -> Context:
    config = {
        "site": str(hospital.folder / "site.toml"),
        "state": str(hospital.state),
        "known-seed": "7",
    }
    return context(1, 1, node=config | changes, run={})


def message(content: RecordDict | Request, kind: str) -> Message:
    record = request_to_record(content) if isinstance(content, Request) else content
    return Message(record, 1, kind)


@pytest.fixture(scope="module")
def opened(hospital: Hospital) -> Iterator[dict[str, Site]]:
    sites: dict[str, Site] = {}
    yield sites
    for site in sites.values():
        site.close()


@pytest.fixture(scope="module")
def app(opened: dict[str, Site]) -> ClientApp:
    return build(opened)


def ask(app: ClientApp, hospital: Hospital, content: RecordDict | Request, kind: str) -> Reply:
    answered = app(message(content, kind), node(hospital))
    assert not answered.has_error()
    return reply_from_record(answered.content)


def test_a_study_goes_through_the_app_from_offer_to_close(tmp_path: Path) -> None:
    hospital, sites = Hospital(tmp_path), dict[str, Site]()
    hospital.open().close()
    app = build(sites)
    assert ask(app, hospital, offer_request(STUDY), "query.offer").code == "ok"
    (site,) = sites.values()
    plan = plan_for(site, STUDY)
    assert site.known_seed == 7
    assert ask(app, hospital, proposal(plan), "query.propose").code == "ok"
    for number in (1, 2, 3):
        assert ask(app, hospital, asking(plan, number), "train").code == "ok"
    assert ask(app, hospital, asking(plan, 3, "evaluate"), "evaluate").code == "ok"
    close = Request("small", plan.hash, 3, "close", acknowledged=3)
    assert ask(app, hospital, close, "query.close").code == "ok"
    assert ask(app, hospital, asking(plan, 3), "train").code == "not-approved"
    assert len(hospital.rows("charges")) == 4
    assert list(sites.values()) == [site]
    site.close()


@pytest.mark.parametrize("kind", TYPES)
def test_a_request_in_a_message_of_another_type_is_refused(
    app: ClientApp, hospital: Hospital, opened: dict[str, Site], kind: str
) -> None:
    ask(app, hospital, offer_request(STUDY), "query.offer")
    (site,) = opened.values()
    plan = approved(site, STUDY)
    requests = {
        "query.offer": offer_request(STUDY),
        "query.propose": proposal(plan),
        "query.close": Request("small", plan.hash, 0, "close"),
        "train": asking(plan),
        "evaluate": asking(plan, 3, "evaluate"),
    }
    for purpose, request in requests.items():
        if purpose != kind:
            assert ask(app, hospital, request, kind).code == "malformed"
    assert hospital.rows("charges") == []
    assert {row["state"] for row in hospital.rows("approvals")} == {"approved"}


VALUES = (
    st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.booleans()
    | st.text(max_size=5)
    | st.binary(max_size=5)
    | st.lists(st.integers(0, 3), max_size=2)
)
FIELDS = st.sampled_from(
    [
        *("study", "plan_hash", "round", "purpose", "acknowledged"),
        *("ledger_length", "ledger_hash", "document", "surplus"),
        *("receipt", "receipt_ledger_length", "receipt_seal"),
    ]
)
ARRAYS = st.builds(
    Array,
    st.sampled_from(["float32", "int64", "float64", "object", "", "<f4"]),
    st.lists(st.integers(-2, 5), max_size=2).map(tuple),
    st.sampled_from(["little-endian", "numpy.ndarray", ""]),
    st.binary(max_size=20),
)


def config(fields: dict[str, Any]) -> ConfigRecord:
    return ConfigRecord(fields)


RECORDS = st.one_of(
    st.dictionaries(FIELDS, VALUES, max_size=9).map(config),
    st.dictionaries(st.sampled_from(["flat", "other"]), ARRAYS, max_size=2).map(ArrayRecord),
    st.integers(0, 3).map(lambda value: MetricRecord({"round": value})),
)
CONTENTS = st.dictionaries(st.sampled_from(["fields", "arrays", "more"]), RECORDS, max_size=3)


def sound_but_for(changes: dict[str, Any]) -> RecordDict:
    record = request_to_record(Request("small", "ab" * 32, 1, "train", np.zeros(3, np.float32)))
    record["fields"] = ConfigRecord(dict(record.config_records["fields"]) | changes)
    return record


@given(
    content=CONTENTS.map(RecordDict)
    | st.dictionaries(FIELDS, VALUES, min_size=1, max_size=2).map(sound_but_for),
    kind=st.sampled_from(TYPES),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
def test_no_content_makes_the_app_raise_or_say_more_than_a_code(
    app: ClientApp, hospital: Hospital, content: RecordDict, kind: str
) -> None:
    reply = ask(app, hospital, content, kind)
    assert reply.code != "ok"
    assert reply.arrays is None
    assert reply.document == ""


def test_where_the_site_is_silent_the_answer_is_flowers_own_for_a_node_that_is_away(
    tmp_path: Path,
) -> None:
    """The state folder is the one that the site file names."""
    hospital, sites = Hospital(tmp_path), dict[str, Site]()
    hospital.open().close()
    config = {"site": str(hospital.folder / "site.toml"), "known-seed": "7"}
    here, app = context(1, 1, node=config, run={}), build(sites)
    app(message(offer_request(STUDY), "query.offer"), here)
    (site,) = sites.values()
    assert site.state == hospital.state
    plan = approved(site, STUDY)
    assert not app(message(asking(plan), "train"), here).has_error()
    stop(site, "small", by="the administrator")
    for request, kind in ((asking(plan), "train"), (proposal(plan), "query.propose")):
        answered = app(message(request, kind), here)
        assert (answered.error.code, answered.error.reason) == (ErrorCode.NODE_UNAVAILABLE, "")
    site.close()


@pytest.mark.parametrize("kind", ["query.export", "train.everything", "query", "evaluate.x"])
def test_a_message_of_a_type_that_nothing_answers_is_noted_and_gets_silence(
    app: ClientApp, hospital: Hospital, opened: dict[str, Site], kind: str
) -> None:
    ask(app, hospital, offer_request(STUDY), "query.offer")
    (site,) = opened.values()
    before = site.audit.head.length
    answered = app(message(offer_request(STUDY), kind), node(hospital))
    assert (answered.error.code, answered.error.reason) == (ErrorCode.NODE_UNAVAILABLE, "")
    came, silent = audit_log.entries(site.state, before)
    assert (came.event, came.fields["unreadable"]) == ("message.in", True)
    assert silent.event == "message.silence"


@pytest.mark.parametrize(
    "changes",
    [
        {"site": "/nowhere/site.toml"},
        {"known-seed": "8"},
        {"known-seed": "seven"},
        {"state": "/dev/null/state"},
    ],
    ids=str,
)
def test_a_site_that_cannot_be_opened_is_silent(
    hospital: Hospital, changes: dict[str, str]
) -> None:
    with structlog.testing.capture_logs() as logs:
        answered = build()(message(offer_request(STUDY), "query.offer"), node(hospital, **changes))
    assert (answered.error.code, answered.error.reason) == (ErrorCode.NODE_UNAVAILABLE, "")
    assert len(logs) == 1


def test_a_node_that_names_no_site_is_silent() -> None:
    empty = context(1, 1, node={}, run={})
    answered = build()(message(offer_request(STUDY), "query.offer"), empty)
    assert (answered.error.code, answered.error.reason) == (ErrorCode.NODE_UNAVAILABLE, "")


def test_the_installed_app_is_one_of_these() -> None:
    assert isinstance(client.app.app, ClientApp)
