"""Targets of each form: of real patients, moved with their images, and made up."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from client.data.cohort import Patient
from client.training.augmentation import DRAWS, augment, move_masks
from client.training.evaluation import outputs_of
from client.training.sampling import RoundStreams, draw
from client.training.targets import TARGETS
from common.models.networks import initial_weights
from common.numerics import EngineChoice
from common.privacy.mechanisms import NoMechanism
from common.study.study_file import Augmentation, Study
from common.tasks.classification import Classification
from common.tasks.regression import Regression
from common.tasks.task import TargetForm
from tests.common.studies import classification, small_study

SIDE = 32
MOVES = Augmentation(flip=True, rotate=180.0, zoom=0.2, crop=0.1)
ALL = MOVES.model_copy(update={"intensity": 0.3})


class Masks(Classification):
    """A task whose targets are masks; what it learns does not matter here."""

    target: ClassVar[TargetForm] = "mask"


def discs(count: int) -> torch.Tensor:
    """A disc in each image, in another place and of another size and class; uint8."""
    generator = np.random.default_rng(1)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    found = []
    for number in range(count):
        (row, column), radius = generator.uniform(11, SIDE - 11, 2), generator.uniform(4, 7)
        inside = (rows - row) ** 2 + (columns - column) ** 2 < radius**2
        found.append(inside * (1 + number % 2))
    return torch.from_numpy(np.stack(found).astype(np.uint8))


def overlap(one: torch.Tensor, other: torch.Tensor) -> float:
    """Dice of two masks."""
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def require_together(image: torch.Tensor, mask: torch.Tensor) -> None:
    """The image shows the disc where the mask has it; at its edge an image mixes pixels."""
    image = (image - image.min()) / (image.max() - image.min())
    assert bool((mask[image > 1 - 1e-4] > 0).all())
    assert bool((mask[image < 1e-4] == 0).all())
    assert overlap(mask > 0, image > 0.5) > 0.9


def signed(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(
        count, DRAWS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


@pytest.mark.parametrize("settings", [MOVES, ALL], ids=["moved", "moved and brightened"])
def test_a_mask_moves_with_its_image(settings: Augmentation) -> None:
    """Flipped, turned, zoomed and shifted: what the disc covers is what the mask covers."""
    masks = discs(40)
    draws = signed(40)
    moved = move_masks(masks.long(), settings, draws)
    seen = augment((masks > 0).float()[:, None], settings, draws)[:, 0]

    assert moved.dtype == torch.int64
    for number in range(40):
        require_together(seen[number], moved[number])
        assert set(moved[number].unique().tolist()) == {0, 1 + number % 2}
    still = [overlap(one > 0, other > 0) for one, other in zip(moved, masks, strict=True)]
    assert sum(one < 0.5 for one in still) > 10


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("mirrored", [False, True])
def test_flips_and_half_turns_move_a_mask_pixel_by_pixel(*, mirrored: bool, turned: bool) -> None:
    masks = discs(6).long()
    draws = torch.full((6, DRAWS), 0.5, dtype=torch.float64)
    draws[:, 0] = 0.0 if mirrored else 1.0
    draws[:, 1] = 1.0 if turned else 0.5
    wanted = masks.flip(2) if mirrored else masks
    wanted = wanted.flip(1, 2) if turned else wanted
    found = move_masks(masks, Augmentation(flip=True, rotate=180.0), draws)

    assert found.tolist() == wanted.tolist()


def test_what_moves_no_image_moves_no_mask() -> None:
    masks = discs(3).long()
    draws = signed(3)
    for settings in (Augmentation(), Augmentation(intensity=0.5)):
        assert torch.equal(move_masks(masks, settings, draws), masks)
    assert move_masks(masks[:0], MOVES, draws[:0]).shape == (0, SIDE, SIDE)


def masked(**training: Any) -> Study:  # noqa: ANN401 - as TOML gives
    """A study whose targets are masks."""
    study = small_study(
        data={"image_size": [SIDE, SIDE], "mean": 0.0, "std": 1.0}, training=training
    )
    return study.model_copy(update={"task": Masks(classes=("left", "right"))})


PATIENTS = tuple(
    Patient(str(at), 0, (at, 29 - at, 10 + at % 3)[: 1 + at % 3], "0" * 64) for at in range(10)
)


@pytest.mark.parametrize("copies", [1, 3])
def test_in_a_step_each_copy_of_an_image_has_its_own_mask(copies: int) -> None:
    """Images that show their masks, drawn at random and changed at random."""
    changes = {"flip": True, "rotate": 90.0, "zoom": 0.1, "copies": copies}
    study = masked(images_per_patient=2, augmentation=changes)
    masks = discs(30).numpy()
    images = (masks > 0).astype(np.float16)[:, None]
    mechanism, streams = NoMechanism(sampling_rate=1.0, divisor=5.0), RoundStreams(bytes(32))
    batches = list(
        draw(study, mechanism, images, PATIENTS, streams=streams, step=0, tile=4, masks=masks)
    )

    assert [len(batch.targets) for batch in batches] == [4, 4, 2]
    for batch in batches:
        assert batch.targets.shape == (*batch.pixels.shape[:2], SIDE, SIDE)
        assert batch.targets.shape[1] == 2 * copies
        for pair in zip(batch.pixels.flatten(0, 2), batch.targets.flatten(0, 1), strict=True):
            require_together(*pair)


def test_in_an_evaluation_each_image_has_its_own_mask() -> None:
    study = masked()
    masks = discs(30).numpy()
    images = (masks > 0).astype(np.float16)[:, None]
    choice, weights = EngineChoice(tile=4), initial_weights(study, 0)
    found = [*outputs_of(study, weights, images, PATIENTS, choice=choice, masks=masks)]

    assert len(found) == len(PATIENTS)
    for patient, (outputs, targets) in zip(PATIENTS, found, strict=True):
        assert len(outputs) == len(targets) == len(patient.images)
        assert targets.numpy().tolist() == masks[list(patient.images)].tolist()
        assert targets.dtype == torch.int64


@pytest.mark.parametrize(
    ("form", "kind"), [("label", torch.int64), ("value", torch.float32)], ids=["label", "value"]
)
def test_one_target_of_a_patient_is_that_of_all_images(form: TargetForm, kind: torch.dtype) -> None:
    targets = TARGETS[form].of(Patient("a", 1, (3, 4, 9), "0" * 64), np.array([4, 9, 9]), None)
    assert targets.dtype == kind
    assert targets.tolist() == [1, 1, 1]
    assert torch.equal(TARGETS[form].moved(targets, MOVES, signed(3)), targets)


def test_made_up_numbers_go_from_end_to_end_of_a_tasks_range() -> None:
    """Outside of it the loss would see one number for all, and a trial would try nothing."""
    task = Regression(lowest=18.0, highest=90.0)
    values = TARGETS["value"].made_up(task, 3, 1, (5, 4))
    assert values.tolist() == [18.0, 54.0, 90.0]
    assert len({float(task.loss(torch.zeros(1), each)) for each in values}) > 1


def test_made_up_targets_have_the_form_of_real_ones_and_show_every_class() -> None:
    task = classification(classes=3)
    assert TARGETS["label"].made_up(task, 7, 2, (5, 4)).tolist() == [0, 1, 2, 0, 1, 2, 0]
    values = TARGETS["value"].made_up(task, 7, 2, (5, 4))
    assert (values.shape, values.dtype) == ((7,), torch.float32)
    assert len(values.unique()) == 7
    masks = TARGETS["mask"].made_up(task, 7, 2, (5, 4))
    assert (masks.shape, masks.dtype) == ((7, 2, 5, 4), torch.int64)
    assert all(set(each.unique().tolist()) == {0, 1, 2, 3} for each in masks.flatten(0, 1))
    assert not torch.equal(masks[0, 0], masks[0, 1])
