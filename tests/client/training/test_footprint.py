"""What a step takes is told from shapes, and a true step takes no more."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from itertools import pairwise
from random import Random
from typing import Any

import numpy as np
import pytest
from torch import nn

from client.data.cohort import Patient
from client.training.evaluation import outputs_of
from client.training.footprint import _Watch, fitting, room_of
from client.training.tuning import needed
from common.models.networks import initial_weights, sketch
from common.numerics import LARGEST_TILE, EngineChoice
from common.study.study_file import Study
from common.tasks.tasks import KINDS
from tests.common.studies import settings_of, small_study, study_of

MIB = 2**20
HEAP = 8 * MIB
"""By which a process grows at once."""
TASK = small_study().task


def study(side: int, **model: Any) -> Study:  # noqa: ANN401 - as TOML gives
    left_out = dict.fromkeys(("widths", "hidden", "norm", "pooling"))
    return small_study(data={"image_size": [side, side]}, model=left_out | model)


WIDE: dict[str, Any] = {"name": "cnn", "widths": [32, 64], "hidden": 32, "pooling": "flatten"}
STEPS = """
import json, os, resource, sys
import torch
from client.engine.choice import example_of
from client.engine.clipped import clipped_sum
from client.training.gradients import summed_loss
from common.models.networks import build_model
from common.numerics import EngineChoice
from common.study.study_file import Study

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def step(study, patients, checkpointing):
    choice = EngineChoice(tile=patients, checkpointing=checkpointing)
    example = example_of((1, *study.data.image_size), patients, 1, model := build_model(study))
    clipped_sum(model, example, summed_loss(study.task), 1.0, choice)

torch.set_num_threads(1)
for text, patients, checkpointing in json.loads(sys.argv[1]):
    if os.fork():
        os.wait()
        continue
    study = Study.model_validate_json(text)
    least = (32, 32) if getattr(study.model, "scales", 0) < 6 else (128, 128)
    small = study.data.model_copy(update={"image_size": least})
    step(study.model_copy(update={"data": small}), 1, checkpointing)
    before = peak()
    step(study, patients, checkpointing)
    print(peak() - before, flush=True)
    os._exit(0)
"""
"""A process for each, since what was taken once is not given back to the system; a first step on
small images has the libraries in memory."""
Case = tuple[int, int, dict[str, Any], bool]
"""Side of an image, patients, the model, whether activations are checkpointed."""
SMALL: list[Case] = [
    (128, 16, {"name": "scattering"}, False),
    (256, 2, {"name": "scattering", "scales": 6, "orientations": 32}, False),
    (128, 16, {"name": "cnn"}, False),
    (128, 2, WIDE, False),
]
LARGE: list[Case] = [
    (64, 4, {"name": "resnet18"}, False),
    (64, 4, {"name": "densenet121"}, False),
    (64, 4, {"name": "efficientnet_b0"}, False),
    (64, 4, {"name": "efficientnet_lite0", "pooling": "average-spread"}, False),
    (64, 4, {"name": "vit"}, False),
    (64, 4, {"name": "densenet121"}, True),
    (64, 8, {"name": "vit"}, True),
]


@pytest.mark.parametrize("cases", [SMALL, pytest.param(LARGE, marks=pytest.mark.long)])
@pytest.mark.long
def test_a_true_step_takes_no_more_memory_than_was_told(
    cases: list[Case],
) -> None:
    given = [(study(side, **model), patients) for side, patients, model, _ in cases]
    blanks = [EngineChoice(checkpointing=again) for *_, again in cases]
    told = [
        room_of(
            sketch(each),
            (1, *each.data.image_size),
            TASK,
            patients=patients,
            items=1,
            blank=blank,
        ).bytes
        for (each, patients), blank in zip(given, blanks, strict=True)
    ]
    texts = json.dumps(
        [
            (each.model_dump_json(), patients, blank.checkpointing)
            for (each, patients), blank in zip(given, blanks, strict=True)
        ]
    )
    command = [sys.executable, "-c", STEPS, texts]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    taken = [int(line) for line in done.stdout.split()]
    assert len(taken) == len(told)
    for real, bound in zip(taken, told, strict=True):
        assert real <= bound + HEAP
        assert bound <= 2**29  # which leaves room within what a site allows by default


def test_what_an_image_passes_through_is_counted_though_nothing_of_it_is_kept() -> None:
    """A study of 778 weights: its fixed filters alone take 32 planes of the image's size."""
    many = study(128, name="scattering", scales=6, orientations=16)
    weights = sum(each.numel() for each in sketch(many).parameters())
    assert weights == (1 + 6 * 16) * 2 * 2 * 2 + 2 == 778
    found = room_of(sketch(many), (1, 128, 128), TASK, patients=1, items=1)
    assert found.bytes > 32 * 128 * 128 * 4


def test_to_tell_what_the_largest_study_takes_takes_nothing() -> None:
    given = study(4096, name="scattering", scales=6, orientations=32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found = room_of(sketch(given), (1, 4096, 4096), TASK, patients=1, items=64)
    assert found.bytes > 256 * 2**30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < before + 100 * MIB


def test_a_dense_layers_work_is_counted_by_hand() -> None:
    """Forward 2 x 8 x 5 operations; the gradient that a patient's is weighed into, as many.

    Nothing comes before the layer, so that no gradient goes back through it; norms are 2 x (1 x 8
    + 1 x 5), padded to whole lines of eight float64 numbers.
    """
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 5)).to("meta")
    found = room_of(model, (1, 2, 4), TASK, patients=1, items=1)
    assert found.work >= 2 * (2 * 8 * 5)
    twice = room_of(model, (1, 2, 4), TASK, patients=2, items=1)
    assert twice.work == 2 * found.work


def test_less_memory_fits_fewer_patients() -> None:
    model = sketch(study(32, name="cnn", widths=[8, 8]))
    budgets = [2**34, 4 * MIB, MIB, 200_000, 1]
    found = [fitting(model, (1, 32, 32), TASK, memory, items=1) for memory in budgets]
    assert found[0] == LARGEST_TILE
    assert all(more >= fewer for more, fewer in pairwise(found))
    assert found[1] > found[2] > 0 == found[4]


def test_a_tile_that_fits_takes_no_more_than_the_memory() -> None:
    model = sketch(study(32, name="cnn", widths=[8, 8]))
    for memory in (2 * MIB, 4 * MIB, 8 * MIB):
        fits = fitting(model, (1, 32, 32), TASK, memory, items=2)
        assert room_of(model, (1, 32, 32), TASK, patients=fits, items=2).bytes <= memory


def test_larger_images_fit_less_often() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).to("meta")
    small, large = (fitting(model, (1, side, side), TASK, 2 * MIB, items=1) for side in (32, 128))
    assert small > 3 * large > 0


@pytest.mark.parametrize("kind", KINDS)
def test_an_evaluation_of_many_images_takes_no_more_memory_than_was_told(kind: str) -> None:
    """Of a number for each pixel all images were held, and none was counted."""
    task, most = settings_of(kind, Random(0)), 64
    asked = study_of(
        kind,
        task=task,
        data={"image_size": [32, 32]},
        evaluation={"images_per_patient": most},
    )
    images = np.zeros((most, 1, 32, 32), np.float16)
    patient = Patient("0" * 64, 0, tuple(range(most)), "")
    how: dict[str, Any] = {"choice": EngineChoice(tile=1), "masks": images[:, 0].astype(np.uint8)}
    with _Watch() as watch:
        assert list(outputs_of(asked, initial_weights(asked, 0), images, (patient,), **how))
    assert watch.peak <= needed(asked, 2**40)
