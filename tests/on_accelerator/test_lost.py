"""A card that fails costs nobody anything, and the process that lost it ends."""

from __future__ import annotations

import asyncio
import socket
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from client.administration.service import status
from client.daemon import worker
from client.daemon.executor import SiteExecutor
from client.process_limits import CardFailure, ProcessLimits
from client.requests import gates
from client.requests.handler import answer
from client.site import Site, open_site
from client.training import features, rehearsal
from client.training.tuning import images_of
from common.errors import ModelError, SiteError
from common.plan import Plan
from common.wire.messages import Request
from tests.client.site_fixtures import (
    Hospital,
    answered,
    approved,
    asking,
    code_of,
    frozen_of,
)
from tests.common.studies import small_study
from tests.on_accelerator.accelerator import FAULTS, Accelerator

PRODUCT = torch.ops.aten.mm.default
ASSERTED = "CUDA error: device-side assert triggered"


def lose() -> None:
    """From now on the card answers with an error, as after an assert in a kernel."""

    def failing(*_: object, **__: object) -> torch.Tensor:
        raise torch.AcceleratorError(ASSERTED)

    FAULTS[PRODUCT] = failing


@pytest.fixture
def hospital(tmp_path: Path, accelerator: Accelerator) -> Hospital:
    del accelerator
    return Hospital(tmp_path / "north", device={"gpu": 0})


@pytest.fixture
def site(hospital: Hospital) -> Iterator[Site]:
    """As a worker has it open."""
    hospital.open().close()
    path = hospital.folder / "site.toml"
    with open_site(path, hospital.state, hospital.seed, serves=True) as opened:
        yield opened


@pytest.fixture
def plan(site: Site) -> Plan:
    return approved(site, small_study())


def test_a_round_on_a_card_that_failed_is_not_charged_and_the_worker_ends(
    site: Site, plan: Plan, hospital: Hospital
) -> None:
    lose()
    for number in (1, 2):
        with pytest.raises(CardFailure):
            answer(site, asking(plan, number))
    assert hospital.rows("charges") == []
    FAULTS.clear()  # as in the worker that is started next
    assert code_of(site, asking(plan)) == "ok"
    assert len(hospital.rows("charges")) == 1


@pytest.mark.parametrize("fault", ["an error", "another product"])
def test_where_no_worker_can_end_the_site_is_silent_and_its_people_are_told(
    hospital: Hospital, fault: str
) -> None:
    with hospital.open() as site:
        plan = approved(site, small_study())
        lose()
        if fault == "another product":
            FAULTS[PRODUCT] = lambda *given: PRODUCT(*given) + 1
        assert code_of(site, asking(plan)) == "silence"
        assert hospital.rows("charges") == []
        ((told, do), *_) = status(site).warnings
        assert "is there, but it does not compute" in told
        assert "Xid" in do


def test_a_card_that_fails_in_a_round_ends_the_worker_and_the_next_charges_nothing_more(
    site: Site, plan: Plan, hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any, **__: Any) -> Any:
        lose()
        raise RuntimeError(ASSERTED)

    with monkeypatch.context() as patched, pytest.raises(CardFailure):
        patched.setattr("client.requests.round.local_change", failing)
        answer(site, asking(plan))
    FAULTS.clear()
    with hospital.open() as again:
        assert code_of(again, asking(plan)) == "ok"
    assert len(hospital.rows("charges")) == 1


