"""Frozen weights at a site: they come once, by the plan's hash, and nobody pays before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.site import Site
from common.files import sha256
from common.models.networks import initial_weights, split, trained_count
from common.plan import Plan, write_plan
from common.study.study_file import Study
from common.wire.messages import Request, content_hash
from tests.client.site_fixtures import (
    Hospital,
    answered,
    approved,
    asking,
    code_of,
    offer_of,
    plan_for,
    proposal,
)
from tests.common.studies import small_study

STUDY = small_study(model={"widths": [4], "trainable": ["head"], "adapters": 2})
TRAINED, FROZEN = split(STUDY, initial_weights(STUDY, 0))


def plan_of(site: Site, study: Study = STUDY, frozen: str | None = None) -> Plan:
    digest = content_hash(FROZEN) if frozen is None else frozen
    return write_plan(study, offer_of(site, study), trained_count(study), digest)


def provided(plan: Plan, **changes: Any) -> Request:  # noqa: ANN401 - a request's fields
    fields = {"study": plan.study.study.name, "plan_hash": plan.hash, "round": 0}
    return Request(**{**fields, "purpose": "provide", "arrays": FROZEN, **changes})


def test_a_round_waits_for_them_uncharged_and_sends_what_is_trained_alone(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path / "north")
    with hospital.open() as site:
        plan = plan_of(site)
        assert answered(site, proposal(plan)).code == "ok"
        asked = asking(plan, arrays=TRAINED)
        assert code_of(site, asked) == "not-approved"
        assert hospital.rows("charges") == []
        assert code_of(site, provided(plan)) == "ok"
        assert code_of(site, provided(plan)) == "ok"  # after a restart of the coordinator
        reply = answered(site, asked)
        assert reply.arrays is not None
        assert reply.arrays.shape == TRAINED.shape
        kept = site.state / "frozen" / plan.frozen
        assert kept.read_bytes() == FROZEN.tobytes()
        assert kept.stat().st_mode & 0o077 == 0


def test_a_head_on_a_frozen_network_of_public_weights_is_trained_for_a_round(
    tmp_path: Path,
) -> None:
    model = {"name": "efficientnet_lite0", "blocks": 11, "pooling": "average-spread"}
    data = {"image_size": [32, 32], "mean": 0.5, "std": 0.5}
    study = small_study(model=model | {"trainable": ["head"]}, data=data)
    trained, frozen = split(study, initial_weights(study, 0))
    assert trained.size == 2 * 112 * 2 + 2
    with Hospital(tmp_path / "north").open() as site:
        plan = plan_of(site, study, content_hash(frozen))
        assert answered(site, proposal(plan)).code == "ok"
        assert code_of(site, provided(plan, arrays=frozen)) == "ok"
        reply = answered(site, asking(plan, arrays=trained))
        assert reply.code == "ok"
        assert reply.arrays is not None
        assert reply.arrays.shape == trained.shape
        assert np.abs(reply.arrays).max() > 0


@pytest.mark.parametrize(
    "arrays",
    [None, FROZEN[:-1], FROZEN + 1, FROZEN.astype(np.float64)],
    ids=["none", "too few", "others", "of another type"],
)
def test_others_than_the_plan_names_are_refused(tmp_path: Path, arrays: Any) -> None:  # noqa: ANN401 - whatever a message holds
    with Hospital(tmp_path / "north").open() as site:
        plan = plan_of(site)
        assert answered(site, proposal(plan)).code == "ok"
        assert code_of(site, provided(plan, arrays=arrays)) == "malformed"
        assert not list((site.state / "frozen").glob("*"))


def test_nothing_is_kept_of_a_plan_that_nobody_approved_or_that_freezes_nothing(
    tmp_path: Path,
) -> None:
    with Hospital(tmp_path / "north", policy={"approval": "ask"}).open() as site:
        plan = plan_of(site)
        assert code_of(site, provided(plan)) == "not-approved"
        assert code_of(site, proposal(plan)) == "pending"
        assert code_of(site, provided(plan)) == "pending"
        assert not (site.state / "frozen").exists()
    with Hospital(tmp_path / "south").open() as site:
        whole = approved(site, small_study())
        assert code_of(site, provided(whole)) == "malformed"


def test_numbers_that_are_not_finite_are_refused_although_the_plan_names_them(
    tmp_path: Path,
) -> None:
    bad = FROZEN.copy()
    bad[3] = np.nan
    with Hospital(tmp_path / "north").open() as site:
        plan = plan_of(site, frozen=content_hash(bad))
        assert answered(site, proposal(plan)).code == "ok"
        assert code_of(site, provided(plan, arrays=bad)) == "malformed"


def test_a_damaged_file_is_taken_for_none_and_comes_again(tmp_path: Path) -> None:
    with Hospital(tmp_path / "north").open() as site:
        plan = plan_of(site)
        assert answered(site, proposal(plan)).code == "ok"
        assert code_of(site, provided(plan)) == "ok"
        kept = site.state / "frozen" / plan.frozen
        kept.write_bytes(kept.read_bytes()[:-4] + b"\0\0\0\0")
        assert code_of(site, asking(plan, arrays=TRAINED)) == "not-approved"
        assert code_of(site, provided(plan)) == "ok"
        assert answered(site, asking(plan, arrays=TRAINED)).code == "ok"


def test_they_are_deleted_with_the_study_and_kept_while_another_names_them(tmp_path: Path) -> None:
    other = STUDY.model_copy(update={"study": STUDY.study.model_copy(update={"name": "another"})})
    with Hospital(tmp_path / "north").open() as site:
        plans = [plan_of(site), plan_of(site, other)]
        for plan in plans:
            assert answered(site, proposal(plan)).code == "ok"
            assert code_of(site, provided(plan)) == "ok"
        for plan, left in zip(plans, (1, 0), strict=True):
            ending = Request(plan.study.study.name, plan.hash, 0, "close")
            assert code_of(site, ending) == "ok"
            assert len(list((site.state / "frozen").glob("*"))) == left


@pytest.mark.parametrize("frozen", ["", sha256(b"others")])
def test_a_plan_that_says_otherwise_what_is_frozen_is_not_this_site_s(
    tmp_path: Path, frozen: str
) -> None:
    with Hospital(tmp_path / "north").open() as site:
        assert code_of(site, proposal(plan_of(site, frozen=""))) == "wrong-plan"
        whole = plan_for(site, small_study()).model_copy(update={"frozen": frozen})
        assert code_of(site, proposal(whole)) == ("wrong-plan" if frozen else "ok")
        more = plan_of(site).model_copy(update={"weights": TRAINED.size + FROZEN.size})
        assert code_of(site, proposal(more)) == "wrong-plan"
