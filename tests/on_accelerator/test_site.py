"""A site computes on an accelerator from its cache to what leaves, and agrees on one card."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from client.administration.service import status
from client.engine.clipped import Patients, clipped_sum, place
from client.training.evaluation import counted, outputs_of
from client.training.gradients import GradientSum, summed_loss
from client.training.local import Probed, local_change
from client.training.noise import DrawnAhead, drawing, noised
from client.training.sampling import draw
from client.training.tuning import check, choose, modelled
from common.errors import Refusal, SiteError
from common.models.networks import initial_weights
from common.numerics import EngineChoice, NumericsRecord
from common.plan import Plan
from common.privacy.mechanisms import NoMechanism, PatientMechanism
from common.process.denormals import flushed
from common.tasks.task import Task
from tests.client.site_fixtures import (
    Hospital,
    answered,
    approved,
    asking,
    code_of,
    plan_for,
    proposal,
)
from tests.client.training.test_gradients import CASES
from tests.common.studies import small_study
from tests.on_accelerator.accelerator import Accelerator, Resident
from tests.on_accelerator.rounds import (
    HERE,
    MECHANISM,
    NONE,
    STREAMS,
    STUDIES,
    THERE,
    cohort,
    study_of,
)
from tests.waiting import PATIENCE


@pytest.mark.parametrize("name", (*STUDIES, "regression"))
def test_a_batch_is_what_the_processor_draws(accelerator: Accelerator, name: str) -> None:
    study = study_of(name)
    patients, images, masks = cohort(study)
    how: dict[str, Any] = {"streams": STREAMS, "step": 0, "tile": 4, "masks": masks}
    here = [*draw(study, MECHANISM, images, patients, **how)]
    there = [*draw(study, MECHANISM, images, patients, **how, device=accelerator)]
    assert len(here) == len(there) > 1
    for one, other in zip(here, there, strict=True):
        assert isinstance(other.pixels, Resident)
        assert isinstance(other.targets, Resident)
        assert torch.equal(other.pixels.cpu(), one.pixels)
        assert torch.equal(other.targets.cpu(), one.targets)


@pytest.mark.parametrize("name", (*STUDIES, "regression"))
@pytest.mark.parametrize("mechanism", [MECHANISM, NONE], ids=["private", "not"])
def test_a_rounds_change_is_the_processors(
    accelerator: Accelerator, name: str, mechanism: PatientMechanism | NoMechanism
) -> None:
    """With noise of the same stream: so what is left is what float32 rounds."""
    study = study_of(name)
    patients, images, masks = cohort(study)
    weights = initial_weights(study, 1)
    here, there = (
        local_change(
            Probed(study, mechanism, choice),
            weights,
            images,
            patients,
            round_number=2,
            streams=STREAMS,
            masks=masks,
        )
        for choice in (HERE, THERE)
    )
    assert there.dtype == np.float32
    assert np.linalg.norm(there - here) <= 1e-5 * np.linalg.norm(here)
    assert accelerator.done["move"] > 2


@pytest.mark.parametrize("name", (*STUDIES, "regression"))
def test_an_evaluations_outputs_and_marks_are_the_processors(
    accelerator: Accelerator, name: str
) -> None:
    study = study_of(name)
    patients, images, masks = cohort(study)
    weights = initial_weights(study, 1)

    def outputs(choice: EngineChoice) -> torch.Tensor:
        each = outputs_of(study, weights, images, patients, choice=choice, masks=masks)
        return torch.cat([found for found, _ in each])

    assert torch.allclose(outputs(THERE), outputs(HERE), rtol=1e-4, atol=1e-5)
    short = outputs(THERE.model_copy(update={"precision": "bfloat16"}))
    assert torch.allclose(short, outputs(HERE), rtol=0.1, atol=0.1)
    here, there = (
        counted(study, weights, images, patients, choice=choice, masks=masks)
        for choice in (HERE, THERE)
    )
    assert there.sum() == here.sum()
    assert accelerator.done["place"]


@pytest.mark.parametrize(("task", "model", "targets"), CASES, ids=["mapped", "one by one"])
def test_a_patient_on_whom_the_loss_fails_counts_as_nothing(
    accelerator: Accelerator, task: Task, model: type[nn.Module], targets: torch.Tensor
) -> None:
    torch.manual_seed(0)
    network = place(model(), THERE)
    inputs = torch.rand(3, 1, 1, 8, 8)
    inputs[1] = torch.nan
    everyone = Patients(accelerator.move(inputs), accelerator.move(targets))
    loss = summed_loss(task, total=True)
    together = clipped_sum(network, everyone, loss, 1.0, THERE)
    alone = [clipped_sum(network, everyone[slice(at, at + 1)], loss, 1.0, THERE) for at in (0, 2)]
    assert together.any()
    assert torch.allclose(together.cpu(), (alone[0] + alone[1]).cpu(), rtol=0, atol=1e-12)


def test_noise_that_is_drawn_ahead_is_the_noise(
    accelerator: Accelerator, request: pytest.FixtureRequest
) -> None:
    total = torch.linspace(-1, 1, 300_001, dtype=torch.float64)
    threads_before = torch.get_num_threads()
    request.addfinalizer(lambda: torch.set_num_threads(threads_before))
    for threads in (1, 2):
        torch.set_num_threads(threads)
        with flushed():
            wanted = noised(total, MECHANISM, STREAMS.stream("noise", 1))
            with drawing(ahead=True) as pool:
                assert pool is not None
                ahead = DrawnAhead(STREAMS.stream("noise", 1), len(total), pool)
                found = noised(accelerator.move(total), MECHANISM, ahead)
        assert torch.equal(found, wanted)


def test_while_a_card_computes_another_thread_draws_the_noise(
    accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    drew: list[threading.Thread] = []
    study = study_of("plain")
    patients, images, _ = cohort(study)
    stream = type(STREAMS.stream("noise"))
    honest = stream.normal_blocks

    def noting(self: Any, count: int) -> Any:
        drew.append(threading.current_thread())
        return honest(self, count)

    monkeypatch.setattr(stream, "normal_blocks", noting)
    for choice, ahead in ((HERE, False), (THERE, True)):
        drew.clear()
        local_change(
            Probed(study, MECHANISM, choice),
            initial_weights(study, 1),
            images,
            patients,
            round_number=1,
            streams=STREAMS,
        )
        assert len(drew) == study.training.local_steps
        assert all((thread is not threading.main_thread()) == ahead for thread in drew)
    assert accelerator.done["move"]


def noise_threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name.startswith("noise")]


@pytest.mark.parametrize("what", ["noise", "sum"])
def test_a_round_whose_noise_or_sum_fails_raises_it_and_leaves_no_thread(
    accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """While the other one is still at work: nothing hangs, and what was not begun is not drawn."""
    del accelerator
    study = study_of("plain")
    patients, images, _ = cohort(study)
    stream = type(STREAMS.stream("noise"))
    honest, drawing_now, go_on = stream.normal_blocks, threading.Event(), threading.Event()

    def noise_fails(self: Any, count: int) -> Any:
        raise MemoryError(f"no room for {count} deviates")

    def slow(self: Any, count: int) -> Any:
        drawing_now.set()
        assert go_on.wait(PATIENCE)
        return honest(self, count)

    def sum_fails(self: Any, batches: Any) -> Any:
        assert drawing_now.wait(PATIENCE)
        go_on.set()
        raise RuntimeError("the sum failed")

    if what == "noise":
        monkeypatch.setattr(stream, "normal_blocks", noise_fails)
    else:
        monkeypatch.setattr(stream, "normal_blocks", slow)
        monkeypatch.setattr(GradientSum, "over", sum_fails)
    with pytest.raises((MemoryError, RuntimeError), match=r"no room for|the sum failed"):
        local_change(
            Probed(study, MECHANISM, THERE),
            initial_weights(study, 1),
            images,
            patients,
            round_number=1,
            streams=STREAMS,
        )
    assert noise_threads() == []


def test_a_round_whose_noise_fails_is_silence_and_its_people_are_told_in_words(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: Any, count: int) -> Any:
        raise MemoryError(f"no room for {count} deviates")

    with hospital.open() as site:
        plan = approved(site, small_study())
        assert code_of(site, asking(plan)) == "ok"  # after which nothing is rehearsed
        with monkeypatch.context() as patched:
            patched.setattr(type(STREAMS.stream("noise")), "normal_blocks", fails)
            assert code_of(site, asking(plan, 2)) == "silence"
        assert noise_threads() == []
        ((told, do), *_) = status(site).warnings
        assert "got no answer for round 2" in told
        assert "memory" in told
        assert "lower [device] memory_mib" in do
        assert code_of(site, asking(plan, 2)) == "ok"


def test_noise_that_waits_for_its_turn_is_not_drawn_after_a_failure() -> None:
    drew: list[str] = []
    begun, go_on = threading.Event(), threading.Event()

    def first() -> None:
        begun.set()
        assert go_on.wait(PATIENCE)
        drew.append("first")

    def round_fails() -> None:
        with drawing(ahead=True) as pool:
            assert pool is not None
            pool.submit(first)
            second = pool.submit(lambda: drew.append("second"))
            assert begun.wait(PATIENCE)
            second.add_done_callback(lambda _: go_on.set())  # as soon as it is given up
            raise ValueError("the sum failed")

    threading.Timer(1.0, go_on.set).start()  # else a pool that gives nothing up would wait
    with pytest.raises(ValueError, match="the sum failed"):
        round_fails()
    assert drew == ["first"]


@pytest.mark.long
def test_kernels_and_tile_are_chosen_there_and_found_sound(accelerator: Accelerator) -> None:
    study = study_of("plain")
    blank = EngineChoice(device="cuda", precision="bfloat16")
    found = modelled(study, 2**30, blank=blank)
    assert (found.device, found.precision) == ("cuda", "bfloat16")
    assert found.tile == modelled(study, 2**30).tile
    timed = choose(study, memory=2**30, blank=blank)
    assert (timed.device, timed.precision, timed.tile) == ("cuda", "bfloat16", found.tile)
    check(study, timed)
    assert accelerator.done["finish"]


@pytest.fixture
def hospital(tmp_path: Path, accelerator: Accelerator) -> Hospital:
    del accelerator
    return Hospital(tmp_path / "north", device={"gpu": 0})


@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=pytest.mark.long)])
def test_a_site_trains_and_evaluates_on_the_card_that_its_file_names(
    hospital: Hospital, accelerator: Accelerator, precision: str
) -> None:
    hospital.device["precision"] = precision
    study = small_study(evaluation={"rounds": [1, 2]})
    with hospital.open() as site:
        plan = approved(site, study)
        assert (plan.numerics.choice.device, plan.numerics.choice.precision) == ("cuda", precision)
        assert plan.numerics.card == accelerator.card()
        change = answered(site, asking(plan))
        assert change.arrays is not None
        assert np.isfinite(change.arrays).all()
        assert change.arrays.any()
        counts = answered(site, asking(plan, 1, "evaluate"))
        assert counts.arrays is not None
        again = answered(site, asking(plan))  # the same reply, of the same bits
        assert again.arrays is not None
        assert (again.arrays == change.arrays).all()
    assert accelerator.done["repeat"]


def test_a_plan_reads_as_it_was_written(hospital: Hospital) -> None:
    with hospital.open() as site:
        plan = plan_for(site, small_study())
    assert Plan.model_validate_json(plan.text) == plan
    assert '"card":' in plan.text


def refused(site: Any, plan: Plan) -> Refusal:
    from client.consent.policy import require_allowed

    with pytest.raises(Refusal) as caught:
        require_allowed(plan, site)
    return caught.value


def test_a_plan_approved_on_one_card_is_refused_on_another_in_words(
    hospital: Hospital, accelerator: Accelerator
) -> None:
    with hospital.open() as site:
        plan = approved(site, small_study())
        assert code_of(site, asking(plan)) == "ok"
        accelerator.name = "Other Card"
        why = refused(site, plan)
        assert "card: Other Card, 4 multiprocessors" in why.details["found"]
        assert "card: Test Card, 4 multiprocessors" in why.details["wanted"]
        assert code_of(site, asking(plan, 2)) == "numerics"
        accelerator.name = "Test Card"
        assert code_of(site, asking(plan, 2)) == "ok"


@pytest.mark.parametrize(("before", "after"), [({"gpu": 0}, {}), ({}, {"gpu": 0})])
def test_a_plan_of_another_device_is_refused_in_words(
    hospital: Hospital, before: dict[str, Any], after: dict[str, Any]
) -> None:
    hospital.device = before
    with hospital.open() as site:
        plan = approved(site, small_study())
    hospital.device = after
    with hospital.open() as site:
        told = str(refused(site, plan))
        assert "card: none: the processor computes" in told
        assert "card: Test Card" in told
        assert code_of(site, asking(plan)) == "numerics"


def test_a_card_that_is_too_small_is_an_error_before_anything_is_offered(
    hospital: Hospital, accelerator: Accelerator
) -> None:
    accelerator.size = 2**29
    with hospital.open() as site, pytest.raises(SiteError, match="512 MiB"):
        site.numerics(small_study())


def test_another_precision_in_the_site_file_leaves_running_studies_as_they_are(
    hospital: Hospital,
) -> None:
    with hospital.open() as site:
        plan = approved(site, small_study())
    hospital.device["precision"] = "bfloat16"
    with hospital.open() as site:
        assert code_of(site, asking(plan)) == "ok"
        offered = site.numerics(small_study())
        assert offered.choice.precision == "bfloat16"
        assert code_of(site, proposal(plan_for(site, small_study(study={"name": "next"})))) == "ok"


def test_the_record_of_the_processor_names_no_card(tmp_path: Path) -> None:
    with Hospital(tmp_path / "south").open() as site:
        found = site.numerics(small_study())
    assert found.card is None
    assert not {"card", "precision"} & (
        found.model_dump().keys() | found.choice.model_dump().keys()
    )
    assert NumericsRecord.model_validate(found.model_dump(mode="json")) == found
