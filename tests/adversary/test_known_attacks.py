"""Choices that once read patients through the arithmetic of a step, as they were found.

A study's numbers are bounded now, so that most of these plans cannot even be read
(``common/study/bounds.py``). Here they go straight to the engine, which has to hold without that.
"""

from __future__ import annotations

import math
import multiprocessing
from itertools import pairwise, product
from random import Random

import numpy as np
import pytest
import torch
from torch import nn

from client.engine.clipped import Patients, clipped_sum, place
from client.training.gradients import summed_loss
from client.training.targets import TARGETS
from common.models.networks import build_model
from common.numerics import EngineChoice
from common.privacy.mechanisms import GAMMA
from common.process.denormals import set_threads
from common.study.study_file import Study
from common.tasks.task import Task
from common.tasks.tasks import KINDS
from tests.common.studies import classification, settings_of, small_study, task_of

SCATTERING = {"name": "scattering", "widths": None, "norm": None, "pooling": None}


def study(model: dict[str, object], side: int) -> Study:
    return small_study(model=model, data={"image_size": [side, side]})


def length(vector: torch.Tensor, clip_norm: float) -> float:
    """In clip norms, whose squares may be no numbers."""
    return float((vector / clip_norm).norm())


@pytest.mark.parametrize("kernel", ["ghost", "materialised"])
@pytest.mark.parametrize("clip_norm", [1e-30, 1e-38, 1e-3])
def test_squares_that_vanish_do_not_leave_a_patient_unclipped(
    clip_norm: float, kernel: str
) -> None:
    """Zero weights and one large bias: the gradient's squares are zero in float32.

    The norm came out as 0, nothing was clipped, and one round read a class's exact number of
    patients.
    """
    model = build_model(study(SCATTERING | {"scales": 1, "orientations": 2}, 8))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        list(model.parameters())[-1][-1] = 54.0
    images = torch.rand(3, 1, 1, 8, 8, generator=torch.manual_seed(0))
    patients = Patients(images, torch.ones(3, dtype=torch.int64))
    choice = EngineChoice(kernels={"2": kernel})
    free = clipped_sum(
        model, patients[slice(0, 1)], summed_loss(classification()), math.inf, choice
    )
    assert 0 < float(free.abs().max()) < 1e-20
    for at in range(3):
        found = clipped_sum(
            model, patients[slice(at, at + 1)], summed_loss(classification()), clip_norm, choice
        )
        assert length(found, clip_norm) <= 1 + 1e-12


@pytest.mark.parametrize("model", [SCATTERING, {"widths": [4], "norm": "none"}], ids=["s", "cnn"])
@pytest.mark.parametrize("clip_norm", [7.4e-27, 3e-27, 2.2e-27])
def test_a_subnormal_factor_is_not_rounded_up(clip_norm: float, model: dict[str, object]) -> None:
    """C over the norm had two digits in float32: a patient came to 1.99 C."""
    network = build_model(study(model, 16))
    pixels = (torch.rand(1, 1, 1, 16, 16, generator=torch.manual_seed(0)) - 0.5) / 0.25
    patient = Patients(pixels, torch.ones(1, dtype=torch.int64))
    found = clipped_sum(
        network, patient, summed_loss(classification((1e19, 1e19))), clip_norm, EngineChoice()
    )
    assert length(found, clip_norm) == pytest.approx(1, abs=1e-9)


@pytest.mark.matrix
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("tile", [1, 2, 4, 8, 64])
def test_channels_that_cancel_carry_no_patient_over_to_another(tile: int, threads: int) -> None:
    """Two equal channels with weights of a million and both signs: what is left are last bits.

    With 3 rows beside it a row is rounded otherwise than with 4: the sum moved by 3.9 C.
    """
    before = torch.get_num_threads()
    set_threads(threads)
    try:
        cancelling = {"widths": [2], "norm": "none", "pooling": "flatten", "hidden": 16}
        model = build_model(study(cancelling, 32))
        choice = EngineChoice(tile=tile)
        draw = torch.Generator().manual_seed(3)
        images = torch.rand(12, 1, 1, 32, 32, generator=draw) * 4 - 2
        patients = Patients(images, torch.zeros(12, dtype=torch.int64))
        filters, shift, dense, offset, last, end = model.parameters()
        for _ in range(4):
            with torch.no_grad():
                for parameter in (filters, shift, offset, end):
                    parameter.zero_()
                filters[:, 0, 1, 1] = 1.0
                dense[:, :256] = torch.randn(16, 256, generator=draw) * 1e6
                dense[:, 256:] = -dense[:, :256]
                signs = torch.sign(torch.randn(16, generator=draw)) * 1e3
                last.copy_(torch.stack([-signs, signs]))
            place(model, choice)
            sums = [
                clipped_sum(
                    model, patients[slice(0, count)], summed_loss(classification()), 1.0, choice
                )
                for count in range(13)
            ]
            for fewer, more in pairwise(sums):
                assert float((more - fewer).norm()) <= 1 + GAMMA / 100
    finally:
        torch.set_num_threads(before)


