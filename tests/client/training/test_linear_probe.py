"""The two halves of a network give what the whole gives, or it is not cut."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from client.training import linear_probe
from client.training.linear_probe import features_count, without_head
from common.models.models import MODELS
from common.models.networks import seeded_model
from common.models.parts import head_of
from tests.common.studies import small_study

SIZES = {"vit": 32, "densenet121": 32, "resnet50": 32, "seresnet50": 32, "efficientnet_b0": 32}
WHOLE = [
    each.model_fields["name"].default
    for each in MODELS
    if not each.dense and each.model_fields["name"].default != "scattering"
]


def probe(**model: Any) -> Any:  # noqa: ANN401 - a study
    size = SIZES.get(model.get("name", ""), 16)
    return small_study(model={"trainable": ["head"]} | model, data={"image_size": [size, size]})


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("projection", [None, 3])
def test_the_head_on_the_features_of_a_model_is_the_model(
    name: str, projection: int | None
) -> None:
    study = probe(name=name, projection=projection)
    count = features_count(study)
    assert count == projection or (projection is None and count > 0)
    model = seeded_model(study, 0).eval()
    head = head_of(model)[1]
    image = torch.rand(1, *study.shape)
    with torch.no_grad():
        whole = model(image)
        features = without_head(model)(image)
        assert features.shape == (1, count)
        assert torch.equal(head(features), whole)


@pytest.mark.parametrize(
    "model",
    [
        {"widths": [4]},
        {"widths": [4], "trainable": ["head"], "adapters": 2},
        {"widths": [4], "norm": "group", "trainable": ["head", "norms"]},
        {"name": "scattering", "trainable": ["head"]},  # nothing is left that would be frozen
    ],
)
def test_a_model_of_which_more_than_a_head_is_trained_is_not_cut(model: dict[str, Any]) -> None:
    assert not features_count(small_study(model={"trainable": None} | model))


class Late(nn.Module):
    """Its last registered layer is not the last that is computed."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.first = nn.Linear(64, 5)
        self.last = nn.Linear(5, 2 if kind != "square" else 5)
        self.last.requires_grad_(kind != "frozen")
        self.first.requires_grad_(False)

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.last(self.first(value.flatten(1)))
        if self.kind == "twice":
            found = found + self.last(self.first(value.flatten(1)))
        if self.kind == "square":
            found = self.last(found)
        if self.kind == "scaled":
            found = found * 1.0
        return found


@pytest.mark.parametrize(
    ("kind", "count"), [("plain", 5), ("twice", 0), ("square", 0), ("scaled", 0)]
)
def test_a_head_that_is_not_the_last_thing_computed_is_not_cut(
    kind: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear_probe, "sketch", lambda _: Late(kind).to("meta"))
    study = small_study(
        study={"name": f"late-{kind}"}, model={"widths": [4], "trainable": ["head"]}
    )
    assert features_count(study) == count
