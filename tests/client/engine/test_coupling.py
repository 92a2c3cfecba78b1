"""Losses in which patients meet: the engine refuses them, and a task cannot write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import nn

from client.engine.alone import is_alone
from client.engine.clipped import Loss, Patients, clipped_sum, place
from client.training.gradients import summed_loss
from common.numerics import EngineChoice
from common.tasks.classification import Classification
from common.tasks.segmentation import Segmentation

TILE = 8


def batch_dice(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """One overlap over the images of all patients (as MONAI's ``DiceLoss(batch=True)``)."""
    chance, true = outputs.softmax(dim=1)[:, 1], (targets == 1).to(outputs)
    return 1 - (2 * (chance * true).sum() + 1) / (chance.sum() + true.sum() + 1)


def by_positives(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Divided by the positives of the batch (RetinaNet's focal loss).

    Its derivatives across outputs are zero: patients meet in the targets alone.
    """
    each = nn.functional.cross_entropy(outputs, targets, reduction="none")
    return each.sum() / (targets == 1).sum().clamp(min=1)


def contrastive(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Every patient against all others (NT-Xent)."""
    del targets
    near = nn.functional.normalize(outputs, dim=1)
    alike = near @ near.mT
    return nn.functional.cross_entropy(alike, torch.arange(len(outputs)), reduction="sum")


def cox(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cox's partial likelihood: whoever is still at risk stands under every event."""
    risk = outputs[:, 0]
    return (torch.logcumsumexp(risk, dim=0) - risk)[targets == 1].sum()


def apart(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """No patient meets another."""
    return nn.functional.cross_entropy(outputs, targets, reduction="sum")


COUPLED = (batch_dice, by_positives, contrastive, cox)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))


def patients() -> Patients:
    draw = torch.Generator().manual_seed(1)
    return Patients(torch.randn((3, 1, 1, 8, 8), generator=draw), torch.tensor([0, 1, 1]))


@pytest.mark.parametrize("loss", [*COUPLED, apart], ids=lambda loss: loss.__name__)
def test_a_loss_in_which_patients_meet_is_refused(loss: Loss) -> None:
    choice = EngineChoice(tile=TILE)
    assert is_alone(place(network(), choice), patients(), loss, choice) == (loss is apart)


def outlines() -> tuple[nn.Module, Patients]:
    """A model of a class for each pixel, and three patients with masks."""
    torch.manual_seed(0)
    draw = torch.Generator().manual_seed(1)
    masks = torch.randint(0, 2, (3, 1, 8, 8), generator=draw)
    images = torch.randn((3, 1, 1, 8, 8), generator=draw)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1)), Patients(
        images, masks
    )


@pytest.mark.parametrize("loss", [batch_dice, by_positives, apart], ids=lambda loss: loss.__name__)
def test_a_loss_of_pixels_in_which_patients_meet_is_refused(loss: Loss) -> None:
    model, everyone = outlines()
    choice = EngineChoice(tile=TILE)
    assert is_alone(place(model, choice), everyone, loss, choice) == (loss is apart)


class CoupledPixels(Segmentation):
    """A task of pixels that does what it can to bring patients together."""

    kind: Literal["segmentation"] = "segmentation"
    seen: ClassVar[list[tuple[Any, ...]]] = []

    def loss(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        self.seen.append((tuple(output.shape), tuple(target.shape)))
        return batch_dice(output[None], target[None])


def test_a_task_of_pixels_is_shown_one_item(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CoupledPixels, "seen", [])
    (model, everyone), choice = outlines(), EngineChoice(tile=TILE)
    loss = summed_loss(CoupledPixels(classes=("lesion",)))
    whole = clipped_sum(model, everyone, loss, 1.0, choice)
    each = [clipped_sum(model, everyone[slice(n, n + 1)], loss, 1.0, choice) for n in range(3)]
    torch.testing.assert_close(whole, torch.stack(each).sum(dim=0))
    assert set(CoupledPixels.seen) == {((2, 8, 8), (8, 8))}


class Coupled(Classification):
    """A task that does what it can to bring patients together."""

    kind: Literal["classification"] = "classification"
    written: ClassVar[Callable[..., torch.Tensor]]
    seen: ClassVar[list[tuple[Any, ...]]] = []

    def loss(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        self.seen.append((tuple(output.shape), tuple(target.shape)))
        return type(self).written(output[None], target[None])


@pytest.mark.parametrize(
    "written", [batch_dice, by_positives, contrastive], ids=lambda w: w.__name__
)
def test_a_task_is_shown_one_item_whatever_it_writes(
    written: Callable[..., torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same losses, written into a task, are of one item: nothing is there to meet."""
    monkeypatch.setattr(Coupled, "written", staticmethod(written), raising=False)
    monkeypatch.setattr(Coupled, "seen", [])
    task, model, choice = Coupled(classes=("no", "yes")), network(), EngineChoice(tile=TILE)
    loss, everyone = summed_loss(task), patients()
    assert is_alone(place(model, choice), everyone, loss, choice)
    whole = clipped_sum(model, everyone, loss, 1.0, choice)
    each = [clipped_sum(model, everyone[slice(n, n + 1)], loss, 1.0, choice) for n in range(3)]
    torch.testing.assert_close(whole, torch.stack(each).sum(dim=0))
    assert set(Coupled.seen) == {((2,), ())}


def test_a_likelihood_that_needs_the_others_cannot_be_mapped() -> None:
    """Who is at risk depends on who else is there: its choice by data is refused outright."""
    Coupled.written = staticmethod(cox)
    loss, everyone = summed_loss(Coupled(classes=("no", "yes"))), patients()
    with pytest.raises(RuntimeError, match="vmap"):
        loss(network()(everyone.inputs.flatten(0, 1)), everyone.targets)
