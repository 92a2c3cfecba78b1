"""A study names one model, and says nothing that another model would need."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from common.errors import ModelError
from common.models.models import MODELS
from common.models.networks import build_model
from common.models.scattering import ScatteringSpec
from common.models.spec import ModelSpec
from common.study.study_file import Study
from tests.common.studies import document, small_study

LESIONS = {"kind": "segmentation", "classes": ["lesion"]}
DENSE = ("unet", "resunet")
WHOLE = (
    *("scattering", "cnn", "resnet18", "resnet50", "seresnet50", "densenet121"),
    *("efficientnet_b0", "efficientnet_lite0", "vit"),
)


def complaint(**model: Any) -> str:  # noqa: ANN401 - as TOML gives
    with pytest.raises(ValidationError) as caught:
        Study.model_validate(document() | {"model": model})
    return str(caught.value)


@pytest.mark.parametrize("kind", MODELS)
def test_each_model_is_read_by_its_name_and_has_its_own_settings_alone(
    kind: type[ModelSpec],
) -> None:
    name = kind.model_fields["name"].default
    study = Study.model_validate(document() | {"model": {"name": name}})
    assert type(study.model) is kind
    assert Study.model_validate(study.model_dump(mode="json")) == study
    shared = {"initial", "trainable", "adapters", "projection"}  # written where they are said alone
    assert study.model_dump()["model"].keys() == kind.model_fields.keys() - shared


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ({"name": "resnet18", "widths": [8]}, "widths is a setting of cnn, unet and resunet; the"),
        ({"name": "unet", "scales": 2}, "scales is a setting of scattering; the model is unet"),
        ({"hidden": 8}, "hidden is a setting of cnn; without a name the model is scattering"),
    ],
)
def test_a_setting_of_another_model_names_the_model_whose_it_is(
    model: dict[str, Any], told: str
) -> None:
    assert told in complaint(**model)


def test_heads_of_an_attention_share_the_features() -> None:
    assert "features should be a multiple of heads" in complaint(name="vit", features=8, heads=3)


def test_a_setting_of_no_model_and_a_name_that_is_no_text_are_told_as_everywhere() -> None:
    assert "Extra inputs are not permitted" in complaint(name="cnn", colour="red")
    assert "does not match any of the expected tags" in complaint(name="vgg", widths=[4])
    for strange in (["cnn"], 3, ()):
        assert "tag" in complaint(name=strange)


def test_what_is_left_out_is_scattering() -> None:
    assert Study.model_validate(document() | {"model": {}}).model == ScatteringSpec()
    assert Study.model_validate(document() | {"model": {"scales": 1}}).model == ScatteringSpec(
        scales=1
    )


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_for_images_and_one_for_pixels_are_not_taken_for_each_other(
    kind: type[ModelSpec],
) -> None:
    name = kind.model_fields["name"].default
    task = {} if name in DENSE else LESIONS
    given = small_study(task=task, model={"name": name}, data={"image_size": [32, 32]})
    with pytest.raises(ModelError, match="the task needs numbers for") as caught:
        build_model(given)
    assert caught.value.details["found"] == name
    wanted = ", ".join(DENSE) if task else ", ".join(WHOLE)
    assert caught.value.details["wanted"] == f"one of {wanted}"