def test_a_failure_that_is_not_the_cards_is_silence_as_ever(
    site: Site, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a defect")

    monkeypatch.setattr("client.requests.round.local_change", failing)
    assert code_of(site, asking(plan)) == "silence"


def test_a_model_is_not_refused_for_what_the_card_did(
    site: Site, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The probe takes each error on random input for the model's."""

    def failing(*_: object) -> None:
        lose()
        raise ModelError("it fails on random input") from RuntimeError(ASSERTED)

    monkeypatch.setattr(gates, "require_ready", failing)
    with pytest.raises(CardFailure):
        answer(site, asking(plan))


def test_a_lack_of_memory_loses_no_card(accelerator: Accelerator) -> None:
    def full(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    FAULTS[PRODUCT] = full
    assert not accelerator.is_lost()
    lose()
    assert accelerator.is_lost()


def test_a_command_that_lost_the_daemons_card_says_to_restart_it(hospital: Hospital) -> None:
    hospital.open().close()
    path = hospital.folder / "site.toml"
    slow = SiteExecutor(path, hospital.state, hospital.seed, keep_open=False)

    def tried(_: Site) -> None:
        lose()
        raise ModelError("it fails on random input")

    with pytest.raises(SiteError, match="cannot compute on it any more") as caught:
        asyncio.run(slow.ask(tried))
    assert "restart the daemon" in caught.value.details["do"]
    assert isinstance(caught.value.__cause__, ModelError)
    FAULTS.clear()
    assert asyncio.run(slow.ask(lambda site: site.name)) == "north"
    assert slow.close(10)


@pytest.mark.parametrize("gpu", [0, None])
def test_a_workers_memory_limit_is_beside_what_the_driver_took_for_the_card(
    hospital: Hospital, accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch, gpu: int | None
) -> None:
    hospital.device = {"gpu": 0} if gpu == 0 else {}
    hospital.open().close()
    measured = iter([2**28, 2**28 + 12345])
    applied: list[tuple[int, int]] = []

    def noting(_: ProcessLimits, beside: int) -> None:
        applied.append((accelerator.done["hold"], beside))

    monkeypatch.setattr(worker, "private_memory", lambda: next(measured))
    monkeypatch.setattr(ProcessLimits, "apply", noting)
    path = hospital.folder / "site.toml"
    limits = ProcessLimits(memory_mib=256, gpu=gpu)
    settings = worker.WorkerSettings(path, hospital.state, hospital.seed, limits, 1, "json")
    ours, theirs = socket.socketpair()
    ours.shutdown(socket.SHUT_WR)
    worker.serve(theirs, settings)
    assert applied == [(1, 12345) if gpu == 0 else (0, 0)]


class Held:
    """As a tensor on the card."""


def test_a_command_that_failed_keeps_nothing_on_the_card(hospital: Hospital) -> None:
    """Although its error is still known to the person who asked."""
    hospital.open().close()
    path = hospital.folder / "site.toml"
    kept: list[weakref.ref[Held]] = []

    def tried(_: Site) -> None:
        held = Held()
        kept.append(weakref.ref(held))
        raise ModelError(f"one step does not fit, with {type(held)}")

    slow = SiteExecutor(path, hospital.state, hospital.seed, keep_open=False)
    with pytest.raises(ModelError, match="does not fit") as caught:
        asyncio.run(slow.ask(tried))
    assert caught.value
    assert [one() for one in kept] == [None]
    assert slow.close(10)


@pytest.mark.parametrize("part", ["local_change", "counted"])
def test_what_does_not_fit_on_the_card_is_refused_before_it_is_charged(
    site: Site, plan: Plan, hospital: Hospital, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    rehearsal._rehearse.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(rehearsal, part, full)
        assert code_of(site, asking(plan)) == "malformed"
    assert hospital.rows("charges") == []
    assert code_of(site, asking(plan)) == "ok"


def test_a_frozen_network_that_does_not_fit_is_refused_before_a_charge(
    site: Site, hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = small_study(model={"widths": [4], "trainable": ["head"]})
    plan = approved(site, study)
    provided = Request(study.study.name, plan.hash, 0, "provide", arrays=frozen_of(study))
    assert code_of(site, provided) == "ok"

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    features._rehearse.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(features.Stem, "of", full)
        assert code_of(site, asking(plan)) == "malformed"
    assert hospital.rows("charges") == []
    assert code_of(site, asking(plan)) == "ok"


def test_before_a_round_a_full_tile_was_trained_and_evaluated_on(
    site: Site, plan: Plan, hospital: Hospital, accelerator: Accelerator, monkeypatch: Any
) -> None:
    """So nothing that a round moves is larger than what was moved before its charge."""
    moved: list[tuple[int, int]] = []  # bytes, and charges then

    labels: list[int] = []  # places of those that were moved, as no evaluation does
    honest = accelerator.move

    def noting(tensor: torch.Tensor) -> torch.Tensor:
        moved.append((tensor.nbytes, len(hospital.rows("charges"))))
        if tensor.dtype == torch.int64 and not moved[-1][1]:
            labels.append(len(tensor))
        return honest(tensor)

    monkeypatch.setattr(accelerator, "move", noting)
    rehearsal._rehearse.cache_clear()
    assert code_of(site, asking(plan)) == "ok"
    before = max(size for size, charges in moved if not charges)
    tile = plan.numerics.choice.tile * images_of(plan.study) * 2 * 8 * 8
    assert before >= tile
    assert labels[-2:] == [plan.numerics.choice.tile, 1]
    assert max(size for size, charges in moved if charges) <= before
    known = len(moved)
    assert answered(site, asking(plan, 2)).code == "ok"  # once a process
    assert all(charges for _, charges in moved[known:])