def test_a_sum_that_no_float32_holds_is_a_sum_all_the_same() -> None:
    """300 equal vectors passed float32's largest number, 299 did not: `ok` or a code told."""
    largest, many = float(np.finfo(np.float32).max), 300
    clip_norm = largest * math.sqrt(2) / (many - 0.5)
    layer = nn.Linear(1, 2)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
    patients = Patients(torch.zeros(many, 1, 1), torch.ones(many, dtype=torch.int64))
    loss = summed_loss(classification((1.0, 3e38)))
    for count in (many - 1, many):
        found = clipped_sum(layer, patients[slice(0, count)], loss, clip_norm, EngineChoice())
        assert bool(torch.isfinite(found).all())
        assert length(found, clip_norm) <= count * (1 + 1e-9)
    assert float(found.abs().max()) > largest or length(found, clip_norm) > 0.9


@pytest.mark.parametrize("kernel", ["ghost", "patches", "looped"])
def test_a_patient_who_adds_nothing_moves_no_other(kernel: str) -> None:
    """Rounding of one product over all patients followed what cancels, not what is left."""
    layer = nn.Conv2d(1, 4, 3, bias=False)
    model = nn.Sequential(layer, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2, bias=False))
    rows, columns = torch.meshgrid(torch.arange(13), torch.arange(13), indexing="ij")
    board = 1e6 * (1.0 - 2.0 * ((rows + columns) % 2))
    images = torch.randn(6, 1, 1, 13, 13, generator=torch.manual_seed(1))
    images[5, 0, 0] = board + 1e-3 * images[5, 0, 0]
    patients = Patients(images, torch.arange(6) % 2)
    choice = EngineChoice(tile=8, kernels={"0": kernel})
    loss = summed_loss(classification())
    with_all = clipped_sum(model, patients, loss, 1e-2, choice)
    others = clipped_sum(model, patients[slice(0, 5)], loss, 1e-2, choice)
    alone = clipped_sum(model, patients[slice(5, 6)], loss, 1e-2, choice)
    assert float((with_all - others - alone).norm()) <= 1e-2 * GAMMA / 1000


def test_no_bit_of_a_loss_follows_from_the_place_whatever_the_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The last bits of a softmax over many pixels differed where a thread's share of them ended.

    The trial before a study finds it by chance alone.
    """
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)  # with it there is one, whatever is asked for later
    with multiprocessing.get_context("spawn").Pool(1) as process:
        assert process.apply(differing) == []


def differing() -> list[tuple[str, int, int]]:
    """By task, seed and threads, where an item's place decides about a bit."""
    found = []
    for kind, seed in product(KINDS, range(10)):
        task = task_of(kind, **settings_of(kind, Random(seed)))
        for threads in (1, 2, 3):
            set_threads(threads)
            first, *others = gradients_of_one_at_every_place(task, places=8)
            if not all(torch.equal(each, first) for each in others):
                found.append((kind, seed, threads))
    return found


def gradients_of_one_at_every_place(task: Task, places: int) -> torch.Tensor:
    """Of the loss by the outputs of one item, which is in every place."""
    outputs, dense = task.heads()
    shape = (outputs, 64, 64) if dense else (outputs,)
    one = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 10
    target = Patients(torch.zeros(1, 1), TARGETS[task.target].made_up(task, 1, 1, (64, 64)))
    batch = one.expand(places, *shape).clone().requires_grad_()
    summed_loss(task)(batch, target.each_target.repeat_interleave(places, dim=0)).backward()
    assert batch.grad is not None
    return batch.grad
