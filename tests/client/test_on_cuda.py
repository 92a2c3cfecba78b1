"""A site computes on the graphics card of this machine, from its cache to what leaves."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from client.device_check import require_device
from client.training.evaluation import counted
from client.training.local import local_change, require_probed
from client.training.rehearsal import require_rehearsed
from client.training.sampling import draw
from client.training.tuning import check, choose
from common.devices.device import DeviceName, Precision
from common.devices.devices import DEVICES
from common.models.networks import initial_weights
from common.numerics import EngineChoice
from common.wire.messages import Purpose
from tests.client.site_fixtures import Hospital, answered, approved, asking
from tests.common.studies import small_study
from tests.on_accelerator.rounds import HERE, MECHANISM, STREAMS, STUDIES, THERE, cohort, study_of

on_a_card = pytest.mark.skipif(not torch.cuda.is_available(), reason="no graphics card is at hand")
pytestmark = [pytest.mark.cuda, on_a_card]


@pytest.fixture(autouse=True)
def _repeats() -> Iterator[None]:
    DEVICES["cuda"].repeat(1)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0, 0)  # of a site of another test
    DEVICES["cuda"].release()


@pytest.mark.parametrize("name", STUDIES)
def test_a_batch_is_what_the_processor_draws(name: str) -> None:
    study = study_of(name)
    patients, images, masks = cohort(study)
    names: tuple[DeviceName, ...] = ("cpu", "cuda")
    here, there = (
        [
            *draw(
                study,
                MECHANISM,
                images,
                patients,
                streams=STREAMS,
                step=0,
                tile=4,
                masks=masks,
                device=DEVICES[each],
            )
        ]
        for each in names
    )
    for one, other in zip(here, there, strict=True):
        assert other.pixels.is_cuda
        assert torch.allclose(other.pixels.cpu(), one.pixels, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize(("precision", "within"), [("float32", 1e-3), ("bfloat16", 0.2)])
def test_a_rounds_change_is_the_processors(name: str, precision: Precision, within: float) -> None:
    study = study_of(name)
    patients, images, masks = cohort(study)
    there = THERE.model_copy(update={"precision": precision})
    weights = initial_weights(study, 1)
    changes = [
        local_change(
            require_probed(study, MECHANISM, choice),
            weights,
            images,
            patients,
            round_number=1,
            streams=STREAMS,
            masks=masks,
        )
        for choice in (HERE, there, there)
    ]
    assert np.array_equal(changes[1], changes[2])
    assert np.linalg.norm(changes[1] - changes[0]) <= within * np.linalg.norm(changes[0])
    counts = [
        counted(study, weights, images, patients, choice=each, masks=masks)
        for each in (HERE, there)
    ]
    assert counts[0].sum() == counts[1].sum()


def test_kernels_and_tile_are_chosen_there_and_found_sound() -> None:
    study = study_of("augmented")
    found = choose(study, memory=2**30, blank=EngineChoice(device="cuda", precision="bfloat16"))
    check(study, found)


def test_a_site_trains_and_evaluates_on_the_card_that_its_file_names(tmp_path: Path) -> None:
    with Hospital(tmp_path / "north", device={"gpu": 0}).open() as site:
        plan = approved(site, small_study(evaluation={"rounds": [1, 2]}))
        assert plan.numerics.card == DEVICES["cuda"].card()
        purposes: tuple[Purpose, ...] = ("train", "evaluate")
        for purpose in purposes:
            reply = answered(site, asking(plan, 1, purpose))
            assert reply.arrays is not None
            assert np.isfinite(reply.arrays).all()


@pytest.mark.parametrize("name", STUDIES)
def test_a_round_takes_no_memory_that_was_not_held_before_it(name: str) -> None:
    """However many patients are drawn of."""
    study, device = study_of(name), DEVICES["cuda"]
    patients, images, masks = cohort(study)
    device.hold(512 * 2**20)
    probed = require_probed(study, MECHANISM, THERE)
    require_rehearsed(probed)
    weights, held = initial_weights(study, 1), torch.cuda.memory_reserved(0)
    for count in range(len(patients) + 1):
        some = patients[:count]
        local_change(probed, weights, images, some, round_number=1, streams=STREAMS, masks=masks)
        counted(study, weights, images, some, choice=THERE, masks=masks)
        assert torch.cuda.memory_reserved(0) == held


def test_after_an_assert_in_a_kernel_the_card_is_lost_to_its_process_alone() -> None:
    program = """
import torch
from common.devices.devices import DEVICES
device = DEVICES["cuda"]
device.hold(256 * 2**20)
print(device.is_lost())
try:
    device.move(torch.zeros(3))[device.move(torch.tensor([7]))].cpu()
except RuntimeError:
    print(device.is_lost())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["False", "True"], done.stderr
    DEVICES["cuda"].require_computing()


def test_check_finds_the_card(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path / "north", device={"gpu": 0}, patients={"P00": 1})
    with hospital.open() as site:
        assert require_device(site.file) == str(DEVICES["cuda"].card())
