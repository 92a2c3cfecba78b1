"""A reply is kept, byte for byte, until the coordinator needs it no more."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.records.approvals import Approvals
from client.records.replies import Replies
from client.records.store import SiteDatabase
from common.wire.messages import LedgerHead, Reply, Request, reply_to_bytes
from tests.client.records.test_approvals import plan_titled

PLAN = plan_titled("Replies")
OTHER = plan_titled("Other replies")


def request(round_number: int, plan_hash: str = PLAN.hash) -> Request:
    return Request("small", plan_hash, round_number, "train", np.zeros(3, dtype=np.float32))


def reply(asked: Request) -> Reply:
    return Reply(
        site="north",
        request=asked.identity,
        study=asked.study,
        plan_hash=asked.plan_hash,
        round=asked.round,
        purpose="train",
        arrays=np.arange(asked.round, dtype=np.int32),
        ledger=LedgerHead(asked.round, "ab" * 32),
        signature=bytes(64),
    )


def store_with(path: Path, *asked: Request) -> SiteDatabase:
    store = SiteDatabase(path / "site.sqlite")
    for plan in (PLAN, OTHER):
        Approvals(store).add(plan)
    for each in asked:
        Replies(store).put(each, reply(each))
    return store


def test_the_same_request_gets_the_same_bytes_after_a_restart(tmp_path: Path) -> None:
    store_with(tmp_path, request(3)).close()
    with SiteDatabase(tmp_path / "site.sqlite") as store:
        found = Replies(store).find(replace(request(3), acknowledged=1, ledger=LedgerHead(1, "x")))
    assert found is not None
    assert reply_to_bytes(found) == reply_to_bytes(reply(request(3)))


def test_another_request_gets_nothing(tmp_path: Path) -> None:
    with store_with(tmp_path, request(3)) as store:
        other = replace(request(3), arrays=np.ones(3, dtype=np.float32))
        assert Replies(store).find(other) is None
        assert Replies(store).find(request(2)) is None


def test_an_acknowledgement_forgets_that_round_and_the_earlier_ones_of_that_plan(
    tmp_path: Path,
) -> None:
    asked = [*(request(number) for number in (1, 2, 3)), request(1, OTHER.hash)]
    with store_with(tmp_path, *asked) as store:
        Replies(store).acknowledge(PLAN.hash, 2)
        kept = [Replies(store).find(each) is not None for each in asked]
    assert kept == [False, False, True, True]


def test_a_reply_is_stored_once(tmp_path: Path) -> None:
    with store_with(tmp_path, request(3)) as store, pytest.raises(sqlite3.IntegrityError):
        Replies(store).put(request(3), reply(request(3)))
